"""One method per endpoint of the QA.tech API, on httpx. It sends once; retrying is for the callers.

Every request has one time limit, from when it has its place among the connections to the last byte of the answer.
Answers are read up to a size limit, and held against what was asked. Redirects are not followed: the token goes to the
host that was configured and to no other, and to a loopback address without any proxy.
"""

from __future__ import annotations

import json
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

from prefect_qatech import __version__, sharing
from prefect_qatech.addresses import is_loopback, safe_url
from prefect_qatech.answers import WHERE_TO_LOOK, Exchange, NotJSONError, read_json
from prefect_qatech.exceptions import OtherPlanStarted, QATechAPIError, StartOutcomeUnknown
from prefect_qatech.ids import check_id, check_run_short_id, names
from prefect_qatech.inputs import cut
from prefect_qatech.models import (
    QATechRerunRequest,
    QATechRun,
    QATechRunRequest,
    QATechRunTestCaseDetails,
    QATechStartedRun,
)

MAX_RESPONSE_BYTES = 32 * 1024 * 1024
"""More than the results of some thousand test cases with long reasoning; a longer answer is an error."""

_MESSAGE_LENGTH = 500
_MIN_TOKEN_LENGTH = 12
_MASK = b"**********"
_LOCATION = "prefect_qatech.location"

ModelT = TypeVar("ModelT", bound=BaseModel)


@cache
def _tls() -> ssl.SSLContext:
    """Return the process's TLS settings: to read the certificates takes longer than all else that a client does."""
    return httpx.create_ssl_context()


