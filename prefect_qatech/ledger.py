"""The record of what a flow run has started, kept on the Prefect server, so that nothing is started twice.

A start cannot be taken back and QA.tech has no idempotency key, so the record must survive whatever a flow run can go
through: retries, a killed process, another machine, caching that is switched off. Prefect's caching alone does not
(another storage path, `PREFECT_TASKS_DISABLE_CACHING`, a sub-flow under a retried parent, a kill during the POST). The
inputs of a flow run do: rows on the server, unique per flow run and key; a second insert is refused with 409.

- The ledger is that of the *root* flow run: a sub-flow gets a new id when its parent is retried.
- A *slot* is one intended POST. Its rows: `intent` (written before the POST, deleted when QA.tech surely refused it)
  and `done` (the run, written as soon as the answer is there). An intent without `done` is a POST of unknown outcome.
- Which slot a call means is settled by the user's label; without one, by what is asked for (a fingerprint of the
  request) and the place of the call: the sub-flows and the task of the user's that it stands in, and its number among
  equal calls there. Prefect's own dynamic keys of task runs are random since 3.0 and tell nothing; those of sub-flow
  runs are numbers in the order of calls.
- A call that finds no slot at its place, while an earlier attempt of the flow run has left one for the same request at
  another place that nobody has taken up, cannot be told apart from it: `LedgerConflict`, nothing is sent.
- A task of the user's whose result Prefect has kept comes from the cache on a retry, without a call; the call that then
  comes first at its place need not be its own. It is not given its run: `LedgerConflict` as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal, TypeVar
from uuid import UUID, uuid4

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, TaskRun, TaskRunResult
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_qatech.exceptions import LedgerConflict, QATechAPIError, StartOutcomeUnknown
from prefect_qatech.ids import check_run_short_id
from prefect_qatech.twins import run_sync

Kind = Literal["start", "rerun"]
Chain = tuple[tuple[str, int], ...]
"""Flow run ids with their run counts, the root first: which attempt of which flow runs a call stands in."""

ModelT = TypeVar("ModelT", bound=BaseModel)

_PREFIX = "qatech-"
_LABELLED = "label"
# The n-th rerun of a gate is what it is, even where a retry, which sees other answers, would ask for other tests.
_OF_A_CAMPAIGN = re.compile(r"[0-9a-f]{16}-(?:label|[0-9a-f]{16})/rerun-[0-9]+")
_PAGE = 200
_RECORD_SECONDS = 60.0
_READS = 10
_READ_SECONDS = 0.5
_CANCEL_GRACE_SECONDS = 3.0


class QATechRunRecord(BaseModel):
    """A run that was started, rerun or attached.

    Attributes:
        kind: How it came to be.
        run_short_id: Its short id.
        run_url: Its address on QA.tech.
        test_count: How many test cases the answer to its POST promised.
        test_count_is_unreadable: Whether the answer told a count that cannot be read.
        plan_short_id: The plan it belongs to.
        plan_name: The plan's name.
        started_at: When the POST was sent, or the run was attached.
        slot: The slot of the ledger that holds it; None outside a flow run.
        flow_run_id: The root flow run whose ledger that is.
        attempt: The attempt in which it was started: flow run ids with their run counts, the root first.
        found: Whether it was found in the ledger instead of being started by this call.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["start", "rerun", "attached"]
    run_short_id: str
    run_url: str | None = None
    test_count: int | None = None
    test_count_is_unreadable: bool = False
    plan_short_id: str | None = None
    plan_name: str | None = None
    started_at: datetime
    slot: str | None = None
    flow_run_id: str | None = None
    attempt: tuple[tuple[str, int], ...] = ()
    found: bool = False


def short_id_of(run: QATechRunRecord | str) -> str:
    """Return the short id of a run, given as what its start or rerun returned or as the id itself.

    Args:
        run: The record, or the id.

    Returns:
        The short id.

    Raises:
        ValueError: It is neither.
    """
    # What the service gave is not refused for its looks.
    return run.run_short_id if isinstance(run, QATechRunRecord) else check_run_short_id(run)


