"""What the reasons say, word for word: people read them aloud, and decide by them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest

from prefect_qatech.verdict.identity import Evidence
from prefect_qatech.verdict.judge import Incident, ReleaseCheckEvidence, judge, judge_named
from prefect_qatech.verdict.outcomes import Attempt
from prefect_qatech.verdict.policy import GatePolicy, ReleaseCheckPolicy
from prefect_qatech.verdict.rerun import NoRerun, plan_rerun
from tests.verdict.runs import FAIL, INCONCLUSIVE, PASS, TODAY, quarantine, run, suite

GOOD = run("a:p b:p")


@dataclass
class Gate:
    """What is judged."""

    expected: Iterable[str] = "ab"
    attempts: Sequence[Attempt] = (GOOD,)
    policy: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def check(**found: Any) -> dict[str, Any]:
    return {"release_check": ReleaseCheckEvidence(is_complete=True, **found)}


SCORE = {"release_check": ReleaseCheckPolicy(min_score=7.5)}
OLD = quarantine("b", expires=date(2026, 8, 31))


@pytest.mark.parametrize(
    ("gate", "rule", "verdict", "sentence", "tests"),
    [
        (Gate(), "passed", PASS, "2 of 2 tests passed.", "ab"),
        (Gate("a", [run("a:p")]), "passed", PASS, "1 of 1 test passed.", "a"),
        (Gate(attempts=[run("a:p b:f")]), "max_failed", FAIL, "1 test failed; this gate allows none.", "b"),
        (
            Gate(attempts=[run("a:f b:f")], policy={"max_failed": 1}),
            "max_failed",
            FAIL,
            "2 tests failed; this gate allows at most 1.",
            "ab",
        ),
        (
            Gate(attempts=[run("a:p b:f"), run("b:p")]),
            "flaky_reported",
            PASS,
            "1 test failed first and passed in a rerun: flaky, which this gate allows. "
            "A real bug that shows only sometimes looks like this.",
            "b",
        ),
        (
            Gate(attempts=[run("a:p b:f"), run("b:p")], policy={"max_flaky": 0}),
            "max_flaky",
            FAIL,
            "1 test failed first and passed in a rerun: flaky; this gate allows none.",
            "b",
        ),
        (
            Gate(attempts=[run("a:p b:s")]),
            "max_undecided",
            INCONCLUSIVE,
            "1 test neither passed nor failed; this gate allows none.",
            "b",
        ),
        (
            Gate(attempts=[run("a:p b:s")], policy={"max_undecided": 1}, more={"expected_count": 4}),
            "max_undecided",
            INCONCLUSIVE,
            "3 tests (2 of them announced by QA.tech, but never listed) neither passed nor failed; "
            "this gate allows at most 1.",
            "b",
        ),
        (
            Gate("a", [run("a:p")], {"min_decided": 2}),
            "min_decided",
            INCONCLUSIVE,
            "1 test passed or failed; at least 2 must.",
            "a",
        ),
        (
            Gate("a", [run("a:s")]),
            "min_decided",
            INCONCLUSIVE,
            "No test passed or failed; at least 1 must.",
            "",
        ),
        (
            Gate(policy={"quarantine": quarantine("a", "b")}),
            "only_quarantined",
            INCONCLUSIVE,
            "The suite has no test outside of the quarantine (2 tests in it).",
            "ab",
        ),
        (
            Gate("abc", [run("a:p b:m c:m")], {"fuse_failures": 1}),
            "mass_failure",
            INCONCLUSIVE,
            "2 tests of 3 could not be carried out properly: too many to rerun.",
            "bc",
        ),
        (Gate(attempts=[]), "no_attempt", INCONCLUSIVE, "No run was started, so nothing was tested.", ""),
        (
            Gate(attempts=[run("a:p b:p", "ERROR"), run("a:p b:p", "PAUSED")]),
            "run_not_completed",
            INCONCLUSIVE,
            "The first run (ERROR), Rerun 1 (something unknown) did not complete, "
            "and the result of 2 tests comes from there.",
            "ab",
        ),
        (
            Gate(attempts=[run("a:p b:p", "INITIATED"), run("a:p b:p", "RUNNING")]),
            "run_not_completed",
            INCONCLUSIVE,
            "The first run (INITIATED), Rerun 1 (RUNNING) did not complete, "
            "and the result of 2 tests comes from there.",
            "ab",
        ),
        (
            # One pass is enough for a test that never failed, whatever its failures would need.
            Gate(attempts=[run("a:p b:p", "ERROR"), run("a:p b:p")], policy={"passes_required": 2}),
            "run_not_completed",
            PASS,
            "The first run (ERROR) did not complete, and no result that counts comes from there.",
            "",
        ),
        (
            Gate(attempts=[run("a:p b:p"), run("", "CANCELLED")]),
            "run_not_completed",
            PASS,
            "Rerun 1 (CANCELLED) did not complete, and no result that counts comes from there.",
            "",
        ),
        (
            Gate(attempts=[run("a:p b:p", result="FAILED")]),
            "contradiction",
            INCONCLUSIVE,
            "The first run ended as FAILED, although none of its tests failed.",
            "",
        ),
        (
            Gate(attempts=[run("a:p b:p", "ERROR"), run("a:p b:p", result="SKIPPED")]),
            "contradiction",
            INCONCLUSIVE,
            "Rerun 1 ended as SKIPPED, although none of its tests failed.",
            "",
        ),
        (
            Gate(attempts=[run("a:p b:f"), run("b:f", result="PASSED")]),
            "contradiction",
            FAIL,
            "Rerun 1 ended as PASSED, although 1 test in it failed: the tests count.",
            "b",
        ),
        (
            Gate(attempts=[run("a:p b:p", result="<b>")]),
            "contradiction",
            INCONCLUSIVE,
            "The first run ended as something unknown, although none of its tests failed.",
            "",
        ),
        (
            Gate(attempts=[run("a:p b:f", result="PASSED")]),
            "contradiction",
            FAIL,
            "The first run ended as PASSED, although 1 test in it failed: the tests count.",
            "b",
        ),
        (
            Gate(attempts=[run("a:p b:f", result="PASSED")], policy={"max_failed": 1}),
            "contradiction",
            PASS,
            "The first run ended as PASSED, although 1 test in it failed: the tests count.",
            "b",
        ),
        (
            Gate(more=check(blockers=1)),
            "release_check_blockers",
            INCONCLUSIVE,
            "The release check found 1 blocker.",
            "",
        ),
        (
            Gate(more=check(blockers=2), policy={"release_check": ReleaseCheckPolicy(on_blocker="fail")}),
            "release_check_blockers",
            FAIL,
            "The release check found 2 blockers.",
            "",
        ),
        (
            Gate(more=check(), policy=SCORE),
            "release_check_score",
            INCONCLUSIVE,
            "The release check has no score; at least 7.5 is needed.",
            "",
        ),
        (
            Gate(more=check(score=7.0), policy=SCORE),
            "release_check_score",
            INCONCLUSIVE,
            "The release check has the score 7; at least 7.5 is needed.",
            "",
        ),
        (
            Gate(more={"incidents": [Incident.USAGE_LIMIT]}),
            "usage_limit",
            INCONCLUSIVE,
            "QA.tech refused a rerun: the organisation has used up what its plan allows (402).",
            "",
        ),
        (
            Gate(attempts=[run("a:p b:f"), run("a:p")]),
            "vanished",
            PASS,
            "1 test still open but not in the list of a rerun: the earlier verdict stands.",
            "b",
        ),
        (
            Gate(attempts=[run("a:p b:f"), run("b:p"), run("a:p")], policy={"passes_required": 2}),
            "vanished",
            PASS,
            "1 test still open but not in the list of a rerun: the earlier verdict stands.",
            "b",
        ),
        (
            Gate(attempts=[run("a:p b:p x:p y:p")]),
            "appeared",
            PASS,
            "2 tests not expected from the start: a failure counts, a pass is no evidence.",
            "xy",
        ),
        (
            Gate(policy={"quarantine": quarantine("b")}),
            "quarantine",
            PASS,
            "1 test in quarantine: reported, and counted nowhere.",
            "b",
        ),
        (
            Gate(policy={"quarantine": OLD}),
            "quarantine_expired",
            PASS,
            "1 test counted again, because the quarantine entry expired.",
            "b",
        ),
    ],
)
def test_a_reason_says(gate: Gate, rule: str, verdict: str, sentence: str, tests: str) -> None:
    judged = judge(gate.expected, gate.attempts, GatePolicy(**gate.policy), today=TODAY, **gate.more)
    [reason] = [reason for reason in judged.reasons if reason.rule == rule]
    assert (reason.verdict, reason.sentence, reason.test_ids) == (verdict, sentence, tuple(tests))


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["Log in"], "1 quarantine entry matches no test"),
        (["Log in", "Log out"], "2 quarantine entries match no test"),
    ],
)
def test_an_entry_without_effect_is_named(keys: list[str], what: str) -> None:
    policy = GatePolicy(quarantine=quarantine(*keys, "Pay"))
    names = {"a": "Sign in", "b": "Pay"}
    blocked = check(blockers=1)
    judged = judge_named(Evidence(names, "ab", 3, [run("a:p b:f")]), policy, today=TODAY, **blocked)
    assert {reason.rule for reason in judged.blocking} == {"max_undecided", "release_check_blockers"}
    reason = judged.reasons[-1]
    assert (reason.rule, reason.verdict, reason.test_ids) == ("quarantine_unmatched", PASS, tuple(keys))
    assert reason.sentence == (
        f"{what}, or more than one, and so had no effect: name a test's id, or its exact and unique name."
    )
    evidence = Evidence(names, "ab", 2, [GOOD])
    happened = judge_named(evidence, policy, today=TODAY, incidents=[Incident.DEADLINE_PASSED])
    assert [reason.rule for reason in happened.blocking] == ["deadline_passed"]


def test_where_no_number_of_tests_was_announced_none_is_missing() -> None:
    assert {reason.rule for reason in judge([], [run("")]).blocking} == {"min_decided"}


FLAKY_LIMIT = {"max_flaky": 0}


@pytest.mark.parametrize(
    ("gate", "reason", "sentence"),
    [
        (Gate(attempts=[]), "no_attempt", "There is no run yet that could be rerun."),
        (Gate(), "nothing_open", "No test is open that could be asked for again."),
        (
            Gate(attempts=[run("a:p b:f")], policy={"max_failed": 1}),
            "gate_passes",
            "The gate passes as it is.",
        ),
        (Gate(attempts=[run("a:p b:f")] * 3), "budget_spent", "The limit of reruns, 2, is reached."),
        (
            Gate((suite(f=8, m=3)).outcomes, [suite(f=8, m=3)]),
            "fuse",
            "11 tests of 11 failed or were missed: a broken build is not flaky, and reruns cost money.",
        ),
        (
            Gate(attempts=[run("a:p b:f", "CANCELLED")]),
            "cancelled",
            "The latest run was cancelled: somebody meant it.",
        ),
        (Gate(attempts=[run("a:p b:f", "RUNNING")]), "not_final", "The latest run has not ended."),
        (
            Gate(attempts=[run("a:p b:f")], policy=FLAKY_LIMIT),
            "cannot_help",
            "Even if all open tests passed now, 1 test would be flaky; this gate allows none.",
        ),
        (
            Gate(attempts=[run("a:f b:f")], policy={"max_flaky": 1}),
            "cannot_help",
            "Even if all open tests passed now, 2 tests would be flaky; this gate allows at most 1.",
        ),
        (
            Gate(attempts=[run("a:p b:f")], more={"incidents": [Incident.WAIT_GAVE_UP]}),
            "cannot_help",
            "Even if all open tests passed now, the gate would not. "
            "A run could not be followed to its end, so what it found is not known.",
        ),
    ],
)
def test_why_nothing_is_rerun(gate: Gate, reason: str, sentence: str) -> None:
    planned = plan_rerun(gate.expected, gate.attempts, GatePolicy(**gate.policy), today=TODAY, **gate.more)
    assert planned == NoRerun(reason, sentence)
