"""Pure: what a slot of the ledger is, and which slot a call means.

- A *slot* is one intended POST, or one run that somebody else started. Its rows: `intent` (written before the POST,
  deleted when QA.tech surely refused it) and `done` (the run, with all that the intent says, written as soon as the
  answer is there). An intent without `done` is a POST of unknown outcome.
- A call means the slot of its *name*: the user's label, or its number in a gate's campaign. Without a name it means the
  slot of its request (a fingerprint) and its *place*: the sub-flows that it stands in, and its number among equal calls
  there. Equal calls are interchangeable, so nobody need tell them apart.
- *Where* a run is, the service's address and the project, is no part of the request: the same request on record at
  another address is a conflict, and nothing is sent.
- What a POST makes need not be a run: a release check has a slot like one, in a family of its own.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal, TypeVar

from prefect.client.schemas.objects import FlowRunInput
from pydantic import BaseModel, ConfigDict, ValidationError

from prefect_qatech.addresses import safe_url
from prefect_qatech.api.ids import check_run_short_id
from prefect_qatech.api.responses import QATechRun, QATechStartedRun
from prefect_qatech.exceptions import InvalidInputError, LedgerConflict
from prefect_qatech.inputs import describe_in_one_sentence
from prefect_qatech.texts import short_hash

Kind = Literal["start", "rerun", "attach"]
Chain = tuple[tuple[str, int], ...]
"""Flow run ids with their run counts, the root first: which attempt of which flow runs a call stands in."""

ModelT = TypeVar("ModelT", bound=BaseModel)


class QATechRunRecord(BaseModel):
    """A run that was started, rerun or attached.

    Attributes:
        kind: How it came to be.
        run_short_id: Its short id.
        run_url: Its address on QA.tech.
        test_count: How many test cases the answer to its POST promised; nobody knows it of an attached run.
        test_count_is_unreadable: Whether the answer held a count that cannot be read.
        plan_short_id: The plan it belongs to.
        plan_name: The plan's name.
        rerun_of: Short id of the run that it repeats, if it is a rerun.
        target: What it was started for, or attached for, where that was named.
        started_at: When the POST was sent, or the run was attached.
        slot: The slot of the ledger that holds it; None outside a flow run.
        flow_run_id: The root flow run whose ledger that is.
        attempt: The attempt in which it was started: flow run ids with their run counts, the root first.
        is_resumed: Whether it was on record already, and not started by this call.
        not_as_asked: Why it is not the run that was asked for, where QA.tech has started another one; no call gets it.
        makes: What it is: `run`, or what another POST makes, such as `release check`.
        answer: What QA.tech answered to that other POST.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", json_schema_extra=describe_in_one_sentence)

    kind: Literal["start", "rerun", "attached"]
    run_short_id: str
    run_url: str | None = None
    test_count: int | None = None
    test_count_is_unreadable: bool = False
    plan_short_id: str | None = None
    plan_name: str | None = None
    rerun_of: str | None = None
    target: str | None = None
    started_at: datetime
    slot: str | None = None
    flow_run_id: str | None = None
    attempt: tuple[tuple[str, int], ...] = ()
    is_resumed: bool = False
    not_as_asked: str | None = None
    makes: str = "run"
    answer: dict[str, Any] | None = None

    def __str__(self) -> str:
        return f"{self.identity} ({self.run_url or 'address unknown'})"

    @property
    def identity(self) -> str:
        """What tells it from all others: a run and a release check may have the same id."""
        return f"{self.makes} {self.run_short_id}"

    @property
    def age_seconds(self) -> float | None:
        """How many seconds ago it was started; None for an attached run."""
        if self.kind == "attached":
            return None
        return max(0.0, (datetime.now(timezone.utc) - self.started_at).total_seconds())

    def describe(self, run: QATechRun) -> QATechRun:
        """Return a run, as QA.tech shows it, with what only the answer to its POST told of where it belongs."""
        told = {"plan_short_id": self.plan_short_id, "rerun_of": self.rerun_of}
        return run.model_copy(update={name: value for name, value in told.items() if value is not None})


def record_of(
    kind: Literal["start", "rerun"], started: QATechStartedRun, plan_short_id: str | None, rerun_of: str | None = None
) -> QATechRunRecord:
    """Return the record of a run that QA.tech has just accepted; it is of the plan that the answer names, if any."""
    plan = started.test_plan
    return QATechRunRecord(
        kind=kind,
        run_short_id=started.run_short_id,
        run_url=safe_url(started.url),
        test_count=started.test_count,
        test_count_is_unreadable=started.test_count_is_unreadable,
        plan_short_id=(plan.short_id if plan else None) or plan_short_id,
        plan_name=plan.name if plan else None,
        rerun_of=rerun_of,
        started_at=datetime.now(timezone.utc),
    )


