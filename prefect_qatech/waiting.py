"""Waiting for a run: looks at it until it has ended, through whatever a network does, up to a deadline.

It knows the client and no Prefect; clock, sleep and randomness are handed in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prefect_qatech.client import QATechClient
from prefect_qatech.exceptions import NotFoundError, QATechAPIError, WaitTimedOut
from prefect_qatech.models import QATechRun
from prefect_qatech.polling import QATechPolling

MAX_CONSECUTIVE_ERRORS = 20
MAX_ERROR_SECONDS = 900.0
"""A wait gives up on a failing service when both are exceeded: so many looks in a row, over so long a time."""

NOT_FOUND_GRACE_SECONDS = 60.0
"""A run that was just started may not be known everywhere yet."""

SETTLE_SECONDS = 60.0
"""A run can be COMPLETED before its result is written; so long the result is waited for."""


@dataclass(frozen=True)
class Surroundings:
    """What the outside world gives to a wait: a monotonic clock in seconds, a sleep, a random number from 0 to 1."""

    sleep: Callable[[float], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random


async def wait_for_run(
    client: QATechClient,
    run_short_id: str,
    *,
    timeout_seconds: float,
    polling: QATechPolling,
    surroundings: Surroundings,
    on_change: Callable[[QATechRun], Awaitable[None]],
    on_error: Callable[[QATechAPIError], None],
    run_url: str | None = None,
) -> QATechRun:
    """Look at a run until it has ended.

    - A look that fails in a way that another may not (no connection, 5xx, 429, broken answers; 404 in the first minute)
      is repeated, until both `MAX_CONSECUTIVE_ERRORS` and `MAX_ERROR_SECONDS` are exceeded.
    - 401 and 403 are final at once.
    - The last look is at the deadline.

    Args:
        client: The client.
        run_short_id: The run.
        timeout_seconds: How long from now the deadline is.
        polling: How often to look.
        surroundings: Clock, sleep and randomness.
        on_change: Told of each look that saw something new.
        on_error: Told of each look that failed and will be repeated.
        run_url: Address of the run, for errors.

    Returns:
        The run with all its test cases. COMPLETED without a result only where none came in the settle window, or until
        the deadline.

    Raises:
        WaitTimedOut: The deadline passed.
        QATechAPIError: Looking makes no sense any more.
    """
    clock = surroundings.clock
    began = clock()
    deadline = began + timeout_seconds
    last: QATechRun | None = None
    settling_since: float | None = None
    errors, failing_since, last_error = 0, began, None
    while True:
        retry_after_seconds: float | None = None
        try:
            run = await client.get_run(run_short_id, test_cases="all")
        except QATechAPIError as error:
            now = clock()
            failing_since = now if errors == 0 else failing_since
            errors += 1
            unknown_yet = isinstance(error, NotFoundError) and now - began < NOT_FOUND_GRACE_SECONDS and last is None
            exhausted = errors > MAX_CONSECUTIVE_ERRORS and now - failing_since > MAX_ERROR_SECONDS
            if exhausted or not (error.retryable or unknown_yet):
                raise _given_up(error, errors, now - failing_since, run_short_id, run_url) from None
            last_error, retry_after_seconds = error, error.retry_after_seconds
            on_error(error)
        else:
            errors, last_error = 0, None
            if _seen(run) != _seen(last):
                await on_change(run)
            last = run
            if run.is_final:
                if run.status != "COMPLETED" or run.result is not None:
                    return run
                settling_since = clock() if settling_since is None else settling_since
                if clock() - settling_since >= SETTLE_SECONDS:
                    return run
            else:
                settling_since = None
        now = clock()
        if now >= deadline and last is not None and settling_since is not None:
            return last
        if now >= deadline:
            raise _timed_out(run_short_id, run_url, last, last_error, now - began)
        # A settling run is watched as closely as one that has just begun.
        elapsed = now - (began if settling_since is None else settling_since)
        pause = polling.next_look_seconds(
            elapsed, deadline - now, random=surroundings.random(), retry_after_seconds=retry_after_seconds
        )
        await surroundings.sleep(pause)


def _seen(run: QATechRun | None) -> tuple[str, str | None, int, int] | None:
    return None if run is None else (run.status, run.result, len(run.test_cases), run.finished_test_count)


def goes_on(run_short_id: str, run_url: str | None) -> str:
    """Say that a run goes on although nobody waits for it."""
    return (
        f"Run {run_short_id} goes on at QA.tech, which has no call to cancel it ({run_url or 'address unknown'}). "
        "A retry of the flow run takes it up again."
    )


def _given_up(
    error: QATechAPIError, errors: int, seconds: float, run_short_id: str, run_url: str | None
) -> QATechAPIError:
    tried = f" {errors} looks in a row failed, over {seconds:.0f} s." if errors > 1 else ""
    # Of a run that is not found nobody can say that it goes on.
    ending = (
        f" Its address: {run_url or 'unknown'}."
        if isinstance(error, NotFoundError)
        else f" {goes_on(run_short_id, run_url)}"
    )
    error.message = f"{error.message}{tried}{ending}"
    error.args = (error.message,)
    error.run_short_id, error.run_url = run_short_id, run_url
    return error


def _timed_out(
    run_short_id: str, run_url: str | None, last: QATechRun | None, error: QATechAPIError | None, seconds: float
) -> WaitTimedOut:
    status = f"its last known status is {last.status or 'unknown'}" if last else "it could not be looked at"
    because = f" The last look failed: {error.message}" if error else ""
    return WaitTimedOut(
        f"Run {run_short_id} did not end in time: after {seconds:.0f} s {status}.{because} "
        f"{goes_on(run_short_id, run_url)}",
        status=last.status if last else None,
        waited_seconds=seconds,
        last_error=error.message if error else None,
        run=last,
        run_short_id=run_short_id,
        run_url=run_url,
    )
