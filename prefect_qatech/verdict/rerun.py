"""What to rerun. A rerun is proposed only where it could still make the gate pass, because reruns cost money."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from prefect_qatech.texts import counted
from prefect_qatech.verdict.identity import Evidence, resolve_quarantine
from prefect_qatech.verdict.judge import GateVerdict, Incident, Survey, judge, limit_of
from prefect_qatech.verdict.outcomes import Attempt, Outcome, Verdict
from prefect_qatech.verdict.policy import DEFAULT_POLICY, GatePolicy


@dataclass(frozen=True)
class Rerun:
    """What to ask for next: `failed_only` and `test_cases` as the API has them, or `everything` that the run held.

    The open tests that it is for have a stable order; `base` is the attempt whose run is to be rerun.
    """

    kind: Literal["failed_only", "test_cases", "everything"]
    test_ids: tuple[str, ...]
    base: int = 0


@dataclass(frozen=True)
class NoRerun:
    """Why nothing is rerun: a stable slug and a sentence."""

    reason: str
    sentence: str


def rerun_base(open_tests: Iterable[str], attempts: Sequence[Attempt]) -> int:
    """Return the latest attempt whose run lists all of these tests; 0 where none does.

    Example:
        >>> rerun_base(["a"], [Attempt("COMPLETED", {"a": Outcome.FAILED}), Attempt("COMPLETED", {})])
        0
    """
    wanted = tuple(open_tests)
    for index in range(len(attempts) - 1, 0, -1):
        if all(attempts[index].outcomes.get(test, Outcome.ABSENT) != Outcome.ABSENT for test in wanted):
            return index
    return 0


def plan_rerun(
    expected: Iterable[str],
    attempts: Sequence[Attempt],
    policy: GatePolicy = DEFAULT_POLICY,
    *,
    expected_count: int | None = None,
    incidents: Iterable[Incident] = (),
    today: date | None = None,
) -> Rerun | NoRerun:
    """Decide what to rerun, if anything. Reruns cost money: none is asked for that could not make the gate pass.

    Tests in quarantine are not rerun, as they do not block; of tests that appeared later, only those that failed are.

    Args:
        expected, attempts, policy, expected_count, incidents, today: As for `judge`.

    Returns:
        What to ask for, or why not: `no_attempt`, `nothing_open`, `gate_passes`, `budget_spent`, `fuse`, `cancelled`,
        `not_final`, `cannot_help`, the first of them that holds.

    Raises:
        ValueError: As for `judge`.

    Example:
        >>> plan_rerun(["a", "b"], [Attempt("COMPLETED", {"a": Outcome.PASSED, "b": Outcome.FAILED})])
        Rerun(kind='failed_only', test_ids=('b',), base=0)
    """
    if not attempts:
        return NoRerun("no_attempt", "There is no run yet that could be rerun.")
    expected, incidents = tuple(expected), tuple(incidents)
    survey = Survey(expected, attempts, policy, expected_count, today)

    def judged(runs: Sequence[Attempt], policy: GatePolicy) -> GateVerdict:
        return judge(expected, runs, policy, expected_count=expected_count, incidents=incidents, today=today)

    passes = judged(attempts, policy).verdict is Verdict.PASS
    # A run that ended in ERROR is rerun even where no test in it is open: its passes prove nothing.
    whole = attempts[-1].status == "ERROR" and not passes
    if not survey.open and not whole:
        return NoRerun("nothing_open", "No test is open that could be asked for again.")
    if passes:
        return NoRerun("gate_passes", "The gate passes as it is.")
    if refusal := _refusal(survey) or _too_many_flaky(survey):
        return refusal
    # The best that the reruns left could bring. Which failures then stay, as many as the policy tolerates, is open, so
    # that the limit of flaky tests was held against the fewest that there can be.
    hoped = Attempt("COMPLETED", dict.fromkeys([*survey.open, *(expected if whole else ())], Outcome.PASSED))
    best = judged([*attempts, *[hoped] * _runs_left(survey)], policy.model_copy(update={"max_flaky": None}))
    if best.blocking:
        sentence = f"Even if all open tests passed now, the gate would not. {best.blocking[0].sentence}"
        return NoRerun("cannot_help", sentence)
    return Rerun("everything", survey.open, len(attempts) - 1) if whole else _rerun_of_open_tests(survey)


def _runs_left(survey: Survey) -> int:
    return survey.policy.max_reruns + 1 - len(survey.attempts)


def _refusal(survey: Survey) -> NoRerun | None:
    """Return why nothing is rerun, whatever it could bring."""
    status = survey.attempts[-1].status
    if _runs_left(survey) < 1:
        return NoRerun("budget_spent", f"The limit of reruns, {survey.policy.max_reruns}, is reached.")
    if survey.fuse_blown():
        count = f"{counted(len(survey.failed) + len(survey.missed), 'test')} of {survey.test_count}"
        return NoRerun("fuse", f"{count} failed or were missed: a broken build is not flaky, and reruns cost money.")
    if status == "CANCELLED":
        return NoRerun("cancelled", "The latest run was cancelled: somebody meant it.")
    if status not in ("COMPLETED", "ERROR"):
        return NoRerun("not_final", "The latest run has not ended.")
    return None


def _too_many_flaky(survey: Survey) -> NoRerun | None:
    policy, count = survey.policy, len(survey.flaky) + max(0, len(survey.failed) - survey.policy.max_failed)
    if policy.max_flaky is None or count <= policy.max_flaky:
        return None
    sentence = (
        f"Even if all open tests passed now, {counted(count, 'test')} would be flaky; "
        f"this gate allows {limit_of(policy.max_flaky)}."
    )
    return NoRerun("cannot_help", sentence)


def _rerun_of_open_tests(survey: Survey) -> Rerun:
    not_passed = {Outcome.FAILED, Outcome.SKIPPED, Outcome.MISSED}
    selected_by_the_service = {test for test, history in survey.histories.items() if history[0] in not_passed}
    if len(survey.attempts) == 1 and not survey.unnamed and selected_by_the_service == set(survey.open):
        return Rerun("failed_only", survey.open)
    return Rerun("test_cases", survey.open, rerun_base(survey.open, survey.attempts))


def next_rerun(
    evidence: Evidence, policy: GatePolicy, *, today: date | None, incidents: Iterable[Incident] = ()
) -> Rerun | NoRerun:
    """Decide what to rerun, if anything: `plan_rerun`, by a policy as people write it."""
    resolved, _ = resolve_quarantine(policy, evidence.names)
    return plan_rerun(
        evidence.expected,
        evidence.attempts,
        resolved,
        expected_count=evidence.expected_count,
        incidents=incidents,
        today=today,
    )
