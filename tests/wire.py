"""What the tests of the client share: a scripted service, bodies that count what is read, a look for secrets."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import pickle
import ssl
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
from pydantic import SecretStr

from prefect_qatech import QATechClient

TOKEN = "qat-5ecret.Tok3n_0123456789abcdef"
URL = "https://qatech.example"


class Body(httpx.AsyncByteStream):
    """A body that is made while it is read, as from a network, and that counts what was read of it."""

    def __init__(self, *chunks: bytes, times: int = 1, pause: Callable[[], Awaitable[None]] | None = None) -> None:
        self._chunks, self._times, self._pause = chunks, times, pause
        self.pulled = 0
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._times):
            for chunk in self._chunks:
                if self._pause is not None:
                    await self._pause()
                self.pulled += len(chunk)
                yield chunk

    async def aclose(self) -> None:
        self.closed = True


def answer(
    body: Any = None, status: int = 200, headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None
) -> httpx.Response:
    """An answer; a body that is not bytes or a `Body` is sent as JSON."""
    if not isinstance(body, Body):
        body = Body(body if isinstance(body, bytes) else json.dumps(body).encode())
    return httpx.Response(status, headers=headers, stream=body)


def accepted(short_id: Any = "new123", **fields: Any) -> dict[str, Any]:
    """The documented answer to a start."""
    run = {
        "id": "5e4d3c2b-0000-4000-8000-000000000001",
        "shortId": short_id,
        "url": f"https://app.qa.tech/p/shop/results/{short_id}",
        "testCount": 3,
        "testPlan": {"name": "Smoke", "shortId": "pln-all-of-it_smoke"},
    }
    return {"success": True, "run": {**run, **fields}}


def seen(short_id: str = "abc123", **fields: Any) -> dict[str, Any]:
    """The documented answer to a look at a run."""
    run = {"id": "5e4d3c2b-0000-4000-8000-000000000002", "shortId": short_id, "status": "RUNNING", "result": None}
    return {**run, "runTestCases": [], **fields}


class Service:
    """Answers every request in the same way, or raises, and keeps what it was asked.

    Args:
        respond: An answer's body, an exception, or a function of the request that gives a response or raises.
    """

    def __init__(self, respond: Any) -> None:
        self._respond = respond
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        respond = self._respond
        if callable(respond):
            respond = respond(request)
        if isinstance(respond, Exception):
            raise respond
        return respond if isinstance(respond, httpx.Response) else answer(respond)

    @property
    def only(self) -> httpx.Request:
        """The one request that was made."""
        assert len(self.requests) == 1
        return self.requests[0]

    @property
    def body(self) -> Any:
        """The JSON of the one request that was made."""
        return json.loads(self.only.content)

    def client(self, **options: Any) -> QATechClient:
        """A client whose requests come here, whatever host they are for."""
        options = {"api_token": SecretStr(TOKEN), "api_url": URL, **options}
        return QATechClient(transport=httpx.MockTransport(self), **options)


@asynccontextmanager
async def listening(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str = "127.0.0.1",
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A real server on a free port of this machine; gives its address."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0, ssl=context)
    try:
        yield f"{'http' if context is None else 'https'}://{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        # `async with server` waits on some versions of Python for connections that nobody closes.
        server.close()


def chain(error: BaseException) -> list[BaseException]:
    """An error and all that hang on it as cause or context."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        item = waiting.pop()
        if item is not None and item not in found:
            found.append(item)
            waiting += [item.__cause__, item.__context__]
    return found


def assert_holds_no_secret(error: BaseException, *secrets: str) -> None:
    """Check everything that is kept, stored or printed of an error."""
    secrets = secrets or (TOKEN,)
    for item in chain(error):
        assert isinstance(item, Exception)
        assert type(item).__module__.startswith("prefect_qatech"), f"{item!r} of another library, with its request"
        texts = [str(item), repr(item), repr(item.args), repr(item.__dict__), repr(getattr(item, "__notes__", None))]
        texts += traceback.format_exception(type(item), item, item.__traceback__)
        stored = pickle.dumps(item)
        for secret in secrets:
            assert not any(secret in text for text in texts)
            assert secret.encode() not in stored


class Everything(logging.Handler):
    """Keeps all that any logger writes."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.texts: list[str] = []
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.names.add(record.name.split(".")[0])
        self.texts += [record.getMessage(), repr(vars(record))]


def forms_of(token: str) -> set[str]:
    """What a token can look like to somebody who knows how to decode it."""
    raw = token.encode()
    forms = {token, raw.hex(), raw.hex(" "), raw.hex(":"), repr(raw)[2:-1], token[::-1], str(list(raw))[1:-1]}
    for encoding in ("utf-16-le", "utf-16-be"):
        forms.add(raw.decode().encode(encoding).decode("latin-1"))
    for before in range(3):  # base64 shifts with what stands before
        padded = base64.b64encode(b"x" * before + raw + b"xx").decode()
        forms.add(padded[4:-4])
    return forms
