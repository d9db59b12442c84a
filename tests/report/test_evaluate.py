"""Runs that were waited for in a flow of one's own are judged as the gate judges its own."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from prefect import flow

from prefect_qatech import (
    GatePolicy,
    GateReport,
    GateSubject,
    Incident,
    InvalidInputError,
    Outcome,
    QATechCredentials,
    QATechPolling,
    QATechRun,
    QuarantineEntry,
    ReportedAttempt,
    ReportedReason,
    ReportedTest,
    TestVerdict,
    Verdict,
    evaluate,
    get_test_run,
    publish_gate_report,
    rerun_test_run,
    start_test_run,
    wait_for_test_run,
)
from prefect_qatech.api.responses import QATechRunTestCaseDetails
from prefect_qatech.report.build import build_report
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.identity import ObservedAttempt, recognise
from tests.observed import FAILED, NOW, case
from tests.support import counted, verdict_in


def a_run(number: int, *cases: dict[str, Any], status: str = "COMPLETED") -> QATechRun:
    results = {one["result"] for one in cases}
    body = {"shortId": f"run{number}", "status": status, "runTestCases": cases, "url": f"https://q/run{number}"}
    return QATechRun.model_validate({**body, "result": "PASSED" if results <= {"PASSED"} else "FAILED"})


FIRST = a_run(1, case("Login", id="1"), case("Pay", id="2", **FAILED))
RERUN = a_run(2, case("Pay", id="2"))
SUBJECT = GateSubject(target="v1", label="mine", plan_short_id="pln_x")


def known(run: QATechRun, **told: str) -> QATechRun:
    """A run as a task returns it that got what its start or its rerun returned."""
    return run.model_copy(update=told)


SUBJECT = GateSubject(target="v1", label="mine", plan_short_id="pln_x")


def test_a_run_and_its_rerun_make_a_report() -> None:
    report = evaluate([FIRST, RERUN], subject=SUBJECT, expected_count=2, now=NOW)
    assert report.passed
    assert (report.verdict_without_reruns, report.expected_count) == (Verdict.FAIL, 2)
    assert (report.target, report.label, report.plan_short_id, report.ended_at) == ("v1", "mine", "pln_x", NOW)
    assert [(one.number, one.kind, one.run_short_id, one.run_url) for one in report.attempts] == [
        (0, "start", "run1", "https://q/run1"),
        (1, "rerun", "run2", "https://q/run2"),
    ]
    assert [test.verdict for test in report.tests] == [TestVerdict.PASSED, TestVerdict.FLAKY]
    assert report.judge_again(GatePolicy(max_flaky=0)).verdict is Verdict.FAIL


RUNS = st.lists(
    st.tuples(
        st.sampled_from(["COMPLETED", "COMPLETED", "ERROR", "CANCELLED", "RUNNING"]),
        st.dictionaries(st.sampled_from("abc"), st.sampled_from(["PASSED", "FAILED", "SKIPPED", None, "NEW"])),
    ),
    max_size=3,
)


@given(RUNS, st.none() | st.integers(0, 4), st.booleans())
def test_it_judges_as_the_gate_does(
    described: list[tuple[str, dict[str, str | None]]], expected_count: int | None, in_time: bool
) -> None:
    runs = [
        a_run(number, *(case(name, id=name, result=result) for name, result in tests.items()), status=status)
        for number, (status, tests) in enumerate(described)
    ]
    entry = QuarantineEntry(reason="known", owner="ana", expires=NOW.date())
    policy, incidents = GatePolicy(quarantine={"b": entry}), () if in_time else (Incident.DEADLINE_PASSED,)
    report = evaluate(runs, policy, expected_count=expected_count, incidents=incidents, now=NOW)
    observed = [ObservedAttempt("rerun" if number else "start", run) for number, run in enumerate(runs)]
    if observed:
        observed[0] = ObservedAttempt("start", runs[0], test_count=expected_count)
    gate = build_report(recognise(observed), policy, ended_at=NOW, incidents=incidents)
    assert (report.verdict, report.reasons) == (gate.verdict, gate.reasons)
    assert [test.outcomes for test in report.tests] == [test.outcomes for test in gate.tests]


@pytest.mark.parametrize(
    ("runs", "rule"),
    [
        ([], "no_attempt"),
        ([a_run(1)], "min_decided"),
        ([a_run(1, case("Login", id="1"), status="RUNNING")], "run_not_completed"),
        ([QATechRun(run_short_id="abc", status="COMPLETED", result="PASSED")], "min_decided"),
    ],
)
def test_what_is_no_evidence_is_no_pass(runs: list[QATechRun], rule: str) -> None:
    report = evaluate(runs)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert rule in {reason.rule for reason in report.reasons}


def test_without_a_count_the_report_says_that_nobody_knows_whether_all_tests_are_listed() -> None:
    assert evaluate([FIRST, RERUN]).expected_count is None
    assert evaluate([FIRST, RERUN], expected_count=3).verdict is Verdict.INCONCLUSIVE


def test_details_tell_causes() -> None:
    failed = a_run(1, case("Pay", id="2", shortId="t1", **FAILED))
    details = {"t1": QATechRunTestCaseDetails.model_validate({"errorCode": "AGENT_STUCK"})}
    [test] = evaluate([failed], details=details).tests
    assert (test.outcomes, test.error_code) == ((Outcome.MISSED,), "AGENT_STUCK")


def test_quarantine_entries_are_looked_at_for_the_day_of_the_verdict() -> None:
    policy = GatePolicy(quarantine={"Pay": QuarantineEntry(reason="known", owner="ana", expires=NOW.date())})
    assert evaluate([FIRST], policy, now=NOW).passed
    assert evaluate([FIRST], policy, now=NOW + timedelta(days=1)).verdict is Verdict.FAIL
    forever = GatePolicy(quarantine={"Pay": QuarantineEntry(reason="known", owner="ana", expires=date.max)})
    assert evaluate([FIRST], forever).passed


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [
        (FIRST, "not QATechRun"),
        ("abc123", "not str"),
        (None, "not NoneType"),
        (["abc123"], "holds str"),
        ([FIRST, RERUN, FIRST], "run run1 is in it more than once"),
        ([known(RERUN, rerun_of="run1")], "run run2 is a rerun of run1, which does not stand before it"),
        ([known(RERUN, rerun_of="run1"), FIRST], "run run2 is a rerun of run1, which does not stand before it"),
        ([FIRST, known(RERUN, rerun_of="run9")], "run run2 is a rerun of run9, which does not stand before it"),
        ([known(FIRST, plan_short_id="pln_a"), known(RERUN, plan_short_id="pln_b")], "these are of pln_a and pln_b"),
    ],
)
def test_what_is_no_list_of_runs_is_refused(runs: Any, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence) as caught:
        evaluate(runs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [-1, True, 1.5, "2"])
def test_what_is_no_count_is_refused(count: Any) -> None:
    with pytest.raises(InvalidInputError, match="expected_count must be a number of tests"):
        evaluate([FIRST], expected_count=count)


@pytest.mark.parametrize("its_id", [{}, {"id": "9"}], ids=["no id", "another id"])
def test_a_run_of_another_plan_with_tests_of_the_same_names_turns_nothing_green(its_id: dict[str, str]) -> None:
    other = a_run(2, case("Login", **its_id), case("Pay", **({"id": "8"} if its_id else {})))
    report = evaluate([FIRST, other], expected_count=2)
    assert report.verdict is Verdict.FAIL
    assert not any(test.identity_is_weak for test in report.tests)
    assert evaluate([FIRST, known(other, rerun_of="run1")], expected_count=2).passed, "of a rerun, a name is enough"


def test_what_a_report_holds_is_typed() -> None:
    report: GateReport = evaluate([FIRST, RERUN], expected_count=2)
    tests: tuple[ReportedTest, ...] = report.tests
    reasons: tuple[ReportedReason, ...] = report.reasons
    attempts: tuple[ReportedAttempt, ...] = report.attempts
    outcomes: tuple[Outcome, ...] = tests[0].outcomes
    assert (len(tests), len(reasons), len(attempts), len(outcomes)) == (2, 2, 2, 2)


def test_a_flow_of_ones_own(
    prefect_server: None,
    sandbox: Sandbox,
    credentials: QATechCredentials,
    polling: QATechPolling,
    tmp_path: Path,
) -> None:
    """Start, wait, rerun by hand, evaluate, publish."""

    @flow
    def release() -> GateReport:
        started = start_test_run(credentials, "pln_flaky")
        runs = [wait_for_test_run(credentials, started, polling=polling)]
        if runs[0].result != "PASSED":
            rerun = rerun_test_run(credentials, started, failed_only=True)
            runs.append(wait_for_test_run(credentials, rerun, polling=polling))
            assert get_test_run(credentials, rerun, "all") == runs[1], "both know what it is a rerun of"
        report = evaluate(
            runs, expected_count=started.test_count, subject=GateSubject(target="v1", plan_short_id="pln_flaky")
        )
        publish_gate_report(report, directory=str(tmp_path))
        return report

    report = release()
    assert counted(sandbox) == (1, 1)
    assert [one.rerun_of for one in report.attempts] == [None, report.attempts[0].run_short_id]
    assert (report.verdict, report.verdict_without_reruns) == (Verdict.PASS, Verdict.FAIL)
    assert [test.name for test in report.tests_with(TestVerdict.FLAKY)] == ["Apply a voucher"]
    assert verdict_in(tmp_path) == report


def test_what_cannot_be_stored_is_in_no_report() -> None:
    report = evaluate([QATechRun(run_short_id="abc123")], GatePolicy(), GateSubject(label="a\0b", target="v\0"))
    assert "\0" not in report.model_dump_json()
    assert "\\u0000" not in report.model_dump_json()
