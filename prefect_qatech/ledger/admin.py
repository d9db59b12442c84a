"""What only a person can settle: whether an open intent has started a run, or surely none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from uuid import UUID, uuid4

from prefect_qatech._sync import run_sync
from prefect_qatech.api.ids import check_run_short_id
from prefect_qatech.ledger.calls import ledger_of
from prefect_qatech.ledger.slots import QATechLedgerEntry, QATechRunRecord, done_row
from prefect_qatech.ledger.store import Ledger


async def aread_ledger(flow_run_id: UUID | str) -> list[QATechLedgerEntry]:
    """Read what a flow run has started, open intents included.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.

    Returns:
        Its slots, in the order in which they were written.

    Raises:
        ValueError: There is no such flow run.

    Example:
        ```python
        open_slots = [entry.slot for entry in await aread_ledger(flow_run_id) if entry.is_open]
        ```
    """
    async with ledger_of(flow_run_id) as ledger:
        return await ledger.entries()


async def aattach_run(
    flow_run_id: UUID | str, slot: str, run_short_id: str, *, run_url: str | None = None
) -> QATechRunRecord:
    """Record the run, or whatever else an open intent has made, after a person has found it in QA.tech.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
        slot: The open slot, as the error and `read_ledger` name it.
        run_short_id: The run that was found.
        run_url: Its address.

    Returns:
        The record.

    Raises:
        ValueError: There is no such flow run or slot, the slot is not open, its POST can still be under way, the id is
            not a run's, it is that of another slot, or it was judged for another target.

    Example:
        ```python
        await aattach_run(flow_run_id, "0a1b2c3d4e5f6071-label", "abc123")
        ```
    """
    check_run_short_id(run_short_id)
    async with ledger_of(flow_run_id) as ledger:
        entries = await ledger.entries()
        entry = await _open_entry(ledger, entries, slot)
        record = QATechRunRecord(
            kind="attached",
            makes=entry.makes,
            run_short_id=run_short_id,
            run_url=run_url,
            rerun_of=entry.rerun_of,
            target=entry.target,
            started_at=datetime.now(timezone.utc),
            slot=slot,
            flow_run_id=str(ledger.flow_run_id),
            attempt=entry.chain,
        )
        for other in entries:
            is_it = other.run is not None and other.run.identity == record.identity and other.service == entry.service
            if is_it and other.kind != "attach":
                raise ValueError(f"{record.identity} is that of another slot, {other.slot}: {other.what}")
            judged_for = other.run.target if other.run is not None else None
            if is_it and None not in (judged_for, entry.target) and judged_for != entry.target:
                raise ValueError(f"{record.identity} was judged for another target, {judged_for}")
        # The process that sent the POST may be at work after all, and must not take this row for its own.
        ours = entry.model_copy(update={"nonce": uuid4().hex})
        if not await ledger.insert(f"{slot}-done", done_row(ours, record), nonce=ours.nonce):
            raise ValueError(f"slot {slot} has got a run in the meantime")
        return record


async def aclear_intent(flow_run_id: UUID | str, slot: str) -> None:
    """Delete an open intent, after a person has made sure that it has started nothing.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
        slot: The open slot, as the error and `read_ledger` name it.

    Raises:
        ValueError: There is no such flow run or slot, the slot is not open, or its POST can still be under way.

    Example:
        ```python
        await aclear_intent(flow_run_id, "0a1b2c3d4e5f6071-label")
        ```
    """
    async with ledger_of(flow_run_id) as ledger:
        entry = await _open_entry(ledger, await ledger.entries(), slot)
        await ledger.delete(f"{entry.slot}-intent")


async def _open_entry(ledger: Ledger, entries: Sequence[QATechLedgerEntry], slot: str) -> QATechLedgerEntry:
    by_slot = {entry.slot: entry for entry in entries}
    if slot not in by_slot:
        known = ", ".join(entry.slot for entry in entries if entry.is_open) or "none"
        raise ValueError(f"flow run {ledger.flow_run_id} has no slot {slot!r} in its ledger (open ones: {known})")
    entry = by_slot[slot]
    if entry.run is not None:
        raise ValueError(f"slot {slot} is not open: it holds {entry.run}")
    left = await ledger.busy_seconds_left(entry)
    if left > 0:
        raise ValueError(
            f"the POST of slot {slot}, recorded at {entry.sent_at:%H:%M:%S} UTC, can still be under way; try again in "
            f"{left:.0f} s"
        )
    return entry


def read_ledger(flow_run_id: UUID | str) -> list[QATechLedgerEntry]:
    """Sync version of `aread_ledger`."""
    return run_sync(lambda: aread_ledger(flow_run_id))


def attach_run(flow_run_id: UUID | str, slot: str, run_short_id: str, *, run_url: str | None = None) -> QATechRunRecord:
    """Sync version of `aattach_run`."""
    return run_sync(lambda: aattach_run(flow_run_id, slot, run_short_id, run_url=run_url))


def clear_intent(flow_run_id: UUID | str, slot: str) -> None:
    """Sync version of `aclear_intent`."""
    return run_sync(lambda: aclear_intent(flow_run_id, slot))
