"""Pure: how much longer will a run take? Asked as: if nobody polls for so long, how much of that time is lost?

A forecast gives the *expected delay* of a pause: how many seconds, on average, the run will have been over when the
pause ends. Two things can be known of a run, and each gives a forecast:

- `PastDurations` (`prefect_qatech.polling.durations`): how long such runs took before.
- `Progress`: how many of its test cases have finished. A test's duration follows from how many ran and finished since
  the wait began; what is left finishes one test after another, and more slowly when less is left than runs side by
  side. The time until the last one is taken for an Erlang distribution.

Either may be wrong. So a share of each (`DOUBT`) is always that of no knowledge, where half of the runs that have
lasted t seconds last 4t: it bounds the pause. A run that outlasts its past is believed less and less to be like it; a
test that hangs is expected to hang as long again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

DOUBT = 0.005
"""How probable it is, at first, that a forecast means nothing for this run."""

DOUBT_SECONDS = 30.0
"""From here on the doubt grows less, with the root of the time: a run that is like no other would mostly have ended."""

_LAST_TESTS = 0.4
"""Of a test's duration: how long the last one takes from when it is the last. Fitted to simulations (`make bench`)."""

_ENOUGH_FOR_A_PACE = 3


class Forecast(Protocol):
    """Knows something of how much longer a run will take."""

    def expected_delay(self, elapsed_seconds: float, pause_seconds: float) -> float:
        """Return for how many seconds of a pause, on average, the run will have been over."""


def best_forecast(progress: Progress | None, past: Forecast | None) -> Forecast | None:
    """Return the forecast to go by: progress once it shows a pace, else the past, else what little progress shows."""
    if progress is not None and progress.ended >= _ENOUGH_FOR_A_PACE:
        return progress
    if past is not None:
        return past
    return progress if progress is not None and progress.tells_anything else None


def delay_without_knowledge(elapsed_seconds: float, pause_seconds: float) -> float:
    """Return the expected delay of a pause where only the age of the run is known: from 0 to the pause."""
    sooner, later = math.sqrt(max(0.0, elapsed_seconds)), math.sqrt(max(0.0, elapsed_seconds) + pause_seconds)
    return max(0.0, pause_seconds - 2 * sooner * (later - sooner))


def doubt_at(elapsed_seconds: float) -> float:
    """Return the probability that a forecast is wrong, given how long the run has lasted."""
    return DOUBT * math.sqrt(DOUBT_SECONDS / max(DOUBT_SECONDS, elapsed_seconds))


@dataclass(frozen=True)
class Progress:
    """How a run's test cases have moved on while it was waited for. Each poll gives a new one.

    Attributes:
        total: Number of test cases.
        finished: How many of them have finished.
        running: How many run just now; 0 where the service does not tell.
        seen_seconds: When that was seen, since the wait began.
        found_finished: How many had finished when the wait began.
        changed_seconds: When the number of finished ones was last seen to change.
        test_seconds: For how long test cases have run since the wait began, all together.
    """

    total: int
    finished: int
    running: int = 0
    seen_seconds: float = 0.0
    found_finished: int = 0
    changed_seconds: float = 0.0
    test_seconds: float = 0.0

    @classmethod
    def after(
        cls, before: Progress | None, elapsed_seconds: float, *, total: int, finished: int, running: int
    ) -> Progress:
        """Return the progress after a poll, so long after the wait began; `before` is None at the first poll."""
        if before is None:
            return cls(total, finished, running, elapsed_seconds, finished, elapsed_seconds)
        side_by_side = (max(1, before.running) + max(1, running)) / 2
        return cls(
            total,
            finished,
            running,
            elapsed_seconds,
            min(before.found_finished, finished),
            before.changed_seconds if finished == before.finished else elapsed_seconds,
            before.test_seconds + side_by_side * max(0.0, elapsed_seconds - before.seen_seconds),
        )

    @property
    def ended(self) -> int:
        """How many test cases finished while the wait went on."""
        return self.finished - self.found_finished

    @property
    def tells_anything(self) -> bool:
        """Whether it says more than that the run is still going on."""
        return self.ended > 0 or 0 < self.running < self.total - self.finished

    def expected_delay(self, elapsed_seconds: float, pause_seconds: float) -> float:
        """Return for how many seconds of a pause, on average, the run will have been over."""
        mean, shape = self.remaining_seconds()
        doubt = doubt_at(elapsed_seconds)
        unlike = doubt * delay_without_knowledge(elapsed_seconds, pause_seconds)
        return (1 - doubt) * _erlang_delay(mean, shape, pause_seconds) + unlike

    def remaining_seconds(self) -> tuple[float, int]:
        """Return how much longer the run takes: the mean, and the shape of an Erlang distribution around it."""
        left = self.total - self.finished
        unchanged = self.seen_seconds - self.changed_seconds
        if left <= 0:
            return max(unchanged, 1.0), 1
        side_by_side = max(1, min(self.running, left))
        # Those that run are half done, on average.
        one_test = max(self.test_seconds / (self.ended + side_by_side / 2), unchanged, 1.0)
        mean = one_test * ((left - side_by_side) / side_by_side + _LAST_TESTS * (1 + math.log(side_by_side)))
        return mean, max(1, round(1 / (1 / left + 1 / (2 * self.ended + 1))))


def _erlang_delay(mean: float, shape: int, pause: float) -> float:
    x = shape * pause / mean
    if x > 700:
        return max(0.0, pause - mean)
    term, below = math.exp(-x), 0.0
    for count in range(1, shape + 1):
        below += term
        term *= x / count
    return min(pause, max(0.0, pause * (1 - below) - mean * (1 - below - term)))
