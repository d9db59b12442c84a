"""The one way in which a POST is sent: intent on record, POST, run on record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal
from uuid import UUID, uuid4

import anyio
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from prefect_qatech._prefect import run_logger, server_time
from prefect_qatech._sync import run_apart
from prefect_qatech.exceptions import LedgerConflict, QATechAPIError, StartOutcomeUnknown
from prefect_qatech.ledger import messages
from prefect_qatech.ledger.call_site import families_beside, give_back
from prefect_qatech.ledger.outages import persistently
from prefect_qatech.ledger.rows import Rows
from prefect_qatech.ledger.slots import (
    Call,
    QATechLedgerEntry,
    QATechRunRecord,
    done_row,
    entries_of,
    resolve,
    service_of,
    starts_not_repeated,
)

Send = Callable[[], Awaitable[QATechRunRecord]]
Prepare = Callable[[UUID | None], Awaitable[None]]

LATEST_SEND_SECONDS = 10.0
"""How long the Prefect server may take for an intent; a POST is never sent later than that."""

_ended: dict[str, Literal["refused", "unknown"]] = {}
"""What this process knows of POSTs that hold an open intent and are not under way, by the intents' nonces: they surely
started nothing, and the intent could not be deleted; or nobody knows."""

_holders: dict[tuple[UUID, str, str], str] = {}
"""Which slot of a flow run's ledger has a run of a service, as far as this process has recorded or read it."""