class QATechLedgerEntry(BaseModel):
    """One slot of a flow run's ledger.

    Attributes:
        slot: Its name, for `attach_run` and `clear_intent`.
        kind: `start` or `rerun`.
        what: What was asked for, for people.
        label: The user's label.
        fingerprint: Of the request.
        place: Where the call stood.
        place_is_stable: Whether that is the same on a retry.
        chain: The attempt that wrote the intent.
        seen_in: Later attempts that took it up.
        callers: The task runs of the user's, in any attempt, in which the call stood.
        sent_at: When the POST was about to be sent.
        nonce: Tells the writer that the row is its own.
        run: The run, once it is known.
    """

    model_config = ConfigDict(extra="ignore")

    slot: str
    kind: Kind
    what: str
    label: str | None = None
    fingerprint: str
    place: str
    place_is_stable: bool = True
    chain: Chain
    seen_in: list[Chain] = []
    callers: list[str] = []
    sent_at: datetime
    nonce: str = ""
    run: QATechRunRecord | None = None

    @property
    def is_open(self) -> bool:
        """Whether the outcome of the POST is not known."""
        return self.run is None


@dataclass(frozen=True)
class Call:
    """A call that wants to start or rerun, and where it stands.

    Attributes:
        kind: `start` or `rerun`.
        what: What is asked for, for people.
        label: The user's label.
        fingerprint: Of the request.
        place: Where the call stands: the sub-flows, the task of the user's, and its number among equal calls there.
        callers: The task runs of the user's in which it stands.
        place_is_stable: Whether that is the same on a retry.
        chain: The attempt it stands in.
        is_first_attempt: Whether no flow run that it stands in has run before.
    """

    kind: Kind
    what: str
    fingerprint: str
    chain: Chain
    place: str = "0"
    callers: tuple[str, ...] = ()
    place_is_stable: bool = True
    label: str | None = None
    is_first_attempt: bool = False

    @property
    def family(self) -> str:
        """What all slots that this call could mean have in common."""
        meaning = f"label:{self.label}" if self.label is not None else f"request:{self.fingerprint}"
        return _hash(f"{self.kind}:{meaning}")

    @property
    def slot(self) -> str:
        """The name of its slot."""
        return f"{self.family}-{_LABELLED if self.label is not None else _hash(self.place)}"


