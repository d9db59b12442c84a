"""What a gate keeps on record about its campaign, beside its runs: rows in the ledger of the flow run.

- `window`, `ended`: since when the campaign's time counts. A crash gives it no more time; a retry of a gate that had
  ended does, because somebody asked again.
- `passed`: in which attempt of the flow run the campaign passed, and for which target. Without a target a pass is good
  for that attempt alone: on a retry the steps before the gate may have changed what runs.
- `approved`: which evidence a person has approved.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import TypeVar
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_qatech.exceptions import LedgerUnavailable
from prefect_qatech.ledger import Chain, Ledger, QATechRunRecord, same_attempt
from prefect_qatech.report.model import GateDecision

T = TypeVar("T")

_PREFIX = "qatech-"
_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 15.0


class _Passed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: Chain
    target: str | None = None


def is_outage(error: Exception) -> bool:
    """Whether an error of Prefect's client says that its API is down or overloaded, and not that it refuses."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, httpx.TransportError)


async def through_outages(
    ask: Callable[[], Awaitable[T]],
    seconds: float,
    about: QATechRunRecord | None = None,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> T:
    """Ask Prefect's API until it answers.

    Args:
        ask: The question; it may be asked twice.
        seconds: How long it may take.
        about: The run that an error names.
        sleep: Sleeps for so many seconds.

    Returns:
        The answer.

    Raises:
        LedgerUnavailable: It did not answer in time.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await ask()
        except Exception as error:
            if not is_outage(error):
                raise
            why = f"{type(error).__name__}: {error}".rstrip(": ")
        if time.monotonic() + pause > deadline:
            break
        await sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)
    named = f" Run {about.run_short_id} is on record: {about.run_url or 'no address given'}." if about else ""
    raise LedgerUnavailable(
        f"The Prefect API could not be reached for {seconds:.0f} s ({why}).{named} Retry the flow run.",
        run_short_id=about.run_short_id if about else None,
        run_url=about.run_url if about else None,
    )


async def current_attempt() -> Chain:
    """Return which attempt of which flow runs, and of the user's task, the caller stands in; the root flow run first.

    Returns:
        Ids with their run counts; empty outside a flow run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return ()
    chain = [(str(context.flow_run.id), context.flow_run.run_count)]
    if (task_context := TaskRunContext.get()) is not None:
        chain.append((str(task_context.task_run.id), task_context.task_run.run_count))
    parent_task_run_id = context.flow_run.parent_task_run_id
    if parent_task_run_id is None:
        return tuple(chain)
    async with get_client() as client:
        while parent_task_run_id is not None:
            task_run = await client.read_task_run(parent_task_run_id)
            if task_run.flow_run_id is None:
                break
            parent = await client.read_flow_run(task_run.flow_run_id)
            chain.insert(0, (str(parent.id), parent.run_count))
            parent_task_run_id = parent.parent_task_run_id
    return tuple(chain)


async def window_of(first: QATechRunRecord) -> datetime:
    """Return when the time that a gate has for its campaign began.

    Args:
        first: The first run of the campaign.
    """
    if not first.found or first.slot is None or first.flow_run_id is None:
        return first.started_at
    async with get_client() as client:
        ledger = _ledger_of(client, first)
        rows = await ledger.rows(first.slot)
        ended = sum("-ended-" in key for key in rows)
        if ended == 0:
            return first.started_at
        key = f"{first.slot}-window-{ended}"
        opened = json.dumps(datetime.now(timezone.utc).isoformat())
        if f"{_PREFIX}{key}" not in rows and await ledger.insert(key, opened):
            return datetime.fromisoformat(json.loads(opened))
        rows = await ledger.rows(key)
        return datetime.fromisoformat(json.loads(rows[f"{_PREFIX}{key}"]))


async def record_end(first: QATechRunRecord, verdict: str) -> None:
    """Record that a gate has ended with a verdict that a retry could change.

    Args:
        first: The first run of its campaign.
        verdict: The verdict.
    """
    if first.slot is not None and first.flow_run_id is not None:
        async with get_client() as client:
            await _ledger_of(client, first).insert(f"{first.slot}-ended-{uuid4().hex[:12]}", json.dumps(verdict))


async def record_pass(first: QATechRunRecord, target: str | None) -> None:
    """Record in which attempt of the flow run, and for which target, a campaign passed.

    Args:
        first: The first run of the campaign.
        target: What was tested, where it was named.
    """
    if first.flow_run_id is None:
        return
    row = _Passed(attempt=await current_attempt(), target=target)
    key = f"{_passed_key(first)}-{uuid4().hex[:12]}"
    async with get_client() as client:
        await _ledger_of(client, first).insert(key, row.model_dump_json())


async def has_stale_pass(first: QATechRunRecord, target: str | None) -> bool:
    """Whether a campaign has passed for something else than what is asked about now.

    Args:
        first: The first run of the campaign.
        target: What is to be tested now, where it is named.

    Returns:
        True where it passed for another target, or, without a target, in an earlier attempt of the flow run.
    """
    if first.flow_run_id is None:
        return False
    async with get_client() as client:
        rows = await _ledger_of(client, first).rows(_passed_key(first))
    if not rows:
        return False
    attempt = await current_attempt()
    return any(not _is_good_for(row, attempt, target) for row in rows.values())


def _is_good_for(row: str, attempt: Chain, target: str | None) -> bool:
    try:
        passed = _Passed.model_validate_json(row)
    except ValidationError:
        return False
    return passed.target == target and (target is not None or same_attempt(passed.attempt, attempt))


async def is_older(first: QATechRunRecord) -> bool:
    """Whether a run was started in an earlier attempt of the flow run than the one that the caller stands in.

    Args:
        first: The first run of the campaign.
    """
    return first.found and not same_attempt(first.attempt, await current_attempt())


async def approval_of(first: QATechRunRecord, evidence_sha256: str) -> GateDecision | None:
    """Return the approval that this evidence of a campaign got before, in another attempt of the flow run.

    Args:
        first: The first run of the campaign.
        evidence_sha256: Hash of the evidence.
    """
    if first.slot is None or first.flow_run_id is None:
        return None
    key = f"{first.slot}-approved-{evidence_sha256[:32]}"
    async with get_client() as client:
        row = (await _ledger_of(client, first).rows(key)).get(f"{_PREFIX}{key}")
    try:
        return None if row is None else GateDecision.model_validate_json(row)
    except ValidationError:
        # An approval that cannot be read is none: the person is asked again.
        return None


async def record_approval(first: QATechRunRecord, decision: GateDecision) -> None:
    """Record an approval, so that a retry on the same evidence does not ask again.

    Args:
        first: The first run of the campaign.
        decision: The approval.
    """
    if first.slot is not None and first.flow_run_id is not None:
        async with get_client() as client:
            await _ledger_of(client, first).insert(
                f"{first.slot}-approved-{decision.evidence_sha256[:32]}", decision.model_dump_json()
            )


def _passed_key(first: QATechRunRecord) -> str:
    # By the run and not by the slot: the run of a start and the same run attached are one piece of evidence.
    return f"passed-{hashlib.sha256(first.run_short_id.encode()).hexdigest()[:16]}"


def _ledger_of(client: PrefectClient, first: QATechRunRecord) -> Ledger:
    return Ledger(client, UUID(first.flow_run_id or ""))
