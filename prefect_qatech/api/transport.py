"""How a request goes to QA.tech: connections, time and size limits, what of an answer is let through. It sends once.

Every request has one time limit, from when it has its place among the connections to the last byte of the answer.
Answers are read up to a size limit. Redirects are not followed: the token goes to the host that was configured and to
no other, and to a loopback address without any proxy.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from functools import cache
from typing import Any, Literal, TypeVar
from urllib.parse import urlencode, urlsplit

import anyio
import httpx
from pydantic import BaseModel, SecretStr, ValidationError
from typing_extensions import Self

from prefect_qatech import __version__
from prefect_qatech.addresses import is_loopback
from prefect_qatech.api import connections
from prefect_qatech.api.answers import Exchange, NotJSONError, read_json
from prefect_qatech.api.masking import TokenMask
from prefect_qatech.exceptions import InvalidInputError, QATechAPIError, StartOutcomeUnknown
from prefect_qatech.texts import cut

MAX_RESPONSE_BYTES = 32 * 1024 * 1024
"""More than the results of some thousand test cases with long reasoning; a longer answer is an error."""

_MESSAGE_LENGTH = 500
_LOCATION = "prefect_qatech.location"

ModelT = TypeVar("ModelT", bound=BaseModel)


@cache
def _tls() -> ssl.SSLContext:
    """Return the process's TLS settings: reading certificates is the slowest part of a client."""
    return httpx.create_ssl_context()


