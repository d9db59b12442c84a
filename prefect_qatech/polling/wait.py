"""Waiting for a run: looks at it until it has ended, through whatever a network does, up to a deadline.

It knows the client and no Prefect; clock, sleep and randomness are handed in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import ForbiddenError, NotFoundError, QATechAPIError, UnauthorizedError, WaitTimedOut
from prefect_qatech.polling.durations import PastDurations
from prefect_qatech.polling.progress import Progress, best_forecast
from prefect_qatech.polling.schedule import QATechPolling

MAX_CONSECUTIVE_ERRORS = 20
MAX_ERROR_SECONDS = 900.0
"""A wait gives up on a failing service when both are exceeded: so many looks in a row, over so long a time."""

MAX_REFUSALS = 2
"""So many polls of a run that is known to exist may answer 401 or 403; one may be a slip of a gateway."""

NOT_FOUND_GRACE_SECONDS = 60.0
"""A run that was just started exists, but may not be known everywhere yet."""

SETTLE_SECONDS = 60.0
"""A run can be COMPLETED before its result is written; so long the result is waited for."""

_MOST_NAMED = 20


@dataclass(frozen=True)
class Surroundings:
    """What the outside world gives to a wait.

    Attributes:
        sleep: Sleeps for so many seconds.
        clock: A monotonic clock in seconds.
        random: A random number from 0 to 1.
        before_look: Waits until a look may be sent, up to so many seconds.
    """

    sleep: Callable[[float], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    before_look: Callable[[float], Awaitable[None]] | None = None


class History(Protocol):
    """Remembers how long runs of one kind took. Whatever happens to it, neither method raises or takes long."""

    async def read(self, test_count: int) -> Sequence[float]:
        """Give the durations in seconds of the runs with so many test cases."""

    async def add(self, test_count: int, seconds: float) -> None:
        """Remember how long a run took."""


async def wait_for_run(
    client: QATechClient,
    run_short_id: str,
    *,
    timeout_seconds: float,
    polling: QATechPolling,
    surroundings: Surroundings,
    on_change: Callable[[QATechRun], None],
    on_error: Callable[[QATechAPIError], None],
    run_url: str | None = None,
    age_seconds: float | None = None,
    history: History | None = None,
) -> QATechRun:
    """Look at a run until it has ended.

    - A poll that fails in a way that another may not (no connection, 5xx, 429, broken answers) is repeated, until both
      `MAX_CONSECUTIVE_ERRORS` and `MAX_ERROR_SECONDS` are exceeded.
    - A run that was polled with success, or that was started less than `NOT_FOUND_GRACE_SECONDS` ago, exists. Then
      every other failure is repeated as well: one odd answer (302, 404, 409) says nothing of the run. Only 401 and 403
      are final, when they are seen twice without a good poll between them.
    - Otherwise 4xx and redirects are final at once.
    - The last look is at the deadline.
    - Where the run's age is known, past durations say when to look while too few test cases have finished, and the
      duration of a run whose end was seen is remembered. They are read at the second look, so a run that ends at once
      asks for none; one that ends with the early looks is not remembered.

    Args:
        client: The client.
        run_short_id: The run.
        timeout_seconds: How long from now the deadline is.
        polling: How often to look.
        surroundings: Clock, sleep and randomness.
        on_change: Told of each look that saw something new.
        on_error: Told of each look that failed and will be repeated.
        run_url: Address of the run, for errors.
        age_seconds: How long ago the run was started; None where nobody knows.
        history: Past durations of such runs.

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
    errors, refusals, failing_since, last_error = 0, 0, began, None
    began_running = began - (age_seconds or 0.0)
    looked_at: float | None = None
    progress: Progress | None = None
    past: PastDurations | None = None
    past_is_known = age_seconds is None or history is None
    while True:
        retry_after_seconds: float | None = None
        if surroundings.before_look is not None:
            await surroundings.before_look(max(0.0, deadline - clock()))
        try:
            run = await client.get_run(run_short_id, test_cases="all")
        except QATechAPIError as error:
            now = clock()
            failing_since = now if errors == 0 else failing_since
            errors += 1
            refusals += isinstance(error, (UnauthorizedError, ForbiddenError))
            is_young = age_seconds is not None and now - began_running < NOT_FOUND_GRACE_SECONDS
            exists = last is not None or is_young
            exhausted = errors > MAX_CONSECUTIVE_ERRORS and now - failing_since > MAX_ERROR_SECONDS
            if exhausted or refusals >= MAX_REFUSALS or not (error.retryable or exists):
                raise _given_up(error, errors, now - failing_since, run_short_id, run_url) from None
            last_error, retry_after_seconds = error, error.retry_after_seconds
            on_error(error)
        else:
            errors, refusals, last_error = 0, 0, None
            if _seen(run) != _seen(last):
                on_change(run)
            last = run
            age = clock() - began_running
            if run.is_final:
                if history is not None and age_seconds is not None and settling_since is None:
                    await _remember(history, run, polling, looked_at, age)
                if run.status != "COMPLETED" or run.result is not None:
                    return run
                settling_since = clock() if settling_since is None else settling_since
                if clock() - settling_since >= SETTLE_SECONDS:
                    return run
            else:
                settling_since, looked_at = None, age
                progress = _after(progress, age, run)
                if not past_is_known and run.test_cases and history is not None and age >= 0.9 * polling.first_seconds:
                    past = PastDurations.of(await history.read(len(run.test_cases)))
                    past_is_known = True
        now = clock()
        if now >= deadline and last is not None and settling_since is not None:
            return last
        if now >= deadline:
            raise _timed_out(run_short_id, run_url, last, last_error, now - began)
        # A settling run is watched as closely as one that has just begun.
        pause = polling.next_look_seconds(
            now - (began_running if settling_since is None else settling_since),
            deadline - now,
            forecast=best_forecast(progress, past) if settling_since is None else None,
            random=surroundings.random(),
            retry_after_seconds=retry_after_seconds,
        )
        await surroundings.sleep(pause)


