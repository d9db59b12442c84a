"""The file of a mobile build on its way to the store for files that QA.tech names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import anyio
import httpx
from pydantic import Field

from prefect_qatech.addresses import is_loopback
from prefect_qatech.api.wire import Response
from prefect_qatech.exceptions import InvalidInputError, InvalidResponseError, QATechAPIError, QATechConnectionError

MAX_BYTES = 4 * 1024**3
CHUNK_BYTES = 256 * 1024
_STALLED_SECONDS = 60.0
_PLATFORMS = {".apk": "android", ".aab": "android", ".ipa": "ios"}


@dataclass(frozen=True)
class BuildFile:
    """The file of a mobile build; its ending tells the platform, ios or android."""

    path: Path
    platform: str
    size: int

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def of(cls, path: Path) -> BuildFile:
        """Return the file at a path; one of no mobile application, empty or too large is an `InvalidInputError`."""
        platform = _PLATFORMS.get(path.suffix.lower())
        if platform is None:
            raise InvalidInputError(f"{path}: a build is a file that ends with .apk, .aab or .ipa")
        try:
            size = path.stat().st_size if path.is_file() else 0
        except OSError as error:
            raise InvalidInputError(f"{path} cannot be read: {error.strerror}") from None
        if not path.is_file() or not os.access(path, os.R_OK):
            raise InvalidInputError(f"{path} is no file that can be read")
        if not 0 < size <= MAX_BYTES:
            raise InvalidInputError(f"{path} has {size:,} bytes: a build has at least 1, and at most {MAX_BYTES:,}")
        return cls(path, platform, size)


class UploadAddress(Response):
    """The address to PUT a build's file to, and the token by which QA.tech then knows the file."""

    upload_url: Annotated[str, Field(min_length=1)]
    build_token: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class UploadedFile:
    """A file that was uploaded, of which no build has been made yet: QA.tech's token for it, and its hash."""

    build_token: str = field(repr=False)
    platform: str
    sha256: str


async def sha256_of(file: BuildFile) -> str:
    hashed = hashlib.sha256()
    async for chunk in _chunks(file):
        hashed.update(chunk)
    return hashed.hexdigest()


async def _chunks(file: BuildFile) -> AsyncIterator[bytes]:
    try:
        async with await anyio.open_file(file.path, "rb") as content:
            while chunk := await content.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise InvalidInputError(f"{file.path} cannot be read: {error.strerror}. No build was made of it.") from None


async def put_file(
    file: BuildFile,
    address: str,
    *,
    timeout_seconds: float,
    on_progress: Callable[[int, int], Awaitable[None]] | None = None,
) -> str:
    """Send a file to an address that holds its own signature, which appears in no error; return the hash (SHA-256).

    The token is not sent.

    Raises:
        QATechAPIError: It was not taken; `retryable` tells whether another try, with a new address, may succeed.
    """
    where = _checked_address(address)
    request = f"PUT {where.hostname}"
    hashed = hashlib.sha256()

    async def content() -> AsyncIterator[bytes]:
        sent = 0
        async for chunk in _chunks(file):
            hashed.update(chunk)
            yield chunk
            sent += len(chunk)
            if on_progress is not None:
                await on_progress(sent, file.size)

    try:
        with anyio.fail_after(timeout_seconds):
            async with httpx.AsyncClient(
                timeout=_STALLED_SECONDS, follow_redirects=False, trust_env=not is_loopback(where.hostname)
            ) as http:
                headers = {"Content-Length": str(file.size), "Content-Type": "application/octet-stream"}
                # What the store answers is not read: it can be of any size.
                async with http.stream("PUT", address, content=content(), headers=headers) as answer:
                    status, is_taken = answer.status_code, answer.is_success
    except TimeoutError:
        fault = f"took longer than {timeout_seconds:g} s"
    except httpx.HTTPError as error:
        # httpx's own words can name the address, and with it the signature.
        fault = f"broke off ({type(error).__name__})"
    else:
        if is_taken:
            return hashed.hexdigest()
        raise _refused(request, status)
    raise QATechConnectionError(
        f"The upload of {file.name} to {where.hostname} {fault}. No build was made; it can be tried again.",
        request=request,
        retryable=True,
    )


def _checked_address(address: str) -> SplitResult:
    """Return the parts of an address; the errors of those who read it can show its signature, and ours do not."""
    try:
        httpx.URL(address)
        where = urlsplit(address)
        is_one = bool(where.hostname) and where.port != 0  # the port is read here, and may be none
    except (ValueError, httpx.InvalidURL):
        is_one = False
    if not is_one:
        raise InvalidResponseError("QA.tech named an address for the upload that is none; nothing was uploaded.")
    if where.scheme != "https" and not (where.scheme == "http" and is_loopback(where.hostname)):
        raise InvalidResponseError("QA.tech named an address for the upload that is not https; nothing was uploaded.")
    return where


def _refused(request: str, status: int) -> QATechAPIError:
    return QATechAPIError(
        f"The store for files refused the upload ({request}: {status}). No build was made; it can be tried again "
        "with a new address.",
        status=status,
        request=request,
        retryable=status == 403 or status == 429 or status >= 500,
    )