def fingerprint(*parts: Any) -> str:
    """Give a short text that is the same for equal requests and tells nothing of their contents."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve(
    call: Call, entries: Sequence[QATechLedgerEntry], cached: Set[str] = frozenset()
) -> QATechLedgerEntry | None:
    """Pure: say which recorded slot a call means.

    Args:
        call: The call.
        entries: The slots of its family.
        cached: Those of an earlier attempt whose calls stood in tasks of the user's with results that Prefect has kept.

    Returns:
        The slot; None when the call is a new one.

    Raises:
        LedgerConflict: It could mean a slot that an earlier attempt left at another place, or that of a task which
            comes from its cache.
    """
    for entry in entries:
        if entry.slot == call.slot:
            if entry.slot in cached and call.label is None:
                raise _ambiguous(call, entry, "in a task whose result Prefect has kept")
            return entry
    if call.label is not None:
        return None
    left = [entry for entry in entries if entry.slot not in cached and not _taken_up(entry, call)]
    if not left:
        return None
    # What asks for an attached run asks for one run, which is the same wherever in the flow that is.
    is_attached = left[0].run is not None and left[0].run.kind == "attached"
    if len(entries) == 1 and (is_attached or not (call.place_is_stable and left[0].place_is_stable)):
        return left[0]
    raise _ambiguous(call, left[0], "at another place of the flow")


def _ambiguous(call: Call, entry: QATechLedgerEntry, where: str) -> LedgerConflict:
    run = entry.run
    return LedgerConflict(
        f"This flow run has recorded {call.what} before ({run.run_short_id if run else 'outcome unknown'}), {where}, "
        "so it cannot be told whether this call means that one. Nothing was sent. Give each of the calls a label of "
        "its own, which settles it in any order.",
        slot=entry.slot,
        run_short_id=run.run_short_id if run else None,
        run_url=run.run_url if run else None,
    )


def _taken_up(entry: QATechLedgerEntry, call: Call) -> bool:
    """Whether the attempt that a call stands in has written a slot, or taken it up."""
    return any(same_attempt(chain, call.chain) for chain in _chains(entry))


def _chains(entry: QATechLedgerEntry) -> Iterable[Chain]:
    return (entry.chain, *entry.seen_in)


def same_attempt(one: Chain, other: Chain) -> bool:
    """Pure: whether two calls stand in the same attempt of the flow runs, and tasks, that both stand in."""
    counts = dict(one)
    return all(counts[flow_run_id] == count for flow_run_id, count in other if flow_run_id in counts)


_ordinals: dict[tuple[str, int, str], list[str]] = {}
_ordinals_lock = threading.Lock()


def _ordinal(flow_run_id: str, run_count: int, family: str, caller: str) -> int:
    """Number the equal calls of one attempt of a flow run; a retried task run keeps its number."""
    with _ordinals_lock:
        for key in [key for key in _ordinals if key[0] == flow_run_id and key[1] < run_count]:
            del _ordinals[key]
        callers = _ordinals.setdefault((flow_run_id, run_count, family), [])
        if caller not in callers:
            callers.append(caller)
        return callers.index(caller)


def forget_calls(flow_run_id: UUID) -> None:
    """Number the calls of a flow run anew: it is going to run from its top again, and its run count stays the same.

    Args:
        flow_run_id: The flow run.
    """
    with _ordinals_lock:
        for key in [key for key in _ordinals if key[0] == str(flow_run_id)]:
            del _ordinals[key]


@dataclass
class Ledger:
    """The ledger of a root flow run.

    Attributes:
        client: A client of the Prefect API.
        flow_run_id: The root flow run.
    """

    client: PrefectClient
    flow_run_id: UUID

    async def entries(self, family: str = "") -> list[QATechLedgerEntry]:
        """Read the slots, in the order in which they were written."""
        return _entries_of(await self.rows(family))

    async def rows(self, prefix: str) -> dict[str, str]:
        """Read the rows whose keys begin so."""
        rows: dict[str, str] = {}
        while True:
            page = await self.client.filter_flow_run_input(
                flow_run_id=self.flow_run_id,
                key_prefix=f"{_PREFIX}{prefix}",
                limit=_PAGE,
                exclude_keys=set(rows),
            )
            rows.update({row.key: row.value for row in page})
            if len(page) < _PAGE:
                return rows

    async def once(
        self, call: Call, send: Callable[[], Awaitable[QATechRunRecord]], *, busy_seconds: float
    ) -> QATechRunRecord:
        """Find the run that a call has started before, or start it.

        Args:
            call: What is asked for, and where.
            send: Sends the POST, once.
            busy_seconds: How long a POST can take: for that long an open intent may be somebody else's at work.

        Returns:
            The run.

        Raises:
            StartOutcomeUnknown: A POST was sent, by this call or before, and its outcome is not known.
            LedgerConflict: It cannot be told whether the call means a recorded run, or the label stands for another.
            QATechAPIError: QA.tech surely did not accept it; there is no trace of it in the ledger.
        """
        # Nobody can have left a slot at another place before the first attempt; one at this place refuses the insert.
        entries = [] if call.is_first_attempt else await self.entries(call.family)
        found = resolve(call, entries, await self._cached(call, entries))
        if found is not None:
            return await self._take_up(call, found, busy_seconds)
        now = datetime.now(timezone.utc)
        intent = QATechLedgerEntry(
            slot=call.slot,
            kind=call.kind,
            what=call.what,
            label=call.label,
            fingerprint=call.fingerprint,
            place=call.place,
            place_is_stable=call.place_is_stable,
            chain=call.chain,
            callers=list(call.callers),
            sent_at=now,
            nonce=uuid4().hex,
        )
        if not await self.insert(f"{call.slot}-intent", intent.model_dump_json(), nonce=intent.nonce):
            other = next((entry for entry in await self.entries(call.family) if entry.slot == call.slot), intent)
            return await self._take_up(call, other, busy_seconds)
        return await _finish_despite_cancellation(self._send_and_record(intent, send))

    async def _cached(self, call: Call, entries: Sequence[QATechLedgerEntry]) -> set[str]:
        """Name the slots of earlier attempts whose calls need not come again: Prefect keeps their tasks' results."""
        cached: set[str] = set()
        for entry in entries:
            if call.label is not None or _taken_up(entry, call):
                continue
            for caller in entry.callers:
                try:
                    task_run = await self.client.read_task_run(UUID(caller))
                except ObjectNotFound:
                    continue
                # What a server is told of a result is where it is kept; of one that is not kept, nothing.
                if task_run.state is not None and task_run.state.is_completed() and task_run.state.data is not None:
                    cached.add(entry.slot)
        return cached

    async def _send_and_record(
        self, intent: QATechLedgerEntry, send: Callable[[], Awaitable[QATechRunRecord]]
    ) -> QATechRunRecord:
        try:
            record = await send()
        except StartOutcomeUnknown as error:
            raise self._unknown(intent, str(error)) from None
        except QATechAPIError:
            await self.client.delete_flow_run_input(flow_run_id=self.flow_run_id, key=f"{_PREFIX}{intent.slot}-intent")
            raise
        record = record.model_copy(
            update=self._where(intent.slot) | {"started_at": intent.sent_at, "attempt": intent.chain}
        )
        await self._record(intent, record)
        return record

    async def _record(self, intent: QATechLedgerEntry, record: QATechRunRecord) -> None:
        give_up_at = anyio.current_time() + _RECORD_SECONDS
        pause = 0.5
        while True:
            try:
                await self.insert(f"{intent.slot}-done", record.model_dump_json())
                return
            except Exception as error:
                if anyio.current_time() + pause > give_up_at:
                    unknown = self._unknown(
                        intent,
                        f"QA.tech started run {record.run_short_id} ({record.run_url}), but the Prefect server did not "
                        f"take the record of it ({type(error).__name__}).",
                    )
                    unknown.run_short_id, unknown.run_url = record.run_short_id, record.run_url
                    break
            await anyio.sleep(pause)
            pause *= 2
        raise unknown

    async def _take_up(self, call: Call, entry: QATechLedgerEntry, busy_seconds: float) -> QATechRunRecord:
        if (
            call.label is not None
            and entry.fingerprint != call.fingerprint
            and not _OF_A_CAMPAIGN.fullmatch(call.label)
        ):
            raise LedgerConflict(
                f'The label "{call.label}" stands for {entry.what} in this flow run, recorded at '
                f"{entry.sent_at:%Y-%m-%d %H:%M:%S} UTC, and this call asks for something else. Nothing was sent. Give "
                "it another label, or run the flow anew.",
                slot=entry.slot,
                flow_run_id=str(self.flow_run_id),
                run_short_id=entry.run.run_short_id if entry.run else None,
                run_url=entry.run.run_url if entry.run else None,
            )
        # The intent may be that of another process that is at work on the same flow run just now.
        while entry.is_open and (datetime.now(timezone.utc) - entry.sent_at).total_seconds() < busy_seconds:
            await anyio.sleep(1)
            entries = await self.entries(call.family)
            entry = next((found for found in entries if found.slot == entry.slot), entry)
        if entry.run is None:
            raise self._unknown(
                entry,
                f"{entry.what} was sent at {entry.sent_at:%Y-%m-%d %H:%M:%S} UTC by this flow run, and whether it "
                "started a run is not known: the process ended, or the answer was lost, before the run was recorded.",
            )
        if call.label is None and not _taken_up(entry, call):
            seen = json.dumps({"chain": call.chain, "callers": call.callers})
            await self.insert(f"{entry.slot}-seen-{_hash(str(call.chain))}", seen)
        return entry.run.model_copy(update=self._where(entry.slot) | {"found": True})

    def _where(self, slot: str) -> dict[str, object]:
        return {"slot": slot, "flow_run_id": str(self.flow_run_id)}

    def _unknown(self, entry: QATechLedgerEntry, what: str) -> StartOutcomeUnknown:
        # The client's sentence and ours end differently; the commands stand once, at the end.
        return StartOutcomeUnknown(
            f"{what} It is not sent again. Look in QA.tech for a run started at that time. If there is one: "
            f"`prefect-qatech ledger attach {self.flow_run_id} {entry.slot} <run>`; if there is none: "
            f"`prefect-qatech ledger clear {self.flow_run_id} {entry.slot}`; then retry the flow run.",
            request=entry.what,
            sent_at=entry.sent_at.isoformat(timespec="seconds"),
            slot=entry.slot,
            flow_run_id=str(self.flow_run_id),
        )

    async def insert(self, key: str, value: str, *, nonce: str | None = None) -> bool:
        """Write a row; False when somebody else has written it before."""
        try:
            await self.client.create_flow_run_input(flow_run_id=self.flow_run_id, key=f"{_PREFIX}{key}", value=value)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 409:
                raise
        else:
            return True
        # Prefect's client sends again when an answer was lost, and then meets its own row.
        try:
            row = await self.client.read_flow_run_input(flow_run_id=self.flow_run_id, key=f"{_PREFIX}{key}")
        except PrefectHTTPStatusError:
            return False
        return nonce is not None and json.loads(row).get("nonce") == nonce

    async def as_started(self, record: QATechRunRecord) -> QATechRunRecord:
        """Give an attached run what its start told, where this flow run has started it itself."""
        for entry in await self.entries():
            run = entry.run
            if run is not None and run.kind == "start" and run.run_short_id == record.run_short_id:
                return run.model_copy(update={name: getattr(record, name) for name in ("slot", "flow_run_id", "found")})
        return record

    async def attach(self, slot: str, record: QATechRunRecord) -> QATechRunRecord:
        """Write the run of an open slot that a person has found."""
        entry = await self._open_entry(slot)
        if not await self.insert(f"{entry.slot}-done", record.model_copy(update=self._where(slot)).model_dump_json()):
            raise ValueError(f"slot {slot} has got a run in the meantime")
        return record

    async def clear(self, slot: str) -> None:
        """Delete the open intent of a slot, so that the next retry starts anew."""
        entry = await self._open_entry(slot)
        await self.client.delete_flow_run_input(flow_run_id=self.flow_run_id, key=f"{_PREFIX}{entry.slot}-intent")

    async def _open_entry(self, slot: str) -> QATechLedgerEntry:
        entries = {entry.slot: entry for entry in await self.entries()}
        if slot not in entries:
            known = ", ".join(found.slot for found in entries.values() if found.is_open) or "none"
            raise ValueError(f"flow run {self.flow_run_id} has no slot {slot!r} in its ledger (open ones: {known})")
        run = entries[slot].run
        if run is not None:
            raise ValueError(f"slot {slot} is not open: it holds run {run.run_short_id} ({run.run_url})")
        return entries[slot]


