"""What the ledger knows of the runs of a campaign."""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from prefect_qatech.ledger.call_site import root_flow_run
from prefect_qatech.ledger.slots import Call, QATechLedgerEntry, QATechRunRecord, short_id_of
from prefect_qatech.ledger.store import Ledger


async def is_on_record(first: QATechRunRecord, label: str) -> bool:
    """Whether the ledger that holds a run has a rerun of that label.

    Args:
        first: The first run of a campaign.
        label: The label of one of its reruns.
    """
    if not first.found or first.flow_run_id is None:
        return False
    call = Call(kind="rerun", what="", fingerprint="", label=label)
    async with get_client() as client:
        return bool(await Ledger(client, UUID(first.flow_run_id)).entries(call.family))


async def first_run_of(run: QATechRunRecord | str) -> QATechRunRecord | None:
    """Return the first run of a campaign, where a run is known to be a rerun in it.

    Args:
        run: The run in question, or its short id.

    Returns:
        The first run; None where the run is no rerun, as far as its record and the ledger of the flow run know.
    """
    entries = await _entries_here()
    runs = {
        entry.run.run_short_id: entry.run
        for entry in entries
        if entry.run is not None and entry.kind != "attach" and entry.makes == "run"
    }
    if isinstance(run, QATechRunRecord):
        runs.setdefault(run.run_short_id, run)
    first, known = None, runs.pop(short_id_of(run), None)
    while known is not None and known.rerun_of is not None:
        base = runs.pop(known.rerun_of, None)
        first = base or QATechRunRecord(kind="attached", run_short_id=known.rerun_of, started_at=known.started_at)
        known = base
    return first


async def _entries_here() -> list[QATechLedgerEntry]:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return []
    async with get_client() as client:
        root = await root_flow_run(client, context.flow_run.id)
        return await Ledger(client, root.id).entries()
