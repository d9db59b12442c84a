"""Which addresses are this machine, and which may become links."""

from __future__ import annotations

import doctest

import pytest

from prefect_qatech import addresses
from prefect_qatech.addresses import is_loopback, safe_url, without_password


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://app.qa.tech/results/abc", "https://app.qa.tech/results/abc"),
        ("https://cdn.qa.tech/a.png?a=1&copy=2#x", "https://cdn.qa.tech/a.png?a=1&copy=2#x"),
        ("http://127.0.0.1:8000/results/abc", "http://127.0.0.1:8000/results/abc"),
        ("http://localhost/x", "http://localhost/x"),
        ("http://[::1]:8000/x", "http://[::1]:8000/x"),
        ("https://a.example/x)](javascript:1)", "https://a.example/x%29%5D%28javascript:1%29"),
        ("https://a.example/<b>\"'`|*", "https://a.example/%3Cb%3E%22%27%60%7C%2A"),
        ("https://a.example/ü%20", "https://a.example/%C3%BC%20"),
        ("https://app.qa.tech:8443/x?y=1&z=%20#top", "https://app.qa.tech:8443/x?y=1&z=%20#top"),
        ("HTTPS://app.qa.tech", "https://app.qa.tech"),
        ("https://app.qa.tech/\u202e", "https://app.qa.tech/%E2%80%AE"),  # turns the rest around
        ("http://app.qa.tech/results/abc", None),
        ("http://127.0.0.1.evil.example/", None),
        ("http://10.0.0.1/", None),
        ("http://localhost.evil.example/", None),
        ("javascript:alert(1)", None),
        ("JaVaScRiPt:alert(1)", None),
        ("java\nscript:alert(1)", None),
        ("data:text/html,x", None),
        ("vbscript:x", None),
        ("javascript://a.example/%0aalert(1)", None),
        ("ftp://a.example/", None),
        ("https://a.example/?a=1&lt;b", "https://a.example/?a=1&lt;b"),
        ("//evil.example/x", None),
        ("/x", None),
        ("https:evil.example", None),
        ("https:///x", None),
        ("https://qa.tech@evil.example/", None),
        ("https://a.example\\@evil.example/", None),
        ("https://gооgle.example/", None),  # Cyrillic
        ("https://a.example/a b", None),
        ("https://a.example/\x00", None),
        ("https://a.example/\ud800", None),
        ("https://a.example:port/", None),
        ("https://[::1", None),
        ("https://a.example(x)/", None),
        ("https://a.example/cut…", None),
        ("https://a.example/" + "x" * 3_000, None),
        ("https://a.example/" + "é" * 1_000, None),  # which is too long in the form of a link
        ("JaVaScRiPt:alert%281%29", None),
        ("file:///etc/passwd", None),
        ("app.qa.tech", None),
        ("http://localhost@evil.example", None),
        ("https://app.qa.tech/\nx", None),
        ("https://app.qa.tech/\tx", None),
        ("\nhttps://app.qa.tech", None),
        (" https://app.qa.tech", None),
        ("https://app.qa.tech\\x", None),
        ("https://app.qa.tech/\x7f", None),
        ("https:", None),
        ("", None),
        (None, None),
    ],
    ids=ascii,
)
def test_what_may_become_a_link_and_in_which_form(url: str | None, expected: str | None) -> None:
    assert safe_url(url) == expected
    assert safe_url(expected) == expected


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "127.255.255.254", "::1"])
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "localhost.example",
        "my-localhost",
        "128.0.0.1",
        "0.0.0.0",
        "10.0.0.1",
        "::2",
        "127.1",
        "2130706433",
        "0x7f000001",
        "127.0.0.1.example",
        "[::1]",
        "api.qa.tech",
    ],
)
def test_what_is_not_this_machine(host: str | None) -> None:
    assert not is_loopback(host)


def test_examples_in_the_docstrings_run() -> None:
    result = doctest.testmod(addresses)
    assert result.failed == 0
    assert result.attempted == 3


@pytest.mark.parametrize(
    "password", ["secret", "s/ecret", "s#ecret", "s?ecret", "s@ecret", "s:ecret", "s\\ecret", "s ecret"]
)
@pytest.mark.parametrize("start", ["https://", "HTTP://", " https://", "https:/", "https:\\\\", "//"])
def test_a_password_is_in_no_address_that_is_kept(start: str, password: str) -> None:
    assert without_password(f"{start}ada:{password}@shop.example.com:8443/a") == f"{start}shop.example.com:8443/a"


@pytest.mark.parametrize(
    "text",
    [
        "https://shop.example.com/mail/ada@example.com",
        "https://shop.example.com:8443/@ada?to=ada@example.com#@",
        "https://shop.example.com:8443?to=ada@example.com",
        "https://[::1]:8443/@ada",
        "Sign in as ada:secret@example.com",
        "registry.example.com/shop@sha256:abc",
    ],
)
def test_what_holds_no_password_is_kept_as_it_is(text: str) -> None:
    assert without_password(text) == text