@dataclass
class Ledger(Rows):
    """The ledger of a root flow run.

    `connect` opens another client, for the loop in which a POST is sent. The seconds are for the record of a run, for
    the deletion of the intent of a refused start, and for a POST whose caller is cancelled.
    """

    connect: Callable[[], AbstractAsyncContextManager[Any]] = get_client
    record_seconds: float = 60.0
    delete_seconds: float = 10.0
    cancel_grace_seconds: float = 3.0

    async def entries(self, family: str = "") -> list[QATechLedgerEntry]:
        entries = entries_of(await self.read(family))
        for entry in entries:
            if entry.run is not None and entry.run.not_as_asked is None and entry.kind != "attach":
                _holders.setdefault((self.flow_run_id, entry.service, entry.run.identity), entry.slot)
        return entries

    async def once(
        self,
        call: Call,
        send: Send,
        *,
        busy_seconds: float,
        latest_send_seconds: float = float("inf"),
        prepare: Prepare | None = None,
    ) -> QATechRunRecord:
        """Return the run that a call has started before, or start it: `prepare`, the intent, `send`.

        For `busy_seconds` after its intent a POST can be under way, and nobody may clear it; after
        `latest_send_seconds` it is not sent any more.

        Raises:
            StartOutcomeUnknown: A POST was sent, by this call or before, and its outcome is not known.
            LedgerConflict: It cannot be told whether the call means a recorded run, or the record does not fit it.
            LedgerUnavailable: The Prefect server took too long for the intent; nothing was sent.
            QATechAPIError: QA.tech surely did not accept it; there is no trace of it in the ledger.
        """
        loop = asyncio.get_running_loop()

        async def start() -> QATechRunRecord | None:
            if asyncio.get_running_loop() is loop:
                return await self._start(call, send, busy_seconds, latest_send_seconds)
            async with self.connect() as client:
                return await replace(self, client=client)._start(call, send, busy_seconds, latest_send_seconds)

        try:
            # What has to be prepared costs more than reading the rows.
            entry = await self._find(call) if prepare is None else await self._at(call.slot) or await self._find(call)
            while True:
                if entry is not None and (record := await self._resume(call, entry)) is not None:
                    return record
                if prepare is not None:
                    await prepare(self.flow_run_id)
                    prepare = None
                if (record := await run_apart(start, grace_seconds=self.cancel_grace_seconds)) is not None:
                    return record
                # Another call was first. If QA.tech has refused it meanwhile, it is this call's turn.
                entry = await self._at(call.slot)
        except (StartOutcomeUnknown, LedgerConflict):
            raise
        except Exception:
            # Its slot is empty, and a retry numbers the calls as if this one had never been.
            give_back(call)
            raise

    async def attach(self, call: Call, record: QATechRunRecord) -> QATechRunRecord:
        """Put a run on record that somebody else has started: one row, as nothing is sent.

        It is returned as it is on record; with what its start told, where this flow run has started it itself. What
        does not fit the call is a `LedgerConflict`.
        """
        entry = await self._find(call)
        if entry is None:
            intent = call.entry(sent_at=_now(), busy_seconds=0.0, nonce=uuid4().hex)
            record = self._placed(intent, record)
            if await self.insert(f"{intent.slot}-done", done_row(intent, record), nonce=intent.nonce):
                return await self._as_started(record, intent.service)
            entry = await self._at(intent.slot)
        former = await self._resume(call, entry) if entry is not None else None
        return await self._as_started(former or record, service_of(call.address))

    async def _find(self, call: Call) -> QATechLedgerEntry | None:
        """Return the slot of an earlier attempt that a call means; one at its own place refuses the insert anyway."""
        if call.is_first_attempt:
            return None
        entry = resolve(call, await self.entries(call.family))
        if entry is None and call.kind == "start" and not call.is_named:
            for start in starts_not_repeated(call, await self.entries(), families_beside(call)):
                run_logger().warning(
                    "An earlier attempt of this flow run sent another request here, %s: %s. It is left behind, unless "
                    "a later call asks for it.",
                    start.what,
                    start.outcome,
                )
        return entry

    async def _at(self, slot: str) -> QATechLedgerEntry | None:
        return next((entry for entry in await self.entries(slot) if entry.slot == slot), None)

    async def _start(
        self, call: Call, send: Send, busy_seconds: float, latest_send_seconds: float
    ) -> QATechRunRecord | None:
        """Put the intent on record, send the POST, put the run on record; None where there is an intent already."""
        intent = call.entry(sent_at=_now(), busy_seconds=busy_seconds, nonce=uuid4().hex)
        began = time.monotonic()
        try:
            if not await self.insert(f"{intent.slot}-intent", json.dumps(intent.row()), nonce=intent.nonce):
                return None
        except Exception:
            # Nobody knows whether the row was written, but surely it has started nothing.
            _ended[intent.nonce] = "refused"
            raise
        if (seconds := time.monotonic() - began) > latest_send_seconds:
            # By the time that this POST can take, somebody may clear its intent and start another.
            await self._delete(intent)
            raise messages.too_slow(call, seconds)
        try:
            record = await send()
        except StartOutcomeUnknown as error:
            if error.run_short_id is None:
                _ended[intent.nonce] = "unknown"
                raise messages.outcome_unknown(intent, str(self.flow_run_id), str(error)) from None
            await self._record_other_run(intent, error, error.run_short_id)
            raise
        except QATechAPIError:
            await self._delete(intent)
            raise
        record = self._placed(intent, record)
        await self._record(intent, record)
        return record

    async def _delete(self, intent: QATechLedgerEntry) -> None:
        """Delete an intent that surely started nothing; one that cannot be deleted is remembered."""
        _ended[intent.nonce] = "refused"

        async def delete() -> None:
            with suppress(ObjectNotFound):
                await self.delete(f"{intent.slot}-intent")

        try:
            await persistently(delete, self.delete_seconds)
        except Exception as error:
            run_logger().warning("Intent %s, which started nothing, could not be deleted yet: %r", intent.slot, error)
        else:
            _ended.pop(intent.nonce, None)

    async def _record(self, intent: QATechLedgerEntry, record: QATechRunRecord) -> None:
        # One run is the evidence of one start. The rows are at hand, so nothing is read before the record is written.
        if record.not_as_asked is None:
            holder = _holders.setdefault((self.flow_run_id, intent.service, record.identity), intent.slot)
            if holder != intent.slot:
                reason = messages.of_another_slot(intent, record, holder)
                record = record.model_copy(update={"not_as_asked": reason})
                run_logger().error("%s", reason)
                await self._write(intent, record)
                raise messages.not_as_asked(intent, record, str(self.flow_run_id))
        await self._write(intent, record)

    async def _record_other_run(self, intent: QATechLedgerEntry, error: StartOutcomeUnknown, run_short_id: str) -> None:
        """Record a run that was started, though not the one that was asked for, so that no retry starts another."""
        run_logger().error("%s", error)
        other = QATechRunRecord(
            kind="rerun" if intent.kind == "rerun" else "start",
            run_short_id=run_short_id,
            run_url=error.run_url,
            rerun_of=intent.rerun_of,
            started_at=intent.sent_at,
            not_as_asked=str(error),
        )
        await self._record(intent, self._placed(intent, other))
        error.slot, error.flow_run_id = intent.slot, str(self.flow_run_id)

    async def _write(self, intent: QATechLedgerEntry, record: QATechRunRecord) -> None:
        async def write() -> QATechLedgerEntry | None:
            is_ours = await self.insert(f"{intent.slot}-done", done_row(intent, record), nonce=intent.nonce)
            return None if is_ours else await self._at(intent.slot)

        try:
            other = await persistently(write, self.record_seconds)
        except Exception as error:
            _ended[intent.nonce] = "unknown"
            raise messages.not_recorded(intent, record, str(self.flow_run_id), error) from None
        if other is not None and other.run is not None and other.run.identity != record.identity:
            conflict = messages.slot_is_taken(other, record, str(self.flow_run_id))
            run_logger().error("%s", conflict)
            raise conflict

    async def _resume(self, call: Call, entry: QATechLedgerEntry) -> QATechRunRecord | None:
        """Return the run of a slot; None where the intent is gone, because QA.tech has refused it."""
        if (error := messages.misfit(call, entry, str(self.flow_run_id))) is not None:
            raise error
        settled = await self._outcome(entry) if entry.is_open else entry
        if settled is None:
            return None
        if settled.run is None:
            raise messages.outcome_unknown(settled, str(self.flow_run_id))
        if settled.run.not_as_asked is not None:
            raise messages.not_as_asked(settled, settled.run, str(self.flow_run_id))
        return settled.run.model_copy(update=self._place(settled) | {"is_resumed": True})

    async def _outcome(self, entry: QATechLedgerEntry) -> QATechLedgerEntry | None:
        """Wait while another process may still send the POST of an open intent; None where the intent has gone."""
        if _ended.get(entry.nonce) == "refused":
            await self._delete(entry)
            if entry.nonce in _ended:
                raise messages.not_deleted(entry)
            return None
        give_up_at = time.monotonic() + await self.busy_seconds_left(entry)
        current: QATechLedgerEntry | None = entry
        while current is not None and current.is_open and time.monotonic() < give_up_at:
            await anyio.sleep(1)
            current = await self._at(entry.slot)
        return current

    async def busy_seconds_left(self, entry: QATechLedgerEntry) -> float:
        """Return how long an open intent's POST can be under way, by the server's clock where it tells the time."""
        if entry.nonce in _ended:
            return 0.0
        now = await server_time(self.client) if entry.created is not None else None
        since = entry.created if now is not None and entry.created is not None else entry.sent_at
        return max(0.0, entry.busy_seconds - max(0.0, ((now or _now()) - since).total_seconds()))

    def _placed(self, intent: QATechLedgerEntry, record: QATechRunRecord) -> QATechRunRecord:
        facts = {"started_at": intent.sent_at, "attempt": intent.chain}
        return record.model_copy(update=self._place(intent) | facts)

    def _place(self, entry: QATechLedgerEntry) -> dict[str, object]:
        return {"slot": entry.slot, "flow_run_id": str(self.flow_run_id)}

    async def _as_started(self, record: QATechRunRecord, service: str) -> QATechRunRecord:
        """Return an attached run with what its POST told, where this flow run has sent it itself."""
        if record.kind != "attached":
            return record
        for entry in await self.entries():
            run = entry.run
            is_it = run is not None and run.identity == record.identity and entry.service == service
            if entry.kind != "attach" and run is not None and is_it:
                return run.model_copy(
                    update={name: getattr(record, name) for name in ("slot", "flow_run_id", "is_resumed")}
                    | {"target": run.target or record.target}
                )
        return record


def _now() -> datetime:
    return datetime.now(timezone.utc)
