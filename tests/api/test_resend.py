"""May a request be sent again, and when: the policy as a table."""

from __future__ import annotations

import math
import ssl
from datetime import datetime, timezone
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given, strategies as st

from prefect_qatech.api.resend import (
    MAX_RETRY_AFTER_SECONDS,
    Assessment,
    assess_status,
    assess_transport_error,
    is_unverified_certificate,
    parse_retry_after,
)

NOW = datetime(2026, 9, 1, 12, 0, tzinfo=timezone.utc)
IN_A_MINUTE = "Tue, 01 Sep 2026 12:01:00 GMT"

AGAIN = Assessment(retryable=True)
NO = Assessment(retryable=False)
UNKNOWN = Assessment(retryable=False, outcome_unknown=True)


def again_after(seconds: float) -> Assessment:
    return Assessment(retryable=True, retry_after_seconds=seconds)


STATUSES = [
    # A GET changes nothing: whatever another look may mend is looked at again.
    ("GET", 408, None, AGAIN),
    ("GET", 425, None, AGAIN),
    ("GET", 429, None, AGAIN),
    ("GET", 429, "30", again_after(30)),
    ("GET", 429, IN_A_MINUTE, again_after(60)),
    ("GET", 500, None, AGAIN),
    ("GET", 502, None, AGAIN),
    ("GET", 503, "5", again_after(5)),
    ("GET", 503, "soon", AGAIN),
    ("GET", 504, None, AGAIN),
    ("GET", 599, None, AGAIN),
    ("GET", 200, None, AGAIN),  # a body that cannot be read
    ("GET", 300, None, NO),
    ("GET", 302, None, NO),
    ("GET", 307, None, NO),
    ("GET", 400, None, NO),
    ("GET", 401, "30", NO),
    ("GET", 402, None, NO),
    ("GET", 403, None, NO),
    ("GET", 404, None, NO),
    ("GET", 409, None, NO),
    ("GET", 410, "30", NO),
    # A POST is sent again only where it was surely not carried out.
    ("POST", 429, None, AGAIN),
    ("POST", 429, "30", again_after(30)),
    ("POST", 429, "NaN", AGAIN),
    ("POST", 503, "30", again_after(30)),
    ("POST", 503, "0", again_after(0)),
    ("POST", 503, IN_A_MINUTE, again_after(60)),
    ("POST", 503, None, UNKNOWN),
    ("POST", 503, "NaN", UNKNOWN),
    ("POST", 503, "-1", UNKNOWN),
    ("POST", 503, "soon", UNKNOWN),
    ("POST", 500, None, UNKNOWN),
    ("POST", 500, "30", UNKNOWN),
    ("POST", 502, "30", UNKNOWN),
    ("POST", 504, None, UNKNOWN),
    ("POST", 408, None, UNKNOWN),
    ("POST", 409, None, UNKNOWN),
    ("POST", 425, None, UNKNOWN),
    ("POST", 200, None, UNKNOWN),  # a body that cannot be read
    ("POST", 201, None, UNKNOWN),
    ("POST", 204, None, UNKNOWN),
    ("POST", 101, None, UNKNOWN),
    ("POST", 300, None, UNKNOWN),
    ("POST", 302, None, UNKNOWN),
    ("POST", 303, None, UNKNOWN),
    ("POST", 301, None, NO),
    ("POST", 307, None, NO),
    ("POST", 308, None, NO),
    ("POST", 400, None, NO),
    ("POST", 401, None, NO),
    ("POST", 402, "30", NO),
    ("POST", 403, None, NO),
    ("POST", 404, None, NO),
    ("POST", 405, None, NO),
    ("POST", 413, None, NO),
    ("POST", 422, None, NO),
]


@pytest.mark.parametrize(("method", "status", "retry_after", "meaning"), STATUSES)
def test_what_an_answer_means(method: str, status: int, retry_after: str | None, meaning: Assessment) -> None:
    assert assess_status(method, status, retry_after, now=NOW) == meaning


