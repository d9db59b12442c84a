"""The rules of a verdict, row by row and limit by limit; what must hold for every input is in test_laws.py."""

from __future__ import annotations

import ast
import doctest
import json
import pickle
from datetime import date, datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from prefect_qatech import verdict as room
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.verdict import (
    Attempt,
    GatePolicy,
    GateVerdict,
    Incident,
    NoRerun,
    Outcome,
    QuarantineEntry,
    Rerun,
    TestVerdict,
    Verdict,
    classify,
    judge,
    merge,
    plan_rerun,
    rerun_base,
)

PASSED, FAILED, MISSED, SKIPPED, CANCELLED, UNFINISHED, ABSENT = Outcome
PASS, INCONCLUSIVE, FAIL = Verdict
TODAY = date(2026, 9, 1)
LETTERS = {o.value[0]: o for o in Outcome}  # p f m s c u a


def run(words: str = "", status: str = "COMPLETED", result: str | None = None) -> Attempt:
    """`run("a:p b:f")` is a run in which test a passed and test b failed."""
    pairs = (word.split(":") for word in words.split())
    return Attempt(status, {test: LETTERS[letter] for test, letter in pairs}, result)


def suite(**counts: int) -> Attempt:
    """`suite(p=30, f=2)` is a run of 32 tests."""
    return run(" ".join(f"{letter}{i}:{letter}" for letter, count in counts.items() for i in range(count)))


def quarantine(*tests: str, expires: date = TODAY) -> dict[str, QuarantineEntry]:
    return {test: QuarantineEntry(reason="known bug", owner="ana", expires=expires) for test in tests}


def rules(gate: GateVerdict, *verdicts: Verdict) -> set[str]:
    return {reason.rule for reason in gate.reasons if reason.verdict in (verdicts or Verdict)}


# --- Words


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (Outcome, "passed failed missed skipped cancelled unfinished absent"),
        (TestVerdict, "passed recovered flaky failed errored skipped cancelled missing"),
        (Verdict, "pass inconclusive fail"),
        (
            Incident,
            "deadline_passed usage_limit outcome_unknown nothing_to_rerun rerun_refused wait_gave_up count_unreadable "
            "stale_pass",
        ),
    ],
)
def test_words_print_as_themselves(words: Any, values: str) -> None:
    assert " ".join(str(word) for word in words) == values
    assert " ".join(f"{word}" for word in words) == values
    assert json.loads(json.dumps(list(words))) == values.split()
    assert [words(value) for value in values.split()] == list(words)


def test_the_worst_verdict_is_not_the_last_in_the_alphabet() -> None:
    assert Verdict.worst([PASS]) is PASS
    assert Verdict.worst([INCONCLUSIVE, PASS]) is INCONCLUSIVE
    assert Verdict.worst([PASS, FAIL, INCONCLUSIVE]) is FAIL
    with pytest.raises(ValueError, match="empty"):
        Verdict.worst([])


