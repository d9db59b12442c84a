"""One method per endpoint of the QA.tech API, on httpx. It sends once; retrying is for the callers.

Every request has one time limit from its first byte to its last. Answers are read up to a size limit. Redirects are not
followed: the token goes to the host that was configured and to no other.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from functools import cache
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import anyio
import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from prefect_qatech import __version__, sharing
from prefect_qatech.exceptions import (
    BadRequestError,
    ForbiddenError,
    InvalidResponseError,
    NotFoundError,
    NothingToRerunError,
    QATechAPIError,
    QATechConnectionError,
    QATechTimeoutError,
    RateLimitedError,
    ServerError,
    StartOutcomeUnknown,
    UnauthorizedError,
    UsageLimitError,
)
from prefect_qatech.ids import check_id, check_run_short_id
from prefect_qatech.models import (
    QATechRerunRequest,
    QATechRun,
    QATechRunRequest,
    QATechRunTestCaseDetails,
    QATechStartedRun,
)
from prefect_qatech.retries import Assessment, assess_status, assess_transport_error

MAX_RESPONSE_BYTES = 32 * 1024 * 1024
"""More than the results of some thousand test cases with long reasoning; a longer answer is an error."""

_MESSAGE_LENGTH = 500
_MIN_TOKEN_LENGTH = 12
_MASK = b"**********"
_LOCATION = "prefect_qatech.location"
_NOTHING_TO_RERUN = re.compile(
    r"\bnothing\b.{0,40}\bre-?run\b|\bno\b(?! such).{0,40}\b(?:to re-?run|failed|left)\b", re.IGNORECASE | re.DOTALL
)
_HINTS: dict[int, tuple[type[QATechAPIError], str]] = {
    400: (BadRequestError, "Check what was asked for: the ids, the combination of fields, the Slack set-up."),
    401: (UnauthorizedError, "Check the API token (QA.tech: Settings -> Integrations -> API)."),
    402: (UsageLimitError, "The organisation has reached its usage limit: raise it, or wait for the next period."),
    403: (ForbiddenError, "The token may not do this, or the organisation is suspended."),
    404: (NotFoundError, "Check the id, and that the token belongs to the project in which it exists."),
    429: (RateLimitedError, "Too many requests: try again later."),
}

ModelT = TypeVar("ModelT", bound=BaseModel)


@cache
def _tls() -> ssl.SSLContext:
    """Give the process's TLS settings: to read the certificates takes longer than all else that a client does."""
    return httpx.create_ssl_context()


