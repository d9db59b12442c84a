"""One process with many waits: `python -m tests.bench.waiting_process KIND NUMBER SECONDS SPEED URL`; prints JSON.

KIND is `together` (all waits in one task run), `each` (a task run for each wait), `sleeps` (a task run for each that
only sleeps), `poll-tasks` (a flow that spends a task run on each poll) or `threads` (a sync task per wait, with a
thread each). The last two look at a fixed interval of ten seconds. Time goes SPEED times as fast: for the runs, for all
pauses, and so for the load.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import anyio
import httpx
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import wait
from prefect.settings import PREFECT_LOGGING_LEVEL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import SecretStr

from prefect_qatech import QATechCredentials, QATechPolling, await_for_test_run, await_for_test_runs, waits

FIXED_SECONDS = 10.0
speed = float(sys.argv[4])
POLLING = QATechPolling(first_seconds=3 / speed, growth=speed**-0.5, max_seconds=120 / speed)
late: list[float] = []
requests = 0


due: ContextVar[float] = ContextVar("due")
"""When the next request of a wait is to be sent; each wait has a context of its own."""


async def timed_sleep(seconds: float) -> None:
    """Sleep, and note when that is to end."""
    due.set(time.monotonic() + seconds)
    await anyio.sleep(seconds)


def begun(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Note that the first look of a wait is to be sent at once."""

    async def wait_for_run(*args: Any, **options: Any) -> Any:
        due.set(time.monotonic())
        return await real(*args, **options)

    return wait_for_run


def timed(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Note how much later than planned a request is sent, whatever has held it up."""

    async def send(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> Any:
        if (planned := due.get(None)) is not None and "/v1/run/" in request.url.path:
            late.append(time.monotonic() - planned)
        return await real(self, request, **options)

    return send


def counted(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def get_run(*args: Any, **options: Any) -> Any:
        global requests
        requests += 1
        return await real(*args, **options)

    return get_run


def credentials(url: str) -> QATechCredentials:
    return QATechCredentials(api_token=SecretStr("bench"), api_url=url)


@flow
async def together(ids: list[str], url: str) -> None:
    await await_for_test_runs(credentials(url), ids, 3600, polling=POLLING)


@flow
async def each(ids: list[str], url: str) -> None:
    block = credentials(url)
    await asyncio.gather(*(await_for_test_run(block, short_id, 3600, polling=POLLING) for short_id in ids))


@task(cache_policy=NO_CACHE)
async def sleep_in_a_task(short_id: str, seconds: float) -> None:
    await anyio.sleep(seconds)


@flow
async def sleeps(ids: list[str], url: str) -> None:
    await asyncio.gather(*(sleep_in_a_task(one, float(one[1:].split("x")[0])) for one in ids))


@task(cache_policy=NO_CACHE)
async def poll(http: httpx.AsyncClient, short_id: str) -> str:
    global requests
    requests += 1
    status: str = (await http.get(f"/v1/run/{short_id}", params={"testCases": "all"})).json()["status"]
    return status


@flow
async def poll_tasks(ids: list[str], url: str) -> None:
    async def one(short_id: str) -> None:
        while await poll(http, short_id) != "COMPLETED":  # noqa: ASYNC110 - the known way
            await anyio.sleep(FIXED_SECONDS / speed)

    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        await asyncio.gather(*map(one, ids))


@task(cache_policy=NO_CACHE)
def wait_in_a_thread(http: httpx.Client, short_id: str) -> None:
    global requests
    while True:
        requests += 1
        if http.get(f"/v1/run/{short_id}", params={"testCases": "all"}).json()["status"] == "COMPLETED":
            return
        time.sleep(FIXED_SECONDS / speed)


@flow
def threads(ids: list[str], url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as http:
        wait([wait_in_a_thread.submit(http, short_id) for short_id in ids])


def memory_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def work(kind: str, ids: list[str], url: str) -> None:
    if kind == "threads":
        threads.with_options(task_runner=ThreadPoolTaskRunner(max_workers=len(ids)))(ids, url)
    else:
        asyncio.run({"together": together, "each": each, "sleeps": sleeps, "poll-tasks": poll_tasks}[kind](ids, url))


def main() -> None:
    kind, number, seconds, url = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) / speed, sys.argv[5]
    from prefect_qatech.api.client import QATechClient

    QATechClient.get_run = counted(QATechClient.get_run)  # type: ignore[method-assign, assignment]
    waits.sleep = waits.sleep_unless_stopped = timed_sleep  # type: ignore[attr-defined, assignment]
    waits.wait_for_run = begun(waits.wait_for_run)  # type: ignore[assignment]
    httpx.AsyncClient.send = timed(httpx.AsyncClient.send)  # type: ignore[method-assign, assignment]
    logging.disable(logging.INFO)
    with temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False, PREFECT_LOGGING_LEVEL: "WARNING"}):
        # What the process, a flow run and a first look cost is not counted.
        work(kind, ["d0x0"], url)
        late.clear()
        before, memory, asked = cpu_seconds(), memory_kb(), requests
        began = time.monotonic()
        work(kind, [f"d{seconds:g}x{os.getpid()}x{index}" for index in range(number)], url)
    print(
        json.dumps(
            {
                "cpu": cpu_seconds() - before,
                "kb": memory_kb() - memory,
                "requests": requests - asked,
                "wall": time.monotonic() - began,
                "latest": max(late, default=0.0),
            }
        )
    )


if __name__ == "__main__":
    main()
