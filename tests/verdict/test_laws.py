"""The laws of the gate, for every input that hypothesis thinks of, and `merge` against another way to say the same."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings, strategies as st

from prefect_qatech.verdict.judge import GateVerdict, Incident, judge
from prefect_qatech.verdict.outcomes import Attempt, Outcome, TestVerdict, Verdict, classify, merge
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from prefect_qatech.verdict.rerun import NoRerun, Rerun, plan_rerun

settings.register_profile("laws", derandomize=True, max_examples=100, deadline=None, database=None)
laws = settings.get_profile("laws")

TODAY = date(2026, 9, 1)
PASSING = {TestVerdict.PASSED, TestVerdict.RECOVERED, TestVerdict.FLAKY}
TESTS = ("a", "b", "c", "d")
STATUSES = ("COMPLETED", "ERROR", "CANCELLED", "RUNNING", "PAUSED", "", "completed")
RESULTS = (None, "PASSED", "FAILED", "SKIPPED", "WARNING")


@dataclass(frozen=True)
class Case:
    """Everything that `judge` and `plan_rerun` take."""

    expected: list[str]
    attempts: list[Attempt]
    policy: GatePolicy = field(default_factory=GatePolicy)
    expected_count: int | None = None
    incidents: list[Incident] = field(default_factory=list)

    def judge(self) -> GateVerdict:
        return judge(
            self.expected,
            self.attempts,
            self.policy,
            expected_count=self.expected_count,
            incidents=self.incidents,
            today=TODAY,
        )

    def plan(self) -> Rerun | NoRerun:
        return plan_rerun(
            self.expected,
            self.attempts,
            self.policy,
            expected_count=self.expected_count,
            incidents=self.incidents,
            today=TODAY,
        )

    def followed_by(self, *attempts: Attempt) -> Case:
        return replace(self, attempts=[*self.attempts, *attempts])

    @property
    def quarantined(self) -> set[str]:
        return {test for test, entry in self.policy.quarantine.items() if entry.expires >= TODAY}

    @property
    def counted(self) -> set[str]:
        return set(self.expected) - self.quarantined

    def deciding(self, test: str) -> list[tuple[str, str]]:
        """(outcome, status of its run) of a test, for what decides."""
        told = [(str(attempt.outcomes.get(test, "absent")), attempt.status) for attempt in self.attempts]
        return [(outcome, status) for outcome, status in told if outcome in ("passed", "failed")]


def mostly(common: st.SearchStrategy[Any], rare: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    # Most campaigns that chance makes up are red for five reasons at once, and the laws say little about those.
    return st.integers(0, 4).flatmap(lambda number: rare if number == 3 else common)


any_outcome = st.sampled_from(Outcome) | st.sampled_from(Outcome).map(str)
outcomes = mostly(st.just(Outcome.PASSED), any_outcome) | mostly(st.just(Outcome.FAILED), any_outcome)
dull = st.sampled_from([o for o in Outcome if o not in (Outcome.PASSED, Outcome.FAILED)])
any_status = st.sampled_from(STATUSES)
any_result = st.sampled_from(RESULTS)
some_tests = st.lists(st.sampled_from(TESTS), min_size=1, unique=True)


def attempts_of(
    outcome: st.SearchStrategy[Any], statuses: st.SearchStrategy[str], results: st.SearchStrategy[str | None]
) -> st.SearchStrategy[Attempt]:
    listed = st.fixed_dictionaries(dict.fromkeys(TESTS, outcome)) | st.dictionaries(st.sampled_from(TESTS), outcome)
    return st.builds(Attempt, statuses, listed, results)


dull_attempts = attempts_of(dull, any_status, any_result)
# Often a last run in which all is well: the way to a gate that passes.
ends = mostly(st.just([Attempt("COMPLETED", dict.fromkeys(TESTS, Outcome.PASSED), "PASSED")]), st.just([]))
entries = st.builds(
    QuarantineEntry,
    reason=st.just("known bug"),
    owner=st.just("ana"),
    expires=st.sampled_from([date(2026, 8, 31), TODAY, date(2026, 9, 2)]),
)
small = st.integers(0, 2)
policies = st.builds(
    GatePolicy,
    max_reruns=st.integers(0, 5),
    max_failed=small,
    max_flaky=st.none() | small,
    max_undecided=small,
    min_decided=mostly(st.just(1), st.integers(2, 3)),
    passes_required=st.integers(1, 2),
    fuse_failures=mostly(st.none(), small | st.sampled_from([0.3, 0.5])),
    quarantine=st.just({}) | st.dictionaries(st.sampled_from(TESTS), entries, min_size=1, max_size=2),
)
cases = st.builds(
    lambda first, last, **others: Case(attempts=first + last, **others),
    first=st.lists(
        attempts_of(outcomes, mostly(st.just("COMPLETED"), any_status), mostly(st.none(), any_result)), max_size=3
    ),
    last=ends | st.just([]),
    expected=mostly(some_tests, st.lists(st.sampled_from(TESTS))),
    policy=st.just(GatePolicy()) | policies,
    expected_count=mostly(st.none(), st.integers(0, 5)),
    incidents=mostly(st.just([]), st.lists(st.sampled_from(Incident), max_size=2)),
)
# Campaigns that the tests alone decide: all runs completed and say what their tests say, and nothing happened.
orderly = st.builds(
    Case,
    expected=some_tests,
    attempts=st.lists(
        attempts_of(outcomes, st.just("COMPLETED"), st.none()).map(
            lambda attempt: replace(attempt, result="FAILED" if "failed" in attempt.outcomes.values() else "PASSED")
        ),
        max_size=4,
    ),
    policy=st.just(GatePolicy()) | policies,
)


@laws
@given(cases)
def test_law_1_what_a_pass_means(case: Case) -> None:
    assume(case.judge().verdict is Verdict.PASS)
    last = [case.deciding(test)[-1:] for test in case.counted]
    assert sum(bool(told) for told in last) >= case.policy.min_decided
    assert sum(told == [] for told in last) <= case.policy.max_undecided
    assert sum(outcome == "failed" for told in last for outcome, _ in told) <= case.policy.max_failed
    assert {status for told in last for _, status in told} == {"COMPLETED"}


@laws
@given(cases.map(lambda case: replace(case, policy=GatePolicy(quarantine=case.policy.quarantine))))
def test_law_1_under_the_strict_policy(case: Case) -> None:
    assume(case.judge().verdict is Verdict.PASS)
    assert case.counted
    assert all(case.deciding(test)[-1] == ("passed", "COMPLETED") for test in case.counted)


@laws
@given(cases, st.lists(dull_attempts, min_size=1, max_size=2))
def test_law_2_misses_and_skips_never_turn_a_gate_to_pass(case: Case, further: list[Attempt]) -> None:
    assume(case.judge().verdict is not Verdict.PASS)
    assert case.followed_by(*further).judge().verdict is not Verdict.PASS


@laws
@given(cases, dull_attempts)
def test_law_2_nor_do_they_turn_a_fail_into_anything_else(case: Case, further: Attempt) -> None:
    assert (case.judge().verdict is Verdict.FAIL) is (case.followed_by(further).judge().verdict is Verdict.FAIL)


@laws
@given(cases, st.data())
def test_law_3_removing_a_test_never_gives_pass(case: Case, data: st.DataObject) -> None:
    assume(case.counted)
    # A policy that tolerates undecided tests says itself that one may be gone.
    case = replace(case, policy=case.policy.model_copy(update={"max_undecided": 0}))
    gone = data.draw(st.sampled_from(sorted(case.counted)))
    attempts = [
        replace(attempt, outcomes={test: o for test, o in attempt.outcomes.items() if test != gone})
        for attempt in case.attempts
    ]
    assert replace(case, attempts=attempts).judge().verdict is not Verdict.PASS
    # Gone from the first list as well, so that only the count tells.
    remaining = [test for test in case.expected if test != gone]
    unlisted = replace(case, expected=remaining, attempts=attempts, expected_count=len(set(case.expected)))
    assert unlisted.judge().verdict is not Verdict.PASS


@laws
@given(orderly)
def test_law_4_when_the_open_tests_pass_the_gate_passes(case: Case) -> None:
    gate = case.judge()
    open_tests = [t for t, verdict in gate.tests.items() if verdict not in PASSING and t not in case.quarantined]
    assume(len(case.counted) >= case.policy.min_decided)
    case = replace(case, policy=case.policy.model_copy(update={"max_flaky": None}))
    good = Attempt("COMPLETED", dict.fromkeys(open_tests, Outcome.PASSED), "PASSED")
    assert case.followed_by(*[good] * case.policy.passes_required).judge().verdict is Verdict.PASS


@laws
@given(cases, st.permutations(TESTS), st.permutations(TESTS))
def test_law_5_names_and_order_change_nothing(case: Case, names: list[str], order: list[str]) -> None:
    new = {old: f"test {name}" for old, name in zip(TESTS, names, strict=True)}

    def renamed(by_test: Any) -> dict[str, Any]:
        return {new[test]: by_test[test] for test in order if test in by_test}

    other = replace(
        case,
        expected=[new[test] for test in order for _ in range(case.expected.count(test))],
        attempts=[replace(attempt, outcomes=renamed(attempt.outcomes)) for attempt in case.attempts],
        policy=case.policy.model_copy(update={"quarantine": renamed(case.policy.quarantine)}),
    )
    gate, again = case.judge(), other.judge()
    assert again.verdict is gate.verdict
    assert again.tests == {new[test]: verdict for test, verdict in gate.tests.items()}
    assert [(r.rule, r.verdict, r.sentence, set(r.test_ids)) for r in again.reasons] == [
        (r.rule, r.verdict, r.sentence, {new[test] for test in r.test_ids}) for r in gate.reasons
    ]
    plan, plan_again = case.plan(), other.plan()
    if isinstance(plan, Rerun):
        assert isinstance(plan_again, Rerun)
        assert (plan_again.kind, plan_again.base) == (plan.kind, plan.base)
        assert set(plan_again.test_ids) == {new[test] for test in plan.test_ids}
    else:
        assert plan_again == plan


def test_law_6_passed_only_for_completed_passed_and_no_error_code() -> None:
    statuses = (*STATUSES, "INITIATED", "Completed", "COMPLETED ", "PASSED", "SUCCESS")
    results = (*RESULTS, "passed", "", "PASSED ", "COMPLETED", "OK")
    codes = (None, "", "TEST_FAILED", "AGENT_STUCK", "PLATFORM_DOWN", "AGENT_", "agent_stuck", "NONE", "null")
    passing = [triple for triple in product(statuses, results, codes) if classify(*triple) is Outcome.PASSED]
    assert passing == [("COMPLETED", "PASSED", None)]


@laws
@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_law_6_unknown_words_decide_nothing(status: str, result: str | None, error_code: str | None) -> None:
    known = status == "COMPLETED" and result in ("PASSED", "FAILED")
    assert known or classify(status, result, error_code) not in (Outcome.PASSED, Outcome.FAILED)


@laws
@given(cases, st.lists(attempts_of(outcomes, st.sampled_from(STATUSES[1:]), any_result), max_size=4))
def test_law_7_without_a_completed_run_nothing_passes(case: Case, attempts: list[Attempt]) -> None:
    assert replace(case, attempts=attempts).judge().verdict is not Verdict.PASS


@laws
@given(cases.map(lambda case: replace(case, expected=[])))
def test_law_7_zero_tests_never_pass(case: Case) -> None:
    assert case.judge().verdict is not Verdict.PASS


@laws
@given(cases)
def test_every_verdict_is_the_worst_of_its_reasons(case: Case) -> None:
    gate = case.judge()
    assert gate.reasons
    assert gate.verdict is Verdict.worst(reason.verdict for reason in gate.reasons)
    assert bool(gate.blocking) is (gate.verdict is not Verdict.PASS)
    assert all(reason.sentence.endswith(".") and set(reason.test_ids) <= set(gate.tests) for reason in gate.reasons)
    assert set(gate.decided) | set(gate.undecided) == set(gate.tests) >= set(case.expected)


@laws
@given(cases)
def test_fail_means_failed_or_flaky_tests_and_nothing_else(case: Case) -> None:
    gate = case.judge()
    failed, flaky = set(gate.failed) - case.quarantined, set(gate.flaky) - case.quarantined
    limit = case.policy.max_flaky
    too_many = len(failed) > case.policy.max_failed or (limit is not None and len(flaky) > limit)
    assert (gate.verdict is Verdict.FAIL) is too_many


@laws
@given(orderly, st.dictionaries(st.sampled_from(TESTS), entries, min_size=1, max_size=2), any_outcome)
def test_a_quarantined_test_is_counted_nowhere(
    case: Case, quarantine: dict[str, QuarantineEntry], outcome: Outcome
) -> None:
    policy = case.policy.model_copy(update={"quarantine": quarantine})
    case = replace(case, attempts=[replace(attempt, result=None) for attempt in case.attempts], policy=policy)
    now = dict.fromkeys(case.quarantined, outcome)
    other = replace(case, attempts=[replace(a, outcomes={**a.outcomes, **now}) for a in case.attempts])
    assert other.judge().verdict is case.judge().verdict
    if isinstance(plan := case.plan(), Rerun):
        again = other.plan()
        assert isinstance(again, Rerun)
        assert again.test_ids == plan.test_ids


def could_pass(case: Case, tests: list[str]) -> bool:
    """Whether some passes and failures of these tests, the same in all reruns that are left, make the gate pass."""
    left = case.policy.max_reruns + 1 - len(case.attempts)
    choices = (
        Attempt("COMPLETED", dict(zip(tests, choice, strict=True)))
        for choice in product([Outcome.PASSED, Outcome.FAILED], repeat=len(tests))
    )
    return any(case.followed_by(*[choice] * left).judge().verdict is Verdict.PASS for choice in choices)


early = st.builds(
    Case,
    expected=some_tests,
    attempts=st.lists(
        attempts_of(outcomes, mostly(st.just("COMPLETED"), st.sampled_from(["ERROR", "CANCELLED"])), st.none()),
        min_size=1,
        max_size=3,
    ),
    policy=st.builds(GatePolicy, max_reruns=st.integers(2, 4)) | policies,
    expected_count=mostly(st.none(), st.integers(0, 5)),
)


@laws
@given(early)
def test_a_rerun_is_for_open_tests_and_could_make_the_gate_pass(case: Case) -> None:
    gate, plan = case.judge(), case.plan()
    assume(isinstance(plan, Rerun))
    assert isinstance(plan, Rerun)
    assert gate.verdict is not Verdict.PASS
    assert len(case.attempts) <= case.policy.max_reruns
    assert (plan.kind == "everything") is (case.attempts[-1].status == "ERROR")
    assert all(gate.tests[test] not in PASSING for test in plan.test_ids)
    assert not set(plan.test_ids) & case.quarantined
    assert could_pass(case, sorted({*plan.test_ids, *(case.expected if plan.kind == "everything" else ())}))


@laws
@given(orderly)
def test_where_no_rerun_is_asked_for_none_could_help(case: Case) -> None:
    plan = case.plan()
    if isinstance(plan, NoRerun) and plan.reason in ("nothing_open", "cannot_help"):
        open_tests = [test for test in case.counted if case.judge().tests[test] not in PASSING]
        appeared = [test for test in case.judge().failed if test not in {*open_tests, *case.quarantined}]
        passes = case.judge().verdict is Verdict.PASS
        assert could_pass(case, open_tests + appeared) is passes
    elif isinstance(plan, NoRerun):
        assert plan.reason in ("no_attempt", "gate_passes", "budget_spent", "fuse")


def oracle(word: str, passes_required: int) -> str:
    """Section 2 once more, as patterns over the initials of the outcomes."""
    deciding = re.sub("[^pf]", "", word)
    for pattern, text, verdict in (
        ("a*", word, "missing"),
        ("[^pf]*[mu][^pf]*", word, "errored"),
        ("[^pf]*c[^pf]*", word, "cancelled"),
        ("[^pf]*", word, "skipped"),
        ("[pf]*f", deciding, "failed"),
        ("p[^f]*", word, "passed"),
        ("p*", deciding, "recovered"),
        (f"[pf]*fp{{{passes_required},}}", deciding, "flaky"),
    ):
        if re.fullmatch(pattern, text):
            return verdict
    return "failed"


@pytest.mark.parametrize("passes_required", [1, 2, 3])
@pytest.mark.parametrize("length", range(5))
def test_merge_says_what_section_2_says(length: int, passes_required: int) -> None:
    for sequence in product(Outcome, repeat=length):
        word = "".join(outcome.value[0] for outcome in sequence)
        assert merge(sequence, passes_required) == oracle(word, passes_required), word


@pytest.mark.parametrize("attempts", [1, 2])
def test_the_gate_of_two_tests_over_all_outcomes(attempts: int) -> None:
    histories = list(product(Outcome, repeat=attempts))
    for first, second in product(histories, repeat=2):
        runs = [Attempt("COMPLETED", {"a": a, "b": b}) for a, b in zip(first, second, strict=True)]
        last = {"".join(o.value[0] for o in history if o in ("passed", "failed"))[-1:] for history in (first, second)}
        told = "fail" if "f" in last else "inconclusive" if "" in last else "pass"
        assert judge(["a", "b"], runs).verdict == told


@pytest.mark.parametrize("tolerated", [0, 1])
def test_laws_1_2_and_7_over_all_pairs_of_runs_of_one_test(tolerated: int) -> None:
    policy = GatePolicy(max_failed=tolerated, max_undecided=tolerated)
    runs = [
        Attempt(status, {"a": outcome}, result)
        for status in ("COMPLETED", "ERROR")
        for outcome in (Outcome.PASSED, Outcome.FAILED, Outcome.MISSED, Outcome.ABSENT)
        for result in (None, "FAILED")
    ]
    further = [run for run in runs if run.outcomes["a"] in (Outcome.MISSED, Outcome.ABSENT)]
    for pair in product(runs, repeat=2):
        case = Case(["a"], list(pair), policy)
        if case.judge().verdict is Verdict.PASS:
            outcome, status = case.deciding("a")[-1]
            assert status == "COMPLETED"
            assert outcome == "passed" or tolerated
        else:
            assert all(case.followed_by(run).judge().verdict is not Verdict.PASS for run in further), pair
