"""What the tests of the ledger share: calls, runs, POSTs that count, rows that go wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import anyio
import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRunInput
from prefect.exceptions import PrefectHTTPStatusError

from prefect_qatech import (
    QATechLedgerEntry,
    QATechRunRecord,
    ledger,
)
from prefect_qatech.ledger import Call, Chain, Ledger

FIRST: Chain = (("root", 1),)
SECOND: Chain = (("root", 2),)


def call(place: str = "0", *, asks: str = "A", chain: Chain = FIRST, label: str | None = None, **more: Any) -> Call:
    return Call(
        kind="start",
        what=f"POST /v1/run ({asks})",
        fingerprint=asks,
        chain=chain,
        place=place,
        label=label,
        **more,
    )


def a_run(short_id: str = "abc123", **fields: Any) -> QATechRunRecord:
    return QATechRunRecord(
        kind="start",
        run_short_id=short_id,
        run_url=f"https://app.qa.tech/{short_id}",
        started_at=datetime.now(timezone.utc),
        **fields,
    )


def entry(of: Call, *, is_open: bool = False) -> QATechLedgerEntry:
    written = of.entry(sent_at=datetime.now(timezone.utc), busy_seconds=0, nonce="")
    return written if is_open else written.model_copy(update={"run": a_run()})


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


class Sends:
    """A POST that counts how often it is sent."""

    def __init__(self, outcome: Exception | None = None, seconds: float = 0) -> None:
        self.count = 0
        self.outcome = outcome
        self.seconds = seconds

    async def __call__(self) -> QATechRunRecord:
        self.count += 1
        number = self.count
        await anyio.sleep(self.seconds)
        if self.outcome is not None:
            raise self.outcome
        return a_run(f"run{number}")


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


async def until_sent(book: Ledger) -> None:
    """Wait until a POST has been put on record."""
    while not await book.entries():  # noqa: ASYNC110 - the server has no event to wait for
        await anyio.sleep(0.01)


async def ask(send: Callable[[], Awaitable[QATechRunRecord]], asks: str = "A", label: str | None = None) -> str:
    asked = Call(kind="start", what=f"POST /v1/run ({asks})", fingerprint=asks, label=label)
    record = await ledger.once(asked, send, post_seconds=0)
    return record.run_short_id
