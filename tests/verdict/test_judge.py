"""The rules of the gate, limit by limit; what must hold for every input is in test_laws.py."""

from __future__ import annotations

import pickle
from datetime import date
from typing import Any

import pytest

from prefect_qatech.verdict.judge import GateVerdict, Incident, ReleaseCheckEvidence, judge
from prefect_qatech.verdict.outcomes import Attempt, TestVerdict, Verdict
from prefect_qatech.verdict.policy import GatePolicy, ReleaseCheckPolicy
from prefect_qatech.verdict.rerun import plan_rerun
from tests.verdict.runs import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    PASSED,
    TODAY,
    quarantine,
    rules,
    run,
    suite,
)


@pytest.mark.parametrize(
    ("attempts", "verdict", "blocking"),
    [
        ([run("a:p b:p")], PASS, set()),
        ([run("a:p b:f"), run("b:p")], PASS, set()),
        ([run("a:p b:m"), run("b:p")], PASS, set()),
        ([run("a:p b:f")], FAIL, {"max_failed"}),
        ([run("a:p b:p"), run("b:f")], FAIL, {"max_failed"}),
        ([run("a:p b:f"), run("b:s")], FAIL, {"max_failed"}),
        ([run("a:f b:m")], FAIL, {"max_failed", "max_undecided"}),
        ([run("a:p b:m")], INCONCLUSIVE, {"max_undecided"}),
        ([run("a:p b:s")], INCONCLUSIVE, {"max_undecided"}),
        ([run("a:p b:c")], INCONCLUSIVE, {"max_undecided"}),
        ([run("a:p b:u")], INCONCLUSIVE, {"max_undecided"}),
        ([run("a:p")], INCONCLUSIVE, {"max_undecided"}),
        ([run("a:s b:s")], INCONCLUSIVE, {"max_undecided", "min_decided"}),
        ([], INCONCLUSIVE, {"no_attempt", "max_undecided", "min_decided"}),
    ],
)
def test_gate_of_two_tests(attempts: list[Attempt], verdict: Verdict, blocking: set[str]) -> None:
    gate = judge(["a", "b"], attempts)
    assert gate.verdict is verdict
    assert {reason.rule for reason in gate.blocking} == blocking


@pytest.mark.parametrize("expected_count", [None, 0, 3])
@pytest.mark.parametrize("attempts", [[], [run()], [run(result="PASSED")], [run("x:p", result="PASSED")]])
def test_zero_tests_never_pass(attempts: list[Attempt], expected_count: int | None) -> None:
    gate = judge([], attempts, GatePolicy(max_undecided=9), expected_count=expected_count)
    assert gate.verdict is INCONCLUSIVE
    assert "min_decided" in rules(gate, INCONCLUSIVE)
    assert "only_quarantined" not in rules(gate)


@pytest.mark.parametrize(
    ("field", "rule", "limit_holds", "limit_breaks", "worst"),
    [
        ("max_failed", "max_failed", 2, 1, FAIL),
        ("max_flaky", "max_flaky", 2, 1, FAIL),
        ("max_undecided", "max_undecided", 2, 1, INCONCLUSIVE),
        ("min_decided", "min_decided", 5, 6, INCONCLUSIVE),
    ],
)
def test_limits_of_the_gate(field: str, rule: str, limit_holds: int, limit_breaks: int, worst: Verdict) -> None:
    tolerant = {"max_failed": 2, "max_flaky": 2, "max_undecided": 2, "min_decided": 1}
    attempts = [run("a:p b:f c:f d:f e:f f:m g:s"), run("d:p e:p")]
    holding = judge("abcdefg", attempts, GatePolicy(**{**tolerant, field: limit_holds}))
    assert holding.verdict is PASS
    breaking = judge("abcdefg", attempts, GatePolicy(**{**tolerant, field: limit_breaks}))
    assert breaking.verdict is worst
    assert {reason.rule for reason in breaking.blocking} == {rule}
    assert str(limit_breaks) in breaking.reasons[0].sentence


