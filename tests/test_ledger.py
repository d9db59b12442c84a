"""The record on the Prefect server that keeps a flow run from starting anything twice."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect import flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, FlowRunInput
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Pending, Running

from prefect_qatech import (
    LedgerConflict,
    NotFoundError,
    QATechLedgerEntry,
    QATechRunRecord,
    StartOutcomeUnknown,
    aattach_run,
    aclear_intent,
    aread_ledger,
    attach_run,
    clear_intent,
    ledger,
    read_ledger,
)
from prefect_qatech.ledger import Call, Chain, Ledger, call_site, resolve, store
from prefect_qatech.twins import run_sync
from tests.support import Failing, StepFailed, flow_run_id, new_flow_run, rewrite, rows_of

FIRST: Chain = (("root", 1),)
SECOND: Chain = (("root", 2),)


def call(
    place: str = "0", *, asks: str = "A", chain: Chain = FIRST, stable: bool = True, label: str | None = None
) -> Call:
    return Call(
        kind="start",
        what=f"POST /v1/run ({asks})",
        fingerprint=asks,
        chain=chain,
        place=place,
        place_is_stable=stable,
        label=label,
    )


def a_run(short_id: str = "abc123", **fields: Any) -> QATechRunRecord:
    return QATechRunRecord(
        kind="start",
        run_short_id=short_id,
        run_url=f"https://app.qa.tech/{short_id}",
        started_at=datetime.now(timezone.utc),
        **fields,
    )


def cached(*entries: QATechLedgerEntry) -> set[str]:
    return {entry.slot for entry in entries}


def entry(of: Call, *, seen_in: Sequence[Chain] = (), is_open: bool = False) -> QATechLedgerEntry:
    return QATechLedgerEntry(
        slot=of.slot,
        kind=of.kind,
        what=of.what,
        label=of.label,
        fingerprint=of.fingerprint,
        place=of.place,
        place_is_stable=of.place_is_stable,
        chain=of.chain,
        seen_in=[*seen_in],
        sent_at=datetime.now(timezone.utc),
        run=None if is_open else a_run(),
    )


# --- which slot a call means


@pytest.mark.parametrize("chain", [FIRST, SECOND], ids=["same attempt", "next attempt"])
@pytest.mark.parametrize("is_open", [False, True], ids=["with its run", "open"])
def test_the_same_place_is_the_same_slot(chain: Chain, is_open: bool) -> None:
    recorded = entry(call("0"), is_open=is_open)
    assert resolve(call("0", chain=chain), [entry(call("1")), recorded]) is recorded


def test_nothing_recorded_is_a_new_call() -> None:
    assert resolve(call(), []) is None


def test_a_slot_knows_kind_request_place_and_label_apart() -> None:
    calls = [call(), call("1"), call(asks="B"), call(label="one"), call(label="two")]
    rerun = Call(kind="rerun", what="", fingerprint="A", chain=FIRST)
    assert len({each.slot for each in [*calls, rerun]}) == 6
    assert call(label="one").slot == call("7", asks="B", label="one", chain=SECOND).slot


def test_a_label_finds_its_slot_at_any_place_and_conflicts_with_none() -> None:
    recorded = entry(call("0", label="one"))
    assert resolve(call("sub:sub-3/1", label="one", chain=SECOND), [recorded]) is recorded
    assert resolve(call(label="two", chain=SECOND), []) is None


@pytest.mark.parametrize("is_open", [False, True], ids=["with its run", "open"])
def test_the_place_of_a_call_that_comes_from_a_cache_is_nobodys(is_open: bool) -> None:
    kept = entry(call("mine/0"), is_open=is_open)
    with pytest.raises(LedgerConflict, match="kept"):
        resolve(call("mine/0", chain=SECOND), [kept], cached(kept))


def test_a_call_that_comes_from_a_cache_does_not_wait_to_be_taken_up() -> None:
    kept, left = entry(call("mine/0")), entry(call("other/0"))
    assert resolve(call("new/0", chain=SECOND), [kept], cached(kept)) is None
    assert resolve(call("other/0", chain=SECOND), [kept, left], cached(kept)) is left
    with pytest.raises(LedgerConflict):
        resolve(call("new/0", chain=SECOND), [kept, left], cached(kept))


@pytest.mark.parametrize("seen", [False, True], ids=["written by this attempt", "taken up by this attempt"])
def test_what_this_attempt_has_used_never_blocks_another_equal_call(seen: bool) -> None:
    used = entry(call("0", chain=FIRST if seen else SECOND), seen_in=[SECOND] if seen else [])
    assert resolve(call("1", chain=SECOND), [used]) is None


@pytest.mark.parametrize("is_open", [False, True], ids=["with its run", "open"])
def test_what_an_earlier_attempt_has_left_elsewhere_is_a_conflict(is_open: bool) -> None:
    left = entry(call("0"), is_open=is_open)
    with pytest.raises(LedgerConflict, match="label") as caught:
        resolve(call("1", chain=SECOND), [left])
    assert caught.value.slot == left.slot
    assert caught.value.run_short_id == (None if is_open else "abc123")


@pytest.mark.parametrize(("then", "now"), [(False, True), (True, False), (False, False)])
def test_one_left_entry_at_a_place_that_changes_is_taken_up(then: bool, now: bool) -> None:
    left = entry(call("task-8f3/0", stable=then))
    assert resolve(call("task-1b7/0", stable=now, chain=SECOND), [left]) is left


def test_two_left_entries_at_places_that_change_are_a_conflict() -> None:
    left = [entry(call("task-8f3/0", stable=False)), entry(call("task-99c/0", stable=False))]
    with pytest.raises(LedgerConflict):
        resolve(call("task-1b7/0", stable=False, chain=SECOND), left)


def test_a_sub_flow_that_is_retried_alone_gets_its_own_slot_and_never_a_siblings() -> None:
    one, other = (("root", 1), ("one", 1)), (("root", 1), ("other", 1))
    mine, siblings = entry(call("sub:sub-0/0", chain=one)), entry(call("sub:sub-1/0", chain=other))
    again: Chain = (("root", 1), ("one", 2))
    assert resolve(call("sub:sub-0/0", chain=again), [siblings, mine]) is mine
    # A second call in it, which its first attempt had not reached: what the sibling has started is not its own.
    assert resolve(call("sub:sub-0/1", chain=again), [siblings, entry(call("sub:sub-0/0", chain=again))]) is None
    assert resolve(call("sub:sub-0/0", chain=again), [siblings]) is None


def test_a_sub_flow_that_is_made_anew_by_a_retried_parent_finds_its_slot() -> None:
    recorded = entry(call("sub:sub-0/0", chain=(("root", 1), ("old", 1))))
    anew: Chain = (("root", 2), ("new", 1))
    assert resolve(call("sub:sub-0/0", chain=anew), [recorded]) is recorded
    with pytest.raises(LedgerConflict):
        resolve(call("sub:sub-1/0", chain=anew), [recorded])


def test_the_fingerprint_is_equal_for_equal_requests_and_tells_nothing() -> None:
    one = ledger.fingerprint("https://api.qa.tech", {"b": 1, "a": "hunter2"})
    assert one == ledger.fingerprint("https://api.qa.tech", {"a": "hunter2", "b": 1})
    assert one != ledger.fingerprint("https://api.qa.tech", {"a": "hunter3", "b": 1})
    assert "hunter2" not in one


# --- any sequence of attempts, killed anywhere


class Killed(BaseException):
    """SIGKILL, as far as one process can have it."""


class Rows:
    """The Prefect server's flow-run inputs in memory; dies at a chosen step, before or after it took effect."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.kill_at = -1
        self.after_effect = False
        self.steps = 0
        self.reads = 0

    async def step(self, effect: Callable[[], Any]) -> Any:
        self.steps += 1
        dies = self.steps - 1 == self.kill_at
        if dies and not self.after_effect:
            raise Killed
        result = effect()
        if dies:
            raise Killed
        return result

    async def filter_flow_run_input(
        self, flow_run_id: UUID, key_prefix: str, limit: int, exclude_keys: set[str]
    ) -> list[FlowRunInput]:
        self.reads += 1
        found = [key for key in self.rows if key.startswith(key_prefix) and key not in exclude_keys][:limit]
        return [FlowRunInput(flow_run_id=flow_run_id, key=key, value=self.rows[key]) for key in found]

    async def create_flow_run_input(self, flow_run_id: UUID, key: str, value: str) -> None:
        def create() -> None:
            if key in self.rows:
                raise conflict()
            self.rows[key] = value

        await self.step(create)

    async def read_flow_run_input(self, flow_run_id: UUID, key: str) -> str:
        return self.rows[key]

    async def delete_flow_run_input(self, flow_run_id: UUID, key: str) -> None:
        await self.step(lambda: self.rows.pop(key))


