"""What an answer of QA.tech means, or that there is none: its JSON, or an error with a sentence. No I/O."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

import httpx

from prefect_qatech.api.ids import described
from prefect_qatech.api.resend import Assessment, assess_status, assess_transport_error, is_unverified_certificate
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
from prefect_qatech.texts import clean_text, listed


def where_to_look(makes: str) -> str:
    """Return what to do about a POST that may have made something: a `run`, for example."""
    paid = ", and it is paid for" if makes == "run" else ""
    return (
        f"Look in QA.tech for a {makes} that was started at that time before anything is started again: it may "
        f"exist{paid}."
    )


_HINTS: dict[int, tuple[type[QATechAPIError], str]] = {
    400: (BadRequestError, "Check what was asked for{ids}: the ids, the combination of fields, the Slack set-up."),
    401: (UnauthorizedError, "Check the API token (QA.tech: Settings -> Integrations -> API)."),
    402: (UsageLimitError, "The organisation has reached its usage limit: raise it, or wait for the next period."),
    403: (ForbiddenError, "The token may not do this, or the organisation is suspended."),
    404: (NotFoundError, "Check the id{ids}, and that the token belongs to the project in which it exists."),
    429: (RateLimitedError, "Too many requests: try again later."),
}
_CERTIFICATE_HINT = (
    "The certificate of the service, or of a proxy in between, cannot be verified on this machine. Nothing was sent. "
    "Name a file with the certificate of the authority that signed it in SSL_CERT_FILE, or correct api_url."
)
_NOTHING_TO_RERUN = re.compile(
    r"\bnothing\b.{0,40}\bre-?run\b|\bno\b(?! such).{0,40}\b(?:to re-?run|failed|left)\b", re.IGNORECASE | re.DOTALL
)
_MAX_IDS = 6


class NotJSONError(ValueError):
    """A body that cannot be read; the message says what it is, as in "an answer that ..."."""


def read_json(content: bytes) -> Any:
    """Read a body, with texts that can be stored and sent; what cannot be read is a `NotJSONError`.

    So is an object that has a name twice: whether the run passed or failed could depend on which of the two is read.
    """
    try:
        # NaN and 1e999 must not become numbers here: they stay text.
        return json.loads(content, object_pairs_hook=_object, parse_constant=str, parse_float=_float)
    except NotJSONError:
        raise
    except (ValueError, RecursionError):
        raise NotJSONError("that is not JSON") from None


def _float(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {clean_text(name): _with_clean_texts(value) for name, value in pairs}
    if len(found) != len(pairs):
        raise NotJSONError("in which a name stands twice in one object")
    return found


def _with_clean_texts(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    # An object in a list is clean already.
    return [_with_clean_texts(item) for item in value] if isinstance(value, list) else value


def message_of(content: bytes) -> str:
    """Return the service's own words from an error's body: `message`, or `statusText` of the older API."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    words = (body.get("message") or body.get("statusText") or "") if isinstance(body, dict) else ""
    return words if isinstance(words, str) else json.dumps(words)