def test_what_a_tolerant_gate_lets_through_is_named_all_the_same() -> None:
    gate = judge(
        "abcd", [run("a:p b:f c:f d:m"), run("b:f c:p d:m")], GatePolicy(max_failed=1, max_undecided=1, fuse_failures=3)
    )
    assert gate.verdict is PASS
    named = {reason.rule: reason.test_ids for reason in gate.reasons}
    assert named == {
        "passed": ("a", "c"),
        "max_failed": ("b",),
        "flaky_reported": ("c",),
        "max_undecided": ("d",),
    }
    assert gate.reasons[0].sentence == "2 of 4 tests passed."


def test_derived_lists() -> None:
    gate = judge("abcde", [run("a:p b:f c:f d:m e:s x:f"), run("c:p e:p")])
    assert gate.failed == ("b", "x")
    assert gate.flaky == ("c",)
    assert gate.decided == ("a", "b", "c", "e", "x")
    assert gate.undecided == ("d",)
    assert pickle.loads(pickle.dumps(gate)) == gate


@pytest.mark.parametrize(
    ("expected", "count", "max_undecided", "verdict"),
    [
        (["a", "b"], 2, 0, PASS),
        (["a", "b"], 1, 0, PASS),
        (["a", "b"], 3, 0, INCONCLUSIVE),
        (["a", "b"], 3, 1, PASS),
        (["a", "b"], 4, 1, INCONCLUSIVE),
        (["a", "a", "b"], 2, 0, PASS),
        (["a", "a", "b"], 3, 0, INCONCLUSIVE),
    ],
)
def test_tests_that_were_announced_and_never_listed(
    expected: list[str], count: int, max_undecided: int, verdict: Verdict
) -> None:
    gate = judge(expected, [run("a:p b:p")], GatePolicy(max_undecided=max_undecided), expected_count=count)
    assert gate.verdict is verdict
    assert set(gate.tests) == {"a", "b"}
    assert all(set(reason.test_ids) <= {"a", "b"} for reason in gate.reasons)
    if verdict is INCONCLUSIVE:
        assert "never listed" in gate.reasons[0].sentence


def test_a_test_that_appears_later_counts_when_it_fails_only() -> None:
    passing = judge(["a"], [run("a:f"), run("a:p x:p")])
    assert passing.verdict is PASS
    assert rules(passing) == {"passed", "flaky_reported", "appeared"}
    assert passing.tests["x"] is TestVerdict.RECOVERED
    assert judge(["a"], [run("a:s"), run("x:p")]).verdict is INCONCLUSIVE
    assert judge(["a"], [run("a:p"), run("x:p")], GatePolicy(min_decided=2)).verdict is INCONCLUSIVE
    assert judge(["a"], [run("a:p"), run("x:m")]).verdict is PASS
    assert judge(["a"], [run("a:p"), run("x:f")]).verdict is FAIL
    assert judge(["a"], [run("a:p"), run("x:f"), run("x:p")], GatePolicy(max_flaky=0)).verdict is FAIL
    assert "x" not in judge(["a"], [run("a:p x:a")]).tests


def test_a_test_that_vanishes_keeps_its_verdict_and_is_named() -> None:
    gate = judge("abc", [run("a:f b:m c:p"), run("a:p")])
    assert gate.tests == {"a": "flaky", "b": "errored", "c": "passed"}
    assert [reason.test_ids for reason in gate.reasons if reason.rule == "vanished"] == [("b",)]
    running = judge("abc", [run("a:f b:m c:p"), run(status="RUNNING")])
    assert "vanished" not in rules(running)
    assert "vanished" not in rules(judge("abc", [run("a:f b:p c:p"), run("a:p")]))
    quarantined = judge("ab", [run("a:f b:f"), run("a:p")], GatePolicy(quarantine=quarantine("b")), today=TODAY)
    assert "vanished" not in rules(quarantined)


# --- Runs


