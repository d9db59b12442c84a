"""Pure: may this request be sent again, and when?

| what happened | GET | POST |
|---|---|---|
| no connection (refused, connect timeout, none free in the pool, a proxy's refusal) | again | again: nothing was sent |
| a certificate that cannot be verified | no | no: nothing was sent, and the next attempt would end alike |
| the connection broke, a read or write timed out, an answer that makes no sense | again | **unknown** |
| 429; 503 with Retry-After | again | again: the service says that it did not take it |
| 408, 409, 425, other 5xx | again (409: no) | **unknown** |
| 301, 307, 308 | no | no: it was not taken here |
| a 2xx that cannot be read | again | **unknown** |
| 302, 303, other 3xx, 1xx | no | **unknown** |
| any other 4xx | no | no: it was refused |

*Unknown* means that a run may have been started; such a POST is never sent again.
"""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass
from datetime import datetime

import httpx

from prefect_qatech.texts import http_date

RETRY_DELAYS_SECONDS = (2.0, 10.0, 30.0)
"""How long after each failure a request is sent again, where it may be: as often as there are delays."""

MAX_RETRY_AFTER_SECONDS = 3600.0
"""A longer Retry-After is read as this: the deadline of whoever waits decides, not a header."""

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_GET_AGAIN = frozenset({408, 425, 429})
_POST_UNKNOWN = frozenset({408, 409, 425})
_POST_NOT_TAKEN = frozenset({301, 307, 308})


@dataclass(frozen=True)
class Assessment:
    """What a failed request means: whether it may be sent again without any risk of a second run.

    `outcome_unknown`: it is a POST that may have been carried out. `retry_after_seconds` is a floor.
    """

    retryable: bool
    outcome_unknown: bool = False
    retry_after_seconds: float | None = None


def assess_status(method: str, status: int, retry_after: str | None = None, *, now: datetime) -> Assessment:
    """Decide whether a request may be sent again after an answer that is no 2xx, or a 2xx that could not be read."""
    wait = parse_retry_after(retry_after, now=now)
    if method == "GET":
        again = status in _GET_AGAIN or status >= 500 or 200 <= status < 300
        return Assessment(retryable=again, retry_after_seconds=wait if again else None)
    if status == 429 or (status == 503 and wait is not None):
        return Assessment(retryable=True, retry_after_seconds=wait)
    refused = status in _POST_NOT_TAKEN or (400 <= status < 500 and status not in _POST_UNKNOWN)
    return Assessment(retryable=False, outcome_unknown=not refused)


def assess_transport_error(method: str, error: Exception, *, nothing_was_sent: bool = False) -> Assessment:
    """Decide whether a request without any answer may be sent again.

    `nothing_was_sent`: it is known that no byte of the request has left, whatever the error is.
    """
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.InvalidURL)) or is_unverified_certificate(error):
        return Assessment(retryable=False)
    if method == "GET" or nothing_was_sent or isinstance(error, _NOT_SENT):
        return Assessment(retryable=True)
    return Assessment(retryable=False, outcome_unknown=True)


def is_unverified_certificate(error: BaseException) -> bool:
    """Return whether an unverified certificate is among an error's causes; httpx itself tells of no connection."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


def parse_retry_after(header: str | None, *, now: datetime) -> float | None:
    """Read a Retry-After header (RFC 9110, 10.2.3) as seconds from now; None where it makes no sense."""
    if header is None:
        return None
    text = header.strip()
    try:
        seconds = float(text)
    except ValueError:
        moment = http_date(text)
        if moment is None:
            return None
        seconds = max(0.0, (moment - now).total_seconds())
    if math.isnan(seconds) or seconds < 0:
        return None
    return min(seconds, MAX_RETRY_AFTER_SECONDS)
