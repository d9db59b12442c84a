"""Connections are shared and closed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr

from prefect_qatech import QATechClient, QATechCredentials
from prefect_qatech._sync import run_sync
from prefect_qatech.api import connections
from prefect_qatech.api.requests import QATechRunRequest
from prefect_qatech.exceptions import QATechTimeoutError
from tests.virtual_time import run_at_once
from tests.wire import TOKEN, accepted, answer, listening, seen

# --- Connections


class Counting:
    """A service that keeps connections open, and counts them."""

    def __init__(self) -> None:
        self.opened = 0
        self.open = 0
        self.requests: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method = head.split(b" ")[0].decode()
                self.requests.append(method)
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line.split(b":")[1]))
                body = json.dumps(seen() if method == "GET" else accepted()).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1


def client(url: str, token: str = TOKEN) -> QATechClient:
    return QATechClient(api_token=SecretStr(token), api_url=url)


async def settled(condition: Any) -> None:
    """Wait until the server has noticed what the client did."""
    with anyio.fail_after(120):
        while not condition():  # noqa: ASYNC110 - it is the other side that changes
            await anyio.sleep(0.01)


async def test_clients_of_a_loop_share_their_connections_and_the_last_closes_them() -> None:
    service = Counting()
    async with listening(service) as url:
        async with client(url) as outer:
            for _ in range(3):
                async with client(url) as inner:
                    await inner.get_run("abc123")
                await outer.get_run("abc123")
        assert (service.opened, len(service.requests)) == (1, 6)
        await settled(lambda: service.open == 0)
        assert not any(shared for shared in connections._clients.values())


async def test_a_start_goes_over_a_connection_of_its_own() -> None:
    service = Counting()
    async with listening(service) as url, client(url) as one:
        await one.get_run("abc123")
        await one.start_run(QATechRunRequest())
        await one.start_run(QATechRunRequest())
        await one.get_run("abc123")
        assert (service.opened, service.requests) == (3, ["GET", "POST", "POST", "GET"])
        await settled(lambda: service.open == 1)


async def test_other_credentials_share_nothing() -> None:
    service = Counting()
    async with listening(service) as url, client(url) as one, client(url, "another") as other:
        await one.get_run("abc123")
        await other.get_run("abc123")
        assert service.opened == 2


async def test_a_client_that_is_given_back_while_others_use_it_stays_open() -> None:
    service = Counting()
    async with listening(service) as url, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(url)) for _ in range(5)]
        async with client(url):
            pass
        for one in clients:
            await one.get_run("abc123")
        assert service.opened == 1


async def test_looks_at_once_take_turns() -> None:
    on_the_way, most, released = 0, 0, anyio.Event()

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal on_the_way, most
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                on_the_way += 1
                most = max(most, on_the_way)
                if on_the_way == connections.MAX_IN_FLIGHT:
                    released.set()
                await released.wait()
                on_the_way -= 1
                body = json.dumps(seen()).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()

    async def look() -> None:
        async with client(url) as one:
            await one.get_run("abc123")

    with anyio.fail_after(120):
        async with listening(service) as url, anyio.create_task_group() as group:
            for _ in range(3 * connections.MAX_IN_FLIGHT):
                group.start_soon(look)
    assert most == connections.MAX_IN_FLIGHT


def test_waiting_for_a_turn_is_no_time_of_a_request() -> None:
    number = 1_000

    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(50)
        return answer(seen())

    async def look_at_all_at_once() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        transport = httpx.MockTransport(slow)
        async with QATechClient(api_token=SecretStr(TOKEN), timeout_seconds=60, transport=transport) as one:
            runs = await asyncio.gather(*(one.get_run("abc123") for _ in range(number)))
        return len(runs), loop.time() - began

    looked_at, seconds = run_at_once(look_at_all_at_once())
    assert looked_at == number
    assert seconds >= 50 * number / connections.MAX_IN_FLIGHT, "far longer than a request may take"


async def test_a_look_that_gets_no_answer_ends_by_its_time_limit_and_lets_the_next_one_go() -> None:
    silent = anyio.Event()
    failures: list[QATechTimeoutError] = []

    async def service(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()

    async def look() -> None:
        async with QATechClient(api_token=SecretStr(TOKEN), api_url=url, timeout_seconds=0.5) as one:
            with pytest.raises(QATechTimeoutError) as caught:
                await one.get_run("abc123")
            failures.append(caught.value)

    number = 2 * connections.MAX_IN_FLIGHT
    with anyio.fail_after(120):
        async with listening(service) as url:
            async with anyio.create_task_group() as group:
                for _ in range(number):
                    group.start_soon(look)
            silent.set()
    assert len(failures) == number
    assert all(failure.retryable for failure in failures)


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await client("https://qatech.example").get_run("abc123")


async def test_the_token_is_in_no_key() -> None:
    async with client("https://qatech.example"):
        keys = [key for shared in connections._clients.values() for key in shared]
        assert len(keys) == 1
        assert TOKEN not in repr(keys)
    assert TOKEN not in QATechCredentials(api_token=SecretStr(TOKEN)).fingerprint()
    assert connections.digest(TOKEN) == connections.digest(TOKEN) != connections.digest("another")


def test_sync_versions_share_a_loop_and_so_their_connections() -> None:
    loops: set[int] = set()
    together = threading.Barrier(3, timeout=120)

    async def core() -> None:
        loops.add(id(asyncio.get_running_loop()))
        await asyncio.to_thread(together.wait)

    threads = [threading.Thread(target=run_sync, args=(core,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(loops) == 1


SCRIPT = """
import asyncio, gc, os, sys, threading, warnings
from prefect_qatech.api.client import QATechClient
from prefect_qatech._sync import run_sync
from pydantic import SecretStr

async def look():
    async with QATechClient(api_token=SecretStr("x"), api_url=sys.argv[1]) as client:
        await client.get_run("abc123")

threads = [threading.Thread(target=run_sync, args=(look,)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
run_sync(look)
asyncio.run(look())

async def forks():
    child = os.fork()
    if child == 0:
        try:
            run = threading.Thread(target=run_sync, args=(look,))
            run.start()
            run.join(100)
            os._exit(7 if not run.is_alive() else 8)
        finally:
            os._exit(9)
    status = (await asyncio.to_thread(os.waitpid, child, 0))[1]
    assert os.waitstatus_to_exitcode(status) == 7, status
run_sync(forks)

gc.collect()
print("looked")
"""


@pytest.mark.slow
async def test_nothing_is_left_open_at_the_end_of_a_process_that_may_have_forked() -> None:
    # To fork with threads is what newer versions of Python warn of.
    flags = ["-X", "dev", *(f"-W{what}" for what in ("error::ResourceWarning", "error::RuntimeWarning"))]
    async with listening(Counting()) as url:
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, *flags, "-Wignore::DeprecationWarning", "-c", SCRIPT, url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert (ended.returncode, ended.stdout.strip()) == (0, "looked"), ended.stderr
    assert "Warning" not in ended.stderr
    assert "was destroyed" not in ended.stderr