@pytest.mark.parametrize("status", ["ERROR", "CANCELLED", "RUNNING", "INITIATED", "PAUSED", "", "completed"])
def test_a_run_that_did_not_complete_never_gives_pass(status: str) -> None:
    for attempts in (
        [run("a:p b:p", status, "PASSED")],
        [run("a:p b:f"), run("b:p", status)],
        [run("a:p b:s"), run("b:p", status)],
        [run("a:p b:m", status), run("b:p")],
    ):
        gate = judge(["a", "b"], attempts)
        assert gate.verdict is INCONCLUSIVE
        assert "run_not_completed" in rules(gate, INCONCLUSIVE)
    assert "run_not_completed" in rules(judge(["a"], [run("a:s", status)]), INCONCLUSIVE)
    # Nor do the tolerances of a policy make one out of its failures, or out of a failed test that appeared there.
    tolerant = GatePolicy(max_failed=2, max_undecided=2)
    assert judge(["a"], [run("a:f", status)], tolerant).verdict is INCONCLUSIVE
    assert judge(["a"], [run("a:p"), run("x:f", status)], tolerant).verdict is INCONCLUSIVE


def test_a_run_that_did_not_complete_is_forgiven_when_the_tests_passed_elsewhere() -> None:
    gate = judge(["a", "b"], [run("a:p b:m", "ERROR"), run("a:p b:p", result="PASSED")])
    assert gate.verdict is PASS
    assert "run_not_completed" in rules(gate, PASS)
    assert judge(["a"], [run("a:p"), run("", "ERROR")]).verdict is PASS
    assert judge(["a"], [run("a:f"), run("a:p", "ERROR"), run("a:p")]).verdict is PASS


def test_every_pass_that_flaky_needs_must_come_from_a_completed_run() -> None:
    twice = GatePolicy(passes_required=2)
    assert judge(["a"], [run("a:f"), run("a:p", "ERROR"), run("a:p")], twice).verdict is INCONCLUSIVE
    assert judge(["a"], [run("a:f"), run("a:p", "ERROR"), run("a:p"), run("a:p")], twice).verdict is PASS


@pytest.mark.parametrize(
    ("attempts", "verdict"),
    [
        ([run("a:p b:p", result="PASSED")], PASS),
        ([run("a:p b:p", result=None)], PASS),
        ([run("a:p b:p", result="FAILED")], INCONCLUSIVE),
        ([run("a:p b:p", result="SKIPPED")], INCONCLUSIVE),
        ([run("a:p b:p", result="WARNING")], INCONCLUSIVE),
        ([run("a:p b:p", result="passed")], INCONCLUSIVE),
        ([run("a:p b:f", result="PASSED")], FAIL),
        ([run("a:p b:f", result="PASSED"), run("b:p", result="PASSED")], PASS),
        # The ordinary ways to flaky and to recovered.
        ([run("a:p b:f", result="FAILED"), run("b:p", result="PASSED")], PASS),
        ([run("a:p b:m", result="FAILED"), run("b:p", result="PASSED")], PASS),
        ([run("a:f b:f", result="FAILED"), run("a:p b:f", result="FAILED"), run("b:p", result="PASSED")], PASS),
        # A rerun that FAILED although all that it lists passed; neither nothing nor another test explains it later.
        ([run("a:p b:f", result="FAILED"), run("b:p", result="FAILED")], INCONCLUSIVE),
        ([run("a:p b:f", result="FAILED"), run("b:p", result="FAILED"), run(result="PASSED")], INCONCLUSIVE),
        ([run("a:p b:f", result="FAILED"), run("b:p", result="FAILED"), run("a:p", result="PASSED")], INCONCLUSIVE),
        # Missed there, passed before, never again: nothing failed, so FAILED is not explained.
        ([run("a:p b:f", result="FAILED"), run("a:m b:p", result="FAILED")], INCONCLUSIVE),
        # A result means something for a COMPLETED run only.
        ([run("a:m b:m", "ERROR", "FAILED"), run("a:p b:p", result="PASSED")], PASS),
        ([run("a:p b:p", "ERROR", "FAILED"), run("a:p b:p", result="PASSED")], PASS),
    ],
)
def test_run_and_tests_contradict_each_other(attempts: list[Attempt], verdict: Verdict) -> None:
    gate = judge(["a", "b"], attempts)
    assert gate.verdict is verdict
    assert bool(gate.blocking) is ("contradiction" in rules(gate))


def test_a_tolerated_miss_does_not_explain_a_failed_run() -> None:
    gate = judge(["a", "b"], [run("a:p b:m", result="FAILED")], GatePolicy(max_undecided=1))
    assert gate.verdict is INCONCLUSIVE
    assert rules(gate, INCONCLUSIVE) == {"contradiction"}


