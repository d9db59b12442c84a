"""How often this process may poll: a budget for each credentials, and a global concurrency limit of Prefect's."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable

import anyio
from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import rate_limit

from prefect_qatech._prefect import PATIENCE_SECONDS, run_logger
from prefect_qatech._sync import sleep_unless_stopped
from prefect_qatech.credentials import QATechCredentials

Sleep = Callable[[float], Awaitable[None]]


class Throttle:
    """Lets waits poll no more often than their credentials allow."""

    def __init__(self, credentials: QATechCredentials, sleep: Sleep = sleep_unless_stopped) -> None:
        self._sleep = sleep
        self._budget = budget_of(credentials)
        self._limit = GlobalLimit(credentials.rate_limit_name) if credentials.rate_limit_name is not None else None

    async def wait(self, max_seconds: float) -> None:
        """Wait until one more poll may be sent, but no longer than that."""
        began = time.monotonic()
        if self._budget is not None:
            await self._sleep(self._budget.reserve(max_seconds))
        seconds_left = max_seconds - (time.monotonic() - began)
        if self._limit is not None and seconds_left > 0:
            with anyio.move_on_after(seconds_left):
                await self._limit.wait()


class RequestBudget:
    """A token bucket: so many requests a second, and as many at once after a pause.

    Places are given out in the order of asking. A wait asks for its next poll when it has had the last one, so none can
    crowd out another. It may be used from any thread and loop.
    """

    def __init__(self, requests_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._step = 1 / requests_per_second
        self._burst_seconds = max(0.0, 1 - self._step)
        self._clock = clock
        self._free_at = -float("inf")
        self._lock = threading.Lock()

    def reserve(self, max_seconds: float) -> float:
        """Take the next place, and return how long to wait for it, at most what can be waited.

        Where it is later than that, none is taken, and nothing is owed.
        """
        with self._lock:
            now = self._clock()
            place = max(self._free_at, now - self._burst_seconds)
            if place - now > max_seconds:
                return max(0.0, max_seconds)
            self._free_at = place + self._step
            return max(0.0, place - now)


_budgets: dict[str, RequestBudget] = {}
_budgets_lock = threading.Lock()


def budget_of(credentials: QATechCredentials) -> RequestBudget | None:
    """Return the budget that all waits of this process with these credentials share; None where there is no limit."""
    rate = credentials.max_polls_per_second
    if rate is None:
        return None
    with _budgets_lock:
        return _budgets.setdefault(f"{credentials.fingerprint()} {rate}", RequestBudget(rate))


def _forget() -> None:
    # In a forked child the lock may be held by a thread that it does not have.
    global _budgets_lock
    _budgets_lock = threading.Lock()
    _budgets.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class GlobalLimit:
    """A global concurrency limit of Prefect's; while Prefect's API is down it limits nothing, as polls matter more."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._health = asyncio.Lock()
        self._healthy_until = -float("inf")

    async def wait(self) -> None:
        """Wait for a place, as long as Prefect's API is there to give one."""
        answer = asyncio.ensure_future(rate_limit(self._name, strict=False))
        try:
            # Other polls may be ahead of this one for a long time; a server that hangs will never answer.
            while not (await asyncio.wait([answer], timeout=PATIENCE_SECONDS))[0]:
                if not await self._is_there():
                    run_logger().debug("The limit %s could not be asked for: Prefect's API hangs.", self._name)
                    return
            answer.result()
        except Exception as error:
            run_logger().debug("The limit %s could not be asked for: %r", self._name, error)
        finally:
            answer.cancel()

    async def _is_there(self) -> bool:
        async with self._health:
            if time.monotonic() < self._healthy_until:
                return True
            with anyio.move_on_after(PATIENCE_SECONDS):
                async with get_client() as client:
                    if await client.api_healthcheck() is None:
                        self._healthy_until = time.monotonic() + PATIENCE_SECONDS
                        return True
            return False
