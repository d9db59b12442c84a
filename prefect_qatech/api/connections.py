"""What all waits of a process share that use the same credentials: connections, and a budget of requests.

Connections belong to an event loop, so they are shared per loop: by whatever runs in it at the same time, and closed
when the last of them has ended. The budget belongs to the process, whatever loops and threads it has. Both are found
under a digest that means nothing outside of the process; the token is no part of it that could be read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import httpx

_SALT = secrets.token_bytes(32)


def digest(*parts: Any) -> str:
    """Give a name for what was made of these parts, a token among them perhaps; another one in each process."""
    return hmac.new(_SALT, json.dumps(parts).encode(), hashlib.sha256).hexdigest()


MOST_IN_FLIGHT = 32
"""So many requests over shared connections are on their way at once; the others wait for their turn, in order.

httpx goes through all that wait for a connection, and all connections, whenever one becomes free: its time grows with
the square of what it is asked at once, and 5,000 waits never came to an end.
"""


class Connections:
    """The connections of an event loop to one service with one token.

    Attributes:
        http: The client that holds them.
        turns: Taken for each request.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.turns = anyio.CapacityLimiter(MOST_IN_FLIGHT)
        self._borrowers = 0


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Connections]] = WeakKeyDictionary()


def borrow(key: str, make: Callable[[], httpx.AsyncClient]) -> Connections:
    """Borrow the running loop's connections of that name; the first who asks makes them.

    Args:
        key: Their name, a digest of all that they were made of.
        make: Makes the client.

    Returns:
        The connections. Whoever borrowed them gives them back.
    """
    shared = _clients.setdefault(asyncio.get_running_loop(), {})
    if key not in shared:
        shared[key] = Connections(make())
    shared[key]._borrowers += 1
    return shared[key]


async def give_back(key: str) -> None:
    """Give borrowed connections back; the last one closes them."""
    shared = _clients[asyncio.get_running_loop()]
    shared[key]._borrowers -= 1
    if shared[key]._borrowers == 0:
        http = shared.pop(key).http
        with anyio.CancelScope(shield=True):
            await http.aclose()


class RequestBudget:
    """A token bucket: so many requests a second, and as many at once after a pause.

    Places are given out in the order of asking. A wait asks for its next look when it has had the last one, so none can
    crowd out another. It may be used from any thread and loop.

    Args:
        requests_per_second: The rate.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, requests_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._step = 1 / requests_per_second
        self._burst_seconds = max(0.0, 1 - self._step)
        self._clock = clock
        self._free_at = -float("inf")
        self._lock = threading.Lock()

    def reserve(self, most_seconds: float) -> float:
        """Take the next place.

        Args:
            most_seconds: How long can be waited for it. Where it is later, none is taken, and nothing is owed.

        Returns:
            How long to wait; at most what can be waited.
        """
        with self._lock:
            now = self._clock()
            place = max(self._free_at, now - self._burst_seconds)
            if place - now > most_seconds:
                return max(0.0, most_seconds)
            self._free_at = place + self._step
            return max(0.0, place - now)

    async def wait(self, sleep: Callable[[float], Awaitable[None]], most_seconds: float) -> None:
        """Wait for the next place, but no longer than that."""
        pause = self.reserve(most_seconds)
        if pause > 0:
            await sleep(pause)


_budgets: dict[str, RequestBudget] = {}
_budgets_lock = threading.Lock()


def budget_of(key: str, requests_per_second: float) -> RequestBudget:
    """Give the process's budget of that name."""
    with _budgets_lock:
        return _budgets.setdefault(key, RequestBudget(requests_per_second))


def _forget() -> None:
    # A forked child has none of the loops, and a lock may be held by a thread that it does not have.
    global _budgets_lock
    _budgets_lock = threading.Lock()
    _budgets.clear()
    _clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