class QATechClient:
    """Client of the QA.tech API. Use it as an async context manager.

    Clients with the same token, address and time limits that are open in the same event loop share their connections.
    A start or rerun always goes over a connection of its own.

    Args:
        api_token: The API token, or what gives it when the client is opened.
        api_url: Root of the service, without `/v1`.
        project_short_id: Named in every call, where the token belongs to an organisation.
        timeout_seconds: Time limit of a whole request, from when it has its place among the connections.
        connect_timeout_seconds: Time limit for making the connection.
        max_response_bytes: Size limit of an answer.
        transport: Another httpx transport, for tests.

    Example:
        ```python
        async with QATechCredentials.load("prod").get_client() as client:
            run = await client.get_run("abc123", test_cases="all")
        ```
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
        self._project_short_id = project_short_id
        self._timeout_seconds = timeout_seconds
        self._max_response_bytes = max_response_bytes
        self.api_url = api_url.rstrip("/").removesuffix("/v1")
        self._connect_timeout_seconds = connect_timeout_seconds
        self._timeout = httpx.Timeout(
            timeout_seconds, connect=connect_timeout_seconds, pool=max(connect_timeout_seconds, timeout_seconds / 2)
        )
        self._transport = transport
        self._shared_as: str | None = None
        self._connections: sharing.Connections | None = None

    def _new_http(self) -> httpx.AsyncClient:
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
                max_connections=sharing.MOST_IN_FLIGHT, max_keepalive_connections=sharing.MOST_IN_FLIGHT
            ),
            transport=self._transport,
            verify=_tls(),
            # A proxy of the environment is not asked for this machine: it would get the token in clear.
            trust_env=not is_loopback(urlsplit(self.api_url).hostname),
        )

    async def __aenter__(self) -> QATechClient:
        if self._give_token is not None:
            self._token = await self._give_token()
        if self._transport is not None:
            self._connections = sharing.Connections(self._new_http())
            return self
        self._shared_as = sharing.digest(
            self._token.get_secret_value(), self.api_url, self._timeout_seconds, self._connect_timeout_seconds
        )
        self._connections = sharing.borrow(self._shared_as, self._new_http)
        return self

    async def __aexit__(self, *args: Any) -> None:
        connections, self._connections = self._connections, None
        if self._shared_as is not None:
            await sharing.give_back(self._shared_as)
        elif connections is not None:
            await connections.http.aclose()

    async def start_run(self, request: QATechRunRequest) -> QATechStartedRun:
        """Start a run (`POST /run`).

        - Where QA.tech answers with a run of another plan than was asked for, `OtherPlanStarted` carries that run's id
          and address: it exists and is paid for, and nothing starts another one in its place.

        Args:
            request: What to test, where.

        Returns:
            The run, as accepted.

        Raises:
            OtherPlanStarted: A run was started, of another plan.
            StartOutcomeUnknown: It may or may not have been started.
            QATechAPIError: It was surely not started; `retryable` tells whether it may be sent again.
        """
        exchange = self._exchange("POST", "run", ids=request.ids())
        run = await self._start(exchange, request.to_json())
        asked, started = request.test_plan_short_id, run.test_plan.short_id if run.test_plan else None
        if asked and started and not names(asked, started):
            url = safe_url(run.url)
            raise OtherPlanStarted(
                f"QA.tech was asked for a run of plan {asked} and started run {run.run_short_id} of plan "
                f"{self._clean(started)} ({url or 'no address given'}). That run exists and is paid for, and tells "
                f"nothing about {asked}. Nothing is started in its place: find out at QA.tech why, then run the flow "
                "anew.",
                asked_plan=asked,
                started_plan=started,
                request=str(exchange),
                sent_at=exchange.sent_at_text,
                run_short_id=run.run_short_id,
                run_url=url,
            )
        return run

    async def rerun(self, run_short_id: str, request: QATechRerunRequest) -> QATechStartedRun:
        """Run a run's test cases again: all, those that did not pass, or listed ones (`POST /run/{shortId}`).

        Args:
            run_short_id: The run to repeat.
            request: Which of its test cases.

        Returns:
            The new run, as accepted.

        Raises:
            StartOutcomeUnknown: It may or may not have been started.
            NothingToRerunError: The service says that no test case is left to rerun.
            QATechAPIError: It was surely not started; `retryable` tells whether it may be sent again.
        """
        path = f"run/{check_run_short_id(run_short_id)}"
        ids = {"run": run_short_id, **request.ids()}
        exchange = self._exchange("POST", path, run_short_id=run_short_id, ids=ids)
        run = await self._start(exchange, request.to_json())
        if run.run_short_id == run_short_id:
            raise exchange.outcome_unknown("the answer names the run that was to be rerun, and no new one")
        return run

    async def get_run(self, run_short_id: str, *, test_cases: Literal["failed", "all"] | None = None) -> QATechRun:
        """Look at a run (`GET /run/{shortId}`).

        Args:
            run_short_id: The run.
            test_cases: Which of its test cases to list; none when absent.

        Returns:
            Its status and results.

        Raises:
            QATechAPIError: The look failed; `retryable` tells whether another may succeed.
        """
        path = f"run/{check_run_short_id(run_short_id)}"
        exchange = self._exchange("GET", path, run_short_id=run_short_id, ids={"run": run_short_id})
        query = {"testCases": test_cases} if test_cases else {}
        run = self._parse(QATechRun, await self._send(exchange, query=query), exchange)
        if run.run_short_id != run_short_id:
            raise exchange.undocumented(f"QA.tech answered about another run than {run_short_id}, which was asked for.")
        return run

    async def get_run_test_case(self, run_test_case_short_id: str) -> QATechRunTestCaseDetails:
        """Look at one test case's execution (`GET /run-test-case/{shortId}`).

        Args:
            run_test_case_short_id: The `short_id` of a `QATechRunTestCase`.

        Returns:
            What is known of it, its error code among it.

        Raises:
            QATechAPIError: The look failed.
        """
        path = f"run-test-case/{check_id(run_test_case_short_id)}"
        exchange = self._exchange("GET", path, ids={"run test case": run_test_case_short_id})
        details = self._parse(QATechRunTestCaseDetails, await self._send(exchange), exchange)
        if details.short_id not in (None, run_test_case_short_id):
            raise exchange.undocumented(
                f"QA.tech answered about another execution than {run_test_case_short_id}, which was asked for."
            )
        return details

    def _exchange(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        run_short_id: str | None = None,
        ids: Mapping[str, str] | None = None,
    ) -> Exchange:
        return Exchange(
            method,
            f"/v1/{path}",
            sent_at=datetime.now(timezone.utc),
            api_url=self.api_url,
            clean=self._clean,
            run_short_id=run_short_id,
            ids=ids,
        )

    async def _start(self, exchange: Exchange, body: dict[str, Any]) -> QATechStartedRun:
        if self._project_short_id is not None:
            body = {"projectShortId": self._project_short_id, **body}
        answer = await self._send(exchange, body=body)
        try:
            run = QATechStartedRun.model_validate(answer["run"])
        except (KeyError, TypeError, ValidationError):
            run = None
        if isinstance(answer, dict) and not answer.get("success", True):
            words = self._clean(str(answer.get("message") or ""))
            raise exchange.outcome_unknown(
                f"QA.tech answered 200 with success: {self._clean(json.dumps(answer['success']))}"
                + (f" and run {run.run_short_id}" if run else " and no run")
                + (f', and says: "{words}"' if words else ""),
                run_short_id=run.run_short_id if run else None,
                run_url=safe_url(run.url) if run else None,
            )
        if run is None:
            raise StartOutcomeUnknown(
                f"QA.tech accepted {exchange}, sent at {exchange.sent_at_text}, but its answer names no run. "
                f"{WHERE_TO_LOOK}",
                request=str(exchange),
                sent_at=exchange.sent_at_text,
            )
        return run

    async def _send(
        self, exchange: Exchange, *, query: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Any:
        """Send one request; return the JSON of a 2xx answer, raise for everything else."""
        content, failure = await self._outcome(exchange, query, body)
        if failure is not None:
            # httpx's errors hold the request, and with it the token. Raised out here none of them hangs on it, but in
            # Python 3.10, where what a coroutine caught hangs on to what is raised later.
            try:
                raise failure
            finally:
                failure.__context__ = None
        return content

    async def _outcome(
        self, exchange: Exchange, query: Mapping[str, str] | None, body: Mapping[str, Any] | None
    ) -> tuple[Any, QATechAPIError | StartOutcomeUnknown | None]:
        params = dict(query or {})
        if exchange.method == "GET" and self._project_short_id is not None:
            params["projectShortId"] = self._project_short_id
        # httpx takes an address apart three times where it has to put it together itself.
        address = f"{self.api_url}{exchange.path}{f'?{urlencode(params)}' if params else ''}"
        trace = _Trace()
        try:
            async with (
                self._connection_for(exchange.method) as http,
                http.stream(exchange.method, address, json=body, extensions={"trace": trace}) as response,
            ):
                content = self._without_token(await self._read(response))
        except TimeoutError:
            return None, exchange.timed_out(self._timeout_seconds, nothing_was_sent=trace.is_at_the_proxy)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return None, exchange.failed(error, nothing_was_sent=trace.is_at_the_proxy)
        too_long = f"of more than {self._max_response_bytes:,} bytes"
        if not response.is_success:
            # Of a refusal that is too long to be read, the status and the headers still count.
            location = self._clean(response.extensions.get(_LOCATION, ""))
            return None, exchange.refused(response.status_code, response.headers, content, location, too_long)
        if content is None:
            return None, exchange.unreadable(response.status_code, too_long)
        try:
            return read_json(content), None
        except NotJSONError as error:
            kind = self._clean(response.headers.get("content-type", "no content type"))
            return None, exchange.unreadable(response.status_code, f"{error} ({kind})")

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
            # Thousands may wait for their turn: that says nothing about the service, and is no time of the request.
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

    def _without_token(self, content: bytes | None) -> bytes | None:
        """Mask the token where the service repeats it: what it answers goes to logs, artifacts and events."""
        token = self._token.get_secret_value()
        if content is not None and len(token) >= _MIN_TOKEN_LENGTH:  # a shorter one would be found in words
            for form in (token, json.dumps(token)[1:-1]):
                content = content.replace(form.encode(), _MASK)
        return content

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
        token = self._token.get_secret_value()
        for form in (token, json.dumps(token)[1:-1]):
            text = text.replace(form, "**********")
        text = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _MESSAGE_LENGTH]).split())
        return cut(text, _MESSAGE_LENGTH)


class _Trace:
    """Sees, by what httpx tells of a request, whether it has got no further yet than to ask a proxy for passage."""

    def __init__(self) -> None:
        self.is_at_the_proxy = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(".send_request_headers.started"):
            self.is_at_the_proxy = getattr(info.get("request"), "method", None) == b"CONNECT"


async def _keep_location(response: httpx.Response) -> None:
    """Take the Location header out of httpx's sight, which parses it even where redirects are not followed.

    A POST that was answered with nonsense there would look like one that was never sent.
    """
    if "location" in response.headers:
        response.extensions[_LOCATION] = response.headers.pop("location")
