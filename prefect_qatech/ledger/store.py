"""The rows of a ledger, and the one way in which a POST is sent: intent on record, POST, run on record."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, TypeVar
from uuid import UUID, uuid4

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRunInput
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from prefect_qatech._prefect import run_logger, server_time
from prefect_qatech._sync import run_apart
from prefect_qatech.exceptions import LedgerConflict, LedgerUnavailable, QATechAPIError, StartOutcomeUnknown
from prefect_qatech.ledger.call_site import flow_run_of, give_back, locate
from prefect_qatech.ledger.slots import (
    PREFIX,
    Call,
    QATechLedgerEntry,
    QATechRunRecord,
    conflict,
    done_row,
    entries_of,
    left_behind,
    resolve,
)

Send = Callable[[], Awaitable[QATechRunRecord]]
Prepare = Callable[[UUID | None], Awaitable[None]]
T = TypeVar("T")
_PAGE = 200
_RECORD_SECONDS = 60.0
_DELETE_SECONDS = 10.0
_FIRST_PAUSE_SECONDS = 0.5
_CANCEL_GRACE_SECONDS = 3.0
LATEST_SEND_SECONDS = 10.0
"""How long the Prefect server may take for an intent; a POST is never sent later than that."""

# A rerun by a gate is what it is by its number, even where a retry, which sees other answers, asks for other tests.
_OF_A_CAMPAIGN = re.compile(r"[0-9a-f]{16}-(?:label|[0-9a-f]{16})/rerun-[0-9]+")

_refused: set[str] = set()
"""Nonces of intents that surely started nothing and that could not be deleted, as far as this process knows."""

_over: set[str] = set()
"""Nonces of intents without a run whose POST this process has seen end."""

_slots: dict[tuple[UUID, str], str] = {}
"""Which slot of a flow run's ledger has a run, as far as this process has recorded or read it."""


