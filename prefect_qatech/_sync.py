"""How the sync versions run the async core, and how a wait notices that its process is asked to stop.

The work is written once, async. A sync version runs it in an event loop in another thread, so that it works the same in
sync and async flows, called, submitted and mapped, and so that the calling thread stays open to signals. All that are
at work in a process share that loop, and with it their connections; it ends with the last of them.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import WeakSet

import anyio
from anyio.from_thread import BlockingPortal, BlockingPortalProvider, start_blocking_portal
from prefect.exceptions import TerminationSignal

P = ParamSpec("P")
T = TypeVar("T")

WATCH_SECONDS = 0.5
"""How often a wait off the main thread checks whether the main thread is being stopped."""


def run_sync(core: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the async core of a task or flow to its end and return what it returns.

    - The core sees the caller's context variables, Prefect's run contexts among them.
    - A signal that interrupts the calling thread (cancellation of the flow run, Ctrl-C, a time-out of Prefect's)
      cancels the core, which gets the time to say what goes on at the service; then the interruption goes its way.
    """
    work = _Work(core)
    with _portal() as portal:
        future = portal.start_task_soon(work)
        try:
            return future.result()
        except _Raised:
            error = work.raised
        except BaseException:
            future.cancel()
            work.ended.wait()
            raise
        raise error


def calling_thread() -> threading.Thread:
    """Return the thread that called the sync version of what runs here; this thread where nobody did."""
    return _caller.get() or threading.current_thread()


def sync_version(core: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Return the sync version of an async function: its name, signature and docstring, run by `run_sync`."""

    @functools.wraps(core)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_sync(lambda: core(*args, **kwargs))

    return run


async def run_apart(core: Callable[[], Coroutine[Any, Any, T]], *, grace_seconds: float) -> T:
    """Run a coroutine where neither a cancellation nor the end of the caller's loop reaches it at once.

    `asyncio.run` cancels every task of its loop when it is interrupted, shielded ones too. So this one runs in the loop
    of the sync versions, where it sees the caller's context variables. A cancellation of the caller waits for it, and
    goes on when it has ended; when the grace is over, it is cancelled as well.
    """
    work = _Work(core)
    if asyncio.get_running_loop() in _loops:
        return await _with_grace(asyncio.ensure_future(work()), work, grace_seconds)
    with _portal() as portal:
        future = portal.start_task_soon(work)
        try:
            return await _with_grace(asyncio.wrap_future(future), work, grace_seconds)
        finally:
            # The portal waits for what runs in it.
            future.cancel()


async def _with_grace(future: asyncio.Future[T], work: _Work[T], grace_seconds: float) -> T:
    try:
        return await asyncio.shield(future)
    except _Raised:
        error = work.raised
    except asyncio.CancelledError:
        give_up_at = time.monotonic() + grace_seconds
        with anyio.CancelScope(shield=True):
            while not future.done() and (left := give_up_at - time.monotonic()) > 0:
                # The time-out of a flow cancels again and again; what comes through `asyncio.gather` passes the shield.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future], timeout=left)
        if not future.cancel() and not future.cancelled():
            future.exception()
        raise
    raise error


class _Raised(Exception):
    """The core raised something."""


class _Work(Generic[T]):
    """A core on its way through a portal. There a BaseException would end the loop, and the work of others in it."""

    def __init__(self, core: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._core = core
        self._caller = calling_thread()
        self.ended = threading.Event()
        self.raised: BaseException = _Raised()

    async def __call__(self) -> T:
        _loops.add(asyncio.get_running_loop())
        _caller.set(self._caller)
        try:
            return await self._core()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.raised = error
            raise _Raised from None
        finally:
            self.ended.set()


_provider = BlockingPortalProvider()
_loops: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
_caller: ContextVar[threading.Thread | None] = ContextVar("caller", default=None)


def _portal() -> AbstractContextManager[BlockingPortal]:
    try:
        # Waiting in the shared loop for something that runs in it would last for ever.
        inside = asyncio.get_running_loop() in _loops
    except RuntimeError:
        inside = False
    return start_blocking_portal() if inside else _provider


def _forget() -> None:
    # A forked child does not have the loop's thread.
    global _provider
    _provider = BlockingPortalProvider()
    _loops.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


async def sleep_unless_stopped(seconds: float) -> None:
    """Sleep, and raise `TerminationSignal` where the process is being stopped and nobody else would tell.

    Signals reach the main thread only. A task that was submitted to a thread sees nothing of them, and Prefect then
    waits for the thread. So off the main thread the sleep is cut into slices, each with a look at what the main thread
    is handling.
    """
    if threading.current_thread() is threading.main_thread():
        await anyio.sleep(seconds)
        return
    deadline = anyio.current_time() + seconds
    seen_before: BaseException | None = None
    while True:
        seen = _exception_of_main_thread()
        # A cancellation that is over soon is none of our business (a time-out in the user's flow); one that the main
        # thread stays in is Prefect waiting for the threads of its task runner.
        if isinstance(seen, (TerminationSignal, KeyboardInterrupt)) or (
            isinstance(seen, asyncio.CancelledError) and seen is seen_before
        ):
            raise TerminationSignal(signal.SIGTERM)
        seen_before = seen
        remaining = deadline - anyio.current_time()
        if remaining <= 0:
            return
        await anyio.sleep(min(WATCH_SECONDS, remaining))


def _exception_of_main_thread() -> BaseException | None:
    """Return the exception that the main thread is handling just now."""
    main = threading.main_thread().ident
    handled: Any = sys._current_exceptions().get(main) if main is not None else None
    # Until Python 3.12 the values are what sys.exc_info() returns.
    exception: BaseException | None = handled[1] if isinstance(handled, tuple) else handled
    return exception