def _after(before: Progress | None, age_seconds: float, run: QATechRun) -> Progress | None:
    if not run.test_cases:
        return before
    return Progress.after(
        before,
        age_seconds,
        total=len(run.test_cases),
        finished=run.finished_test_count,
        running=run.running_test_count,
    )


async def _remember(
    history: History, run: QATechRun, polling: QATechPolling, looked_at: float | None, age_seconds: float
) -> None:
    # Nobody saw the end of a run that had ended at the first look, or while no look succeeded.
    if looked_at is None or age_seconds - looked_at > 2 * polling.max_seconds:
        return
    seconds = (looked_at + age_seconds) / 2
    # What broke off says nothing of how long a run takes; what ends with the early looks needs no forecast.
    if run.status == "COMPLETED" and run.test_cases and seconds >= polling.last_early_look_seconds:
        await history.add(len(run.test_cases), seconds)


def _seen(run: QATechRun | None) -> tuple[str, str | None, int, int] | None:
    return None if run is None else (run.status, run.result, len(run.test_cases), run.finished_test_count)


def goes_on(run_short_id: str, run_url: str | None) -> str:
    """Say that a run goes on although nobody waits for it."""
    return (
        f"Run {run_short_id} goes on at QA.tech, which has no call to cancel it ({run_url or 'address unknown'}). "
        "A retry of the flow run takes it up again."
    )


def they_go_on(runs: Mapping[str, str | None]) -> str:
    """Say that runs go on although nobody waits for them.

    Args:
        runs: Their short ids and addresses.
    """
    if len(runs) == 1:
        return goes_on(*next(iter(runs.items())))
    named = [f"{short_id} ({url or 'address unknown'})" for short_id, url in list(runs.items())[:_MOST_NAMED]]
    more = f" and {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    return (
        f"{len(runs)} runs go on at QA.tech, which has no call to cancel them: {', '.join(named)}{more}. "
        "A retry of the flow run takes them up again."
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
