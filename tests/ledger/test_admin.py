"""What only a person can settle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow

from prefect_qatech import (
    LedgerConflict,
    QATechRunRecord,
    StartOutcomeUnknown,
    aattach_run,
    aclear_intent,
    aread_ledger,
    attach_run,
    clear_intent,
    read_ledger,
)
from prefect_qatech.cli.ledger import list_ as ledger_list
from prefect_qatech.ledger import Ledger
from tests.ledger.books import (
    SECOND,
    Sends,
    a_run,
    ask,
    call,
    until_sent,
)
from tests.support import flow_run_id


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


@pytest.mark.parametrize("version", ["sync", "async"])
async def test_read_attach_and_clear_say_what_is_wrong(book: Ledger, version: str) -> None:
    with pytest.raises(StartOutcomeUnknown):
        await book.once(call(), Sends(StartOutcomeUnknown("lost")), busy_seconds=0)
    await book.once(call("1"), Sends(), busy_seconds=0)

    async def refused(sync: Callable[..., Any], other: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is what the caller checks
            _ = sync(*arguments) if version == "sync" else await other(*arguments)
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


@pytest.mark.parametrize("settle", ["attach", "clear"])
async def test_a_post_that_can_be_under_way_is_neither_attached_nor_cleared(book: Ledger, settle: str) -> None:
    go_on, send = threading.Event(), Sends()

    async def slow() -> QATechRunRecord:
        await asyncio.to_thread(go_on.wait, 30)
        return await send()

    work = asyncio.ensure_future(book.once(call(), slow, busy_seconds=30))
    await until_sent(book)
    do = {
        "attach": lambda: aattach_run(book.flow_run_id, call().slot, "abc123"),
        "clear": lambda: aclear_intent(book.flow_run_id, call().slot),
    }[settle]
    with pytest.raises(ValueError, match=r"can still be under way; try again in"):
        await do()
    go_on.set()
    assert (await work).run_short_id == "run1"
    assert (await book.once(call(chain=SECOND), send, busy_seconds=30)).is_resumed
    assert send.count == 1


async def test_a_slot_that_got_another_run_during_its_post_is_a_conflict_that_names_both(book: Ledger) -> None:
    async def meanwhile() -> QATechRunRecord:
        await aattach_run(book.flow_run_id, call().slot, "abc123")
        return a_run("run2")

    with pytest.raises(LedgerConflict, match=r"started run run2 .* has got run abc123") as caught:
        await book.once(call(), meanwhile, busy_seconds=0)
    assert caught.value.run_short_id == "run2"


async def test_a_run_is_attached_though_another_service_gave_its_id_to_a_run_of_its_own(book: Ledger) -> None:
    here, there = ("https://one.example.com", "https://two.example.com")
    await book.once(call(address=here), Sends(), busy_seconds=0)
    for asks, address in (("B", here), ("C", there)):
        with pytest.raises(StartOutcomeUnknown):
            await book.once(call(asks=asks, address=address), Sends(StartOutcomeUnknown("lost")), busy_seconds=0)
    with pytest.raises(ValueError, match="is that of another slot"):
        await aattach_run(book.flow_run_id, call(asks="B").slot, "run1")
    assert (await aattach_run(book.flow_run_id, call(asks="C").slot, "run1")).slot == call(asks="C").slot


async def test_a_run_is_not_attached_to_two_slots(book: Ledger) -> None:
    lost = Sends(StartOutcomeUnknown("lost"))
    for asks in ("A", "B"):
        with pytest.raises(StartOutcomeUnknown):
            await book.once(call(asks=asks), lost, busy_seconds=0)
    await aattach_run(book.flow_run_id, call().slot, "abc123")
    with pytest.raises(ValueError, match=f"is that of another slot, {call().slot}"):
        await aattach_run(book.flow_run_id, call(asks="B").slot, "abc123")
    assert [found.is_open for found in await book.entries()] == [False, True]


async def test_a_run_that_is_not_what_was_asked_for_is_marked_in_the_list(
    book: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    await book.once(call(asks="A"), Sends(), busy_seconds=0)
    other = StartOutcomeUnknown("QA.tech started run other1 of plan C.", run_short_id="other1")
    with pytest.raises(StartOutcomeUnknown):
        await book.once(call(asks="B"), Sends(other), busy_seconds=0)
    ledger_list(book.flow_run_id)
    lines = capsys.readouterr().out.splitlines()
    slots, told = lines[0::3], lines[2::3]
    assert [line.split()[0] for line in slots] == ["ok", "wrong"]
    assert [line.split()[0] for line in told] == ["run1", "other1"]
    assert ["NOT WHAT WAS ASKED FOR" in line for line in told] == [False, True]


async def test_the_list_fits_eighty_columns_and_is_aligned(
    book: Ledger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    await book.once(
        call(asks="A", label="a label of many words, so many that they take another line"), Sends(), busy_seconds=0
    )
    with pytest.raises(StartOutcomeUnknown):
        await book.once(call(asks="B"), Sends(StartOutcomeUnknown("lost")), busy_seconds=0)
    ledger_list(book.flow_run_id)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    [opened] = [line for line in lines if line.startswith("OPEN")]
    places = {line.index(" UTC") for line in lines if " UTC" in line}
    assert len(places) == 1
    assert call(asks="B").slot in opened
    assert "ledger attach" in " ".join(" ".join(lines).split())
    assert "\x1b" not in "".join(lines)
