"""Pure: decide after each poll of a run whether to wait, and how long, or whether the wait is over.

A wait is a `Watch`, everything that is known of the run. `Watch.after` takes the answer to a poll into account, and
`next_step` decides what comes next.

- A poll that fails in a way that another may not (no connection, 5xx, 429, broken answers) is repeated, until both
  `MAX_CONSECUTIVE_ERRORS` and `MAX_ERROR_SECONDS` are exceeded.
- A run that was polled with success exists; so does, for the first `NOT_FOUND_GRACE_SECONDS` of a wait, one whose start
  is on record. Then every other failure is repeated as well: one odd answer (302, 404, 409) says nothing of the run.
  Only 401 and 403 are final, when they are seen twice without a good poll between them.
- Otherwise 4xx and redirects are final at once.
- Where the run's age is known, past durations say when to poll while too few test cases have finished. They are read at
  the second poll: a run that ends at once needs none.
- The duration of a run whose end was seen is remembered, unless the run ended with the early polls.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace

from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import ForbiddenError, NotFoundError, QATechAPIError, QATechError, UnauthorizedError
from prefect_qatech.polling.durations import PastDurations
from prefect_qatech.polling.exceptions import WaitTimedOut, goes_on
from prefect_qatech.polling.progress import Progress, best_forecast
from prefect_qatech.polling.schedule import QATechPolling

MAX_CONSECUTIVE_ERRORS = 20
MAX_ERROR_SECONDS = 900.0
"""A wait gives up on a failing service when both are exceeded: so many polls in a row, over so long a time."""

MAX_REFUSALS = 2
"""So many polls of a run that is known to exist may answer 401 or 403; one may be a slip of a gateway."""

NOT_FOUND_GRACE_SECONDS = 60.0
"""For so long the first polls of a run on record may say that it is not there: a POST that was accepted has made it."""

SETTLE_SECONDS = 60.0
"""A run can be COMPLETED before its result is written; so long the result is waited for."""


@dataclass(frozen=True)
class Watch:
    """What a wait knows. All moments are on one clock.

    Attributes:
        run_short_id: The run.
        run_url: Its address.
        began: When the wait began.
        deadline: When it must end.
        age_seconds: How old the run was when the wait began; None where that is unknown.
        run: The run as it was last seen.
        running_at: When it was last seen to run.
        ended_at: When it was first seen to have ended.
        progress: How its test cases have moved on.
        past: How long such runs took before.
        past_is_known: Whether that has been looked up.
        failures: How many polls in a row have failed.
        refusals: How many of these were 401 or 403.
        failing_since: When the first of them was.
        error: The error of the last poll, if it failed.
        what: What it is called: a release check is waited for like a run.
    """

    run_short_id: str
    run_url: str | None
    began: float
    deadline: float
    age_seconds: float | None = None
    run: QATechRun | None = None
    running_at: float | None = None
    ended_at: float | None = None
    progress: Progress | None = None
    past: PastDurations | None = None
    past_is_known: bool = False
    failures: int = 0
    refusals: int = 0
    failing_since: float = 0.0
    error: QATechAPIError | None = None
    what: str = "Run"

    @property
    def started(self) -> float:
        """When the run was started; where that is unknown, when the wait began."""
        return self.began - (self.age_seconds or 0.0)

    def after(self, answer: QATechRun | QATechAPIError, now: float) -> Watch:
        """Return what is known after a poll that gave the run, or failed with an error."""
        if isinstance(answer, QATechAPIError):
            return replace(
                self,
                failures=self.failures + 1,
                refusals=self.refusals + isinstance(answer, (UnauthorizedError, ForbiddenError)),
                failing_since=self.failing_since if self.failures else now,
                error=answer,
            )
        watch = replace(self, run=answer, failures=0, refusals=0, error=None)
        if answer.is_final:
            return replace(watch, ended_at=now if self.ended_at is None else self.ended_at)
        progress = self.progress
        if answer.test_cases:
            progress = Progress.after(
                progress,
                now - self.started,
                total=len(answer.test_cases),
                finished=answer.finished_test_count,
                running=answer.running_test_count,
            )
        return replace(watch, running_at=now, ended_at=None, progress=progress)

    def shows_more_than(self, before: Watch) -> bool:
        return _shown(self.run) != _shown(before.run)

    def needs_past(self, polling: QATechPolling, now: float) -> bool:
        """Return whether it is time to look up how long such runs took; a run that ends at once never needs it."""
        if self.past_is_known or self.age_seconds is None or self.error is not None:
            return False
        is_running = self.run is not None and bool(self.run.test_cases) and self.ended_at is None
        return is_running and now - self.started >= 0.9 * polling.first_seconds

    def with_past(self, seconds: Iterable[float]) -> Watch:
        """Return what is known once the durations of such runs were looked up."""
        return replace(self, past=PastDurations.of(seconds), past_is_known=True)

    @property
    def is_over(self) -> bool:
        """Whether the last poll succeeded and saw the run ended, with all that is to come."""
        run = self.run if self.error is None and self.ended_at is not None else None
        return run is not None and (run.status != "COMPLETED" or run.result is not None)

    def is_hopeless(self, now: float) -> bool:
        if self.error is None:
            return False
        # Counted from the wait, not the run: a resumed wait begins with a first poll as well.
        was_started = self.age_seconds is not None and now - self.began < NOT_FOUND_GRACE_SECONDS
        exists = self.run is not None or was_started
        exhausted = self.failures > MAX_CONSECUTIVE_ERRORS and now - self.failing_since > MAX_ERROR_SECONDS
        return exhausted or self.refusals >= MAX_REFUSALS or not (self.error.retryable or exists)

    def duration(self, polling: QATechPolling) -> float | None:
        """Return how long the run took, where its end was seen and its duration is typical of other runs."""
        if self.age_seconds is None or self.running_at is None or self.ended_at is None:
            return None
        seconds = (self.running_at + self.ended_at) / 2 - self.started
        # Nobody saw the end of a run that ended while no poll succeeded.
        was_seen = self.ended_at - self.running_at <= 2 * polling.max_seconds
        # A run that broke off does not show how long one takes; one that ends with the early polls needs no forecast.
        tells = self.run is not None and self.run.status == "COMPLETED" and bool(self.run.test_cases)
        return seconds if was_seen and tells and seconds >= polling.last_early_poll_seconds else None

    def gave_up(self, error: QATechAPIError, now: float) -> QATechAPIError:
        """Return a copy of the last poll's error, for a wait that polls no more."""
        seconds = now - self.failing_since
        tried = f" {self.failures} polls in a row failed, over {seconds:.0f} s." if self.failures > 1 else ""
        # Nobody can say that a run goes on that was not found.
        is_lost = isinstance(error, NotFoundError)
        ending = f"Its address: {self.run_url or 'unknown'}." if is_lost else self._goes_on
        final = copy.copy(error)
        final.message = f"{error.message}{tried} {ending}"
        final.args = (final.message,)
        final.run_short_id, final.run_url = self.run_short_id, self.run_url
        return final

    def timed_out(self, now: float) -> WaitTimedOut:
        """Return the error of a wait whose deadline passed; it may be one of several, and the last of them a moment."""
        run, error, seconds = self.run, self.error, now - self.began
        status = f"its last known status is {run.status or 'unknown'}" if run else "it could not be polled"
        if self.age_seconds is not None:
            when = f"{now - self.started:.0f} s after its start "
        else:
            when = f"after {seconds:.0f} s " if seconds >= 1 else ""
        because = f" The last poll failed: {error.message}" if error else ""
        return WaitTimedOut(
            f"{self.what} {self.run_short_id} did not end in time: {when}{status}.{because} {self._goes_on}",
            status=run.status if run else None,
            waited_seconds=seconds,
            last_error=error.message if error else None,
            run=run,
            run_short_id=self.run_short_id,
            run_url=self.run_url,
        )

    @property
    def _goes_on(self) -> str:
        return goes_on(self.run_short_id, self.run_url, self.what)