def test_a_tolerated_failure_in_a_passed_run_is_decided_by_the_tests() -> None:
    gate = judge(["a", "b"], [run("a:p b:f", result="PASSED")], GatePolicy(max_failed=1))
    assert gate.verdict is PASS
    assert "contradiction" in rules(gate, PASS)


@pytest.mark.parametrize("incident", list(Incident))
def test_incidents_make_the_gate_inconclusive_at_least(incident: Incident) -> None:
    gate = judge(["a"], [run("a:p")], incidents=[incident, incident])
    assert gate.verdict is INCONCLUSIVE
    assert [reason.rule for reason in gate.blocking] == [incident.value]
    assert judge(["a"], [run("a:f")], incidents=iter([incident])).verdict is FAIL
    plain: Any = [incident.value]
    assert judge(["a"], [run("a:p")], incidents=plain) == gate


# --- Quarantine and mass failure


def test_quarantine_reports_and_does_not_block() -> None:
    policy = GatePolicy(quarantine=quarantine("q"), max_flaky=0)
    for outcome in "fmscua":
        gate = judge(["a", "q"], [run(f"a:p q:{outcome}")], policy, today=TODAY)
        assert gate.verdict is PASS
        assert [reason.test_ids for reason in gate.reasons if reason.rule == "quarantine"] == [("q",)]
        assert gate.reasons[0].sentence == "1 of 1 test passed."
    assert gate.tests["q"] is TestVerdict.MISSING
    assert judge(["a", "q"], [run("a:p q:f"), run("q:p")], policy, today=TODAY).verdict is PASS
    assert judge(["a"], [run("a:p"), run("q:f")], policy, today=TODAY).verdict is PASS
    # It explains that the run failed, and it is no evidence.
    assert judge(["a", "q"], [run("a:p q:f", result="FAILED")], policy, today=TODAY).verdict is PASS
    assert judge(["a", "q"], [run("a:p q:m", result="FAILED")], policy, today=TODAY).verdict is PASS
    assert judge(["a", "q"], [run("a:s q:p")], policy, today=TODAY).verdict is INCONCLUSIVE
    two = policy.model_copy(update={"min_decided": 2})
    assert judge(["a", "q"], [run("a:p q:p")], two, today=TODAY).verdict is INCONCLUSIVE


def test_quarantine_ends_with_its_last_day() -> None:
    policy = GatePolicy(quarantine=quarantine("q", expires=date(2026, 9, 1)))
    attempts = [run("a:p q:f")]
    assert judge(["a", "q"], attempts, policy, today=date(2026, 9, 1)).verdict is PASS
    expired = judge(["a", "q"], attempts, policy, today=date(2026, 9, 2))
    assert expired.verdict is FAIL
    assert "quarantine_expired" in rules(expired, PASS)


def test_quarantine_needs_a_date() -> None:
    policy = GatePolicy(quarantine=quarantine("elsewhere"))
    with pytest.raises(ValueError, match="today"):
        judge(["a"], [run("a:p")], policy)
    with pytest.raises(ValueError, match="today"):
        plan_rerun(["a"], [run("a:f")], policy)
    assert judge(["a"], [run("a:p")], policy, today=TODAY).verdict is PASS


def test_a_suite_of_quarantined_tests_alone_is_inconclusive() -> None:
    gate = judge(["q", "r"], [run("q:p r:p")], GatePolicy(quarantine=quarantine("q", "r")), today=TODAY)
    assert gate.verdict is INCONCLUSIVE
    assert "only_quarantined" in rules(gate, INCONCLUSIVE)


def test_mass_failure_of_mostly_missed_tests_is_inconclusive() -> None:
    tolerant = GatePolicy(max_undecided=99, max_failed=99)
    missed = suite(p=9, m=11)
    gate = judge(missed.outcomes, [missed], tolerant)
    assert gate.verdict is INCONCLUSIVE
    assert [(reason.rule, len(reason.test_ids)) for reason in gate.blocking] == [("mass_failure", 11)]
    for attempt in (suite(p=9, m=10), suite(p=9, m=6, f=6), suite(p=9, m=1, s=20), suite(p=30, m=10)):
        assert judge(attempt.outcomes, [attempt], tolerant).verdict is PASS
    strict = suite(p=9, m=12, f=1)
    assert judge(strict.outcomes, [strict]).verdict is FAIL
    rescued = [missed, Attempt("COMPLETED", dict.fromkeys((f"m{i}" for i in range(11)), PASSED))]
    assert judge(missed.outcomes, rescued).verdict is PASS


