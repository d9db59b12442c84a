"""Faults on demand: what networks and gateways do to a request, as rules that a scenario or a test sets.

A fault says for a POST whether it is carried out before its answer goes wrong (`accepted`): the difference between a
start that may be sent again and one that must not.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Answer", "Fault", "FaultProtocol", "Faults", "answer_with"]

ABORT = "prefect_qatech.sandbox.abort"
_ACCEPTED_UNLESS_TOLD = {"latency", "drop_after", "half", "broken_json", "html", "wrong_content_type", "huge", "drip"}
_CHUNK = b" " * 65536
_HTML = b"<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>Please wait</h1></body></html>"


class FaultTarget(BaseModel):
    """Which requests a fault is about.

    `path` is the id that an operation has in the sandbox's OpenAPI document; with `query`, only requests that name such
    a parameter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["GET", "POST", "PUT"] | None = None
    path: Literal[
        "start",
        "rerun",
        "status",
        "test_case",
        "trace",
        "projects",
        "applications",
        "environments",
        "test_cases",
        "create_test_case",
        "upload_url",
        "upload",
        "register_build",
        "builds",
        "start_release_check",
        "release_check",
        "outbound_ips",
        "any",
    ] = "any"
    query: str | None = None


class Fault(BaseModel):
    """One fault.

    Attributes:
        on: The requests that it is about.
        kind: What happens. `latency`: the answer comes late; `status`: another one comes instead; `drop_before` and
            `drop_after`: the connection is closed without an answer, before or after the request was carried out;
            `half`: closed in the middle of the body; `broken_json`, `html`, `wrong_content_type`: 200 with such a body;
            `huge`: a body of `megabytes`; `drip`: one byte each `seconds`; `redirect`: to `location`.
        times: How often it happens; -1 is always.
        after: How many matching requests go well before.
        probability: Of each matching request, by a generator seeded with `seed`.
        accepted: Whether the request is carried out first. A `latency` that is not accepted first waits first, and is
            given up when the client goes away meanwhile. Kinds that need the true answer are always accepted.
        reset: Whether `drop_before`, `drop_after` and `half` end with a TCP reset instead of a close.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    on: FaultTarget = Field(default_factory=FaultTarget)
    kind: Literal[
        "latency",
        "status",
        "drop_before",
        "drop_after",
        "half",
        "broken_json",
        "html",
        "wrong_content_type",
        "huge",
        "drip",
        "redirect",
    ]
    times: int = Field(default=1, ge=-1)
    after: int = Field(default=0, ge=0)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int = 0
    accepted: bool | None = None
    seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    status: int | None = Field(default=None, ge=200, le=599)
    body: str | None = None
    content_type: str | None = Field(default=None, pattern=r"^[\x20-\x7e]*$")
    retry_after: float | int | Annotated[str, Field(pattern=r"^[\x20-\x7e]*$")] | None = None
    megabytes: float = Field(default=50, gt=0, allow_inf_nan=False)
    location: str = Field(default="https://elsewhere.invalid/v1/run", pattern=r"^[\x21-\x7e]+$")
    reset: bool = False

    @property
    def carries_out(self) -> bool:
        """Whether the request is carried out first."""
        if self.kind in {"drop_before", "drop_after", "wrong_content_type"}:
            return self.kind != "drop_before"
        return self.kind in _ACCEPTED_UNLESS_TOLD if self.accepted is None else self.accepted


@dataclass
class _Rule:
    fault: Fault
    random: random.Random
    matched: int = 0
    used: int = 0

    def fires(self, method: str, operation: str | None, query: Collection[str]) -> bool:
        on = self.fault.on
        if on.method not in {None, method} or on.path not in {"any", operation}:
            return False
        if on.query is not None and on.query not in query:
            return False
        self.matched += 1
        if self.matched <= self.fault.after or self.used == self.fault.times:
            return False
        if self.random.random() >= self.fault.probability:
            return False
        self.used += 1
        return True


class Faults:
    """The faults that are set; the first that fires for a request happens."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._rules: list[_Rule] = []
        self.replace(faults)

    def replace(self, faults: Sequence[Fault]) -> None:
        """Set these instead; all counting begins anew."""
        self._rules = [_Rule(fault, random.Random(fault.seed)) for fault in faults]

    def pick(self, method: str, operation: str | None, query: Collection[str] = ()) -> Fault | None:
        """Return the fault that happens to a request, if any; `query` are the names of its parameters."""
        return next((rule.fault for rule in self._rules if rule.fires(method, operation, query)), None)


