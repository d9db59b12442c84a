"""Pure: when to look at a run next?

Without knowledge of how long a run takes, the interval between two looks should grow with the square root of the time
that has passed: with c the price of a request in seconds of delay, the best interval is sqrt(2c / hazard), and a hazard
that falls like 1/t makes that proportional to sqrt(t). It stays within 1.41 times the cost of the best fixed interval,
whatever the duration turns out to be.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, model_validator


class QATechPolling(BaseModel):
    """How often a run is looked at while it goes on.

    Attributes:
        first_seconds: When the first look is, after the wait began; errors at the start show early.
        growth: The interval is this times the square root of the seconds that have passed.
        max_seconds: The longest interval.
        jitter: Share by which an interval may be longer or shorter, so that many waits do not look at once.

    Example:
        ```python
        QATechPolling(max_seconds=10)
        ```
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first_seconds: float = Field(default=3.0, ge=0.01, le=600, allow_inf_nan=False, title="First look after (seconds)")
    growth: float = Field(default=1.0, ge=0.01, le=100, allow_inf_nan=False, title="Growth of the interval")
    max_seconds: float = Field(default=30.0, ge=0.01, le=3600, allow_inf_nan=False, title="Longest interval (seconds)")
    jitter: float = Field(default=0.1, ge=0, lt=1, allow_inf_nan=False, title="Jitter (share)")

    @model_validator(mode="after")
    def _first_is_not_the_longest(self) -> QATechPolling:
        if self.first_seconds > self.max_seconds:
            raise ValueError("first_seconds must not be longer than max_seconds")
        return self

    def next_look_seconds(
        self,
        elapsed_seconds: float,
        remaining_seconds: float,
        *,
        random: float = 0.5,
        retry_after_seconds: float | None = None,
    ) -> float:
        """Say how long to sleep before the next look.

        Args:
            elapsed_seconds: How long the wait has lasted.
            remaining_seconds: How long until its deadline. The last look is exactly there.
            random: A number from 0 to 1 for the jitter.
            retry_after_seconds: What the service asked for; a floor, up to the deadline.

        Returns:
            Seconds; 0 when the deadline has passed.
        """
        interval = min(max(self.first_seconds, self.growth * math.sqrt(max(0.0, elapsed_seconds))), self.max_seconds)
        interval *= 1 + self.jitter * (2 * random - 1)
        return max(0.0, min(max(interval, retry_after_seconds or 0.0), remaining_seconds))
