"""The connections that all requests with the same credentials share.

Connections belong to an event loop, so they are shared per loop: by whatever runs in it at the same time, and closed
when the last of them has ended. They are found under a digest that means nothing outside of the process; the token is
no part of it that could be read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import httpx

_SALT = secrets.token_bytes(32)


def digest(*parts: Any) -> str:
    """Return a name for some parts, which may include a token; it differs between processes."""
    return hmac.new(_SALT, json.dumps(parts).encode(), hashlib.sha256).hexdigest()


MAX_IN_FLIGHT = 32
"""So many requests over shared connections are on their way at once; the others wait for their turn, in order.

httpx goes through all that wait for a connection, and all connections, whenever one becomes free: its time grows with
the square of what it is asked at once, and 5,000 waits never came to an end.
"""


class Connections:
    """The connections of an event loop to one service with one token; each request takes one of the `turns`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.turns = anyio.CapacityLimiter(MAX_IN_FLIGHT)
        self._borrowers = 0


_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Connections]] = WeakKeyDictionary()


def borrow(key: str, make: Callable[[], httpx.AsyncClient]) -> Connections:
    """Borrow the running loop's connections of a name, which is a digest of all that they were made of.

    The first who asks makes them. Whoever borrowed them gives them back.
    """
    shared = _clients.setdefault(asyncio.get_running_loop(), {})
    if key not in shared:
        shared[key] = Connections(make())
    shared[key]._borrowers += 1
    return shared[key]


async def give_back(key: str) -> None:
    """Return borrowed connections; the last borrower closes them."""
    shared = _clients[asyncio.get_running_loop()]
    shared[key]._borrowers -= 1
    if shared[key]._borrowers == 0:
        http = shared.pop(key).http
        with anyio.CancelScope(shield=True):
            await http.aclose()


def _forget() -> None:
    # A forked child has none of the loops.
    _clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
