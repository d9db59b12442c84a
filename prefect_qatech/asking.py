"""Asking a person whether a release may go out that the evidence alone does not let through.

The flow run pauses and the Prefect UI shows a form. Only an answer is an answer: no answer in time, one that cannot be
read, a flow run that is resumed without one: all of these are a no.
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import Any, Literal

import anyio
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from pydantic import ConfigDict, Field

from prefect_qatech.campaign import GateDecision, GateReport
from prefect_qatech.report.escape import link, markdown_text

LOOK_SECONDS = 5
"""How often Prefect is asked whether there is an answer."""

_SERVER_GRACE_SECONDS = 600
_MOST_REASONS = 20


class QATechReleaseDecision(RunInput):
    """The form that a person fills in."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    decision: Literal["reject", "approve"] = Field(title="May the release go out?")
    reason: str = Field(title="Why?", min_length=1, max_length=2_000)
    decided_by: str | None = Field(
        default=None, title="Who decides?", max_length=200, description="Goes into the report."
    )


async def ask(report: GateReport, *, timeout_seconds: float, key: str) -> GateDecision:
    """Pause the flow run until a person has decided, or the time is over.

    Args:
        report: What to decide on.
        timeout_seconds: How long to wait for an answer.
        key: Names this question within the flow run; Prefect asks none twice.

    Returns:
        The decision.
    """
    asked_for = report.evidence_sha256
    answer: Any = None
    why = "Nobody answered in time."
    try:
        # Prefect's own time-out would put a state of its own in the place of the gate's message.
        with anyio.move_on_after(timeout_seconds + LOOK_SECONDS):
            answer = await apause_flow_run(
                wait_for_input=QATechReleaseDecision.with_initial_data(description=_question(report)),
                timeout=math.ceil(timeout_seconds) + _SERVER_GRACE_SECONDS,
                poll_interval=LOOK_SECONDS,
                key=key,
            )
            why = "The flow run was resumed without an answer."
    except FlowPauseTimeout:
        pass
    except (ValueError, KeyError, TypeError):
        why = "The answer could not be read."
    is_answer = isinstance(answer, QATechReleaseDecision)
    return GateDecision(
        approved=is_answer and answer.decision == "approve",
        reason=answer.reason if is_answer else why,
        decided_by=answer.decided_by if is_answer else None,
        decided_at=datetime.now(timezone.utc),
        evidence_sha256=asked_for,
    )


def _question(report: GateReport) -> str:
    reasons = [f"- {markdown_text(reason.sentence, 500)}" for reason in report.reasons[:_MOST_REASONS]]
    return "\n".join(
        [
            f"**The gate's verdict is {report.verdict.value}.** {link('Open the run', report.run_url)}",
            "",
            *reasons,
            "",
            "The whole report is among the artifacts of this flow run. "
            f"Evidence: `{report.evidence_sha256[:16]}`. An approval counts for this evidence alone.",
        ]
    )
