"""How to get through times in which Prefect's API cannot be reached."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import httpx
from prefect.exceptions import PrefectHTTPStatusError

from prefect_qatech.exceptions import LedgerUnavailable
from prefect_qatech.ledger.slots import QATechRunRecord

T = TypeVar("T")

_FIRST_PAUSE_SECONDS = 0.5
_MAX_PAUSE_SECONDS = 15.0


def is_outage(error: Exception) -> bool:
    """Whether an error of Prefect's client says that its API is down or overloaded, and not that it refuses."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, httpx.TransportError)


async def persistently(
    work: Callable[[], Awaitable[T]], seconds: float, *, is_worth_it: Callable[[Exception], bool] = lambda error: True
) -> T:
    """Do something on the Prefect server, again and again where it fails, for so many seconds."""
    give_up_at = time.monotonic() + seconds
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await work()
        except Exception as error:
            if not is_worth_it(error) or time.monotonic() + pause > give_up_at:
                raise
        await anyio.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


async def through_outages(ask: Callable[[], Awaitable[T]], seconds: float, about: QATechRunRecord | None = None) -> T:
    """Ask Prefect's API until it answers, perhaps twice; out of time raise `LedgerUnavailable`, about a run."""
    try:
        return await persistently(ask, seconds, is_worth_it=is_outage)
    except Exception as error:
        if not is_outage(error):
            raise
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
    run = f" Run {about.run_short_id} is on record: {about.run_url or 'no address given'}." if about else ""
    raise LedgerUnavailable(
        f"The Prefect API could not be reached for {seconds:.0f} s ({reason}).{run} Retry the flow run.",
        run_short_id=about.run_short_id if about else None,
        run_url=about.run_url if about else None,
    )