# --- Reasons


@pytest.mark.parametrize(
    ("gate", "sentences"),
    [
        (judge("ab", [run("a:p b:p")]), ["2 of 2 tests passed."]),
        (judge("ab", [run("a:p b:f")]), ["1 test failed; this gate allows none."]),
        (
            judge("ab", [run("a:f b:p"), run("a:p")], GatePolicy(max_flaky=0)),
            ["1 test failed first and passed in a rerun: flaky; this gate allows none."],
        ),
        (
            judge("ab", [run("a:p b:m")], expected_count=4),
            [
                "3 tests (2 of them announced by QA.tech, but never listed) neither passed nor failed; "
                "this gate allows none."
            ],
        ),
        (
            judge("a", [run("a:p", "ERROR")]),
            ["The first run (ERROR) did not complete, and the result of 1 test comes from there."],
        ),
        (
            judge("ab", [run("a:p b:p"), run("b:p", "ODD\n")]),
            ["Rerun 1 (something unknown) did not complete, and the result of 1 test comes from there."],
        ),
        (
            judge("a", [run("a:p", result="<b>")]),
            ["The first run ended as something unknown, although none of its tests failed."],
        ),
    ],
)
def test_sentences(gate: GateVerdict, sentences: list[str]) -> None:
    assert [reason.sentence for reason in (gate.blocking or gate.reasons)] == sentences


def test_the_gravest_reason_comes_first() -> None:
    gate = judge("abc", [run("a:p b:f c:m")])
    assert [reason.verdict for reason in gate.reasons] == [FAIL, INCONCLUSIVE]


@pytest.mark.parametrize(
    ("check", "policy", "said"),
    [
        (ReleaseCheckEvidence(True), {}, {}),
        (ReleaseCheckEvidence(True, blockers=2), {}, {"release_check_blockers": INCONCLUSIVE}),
        (ReleaseCheckEvidence(True, blockers=2), {"on_blocker": "fail"}, {"release_check_blockers": FAIL}),
        (ReleaseCheckEvidence(True, blockers=2), {"on_blocker": "report"}, {"release_check_blockers": PASS}),
        (ReleaseCheckEvidence(True, score=0), {}, {}),
        (ReleaseCheckEvidence(True, score=60), {"min_score": 60.0}, {}),
        (ReleaseCheckEvidence(True, score=59.9), {"min_score": 60.0}, {"release_check_score": INCONCLUSIVE}),
        (ReleaseCheckEvidence(True), {"min_score": 60.0}, {"release_check_score": INCONCLUSIVE}),
        (ReleaseCheckEvidence(False), {}, {"release_check_incomplete": INCONCLUSIVE}),
        (ReleaseCheckEvidence(False), {"on_blocker": "report"}, {"release_check_incomplete": INCONCLUSIVE}),
        (
            ReleaseCheckEvidence(False, blockers=1, score=99),
            {"on_blocker": "fail", "min_score": 1.0},
            {"release_check_incomplete": INCONCLUSIVE},
        ),
    ],
)
@pytest.mark.parametrize("tests", ["a:p", "a:f", "a:s"])
def test_a_release_check_says_its_part_and_changes_nothing_else(
    check: ReleaseCheckEvidence, policy: dict[str, Any], said: dict[str, Verdict], tests: str
) -> None:
    rule = GatePolicy(release_check=ReleaseCheckPolicy(**policy))
    without = judge(["a"], [run(tests)], rule)
    gate = judge(["a"], [run(tests)], rule, release_check=check)
    of_the_check = {reason.rule: reason.verdict for reason in gate.reasons if reason.rule.startswith("release_check")}
    assert of_the_check == said
    assert gate.verdict is Verdict.worst([without.verdict, *said.values()])
    assert gate.tests == without.tests