class QATechClient:
    """Client of the QA.tech API. Use it as an async context manager.

    Clients with the same token, address and time limits that are open in the same event loop share their connections
    (HTTP/2 where the service speaks it). A start or rerun always goes over a connection of its own.

    Args:
        api_token: The API token, or what gives it when the client is opened.
        api_url: Root of the service, without `/v1`.
        project_short_id: Named in every call, where the token belongs to an organisation.
        timeout_seconds: Time limit of a whole request.
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
            http2=True,
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

    @asynccontextmanager
    async def _connection_for(self, method: str) -> AsyncIterator[httpx.AsyncClient]:
        """Give the shared connections to what may be repeated, and new ones to a start.

        A connection that was kept open may be closed by the service just when a request is sent over it. Whether that
        request was carried out, nobody can know.
        """
        if self._connections is None:
            raise RuntimeError(
                "The client is used outside of its context: async with credentials.get_client() as client"
            )
        if method == "GET" or self._transport is not None:
            async with self._connections.turns:
                yield self._connections.http
            return
        async with self._new_http() as http:
            yield http

    async def start_run(self, request: QATechRunRequest) -> QATechStartedRun:
        """Start a run (`POST /run`).

        Args:
            request: What to test, where.

        Returns:
            The run, as accepted.

        Raises:
            StartOutcomeUnknown: It may or may not have been started.
            QATechAPIError: It was surely not started; `retryable` tells whether it may be sent again.
        """
        return await self._start("run", self._with_project(request.to_json()))

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
        path = f"run/{quote(check_run_short_id(run_short_id), safe='')}"
        return await self._start(path, self._with_project(request.to_json()), run_short_id)

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
        query = {"testCases": test_cases} if test_cases else {}
        body = await self._send(
            "GET", f"run/{quote(check_run_short_id(run_short_id), safe='')}", query=query, run_short_id=run_short_id
        )
        run = self._parse(QATechRun, body, f"GET /v1/run/{run_short_id}", run_short_id)
        if run.run_short_id != run_short_id:
            raise InvalidResponseError(
                f"QA.tech answered about another run than {run_short_id}, which was asked for.",
                request=f"GET /v1/run/{run_short_id}",
                status=200,
                retryable=True,
                run_short_id=run_short_id,
            )
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
        path = f"run-test-case/{quote(check_id(run_test_case_short_id), safe='')}"
        details = self._parse(QATechRunTestCaseDetails, await self._send("GET", path), f"GET /v1/{path}", None)
        if details.short_id not in (None, run_test_case_short_id):
            raise InvalidResponseError(
                f"QA.tech answered about another execution than {run_test_case_short_id}, which was asked for.",
                request=f"GET /v1/{path}",
                status=200,
                retryable=True,
            )
        return details

    def _with_project(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._project_short_id is None:
            return body
        return {"projectShortId": self._project_short_id, **body}

    async def _start(self, path: str, body: dict[str, Any], run_short_id: str | None = None) -> QATechStartedRun:
        sent_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        answer = await self._send("POST", path, body=body, run_short_id=run_short_id)
        try:
            run = QATechStartedRun.model_validate(answer["run"])
        except (KeyError, TypeError, ValidationError):
            run = None
        if run is None:
            raise StartOutcomeUnknown(
                f"QA.tech accepted POST /v1/{path}, sent at {sent_at}, but its answer names no run. {_WHERE_TO_LOOK}",
                request=f"POST /v1/{path}",
                sent_at=sent_at,
            )
        return run

    async def _send(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        run_short_id: str | None = None,
    ) -> Any:
        """Send one request; return the JSON of a 2xx answer, raise for everything else."""
        content, failure = await self._outcome(method, path, query, body, run_short_id)
        if failure is not None:
            # httpx's errors hold the request, and with it the token. Raised out here none of them hangs on it, but in
            # Python 3.10, where what a coroutine caught hangs on to what is raised later.
            try:
                raise failure
            finally:
                failure.__context__ = None
        return content

    async def _outcome(
        self,
        method: Literal["GET", "POST"],
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        run_short_id: str | None,
    ) -> tuple[Any, QATechAPIError | StartOutcomeUnknown | None]:
        params = dict(query or {})
        if method == "GET" and self._project_short_id is not None:
            params["projectShortId"] = self._project_short_id
        sent_at = datetime.now(timezone.utc)
        exchange = _Exchange(method, f"/v1/{path}", sent_at, run_short_id, self.api_url)
        failure: QATechAPIError | StartOutcomeUnknown
        try:
            with anyio.fail_after(self._timeout_seconds):
                async with (
                    self._connection_for(method) as http,
                    http.stream(method, self._address(path, params), json=body) as response,
                ):
                    content = self._without_token(await self._read(response))
        except TimeoutError as error:
            failure = exchange.without_answer(error, f"no complete answer within {self._timeout_seconds:g} s")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            failure = exchange.without_answer(error, f"{type(error).__name__}: {self._clean(str(error))}".rstrip(": "))
        else:
            if not response.is_success:
                # Of a refusal that is too long to be read, the status and the headers still count.
                failure = self._refusal(exchange, response, content)
            elif content is None:
                failure = exchange.unreadable(response, self._too_long)
            else:
                try:
                    return _without_lone_surrogates(json.loads(content), content), None
                except (ValueError, RecursionError):
                    kind = response.headers.get("content-type", "no content type")
                    failure = exchange.unreadable(response, f"an answer that is not JSON ({self._clean(kind)})")
        return None, failure

    def _address(self, path: str, params: Mapping[str, str]) -> str:
        # httpx takes an address apart three times where it has to put it together itself.
        return f"{self.api_url}/v1/{path}{f'?{urlencode(params)}' if params else ''}"

    @property
    def _too_long(self) -> str:
        return f"an answer of more than {self._max_response_bytes:,} bytes"

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

    def _refusal(
        self, exchange: _Exchange, response: httpx.Response, content: bytes | None
    ) -> QATechAPIError | StartOutcomeUnknown:
        status = response.status_code
        words = "" if content is None else self._clean(_message_of(content))
        assessment = assess_status(
            exchange.method, status, response.headers.get("retry-after"), now=datetime.now(timezone.utc)
        )
        said = f' and says: "{words}"' if words else f" with {self._too_long}" if content is None else ""
        if assessment.outcome_unknown:
            return exchange.outcome_unknown(f"QA.tech answered {status}{said}")
        kind, hint = _HINTS.get(status, (ServerError if status >= 500 else QATechAPIError, ""))
        if status >= 500:
            hint = "The service, or a gateway before it, failed: try again later."
        elif response.is_redirect:
            target = _host_of(self._clean(response.extensions.get(_LOCATION, "")))
            kind, hint = InvalidResponseError, f"Redirects are not followed (to {target}): check api_url."
        elif status == 400 and exchange.is_rerun and _NOTHING_TO_RERUN.search(words):
            kind, hint = NothingToRerunError, "No test case of this run is left to rerun."
        return kind(
            f"{exchange} was refused: QA.tech answered {status}{said}. {hint}".rstrip(),
            status=status,
            service_message=words or None,
            request=str(exchange),
            retryable=assessment.retryable,
            retry_after_seconds=assessment.retry_after_seconds,
            run_short_id=exchange.run_short_id,
        )

    def _parse(self, model: type[ModelT], body: Any, request: str, run_short_id: str | None) -> ModelT:
        try:
            return model.model_validate(body)
        except ValidationError as error:
            places = ", ".join(sorted({".".join(map(str, item["loc"])) or "the whole" for item in error.errors()})[:5])
        raise InvalidResponseError(
            f"The answer to {request} is not what the API documents: {self._clean(places)} cannot be read.",
            request=request,
            status=200,
            retryable=True,
            run_short_id=run_short_id,
        )

    def _clean(self, text: str) -> str:
        """Make a text of the service fit for a log line: one line, short, without the token."""
        token = self._token.get_secret_value()
        for form in (token, json.dumps(token)[1:-1]):
            text = text.replace(form, "**********")
        text = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * _MESSAGE_LENGTH]).split())
        return text if len(text) <= _MESSAGE_LENGTH else text[: _MESSAGE_LENGTH - 1] + "…"


_WHERE_TO_LOOK = (
    "Look in QA.tech for a run that was started at that time before anything is started again: it may exist, and it is "
    "paid for."
)


class _Exchange:
    """One request, for the sentences about it."""

    def __init__(self, method: str, path: str, sent_at: datetime, run_short_id: str | None, api_url: str) -> None:
        self.method = method
        self.path = path
        self.sent_at = sent_at.isoformat(timespec="seconds")
        self.run_short_id = run_short_id
        self.api_url = api_url

    @property
    def is_rerun(self) -> bool:
        return self.method == "POST" and self.run_short_id is not None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def without_answer(self, error: Exception, what: str) -> QATechAPIError | StartOutcomeUnknown:
        assessment = assess_transport_error(self.method, error)
        if assessment.outcome_unknown:
            return self.outcome_unknown(f"there was no answer that could be read ({what})")
        kind = (
            QATechTimeoutError if isinstance(error, (TimeoutError, httpx.TimeoutException)) else QATechConnectionError
        )
        return self._failure(kind, f"{self} got no answer from {self.api_url} ({what}).", assessment, None)

    def unreadable(self, response: httpx.Response, what: str) -> QATechAPIError | StartOutcomeUnknown:
        assessment = assess_status(self.method, response.status_code, now=datetime.now(timezone.utc))
        if assessment.outcome_unknown:
            return self.outcome_unknown(f"QA.tech answered {response.status_code} with {what}")
        sentence = f"{self} got {what} with status {response.status_code} from {self.api_url}."
        return self._failure(InvalidResponseError, sentence, assessment, response.status_code)

    def outcome_unknown(self, what: str) -> StartOutcomeUnknown:
        return StartOutcomeUnknown(
            f"It is not known whether {self}, sent at {self.sent_at}, started a run: {what}. {_WHERE_TO_LOOK}",
            request=str(self),
            sent_at=self.sent_at,
        )

    def _failure(
        self, kind: type[QATechAPIError], sentence: str, assessment: Assessment, status: int | None
    ) -> QATechAPIError:
        return kind(
            sentence,
            status=status,
            request=str(self),
            retryable=assessment.retryable,
            run_short_id=self.run_short_id,
        )


async def _keep_location(response: httpx.Response) -> None:
    """Take the Location header out of httpx's sight, which parses it even where redirects are not followed.

    A POST that was answered with nonsense there would look like one that was never sent.
    """
    if "location" in response.headers:
        response.extensions[_LOCATION] = response.headers.pop("location")


def _without_lone_surrogates(body: Any, content: bytes) -> Any:
    """JSON can spell halves of characters, which no encoding takes: such a result could not be stored."""
    if content.isascii() and b"\\u" not in content and b"\0" not in content:
        return body
    text = json.dumps(body, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode(errors="replace"))
    return body


def _host_of(location: str) -> str:
    try:
        return urlsplit(location).hostname or "nowhere"
    except ValueError:
        return "nowhere"


def _message_of(content: bytes) -> str:
    """Give the service's own words from an error's body: `message`, or `statusText` of the older API."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    words = body.get("message") or body.get("statusText") or ""
    return words if isinstance(words, str) else json.dumps(words)