@dataclass(frozen=True)
class Exchange:
    """A request that was sent, or was to be, and what became of it.

    `clean` makes a text of the service fit for a log line; `ids` are those that were asked for, by their fields.
    """

    method: str
    path: str
    sent_at: datetime
    api_url: str
    clean: Callable[[str], str]
    run_short_id: str | None = None
    ids: Mapping[str, str] | None = None
    makes: str = "run"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def sent_at_text(self) -> str:
        """When it was sent, ISO 8601."""
        return self.sent_at.isoformat(timespec="seconds")

    def without_answer(
        self, error: Exception, seconds: float, *, nothing_was_sent: bool
    ) -> QATechAPIError | StartOutcomeUnknown:
        """Return the error of a request that httpx gave up, or without a complete answer in so many seconds."""
        if isinstance(error, TimeoutError):
            what = f"no complete answer within {seconds:g} s"
        else:
            what = f"{type(error).__name__}: {self.clean(str(error))}".rstrip(": ")
        assessment = assess_transport_error(self.method, error, nothing_was_sent=nothing_was_sent)
        if assessment.outcome_unknown:
            return self.outcome_unknown(f"there was no answer that could be read ({what})")
        kind = (
            QATechTimeoutError if isinstance(error, (TimeoutError, httpx.TimeoutException)) else QATechConnectionError
        )
        hint = f" {_CERTIFICATE_HINT}" if is_unverified_certificate(error) else ""
        return self._failure(kind, f"{self} got no answer from {self.api_url} ({what}).{hint}", assessment, None)

    def unreadable(self, status: int, what: str) -> QATechAPIError | StartOutcomeUnknown:
        """Return the error of a 2xx whose body cannot be read; `what` it is, as in "an answer that ..."."""
        assessment = assess_status(self.method, status, now=datetime.now(timezone.utc))
        if assessment.outcome_unknown:
            return self.outcome_unknown(f"QA.tech answered {status} with an answer {what}")
        sentence = f"{self} got an answer {what} with status {status} from {self.api_url}."
        return self._failure(InvalidResponseError, sentence, assessment, status)

    def undocumented(self, what: str) -> InvalidResponseError:
        """Return the error of a 200 that says something else than the API documents, or than was asked for."""
        return InvalidResponseError(
            what, request=str(self), status=200, retryable=self.method == "GET", run_short_id=self.run_short_id
        )

    def refused(
        self, status: int, headers: httpx.Headers, content: bytes | None, location: str, too_long: str
    ) -> QATechAPIError | StartOutcomeUnknown:
        """Return the error of an answer that is no 2xx; `content` is None where the body was `too_long` to be read."""
        words = "" if content is None else self.clean(message_of(content))
        said = f' and says: "{words}"' if words else f" with an answer {too_long}" if content is None else ""
        assessment = assess_status(self.method, status, headers.get("retry-after"), now=datetime.now(timezone.utc))
        if assessment.outcome_unknown:
            return self.outcome_unknown(f"QA.tech answered {status}{said}")
        is_rerun = self.method == "POST" and self.run_short_id is not None
        kind, hint = _HINTS.get(status, (ServerError if status >= 500 else QATechAPIError, ""))
        if status >= 500:
            hint = "The service, or a gateway before it, failed: try again later."
        elif status in (301, 302, 303, 307, 308):
            kind, hint = InvalidResponseError, f"Redirects are not followed (to {_host_of(location)}): check api_url."
        elif status == 400 and is_rerun and _NOTHING_TO_RERUN.search(words):
            kind, hint = NothingToRerunError, "No test case of this run is left to rerun."
        sentence = f"{self} was refused: QA.tech answered {status}{said}. {hint.replace('{ids}', self._asked_for())}"
        return self._failure(kind, sentence.rstrip(), assessment, status, words or None)

    def outcome_unknown(
        self, what: str, *, run_short_id: str | None = None, run_url: str | None = None
    ) -> StartOutcomeUnknown:
        """Return the error of a POST of which nobody knows whether it was carried out."""
        return StartOutcomeUnknown(
            f"It is not known whether {self}, sent at {self.sent_at_text}, started a {self.makes}: {what}. "
            f"{where_to_look(self.makes)}",
            request=str(self),
            sent_at=self.sent_at_text,
            run_short_id=run_short_id,
            run_url=run_url,
        )

    def _asked_for(self) -> str:
        ids = [described(field, short_id) for field, short_id in (self.ids or {}).items()]
        return f" ({listed(ids, _MAX_IDS)})" if ids else ""

    def _failure(
        self,
        kind: type[QATechAPIError],
        sentence: str,
        assessment: Assessment,
        status: int | None,
        service_message: str | None = None,
    ) -> QATechAPIError:
        return kind(
            sentence,
            status=status,
            service_message=service_message,
            request=str(self),
            retryable=assessment.retryable,
            retry_after_seconds=assessment.retry_after_seconds,
            run_short_id=self.run_short_id,
        )


def _host_of(location: str) -> str:
    try:
        return urlsplit(location).hostname or "nowhere"
    except ValueError:
        return "nowhere"