MODULES = sorted(Path(room.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_room_is_pure(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    allowed = {"__future__", "collections", "collections.abc", "dataclasses", "datetime", "enum", "fractions"}
    allowed |= {"typing", "zoneinfo", "pydantic", "prefect_qatech.inputs", "prefect_qatech.models"}
    assert {name for name in imported if not name.startswith("prefect_qatech.verdict")} <= allowed
    called = {node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")}
    assert not called & {"today", "now", "open", "read_text"}


def test_examples_in_the_docstrings_run() -> None:
    results = [
        doctest.testmod(import_module(f"{room.__name__}.{path.stem}")) for path in MODULES if path.stem != "__init__"
    ]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 9


# --- 1. Outcome of a test in an attempt


@pytest.mark.parametrize(
    ("status", "result", "error_code", "outcome"),
    [
        ("CANCELLED", None, None, CANCELLED),
        ("CANCELLED", "PASSED", None, CANCELLED),
        ("CANCELLED", "FAILED", "AGENT_STUCK", CANCELLED),
        ("INITIATED", None, None, UNFINISHED),
        ("RUNNING", "PASSED", None, UNFINISHED),
        ("RUNNING", "FAILED", "PLATFORM_DOWN", UNFINISHED),
        ("COMPLETED", None, None, UNFINISHED),
        ("COMPLETED", None, "AGENT_STUCK", UNFINISHED),
        ("ERROR", None, None, MISSED),
        ("ERROR", "PASSED", None, MISSED),
        ("ERROR", "FAILED", "TEST_FAILED", MISSED),
        ("PAUSED", "PASSED", None, MISSED),
        ("PAUSED", None, None, MISSED),
        ("", "PASSED", None, MISSED),
        ("completed", "PASSED", None, MISSED),
        ("cancelled", None, None, MISSED),
        (" COMPLETED", "PASSED", None, MISSED),
        ("COMPLETED", "PASSED", "AGENT_STUCK", MISSED),
        ("COMPLETED", "FAILED", "AGENT_STUCK", MISSED),
        ("COMPLETED", "FAILED", "PLATFORM_DOWN", MISSED),
        ("COMPLETED", "SKIPPED", "PLATFORM_DOWN", MISSED),
        ("COMPLETED", "PASSED", None, PASSED),
        ("COMPLETED", "PASSED", "TEST_FAILED", MISSED),
        ("COMPLETED", "PASSED", "SOMETHING", MISSED),
        ("COMPLETED", "PASSED", "", MISSED),
        ("COMPLETED", "FAILED", None, FAILED),
        ("COMPLETED", "FAILED", "TEST_FAILED", FAILED),
        ("COMPLETED", "FAILED", "", FAILED),
        ("COMPLETED", "FAILED", "SOMETHING", MISSED),
        ("COMPLETED", "FAILED", "test_failed", MISSED),
        ("COMPLETED", "FAILED", "TEST_FAILED_TWICE", MISSED),
        ("COMPLETED", "SKIPPED", None, SKIPPED),
        ("COMPLETED", "SKIPPED", "SOMETHING", SKIPPED),
        ("COMPLETED", "", None, MISSED),
        ("COMPLETED", "passed", None, MISSED),
        ("COMPLETED", "WARNING", None, MISSED),
    ],
)
def test_outcome(status: str, result: str | None, error_code: str | None, outcome: Outcome) -> None:
    assert classify(status, result, error_code) is outcome


# --- 2. Verdict of a test over all attempts


@pytest.mark.parametrize(
    ("letters", "passes_required", "verdict"),
    [
        ("", 1, TestVerdict.MISSING),
        ("a", 1, TestVerdict.MISSING),
        ("aa", 1, TestVerdict.MISSING),
        ("m", 1, TestVerdict.ERRORED),
        ("u", 1, TestVerdict.ERRORED),
        ("sca", 1, TestVerdict.CANCELLED),
        ("csm", 1, TestVerdict.ERRORED),
        ("csu", 1, TestVerdict.ERRORED),
        ("c", 1, TestVerdict.CANCELLED),
        ("s", 1, TestVerdict.SKIPPED),
        ("as", 1, TestVerdict.SKIPPED),
        ("f", 1, TestVerdict.FAILED),
        ("pf", 1, TestVerdict.FAILED),
        ("fs", 1, TestVerdict.FAILED),
        ("fm", 1, TestVerdict.FAILED),
        ("fpf", 1, TestVerdict.FAILED),
        ("pfa", 1, TestVerdict.FAILED),
        ("p", 1, TestVerdict.PASSED),
        ("pm", 1, TestVerdict.PASSED),
        ("pa", 1, TestVerdict.PASSED),
        ("p", 2, TestVerdict.PASSED),
        ("mp", 1, TestVerdict.RECOVERED),
        ("sp", 1, TestVerdict.RECOVERED),
        ("ap", 1, TestVerdict.RECOVERED),
        ("cup", 3, TestVerdict.RECOVERED),
        ("fp", 1, TestVerdict.FLAKY),
        ("pfp", 1, TestVerdict.FLAKY),
        ("mfp", 1, TestVerdict.FLAKY),
        ("fpm", 1, TestVerdict.FLAKY),
        ("fp", 2, TestVerdict.FAILED),
        ("pfp", 2, TestVerdict.FAILED),
        ("fpp", 2, TestVerdict.FLAKY),
        ("fpmp", 2, TestVerdict.FLAKY),
        ("fpfp", 2, TestVerdict.FAILED),
        ("fppp", 2, TestVerdict.FLAKY),
    ],
)
def test_merge(letters: str, passes_required: int, verdict: TestVerdict) -> None:
    outcomes = [LETTERS[letter] for letter in letters]
    assert merge(outcomes, passes_required) is verdict
    plain: Any = [outcome.value for outcome in outcomes]
    assert merge(plain, passes_required) is verdict


def test_merge_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="passes_required is 0"):
        merge([PASSED], 0)
    unknown: Any = ["fine"]
    with pytest.raises(ValueError, match="'fine' is not a valid Outcome"):
        merge(unknown)


# --- The policy


def test_defaults_of_the_policy() -> None:
    assert GatePolicy().model_dump() == {
        "max_reruns": 2,
        "max_failed": 0,
        "max_flaky": None,
        "max_undecided": 0,
        "min_decided": 1,
        "passes_required": 1,
        "fuse_failures": None,
        "quarantine": {},
        "quarantine_time_zone": "UTC",
        "deadline_seconds": 3600,
    }


@pytest.mark.parametrize(
    "policy",
    [
        GatePolicy(),
        GatePolicy(max_reruns=0, max_failed=3, max_flaky=0, max_undecided=1, min_decided=9, passes_required=2),
        GatePolicy(max_reruns=10, fuse_failures=0, deadline_seconds=0.5),
        GatePolicy(fuse_failures=7, deadline_seconds=90),
        GatePolicy(fuse_failures=0.3, quarantine=quarantine("a", "b"), quarantine_time_zone="Asia/Tokyo"),
    ],
)
def test_policy_survives_json(policy: GatePolicy) -> None:
    again = GatePolicy.model_validate(json.loads(json.dumps(policy.model_dump(mode="json"))))
    assert again == policy
    assert type(again.fuse_failures) is type(policy.fuse_failures)
    assert GatePolicy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    "bad",
    [
        {"max_reruns": -1},
        {"max_reruns": 11},
        {"max_reruns": True},
        {"max_reruns": 1.0},
        {"max_reruns": "1"},
        {"max_failed": -1},
        {"max_failed": False},
        {"max_flaky": -1},
        {"max_flaky": True},
        {"max_undecided": -1},
        {"max_undecided": True},
        {"min_decided": 0},
        {"min_decided": True},
        {"passes_required": 0},
        {"passes_required": True},
        {"fuse_failures": -1},
        {"fuse_failures": True},
        {"fuse_failures": 0.0},
        {"fuse_failures": 1.0},
        {"fuse_failures": 2.5},
        {"fuse_failures": -0.5},
        {"fuse_failures": float("nan")},
        {"fuse_failures": "0.3"},
        {"deadline_seconds": 0},
        {"deadline_seconds": -1},
        {"deadline_seconds": float("inf")},
        {"deadline_seconds": float("nan")},
        {"deadline_seconds": True},
        {"quarantine_time_zone": "CET+2"},
        {"quarantine_time_zone": "Europe"},
        {"quarantine_time_zone": "../etc/passwd"},
        {"quarantine_time_zone": "a\x00b"},
        {"quarantine_time_zone": ""},
        {"quarantine_time_zone": None},
        {"quarantine": ["a"]},
        {"quarantine": {"a": {"reason": "r", "owner": "o"}}},
        {"quarantine": {"a": {"reason": " ", "owner": "o", "expires": "2026-09-01"}}},
        {"quarantine": {"a": {"reason": "r", "owner": "", "expires": "2026-09-01"}}},
        {"quarantine": {"a": {"reason": "r", "owner": "o", "expires": "soon"}}},
        {"quarantine": {"a": {"reason": "r", "owner": "o", "expires": "2026-09-01", "more": 1}}},
        {"max_rerun": 1},
    ],
    ids=str,
)
def test_bad_policies_are_refused(bad: dict[str, Any]) -> None:
    for make in (lambda: GatePolicy(**bad), lambda: GatePolicy.model_validate(bad)):
        with pytest.raises(InvalidInputError) as caught:
            make()
        assert next(iter(bad)) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("zone", "hour", "day"),
    [
        ("UTC", 23, 1),
        ("Asia/Tokyo", 14, 1),
        ("Asia/Tokyo", 15, 2),
        ("America/Los_Angeles", 6, 0),
        ("America/Los_Angeles", 7, 1),
    ],
)
def test_the_quarantine_ends_by_the_clocks_of_its_time_zone(zone: str, hour: int, day: int) -> None:
    policy, expected = GatePolicy(quarantine_time_zone=zone), date(2026, 8, 31) + timedelta(days=day)
    moment = datetime(2026, 9, 1, hour, tzinfo=timezone.utc)
    assert policy.quarantine_day(moment) == expected
    assert policy.quarantine_day(moment.astimezone(timezone(timedelta(hours=-11)))) == expected
    assert policy.quarantine_day(moment.replace(tzinfo=None)) == expected


def test_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        GatePolicy().max_failed = 9  # type: ignore[misc]


def test_policy_makes_a_form() -> None:
    schema = TypeAdapter(GatePolicy).json_schema()
    for field in (*schema["properties"].values(), *schema["$defs"]["QuarantineEntry"]["properties"].values()):
        assert field["title"]
        assert field["description"].endswith(".")
    assert schema["additionalProperties"] is False


# --- 3. The gate


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


# --- 3. The gate: runs


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


# --- 3. The gate: quarantine and mass failure


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


# --- 4. What to rerun


@pytest.mark.parametrize(
    ("attempts", "plan"),
    [
        ([run("a:p b:f c:p")], Rerun("failed_only", ("b",))),
        ([run("a:f b:s c:m")], Rerun("failed_only", ("a", "b", "c"))),
        ([run("a:f b:s c:m", result="FAILED")], Rerun("failed_only", ("a", "b", "c"))),
        ([run("a:p b:f c:c")], Rerun("test_cases", ("b", "c"))),
        ([run("a:p b:f c:u")], Rerun("test_cases", ("b", "c"))),
        ([run("a:p b:f")], Rerun("test_cases", ("b", "c"))),
        ([run("a:p b:p c:a")], Rerun("test_cases", ("c",))),
        ([run("c:f b:f a:p")], Rerun("failed_only", ("b", "c"))),
        ([run("a:p b:f c:f"), run("b:p c:f")], Rerun("test_cases", ("c",), 1)),
        ([run("a:p b:f c:f"), run("b:f c:f")], Rerun("test_cases", ("b", "c"), 1)),
        ([run("a:p b:f c:f"), run("b:f")], Rerun("test_cases", ("b", "c"), 0)),
        ([run("a:p b:f c:p"), run("a:f b:p")], Rerun("test_cases", ("a",), 1)),
        ([run("a:p b:f c:p"), run("b:p x:f")], Rerun("test_cases", ("x",), 1)),
        ([run("a:p b:f c:p"), run("b:f x:s")], Rerun("test_cases", ("b",), 1)),
        ([run("a:m b:m c:m", "ERROR")], Rerun("everything", ("a", "b", "c"))),
        ([run("", "ERROR")], Rerun("everything", ("a", "b", "c"))),
        ([run("a:p b:p c:p", "ERROR")], Rerun("everything", ())),
        ([run("a:p b:f c:p"), run("b:m", "ERROR")], Rerun("everything", ("b",), 1)),
        ([run("a:p b:f c:p"), run("b:m", "CANCELLED"), run("b:f")], "budget_spent"),
        ([run("a:f b:f c:f"), run("a:f b:f c:f"), run("a:f b:f c:f")], "budget_spent"),
        ([run("", "ERROR"), run("", "ERROR"), run("", "ERROR")], "budget_spent"),
        ([], "no_attempt"),
        ([run("a:p b:p c:p")], "nothing_open"),
        ([run("a:p b:f c:p"), run("b:p")], "nothing_open"),
        ([run("a:p b:p c:p", result="FAILED")], "nothing_open"),
        ([run("a:p b:p c:p"), run("", "ERROR")], "nothing_open"),
        ([run("a:p b:f c:c", "CANCELLED")], "cancelled"),
        ([run("a:p b:f c:u", "RUNNING")], "not_final"),
        ([run("a:p b:f c:u", "PAUSED")], "not_final"),
    ],
)
def test_plan(attempts: list[Attempt], plan: Rerun | str) -> None:
    made = plan_rerun("abc", attempts)
    assert (made.reason if isinstance(made, NoRerun) else made) == plan


@pytest.mark.parametrize("max_reruns", [0, 1, 3, 10])
def test_budget(max_reruns: int) -> None:
    policy = GatePolicy(max_reruns=max_reruns)
    for reruns in range(max_reruns):
        assert isinstance(plan_rerun("a", [run("a:f")] * (reruns + 1), policy), Rerun)
    spent = plan_rerun("a", [run("a:f")] * (max_reruns + 1), policy)
    assert spent == NoRerun("budget_spent", f"The limit of reruns, {max_reruns}, is reached.")


@pytest.mark.parametrize(
    ("fuse", "holds", "blows"),
    [
        (None, suite(p=2, f=10), suite(p=2, f=11)),
        (None, suite(p=70, f=20, m=10), suite(p=70, f=20, m=11)),
        (None, suite(p=2, f=5, s=30), suite(p=2, f=8, m=3, s=10)),
        (0, suite(p=2, s=2), suite(p=2, f=1)),
        (3, suite(p=2, f=2, m=1), suite(p=90, f=2, m=2)),
        (0.5, suite(p=2, f=2), suite(p=2, f=3)),
        (0.29, suite(p=71, f=29), suite(p=70, f=30)),
        (0.07, suite(p=93, f=7), suite(p=92, f=8)),
    ],
)
def test_fuse(fuse: float | None, holds: Attempt, blows: Attempt) -> None:
    policy = GatePolicy(fuse_failures=fuse)
    assert isinstance(plan_rerun(holds.outcomes, [holds], policy), Rerun)
    blown = plan_rerun(blows.outcomes, [blows], policy)
    assert isinstance(blown, NoRerun)
    assert blown.reason == "fuse"


def test_misses_of_an_error_run_do_not_blow_the_fuse_but_failures_do() -> None:
    missed = suite(p=1, m=40)
    error = Attempt("ERROR", missed.outcomes)
    assert plan_rerun(missed.outcomes, [error]) == Rerun("everything", tuple(missed.outcomes)[1:])
    again = plan_rerun(missed.outcomes, [error, missed])
    assert isinstance(again, NoRerun)
    assert again.reason == "fuse"
    failed = suite(p=1, f=40)
    broken = plan_rerun(failed.outcomes, [Attempt("ERROR", failed.outcomes)])
    assert isinstance(broken, NoRerun)
    assert broken.reason == "fuse"


def test_fuse_counts_neither_quarantined_tests_nor_unlisted_ones_as_failed() -> None:
    policy = GatePolicy(fuse_failures=0.5, quarantine=quarantine("q", "r"), max_undecided=5)
    attempt = run("a:f b:p q:f r:f")
    assert plan_rerun("abqr", [attempt], policy, today=TODAY) == Rerun("test_cases", ("a",))
    assert plan_rerun("a", [run("a:f")], policy, expected_count=2, today=TODAY) == Rerun("test_cases", ("a",))


def test_quarantined_tests_are_not_rerun() -> None:
    policy = GatePolicy(quarantine=quarantine("q"))
    alone = plan_rerun("aq", [run("a:p q:f")], policy, today=TODAY)
    assert isinstance(alone, NoRerun)
    assert alone.reason == "nothing_open"
    assert plan_rerun("aq", [run("a:f q:f")], policy, today=TODAY) == Rerun("test_cases", ("a",))
    assert plan_rerun("aq", [run("a:f q:p")], policy, today=TODAY) == Rerun("failed_only", ("a",))
    expired = plan_rerun("aq", [run("a:p q:f")], policy, today=date(2027, 1, 1))
    assert expired == Rerun("failed_only", ("q",))


@pytest.mark.parametrize(
    ("policy", "attempts", "plan"),
    [
        ({"max_failed": 1}, [run("a:p b:f")], "gate_passes"),
        ({"max_undecided": 1}, [run("a:p b:m")], "gate_passes"),
        ({"max_flaky": 0}, [run("a:p b:f")], "cannot_help"),
        ({"max_flaky": 0}, [run("a:p b:m")], Rerun("failed_only", ("b",))),
        ({"max_flaky": 1}, [run("a:f b:f")], "cannot_help"),
        ({"max_flaky": 1, "max_failed": 1}, [run("a:f b:f")], Rerun("failed_only", ("a", "b"))),
        ({"max_flaky": 2}, [run("a:f b:f")], Rerun("failed_only", ("a", "b"))),
        ({"max_flaky": 0}, [run("a:f b:m"), run("a:p b:m")], "cannot_help"),
        ({"min_decided": 3}, [run("a:p b:f")], "cannot_help"),
        ({"passes_required": 2}, [run("a:p b:f")], Rerun("failed_only", ("b",))),
        ({"passes_required": 2}, [run("a:p b:f"), run("b:p")], Rerun("test_cases", ("b",), 1)),
        ({"passes_required": 2}, [run("a:p b:f"), run("b:f")], "cannot_help"),
        ({"passes_required": 3}, [run("a:p b:f")], "cannot_help"),
        ({"passes_required": 2, "max_failed": 1}, [run("a:f b:f"), run("a:p b:f")], Rerun("test_cases", ("a", "b"), 1)),
        ({"passes_required": 2, "max_failed": 1}, [run("a:f b:f"), run("a:f b:p")], Rerun("test_cases", ("a", "b"), 1)),
        ({}, [run("a:p b:f", result="FAILED"), run("a:f b:p", result="FAILED")], Rerun("test_cases", ("a",), 1)),
        ({}, [run("a:p b:f", result="FAILED"), run("b:c", result="FAILED"), run("b:f")], "budget_spent"),
    ],
)
def test_a_rerun_is_asked_for_only_where_it_could_help(
    policy: dict[str, Any], attempts: list[Attempt], plan: Rerun | str
) -> None:
    made = plan_rerun("ab", attempts, GatePolicy(**policy))
    assert (made.reason if isinstance(made, NoRerun) else made) == plan


@pytest.mark.parametrize("incident", list(Incident))
def test_no_rerun_after_an_incident(incident: Incident) -> None:
    made = plan_rerun("a", [run("a:f")], incidents=iter([incident]))
    assert isinstance(made, NoRerun)
    assert made.reason == "cannot_help"
    assert judge("a", [run("a:p")], incidents=[incident]).reasons[0].sentence in made.sentence


def test_no_rerun_can_make_up_for_tests_that_were_never_listed() -> None:
    made = plan_rerun("ab", [run("a:p b:f")], expected_count=3)
    assert isinstance(made, NoRerun)
    assert made.reason == "cannot_help"
    assert "never listed" in made.sentence
    tolerated = plan_rerun("ab", [run("a:p b:f")], GatePolicy(max_undecided=1), expected_count=3)
    assert tolerated == Rerun("test_cases", ("b",))  # failedOnly might take more along than we know of


@pytest.mark.parametrize(
    ("tests", "attempts", "base"),
    [
        ("a", [], 0),
        ("a", [run("b:p")], 0),
        ("a", [run("a:f"), run("a:f")], 1),
        ("ab", [run("a:f b:f"), run("a:f b:f"), run("a:f")], 1),
        ("ab", [run("a:f b:f"), run("b:f"), run("a:f b:a")], 0),
        ("ab", [run("a:f"), run("b:f")], 0),
        ("", [run("a:f"), run("b:f")], 1),
    ],
)
def test_rerun_base(tests: str, attempts: list[Attempt], base: int) -> None:
    assert rerun_base(iter(tests), attempts) == base