@dataclass
class Ledger:
    """The ledger of a root flow run.

    Attributes:
        client: A client of the Prefect API.
        flow_run_id: The root flow run.
        connect: Opens another client, for the loop in which a POST is sent.
    """

    client: PrefectClient
    flow_run_id: UUID
    connect: Callable[[], AbstractAsyncContextManager[Any]] = get_client

    async def entries(self, family: str = "") -> list[QATechLedgerEntry]:
        """Return the slots, in the order in which they were written."""
        rows = await self._inputs(family)
        found = entries_of({row.key: row.value for row in rows}, {row.key: row.created for row in rows})
        for entry in found:
            if entry.run is not None and entry.run.not_as_asked is None and entry.kind != "attach":
                _slots.setdefault((self.flow_run_id, entry.run.identity), entry.slot)
        return found

    async def rows(self, prefix: str) -> dict[str, str]:
        """Return the rows whose keys begin so."""
        return {row.key: row.value for row in await self._inputs(prefix)}

    async def _inputs(self, prefix: str) -> list[FlowRunInput]:
        rows: dict[str, FlowRunInput] = {}
        while True:
            page = await self.client.filter_flow_run_input(
                flow_run_id=self.flow_run_id,
                key_prefix=f"{PREFIX}{prefix}",
                limit=_PAGE,
                exclude_keys=set(rows),
            )
            rows.update({row.key: row for row in page})
            if len(page) < _PAGE:
                return list(rows.values())

    async def insert(self, key: str, value: str, *, nonce: str | None = None) -> bool:
        """Write a row; False when somebody else has written it before."""
        try:
            await self.client.create_flow_run_input(flow_run_id=self.flow_run_id, key=f"{PREFIX}{key}", value=value)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:
                raise
        else:
            return True
        # Prefect's client sends again when an answer was lost, and then meets its own row.
        try:
            row = await self.client.read_flow_run_input(flow_run_id=self.flow_run_id, key=f"{PREFIX}{key}")
        except PrefectHTTPStatusError:
            return False
        return nonce is not None and json.loads(row).get("nonce") == nonce

    async def once(
        self,
        call: Call,
        send: Send,
        *,
        busy_seconds: float,
        latest_send_seconds: float = float("inf"),
        prepare: Prepare | None = None,
    ) -> QATechRunRecord:
        """Return the run that a call has started before, or start it.

        Args:
            call: What is asked for, and where the call stands.
            send: Sends the POST, once.
            busy_seconds: For how long after its intent the POST can be under way: what nobody may clear meanwhile.
            latest_send_seconds: How long after that the POST may still be sent.
            prepare: Comes before the intent, where nothing is on record; it may take its time, and may fail.

        Returns:
            The run.

        Raises:
            StartOutcomeUnknown: A POST was sent, by this call or before, and its outcome is not known.
            LedgerConflict: It cannot be told whether the call means a recorded run, or the record does not fit it.
            LedgerUnavailable: The Prefect server took too long for the intent; nothing was sent.
            QATechAPIError: QA.tech surely did not accept it; there is no trace of it in the ledger.
        """
        here = asyncio.get_running_loop()

        async def start() -> QATechRunRecord | None:
            if asyncio.get_running_loop() is here:
                return await self._start(call, send, busy_seconds, latest_send_seconds)
            async with self.connect() as client:
                return await replace(self, client=client)._start(call, send, busy_seconds, latest_send_seconds)

        try:
            # Nobody can have left a slot at another place before the first attempt; one at this place refuses the
            # insert. What has to be prepared costs more than a look.
            found = None if call.is_first_attempt and prepare is None else await self._resolve(call)
            if found is None and not call.is_first_attempt:
                _warn_of_left_behind(call, await self.entries())
            while True:
                if found is not None and (record := await self._take_up(call, found)) is not None:
                    return record
                if prepare is not None:
                    await prepare(self.flow_run_id)
                    prepare = None
                started = await run_apart(start, grace_seconds=_CANCEL_GRACE_SECONDS)
                if started is not None:
                    return started
                # Somebody else was first. Where QA.tech has refused them meanwhile, it is this call's turn.
                found = await self._at(call.slot)
        except (StartOutcomeUnknown, LedgerConflict):
            raise
        except Exception:
            # Its slot is empty, and a retry numbers the calls as if this one had never been.
            give_back(call)
            raise

    async def attach(self, call: Call, record: QATechRunRecord) -> QATechRunRecord:
        """Put a run on record that somebody else has started: one row, as nothing is sent.

        Args:
            call: What is asked for, and where the call stands.
            record: The run.

        Returns:
            The run, as it is on record; with what its start told, where this flow run has started it itself.

        Raises:
            LedgerConflict: What is on record does not fit the call.
        """
        found = None if call.is_first_attempt else await self._resolve(call)
        if found is None:
            entry = call.entry(sent_at=_now(), busy_seconds=0.0, nonce=uuid4().hex)
            record = self._stored(entry, record)
            if await self.insert(f"{entry.slot}-done", done_row(entry, record), nonce=entry.nonce):
                return await self._as_started(record)
            found = await self._at(entry.slot)
        taken = await self._take_up(call, found) if found is not None else None
        return await self._as_started(taken or record)

    async def _resolve(self, call: Call) -> QATechLedgerEntry | None:
        return resolve(call, await self.entries(call.family))

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
            # Whether the row is there is not known; that it has started nothing is.
            _refused.add(intent.nonce)
            raise
        if (seconds := time.monotonic() - began) > latest_send_seconds:
            # By the time that this POST can take, somebody may clear its intent and start another.
            await self._delete(intent)
            raise _took_too_long(call, seconds)
        try:
            record = await send()
        except StartOutcomeUnknown as error:
            if error.run_short_id is None:
                _over.add(intent.nonce)
                raise self._unknown(intent, str(error)) from None
            # A run was started, though not the one that was asked for: it is on record, and no retry starts another.
            run_logger().error("%s", error)
            other = QATechRunRecord(
                kind="rerun" if call.kind == "rerun" else "start",
                run_short_id=error.run_short_id,
                run_url=error.run_url,
                rerun_of=call.rerun_of,
                started_at=intent.sent_at,
                not_as_asked=str(error),
            )
            await self._record(intent, self._stored(intent, other))
            error.slot, error.flow_run_id = intent.slot, str(self.flow_run_id)
            raise
        except QATechAPIError:
            await self._delete(intent)
            raise
        record = self._stored(intent, record)
        await self._record(intent, record)
        return record

    async def _delete(self, intent: QATechLedgerEntry) -> None:
        """Delete an intent that surely started nothing; one that cannot be deleted is remembered."""
        _refused.add(intent.nonce)

        async def delete() -> None:
            with suppress(ObjectNotFound):
                await self.client.delete_flow_run_input(
                    flow_run_id=self.flow_run_id, key=f"{PREFIX}{intent.slot}-intent"
                )

        try:
            await _persistently(delete, _DELETE_SECONDS)
        except Exception as error:
            run_logger().warning("Intent %s, which started nothing, could not be deleted yet: %r", intent.slot, error)
        else:
            _refused.discard(intent.nonce)

    async def _record(self, intent: QATechLedgerEntry, record: QATechRunRecord) -> None:
        # One run is the evidence of one start. What is known of that is at hand: nothing comes before the record.
        kept = record
        if record.not_as_asked is None:
            holder = _slots.setdefault((self.flow_run_id, record.identity), intent.slot)
            kept = record if holder == intent.slot else _of_another_slot(intent, record, holder)

        async def write() -> QATechLedgerEntry | None:
            is_ours = await self.insert(f"{intent.slot}-done", done_row(intent, kept), nonce=intent.nonce)
            return None if is_ours else await self._at(intent.slot)

        try:
            other = await _persistently(write, _RECORD_SECONDS)
        except Exception as error:
            _over.add(intent.nonce)
            unknown = self._unknown(
                intent,
                f"QA.tech started {record}, but the Prefect server did not take the record of it "
                f"({type(error).__name__}).",
            )
            unknown.run_short_id, unknown.run_url = record.run_short_id, record.run_url
            raise unknown from None
        if other is None or other.run is None or other.run.identity == record.identity:
            if kept is not record:
                run_logger().error("%s", kept.not_as_asked)
                raise self._other_run(intent, kept)
            return
        taken = conflict(
            other,
            f"QA.tech started {record}, but slot {intent.slot} has got {other.run} meanwhile. Both runs exist, and a "
            "retry of the flow run takes the second.",
            str(self.flow_run_id),
        )
        taken.run_short_id, taken.run_url = record.run_short_id, record.run_url
        run_logger().error("%s", taken)
        raise taken

    async def _take_up(self, call: Call, entry: QATechLedgerEntry) -> QATechRunRecord | None:
        """Return the run of a slot; None where the intent is gone, because QA.tech has refused it."""
        self._check_that_it_fits(call, entry)
        if entry.is_open:
            settled = await self._settled(entry)
            if settled is None:
                return None
            entry = settled
        if entry.run is None:
            raise self._unknown(
                entry,
                f"{entry.what} was sent at {entry.sent_at:%Y-%m-%d %H:%M:%S} UTC by this flow run, and whether it "
                f"started a {entry.makes} is not known: the process ended, or the answer was lost, before the "
                f"{entry.makes} was recorded. Look in QA.tech for a {entry.makes} started at that time.",
            )
        if entry.run.not_as_asked is not None:
            raise self._other_run(entry, entry.run)
        return entry.run.model_copy(update=self._where(entry.slot) | {"found": True})

    def _check_that_it_fits(self, call: Call, entry: QATechLedgerEntry) -> None:
        if call.label is not None and entry.fingerprint != call.fingerprint and not is_of_campaign(call.label):
            raise conflict(
                entry,
                f'The label "{call.label}" stands for {entry.what} in this flow run ({entry.outcome}), and this call '
                "asks for something else. Nothing was sent. Give it another label, or run the flow anew.",
                str(self.flow_run_id),
            )
        if entry.address != call.address:
            raise conflict(
                entry,
                f"{entry.what} is on record at {entry.address} ({entry.outcome}), and this call asks for it at "
                f"{call.address}. Nothing was sent. Use the credentials of the former, or run the flow anew.",
                str(self.flow_run_id),
            )

    async def _settled(self, entry: QATechLedgerEntry) -> QATechLedgerEntry | None:
        """Wait as long as the POST of an open intent can be somebody's at work; None where the intent has gone."""
        if entry.nonce in _refused:
            await self._delete(entry)
            if entry.nonce in _refused:
                raise LedgerUnavailable(
                    f"{entry.what} has started nothing, and the Prefect server does not delete the record of it, slot "
                    f"{entry.slot}. Nothing was sent. Retry the flow run."
                )
            return None
        give_up_at = time.monotonic() + await self.busy_seconds_left(entry)
        found: QATechLedgerEntry | None = entry
        while found is not None and found.is_open and time.monotonic() < give_up_at:
            await anyio.sleep(1)
            found = await self._at(entry.slot)
        return found

    async def busy_seconds_left(self, entry: QATechLedgerEntry) -> float:
        """Return how long an open intent's POST can be under way, by the server's clock where it tells the time."""
        if entry.nonce in _over:
            return 0.0
        now = await server_time(self.client) if entry.created is not None else None
        since = entry.created if now is not None and entry.created is not None else entry.sent_at
        return max(0.0, entry.busy_seconds - max(0.0, ((now or _now()) - since).total_seconds()))

    def _stored(self, entry: QATechLedgerEntry, record: QATechRunRecord) -> QATechRunRecord:
        facts = {"started_at": entry.sent_at, "attempt": entry.chain}
        return record.model_copy(update=self._where(entry.slot) | facts)

    def _where(self, slot: str) -> dict[str, object]:
        return {"slot": slot, "flow_run_id": str(self.flow_run_id)}

    def _other_run(self, entry: QATechLedgerEntry, run: QATechRunRecord) -> StartOutcomeUnknown:
        return StartOutcomeUnknown(
            run.not_as_asked or "",
            request=entry.what,
            sent_at=entry.sent_at.isoformat(timespec="seconds"),
            slot=entry.slot,
            flow_run_id=str(self.flow_run_id),
            run_short_id=run.run_short_id,
            run_url=run.run_url,
        )

    def _unknown(self, entry: QATechLedgerEntry, what: str) -> StartOutcomeUnknown:
        # The client's sentence and ours end differently; the commands stand once, at the end.
        return StartOutcomeUnknown(
            f"{what} It is not sent again. If there is such a {entry.makes}: `prefect-qatech ledger attach "
            f"{self.flow_run_id} {entry.slot} <{entry.makes}>`; if there is none: `prefect-qatech ledger clear "
            f"{self.flow_run_id} {entry.slot}`; then retry the flow run.",
            request=entry.what,
            sent_at=entry.sent_at.isoformat(timespec="seconds"),
            slot=entry.slot,
            flow_run_id=str(self.flow_run_id),
        )

    async def _as_started(self, record: QATechRunRecord) -> QATechRunRecord:
        """Return an attached run with what its POST told, where this flow run has sent it itself."""
        if record.kind != "attached":
            return record
        for entry in await self.entries():
            run = entry.run
            if entry.kind != "attach" and run is not None and run.identity == record.identity:
                return run.model_copy(update={name: getattr(record, name) for name in ("slot", "flow_run_id", "found")})
        return record


