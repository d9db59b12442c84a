"""The sync versions run the async core as if it were their own, and waits notice that the process is asked to stop."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from prefect.exceptions import TerminationSignal

from prefect_qatech import _sync
from prefect_qatech._sync import run_sync, sleep_unless_stopped
from tests.virtual_time import run_at_once

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="nothing")


async def where_am_i() -> tuple[str, int]:
    await anyio.lowlevel.checkpoint()
    return VARIABLE.get(), threading.get_ident()


# --- run_sync


def test_in_the_main_thread() -> None:
    token = VARIABLE.set("main")
    try:
        seen, thread = run_sync(where_am_i)
    finally:
        VARIABLE.reset(token)
    assert seen == "main"
    assert thread != threading.get_ident(), "the calling thread stays open to signals"


def test_in_a_worker_thread() -> None:
    def work() -> tuple[str, int, int]:
        VARIABLE.set("worker")
        return (*run_sync(where_am_i), threading.get_ident())

    with ThreadPoolExecutor() as pool:
        seen, thread, worker = pool.submit(work).result(timeout=120)
    assert seen == "worker"
    assert thread != worker


async def test_inside_a_running_loop() -> None:
    VARIABLE.set("loop")
    seen, thread = run_sync(where_am_i)
    assert seen == "loop"
    assert thread != threading.get_ident()


def test_what_the_core_sets_stays_its_own() -> None:
    async def core() -> None:
        VARIABLE.set("core")

    run_sync(core)
    assert VARIABLE.get() == "nothing"


def test_twins_do_not_wait_for_each_other() -> None:
    both = threading.Barrier(2, timeout=120)

    async def core() -> int:
        return await asyncio.to_thread(both.wait)

    with ThreadPoolExecutor() as pool:
        assert sorted(pool.map(run_sync, [core, core])) == [0, 1]


@pytest.mark.parametrize("error", [ValueError("no"), TerminationSignal(signal.SIGTERM), SystemExit(3)], ids=repr)
def test_the_cores_error_is_the_callers(error: BaseException) -> None:
    async def core() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        run_sync(core)
    assert caught.value is error


def test_a_twin_inside_of_a_twin() -> None:
    async def outer() -> int:
        VARIABLE.set("outer")
        seen, thread = run_sync(where_am_i)
        assert seen == "outer"
        return thread

    assert run_sync(outer) != threading.get_ident()


def test_an_end_of_one_is_no_end_of_another() -> None:
    both = threading.Barrier(2, timeout=120)

    async def leaves() -> None:
        await asyncio.to_thread(both.wait)
        raise SystemExit(3)

    async def stays() -> str:
        await asyncio.to_thread(both.wait)
        await anyio.sleep(0.2)
        return "done"

    with ThreadPoolExecutor() as pool:
        left, stayed = pool.submit(run_sync, leaves), pool.submit(run_sync, stays)
        assert isinstance(left.exception(timeout=120), SystemExit)
        assert stayed.result(timeout=120) == "done"


def test_no_thread_stays_behind() -> None:
    before = set(threading.enumerate())
    run_sync(where_am_i)
    assert set(threading.enumerate()) <= before


# --- Signals, in a process of their own

SCRIPT_HEAD = """
import os, signal, sys, threading
import anyio
from prefect_qatech._sync import run_sync, sleep_unless_stopped
from prefect_qatech import _sync
_sync.WATCH_SECONDS = 0.02

# What was started in the background by a shell ignores the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt():
    os.kill(os.getpid(), {signal})
"""
CORE_IS_CANCELLED = (
    SCRIPT_HEAD
    + """
{prepare}

async def core():
    threading.Timer(0.05, interrupt).start()
    try:
        await anyio.sleep(60)
    except anyio.get_cancelled_exc_class():
        print("cancelled")
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.05)
        print("said goodbye")
        raise

with {around}:
    try:
        run_sync(core)
    except BaseException as error:
        print("caller sees", type(error).__name__)
        raise
"""
)
WORKER_IS_STOPPED = (
    SCRIPT_HEAD
    + """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from prefect.utilities.engine import capture_sigterm

def work():
    threading.Timer(0.05, interrupt).start()
    try:
        asyncio.run(sleep_unless_stopped(60))
    except BaseException as error:
        print("worker sees", type(error).__name__)
        raise

with capture_sigterm():
    with ThreadPoolExecutor() as pool:  # its end waits for the threads, as Prefect's task runner does
        pool.submit(work).result()
