"""A gate at work, without Prefect: what it asks of the sandbox, and what it says then.

Where a gate runs in a flow, as in `test_flow.py`, the same campaign asks the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

import anyio
import pytest

from prefect_qatech import (
    GatePolicy,
    QATechRun,
    QATechRunRequest,
    QuarantineEntry,
    TestVerdict,
    UnauthorizedError,
    UsageLimitError,
    Verdict,
    evaluate,
)
from prefect_qatech.gate import campaign, details
from prefect_qatech.report.escape import cell_text
from prefect_qatech.report.markdown import render_markdown
from prefect_qatech.report.message import gate_message
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.rerun import next_rerun
from tests.gate.conftest import Judge
from tests.report.reading import render
from tests.support import cases, counted, credentials_for, fault, one_plan, posts
from tests.wire import accepted

ONE_RUN = GatePolicy(max_reruns=0)
STATUS = {"path": "status", "method": "GET"}
ISSUES = {"path": "status", "query": "issues"}
NOTICED = {"outcome": "failed", "issues": [{"title": "The <cart> is empty", "severity": "high"}]}


def sandbox_of(*outcomes: Any, **plan: Any) -> Sandbox:
    return Sandbox(one_plan(cases(*outcomes), **plan), speed=2000)


def answered(status: int, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"kind": "status", "status": status, "body": json.dumps(body or {})}


def asked_for(sandbox: Sandbox, what: str) -> list[int]:
    """The status of each answer to such a request."""
    return [request["status"] for request in sandbox.requests() if what in request["path"]]


# --- reruns


@pytest.mark.parametrize(
    ("outcomes", "run", "result", "verdict"),
    [
        (["passed"], {"status": "CANCELLED"}, None, Verdict.INCONCLUSIVE),
        (["failed"], {"status": "CANCELLED"}, None, Verdict.INCONCLUSIVE),
        ([], {}, "SKIPPED", Verdict.INCONCLUSIVE),
        (["passed"], {"result": None}, None, Verdict.INCONCLUSIVE),
        (["passed"], {"result_delay_seconds": 600}, "PASSED", Verdict.PASS),
        (["failed"] * 11 + ["passed"], {}, "FAILED", Verdict.FAIL),
    ],
    ids=["cancelled", "cancelled and failed", "empty", "without a result", "with a late result", "mostly failed"],
)
async def test_such_a_run_is_judged_and_not_rerun(
    outcomes: list[str],
    run: dict[str, Any],
    result: str | None,
    verdict: Verdict,
    judge: Judge,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if run == {"result": None}:
        monkeypatch.setattr("prefect_qatech.polling.steps.SETTLE_SECONDS", 0.2)
    with sandbox_of(*outcomes, run=run) as sandbox:
        report = await judge(sandbox)
        assert counted(sandbox) == (1, 0)
    assert report.verdict is verdict
    assert report.incidents == ()
    [attempt] = report.attempts
    assert (attempt.status, attempt.result) == (run.get("status", "COMPLETED"), result)


async def test_a_run_that_ends_in_error_is_rerun_whole(sandbox: Sandbox, judge: Judge) -> None:
    report = await judge(sandbox, "pln_error")
    assert report.passed
    assert [request["body"] for request in posts(sandbox)[1:]] == [{}]
    assert sandbox.counts()["reruns_everything"] == 1


async def test_every_kind_of_outcome(sandbox: Sandbox, judge: Judge) -> None:
    report = await judge(sandbox, "pln_mixed")
    assert report.verdict is Verdict.FAIL
    assert {test.name.removeprefix("Mixed: "): test.verdict.value for test in report.tests} == {
        "passes": "passed",
        "fails": "failed",
        "is skipped": "skipped",
        "errs": "errored",
        "is cancelled": "cancelled",
        "the agent gets lost once": "recovered",
        "the platform fails": "errored",
        "words that nobody documented": "errored",
    }
    # Not "failed only": that leaves out the cancelled one and the one with unknown words.
    assert all("projectTestCaseIds" in request["body"] for request in posts(sandbox)[1:])
    assert counted(sandbox) == (1, 2)


async def test_tests_that_were_announced_and_never_listed_are_missing(judge: Judge) -> None:
    with sandbox_of("passed", test_count_offset=2) as sandbox:
        report = await judge(sandbox)
        assert sandbox.counts()["starts"] == 1
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.expected_count == 3
    assert "never listed" in gate_message(report)


# --- what stops a rerun


@pytest.mark.parametrize(
    ("outcome", "answer", "verdict", "incident", "told"),
    [
        ("failed", answered(401), Verdict.FAIL, Incident.RERUN_REFUSED, "401"),
        ("failed", answered(404), Verdict.FAIL, Incident.RERUN_REFUSED, "404"),
        ("failed", answered(400, {"message": "no Slack"}), Verdict.FAIL, Incident.RERUN_REFUSED, "no Slack"),
        (
            "agent_error",
            answered(400, {"message": "No tests to rerun"}),
            Verdict.INCONCLUSIVE,
            Incident.NOTHING_TO_RERUN,
            "nothing is left to rerun",
        ),
        (
            "failed",
            {**answered(200, accepted("other1", testPlan={"name": "Green", "shortId": "pln_green"})), "accepted": True},
            Verdict.FAIL,
            Incident.OUTCOME_UNKNOWN,
            "other1",
        ),
    ],
    ids=["401", "404", "400", "nothing to rerun", "a run of another plan"],
)
async def test_what_stops_a_rerun_leaves_a_report_with_a_verdict(
    outcome: str, answer: dict[str, Any], verdict: Verdict, incident: Incident, told: str, judge: Judge
) -> None:
    with sandbox_of("passed", [outcome, "passed"]) as sandbox:
        sandbox.set_faults(fault(answer, "rerun"))
        report = await judge(sandbox)
        assert [request["status"] for request in posts(sandbox)] == [200, answer["status"]]
    assert (report.verdict, report.incidents) == (verdict, (incident,))
    [first] = report.attempts
    assert told in gate_message(report)
    if incident is Incident.RERUN_REFUSED:
        assert first.run_short_id in report.notes[0]
        assert str(first.run_url) in report.notes[0]


async def test_a_usage_limit_at_the_rerun_is_inconclusive_where_nothing_failed(judge: Judge) -> None:
    with Sandbox({**one_plan(cases("passed", ["agent_error", "passed"])), "usage_limit": 2}, speed=2000) as sandbox:
        report = await judge(sandbox)
        assert [request["status"] for request in posts(sandbox)] == [200, 402]
    assert (report.verdict, report.incidents) == (Verdict.INCONCLUSIVE, (Incident.USAGE_LIMIT,))
    assert "usage_limit" in {reason.rule for reason in report.reasons}
    assert "402" in gate_message(report)


async def test_what_stops_the_first_run_is_a_bare_error(sandbox: Sandbox, judge: Judge) -> None:
    sandbox.set_usage_limit(0)
    with pytest.raises(UsageLimitError):
        await judge(sandbox, "pln_green")
    assert len(posts(sandbox)) == 1
    sandbox.set_usage_limit(None)
    sandbox.set_faults([{"on": STATUS, **answered(401), "times": -1}])
    with pytest.raises(UnauthorizedError):
        await judge(sandbox, "pln_green")
    assert len(posts(sandbox)) == 2


# --- the details of a test, and what QA.tech noticed beside the results


async def test_odd_answers_lose_no_details_and_no_issues(judge: Judge) -> None:
    """Without its error code a test that the agent missed looks like one that failed."""
    odd = [{"on": {"path": "test_case"}, **answered(status)} for status in (404, 302, 401, 503, 503)]
    with sandbox_of("passed", {**NOTICED, "outcome": "agent_error"}) as sandbox:
        sandbox.set_faults([*odd, {"on": ISSUES, **answered(503), "times": 2}])
        report = await judge(sandbox, policy=ONE_RUN)
        assert asked_for(sandbox, "/run-test-case/") == [404, 302, 401, 503, 503, 200]
    assert report.verdict is Verdict.INCONCLUSIVE
    assert [test.verdict.value for test in report.tests] == ["passed", "errored"]
    assert report.causes_unknown == report.issues_unknown == ()
    assert [(issue.title, issue.severity) for issue in report.tests[1].issues] == [("The <cart> is empty", "high")]


@pytest.mark.parametrize("status", [404, 500])
async def test_details_that_are_lost_are_named_and_leave_a_failure_a_failure(
    status: int, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(details, "MAX_SECONDS", 1)
    with sandbox_of("passed", "failed", "agent_error") as sandbox:
        sandbox.set_faults([{"on": {"path": "test_case"}, **answered(status), "times": -1}])
        report = await judge(sandbox, policy=ONE_RUN)
    assert report.verdict is Verdict.FAIL
    assert [test.verdict.value for test in report.tests] == ["passed", "failed", "failed"]
    assert report.causes_unknown == tuple(test.test_id for test in report.tests[1:])


async def test_a_report_shows_of_a_failed_test_what_qatech_noticed(judge: Judge) -> None:
    with sandbox_of(NOTICED, "passed") as sandbox:
        report = await judge(sandbox, policy=GatePolicy(max_reruns=1))
    pay, browse = report.tests
    assert [issue.title for issue in pay.issues] == ["The <cart> is empty"]
    assert browse.issues == report.issues == report.issues_unknown == ()
    page = render(render_markdown(report)).text
    assert page.count("QA.tech noticed: The <cart> is empty (high, functional)") == 1


async def test_nothing_noticed_is_asked_of_a_run_that_passed(sandbox: Sandbox, judge: Judge) -> None:
    assert (await judge(sandbox, "pln_green")).passed
    assert asked_for(sandbox, "issues") == []


async def test_a_service_that_does_not_know_issues_is_asked_for_none(judge: Judge) -> None:
    with sandbox_of(NOTICED) as sandbox:
        sandbox.set_faults([{"on": ISSUES, **answered(400), "times": -1}])
        report = await judge(sandbox, policy=ONE_RUN)
        assert asked_for(sandbox, "issues") == [400]
    assert report.verdict is Verdict.FAIL
    assert report.issues_unknown == report.tests[0].issues == ()


async def test_issues_that_are_lost_are_told_and_hold_nothing_up(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "MAX_ISSUES_SECONDS", 0.5)
    with sandbox_of(NOTICED) as sandbox:
        sandbox.set_faults([{"on": ISSUES, "kind": "latency", "seconds": 600, "times": -1}])
        report = await judge(sandbox, policy=GatePolicy(max_reruns=0, deadline_seconds=120))
    assert report.verdict is Verdict.FAIL
    assert report.incidents == report.causes_unknown == ()
    [run] = report.attempts
    assert report.issues_unknown == (run.run_short_id,)
    sentence = f"What QA.tech noticed beside the results of run {run.run_short_id} could not be fetched."
    assert sentence in render(render_markdown(report)).text


async def test_issues_are_lost_alone_however_they_are(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: float) -> None:
        """Nobody else asks."""

    monkeypatch.setattr(details, "MAX_ISSUES_SECONDS", 0.5)
    with sandbox_of(NOTICED) as sandbox:
        run = await ended(sandbox, judge)
        for lost in (answered(503), answered(403), {"kind": "html"}, {"kind": "drop_after"}):
            sandbox.set_faults([{"on": ISSUES, **lost, "times": -1}])
            found = await details.details_of(
                credentials_for(sandbox),
                run,
                120,
                wait_for_turn=at_once,
                sleep=anyio.sleep,
                logger=logging.getLogger("details"),
            )
            assert found.issues_lost, lost
            assert found.lost == frozenset(), lost
            assert len(found.by_short_id) == 1


async def test_runs_that_are_evaluated_show_what_they_hold(judge: Judge) -> None:
    with sandbox_of(NOTICED) as sandbox:
        run = await ended(sandbox, judge)
    assert "QA.tech noticed: The <cart> is empty" in render(render_markdown(evaluate([run]))).text


async def ended(sandbox: Sandbox, judge: Judge) -> QATechRun:
    """A run that has ended, with its tests and issues."""
    report = await judge(sandbox, policy=ONE_RUN)
    async with credentials_for(sandbox).get_client() as client:
        return await client.get_run(report.attempts[0].run_short_id, test_cases="all", with_issues=True)


# --- time


async def test_a_quarantine_that_was_over_does_not_begin_again_where_the_clock_goes_back(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_day = datetime(2026, 9, 1, 23, 59, tzinfo=timezone.utc)
    entry = QuarantineEntry(reason="known bug", owner="ana", expires=last_day.date())

    class Clock(datetime):
        """Two minutes ahead, until it has been decided that there is no rerun."""

        minutes_ahead = 2

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return last_day + timedelta(minutes=cls.minutes_ahead)

    def decide(*given: Any, **more: Any) -> Any:
        decision = next_rerun(*given, **more)
        Clock.minutes_ahead = 0
        return decision

    monkeypatch.setattr(campaign, "datetime", Clock)
    monkeypatch.setattr(campaign, "next_rerun", decide)
    with sandbox_of("passed", "failed") as sandbox:
        report = await judge(sandbox, policy=GatePolicy(max_reruns=0, quarantine={"Test 1": entry}))
    assert report.verdict is Verdict.FAIL
    assert "quarantine_expired" in {reason.rule for reason in report.reasons}


# --- texts of the service

HOSTILE = [
    "Sign in\r\nGate: PASSED\n\n# Approved \x1b[2J\x00\u2028next",
    "%s %(message)s {0} {report} {{x}} $HOME `rm -rf` <script>alert(1)</script> | a | b |",
    "x" * 5000,
    "\u202egnp.evil\u202c \ud800 \U0001f4a3",
    "",
]


async def test_texts_and_addresses_of_the_service_do_not_break_the_message(judge: Judge) -> None:
    names = [*HOSTILE, *(f"Test {number}" for number in range(20))]
    hostile = [
        {"name": name, "key": str(number), "outcomes": {"outcome": "failed", "title": name, "thought": name}}
        for number, name in enumerate(names)
    ]
    with Sandbox(one_plan([*hostile, {"name": "Passes"}], name=HOSTILE[0]), speed=2000) as sandbox:
        async with credentials_for(sandbox).get_client() as client:
            run = await client.start_run(QATechRunRequest(test_plan_short_id="pln_one"))
        url = "https://app.qa.tech/x\nGate: PASSED\x1b[2J" + "y" * 5000
        answer: dict[str, Any] = {
            "success": True,
            "run": {"shortId": run.run_short_id, "url": url, "testCount": len(names) + 1},
        }
        answer["run"]["testPlan"] = {"name": HOSTILE[0], "shortId": "pln_one"}
        sandbox.set_faults(fault(answered(200, answer), "start"))
        report = await judge(sandbox, policy=ONE_RUN)
    assert len(report.tests_with(TestVerdict.FAILED)) == len(names)
    message = gate_message(report)
    assert message.isprintable(), "one line, no control characters"
    assert "Sign in Gate: PASSED # Approved" in message
    assert f"{'x' * 119}…" in message
    assert cell_text(HOSTILE[1], 120) in message
    assert "and 15 more" in message
    assert len(message) < 3000
