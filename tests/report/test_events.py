"""An event is one for one verdict, says what was tested, and can be stored by every database."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from prefect_qatech import GateReport, GatesReport, QATechRun, QATechRunRecord, apublish_gate_report
from prefect_qatech.report import events
from prefect_qatech.report.model import GateDecision
from prefect_qatech.report.subject import GateSubject, ReportedApplication
from prefect_qatech.verdict.outcomes import Verdict
from tests.support import a_report

HOSTILE = "Pay\x00 by\x1b[2J \ud800card\u202e\r\nnow"


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events, as they are handed to Prefect."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(events, "emit_event", lambda **event: seen.append(event))
    return seen


def decided(report: GateReport, approved: bool, reason: str = "") -> GateReport:
    decision = GateDecision(
        approved=approved,
        reason=reason,
        decided_at=datetime(2026, 9, 1, tzinfo=timezone.utc),
        evidence_sha256=report.evidence_sha256,
    )
    return report.model_copy(update={"decision": decision})


async def emit_everything(report: GateReport) -> None:
    record = QATechRunRecord(
        kind="start", run_short_id="abc123", plan_short_id=HOSTILE, started_at=datetime.now(timezone.utc)
    )
    events.emit_run_started(record)
    events.emit_run_started(record.model_copy(update={"rerun_of": "abc122"}))
    events.emit_run_finished(QATechRun(run_short_id="abc123", status=HOSTILE, result=HOSTILE), None)
    events.emit_run_unattended("abc123", HOSTILE, "cancelled")
    await events.emit_gate_asked(report, seconds=60)
    await events.emit_gate_errored(
        RuntimeError(HOSTILE), GateSubject(plan_short_id=HOSTILE, label=HOSTILE, target=HOSTILE)
    )
    await events.emit_gate_verdict(decided(report, True, HOSTILE))
    await events.emit_gates_verdict(
        GatesReport(names=(HOSTILE, "gone"), reports={HOSTILE: report}, errors={"gone": HOSTILE})
    )


async def test_no_event_holds_a_text_that_a_database_refuses(emitted: list[dict[str, Any]]) -> None:
    [test] = a_report().tests
    await emit_everything(
        a_report().model_copy(
            update={
                "label": HOSTILE,
                "target": HOSTILE,
                "plan_short_id": HOSTILE,
                "tests": (test.model_copy(update={"name": HOSTILE, "verdict": "failed"}),),
            }
        )
    )
    assert len(emitted) == 8
    for event in emitted:
        text = json.dumps([event["resource"], event["payload"]], ensure_ascii=False)
        assert not any(bad in text for bad in ("\\u0000", "\\u001b", "\ud800", "\u202e", "\\n", "\\r")), event["event"]
        text.encode()
    assert sum("card" in json.dumps(event["payload"]) for event in emitted) == 8, "each of them was hostile"


async def test_an_event_names_the_target(emitted: list[dict[str, Any]]) -> None:
    await events.emit_gate_verdict(a_report().model_copy(update={"target": "v2"}))
    assert [event["payload"]["target"] for event in emitted] == ["v2"]


async def test_an_event_says_what_was_tested_where_and_by_which_rules(emitted: list[dict[str, Any]]) -> None:
    where = ReportedApplication(application_short_id="app_shop", environment_url="https://pr-42.example.com")
    report = a_report().model_copy(update={"applications": (where,), "credentials_block": "prod"})
    await events.emit_gate_verdict(report)
    [payload] = [event["payload"] for event in emitted]
    [application] = payload["applications"]
    assert application["application_short_id"] == "app_shop"
    assert application["environment_url"] == "https://pr-42.example.com"
    assert payload["policy"]["max_failed"] == 0
    assert payload["credentials_block"] == "prod"


async def test_an_approval_stands_in_the_place_of_the_verdict(emitted: list[dict[str, Any]]) -> None:
    report = a_report().model_copy(update={"verdict": Verdict.INCONCLUSIVE})
    await events.emit_gate_verdict(decided(report, True))
    await events.emit_gate_verdict(decided(report, False))
    names = [event["event"] for event in emitted]
    assert names == ["qatech.gate.approved", "qatech.gate.inconclusive", "qatech.gate.rejected"]
    assert emitted[0]["payload"]["verdict"] == "inconclusive"


async def test_a_question_says_how_much_time_there_is(emitted: list[dict[str, Any]]) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    await events.emit_gate_asked(a_report(), seconds=600)
    [payload] = [event["payload"] for event in emitted]
    assert payload["decide_seconds"] == 600
    assert datetime.fromisoformat(payload["decide_until"]) >= before + timedelta(seconds=600)


async def test_one_verdict_is_one_event_however_often_it_is_told(emitted: list[dict[str, Any]]) -> None:
    report = a_report()
    for again in (report, report.model_copy(update={"ended_at": datetime.now(timezone.utc)})):
        await events.emit_gate_verdict(decided(again, True))
        await events.emit_gates_verdict(GatesReport(names=("one",), reports={"one": again}))
    ids = [event["id"] for event in emitted]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2


async def test_another_verdict_is_another_event(emitted: list[dict[str, Any]]) -> None:
    report = a_report()
    for other in ({}, {"target": "v2"}, {"flow_run_id": str(uuid4())}, {"incidents": ("usage_limit",)}):
        await events.emit_gate_verdict(report.model_copy(update=other))
        await events.emit_gates_verdict(
            GatesReport(names=("one",), reports={"one": report.model_copy(update={**other, "flow_run_id": None})})
        )
    gates = {event["id"] for event in emitted if event["event"].startswith("qatech.gate.")}
    several = {event["id"] for event in emitted if event["event"].startswith("qatech.gates.")}
    assert (len(gates), len(several)) == (4, 3), "the flow run is no part of the evidence"


async def test_a_question_is_asked_as_often_as_it_is_asked(emitted: list[dict[str, Any]]) -> None:
    await events.emit_gate_asked(a_report(), seconds=60)
    await events.emit_gate_asked(a_report(), seconds=60)
    assert [event["id"] for event in emitted] == [None, None]


@pytest.mark.usefixtures("prefect_server")
async def test_the_server_stores_it_once() -> None:
    label = uuid4().hex
    report = a_report().model_copy(update={"label": label, "flow_run_id": str(uuid4())})

    @flow
    async def user() -> None:
        await apublish_gate_report(report)
        await apublish_gate_report(report)
        await apublish_gate_report(report.model_copy(update={"target": "last"}))

    await user()
    await events.deliver()
    found: list[dict[str, Any]] = []
    with anyio.fail_after(240):
        async with get_client() as client:
            while not any(event["payload"]["target"] == "last" for event in found):
                await anyio.sleep(0.2)
                answer = await client._client.post(
                    "/events/filter", json={"filter": {"event": {"name": ["qatech.gate.passed"]}}, "limit": 50}
                )
                found = [event for event in answer.json()["events"] if event["payload"].get("label") == label]
    assert sorted(str(event["payload"]["target"]) for event in found) == ["None", "last"]
    assert len({UUID(event["id"]) for event in found}) == 2