def attached_run(run_short_id: str) -> QATechRunRecord:
    """Return the record of a run that somebody else has started, of which no more than its id is known."""
    return QATechRunRecord(kind="attached", run_short_id=run_short_id, started_at=datetime.now(timezone.utc))


def short_id_of(run: QATechRunRecord | str) -> str:
    """Return the short id of a run, given as its record or as the id itself; anything else is an InvalidInputError."""
    if inspect.iscoroutine(run):
        run.close()
        raise InvalidInputError("the run is a coroutine: `await` is missing before the call that returns it")
    # An id that the service has given is never refused for its looks.
    return run.run_short_id if isinstance(run, QATechRunRecord) else check_run_short_id(run)


class QATechLedgerEntry(BaseModel):
    """One slot of a flow run's ledger.

    Attributes:
        slot: Its name, for `attach_run` and `clear_intent`.
        kind: `start`, `rerun`, or `attach`, which sends nothing.
        makes: What its POST makes.
        what: What was asked for, for people.
        label: The user's label.
        campaign: Of a gate's reruns: the slot of the campaign's first run, and the number of the rerun; of a first run
            that a gate has started anew: the slot of the former one, and how often that was done.
        fingerprint: Of the request.
        address: Where it was asked for: the service's address, and the project where one is named.
        rerun_of: Short id of the run that was to be rerun.
        target: What it was started for, where that was named.
        place: Where the call stood.
        chain: The attempt that wrote the intent.
        sent_at: When the POST was about to be sent.
        busy_seconds: For how long after that the POST can be under way.
        nonce: Tells the writer that the row is its own.
        created: When the server has stored the intent, by its own clock.
        run: The run, once it is known.
    """

    model_config = ConfigDict(extra="ignore")

    slot: str
    kind: Kind
    makes: str = "run"
    what: str
    label: str | None = None
    campaign: tuple[str, int] | None = None
    fingerprint: str
    address: str = ""
    rerun_of: str | None = None
    target: str | None = None
    place: str
    chain: Chain
    sent_at: datetime
    busy_seconds: float = 0.0
    nonce: str = ""
    created: datetime | None = None
    run: QATechRunRecord | None = None

    @property
    def family(self) -> str:
        """What all slots for the same request, or of the same name, have in common."""
        return self.slot.partition("-")[0]

    @property
    def service(self) -> str:
        """Which service has its run: two services may give two runs the same id."""
        return service_of(self.address)

    @property
    def is_open(self) -> bool:
        """Whether the outcome of the POST is not known."""
        return self.run is None

    def row(self) -> dict[str, Any]:
        """Return what is stored of the intent."""
        return self.model_dump(mode="json", exclude={"run", "created"})

    @property
    def outcome(self) -> str:
        """What came of it, for people."""
        return "outcome unknown" if self.run is None else str(self.run)


@dataclass(frozen=True)
class Call:
    """A call that wants to start, rerun or attach, and where it stands; `QATechLedgerEntry` says what the fields mean.

    `is_ordered_by_prefect`: the place holds a number that Prefect gave a sub-flow run in another process, in the order
    of calls, whatever each asks for. `caller` has the number that the place ends with: a task run, or the call itself.
    """

    kind: Kind
    what: str
    fingerprint: str
    address: str = ""
    label: str | None = None
    campaign: tuple[str, int] | None = None
    rerun_of: str | None = None
    target: str | None = None
    makes: str = "run"
    chain: Chain = ()
    place: str = "0"
    is_ordered_by_prefect: bool = False
    caller: str | None = None

    @property
    def name(self) -> str:
        """What such a call is called: `start`, `rerun`, `attach`, or by what else it makes."""
        return self.kind if self.makes == "run" else self.makes

    @property
    def is_named(self) -> bool:
        """Whether it means the same slot wherever it stands."""
        return self.label is not None or self.campaign is not None

    @property
    def is_first_attempt(self) -> bool:
        """Whether no attempt before this one can have left a slot at another place."""
        return all(run_count == 1 for _, run_count in self.chain)

    @property
    def family(self) -> str:
        """What all slots that this call could mean have in common."""
        if self.campaign is not None:
            meaning = f"campaign:{self.campaign[0]}:{self.campaign[1]}"
        elif self.label is not None:
            meaning = f"label:{self.label}"
        else:
            meaning = f"request:{self.fingerprint}"
        return short_hash(f"{self.name}:{meaning}")

    @property
    def slot(self) -> str:
        named = "campaign" if self.campaign is not None else "label"
        return f"{self.family}-{named if self.is_named else short_hash(self.place)}"

    def entry(self, *, sent_at: datetime, busy_seconds: float, nonce: str) -> QATechLedgerEntry:
        more = {"slot": self.slot, "sent_at": sent_at, "busy_seconds": busy_seconds, "nonce": nonce}
        return QATechLedgerEntry.model_validate(asdict(self) | more)


