"""The names and payloads of the Prefect events that this package emits.

| event | resource | when |
|---|---|---|
| `qatech.run.started` | `qatech.run.<short id>` | a start was accepted |
| `qatech.rerun.started` | `qatech.run.<short id>` | a rerun was accepted |
| `qatech.run.finished` | `qatech.run.<short id>` | a wait saw the run's end |
| `qatech.run.unattended` | `qatech.run.<short id>` | a wait was cancelled or timed out; the run goes on |
| `qatech.gate.passed`, `.failed`, `.inconclusive` | `qatech.gate.<flow run id>` | a gate gave its verdict |
| `qatech.gate.asked` | `qatech.gate.<flow run id>` | a gate that did not pass asks a person |
| `qatech.gate.approved` | `qatech.gate.<flow run id>` | that person approved; in place of the verdict |
| `qatech.gate.rejected` | `qatech.gate.<flow run id>` | that person did not, or gave no answer; after the verdict |
| `qatech.gate.errored` | `qatech.gate.<flow run id>` | a gate ended by an error, without a verdict |
| `qatech.gates.passed`, `.failed`, `.inconclusive` | `qatech.gates.<flow run id>` | so did several together |

A gate's events are related to its flow run and, where that is a sub-flow run, to the one that somebody started, and to
the deployments of both, which have the label `qatech.own-parameters` (see `report/deployed.py`). Prefect adds the flow,
tags and so on by itself. An event is sent and forgotten: it never changes what happens to the flow run.

One verdict is one event: its id follows from the event's name, the gate and the evidence, so that Prefect stores it
once, however often a flow run is retried or a report is published. Texts are cleaned of control characters: PostgreSQL
refuses NUL, and with it a whole batch of events, other people's among them.
"""

from __future__ import annotations

import inspect
import json
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging import get_logger
from prefect.logging.handlers import APILogHandler

from prefect_qatech._prefect import own_flow_run
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.report.deployed import where_it_runs
from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.known import new_and_known, standing_text
from prefect_qatech.report.model import GateReport, GatesReport
from prefect_qatech.report.subject import GateSubject
from prefect_qatech.verdict.outcomes import TestVerdict, Verdict

RUN_STARTED = "qatech.run.started"
RERUN_STARTED = "qatech.rerun.started"
RUN_FINISHED = "qatech.run.finished"
RUN_UNATTENDED = "qatech.run.unattended"
GATE_EVENTS = {
    Verdict.PASS: "qatech.gate.passed",
    Verdict.FAIL: "qatech.gate.failed",
    Verdict.INCONCLUSIVE: "qatech.gate.inconclusive",
}
GATES_EVENTS = {verdict: event.replace(".gate.", ".gates.") for verdict, event in GATE_EVENTS.items()}

GATE_ASKED = "qatech.gate.asked"
GATE_APPROVED = "qatech.gate.approved"
GATE_REJECTED = "qatech.gate.rejected"
GATE_ERRORED = "qatech.gate.errored"

_MAX_TESTS = 100
_MAX_TEXT = 10_000
_DELIVERY_SECONDS = 2.0


def emit_run_started(record: QATechRunRecord) -> None:
    _emit(
        RUN_STARTED if record.rerun_of is None else RERUN_STARTED,
        record.run_short_id,
        {
            "run_short_id": record.run_short_id,
            "run_url": record.run_url,
            "test_count": record.test_count,
            "plan_short_id": record.plan_short_id,
            "rerun_of": record.rerun_of,
        },
    )


def emit_run_finished(run: QATechRun, run_url: str | None) -> None:
    payload = {"run_short_id": run.run_short_id, "run_url": run_url, "status": run.status, "result": run.result}
    _emit(RUN_FINISHED, run.run_short_id, payload)


def emit_run_unattended(run_short_id: str, run_url: str | None, why: str) -> None:
    """Emit that nobody waits for a run any more, although it goes on: the wait was `cancelled`, or `timed out`."""
    _emit(RUN_UNATTENDED, run_short_id, {"run_short_id": run_short_id, "run_url": run_url, "why": why})


async def emit_gate_verdict(report: GateReport) -> None:
    """Emit a gate's verdict, for automations to act on."""
    if report.approved:
        # In place of the verdict: nobody should be called for what a person has settled.
        await _emit_gate(GATE_APPROVED, report)
        return
    await _emit_gate(GATE_EVENTS[report.verdict], report)
    if report.decision is not None:
        await _emit_gate(GATE_REJECTED, report)


async def emit_gates_verdict(report: GatesReport) -> None:
    """Emit the verdict over several gates; each of them emits its own."""
    flow_run = own_flow_run()
    flow_run_id = flow_run.id if flow_run is not None else "none"
    resource = _resource(f"gates.{flow_run_id}", f"{len(report.names)} QA.tech gates")
    payload = {
        "verdict": report.verdict.value,
        "verdicts": {name: report.verdict_of(name).value for name in report.names},
        "errors": report.errors,
        "run_urls": {name: gate.run_url for name, gate in report.reports.items()},
        "flow_run_id": str(flow_run_id),
    }
    event = GATES_EVENTS[report.verdict]
    evidence = {name: gate.evidence_sha256 for name, gate in report.reports.items()}
    id = _id_of(event, resource, evidence, sorted(report.errors))
    related, _ = await where_it_runs()
    _safely(event, resource, payload, related, id)


