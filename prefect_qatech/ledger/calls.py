"""What tasks and gates ask of the ledger of the flow run that they stand in; outside a flow run nothing is recorded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from prefect_qatech._prefect import own_flow_run
from prefect_qatech.ledger.call_site import flow_run_of, locate, root_of
from prefect_qatech.ledger.slots import Call, QATechLedgerEntry, QATechRunRecord, short_id_of
from prefect_qatech.ledger.store import LATEST_SEND_SECONDS, Ledger, Prepare, Send


@asynccontextmanager
async def ledger_of(flow_run_id: UUID | str) -> AsyncIterator[Ledger]:
    """Open the ledger of a flow run, which is that of its root; an unknown flow run is a ValueError."""
    async with get_client() as client:
        try:
            root = await root_of(client, await client.read_flow_run(UUID(str(flow_run_id))))
        except ObjectNotFound:
            raise ValueError(f"the Prefect server knows no flow run {flow_run_id}") from None
        yield Ledger(client, root.id)


async def once(call: Call, send: Send, *, post_seconds: float, prepare: Prepare | None = None) -> QATechRunRecord:
    """Start or rerun once per slot of the current flow run.

    `prepare` comes before the POST and may be repeated, such as a look at the catalogue or an upload; it is told the
    root flow run, and left out where the call is on record. `post_seconds` is how long a POST can take.
    """
    flow_run = await flow_run_of(call)
    if flow_run is None:
        if prepare is not None:
            await prepare(None)
        return await send()
    async with get_client() as client:
        flow_run_id, [call] = await locate(client, flow_run, call)
        return await Ledger(client, flow_run_id).once(
            call,
            send,
            busy_seconds=LATEST_SEND_SECONDS + post_seconds,
            latest_send_seconds=LATEST_SEND_SECONDS,
            prepare=prepare,
        )


async def attach(call: Call, record: QATechRunRecord) -> QATechRunRecord:
    """Put a run on record that somebody else has started, by a call with a label; as `Ledger.attach` returns it."""
    flow_run = await flow_run_of(call)
    if flow_run is None:
        return record
    async with get_client() as client:
        flow_run_id, [call] = await locate(client, flow_run, call)
        return await Ledger(client, flow_run_id).attach(call, record)


async def is_rerun_on_record(first: QATechRunRecord, number: int) -> bool:
    """Whether the ledger that holds the first run of a campaign has its rerun of that number."""
    return await _is_on_record(first, Call(kind="rerun", what="", fingerprint="", campaign=(first.slot or "", number)))


async def is_label_on_record(first: QATechRunRecord, label: str, makes: str) -> bool:
    """Whether the ledger that holds the first run of a campaign has something of that label."""
    return await _is_on_record(first, Call(kind="start", makes=makes, what="", fingerprint="", label=label))


async def _is_on_record(first: QATechRunRecord, call: Call) -> bool:
    if not first.is_resumed or first.flow_run_id is None or first.slot is None:
        return False
    async with get_client() as client:
        return bool(await Ledger(client, UUID(first.flow_run_id)).entries(call.family))


async def is_attached(label: str, service: str) -> bool:
    """Whether the flow run has attached a run of a service under a label."""
    return any(
        entry.kind == "attach" and entry.label == label and entry.service == service for entry in await _own_entries()
    )


async def first_run_of(run: QATechRunRecord | str, service: str) -> QATechRunRecord | None:
    """Return the first run of the campaign that a run of a service is a rerun in.

    None where it is no rerun, as far as its record and the ledger of the flow run know.
    """
    runs = {
        entry.run.run_short_id: entry.run
        for entry in await _own_entries()
        if entry.run is not None and entry.kind != "attach" and entry.makes == "run" and entry.service == service
    }
    if isinstance(run, QATechRunRecord):
        runs.setdefault(run.run_short_id, run)
    first, known = None, runs.pop(short_id_of(run), None)
    while known is not None and known.rerun_of is not None:
        base = runs.pop(known.rerun_of, None)
        first = base or QATechRunRecord(kind="attached", run_short_id=known.rerun_of, started_at=known.started_at)
        known = base
    return first


async def _own_entries() -> list[QATechLedgerEntry]:
    if (flow_run := own_flow_run()) is None:
        return []
    async with ledger_of(flow_run.id) as ledger:
        return await ledger.entries()