def _read(model: type[ModelT], key: str, row: str) -> ModelT:
    try:
        return model.model_validate_json(row)
    except ValidationError as error:
        raise LedgerConflict(
            f"The ledger's row {key} cannot be read ({error.error_count()} errors); was it written by another "
            "version of prefect-qatech? Nothing was sent. Run the flow anew."
        ) from None


def _entries_of(rows: dict[str, str]) -> list[QATechLedgerEntry]:
    entries: dict[str, QATechLedgerEntry] = {}
    for key, value in rows.items():
        if key.endswith("-intent"):
            entry = _read(QATechLedgerEntry, key, value)
            entries[entry.slot] = entry
    for entry in entries.values():
        if (done := rows.get(f"{_PREFIX}{entry.slot}-done")) is not None:
            entry.run = _read(QATechRunRecord, f"{entry.slot}-done", done)
        for key, value in rows.items():
            if key.startswith(f"{_PREFIX}{entry.slot}-seen-"):
                seen = json.loads(value)
                entry.seen_in.append(tuple((str(flow), int(count)) for flow, count in seen["chain"]))
                entry.callers.extend(seen["callers"])
    return sorted(entries.values(), key=lambda entry: entry.sent_at)


async def _finish_despite_cancellation(work: Awaitable[QATechRunRecord]) -> QATechRunRecord:
    """Give a POST that is under way a moment to be answered and recorded when the flow run is cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.move_on_after(_CANCEL_GRACE_SECONDS, shield=True):
            await asyncio.wait([task])
        if not task.cancel() and not task.cancelled():
            task.exception()
        raise


async def locate(
    client: PrefectClient, kind: Kind, what: str, request_fingerprint: str, label: str | None
) -> tuple[UUID, Call] | None:
    """Find out which flow run's ledger a call belongs to, and where in it the call stands.

    Args:
        client: A client of the Prefect API.
        kind: `start` or `rerun`.
        what: What is asked for, for people.
        request_fingerprint: Of the request.
        label: The user's label.

    Returns:
        The root flow run's id and the call; None outside a flow run.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    flow_run = context.flow_run
    chain = [(str(flow_run.id), flow_run.run_count)]
    places: list[str] = []
    callers: list[str] = []
    stable, first = True, _runs_for_the_first_time(flow_run)
    parent_task_run_id = flow_run.parent_task_run_id
    while parent_task_run_id is not None:
        task_run = await client.read_task_run(parent_task_run_id)
        if task_run.flow_run_id is None:
            break
        parent = await client.read_flow_run(task_run.flow_run_id)
        # The name of a sub-flow's task run is that of the sub-flow and its number among the calls of the same function.
        # In a task that number is random.
        name = task_run.name
        if not task_run.dynamic_key.isdigit():
            outer = await _outermost(client, task_run)
            name = name.removesuffix(f"-{task_run.dynamic_key}")
            family = f"{name}:{kind}:{label}:{request_fingerprint}"
            if outer is None:
                stable = False
            else:
                family = f"{outer.name}:{family}"
                number = _ordinal(str(parent.id), parent.run_count, family, outer.task_run_id)
                name = f"{name} in task {outer.name} {number}"
                callers.append(outer.task_run_id)
        places.insert(0, f"{task_run.task_key.rpartition('-')[0]}:{name}")
        chain.insert(0, (str(parent.id), parent.run_count))
        first = first and _runs_for_the_first_time(parent)
        parent_task_run_id = parent.parent_task_run_id
    outer = await _caller(client)
    call = Call(kind=kind, what=what, fingerprint=request_fingerprint, chain=tuple(chain), label=label)
    # On a distributed task runner nobody can number equal calls, so they share one run.
    family = f"{outer.name}:{call.family}"
    number = 0 if context.detached else _ordinal(str(flow_run.id), flow_run.run_count, family, outer.task_run_id)
    if outer.name:
        callers.append(outer.task_run_id)
        places.append(outer.name)
    return UUID(chain[0][0]), replace(
        call,
        place="/".join([*places, str(number)]),
        place_is_stable=stable,
        callers=tuple(callers),
        is_first_attempt=first,
    )