def is_of_campaign(label: str | None) -> bool:
    """Return whether a label is that of a gate's rerun."""
    return label is not None and _OF_A_CAMPAIGN.fullmatch(label) is not None


def _warn_of_left_behind(call: Call, entries: Sequence[QATechLedgerEntry]) -> None:
    if call.kind != "start" or call.label is not None:
        return
    for entry in left_behind(call, entries):
        run_logger().warning(
            "An earlier attempt of this flow run sent another request here, %s: %s. It is left behind, unless a later "
            "call asks for it.",
            entry.what,
            entry.outcome,
        )


def _of_another_slot(intent: QATechLedgerEntry, record: QATechRunRecord, holder: str) -> QATechRunRecord:
    told = (
        f"QA.tech answered {intent.what} with {record}, which slot {holder} of this flow run has on record as "
        "the run of another start or rerun: it is no evidence for this one. Nothing is started in its place: ask "
        "QA.tech why, then run the flow anew."
    )
    return record.model_copy(update={"not_as_asked": told})


def _took_too_long(call: Call, seconds: float) -> LedgerUnavailable:
    error = LedgerUnavailable(
        f"The Prefect server took {seconds:.0f} s for the record of {call.what}. Nothing was sent. Retry the flow run."
    )
    error.retryable = True
    return error


