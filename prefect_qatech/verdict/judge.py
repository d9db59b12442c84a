"""From the outcomes of all tests to a go or no-go. Every verdict carries its reasons.

The gate is the worst that any rule says of PASS < INCONCLUSIVE < FAIL, and only PASS is a go.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import date
from fractions import Fraction

from prefect_qatech.texts import counted
from prefect_qatech.verdict.identity import Evidence, resolve_quarantine
from prefect_qatech.verdict.outcomes import (
    DECIDED,
    DECIDING,
    PASSING,
    UNDECIDED,
    Attempt,
    Outcome,
    TestVerdict,
    Verdict,
    Word,
    merge,
)
from prefect_qatech.verdict.policy import DEFAULT_POLICY, GatePolicy, ReleaseCheckPolicy

UNMATCHED = "quarantine_unmatched"
"""The rule whose reason names keys of the quarantine instead of tests."""


class Incident(Word):
    """What happened to the campaign outside of its tests; each makes the gate inconclusive."""

    DEADLINE_PASSED = "deadline_passed"
    USAGE_LIMIT = "usage_limit"
    OUTCOME_UNKNOWN = "outcome_unknown"
    NOTHING_TO_RERUN = "nothing_to_rerun"
    RERUN_REFUSED = "rerun_refused"
    WAIT_GAVE_UP = "wait_gave_up"
    COUNT_UNREADABLE = "count_unreadable"
    STALE_PASS = "stale_pass"  # noqa: S105 - a verdict, not a password
    PASS_NOT_RECORDED = "pass_not_recorded"  # noqa: S105
    RELEASE_CHECK_INCOMPLETE = "release_check_incomplete"


_INCIDENT_SENTENCES = {
    Incident.DEADLINE_PASSED: "The deadline passed before the tests had ended.",
    Incident.USAGE_LIMIT: "QA.tech refused a rerun: the organisation has used up what its plan allows (402).",
    Incident.OUTCOME_UNKNOWN: "A request to start a run got no clear answer: whether that run exists is not known.",
    Incident.NOTHING_TO_RERUN: "QA.tech says that nothing is left to rerun, although tests are still open.",
    Incident.RERUN_REFUSED: "A rerun that the verdict needed could not be started.",
    Incident.WAIT_GAVE_UP: "A run could not be followed to its end, so what it found is not known.",
    Incident.COUNT_UNREADABLE: "QA.tech told how many tests the run has in a way that cannot be read, "
    "so nobody knows whether all are listed.",
    Incident.STALE_PASS: "This run is of another target, or passed in an earlier attempt of the flow run: "
    "it says nothing of what was deployed since.",
    Incident.PASS_NOT_RECORDED: "The pass could not be recorded: a retry would take it for one of what runs then.",
    Incident.RELEASE_CHECK_INCOMPLETE: "The release check did not complete, so what it would have found is not known.",
}


@dataclass(frozen=True)
class ReleaseCheckEvidence:
    """What is known of a release check that belongs to a gate.

    `is_complete`: it completed, and its findings could be read. Its blockers stand in the way of the release, or may.
    """

    is_complete: bool
    blockers: int = 0
    score: float | None = None


@dataclass(frozen=True)
class Reason:
    """What one rule says on its own, in a sentence, and the tests that it is about.

    The rules: `passed`, `max_failed`, `max_flaky`, `flaky_reported`, `max_undecided`, `min_decided`,
    `only_quarantined`, `mass_failure`, `no_attempt`, `run_not_completed`, `contradiction`, `release_check_blockers`,
    `release_check_score`, the words of `Incident`, and `vanished`, `appeared`, `quarantine`, `quarantine_expired`,
    `quarantine_unmatched`, which only report. A limit that holds is a pass.
    """

    rule: str
    verdict: Verdict
    sentence: str
    test_ids: tuple[str, ...] = ()


def _select(tests: Mapping[str, TestVerdict], verdicts: AbstractSet[TestVerdict]) -> tuple[str, ...]:
    return tuple(test for test, verdict in tests.items() if verdict in verdicts)


@dataclass(frozen=True)
class GateVerdict:
    """The gate's verdict, that of every test, and the reasons, the gravest first.

    `failed`, `flaky`, `decided` and `undecided` sort all tests by their verdict, those in quarantine included; what the
    gate counted stands in the reasons.
    """

    verdict: Verdict
    tests: Mapping[str, TestVerdict]
    reasons: tuple[Reason, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Tests whose last word is a failure."""
        return _select(self.tests, {TestVerdict.FAILED})

    @property
    def flaky(self) -> tuple[str, ...]:
        """Tests that failed and passed later."""
        return _select(self.tests, {TestVerdict.FLAKY})

    @property
    def decided(self) -> tuple[str, ...]:
        """Tests that passed or failed at least once."""
        return _select(self.tests, DECIDED)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Tests that neither passed nor failed."""
        return _select(self.tests, UNDECIDED)

    @property
    def blocking(self) -> tuple[Reason, ...]:
        """The reasons that are not a pass; empty exactly when the gate passes."""
        return tuple(reason for reason in self.reasons if reason.verdict is not Verdict.PASS)


class Survey:
    """What both decisions count. A test in quarantine stands in `tests` and `histories` and is counted nowhere."""

    def __init__(
        self,
        expected: Iterable[str],
        attempts: Sequence[Attempt],
        policy: GatePolicy,
        expected_count: int | None,
        today: date | None,
    ) -> None:
        self.attempts, self.policy = attempts, policy
        self.expected = dict.fromkeys(expected)
        present = (test for attempt in attempts for test, o in attempt.outcomes.items() if o != Outcome.ABSENT)
        self.histories = {
            test: [Outcome(attempt.outcomes.get(test, Outcome.ABSENT)) for attempt in attempts]
            for test in dict.fromkeys([*self.expected, *present])
        }
        self.tests = {test: merge(history, policy.passes_required) for test, history in self.histories.items()}
        self.unnamed = max(0, (expected_count or 0) - len(self.expected))

        if policy.quarantine and today is None:
            raise ValueError("the policy has a quarantine, whose entries expire: judging it needs today's date")
        entries = {test: policy.quarantine[test] for test in self.tests if test in policy.quarantine}
        self.expired = tuple(test for test, entry in entries.items() if today is not None and entry.expires < today)
        self.quarantined = tuple(test for test in entries if test not in self.expired)

        self.counted = counted = {test: v for test, v in self.tests.items() if test not in self.quarantined}
        promised = {test: verdict for test, verdict in counted.items() if test in self.expected}
        self.appeared = tuple(test for test in counted if test not in self.expected)
        self.failed = _select(counted, {TestVerdict.FAILED})
        self.flaky = _select(counted, {TestVerdict.FLAKY})
        self.decided = _select(promised, DECIDED)
        self.undecided = _select(promised, UNDECIDED)
        self.open = tuple(test for test, verdict in counted.items() if self.is_open(test, verdict))
        self.test_count = len(promised) + self.unnamed
        # A run that ended in ERROR says nothing about the build, so its misses do not blow the fuse.
        proper = [index for index, attempt in enumerate(attempts) if attempt.status != "ERROR"]
        self.missed = tuple(t for t in self.undecided if any(self.histories[t][i] is Outcome.MISSED for i in proper))

    def is_open(self, test: str, verdict: TestVerdict) -> bool:
        # A test that only appeared later matters when it fails; nobody asked for its pass.
        return verdict is TestVerdict.FAILED or (test in self.expected and verdict not in PASSING)

    def fuse_blown(self) -> bool:
        fuse = self.policy.fuse_failures
        if fuse is None:
            limit = max(Fraction(10), Fraction(3, 10) * self.test_count)
        else:
            # By its decimal digits: 0.29 of 100 tests are 29, and as a binary float a little less.
            limit = Fraction(str(fuse)) * (self.test_count if isinstance(fuse, float) else 1)
        return len(self.failed) + len(self.missed) > limit

    def unproven(self) -> tuple[str, ...]:
        """Counted tests with a deciding outcome that their verdict needs and that a run gave which did not complete."""

        def needs_a_broken_run(test: str) -> bool:
            deciding = [index for index, outcome in enumerate(self.histories[test]) if outcome in DECIDING]
            needed = self.policy.passes_required if self.tests[test] is TestVerdict.FLAKY else 1
            return any(self.attempts[index].status != "COMPLETED" for index in deciding[-needed:])

        return tuple(filter(needs_a_broken_run, dict.fromkeys([*self.decided, *self.failed, *self.flaky])))

    def vanished(self) -> tuple[str, ...]:
        """Tests that were open before a completed rerun and are not in its list."""
        reruns = [index for index, attempt in enumerate(self.attempts) if index and attempt.status == "COMPLETED"]

        def has_vanished(test: str) -> bool:
            history, needed = self.histories[test], self.policy.passes_required
            absences = (index for index in reruns if history[index] is Outcome.ABSENT)
            return any(self.is_open(test, merge(history[:index], needed)) for index in absences)

        return tuple(test for test in self.counted if has_vanished(test))

    def is_explained(self, index: int) -> bool:
        """Whether a test explains that a completed run did not pass.

        A test that did not pass there does, once it is decided, there or since: that is the ordinary way to flaky and
        recovered. One in quarantine does as well, as nobody reruns it.
        """
        return any(
            history[index] not in (Outcome.PASSED, Outcome.ABSENT)
            and (test in self.quarantined or any(outcome in DECIDING for outcome in history[index:]))
            for test, history in self.histories.items()
        )


def judge(
    expected: Iterable[str],
    attempts: Sequence[Attempt],
    policy: GatePolicy = DEFAULT_POLICY,
    *,
    expected_count: int | None = None,
    incidents: Iterable[Incident] = (),
    today: date | None = None,
    release_check: ReleaseCheckEvidence | None = None,
) -> GateVerdict:
    """Decide whether the release may go out.

    Args:
        expected: Ids of the tests that attempt 0 listed.
        attempts: The runs of the campaign, in their order.
        policy: What the gate asks for.
        expected_count: How many tests the start's answer announced; those that were never listed count as missing.
        incidents: What happened outside of the tests.
        today: The date on which quarantine entries are looked at; an entry holds through its last day.
        release_check: What is known of the release check, where one belongs to the gate.

    Returns:
        The verdict, with that of each test (those that appeared later included) and all reasons.

    Raises:
        ValueError: The policy has a quarantine and `today` is missing, or an outcome is not one.

    Example:
        >>> gate = judge(["login"], [Attempt("COMPLETED", {"login": Outcome.PASSED})])
        >>> print(gate.verdict, gate.reasons[0].sentence)
        pass 1 of 1 test passed.
    """
    survey = Survey(expected, attempts, policy, expected_count, today)
    happened = {Incident(incident) for incident in incidents}
    if release_check is not None and not release_check.is_complete:
        happened.add(Incident.RELEASE_CHECK_INCOMPLETE)
    reasons = [
        *_test_reasons(survey),
        *_run_reasons(survey),
        *(_check_reasons(release_check, policy.release_check) if release_check is not None else ()),
        *(Reason(i.value, Verdict.INCONCLUSIVE, _INCIDENT_SENTENCES[i]) for i in Incident if i in happened),
        *_notes(survey),
    ]
    verdict = Verdict.worst([Verdict.PASS, *(reason.verdict for reason in reasons)])
    if verdict is Verdict.PASS:
        passed = tuple(test for test in survey.decided if survey.tests[test] in PASSING)
        sentence = f"{len(passed)} of {counted(survey.test_count, 'test')} passed."
        reasons.insert(0, Reason("passed", Verdict.PASS, sentence, passed))
    reasons.sort(key=lambda reason: -list(Verdict).index(reason.verdict))
    return GateVerdict(verdict, survey.tests, tuple(reasons))


def limit_of(count: int) -> str:
    return f"at most {count}" if count else "none"


def _run(index: int) -> str:
    return f"Rerun {index}" if index else "The first run"


def _word(word: str) -> str:
    # Sentences go into reports unescaped, so a word that is not the API's must not be in them.
    return word if word in ("INITIATED", "RUNNING", "ERROR", "CANCELLED", "FAILED", "SKIPPED") else "something unknown"


def _test_reasons(survey: Survey) -> Iterable[Reason]:
    policy = survey.policy
    if survey.failed:
        yield Reason(
            "max_failed",
            Verdict.FAIL if len(survey.failed) > policy.max_failed else Verdict.PASS,
            f"{counted(len(survey.failed), 'test')} failed; this gate allows {limit_of(policy.max_failed)}.",
            survey.failed,
        )
    if survey.flaky:
        sentence = f"{counted(len(survey.flaky), 'test')} failed first and passed in a rerun"
        if policy.max_flaky is not None and len(survey.flaky) > policy.max_flaky:
            sentence += f": flaky; this gate allows {limit_of(policy.max_flaky)}."
            yield Reason("max_flaky", Verdict.FAIL, sentence, survey.flaky)
        else:
            sentence += ": flaky, which this gate allows. A real bug that shows only sometimes looks like this."
            yield Reason("flaky_reported", Verdict.PASS, sentence, survey.flaky)
    if undecided := len(survey.undecided) + survey.unnamed:
        unlisted = f" ({survey.unnamed} of them announced by QA.tech, but never listed)" if survey.unnamed else ""
        allowed = limit_of(policy.max_undecided)
        yield Reason(
            "max_undecided",
            Verdict.INCONCLUSIVE if undecided > policy.max_undecided else Verdict.PASS,
            f"{counted(undecided, 'test')}{unlisted} neither passed nor failed; this gate allows {allowed}.",
            survey.undecided,
        )
    if len(survey.decided) < policy.min_decided:
        decided = counted(len(survey.decided), "test") if survey.decided else "No test"
        sentence = f"{decided} passed or failed; at least {policy.min_decided} must."
        yield Reason("min_decided", Verdict.INCONCLUSIVE, sentence, survey.decided)
    if survey.expected and not survey.test_count:
        sentence = f"The suite has no test outside of the quarantine ({counted(len(survey.expected), 'test')} in it)."
        yield Reason("only_quarantined", Verdict.INCONCLUSIVE, sentence, tuple(survey.expected))
    if survey.fuse_blown() and len(survey.missed) > len(survey.failed):
        missed = f"{counted(len(survey.missed), 'test')} of {survey.test_count}"
        sentence = f"{missed} could not be carried out properly: too many to rerun."
        yield Reason("mass_failure", Verdict.INCONCLUSIVE, sentence, survey.missed)


def _run_reasons(survey: Survey) -> Iterable[Reason]:
    if not survey.attempts:
        yield Reason("no_attempt", Verdict.INCONCLUSIVE, "No run was started, so nothing was tested.")
    broken = [index for index, attempt in enumerate(survey.attempts) if attempt.status != "COMPLETED"]
    if broken:
        unproven = survey.unproven()
        # Without a completed run there is no evidence, whatever the tests and the policy say.
        blocks = bool(unproven) or len(broken) == len(survey.attempts)
        runs = ", ".join(f"{_run(index)} ({_word(survey.attempts[index].status)})" for index in broken)
        whose = f"the result of {counted(len(unproven), 'test')}" if unproven else "no result that counts"
        yield Reason(
            "run_not_completed",
            Verdict.INCONCLUSIVE if blocks else Verdict.PASS,
            f"{runs} did not complete, and {whose} comes from there.",
            unproven,
        )
    for index, attempt in enumerate(survey.attempts):
        if attempt.status != "COMPLETED" or attempt.result is None:
            continue
        if attempt.result != "PASSED":
            if not survey.is_explained(index):
                sentence = f"{_run(index)} ended as {_word(attempt.result)}, although none of its tests failed."
                yield Reason("contradiction", Verdict.INCONCLUSIVE, sentence)
        elif failed := tuple(test for test in survey.failed if survey.histories[test][index] is Outcome.FAILED):
            verdict = Verdict.FAIL if len(survey.failed) > survey.policy.max_failed else Verdict.PASS
            tests = counted(len(failed), "test")
            sentence = f"{_run(index)} ended as PASSED, although {tests} in it failed: the tests count."
            yield Reason("contradiction", verdict, sentence, failed)


def _check_reasons(check: ReleaseCheckEvidence, policy: ReleaseCheckPolicy) -> Iterable[Reason]:
    if not check.is_complete:
        return
    if check.blockers:
        verdict = {"fail": Verdict.FAIL, "report": Verdict.PASS}.get(policy.on_blocker, Verdict.INCONCLUSIVE)
        found = "1 blocker" if check.blockers == 1 else f"{check.blockers} blockers"
        yield Reason("release_check_blockers", verdict, f"The release check found {found}.")
    if policy.min_score is not None and (check.score is None or check.score < policy.min_score):
        score = "has no score" if check.score is None else f"has the score {check.score:g}"
        sentence = f"The release check {score}; at least {policy.min_score:g} is needed."
        yield Reason("release_check_score", Verdict.INCONCLUSIVE, sentence)


def _notes(survey: Survey) -> Iterable[Reason]:
    for rule, tests, what in (
        ("vanished", survey.vanished(), "still open but not in the list of a rerun: the earlier verdict stands."),
        ("appeared", survey.appeared, "not expected from the start: a failure counts, a pass is no evidence."),
        ("quarantine", survey.quarantined, "in quarantine: reported, and counted nowhere."),
        ("quarantine_expired", survey.expired, "counted again, because the quarantine entry expired."),
    ):
        if tests:
            yield Reason(rule, Verdict.PASS, f"{counted(len(tests), 'test')} {what}", tests)


def judge_named(
    evidence: Evidence,
    policy: GatePolicy,
    *,
    incidents: Iterable[Incident] = (),
    today: date | None,
    release_check: ReleaseCheckEvidence | None = None,
) -> GateVerdict:
    """Judge by a policy as people write it, and say which of its quarantine entries are not applied.

    A reason of the rule `quarantine_unmatched` names keys of the quarantine instead of tests.
    """
    resolved, unmatched = resolve_quarantine(policy, evidence.names)
    gate = judge(
        evidence.expected,
        evidence.attempts,
        resolved,
        expected_count=evidence.expected_count,
        incidents=incidents,
        today=today,
        release_check=release_check,
    )
    if not unmatched:
        return gate
    what = "1 quarantine entry matches" if len(unmatched) == 1 else f"{len(unmatched)} quarantine entries match"
    sentence = (
        f"{what} no test, or more than one, and so had no effect: name a test's id, or its exact and unique name."
    )
    return replace(gate, reasons=(*gate.reasons, Reason(UNMATCHED, Verdict.PASS, sentence, unmatched)))
