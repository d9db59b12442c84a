"""What a gate keeps on record about its campaign."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone

import pytest
from prefect.client.orchestration import get_client

from prefect_qatech import QATechRunRecord
from prefect_qatech.gate import journal
from prefect_qatech.ledger import Call, Chain, Ledger
from tests.support import new_flow_run, rewrite, rows_of

pytestmark = pytest.mark.usefixtures("prefect_server")

FIRST: Chain = (("root", 1),)
SECOND: Chain = (("root", 2),)


@pytest.fixture
async def book() -> AsyncIterator[Ledger]:
    """The ledger of a flow run that nobody executes."""
    async with get_client() as client:
        yield Ledger(client, await new_flow_run(client))


def a_run() -> QATechRunRecord:
    return QATechRunRecord(kind="start", run_short_id="abc123", started_at=datetime.now(timezone.utc))


async def started(book: Ledger, chain: Chain = FIRST) -> QATechRunRecord:
    async def send() -> QATechRunRecord:
        return a_run()

    return await book.once(Call(kind="start", what="POST /v1/run", fingerprint="A", chain=chain), send, busy_seconds=0)


async def recorded_run(book: Ledger, *, age: timedelta) -> QATechRunRecord:
    """A run that a later attempt resumes, started so long ago."""
    record = await started(book)
    key = f"qatech-{record.slot}-done"
    done = json.loads((await rows_of(book.flow_run_id))[key])
    done["started_at"] = (datetime.now(timezone.utc) - age).isoformat()
    await rewrite(book.flow_run_id, key, done)
    return await started(book, SECOND)


async def test_a_restart_gets_no_more_time_and_a_retry_after_a_verdict_does(book: Ledger) -> None:
    record = await recorded_run(book, age=timedelta(hours=2))
    assert await journal.window_of(record) == record.started_at
    before = datetime.now(timezone.utc)
    await journal.record_end(record, "fail")
    opened = await journal.window_of(record)
    assert opened >= before
    # A crash in that second window gets no more time either.
    assert await journal.window_of(record) == opened
    await journal.record_end(record, "fail")
    assert await journal.window_of(record) > opened


async def test_two_restarts_at_once_share_a_window(book: Ledger) -> None:
    record = await recorded_run(book, age=timedelta(hours=2))
    await journal.record_end(record, "inconclusive")
    assert len({*await asyncio.gather(*(journal.window_of(record) for _ in range(4)))}) == 1


async def test_a_run_that_was_just_started_begins_its_window(book: Ledger) -> None:
    record = await started(book)
    assert await journal.window_of(record) == record.started_at
    outside = a_run()
    assert await journal.window_of(outside) == outside.started_at
    await journal.record_end(outside, "pass")


@pytest.mark.parametrize("row", ["{}", '"pass"', '{"attempt": "now"}'])
async def test_a_pass_that_cannot_be_read_is_none(book: Ledger, row: str) -> None:
    record = await started(book)
    await journal.record_pass(record, "v1", "api")
    assert not await journal.has_stale_pass(record, "v1", "api")
    (key,) = [key for key in await rows_of(book.flow_run_id) if "-passed-" in key]
    await rewrite(book.flow_run_id, key, json.loads(row))
    assert await journal.has_stale_pass(record, "v1", "api")


async def test_a_pass_on_record_counts_for_the_run_of_its_service(book: Ledger) -> None:
    record = await started(book)
    await journal.record_pass(record, "v1", "api")
    assert await journal.has_stale_pass(record, "v2", "api")
    assert not await journal.has_stale_pass(record, "v2", "another service, which gave the same id")
    # Version 0.1.0 did not say at which service.
    (key,) = [key for key in await rows_of(book.flow_run_id) if "-passed-" in key]
    await rewrite(book.flow_run_id, key, {"attempt": [["root", 1]], "target": "v1"})
    assert await journal.has_stale_pass(record, "v2", "api")


async def test_the_end_of_a_run_is_that_when_it_was_first_seen(book: Ledger) -> None:
    record = await started(book)
    first, later = (datetime(2026, 1, 31, hour, tzinfo=timezone.utc) for hour in (8, 12))
    again = record.model_copy(update={"is_resumed": True})
    assert await journal.end_of(again, None, "api") is None, "nobody knows"
    assert await journal.end_of(record, first, "api") == first
    assert await journal.end_of(again, None, "api") == first
    assert await journal.end_of(again, later, "api") == first
    assert await journal.end_of(again, None, "another service, which gave the same id") is None


async def test_the_end_of_a_run_outside_a_flow_run_is_what_was_seen() -> None:
    seen = datetime.now(timezone.utc)
    assert await journal.end_of(a_run(), seen, "api") == seen
    assert await journal.end_of(a_run(), None, "api") is None