def _runs_for_the_first_time(flow_run: FlowRun) -> bool:
    """Whether a flow run was neither retried nor resumed: it is in the state in which it began to run.

    A resumed one keeps its run count.
    """
    state = flow_run.state
    return (
        flow_run.run_count == 1 and state is not None and state.is_running() and state.timestamp == flow_run.start_time
    )


@dataclass(frozen=True)
class _Caller:
    """Who calls: a task run of the user's, by its task's name; without a name one of our tasks in the flow itself."""

    task_run_id: str
    name: str = ""


async def _caller(client: PrefectClient) -> _Caller:
    """Tell who calls: our task's run, or the user's task run that it stands in, whose retries Prefect does not tell us.

    So equal calls in one task run of the user's share a run, unless a label tells them apart.
    """
    context = TaskRunContext.get()
    if context is None:
        return _Caller("the flow itself")
    return await _outermost(client, context.task_run) or _Caller(str(context.task_run.id))


async def _outermost(client: PrefectClient, task_run: TaskRun) -> _Caller | None:
    """Give the outermost task run that a task run was called in; None where it was called in none."""
    outermost: _Caller | None = None
    while parents := [item for item in task_run.task_inputs.get("__parents__", []) if isinstance(item, TaskRunResult)]:
        found = await _read_task_run(client, parents[0].id)
        # A task key is the function's name and a hash that differs between processes.
        name = found.task_key.rpartition("-")[0] if found is not None else "unknown"
        outermost = _Caller(str(parents[0].id), name)
        if found is None:
            break
        task_run = found
    return outermost


