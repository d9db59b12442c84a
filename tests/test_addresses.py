"""Which addresses are this machine, and which may become links."""

from __future__ import annotations

import pytest

from prefect_qatech.addresses import is_loopback, is_web_link


@pytest.mark.parametrize(
    "url",
    [
        "https://app.qa.tech/p/shop/results/abc123",
        "https://app.qa.tech:8443/x?y=1&z=%20#top",
        "HTTPS://app.qa.tech",
        "http://127.0.0.1:8400/p/x",
        "http://localhost:8400",
        "http://[::1]:8400/",
    ],
)
def test_a_web_link(url: str) -> None:
    assert is_web_link(url)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "javascript:alert(1)",
        "JaVaScRiPt:alert%281%29",
        "data:text/html,x",
        "vbscript:x",
        "file:///etc/passwd",
        "ftp://app.qa.tech",
        "//app.qa.tech",
        "/results/abc123",
        "app.qa.tech",
        "http://app.qa.tech",
        "http://localhost.evil.example",
        "http://localhost@evil.example",
        "http://127.0.0.1.evil.example",
        "https://app.qa.tech/\nx",
        "https://app.qa.tech/\tx",
        "\nhttps://app.qa.tech",
        " https://app.qa.tech",
        "https://app.qa.tech/a b",
        'https://app.qa.tech/"onclick="x',
        "https://app.qa.tech/'x",
        "https://app.qa.tech/<script>",
        "https://app.qa.tech/)[x](javascript:x",
        "https://app.qa.tech\\x",
        "https://app.qa.tech/\x00",
        "https://app.qa.tech/\x7f",
        "https://app.qa.tech/\u202e",  # turns the rest around
        "https://[::1",
        "https:",
        "https:app.qa.tech",
        "https:///x",
        "https://app.qa.tech@evil.example",  # shows one host, leads to another
    ],
    ids=ascii,
)
def test_what_may_not_become_a_link(url: str | None) -> None:
    assert not is_web_link(url)


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