def service_of(address: str) -> str:
    """Return the service's address alone, without the project."""
    return address.partition(", project ")[0]


def fingerprint(*parts: Any) -> str:
    """Return a short text that is the same for equal requests and tells nothing of their contents."""
    return short_hash(json.dumps(parts, sort_keys=True, default=str), 32)


def resolve(call: Call, entries: Sequence[QATechLedgerEntry]) -> QATechLedgerEntry | None:
    """Return the slot that a call means, among those of its family; None when the call is a new one.

    Raises:
        LedgerConflict: It stands in a sub-flow run of another process, and an earlier attempt asked for the same in
            one that was called in another order.
    """
    for entry in entries:
        if entry.slot == call.slot:
            return entry
    if call.is_named or not call.is_ordered_by_prefect:
        return None
    for entry in entries:
        if not same_attempt(entry.chain, call.chain) and _sub_flows(entry.place) != _sub_flows(call.place):
            raise conflict(
                entry,
                f"An earlier attempt of this flow run has recorded {call.what} ({entry.outcome}) in another of the "
                "deployments that it runs, so it cannot be told whether this call means that one. Nothing was sent. "
                "Give each of the calls a label of its own, which settles it in any order.",
            )
    return None


def _sub_flows(place: str) -> str:
    return place.rpartition("/")[0]


def conflict(entry: QATechLedgerEntry, message: str, flow_run_id: str | None = None) -> LedgerConflict:
    """Return the error that a recorded slot does not fit a call."""
    run = entry.run
    return LedgerConflict(
        message,
        slot=entry.slot,
        flow_run_id=flow_run_id,
        run_short_id=run.run_short_id if run else None,
        run_url=run.run_url if run else None,
    )


def starts_not_repeated(
    call: Call, entries: Sequence[QATechLedgerEntry], families: Set[str]
) -> list[QATechLedgerEntry]:
    """Return the starts of earlier attempts at the place of a new call for which this attempt has not asked.

    `families` are those of all calls of this attempt so far.
    """
    if call.kind != "start" or call.is_named:
        return []
    return [
        entry
        for entry in entries
        if entry.kind == "start"
        and entry.makes == call.makes
        and entry.label is None
        and entry.campaign is None
        and entry.place == call.place
        and entry.family not in families
        and not same_attempt(entry.chain, call.chain)
    ]


def same_attempt(one: Chain, other: Chain) -> bool:
    """Whether two calls stand in the same attempt of the flow runs, and tasks, that both stand in."""
    counts = dict(one)
    return all(counts[flow_run_id] == count for flow_run_id, count in other if flow_run_id in counts)


def done_row(entry: QATechLedgerEntry, run: QATechRunRecord) -> str:
    """Return the row of a slot that holds its run: it stands for the slot by itself."""
    return json.dumps({**run.model_dump(mode="json"), "nonce": entry.nonce, "entry": entry.row()})


def entries_of(rows: Mapping[str, FlowRunInput]) -> list[QATechLedgerEntry]:
    """Read the slots from their rows, in the order in which they were written; an unreadable one is a conflict."""
    entries: dict[str, QATechLedgerEntry] = {}
    for key, row in rows.items():
        if key.endswith("-intent"):
            entry = _read(QATechLedgerEntry, key, row.value)
            entry.created = row.created
            entries[entry.slot] = entry
    for key, row in rows.items():
        if key.endswith("-done"):
            run, slot = _read(QATechRunRecord, key, row.value), key.removesuffix("-done")
            if slot not in entries:
                entries[slot] = _read(QATechLedgerEntry, key, json.dumps(json.loads(row.value).get("entry")))
            entries[slot].run = run
    return sorted(entries.values(), key=lambda entry: entry.sent_at)


def _read(model: type[ModelT], key: str, row: str) -> ModelT:
    try:
        return model.model_validate_json(row)
    except ValidationError as error:
        raise LedgerConflict(
            f"The ledger's row {key} cannot be read ({error.error_count()} errors); was it written by another "
            "version of prefect-qatech? Nothing was sent. Run the flow anew."
        ) from None
