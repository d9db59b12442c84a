"""The client on a real network: proxies, certificates, and what the libraries below write into logs."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from prefect_qatech import (
    QATechClient,
)
from prefect_qatech.api import transport as module
from prefect_qatech.api.requests import QATechRerunRequest, QATechRunRequest
from prefect_qatech.exceptions import InvalidInputError, QATechAPIError, QATechConnectionError, QATechTimeoutError
from tests.wire import TOKEN, Everything, accepted, assert_holds_no_secret, forms_of, listening, seen

CALLS: dict[str, Callable[[QATechClient], Awaitable[Any]]] = {
    "look": lambda client: client.get_run("abc123"),
    "start": lambda client: client.start_run(QATechRunRequest(test_plan_short_id="pln_smoke")),
    "rerun": lambda client: client.rerun("abc123", QATechRerunRequest(failed_only=True)),
}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No proxy and no certificate of this machine's own."""
    for name in (*PROXIES, "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    module._tls.cache_clear()
    yield
    module._tls.cache_clear()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request as QA.tech does."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"authorization: bearer {TOKEN}".encode().lower() in head.lower()
    body = json.dumps(seen() if head.startswith(b"GET") else accepted()).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
    await writer.drain()


def client(url: str, **options: Any) -> QATechClient:
    return QATechClient(api_token=SecretStr(TOKEN), api_url=url, **options)


# --- Proxies


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_loopback_address_never_goes_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, call: str, host: str
) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))

    async with listening(proxy) as proxy_url, listening(serve, host) as url:
        for name in PROXIES:
            monkeypatch.setenv(name, proxy_url)
        async with client(url) as one:
            await CALLS[call](one)
    assert asked == []


async def refuses(status: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)
    await writer.drain()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        pytest.param(
            "SSL_CERT_FILE",
            "/nowhere/authority.pem",
            "No such file",
            marks=pytest.mark.skipif(httpx.__version__ < "0.28", reason="httpx takes no notice of a file that is gone"),
        ),
        ("SSL_CERT_FILE", __file__, "no certificate"),
        ("HTTPS_PROXY", "ftp://ada:s3cret@proxy.example.com", "Unknown scheme"),
        ("HTTPS_PROXY", "http://proxy.example.com:port", "Invalid port"),
        ("ALL_PROXY", "socks5://proxy.example.com", "SOCKS"),
    ],
)
async def test_an_environment_that_allows_no_connection_is_told_in_a_sentence(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInputError, match="Nothing was sent: no connection can be made") as raised:
        async with client("https://api.qa.tech"):
            pass
    assert told.lower() in str(raised.value).lower()
    assert name in str(raised.value)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__context__ is None


PROXY_FAULTS: dict[str, Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]] = {
    "407": lambda reader, writer: refuses(b"407 Proxy Authentication Required", writer),
    "503": lambda reader, writer: refuses(b"503 Service Unavailable", writer),
    "nonsense": lambda reader, writer: refuses(b"hello", writer),
    "closes": lambda reader, writer: asyncio.sleep(0),
    "closes after its answer": lambda reader, writer: refuses(b"200 OK", writer),
    "says nothing": lambda reader, writer: reader.read(),
}


@pytest.mark.parametrize("fault", PROXY_FAULTS)
@pytest.mark.parametrize("call", CALLS)
async def test_what_a_proxy_did_not_let_through_was_not_sent(
    monkeypatch: pytest.MonkeyPatch, call: str, fault: str
) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        await PROXY_FAULTS[fault](reader, writer)

    async with listening(proxy) as proxy_url:
        monkeypatch.setenv("HTTPS_PROXY", proxy_url)
        async with client("https://qatech.example", timeout_seconds=0.5) as one:
            with pytest.raises(QATechAPIError) as caught:
                await CALLS[call](one)
    assert type(caught.value) in (QATechConnectionError, QATechTimeoutError)
    assert caught.value.retryable
    assert_holds_no_secret(caught.value)
    assert asked[0].startswith(b"CONNECT qatech.example:443")
    assert TOKEN.encode() not in asked[0]


# --- Certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine that no authority has signed, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody known")])
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(
        key.private_bytes(encoding, kind, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return file


@asynccontextmanager
async def encrypted(certificate: Path, handler: Handler) -> AsyncIterator[str]:
    """A real server with that certificate, which speaks HTTP/2 to whoever wants it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])

    async with listening(handler, context=context) as url:
        yield url


@pytest.mark.parametrize("call", CALLS)
async def test_a_certificate_that_cannot_be_verified_is_final_and_nothing_is_sent(certificate: Path, call: str) -> None:
    asked: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(1000))

    async with encrypted(certificate, handler) as url, client(url) as one:
        with pytest.raises(QATechConnectionError, match="SSL_CERT_FILE") as caught:
            await CALLS[call](one)
    assert caught.value.retryable is False
    assert_holds_no_secret(caught.value)
    assert not any(asked)


@pytest.mark.parametrize("call", CALLS)
async def test_a_certificate_of_ones_own_authority_is_named_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, call: str
) -> None:
    protocols: list[str | None] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocols.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await serve(reader, writer)

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with encrypted(certificate, handler) as url, client(url) as one:
        await CALLS[call](one)
    # The library that writes HTTP/2's headers logs the token.
    assert protocols == ["http/1.1"]


# --- Logs


@pytest.mark.parametrize("fault", [None, "500", "drop"])
async def test_the_token_is_in_no_log_in_no_form(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, everything: Everything, fault: str | None
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if fault is None:
            await serve(reader, writer)
            return
        await reader.readuntil(b"\r\n\r\n")
        if fault == "500":
            await refuses(b"500 Internal Server Error", writer)

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    async with encrypted(certificate, handler) as secure, listening(handler) as plain:
        for url in (secure, plain):
            for call in CALLS.values():
                async with client(url, timeout_seconds=5) as one:
                    with anyio.move_on_after(10):
                        try:
                            await call(one)
                        except Exception:
                            assert fault is not None
    assert {"asyncio", "httpcore"} <= everything.names, "the libraries did log"
    whole = "\n".join(everything.texts)
    assert not [form for form in forms_of(TOKEN) if form in whole]


def test_the_forms_would_be_found() -> None:
    header = f"Bearer {TOKEN}"
    for text in (header, header.encode().hex(), base64.b64encode(header.encode()).decode(), repr(header.encode())):
        assert any(form in text for form in forms_of(TOKEN))
