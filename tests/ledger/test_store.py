"""The rows on a Prefect server, and the one way in which a POST is sent."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import anyio
import httpx
import pytest
from prefect import flow
from prefect.exceptions import PrefectHTTPStatusError

from prefect_qatech import (
    LedgerConflict,
    LedgerUnavailable,
    NotFoundError,
    QATechLedgerEntry,
    QATechRunRecord,
    RateLimitedError,
    StartOutcomeUnknown,
    aattach_run,
    aclear_intent,
    ledger,
)
from prefect_qatech.ledger import Call, Chain, Ledger, store
from tests.ledger.books import (
    FIRST,
    SECOND,
    Sends,
    Trouble,
    a_run,
    call,
    conflict,
    until_sent,
)
from tests.support import flow_run_id, rewrite, rows_of


async def test_a_second_call_at_the_same_place_finds_the_run(book: Ledger) -> None:
    send = Sends()
    first = await book.once(call(), send, busy_seconds=0)
    again = await book.once(call(chain=SECOND), send, busy_seconds=0)
    assert (first.run_short_id, first.is_resumed) == ("run1", False)
    assert again == first.model_copy(update={"is_resumed": True})
    assert (again.slot, again.flow_run_id) == (call().slot, str(book.flow_run_id))
    assert send.count == 1


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
    assert sum(not record.is_resumed for record in records) == 1


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
    assert (await book.once(call(), Sends(), busy_seconds=0)).is_resumed is False


async def test_a_label_that_stands_for_another_request_sends_nothing(book: Ledger) -> None:
    await book.once(call(label="smoke"), Sends(), busy_seconds=0)
    send = Sends()
    with pytest.raises(LedgerConflict, match='label "smoke" stands for POST /v1/run \\(A\\)') as caught:
        await book.once(call(label="smoke", asks="B"), send, busy_seconds=0)
    assert caught.value.run_short_id == "run1"
    assert send.count == 0


async def test_in_a_campaign_a_call_means_its_number_whatever_it_asks_for(book: Ledger) -> None:
    send = Sends()
    first = await book.once(call(), send, busy_seconds=0)

    async def rerun(number: int, asks: str, chain: Chain) -> QATechRunRecord:
        asked = Call("rerun", f"rerun {number}", asks, campaign=(str(first.slot), number), chain=chain)
        return await book.once(asked, send, busy_seconds=0)

    one = await rerun(1, "what failed", FIRST)
    assert [(await rerun(1, "two tests", SECOND)).run_short_id, one.is_resumed] == [one.run_short_id, False]
    two = await rerun(2, "two tests", SECOND)
    assert len({first.run_short_id, one.run_short_id, two.run_short_id}) == send.count == 3
    assert [entry.campaign for entry in await book.entries()] == [None, (first.slot, 1), (first.slot, 2)]


async def test_no_text_makes_a_label_a_number_of_a_campaign(book: Ledger) -> None:
    label = f"{call().slot}/rerun-1"
    await book.once(call(label=label), Sends(), busy_seconds=0)
    with pytest.raises(LedgerConflict, match="stands for"):
        await book.once(call(label=label, asks="B"), Sends(), busy_seconds=0)


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
    assert (await book.once(call(chain=SECOND), Sends(), busy_seconds=0)).is_resumed


async def test_a_record_that_cannot_be_written_is_told_with_the_run(book: Ledger, trouble: Trouble) -> None:
    book.record_seconds = 0.1
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
    assert (found.run_short_id, found.kind, found.is_resumed, send.count) == ("run1", "attached", True, 1)


@pytest.mark.parametrize("how", ["task", "scope", "gathered in a scope"])
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


async def test_a_post_that_is_not_answered_within_the_grace_stays_open(book: Ledger) -> None:
    book.cancel_grace_seconds = 0.1
    sending, stopped = threading.Event(), threading.Event()

    async def send() -> QATechRunRecord:
        sending.set()
        try:
            await anyio.sleep(3600)
        finally:
            stopped.set()
        return a_run()

    await _cancel_during(book, send, sending, "task")
    with anyio.fail_after(120):
        await asyncio.to_thread(stopped.wait)
    (recorded,) = await book.entries()
    assert recorded.is_open


async def _cancel_during(
    book: Ledger, send: Callable[[], Awaitable[QATechRunRecord]], sending: threading.Event, how: str
) -> None:
    if how == "task":
        work = asyncio.ensure_future(book.once(call(), send, busy_seconds=0))
        await asyncio.to_thread(sending.wait, 120)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return

    async def ask() -> None:
        await book.once(call(), send, busy_seconds=0)

    async def gather() -> None:
        # As a flow with a time-out does: anyio cancels it until it has ended, and each time its gates as well.
        await asyncio.gather(ask())

    async with anyio.create_task_group() as group:
        group.start_soon(ask if how == "scope" else gather)
        await asyncio.to_thread(sending.wait, 120)
        group.cancel_scope.cancel()


async def test_a_ledger_of_many_pages_is_read_to_its_end(book: Ledger) -> None:
    async with anyio.create_task_group() as group:
        for number in range(220):
            group.start_soon(book.insert, f"{number}-more", "{}")
    send = Sends()
    for number in range(4):
        await book.once(call(str(number)), send, busy_seconds=0)
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


# --- where a run is, is not what was asked for


@pytest.mark.parametrize("label", [None, "smoke"])
async def test_the_same_request_on_record_at_another_address_is_a_conflict_and_nothing_is_sent(
    book: Ledger, label: str | None
) -> None:
    here = replace(call(label=label), address="https://api.qa.tech, project one")
    await book.once(here, Sends(), busy_seconds=0)
    send = Sends()
    elsewhere = replace(here, address="https://api.qa.tech, project two", chain=SECOND)
    with pytest.raises(LedgerConflict, match=r"project one.*run run1.*project two\. Nothing was sent") as caught:
        await book.once(elsewhere, send, busy_seconds=0)
    assert (caught.value.run_short_id, send.count) == ("run1", 0)


async def test_a_request_that_has_changed_starts_a_run_and_the_log_names_the_one_left_behind(
    book: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    send = Sends()
    await book.once(call(asks="v1"), send, busy_seconds=0)
    with caplog.at_level("WARNING"):
        await book.once(call(asks="v2", chain=SECOND), send, busy_seconds=0)
    assert send.count == 2
    assert "POST /v1/run (v1): run run1" in caplog.text
    assert "left behind" in caplog.text


# --- two processes, and clocks


async def test_an_intent_of_another_process_that_was_refused_is_the_waiting_calls_turn(book: Ledger) -> None:
    go_on, send = threading.Event(), Sends()

    async def refused() -> QATechRunRecord:
        await asyncio.to_thread(go_on.wait, 200)
        raise NotFoundError("no such plan", status=404)

    first = asyncio.ensure_future(book.once(call(), refused, busy_seconds=600))
    await until_sent(book)
    second = asyncio.ensure_future(book.once(call(chain=SECOND), send, busy_seconds=600))
    await anyio.sleep(0.2)
    go_on.set()
    with pytest.raises(NotFoundError):
        await first
    assert (await second).run_short_id == "run1"
    assert send.count == 1


async def test_a_refused_intent_that_could_not_be_deleted_is_no_unknown_outcome(book: Ledger, trouble: Trouble) -> None:
    book.delete_seconds = 0.05
    trouble.with_rows("-intent", 1000, httpx.ConnectError("no server"), deleting=True)
    refused = RateLimitedError("later", status=429, retryable=True)
    with pytest.raises(RateLimitedError):
        await book.once(call(), Sends(refused), busy_seconds=60)
    send = Sends()
    with pytest.raises(LedgerUnavailable, match="has started nothing"):
        await book.once(call(chain=SECOND), send, busy_seconds=60)
    assert send.count == 0
    trouble.with_rows("", 0, Exception())
    book.delete_seconds = 60
    assert (await book.once(call(chain=SECOND), send, busy_seconds=60)).run_short_id == "run1"


async def test_the_age_of_an_intent_is_the_servers_time_whatever_the_clock_of_its_writer_says(book: Ledger) -> None:
    with pytest.raises(StartOutcomeUnknown):
        await book.once(call(), Sends(StartOutcomeUnknown("lost")), busy_seconds=0)
    key = f"qatech-{call().slot}-intent"
    row = json.loads((await rows_of(book.flow_run_id))[key])
    ahead = datetime.now(timezone.utc) + timedelta(hours=1)
    row["nonce"] = "another process's"
    await rewrite(book.flow_run_id, key, {**row, "sent_at": ahead.isoformat(), "busy_seconds": 1.0})
    with anyio.fail_after(120), pytest.raises(StartOutcomeUnknown):
        await book.once(call(chain=SECOND), Sends(), busy_seconds=1)
    behind = datetime.now(timezone.utc) - timedelta(hours=1)
    await rewrite(book.flow_run_id, key, {**row, "sent_at": behind.isoformat(), "busy_seconds": 600.0})
    with pytest.raises(ValueError, match="under way"):
        await aclear_intent(book.flow_run_id, call().slot)


async def test_a_post_whose_intent_the_server_took_too_long_for_is_not_sent_and_leaves_no_trace(book: Ledger) -> None:
    send = Sends()
    with pytest.raises(LedgerUnavailable, match=r"record of POST /v1/run \(A\)\. Nothing was sent") as caught:
        await book.once(call(), send, busy_seconds=10, latest_send_seconds=0)
    assert caught.value.retryable
    assert send.count == 0
    assert await rows_of(book.flow_run_id) == {}
    assert (await book.once(call(), send, busy_seconds=10)).run_short_id == "run1"


@pytest.mark.usefixtures("prefect_server")
async def test_nobody_may_clear_an_intent_before_the_latest_end_of_its_post() -> None:
    @flow
    async def user() -> QATechLedgerEntry:
        await ledger.once(call(), Sends(), post_seconds=30)
        (entry,) = await ledger.aread_ledger(flow_run_id())
        return entry

    assert (await user()).busy_seconds == store.LATEST_SEND_SECONDS + 30


async def test_this_process_knows_that_a_post_that_it_sent_is_over(book: Ledger) -> None:
    with pytest.raises(StartOutcomeUnknown):
        await book.once(call(), Sends(StartOutcomeUnknown("lost")), busy_seconds=600)
    with anyio.fail_after(120), pytest.raises(StartOutcomeUnknown):
        await book.once(call(chain=SECOND), Sends(), busy_seconds=600)
    await aclear_intent(book.flow_run_id, call().slot)


# --- a run that is not the one that was asked for


async def test_a_run_that_is_not_as_asked_is_on_record_and_is_never_given_to_a_call(book: Ledger) -> None:
    other = StartOutcomeUnknown(
        "QA.tech was asked for plan A and started run other1 of plan B.",
        run_short_id="other1",
        run_url="https://app.qa.tech/other1",
    )
    send = Sends(other)
    for chain in (FIRST, SECOND):
        with pytest.raises(StartOutcomeUnknown, match="started run other1 of plan B") as caught:
            await book.once(call(chain=chain), send, busy_seconds=0)
        error = caught.value
        assert (error.run_short_id, error.run_url) == ("other1", "https://app.qa.tech/other1")
        assert (error.slot, error.flow_run_id) == (call().slot, str(book.flow_run_id))
    assert send.count == 1
    [recorded] = await book.entries()
    assert recorded.run is not None
    assert recorded.run.run_short_id == "other1"


async def test_a_run_that_is_on_record_for_one_start_is_none_of_another(book: Ledger) -> None:
    first = await book.once(call("0"), Sends(), busy_seconds=0)
    again = Sends()
    for chain in (FIRST, SECOND):
        with pytest.raises(StartOutcomeUnknown, match=rf"run1 .*{first.slot}.*no evidence") as caught:
            await book.once(call("1", chain=chain), again, busy_seconds=0)
        assert (caught.value.run_short_id, caught.value.slot) == ("run1", call("1").slot)
        assert caught.value.run_url == first.run_url
    assert again.count == 1
    assert (await book.once(call("0", chain=SECOND), again, busy_seconds=0)).run_short_id == "run1"


async def test_of_two_starts_at_once_that_are_answered_with_one_run_one_has_it(book: Ledger) -> None:
    sends = [Sends(seconds=0.1), Sends(seconds=0.1)]
    answers = await asyncio.gather(
        *(book.once(call(str(place)), send, busy_seconds=0) for place, send in enumerate(sends)),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["QATechRunRecord", "StartOutcomeUnknown"]


async def test_a_start_is_not_answered_with_a_run_that_a_person_has_attached_to_another(book: Ledger) -> None:
    with pytest.raises(RuntimeError):
        await book.once(call("0"), Sends(RuntimeError("killed")), busy_seconds=0)
    await aattach_run(book.flow_run_id, call("0").slot, "run1")
    with pytest.raises(StartOutcomeUnknown, match="no evidence"):
        await book.once(call("1", chain=SECOND), Sends(), busy_seconds=0)


async def test_what_comes_before_a_post_comes_before_its_intent_and_only_where_nothing_is_on_record(
    book: Ledger,
) -> None:
    seen: list[int] = []

    async def prepare(_: object) -> None:
        seen.append(len(await book.entries()))
        if len(seen) == 1:
            raise NotFoundError("no such application")

    send = Sends()
    with pytest.raises(NotFoundError):
        await book.once(call(), send, busy_seconds=0, prepare=prepare)
    assert (await book.entries(), send.count) == ([], 0)
    for _ in range(2):
        await book.once(call(), send, busy_seconds=0, prepare=prepare)
    await book.once(call(chain=SECOND), send, busy_seconds=0, prepare=prepare)
    assert (seen, send.count) == ([0, 0], 1)


# --- an attach sends nothing


async def test_an_attach_is_one_row_and_is_found_again(book: Ledger) -> None:
    attach = Call(kind="attach", what="run abc123", fingerprint="A", label="run abc123", chain=FIRST)
    record = a_run().model_copy(update={"kind": "attached"})
    first = await book.attach(attach, record)
    assert [key.rpartition("-")[2] for key in await rows_of(book.flow_run_id)] == ["done"]
    again = await book.attach(replace(attach, chain=SECOND), record)
    assert (first.is_resumed, again.is_resumed, again.started_at) == (False, True, first.started_at)


async def test_an_attach_that_dies_before_its_row_blocks_nothing(book: Ledger, trouble: Trouble) -> None:
    attach = Call(kind="attach", what="run abc123", fingerprint="A", label="run abc123", chain=FIRST)
    record = a_run().model_copy(update={"kind": "attached"})
    trouble.with_rows("-done", 1, RuntimeError("killed"))
    with pytest.raises(RuntimeError):
        await book.attach(attach, record)
    assert await rows_of(book.flow_run_id) == {}
    assert (await book.attach(replace(attach, chain=SECOND), record)).run_short_id == "abc123"