class Transport:
    """Sends requests with one token to one address; `QATechClient` documents the arguments.

    `latest_date` is the `Date` header of the latest answer: the service's clock, or that of a proxy before it.
    """

    def __init__(
        self,
        *,
        api_token: SecretStr | Callable[[], Awaitable[SecretStr]],
        api_url: str = "https://api.qa.tech",
        project_short_id: str | None = None,
        timeout_seconds: float = 60.0,
        connect_timeout_seconds: float = 10.0,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._give_token = api_token if callable(api_token) else None
        self._token = SecretStr("") if callable(api_token) else api_token
        self._mask = TokenMask(self._token.get_secret_value())
        self._project_short_id = project_short_id
        self._timeout_seconds = timeout_seconds
        self._max_response_bytes = max_response_bytes
        self.api_url = api_url.rstrip("/").removesuffix("/v1")
        self._connect_timeout_seconds = connect_timeout_seconds
        self._timeout = httpx.Timeout(
            timeout_seconds, connect=connect_timeout_seconds, pool=max(connect_timeout_seconds, timeout_seconds / 2)
        )
        self._transport = transport
        self._project_lock = anyio.Lock()
        self.latest_date: str | None = None
        self._shared_as: str | None = None
        self._connections: connections.Connections | None = None

    def _new_http(self) -> httpx.AsyncClient:
        try:
            return self._http_by_the_environment()
        except (OSError, ImportError, ValueError, httpx.InvalidURL) as error:
            # No file with certificates, one that holds none, a proxy of a kind that httpx does not take.
            why = f"{type(error).__name__}: {error}"
        raise InvalidInputError(
            f"Nothing was sent: no connection can be made by this environment ({why}). Correct SSL_CERT_FILE, "
            "SSL_CERT_DIR, HTTPS_PROXY or ALL_PROXY: `prefect-qatech doctor` checks them."
        )

    def _http_by_the_environment(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers={
                "Authorization": f"Bearer {self._token.get_secret_value()}",
                "Accept": "application/json",
                # A compressed answer could unpack to any size before its length can be checked.
                "Accept-Encoding": "identity",
                "User-Agent": f"prefect-qatech/{__version__}",
            },
            timeout=self._timeout,
            follow_redirects=False,
            event_hooks={"response": [_keep_location]},
            limits=httpx.Limits(
                max_connections=connections.MAX_IN_FLIGHT, max_keepalive_connections=connections.MAX_IN_FLIGHT
            ),
            transport=self._transport,
            verify=_tls(),
            # A proxy of the environment is not asked for this machine: it would get the token in clear.
            trust_env=not is_loopback(urlsplit(self.api_url).hostname),
        )

    async def __aenter__(self) -> Self:
        if self._give_token is not None:
            self._token = await self._give_token()
            self._mask = TokenMask(self._token.get_secret_value())
        if self._transport is not None:
            self._connections = connections.Connections(self._new_http())
            return self
        self._shared_as = connections.digest(
            self._token.get_secret_value(), self.api_url, self._timeout_seconds, self._connect_timeout_seconds
        )
        self._connections = connections.borrow(self._shared_as, self._new_http)
        return self

    async def __aexit__(self, *args: Any) -> None:
        own, self._connections = self._connections, None
        if self._shared_as is not None:
            await connections.give_back(self._shared_as)
        elif own is not None:
            await own.http.aclose()

    def _exchange(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        run_short_id: str | None = None,
        ids: Mapping[str, str] | None = None,
        makes: str = "run",
    ) -> Exchange:
        return Exchange(
            method,
            f"/v1/{path}",
            sent_at=datetime.now(timezone.utc),
            api_url=self.api_url,
            clean=self._clean,
            run_short_id=run_short_id,
            ids=ids,
            makes=makes,
        )

    async def _send(
        self,
        exchange: Exchange,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        with_token: bool = True,
    ) -> Any:
        """Send one request; return the JSON of a 2xx answer, raise for everything else."""
        content, failure = await self._outcome(exchange, query, body, with_token)
        if failure is not None:
            # httpx's errors hold the request, and with it the token. Raised out here none of them hangs on it, but in
            # Python 3.10, where what a coroutine caught hangs on to what is raised later.
            try:
                raise failure
            finally:
                failure.__context__ = None
        return content

    async def _outcome(
        self, exchange: Exchange, query: Mapping[str, str] | None, body: Mapping[str, Any] | None, with_token: bool
    ) -> tuple[Any, QATechAPIError | StartOutcomeUnknown | None]:
        # httpx takes an address apart three times where it has to put it together itself.
        address = f"{self.api_url}{exchange.path}{f'?{urlencode(query)}' if query else ''}"
        trace = _Trace()
        try:
            async with (
                self._connection_for(exchange.method) as http,
                http.stream(
                    exchange.method,
                    address,
                    json=body,
                    auth=None if with_token else _without_authorization,
                    extensions={"trace": trace},
                ) as response,
            ):
                self.latest_date = response.headers.get("date")
                content = await self._read(response)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            seconds, is_unsent = self._timeout_seconds, trace.is_at_the_proxy
            return None, exchange.without_answer(error, seconds, nothing_was_sent=is_unsent)
        if content is not None:
            # The service may repeat the token, and what it answers goes to logs, artifacts and events.
            content = self._mask.in_body(content)
        too_long = f"of more than {self._max_response_bytes:,} bytes"
        if not response.is_success:
            # Where a refusal is too long to be read, its status and headers still count.
            location = self._clean(response.extensions.get(_LOCATION, ""))
            return None, exchange.refused(response.status_code, response.headers, content, location, too_long)
        if content is None:
            return None, exchange.unreadable(response.status_code, too_long)
        try:
            return read_json(content), None
        except NotJSONError as error:
            # A proxy may compress what was asked for uncompressed.
            told = [response.headers.get("content-type", "no content type"), response.headers.get("content-encoding")]
            kind = self._clean(", ".join(filter(None, told)))
            return None, exchange.unreadable(response.status_code, f"{error} ({kind})")

    def digest(self) -> str:
        """Return a name for what this token sees at this address; it means nothing outside of the process."""
        return connections.digest(self._token.get_secret_value(), self.api_url, self._project_short_id)

    @asynccontextmanager
    async def _connection_for(self, method: str) -> AsyncIterator[httpx.AsyncClient]:
        """Lend the shared connections to what may be repeated, and new ones to a start, for the time of a request.

        A connection that was kept open may be closed by the service just when a request is sent over it. Whether that
        request was carried out, nobody can know.
        """
        if self._connections is None:
            raise RuntimeError(
                "The client is used outside of its context: async with credentials.get_client() as client"
            )
        if method == "GET" or self._transport is not None:
            # Thousands may wait for their turn; that time is not the request's, and says nothing about the service.
            async with self._connections.turns:
                with anyio.fail_after(self._timeout_seconds):
                    yield self._connections.http
            return
        with anyio.fail_after(self._timeout_seconds):
            async with self._new_http() as http:
                yield http

    async def _read(self, response: httpx.Response) -> bytes | None:
        chunks, size = [], 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > self._max_response_bytes:
                return None
            chunks.append(chunk)
        return b"".join(chunks)

    def _parse(self, model: type[ModelT], body: Any, exchange: Exchange) -> ModelT:
        try:
            return model.model_validate(body)
        except ValidationError as error:
            places = ", ".join(sorted({".".join(map(str, item["loc"])) or "the whole" for item in error.errors()})[:5])
        raise exchange.undocumented(
            f"The answer to {exchange} is not what the API documents: {self._clean(places)} cannot be read."
        )

    def _clean(self, text: str) -> str:
        """Make a text of the service fit for a log line: one line, short, without the token."""
        text = self._mask.in_text(text)
        text = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _MESSAGE_LENGTH]).split())
        return cut(text, _MESSAGE_LENGTH)


class _Trace:
    """Notices from httpx's trace whether a request has got no further yet than asking a proxy for passage."""

    def __init__(self) -> None:
        self.is_at_the_proxy = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".send_request_headers.started"):
            self.is_at_the_proxy = getattr(info.get("request"), "method", None) == b"CONNECT"


def _without_authorization(request: httpx.Request) -> httpx.Request:
    del request.headers["Authorization"]
    return request


async def _keep_location(response: httpx.Response) -> None:
    """Take the Location header out of httpx's sight, which parses it even where redirects are not followed.

    A POST that was answered with nonsense there would look like one that was never sent.
    """
    if "location" in response.headers:
        response.extensions[_LOCATION] = response.headers.pop("location")