async def _read_task_run(client: PrefectClient, task_run_id: UUID) -> TaskRun | None:
    # Task runs reach the server as events, a moment after they have begun.
    for _ in range(_READS):
        try:
            return await client.read_task_run(task_run_id)
        except ObjectNotFound:
            await anyio.sleep(_READ_SECONDS)
    return None


async def once(
    kind: Kind,
    what: str,
    request_fingerprint: str,
    label: str | None,
    send: Callable[[], Awaitable[QATechRunRecord]],
    *,
    busy_seconds: float,
) -> QATechRunRecord:
    """Start or rerun once per slot of the current flow run; outside a flow run, just send.

    Args:
        kind: `start` or `rerun`.
        what: What is asked for, for people.
        request_fingerprint: Of the request.
        label: The user's label.
        send: Sends the POST, once.
        busy_seconds: How long a POST can take.

    Returns:
        The run, started now or before.
    """
    # Outside a flow run nothing needs Prefect's API, so that it cannot fail either.
    if FlowRunContext.get() is None:
        return await send()
    async with get_client() as client:
        located = await locate(client, kind, what, request_fingerprint, label)
        if located is None:
            return await send()
        flow_run_id, call = located
        ledger = Ledger(client, flow_run_id)
        record = await ledger.once(call, send, busy_seconds=busy_seconds)
        return await ledger.as_started(record) if record.kind == "attached" else record


