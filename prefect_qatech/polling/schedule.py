"""Pure: when is a run polled next?

A poll costs a request, a pause costs delay: the seconds for which the run will have been over when the pause ends. The
best pause is the one whose expected delay is the price of a request (for a constant hazard that is the known
sqrt(2 * price / hazard)). What the delay is expected to be, a forecast says (`prefect_qatech.polling.progress`).

Without one, the hazard falls like 1/t, and the pause is proportional to the square root of the time that has passed.
That stays within 1.41 times the cost of the best fixed interval, whatever the duration turns out to be.
"""

from __future__ import annotations

import math

from pydantic import ConfigDict, Field, model_validator

from prefect_qatech.inputs import Checked, describe_in_one_sentence
from prefect_qatech.polling.progress import Forecast

_EARLY_POLLS = (1.0, 10 / 3, 10.0)
"""In first_seconds: 3, 10 and 30 s. Errors at the start show there, whatever a forecast says. Where a request is worth
more than by default, 3 and 30 s."""
_MAX_HALVINGS = 24


class QATechPolling(Checked):
    """How often a run is polled while it goes on.

    Attributes:
        first_seconds: When the first poll is, after the wait began; errors at the start show early. No interval is
            shorter.
        growth: What a request is worth. Without knowledge of the run the interval is this times the square root of the
            seconds that have passed; twice the growth is half the requests and twice the delay.
        max_seconds: The longest interval, whatever is known of the run.
        jitter: Share by which an interval may be longer or shorter, so that many waits do not poll at once.

    Example:
        ```python
        QATechPolling(max_seconds=10)
        ```
    """

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=describe_in_one_sentence)

    first_seconds: float = Field(default=3.0, ge=0.01, le=600, allow_inf_nan=False, title="First poll after (seconds)")
    growth: float = Field(default=1.0, ge=0.01, le=100, allow_inf_nan=False, title="Growth of the interval")
    max_seconds: float = Field(default=120.0, ge=0.01, le=3600, allow_inf_nan=False, title="Longest interval (seconds)")
    jitter: float = Field(default=0.1, ge=0, lt=1, allow_inf_nan=False, title="Jitter (share)")

    @model_validator(mode="after")
    def _first_is_not_the_longest(self) -> QATechPolling:
        if self.first_seconds > self.max_seconds:
            raise ValueError("first_seconds must not be longer than max_seconds")
        return self

    @property
    def request_price_seconds(self) -> float:
        """How many seconds of delay a request is worth; follows from the growth."""
        return self.growth**2 / 4

    @property
    def last_early_poll_seconds(self) -> float:
        """Until then a run is polled whatever is known of it; what ends by then needs no forecast."""
        return self.first_seconds * _EARLY_POLLS[-1]

    def next_poll_seconds(
        self,
        elapsed_seconds: float,
        remaining_seconds: float,
        *,
        forecast: Forecast | None = None,
        random: float = 0.5,
        retry_after_seconds: float | None = None,
    ) -> float:
        """Return how long to sleep before the next poll.

        Args:
            elapsed_seconds: How long the wait has lasted.
            remaining_seconds: How long until its deadline. The last poll is exactly there.
            forecast: What is known of how much longer the run takes.
            random: A number from 0 to 1 for the jitter.
            retry_after_seconds: What the service asked for; a floor, up to the deadline.

        Returns:
            Seconds; 0 when the deadline has passed.
        """
        elapsed_seconds = max(0.0, elapsed_seconds)
        if forecast is None:
            interval = self.growth * math.sqrt(elapsed_seconds)
        else:
            interval = self._worth_a_request(forecast, elapsed_seconds)
        interval = min(max(self.first_seconds, interval), self.max_seconds)
        interval *= 1 + self.jitter * (2 * random - 1)
        return max(0.0, min(max(interval, retry_after_seconds or 0.0), remaining_seconds))

    def _worth_a_request(self, forecast: Forecast, elapsed_seconds: float) -> float:
        """Return the pause whose expected delay is the price of a request, up to the next early poll."""
        places = _EARLY_POLLS if self.growth <= 1 else (_EARLY_POLLS[0], _EARLY_POLLS[-1])
        early = [self.first_seconds * place for place in places]
        # A poll that jitter made a little too early is not made again.
        to_come = [poll - elapsed_seconds for poll in early if elapsed_seconds < poll * (1 - self.jitter)]
        longest = min([self.max_seconds, *to_come])
        price = self.request_price_seconds
        if forecast.expected_delay(elapsed_seconds, longest) <= price:
            return longest
        low, high = 0.0, longest
        # Bounded, whatever the forecast says: all waits of a process share the loop that this runs in.
        for _ in range(_MAX_HALVINGS):
            if math.isclose(low, high, rel_tol=0.01):
                break
            middle = (low + high) / 2
            if forecast.expected_delay(elapsed_seconds, middle) > price:
                high = middle
            else:
                low = middle
        return low