@dataclass
class Answer:
    """A whole answer."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    async def send(self, send: Send) -> None:
        """Send it."""
        await send(_start(self.status, self.headers))
        await send({"type": "http.response.body", "body": self.body})


class FaultProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol that lets the application cut the connection, which ASGI knows no word for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.app

        async def with_abort(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "extensions": {**scope.get("extensions", {}), ABORT: self._abort}}, receive, send)

        self.app = with_abort

    def _abort(self, reset: bool) -> None:
        if reset:
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()  # what is written already still goes out


async def answer_with(
    fault: Fault, carry_out: Callable[[], Awaitable[Answer]], scope: Scope, receive: Receive, send: Send
) -> int | None:
    """Answer a request the way a fault wants it.

    Args:
        fault: The fault.
        carry_out: Carries the request out and gives the true answer.
        scope: Of the request, served by `FaultProtocol`.
        receive: Of the request, its body read already.
        send: Of the request.

    Returns:
        The status that was sent, None where no answer went out.
    """
    if fault.kind == "latency":
        answer = await carry_out() if fault.carries_out else None
        if await _client_left(receive, 1.0 if fault.seconds is None else fault.seconds):
            return None
        answer = answer or await carry_out()
        await answer.send(send)
        return answer.status

    true = await carry_out() if fault.carries_out else None
    body = true.body if true else b'{"message": "This request was not carried out"}'
    status = fault.status or (true.status if true else 200)
    json = (b"content-type", b"application/json")
    sized = (b"content-length", str(len(body)).encode())
    if fault.kind in {"drop_before", "drop_after"}:
        await _cut(fault, scope, receive)
        return None
    if fault.kind == "half":
        await send(_start(status, [json, sized]))
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        await _cut(fault, scope, receive)
    elif fault.kind == "drip":
        await send(_start(status, [json, sized]))
        for place in range(len(body)):
            await send({"type": "http.response.body", "body": body[place : place + 1], "more_body": True})
            if await _client_left(receive, 0.05 if fault.seconds is None else fault.seconds):
                return status
        await send({"type": "http.response.body"})
    elif fault.kind == "huge":
        await send(_start(status, [json]))
        left = int(fault.megabytes * 1_000_000)
        while left > 0:
            await send({"type": "http.response.body", "body": _CHUNK[:left], "more_body": True})
            left -= len(_CHUNK)
            if await _client_left(receive, 0):
                return status
        await send({"type": "http.response.body", "body": body})
    else:
        answer = _instead(fault, body, status)
        await answer.send(send)
        return answer.status
    return status


def _instead(fault: Fault, body: bytes, status: int) -> Answer:
    content_type, headers = "application/json", []
    if fault.kind == "status":
        status = fault.status or 500
        body = f'{{"message": "{_phrase(status)}"}}'.encode()
        if fault.retry_after is not None:
            headers.append((b"retry-after", str(fault.retry_after).encode("latin-1", "replace")))
    elif fault.kind == "redirect":
        status, body = fault.status or 302, b""
        headers.append((b"location", fault.location.encode()))
    elif fault.kind == "html":
        content_type, body = "text/html", _HTML
    elif fault.kind == "broken_json":
        body = body[: len(body) * 2 // 3]
    elif fault.kind == "wrong_content_type":
        content_type = "text/plain"
    if fault.body is not None and fault.kind != "wrong_content_type":
        body = fault.body.encode("utf-8", "replace")
    if status in {204, 304}:
        body = b""  # HTTP allows none
    headers.append((b"content-type", (fault.content_type or content_type).encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    return Answer(status, headers, body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


async def _cut(fault: Fault, scope: Scope, receive: Receive) -> None:
    scope["extensions"][ABORT](fault.reset)
    # uvicorn would answer 500 for an application that returns without an answer while the connection still looks open.
    while (await receive())["type"] != "http.disconnect":
        pass


async def _client_left(receive: Receive, seconds: float) -> bool:
    """Wait that long, or until the client closes the connection; say which."""
    if seconds <= 0:
        await asyncio.sleep(0)
    try:
        message = await asyncio.wait_for(receive(), max(seconds, 0.0001))
    except asyncio.TimeoutError:
        return False
    return bool(message["type"] == "http.disconnect")
