"""The names and payloads of the Prefect events that this package emits.

| event | resource | when |
|---|---|---|
| `qatech.run.started` | `qatech.run.<short id>` | a start was accepted |
| `qatech.rerun.started` | `qatech.run.<short id>` | a rerun was accepted |
| `qatech.run.finished` | `qatech.run.<short id>` | a wait saw the run's end |
| `qatech.run.unattended` | `qatech.run.<short id>` | a wait was cancelled or timed out; the run goes on |
| `qatech.gate.passed`, `.failed`, `.inconclusive` | `qatech.gate.<flow run id>` | a gate gave its verdict |

Prefect adds the flow run, its deployment and so on as related resources by itself. A gate is often a sub-flow, which
has no deployment: its verdict names the root flow run (role `root-flow-run`) and that one's deployment as well, so that
an automation can be about the gates of one deployment. An event is sent and forgotten: it never changes what happens to
the flow run.
"""

from __future__ import annotations

import inspect
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.events.worker import EventsWorker
from prefect.logging import get_logger
from prefect.logging.handlers import APILogHandler

from prefect_qatech.campaign import GateReport
from prefect_qatech.ledger import QATechRunRecord, root_of
from prefect_qatech.models import QATechRun
from prefect_qatech.verdict import TestVerdict, Verdict

RUN_STARTED = "qatech.run.started"
RERUN_STARTED = "qatech.rerun.started"
RUN_FINISHED = "qatech.run.finished"
RUN_UNATTENDED = "qatech.run.unattended"
GATE_EVENTS = {
    Verdict.PASS: "qatech.gate.passed",
    Verdict.FAIL: "qatech.gate.failed",
    Verdict.INCONCLUSIVE: "qatech.gate.inconclusive",
}

_MOST_TESTS = 100
_DELIVERY_SECONDS = 2.0


def emit_run_started(record: QATechRunRecord, *, rerun_of: str | None = None) -> None:
    """Tell that a run was accepted.

    Args:
        record: The run.
        rerun_of: Short id of the run that it repeats.
    """
    _emit(
        RUN_STARTED if rerun_of is None else RERUN_STARTED,
        record.run_short_id,
        {
            "run_short_id": record.run_short_id,
            "run_url": record.run_url,
            "test_count": record.test_count,
            "plan_short_id": record.plan_short_id,
            "rerun_of": rerun_of,
        },
    )


def emit_run_finished(run: QATechRun, run_url: str | None) -> None:
    """Tell that a wait saw a run's end.

    Args:
        run: What it saw.
        run_url: The run's address.
    """
    payload = {"run_short_id": run.short_id, "run_url": run_url, "status": run.status, "result": run.result}
    _emit(RUN_FINISHED, run.short_id, payload)


def emit_run_unattended(run_short_id: str, run_url: str | None, why: str) -> None:
    """Tell that nobody waits for a run any more, although it goes on.

    Args:
        run_short_id: The run.
        run_url: Its address.
        why: `cancelled` or `timed out`.
    """
    _emit(RUN_UNATTENDED, run_short_id, {"run_short_id": run_short_id, "run_url": run_url, "why": why})


async def emit_gate_verdict(report: GateReport) -> None:
    """Tell a gate's verdict, for automations to act on.

    Args:
        report: The gate's report.
    """
    failed = report.tests_with(TestVerdict.FAILED)
    _safely(
        GATE_EVENTS[report.verdict],
        {
            "prefect.resource.id": f"qatech.gate.{report.flow_run_id or report.run_short_id}",
            "prefect.resource.name": f"QA.tech gate {report.label or report.plan_short_id or report.run_short_id}",
        },
        {
            "verdict": report.verdict.value,
            "plan_short_id": report.plan_short_id,
            "label": report.label,
            "run_short_id": report.run_short_id,
            "run_short_ids": [attempt.run_short_id for attempt in report.attempts],
            "run_url": report.run_url,
            "counts": {verdict.value: report.counts.get(verdict, 0) for verdict in TestVerdict},
            "reasons": [reason.sentence for reason in report.reasons],
            "failed_tests": [test.name for test in failed[:_MOST_TESTS]],
            "flow_run_id": report.flow_run_id,
        },
        await _root(),
    )


async def _root() -> list[dict[str, str]]:
    """Give the flow run at the root of a sub-flow run, and its deployment."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.parent_task_run_id is None:
        return []
    try:
        async with get_client() as client:
            root = await client.read_flow_run(await root_of(client, context.flow_run.id))
            related = [_related("flow-run", root.id, root.name, "root-flow-run")]
            if root.deployment_id is not None:
                deployment = await client.read_deployment(root.deployment_id)
                related.append(_related("deployment", deployment.id, deployment.name, "deployment"))
    except Exception:
        get_logger("qatech").warning("The root flow run could not be read", exc_info=True)
        return []
    return related


def _related(kind: str, resource_id: object, name: str, role: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"prefect.{kind}.{resource_id}",
        "prefect.resource.role": role,
        "prefect.resource.name": name,
    }


async def deliver() -> None:
    """Hand over to the Prefect server what is queued for it: logs and events.

    Prefect ends a terminated process by the signal itself, and what is queued then is lost.
    """
    await APILogHandler.aflush()
    drained = EventsWorker.drain_all(timeout=_DELIVERY_SECONDS)
    if inspect.isawaitable(drained):
        await drained


def _emit(event: str, run_short_id: str, payload: dict[str, Any]) -> None:
    resource = {
        "prefect.resource.id": f"qatech.run.{run_short_id}",
        "prefect.resource.name": f"QA.tech run {run_short_id}",
    }
    _safely(event, resource, payload)


def _safely(
    event: str, resource: dict[str, str], payload: dict[str, Any], related: list[dict[str, str]] | None = None
) -> None:
    try:
        emit_event(event=event, resource=resource, related=related, payload=payload)
    except Exception:  # an event that cannot be sent must not fail a gate
        get_logger("qatech").warning("Event %s could not be emitted", event, exc_info=True)