def next_step(watch: Watch, now: float, polling: QATechPolling, random: float) -> float | QATechRun | QATechError:
    """Decide how the wait goes on after a poll.

    Returns:
        After how many seconds to poll again; the run, where it has ended; an error, where the wait is over without.
    """
    if watch.error is not None and watch.is_hopeless(now):
        return watch.gave_up(watch.error, now)
    has_settled = watch.ended_at is not None and watch.error is None and now - watch.ended_at >= SETTLE_SECONDS
    is_late = now >= watch.deadline
    if watch.run is not None and (watch.is_over or has_settled or (is_late and watch.ended_at is not None)):
        return watch.run
    if is_late:
        return watch.timed_out(now)
    # A run whose result is still to come is polled as closely as one that has just begun.
    is_settling = watch.ended_at is not None
    return polling.next_poll_seconds(
        now - (watch.started if watch.ended_at is None else watch.ended_at),
        watch.deadline - now,
        forecast=None if is_settling else best_forecast(watch.progress, watch.past),
        random=random,
        retry_after_seconds=watch.error.retry_after_seconds if watch.error else None,
    )


def _shown(run: QATechRun | None) -> tuple[str, str | None, int, int] | None:
    return None if run is None else (run.status, run.result, len(run.test_cases), run.finished_test_count)