async def _persistently(work: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Do something on the Prefect server, again and again where it fails."""
    give_up_at = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await work()
        except Exception:
            if time.monotonic() + pause > give_up_at:
                raise
        await anyio.sleep(pause)
        pause *= 2


def _now() -> datetime:
    return datetime.now(timezone.utc)


async def once(call: Call, send: Send, *, post_seconds: float, prepare: Prepare | None = None) -> QATechRunRecord:
    """Start or rerun once per slot of the current flow run; outside a flow run nothing is recorded, and it just sends.

    Args:
        call: What is asked for.
        send: Sends the POST, once.
        post_seconds: How long a POST can take.
        prepare: What comes before the POST and may be repeated, such as a look at the catalogue or an upload; it is
            told the root flow run. It is left out where the call is on record.

    Returns:
        The run, started now or before.
    """
    flow_run = await flow_run_of(call)
    if flow_run is None:
        if prepare is not None:
            await prepare(None)
        return await send()
    async with get_client() as client:
        flow_run_id, call = await locate(client, call, flow_run)
        return await Ledger(client, flow_run_id).once(
            call,
            send,
            busy_seconds=LATEST_SEND_SECONDS + post_seconds,
            latest_send_seconds=LATEST_SEND_SECONDS,
            prepare=prepare,
        )


async def attach(call: Call, record: QATechRunRecord) -> QATechRunRecord:
    """Put a run on record that somebody else has started; outside a flow run nothing is recorded.

    Args:
        call: What is asked for; with a label.
        record: The run.

    Returns:
        The run, attached now or before; with what its start told, where this flow run has started it itself.
    """
    flow_run = await flow_run_of(call)
    if flow_run is None:
        return record
    async with get_client() as client:
        flow_run_id, call = await locate(client, call, flow_run)
        return await Ledger(client, flow_run_id).attach(call, record)