"""
)


def run_script(script: str, **words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script.format(**words)],
        cwd=Path(_sync.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_an_interrupt_in_the_main_thread_cancels_the_core() -> None:
    ended = run_script(
        CORE_IS_CANCELLED, signal="signal.SIGINT", prepare="import contextlib", around="contextlib.nullcontext()"
    )
    assert ended.stdout.split("\n") == ["cancelled", "said goodbye", "caller sees KeyboardInterrupt", ""], ended.stderr
    assert ended.returncode == -signal.SIGINT


@pytest.mark.slow
def test_a_termination_in_the_main_thread_cancels_the_core() -> None:
    ended = run_script(
        CORE_IS_CANCELLED,
        signal="signal.SIGTERM",
        prepare="from prefect.utilities.engine import capture_sigterm",
        around="capture_sigterm()",
    )
    assert ended.stdout.split("\n") == ["cancelled", "said goodbye", "caller sees TerminationSignal", ""], ended.stderr
    assert ended.returncode == -signal.SIGTERM


@pytest.mark.slow
def test_a_termination_ends_the_waits_of_other_threads() -> None:
    ended = run_script(WORKER_IS_STOPPED, signal="signal.SIGTERM")
    assert ended.stdout == "worker sees TerminationSignal\n", ended.stderr
    assert ended.returncode == -signal.SIGTERM


# --- sleep_unless_stopped, off the main thread


class Sleeper:
    """A thread that sleeps; the main thread decides what it is handling meanwhile."""

    def __init__(self, seconds: float) -> None:
        self.outcome: Future[float] = Future()
        self.looked = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(seconds,), daemon=True)

    def _run(self, seconds: float) -> None:
        began = time.monotonic()
        try:
            asyncio.run(sleep_unless_stopped(seconds))
        except BaseException as error:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(time.monotonic() - began)

    def start(self) -> None:
        self._thread.start()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What each look at the main thread saw; looks are quick here."""
    seen: list[BaseException | None] = []
    real = _sync._exception_of_main_thread

    def look() -> BaseException | None:
        seen.append(real())
        return seen[-1]

    monkeypatch.setattr(_sync, "WATCH_SECONDS", 0.02)
    monkeypatch.setattr(_sync, "_exception_of_main_thread", look)
    return seen


@pytest.mark.parametrize(
    "handled", [TerminationSignal(signal.SIGTERM), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr
)
def test_a_sleep_ends_when_the_main_thread_is_being_stopped(handled: BaseException, looks: list[Any]) -> None:
    sleeper = Sleeper(600)
    try:
        raise handled
    except BaseException:
        sleeper.start()
        error = sleeper.outcome.exception(timeout=120)
    assert isinstance(error, TerminationSignal)
    assert handled in looks


@pytest.mark.parametrize("handled", [ValueError("no"), TimeoutError(), SystemExit(1)], ids=repr)
def test_a_sleep_goes_on_when_the_main_thread_handles_something_else(handled: BaseException, looks: list[Any]) -> None:
    sleeper = Sleeper(0.2)
    try:
        raise handled
    except BaseException:
        sleeper.start()
        slept = sleeper.outcome.result(timeout=120)
    assert handled in looks, "it was seen"
    assert slept >= 0.2


def test_a_sleep_goes_on_when_the_main_thread_handles_nothing(looks: list[Any]) -> None:
    sleeper = Sleeper(0.2)
    sleeper.start()
    assert sleeper.outcome.result(timeout=120) >= 0.2
    assert set(looks) == {None}


def test_a_cancellation_that_is_over_soon_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    passing: list[BaseException | None] = [asyncio.CancelledError(), None, asyncio.CancelledError(), None]
    monkeypatch.setattr(_sync, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(_sync, "_exception_of_main_thread", lambda: passing.pop(0) if passing else None)

    async def sleeps() -> float:
        began = anyio.current_time()
        await sleep_unless_stopped(0.2)
        return anyio.current_time() - began

    # In virtual time, so that there are four looks on any machine.
    with ThreadPoolExecutor() as pool:
        assert pool.submit(lambda: run_at_once(sleeps())).result(timeout=120) >= 0.2
    assert passing == []


async def test_in_the_main_thread_nobody_looks(looks: list[BaseException | None]) -> None:
    await sleep_unless_stopped(0.1)
    assert looks == [], "signals reach the main thread"
