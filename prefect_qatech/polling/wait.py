"""Wait for a run: poll it until it has ended, through whatever a network does, up to a deadline.

What each answer means is decided in `prefect_qatech.polling.steps`; here is only what talks to the outside. It knows
the client and no Prefect; clock, sleep and randomness are handed in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import QATechAPIError, QATechError
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.steps import Watch, next_step


@dataclass(frozen=True)
class Surroundings:
    """What the outside world gives to a wait; `before_poll` waits until a poll may be sent, up to so many seconds."""

    sleep: Callable[[float], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    before_poll: Callable[[float], Awaitable[None]] | None = None


class Polls(Protocol):
    """Polls a run: the client, or what shows something else as one."""

    async def get_run(self, run_short_id: str, *, test_cases: Literal["failed", "all"] | None = None) -> QATechRun:
        """Return a run as it is."""


class History(Protocol):
    """Remembers how long runs of one kind took. Whatever happens to it, neither method raises or takes long."""

    async def read(self, test_count: int) -> Sequence[float]:
        """Return the durations in seconds of the runs with so many test cases."""

    async def add(self, test_count: int, seconds: float) -> None:
        """Remember how long a run took."""


async def wait_for_run(
    client: Polls,
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
    what: str = "Run",
) -> QATechRun:
    """Poll a run until it has ended; the last poll is at the deadline.

    `prefect_qatech.polling.steps` says which failed polls are repeated. `on_change` is called after each poll that saw
    something new, `on_error` after each that failed and will be repeated; `what` is what it is called in errors.

    Returns:
        The run with all its test cases. COMPLETED without a result only where none came in the settle window, or until
        the deadline.

    Raises:
        WaitTimedOut: The deadline passed.
        QATechAPIError: Polling makes no sense any more.
    """
    now = surroundings.clock
    watch = Watch(run_short_id, run_url, now(), now() + timeout_seconds, age_seconds, what=what)
    while True:
        if surroundings.before_poll is not None:
            await surroundings.before_poll(max(0.0, watch.deadline - now()))
        before, watch = watch, watch.after(await _poll(client, run_short_id), now())
        if watch.run is not None and watch.shows_more_than(before):
            on_change(watch.run)
        if history is not None and watch.run is not None and watch.needs_past(polling, now()):
            watch = watch.with_past(await history.read(len(watch.run.test_cases)))
        step = next_step(watch, now(), polling, surroundings.random())
        if isinstance(step, QATechError):
            raise step from None
        if isinstance(step, QATechRun):
            if history is not None and (seconds := watch.duration(polling)) is not None:
                await history.add(len(step.test_cases), seconds)
            return step
        if watch.error is not None:
            on_error(watch.error)
        await surroundings.sleep(step)


async def _poll(client: Polls, run_short_id: str) -> QATechRun | QATechAPIError:
    try:
        return await client.get_run(run_short_id, test_cases="all")
    except QATechAPIError as error:
        return error