def conflict() -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://server/api")
    return PrefectHTTPStatusError("conflict", request=request, response=httpx.Response(409, request=request))


GATES = st.lists(st.tuples(st.sampled_from("AAB"), st.booleans()), min_size=1, max_size=5)
ATTEMPTS = st.lists(
    st.tuples(
        st.randoms(use_true_random=False),
        st.booleans(),  # whether the order of the calls is another one in this attempt
        st.one_of(st.just(-1), st.integers(0, 14)),  # the step at which it is killed
        st.booleans(),  # whether that step took effect
        st.sampled_from(["accepted", "refused", "lost"]),  # what its first POST comes to
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=300, deadline=None)
@given(gates=GATES, attempts=ATTEMPTS, where=st.sampled_from(["flow", "sub-flows", "tasks"]))
def test_no_sequence_of_attempts_starts_more_than_the_gates(
    gates: list[tuple[str, bool]], attempts: list[Any], where: str
) -> None:
    """The real ledger on rows in memory: gates with equal and other inputs, some with a label of their own."""
    rows, root = Rows(), uuid4()
    sent: list[tuple[str, str | None]] = []  # what QA.tech has carried out: input and label
    runs: dict[str, str] = {}  # run -> input
    out_of_order = False  # a call got no run, or stands elsewhere: what the order does not settle may be a conflict

    async def attempt(number: int, order: list[int], first_post: str) -> None:
        nonlocal out_of_order
        held: dict[str, int] = {}
        equal: dict[tuple[str, str | None], int] = {}
        left_to_fail = [first_post]
        for position, gate in enumerate(order):
            asks, labelled = gates[gate]
            label = f"gate-{gate}" if labelled else None
            ordinal = equal[asks, label] = equal.get((asks, label), -1) + 1
            place = {"flow": str(ordinal), "sub-flows": f"gate:gate-{position}/0", "tasks": f"{uuid4()}/0"}[where]
            chain: Chain = (("root", number), *([] if where == "flow" else [(str(uuid4()), 1)]))

            async def send(asks: str = asks, label: str | None = label) -> QATechRunRecord:
                what = left_to_fail.pop() if left_to_fail else "accepted"
                if what == "refused":
                    raise NotFoundError("no such plan", status=404)
                await rows.step(lambda: sent.append((asks, label)))
                if what == "lost":
                    raise StartOutcomeUnknown("the answer was lost")
                run = f"run{len(sent)}"
                runs[run] = asks
                return a_run(run)

            asked = replace(
                call(place, asks=asks, chain=chain, stable=where != "tasks", label=label), is_first_attempt=number == 1
            )
            try:
                record = await Ledger(rows, root).once(asked, send, busy_seconds=0)  # type: ignore[arg-type]
            except LedgerConflict:
                assert out_of_order or where == "tasks", "a conflict although all stand where they stood"
                continue
            except (StartOutcomeUnknown, NotFoundError):
                out_of_order = True
                continue
            assert runs[record.run_short_id] == asks, "a gate got the run of another request"
            assert held.setdefault(record.run_short_id, gate) == gate, "two gates of one attempt share a run"

    for number, (random, reorder, kill_at, after_effect, first_post) in enumerate(attempts, 1):
        order = list(range(len(gates)))
        if reorder:
            random.shuffle(order)
            out_of_order = True
        rows.steps, rows.kill_at, rows.after_effect = 0, kill_at, after_effect
        try:
            run_sync(lambda: attempt(number, order, first_post))  # noqa: B023
        except Killed:
            continue
    for asks, label in sent:
        allowed = sum(
            gate_asks == asks and (label is None) != labelled and label in (None, f"gate-{gate}")
            for gate, (gate_asks, labelled) in enumerate(gates)
        )
        assert sent.count((asks, label)) <= allowed, "more starts than gates"


@pytest.mark.parametrize("label", [None, "one"])
async def test_a_first_attempt_writes_without_reading_and_still_starts_once(label: str | None) -> None:
    rows, sent = Rows(), 0

    async def send() -> QATechRunRecord:
        nonlocal sent
        sent += 1
        return a_run()

    async def once(asked: Call) -> QATechRunRecord:
        return await Ledger(rows, uuid4(), connect=lambda: nullcontext(rows)).once(  # type: ignore[arg-type]
            asked, send, busy_seconds=0
        )

    first = replace(call(label=label), is_first_attempt=True)
    assert not (await once(first)).found
    assert rows.reads == 0
    assert (await once(first)).found, "a second executor of the same attempt"
    assert (await once(call(label=label, chain=SECOND))).found
    assert sent == 1


# --- on a real server


@pytest.fixture
async def client(prefect_server: None) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


async def is_first() -> bool:
    async with get_client() as client:
        located = await ledger.locate(client, Call(kind="start", what="a run", fingerprint="A"))
    assert located is not None
    return located[1].is_first_attempt


async def test_the_first_attempt_is_known_in_the_flow_and_in_its_sub_flows(prefect_server: None) -> None:
    seen: list[tuple[str, bool]] = []
    step = Failing()

    @flow
    async def sub() -> None:
        seen.append(("sub-flow", await is_first()))

    @flow(retries=1)
    async def user() -> None:
        seen.append(("flow", await is_first()))
        await sub()
        step()

    await user()
    # The sub-flow of a retried flow is a new flow run, which has never run before.
    assert seen == [("flow", True), ("sub-flow", True), ("flow", False), ("sub-flow", False)]


@pytest.mark.parametrize(
    ("run_count", "seconds", "first"), [(1, 0, True), (2, 0, False), (1, 1, False), (1, None, False)]
)
def test_a_first_attempt_is_in_the_state_in_which_it_began(run_count: int, seconds: int | None, first: bool) -> None:
    began = datetime(2026, 9, 1, tzinfo=timezone.utc)
    state = Running(timestamp=began + timedelta(seconds=seconds)) if seconds is not None else Pending(timestamp=began)
    flow_run = FlowRun(flow_id=uuid4(), run_count=run_count, start_time=began, state=state)
    assert call_site._runs_for_the_first_time(flow_run) is first


@pytest.fixture
async def book(client: PrefectClient) -> Ledger:
    """The ledger of a new flow run."""
    return Ledger(client, await new_flow_run(client))


class Sends:
    """A POST that counts how often it is sent."""

    def __init__(self, outcome: Exception | None = None, seconds: float = 0) -> None:
        self.count = 0
        self.outcome = outcome
        self.seconds = seconds

    async def __call__(self) -> QATechRunRecord:
        self.count += 1
        await anyio.sleep(self.seconds)
        if self.outcome is not None:
            raise self.outcome
        return a_run(f"run{self.count}")


class Trouble:
    """Lets some writes and deletions of rows go wrong, whichever client makes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.with_rows("", 0, Exception())
        for name in ("create_flow_run_input", "delete_flow_run_input"):
            monkeypatch.setattr(PrefectClient, name, self._wrapped(getattr(PrefectClient, name)))

    def with_rows(
        self, suffix: str, times: int, error: Exception, *, written: bool = False, deleting: bool = False
    ) -> None:
        self._suffix, self._times, self._error, self._written, self._deleting = suffix, times, error, written, deleting
        self.failed = 0

    def _wrapped(self, real: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        deletes = "delete" in real.__name__

        async def wrapped(client: PrefectClient, **arguments: Any) -> None:
            is_meant = deletes is self._deleting and arguments["key"].endswith(self._suffix)
            if not is_meant or self.failed >= self._times:
                await real(client, **arguments)
                return
            self.failed += 1
            if self._written:
                await real(client, **arguments)
            raise self._error

        return wrapped


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    monkeypatch.setattr(store, "_FIRST_PAUSE_SECONDS", 0.01)
    return Trouble(monkeypatch)


async def test_a_second_call_at_the_same_place_finds_the_run(book: Ledger) -> None:
    send = Sends()
    first = await book.once(call(), send, busy_seconds=0)
    again = await book.once(call(chain=SECOND), send, busy_seconds=0)
    assert (first.run_short_id, first.found) == ("run1", False)
    assert again == first.model_copy(update={"found": True})
    assert (again.slot, again.flow_run_id) == (call().slot, str(book.flow_run_id))
    assert send.count == 1
    (recorded,) = await book.entries()
    assert recorded.seen_in == [SECOND]


async def test_the_server_lets_one_insert_win(book: Ledger) -> None:
    assert await book.insert("x-intent", json.dumps({"nonce": "mine"}), nonce="mine")
    assert not await book.insert("x-intent", json.dumps({"nonce": "theirs"}), nonce="theirs")
    assert not await book.insert("x-intent", json.dumps({"nonce": "mine"}))
    # Prefect's client sends again when the answer was lost, and is refused because of its own row.
    assert await book.insert("x-intent", json.dumps({"nonce": "mine"}), nonce="mine")


async def test_an_intent_whose_answer_was_lost_is_our_own(book: Ledger, trouble: Trouble) -> None:
    trouble.with_rows("-intent", 1, conflict(), written=True)
    send = Sends()
    assert (await book.once(call(), send, busy_seconds=0)).run_short_id == "run1"
    assert (trouble.failed, send.count) == (1, 1)


async def test_other_refusals_of_the_server_are_not_taken_for_a_row(book: Ledger, trouble: Trouble) -> None:
    request = httpx.Request("POST", "http://server/api")
    error = PrefectHTTPStatusError("no", request=request, response=httpx.Response(422, request=request))
    trouble.with_rows("-intent", 1, error)
    send = Sends()
    with pytest.raises(PrefectHTTPStatusError):
        await book.once(call(), send, busy_seconds=0)
    assert send.count == 0


async def test_eight_calls_at_once_send_once_and_share_the_run(book: Ledger) -> None:
    send = Sends(seconds=0.3)
    records = await asyncio.gather(*(book.once(call(), send, busy_seconds=30) for _ in range(8)))
    assert send.count == 1
    assert {record.run_short_id for record in records} == {"run1"}
    assert sum(not record.found for record in records) == 1


async def test_eight_calls_at_once_never_guess_when_nobody_may_be_busy(book: Ledger) -> None:
    send = Sends(seconds=1)
    results = await asyncio.gather(*(book.once(call(), send, busy_seconds=0) for _ in range(8)), return_exceptions=True)
    assert send.count == 1
    assert sum(isinstance(result, QATechRunRecord) for result in results) == 1
    assert sum(isinstance(result, StartOutcomeUnknown) for result in results) == 7


@pytest.mark.parametrize("label", [None, "smoke"])
async def test_an_intent_without_a_run_is_unknown_and_says_what_to_do(book: Ledger, label: str | None) -> None:
    lost = Sends(StartOutcomeUnknown("It is not known whether POST /v1/run started a run."))
    with pytest.raises(StartOutcomeUnknown, match="It is not known"):
        await book.once(call(label=label), lost, busy_seconds=0)
    send = Sends()
    with pytest.raises(StartOutcomeUnknown) as caught:
        await book.once(call(label=label, chain=SECOND), send, busy_seconds=0)
    error, slot = caught.value, call(label=label).slot
    assert f"`prefect-qatech ledger attach {book.flow_run_id} {slot} <run>`" in error.message
    assert f"`prefect-qatech ledger clear {book.flow_run_id} {slot}`" in error.message
    assert "POST /v1/run (A)" in error.message
    assert (error.slot, error.flow_run_id, error.run_short_id) == (slot, str(book.flow_run_id), None)
    assert datetime.fromisoformat(error.sent_at or "") <= datetime.now(timezone.utc)
    assert (lost.count, send.count) == (1, 0)


async def test_any_other_error_of_the_post_leaves_the_intent(book: Ledger) -> None:
    with pytest.raises(ZeroDivisionError):
        await book.once(call(), Sends(ZeroDivisionError()), busy_seconds=0)
    send = Sends()
    with pytest.raises(StartOutcomeUnknown):
        await book.once(call(), send, busy_seconds=0)
    assert send.count == 0


async def test_a_definite_refusal_leaves_no_trace(book: Ledger) -> None:
    with pytest.raises(NotFoundError):
        await book.once(call(), Sends(NotFoundError("no such plan", status=404)), busy_seconds=0)
    assert await rows_of(book.flow_run_id) == {}
    assert (await book.once(call(), Sends(), busy_seconds=0)).found is False


async def test_a_label_that_stands_for_another_request_sends_nothing(book: Ledger) -> None:
    await book.once(call(label="smoke"), Sends(), busy_seconds=0)
    send = Sends()
    with pytest.raises(LedgerConflict, match='label "smoke" stands for POST /v1/run \\(A\\)') as caught:
        await book.once(call(label="smoke", asks="B"), send, busy_seconds=0)
    assert caught.value.run_short_id == "run1"
    assert send.count == 0


async def test_the_record_is_written_as_soon_as_the_server_takes_it(book: Ledger, trouble: Trouble) -> None:
    trouble.with_rows("-done", 2, httpx.ConnectError("the server restarts"))
    send = Sends()
    record = await book.once(call(), send, busy_seconds=0)
    (recorded,) = await book.entries()
    assert trouble.failed == 2
    assert recorded.run is not None
    assert recorded.run.run_short_id == record.run_short_id == "run1"


async def test_a_record_whose_answer_was_lost_counts(book: Ledger, trouble: Trouble) -> None:
    trouble.with_rows("-done", 1, httpx.ReadTimeout("lost"), written=True)
    assert (await book.once(call(), Sends(), busy_seconds=0)).run_short_id == "run1"
    assert (await book.once(call(chain=SECOND), Sends(), busy_seconds=0)).found


async def test_a_record_that_cannot_be_written_is_told_with_the_run(
    book: Ledger, trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_RECORD_SECONDS", 0.1)
    trouble.with_rows("-done", 1000, httpx.ConnectError("no server"))
    send = Sends()
    with pytest.raises(StartOutcomeUnknown, match="run1") as caught:
        await book.once(call(), send, busy_seconds=0)
    error = caught.value
    assert (error.run_short_id, error.run_url) == ("run1", "https://app.qa.tech/run1")
    assert f"ledger attach {book.flow_run_id} {call().slot}" in error.message
    with pytest.raises(StartOutcomeUnknown):
        await book.once(call(chain=SECOND), send, busy_seconds=0)
    assert send.count == 1
    trouble.with_rows("", 0, Exception())
    await aattach_run(book.flow_run_id, call().slot, "run1")
    found = await book.once(call(chain=SECOND), send, busy_seconds=0)
    assert (found.run_short_id, found.kind, found.found, send.count) == ("run1", "attached", True, 1)


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_post_that_is_answered_within_the_grace_is_recorded_when_it_is_cancelled(
    book: Ledger, how: str
) -> None:
    sending = threading.Event()

    async def send() -> QATechRunRecord:
        sending.set()
        await anyio.sleep(0.3)
        return a_run()

    await _cancel_during(book, send, sending, how)
    (recorded,) = await book.entries()
    assert recorded.run is not None
    assert recorded.run.run_short_id == "abc123"


async def test_a_post_that_is_not_answered_within_the_grace_stays_open(
    book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_CANCEL_GRACE_SECONDS", 0.1)
    sending, stopped = threading.Event(), threading.Event()

    async def send() -> QATechRunRecord:
        sending.set()
        try:
            await anyio.sleep(30)
        finally:
            stopped.set()
        return a_run()

    await _cancel_during(book, send, sending, "task")
    with anyio.fail_after(5):
        await asyncio.to_thread(stopped.wait)
    (recorded,) = await book.entries()
    assert recorded.is_open


async def _cancel_during(
    book: Ledger, send: Callable[[], Awaitable[QATechRunRecord]], sending: threading.Event, how: str
) -> None:
    if how == "task":
        work = asyncio.ensure_future(book.once(call(), send, busy_seconds=0))
        await asyncio.to_thread(sending.wait, 30)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: book.once(call(), send, busy_seconds=0))
        await asyncio.to_thread(sending.wait, 30)
        group.cancel_scope.cancel()


async def test_a_ledger_of_many_pages_is_read_to_its_end(book: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PAGE", 3)
    for number in range(4):
        await book.once(call(str(number)), Sends(), busy_seconds=0)
    entries = await book.entries()
    assert [found.place for found in entries] == ["0", "1", "2", "3"]
    assert not any(found.is_open for found in entries)


@pytest.mark.parametrize("which", ["intent", "done"])
async def test_a_row_that_cannot_be_read_is_a_conflict_and_nothing_is_sent(book: Ledger, which: str) -> None:
    await book.once(call(), Sends(), busy_seconds=0)
    await rewrite(book.flow_run_id, f"qatech-{call().slot}-{which}", {"of": "another version"})
    send = Sends()
    with pytest.raises(LedgerConflict, match="cannot be read"):
        await book.once(call(chain=SECOND), send, busy_seconds=0)
    assert send.count == 0


# --- where a call stands, in real flows


async def ask(send: Callable[[], Awaitable[QATechRunRecord]], asks: str = "A", label: str | None = None) -> str:
    asked = Call(kind="start", what=f"POST /v1/run ({asks})", fingerprint=asks, label=label)
    record = await ledger.once(asked, send, busy_seconds=0)
    return record.run_short_id


@pytest.mark.usefixtures("prefect_server")
async def test_an_attached_run_that_this_flow_run_has_started_keeps_what_its_start_told() -> None:
    started = a_run(test_count=5, plan_short_id="pln_smoke")
    seen: list[QATechRunRecord] = []
    step = Failing(1)

    async def start() -> QATechRunRecord:
        return started

    async def attach(run_short_id: str) -> QATechRunRecord:
        asked = Call(kind="attach", what="", fingerprint=run_short_id, label=f"run {run_short_id}")
        return await ledger.attach(asked, a_run(run_short_id).model_copy(update={"kind": "attached"}))

    @flow(retries=1)
    async def attaching() -> None:
        first = await ledger.once(call(), start, busy_seconds=0)
        seen.extend([await attach(started.run_short_id), await attach("elsewhere")])
        assert seen[-2].slot not in (None, first.slot)
        assert seen[-2].started_at == first.started_at
        step()

    await attaching()
    told = ("kind", "test_count", "plan_short_id")
    assert [tuple(getattr(record, name) for name in told) for record in seen] == [
        ("start", 5, "pln_smoke"),
        ("attached", None, None),
    ] * 2
    assert [record.found for record in seen] == [False, False, True, True]


async def test_outside_a_flow_run_there_is_no_ledger() -> None:
    send = Sends()
    assert [await ask(send), await ask(send)] == ["run1", "run2"]


@pytest.mark.usefixtures("prefect_server")
async def test_a_sub_flow_under_a_retried_parent_finds_its_run_although_its_id_is_new() -> None:
    send, step = Sends(), Failing()
    runs: list[str] = []
    ids: set[UUID] = set()

    @flow
    async def sub() -> None:
        ids.add(flow_run_id())
        runs.append(await ask(send))
        step()

    @flow(retries=1)
    async def parent() -> None:
        await sub()

    await parent()
    assert runs == ["run1", "run1"]
    assert len(ids) == 2


@pytest.mark.usefixtures("prefect_server")
async def test_a_sub_flow_that_is_retried_alone_finds_its_run_beside_a_sibling() -> None:
    send, step = Sends(), Failing(2)
    runs: dict[str, list[str]] = {"one": [], "two": []}

    @flow(retries=2)
    async def sub(name: str) -> None:
        runs[name].append(await ask(send))
        if name == "two":
            step()

    @flow
    async def parent() -> None:
        await sub("one")
        await sub("two")

    await parent()
    assert runs == {"one": ["run1"], "two": ["run2", "run2", "run2"]}


@pytest.mark.usefixtures("prefect_server")
async def test_read_attach_and_clear_work_from_a_sub_flows_id_too() -> None:
    lost = Sends(StartOutcomeUnknown("lost"))
    ids: dict[str, UUID] = {}

    @flow
    async def sub() -> None:
        ids["sub"] = flow_run_id()
        for label in ("one", "two"):
            with pytest.raises(StartOutcomeUnknown):
                await ask(lost, label=label)

    @flow
    async def parent() -> None:
        ids["root"] = flow_run_id()
        await sub()

    await parent()
    entries = await aread_ledger(ids["sub"])
    assert await aread_ledger(str(ids["root"])) == entries == read_ledger(ids["sub"])
    assert [found.label for found in entries] == ["one", "two"]
    assert all(found.is_open for found in entries)
    one, two = (found.slot for found in entries)

    record = attach_run(ids["sub"], one, "abc123", run_url="https://app.qa.tech/abc123")
    assert (record.kind, record.run_short_id) == ("attached", "abc123")
    await aclear_intent(ids["sub"], two)
    (left,) = await aread_ledger(ids["root"])
    assert left.run is not None
    assert (left.slot, left.run.run_short_id, left.run.slot) == (one, "abc123", one)


@pytest.mark.parametrize("twin", ["sync", "async"])
async def test_read_attach_and_clear_say_what_is_wrong(book: Ledger, twin: str) -> None:
    with pytest.raises(StartOutcomeUnknown):
        await book.once(call(), Sends(StartOutcomeUnknown("lost")), busy_seconds=0)
    await book.once(call("1"), Sends(), busy_seconds=0)

    async def refused(sync: Callable[..., Any], other: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what the caller checks
            _ = sync(*arguments) if twin == "sync" else await other(*arguments)
        return str(caught.value)

    nobody, root, is_open, done = uuid4(), book.flow_run_id, call().slot, call("1").slot
    assert str(nobody) in await refused(read_ledger, aread_ledger, nobody)
    assert str(nobody) in await refused(attach_run, aattach_run, nobody, is_open, "abc123")
    assert str(nobody) in await refused(clear_intent, aclear_intent, nobody, is_open)
    assert f"(open ones: {is_open})" in await refused(clear_intent, aclear_intent, root, "nonsense")
    assert f"(open ones: {is_open})" in await refused(attach_run, aattach_run, root, "nonsense", "abc123")
    assert "it holds run run1" in await refused(clear_intent, aclear_intent, root, done)
    assert "it holds run run1" in await refused(attach_run, aattach_run, root, done, "abc123")
    assert "short id" in await refused(attach_run, aattach_run, root, is_open, "../secret")
    assert [found.is_open for found in await book.entries()] == [True, False]


def test_a_step_of_these_tests_fails_as_often_as_it_should() -> None:
    step = Failing(1)
    with pytest.raises(StepFailed):
        step()
    step()
    assert step.calls == 2
