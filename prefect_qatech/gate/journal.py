"""What a gate keeps on record about its campaign, beside its runs: rows in the ledger of the flow run.

- `window`, `ended`: since when the campaign's time counts. A crash gives it no more time; a retry of a gate that had
  ended does, because somebody asked again.
- `passed`: in which attempt of the flow run the campaign passed, and for which target. Without a target a pass is good
  for that attempt alone: on a retry the steps before the gate may have changed what runs.
- `finished`: when a run was first seen to have ended, by the gate or by the watcher of suspended ones.
- `approved`: which evidence a person has approved.

A campaign is known by its first run, and a run by its id at the service that gave it: two services may give the same.
`api` is a fingerprint of that service's address. Outside a flow run nothing is recorded.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from uuid import UUID, uuid4

from prefect.client.orchestration import get_client
from prefect.context import TaskRunContext
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_qatech._prefect import own_flow_run
from prefect_qatech.ledger import Chain, QATechRunRecord, Rows, chain_of, same_attempt
from prefect_qatech.report.model import GateDecision
from prefect_qatech.texts import short_hash


class _Pass(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: Chain
    target: str | None = None
    api: str | None = None


async def current_attempt() -> Chain:
    """Return which attempt of which flow runs, and of the user's task, the caller stands in; the root flow run first.

    Each is an id with its run count; outside a flow run there is none.
    """
    if (flow_run := own_flow_run()) is None:
        return ()
    async with get_client() as client:
        chain = await chain_of(client, flow_run)
    task_context = TaskRunContext.get()
    task_run = task_context.task_run if task_context is not None else None
    return (*chain, (str(task_run.id), task_run.run_count)) if task_run is not None else chain


async def window_of(first: QATechRunRecord) -> datetime:
    """Return when the time that a gate has for its campaign began."""
    if not first.is_resumed or first.slot is None:
        return first.started_at
    async with _rows_of(first) as ledger:
        rows = await ledger.read(first.slot)
        ended = sum("-ended-" in key for key in rows)
        if ended == 0:
            return first.started_at
        key, opened = f"{first.slot}-window-{ended}", json.dumps(datetime.now(timezone.utc).isoformat())
        if key not in rows and not await ledger.insert(key, opened):
            rows = await ledger.read(key)
        return datetime.fromisoformat(json.loads(rows[key].value if key in rows else opened))


def end_key(run_short_id: str, api: str) -> str:
    """Return the key of the row that holds when a run was first seen to have ended."""
    return f"finished-{short_hash(f'{api} {run_short_id}')}"


async def end_of(run: QATechRunRecord, seen: datetime | None, api: str) -> datetime | None:
    """Return when a run, which has ended, was first seen to: what is on record, else `seen`, which is recorded.

    `seen` is None where it may have ended at any time before.
    """
    if run.flow_run_id is None:
        return seen
    key = end_key(run.run_short_id, api)
    async with _rows_of(run) as ledger:
        if run.is_resumed and (row := await ledger.value(key)) is not None:
            return datetime.fromisoformat(json.loads(row))
        if seen is not None:
            await ledger.insert(key, json.dumps(seen.isoformat()))
    return seen


async def record_end(first: QATechRunRecord, verdict: str) -> None:
    """Record that a gate has ended with a verdict that a retry could change."""
    if first.slot is not None:
        async with _rows_of(first) as ledger:
            await ledger.insert(f"{first.slot}-ended-{uuid4().hex[:12]}", json.dumps(verdict))


async def record_pass(first: QATechRunRecord, target: str | None, api: str) -> None:
    """Record in which attempt of the flow run, and for which target, a campaign passed."""
    if first.flow_run_id is not None:
        row = _Pass(attempt=await current_attempt(), target=target, api=api)
        async with _rows_of(first) as ledger:
            await ledger.insert(f"{_pass_key(first)}-{uuid4().hex[:12]}", row.model_dump_json())


async def has_stale_pass(first: QATechRunRecord, target: str | None, api: str) -> bool:
    """Whether a campaign has passed for another target or, without a target, in an earlier attempt of the flow run."""
    if first.flow_run_id is None:
        return False
    async with _rows_of(first) as ledger:
        rows = await ledger.read(_pass_key(first))
    if not rows:
        return False
    attempt = await current_attempt()
    return any(_is_stale(row.value, attempt, target, api) for row in rows.values())


def _is_stale(row: str, attempt: Chain, target: str | None, api: str) -> bool:
    try:
        former = _Pass.model_validate_json(row)
    except ValidationError:
        return True
    # 0.1.0 did not say at which service.
    if former.api not in (None, api):
        return False
    return not (former.target == target and (target is not None or same_attempt(former.attempt, attempt)))


async def is_older(first: QATechRunRecord) -> bool:
    """Whether a run was started in an earlier attempt of the flow run than the one that the caller stands in."""
    return first.is_resumed and not same_attempt(first.attempt, await current_attempt())


async def approval_of(first: QATechRunRecord, evidence_sha256: str) -> GateDecision | None:
    """Return the approval that this evidence of a campaign got before, in another attempt of the flow run."""
    if first.slot is None:
        return None
    async with _rows_of(first) as ledger:
        row = await ledger.value(_approval_key(first.slot, evidence_sha256))
    try:
        return None if row is None else GateDecision.model_validate_json(row)
    except ValidationError:
        # An approval that cannot be read is none: the person is asked again.
        return None


async def record_approval(first: QATechRunRecord, decision: GateDecision) -> None:
    """Record an approval, so that a retry on the same evidence does not ask again."""
    if first.slot is not None:
        async with _rows_of(first) as ledger:
            await ledger.insert(_approval_key(first.slot, decision.evidence_sha256), decision.model_dump_json())


def _approval_key(slot: str, evidence_sha256: str) -> str:
    return f"{slot}-approved-{evidence_sha256[:32]}"


def _pass_key(first: QATechRunRecord) -> str:
    # By the run and not by the slot: the run of a start and the same run attached are one piece of evidence.
    return f"passed-{short_hash(first.run_short_id)}"


@asynccontextmanager
async def _rows_of(first: QATechRunRecord) -> AsyncIterator[Rows]:
    async with get_client() as client:
        yield Rows(client, UUID(first.flow_run_id or ""))