NOT_SENT = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("too slow"),
    httpx.PoolTimeout("none free"),
    httpx.ProxyError("407 Proxy Authentication Required"),
]
MAYBE_SENT = [
    httpx.ReadTimeout("too slow"),
    httpx.WriteTimeout("too slow"),
    httpx.ReadError("reset"),
    httpx.WriteError("reset"),
    httpx.CloseError("reset"),
    httpx.RemoteProtocolError("half an answer"),
    httpx.LocalProtocolError("what?"),
    httpx.DecodingError("what?"),
    httpx.TooManyRedirects("round and round"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", [*NOT_SENT, *MAYBE_SENT], ids=lambda error: type(error).__name__)
def test_a_get_without_an_answer_is_sent_again(error: Exception) -> None:
    assert assess_transport_error("GET", error) == AGAIN


@pytest.mark.parametrize("error", NOT_SENT, ids=lambda error: type(error).__name__)
def test_a_post_that_was_not_sent_is_sent_again(error: Exception) -> None:
    assert assess_transport_error("POST", error) == AGAIN


@pytest.mark.parametrize("error", MAYBE_SENT, ids=lambda error: type(error).__name__)
def test_a_post_that_may_have_been_sent_is_not(error: Exception) -> None:
    assert assess_transport_error("POST", error) == UNKNOWN


def test_an_address_of_no_known_kind_stays_one() -> None:
    assert assess_transport_error("GET", httpx.UnsupportedProtocol("ftp")) == NO
    assert assess_transport_error("POST", httpx.UnsupportedProtocol("ftp")) == NO


def caused(error: BaseException, *causes: BaseException, by: str) -> BaseException:
    """Hang errors on each other, as `raise ... from` or an `except` does."""
    for cause in causes:
        setattr(error, by, cause)
        error = cause
    return error


@pytest.mark.parametrize("by", ["__cause__", "__context__"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_certificate_that_cannot_be_verified_is_not_tried_again(method: str, by: str) -> None:
    error = httpx.ConnectError("no connection")
    caused(error, OSError("httpcore's own"), ssl.SSLCertVerificationError("expired"), by=by)
    assert is_unverified_certificate(error)
    assert assess_transport_error(method, error, nothing_was_sent=True) == NO


def test_another_trouble_of_the_connection_is_none_of_the_certificate() -> None:
    error = httpx.ConnectError("no connection")
    last = caused(error, OSError("refused"), ssl.SSLError("wrong version"), by="__context__")
    assert not is_unverified_certificate(error)
    last.__context__ = error  # a circle ends
    assert assess_transport_error("POST", error) == AGAIN


def test_a_post_of_which_no_byte_has_left_is_sent_again_whatever_the_error_is() -> None:
    assert assess_transport_error("POST", httpx.ReadError("reset"), nothing_was_sent=True) == AGAIN


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("0", 0),
        ("120", 120),
        ("  120 ", 120),
        ("1.5", 1.5),
        ("3600", 3600),
        ("3601", 3600),
        ("99999999999999999999", 3600),
        ("1e400", 3600),
        ("inf", 3600),
        ("NaN", None),
        ("nan", None),
        ("-inf", None),
        ("-5", None),
        ("soon", None),
        ("0x10", None),
        ("120, 60", None),
        ("12:00", None),
        (IN_A_MINUTE, 60),
        ("Tue, 01 Sep 2026 14:01:00 +0200", 60),
        ("Tue, 01 Sep 2026 12:01:00", 60),  # no time zone: UTC
        ("Tue, 01 Sep 2026 12:01:00 -0000", 60),
        ("Tue, 01 Sep 2026 12:01:00 +9999", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Fri, 31 Dec 100000 23:59:59 GMT", None),
        ("Wed, 99 Sep 2026 12:01:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=NOW) == seconds


@given(st.one_of(st.text(), st.integers().map(str), st.floats().map(str), st.datetimes().map(format_datetime)))
def test_retry_after_is_sane_whatever_it_says(header: str) -> None:
    seconds = parse_retry_after(header, now=NOW)
    assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= MAX_RETRY_AFTER_SECONDS)


@given(status=st.integers(100, 999), retry_after=st.none() | st.text())
def test_no_post_of_unknown_outcome_is_sent_again(status: int, retry_after: str | None) -> None:
    meaning = assess_status("POST", status, retry_after, now=NOW)
    assert not (meaning.retryable and meaning.outcome_unknown)
    if meaning.retryable:
        assert status == 429 or (status == 503 and meaning.retry_after_seconds is not None)
    if status < 300 or status >= 500:
        assert meaning.retryable or meaning.outcome_unknown