async def emit_gate_asked(report: GateReport, *, seconds: float) -> None:
    """Emit that a gate asks a person, who has so many seconds, so that an automation can notify that person."""
    await _emit_gate(GATE_ASKED, report, decide_seconds=seconds)


async def emit_gate_errored(error: Exception, subject: GateSubject) -> None:
    flow_run_id = subject.flow_run_id
    # Our own errors about a run name it.
    run_short_id, run_url = getattr(error, "run_short_id", None), getattr(error, "run_url", None)
    name = f"QA.tech gate {subject.label or subject.plan_short_id or flow_run_id or ''}".rstrip()
    resource = _resource(f"gate.{flow_run_id or run_short_id or 'none'}", name)
    related, _ = await where_it_runs()
    payload = {
        "verdict": None,
        "error": f"{type(error).__name__}: {error}",
        **_told_of(subject),
        "run_short_id": run_short_id if isinstance(run_short_id, str) else None,
        "run_url": run_url if isinstance(run_url, str) else None,
    }
    _safely(GATE_ERRORED, resource, payload, related)


async def _emit_gate(event: str, report: GateReport, decide_seconds: float | None = None) -> None:
    until = None if decide_seconds is None else datetime.now(timezone.utc) + timedelta(seconds=decide_seconds)
    failed = report.tests_with(TestVerdict.FAILED)
    related, changed = await where_it_runs()
    name = f"QA.tech gate {report.label or report.plan_short_id or report.run_short_id}"
    resource = _resource(f"gate.{report.flow_run_id or report.run_short_id}", name)
    is_answer = event in (GATE_APPROVED, GATE_REJECTED)
    answered_at = report.decision.decided_at.isoformat() if report.decision and is_answer else None
    _safely(
        event,
        resource,
        {
            "verdict": report.verdict.value,
            **_told_of(report),
            "policy": report.policy.model_dump(mode="json"),
            "changed_parameters": changed,
            "run_short_id": report.run_short_id,
            "run_short_ids": [attempt.run_short_id for attempt in report.attempts],
            "run_url": report.run_url,
            "counts": {verdict.value: report.counts.get(verdict, 0) for verdict in TestVerdict},
            "reasons": [reason.sentence for reason in report.reasons],
            "failed_tests": [test.name for test in failed[:_MAX_TESTS]],
            "new_and_known": new_and_known(report) or None,
            "standings": _standings(report),
            "evidence_sha256": report.evidence_sha256,
            "decision": report.decision.model_dump(mode="json") if report.decision else None,
            "decide_seconds": decide_seconds,
            "decide_until": until.isoformat(timespec="seconds") if until else None,
        },
        related,
        # A gate that asks again after a "no" asks a new question.
        None if event == GATE_ASKED else _id_of(event, resource, report.evidence_sha256, answered_at),
    )


def _resource(id: str, name: str) -> dict[str, str]:
    return {"prefect.resource.id": f"qatech.{id}", "prefect.resource.name": name}


def _standings(report: GateReport) -> list[dict[str, Any]]:
    tests = [test for test in report.tests_with(TestVerdict.FAILED, TestVerdict.FLAKY) if test.standing is not None]
    return [
        {
            "test": test.name,
            "verdict": test.verdict.value,
            "text": standing_text(test),
            **(test.standing.model_dump(mode="json") if test.standing is not None else {}),
        }
        for test in tests[:_MAX_TESTS]
    ]


def _told_of(subject: GateSubject) -> dict[str, Any]:
    return subject.model_dump(mode="json", include=set(GateSubject.model_fields))


def _id_of(event: str, resource: dict[str, str], *evidence: Any) -> UUID:
    """Return the id of an event that is emitted once for this evidence."""
    return uuid5(NAMESPACE_URL, json.dumps([event, resource["prefect.resource.id"], *evidence], sort_keys=True))


async def deliver() -> None:
    """Hand over to the Prefect server what is queued for it: logs and events.

    Prefect ends a terminated process by the signal itself, and what is queued then is lost.
    """
    await APILogHandler.aflush()
    drained = EventsWorker.drain_all(timeout=_DELIVERY_SECONDS)
    if inspect.isawaitable(drained):
        await drained


def _emit(event: str, run_short_id: str, payload: dict[str, Any]) -> None:
    _safely(event, _resource(f"run.{run_short_id}", f"QA.tech run {run_short_id}"), payload)


def _clean(value: Any) -> Any:
    """Return a JSON value whose texts every database takes."""
    if isinstance(value, str):
        return plain_text(value, _MAX_TEXT)
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, (list, tuple)) else value


def _safely(
    event: str,
    resource: dict[str, str],
    payload: dict[str, Any],
    related: list[dict[str, str]] | None = None,
    id: UUID | None = None,
) -> None:
    try:
        emit_event(event=event, resource=_clean(resource), payload=_clean(payload), related=related, id=id)
    except Exception:  # an event that cannot be sent must not fail a gate
        get_logger("qatech").warning("Event %s could not be emitted", event, exc_info=True)
