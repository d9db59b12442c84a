"""Asking a person whether a release may go out that the evidence alone does not let through.

The flow run pauses, or suspends so that its process ends, and the Prefect UI shows a form. Only an answer is an answer:
no answer in time, one that cannot be read, a flow run that is resumed without one: all of these are a no.
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, Literal
from uuid import UUID

import anyio
from prefect.client.orchestration import get_client
from prefect.exceptions import FlowPauseTimeout, Pause
from prefect.flow_runs import apause_flow_run, asuspend_flow_run
from prefect.input import RunInput
from pydantic import ConfigDict, Field

from prefect_qatech._prefect import own_flow_run, shared_time
from prefect_qatech.report.escape import link, markdown_text
from prefect_qatech.report.model import GateDecision, GateReport
from prefect_qatech.report.wording import campaign_name, time_text
from prefect_qatech.texts import listed
from prefect_qatech.verdict.outcomes import TestVerdict

LOOK_SECONDS = 5
"""How often Prefect is asked whether there is an answer."""

SERVER_GRACE_SECONDS = 24 * 3600
"""How much later than the gate Prefect itself gives up on a suspended flow run: with no verdict, and no report."""

NO_ANSWER = {"decision": "reject", "reason": "Nobody answered in time.", "decided_by": "nobody"}
"""What the form of a suspended flow run is filled in with when its time is over."""

_PAUSE_GRACE_SECONDS = 600
_MAX_REASONS, _MAX_NAMES, _NAME_LENGTH = 20, 10, 120

_asking: set[UUID] = set()
"""The flow runs of this process in which a gate has its turn to ask."""
_asking_lock = threading.Lock()


class QATechReleaseDecision(RunInput):
    """The form that a person fills in."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    decision: Literal["reject", "approve"] = Field(title="May the release go out?")
    reason: str = Field(title="Why?", min_length=1, max_length=2_000)
    decided_by: str = Field(title="Who decides?", min_length=1, max_length=200, description="Goes into the report.")


@asynccontextmanager
async def turn_to_ask() -> AsyncIterator[None]:
    """Wait until no other gate in the body of the flow run is asking: a flow run can wait for one answer at a time."""
    flow_run = own_flow_run()
    if flow_run is None:
        yield
        return
    while not _takes_turn(flow_run.id):  # noqa: ASYNC110 - the other may be in another thread, with a loop of its own
        await anyio.sleep(LOOK_SECONDS)
    try:
        yield
    finally:
        _asking.discard(flow_run.id)


def _takes_turn(flow_run_id: UUID) -> bool:
    with _asking_lock:
        is_free = flow_run_id not in _asking
        _asking.add(flow_run_id)
    return is_free


async def ask(report: GateReport, *, timeout_seconds: float, key: str) -> GateDecision:
    """Pause the flow run until a person has decided, or the time is over; Prefect asks no question of a key twice."""
    answer: Any = None
    why = "Nobody answered in time."
    async with get_client() as client:
        until = await shared_time(client) + timedelta(seconds=timeout_seconds)
    seconds = max(timeout_seconds, _seconds_until(until))
    try:
        # Prefect's own time-out would put a state of its own in the place of the gate's message.
        with anyio.move_on_after(timeout_seconds + LOOK_SECONDS):
            answer = await apause_flow_run(
                wait_for_input=_form(report, until),
                timeout=math.ceil(seconds) + _PAUSE_GRACE_SECONDS,
                poll_interval=LOOK_SECONDS,
                key=key,
            )
            why = "The flow run was resumed without an answer."
    except FlowPauseTimeout:
        pass
    except Pause as error:
        # Somebody else has paused it. Prefect's signal is no Exception, and would end the gate without a report.
        raise RuntimeError(f"the flow run is paused already ({error})") from None
    except (ValueError, KeyError, TypeError):
        why = "The answer could not be read."
    return _decision(report, answer, why)


async def ask_suspended(report: GateReport, *, until: datetime, key: str) -> GateDecision:
    """Suspend the flow run until a person has decided; the resumed process calls it again for the decision.

    Nothing here wakes the flow run when the time is over: `prefect_qatech.gate.watcher` does. Prefect asks no question
    of a key twice, and its signal that ends the process, `Pause`, is for nobody else to catch.
    """
    seconds = max(0.0, _seconds_until(until) + SERVER_GRACE_SECONDS)
    answer: Any = None
    why = "The flow run was resumed without an answer."
    try:
        answer = await asuspend_flow_run(wait_for_input=_form(report, until), timeout=math.ceil(seconds), key=key)
    except (ValueError, KeyError, TypeError):
        why = "There is no answer that could be read."
    if isinstance(answer, QATechReleaseDecision) and answer.decision == "approve" and await _is_late(answer, until):
        answer, why = None, "The approval came too late."
    return _decision(report, answer, why)


def _seconds_until(until: datetime) -> float:
    # By the own clock: from it Prefect's client reckons until when its server takes an answer.
    return (until - datetime.now(timezone.utc)).total_seconds()


async def _is_late(answer: QATechReleaseDecision, until: datetime) -> bool:
    """Whether an answer came too late, or at a time that Prefect does not tell."""
    if (flow_run := own_flow_run()) is None:
        return True
    key = answer.metadata.key
    async with get_client() as client:
        rows = await client.filter_flow_run_input(flow_run.id, key_prefix=key, limit=1, exclude_keys=set())
    answered_at = rows[0].created if rows and rows[0].key == key else None
    return answered_at is None or answered_at > until + timedelta(seconds=LOOK_SECONDS)


def _form(report: GateReport, until: datetime) -> type[QATechReleaseDecision]:
    return QATechReleaseDecision.with_initial_data(description=question(report, until))


def _decision(report: GateReport, answer: Any, why: str) -> GateDecision:
    is_answer = isinstance(answer, QATechReleaseDecision)
    return GateDecision(
        approved=is_answer and answer.decision == "approve",
        reason=answer.reason if is_answer else why,
        decided_by=answer.decided_by if is_answer and answer.decided_by != NO_ANSWER["decided_by"] else None,
        decided_at=datetime.now(timezone.utc),
        evidence_sha256=report.evidence_sha256,
    )


def question(report: GateReport, until: datetime) -> str:
    """Pure: return what the form says above its fields."""
    names = [test.name for test in report.tests_with(TestVerdict.FAILED)]
    told = listed(names, _MAX_NAMES, lambda name: markdown_text(name, _NAME_LENGTH) or "(no name)")
    where = ", ".join(markdown_text(app.environment_url, 300) for app in report.applications if app.environment_url)
    about = [
        f"**{markdown_text(campaign_name(report), _NAME_LENGTH)}**",
        f"on {where}" if where else "",
        f"target {markdown_text(report.target, _NAME_LENGTH)}" if report.target else "",
        link("Open the run", report.run_url),
    ]
    return "\n".join(
        [
            f"**The gate's verdict is {report.verdict.value}.** {' · '.join(part for part in about if part)}",
            "",
            *(f"- {markdown_text(reason.sentence, 500)}" for reason in report.reasons[:_MAX_REASONS]),
            *([f"- Failed: {told}"] if names else []),
            "",
            f"There is time until **{time_text(until)}**; no answer is a no.",
            "",
            "**Approve**: this flow run completes, and what follows the gate goes on; the verdict stays what it is, "
            "and the report names you beside it. **Reject**: the flow run fails.",
            "",
            "The whole report is among the artifacts of this flow run. "
            f"Evidence: `{report.evidence_sha256[:16]}`. An approval counts for this evidence alone.",
        ]
    )
