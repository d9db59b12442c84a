"""The one thing that the sandbox really does: fetch a page of the environment under test and look for a text."""

from __future__ import annotations

import asyncio
import html
import re

import httpx

from prefect_qatech.addresses import is_loopback
from prefect_qatech.sandbox.scenario import HttpCheck, Outcome

__all__ = ["carry_out_check"]

_TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 1_000_000
_SHOWN = 200


async def carry_out_check(check: HttpCheck, base_url: str | None) -> Outcome:
    """Fetch the page once.

    Args:
        check: The page and what is expected of it.
        base_url: Where the application under test runs.

    Returns:
        Passed; failed, with a reason that a person understands; or a `PLATFORM_...` error code where the sandbox does
        not open such an address: it is for programs on this machine only, so that no scenario knocks elsewhere.
    """
    if base_url is None:
        return _platform("PLATFORM_NO_ADDRESS", f"{check.application} has no environment with a web address")
    url = base_url.rstrip("/") + check.path
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return _platform("PLATFORM_ADDRESS_NOT_ALLOWED", "The environment's address cannot be read")
    if not is_loopback(parsed.host):
        return _platform("PLATFORM_ADDRESS_NOT_ALLOWED", "The sandbox opens addresses of this machine only")
    try:
        status, text = await asyncio.wait_for(_fetch(parsed), _TIMEOUT_SECONDS)
    except (asyncio.TimeoutError, httpx.TimeoutException):
        return _failed(f"The page {check.path} did not answer", f"Waited {_TIMEOUT_SECONDS:g} seconds for {url}.")
    except httpx.HTTPError as error:
        return _failed(f"The page {check.path} could not be opened", f"Opening {url} failed: {error}.")
    except Exception as error:  # whatever a page manages to do, its test must not stay RUNNING for ever
        return _platform("PLATFORM_ERROR", f"Opening {url} failed: {error!r}")
    if status != check.status:
        return _failed(
            f"The page {check.path} answered {status}",
            f'Opened {url}, expected the status {check.status} and got {status}. The page says: "{_visible(text)}".',
        )
    if check.contains is not None and check.contains not in text and check.contains not in _visible(text, None):
        return _failed(
            f'Expected to see "{check.contains}"',
            f'Opened {url}. Expected to see "{check.contains}", saw "{_visible(text)}".',
        )
    return Outcome(result="PASSED")


async def _fetch(url: httpx.URL) -> tuple[int, str]:
    # No proxy of the environment: the page is on this machine.
    async with (
        httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_SECONDS) as client,
        client.stream("GET", url, headers={"User-Agent": "prefect-qatech-sandbox"}) as response,
    ):
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MOST_BYTES:
                break
        return response.status_code, body.decode(response.charset_encoding or "utf-8", "replace")


def _visible(page: str, shown: int | None = _SHOWN) -> str:
    page = re.sub(r"(?is)<(script|style|head)\b.*?</\1\s*>", " ", page)
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    return text if shown is None or len(text) <= shown else text[: shown - 1] + "…"


def _failed(title: str, thought: str) -> Outcome:
    return Outcome(result="FAILED", error_code="TEST_FAILED", title=title, thought=thought)


def _platform(code: str, reason: str) -> Outcome:
    return Outcome(result="FAILED", error_code=code, title="The page could not be tested", thought=f"{reason}.")