async def is_on_record(first: QATechRunRecord, label: str) -> bool:
    """Whether the ledger that holds a run has a rerun of that label.

    Args:
        first: The first run of a campaign.
        label: The label of one of its reruns.
    """
    if not first.found or first.flow_run_id is None:
        return False
    call = Call(kind="rerun", what="", fingerprint="", chain=(), label=label)
    async with get_client() as client:
        return bool(await Ledger(client, UUID(first.flow_run_id)).entries(call.family))


async def _root_of(client: PrefectClient, flow_run_id: UUID | str) -> UUID:
    return (await root_flow_run(client, flow_run_id)).id


async def root_flow_run(client: PrefectClient, flow_run_id: UUID | str) -> FlowRun:
    """Give the flow run that a sub-flow run is part of, however deep.

    Args:
        client: A client of the Prefect API.
        flow_run_id: The sub-flow run, or the root itself.

    Returns:
        The root flow run.

    Raises:
        ValueError: There is no such flow run.
    """
    try:
        flow_run = await client.read_flow_run(UUID(str(flow_run_id)))
        while flow_run.parent_task_run_id is not None:
            task_run = await client.read_task_run(flow_run.parent_task_run_id)
            if task_run.flow_run_id is None:
                break
            flow_run = await client.read_flow_run(task_run.flow_run_id)
    except ObjectNotFound:
        raise ValueError(f"the Prefect server knows no flow run {flow_run_id}") from None
    return flow_run


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
    async with get_client() as client:
        return await Ledger(client, await _root_of(client, flow_run_id)).entries()


async def aattach_run(
    flow_run_id: UUID | str, slot: str, run_short_id: str, *, run_url: str | None = None
) -> QATechRunRecord:
    """Record the run that an open intent has started, after a person has found it in QA.tech.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
        slot: The open slot, as the error and `read_ledger` name it.
        run_short_id: The run that was found.
        run_url: Its address.

    Returns:
        The record.

    Raises:
        ValueError: There is no such flow run or slot, the slot is not open, or the id is not a run's.

    Example:
        ```python
        await aattach_run(flow_run_id, "0a1b2c3d4e5f6071-label", "abc123")
        ```
    """
    async with get_client() as client:
        ledger = Ledger(client, await _root_of(client, flow_run_id))
        record = QATechRunRecord(
            kind="attached",
            run_short_id=check_run_short_id(run_short_id),
            run_url=run_url,
            started_at=datetime.now(timezone.utc),
        )
        return await ledger.attach(slot, record)


async def aclear_intent(flow_run_id: UUID | str, slot: str) -> None:
    """Delete an open intent, after a person has made sure that it has started nothing.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
        slot: The open slot, as the error and `read_ledger` name it.

    Raises:
        ValueError: There is no such flow run or slot, or the slot is not open.

    Example:
        ```python
        await aclear_intent(flow_run_id, "0a1b2c3d4e5f6071-label")
        ```
    """
    async with get_client() as client:
        await Ledger(client, await _root_of(client, flow_run_id)).clear(slot)


def read_ledger(flow_run_id: UUID | str) -> list[QATechLedgerEntry]:
    """Sync twin of `aread_ledger`."""
    return run_sync(lambda: aread_ledger(flow_run_id))


def attach_run(flow_run_id: UUID | str, slot: str, run_short_id: str, *, run_url: str | None = None) -> QATechRunRecord:
    """Sync twin of `aattach_run`."""
    return run_sync(lambda: aattach_run(flow_run_id, slot, run_short_id, run_url=run_url))


def clear_intent(flow_run_id: UUID | str, slot: str) -> None:
    """Sync twin of `aclear_intent`."""
    return run_sync(lambda: aclear_intent(flow_run_id, slot))
