"""Pure: how much longer a run will take, by the durations of past runs.

A run ends like one of the past runs that lasted at least as long. Each of them stands for the durations between its
neighbours, so runs of two kinds stay two kinds, and nearly equal runs stay sharp.

A few durations promise little. So there are always `DOUBTED_RUNS` more that end at any moment alike, at the pace of all
of them: with them alone a run is polled at a fixed interval. That bounds the harm where the past is short, or runs have
no usual duration. A run that outlasts its past is expected to last as long again. What is left of doubt stands in
`prefect_qatech.polling.progress`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefect_qatech.polling.progress import delay_without_knowledge, doubt_at

MIN_DURATIONS = 3
"""Two durations do not tell how much durations vary."""

DOUBTED_RUNS = 3
"""So many runs, beside those of the past, may end at any moment. More is safer, fewer saves more requests."""

_NARROWEST, _WIDEST = 0.06, 0.5
"""Limits of how far a past duration reaches to each side (log scale)."""


@dataclass(frozen=True)
class PastDurations:
    """How long such runs took before: their mean, and for each the span of durations, all alike, that it stands for."""

    mean_seconds: float
    spans: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, seconds: Iterable[float]) -> PastDurations | None:
        """Return the forecast of past durations; None where fewer than `MIN_DURATIONS` of them are any."""
        durations = [value for value in seconds if 0 < value < math.inf]
        if len(durations) < MIN_DURATIONS:
            return None
        logs = [math.log(value) for value in durations]
        return cls(sum(durations) / len(durations), tuple(_span(log, logs) for log in logs))

    def expected_delay(self, elapsed_seconds: float, pause_seconds: float) -> float:
        """Return for how many seconds of a pause, on average, the run will have been over."""
        end = elapsed_seconds + pause_seconds
        mean = max(self.mean_seconds, elapsed_seconds)
        runs, delay = float(DOUBTED_RUNS), DOUBTED_RUNS * (pause_seconds + mean * math.expm1(-pause_seconds / mean))
        for shortest, longest in self.spans:
            if longest > elapsed_seconds:
                begin = max(shortest, elapsed_seconds)
                runs += (longest - begin) / (longest - shortest)
                if end > begin:
                    last = min(end, longest)
                    delay += (last - begin) / (longest - shortest) * (end - (begin + last) / 2)
        doubt = doubt_at(elapsed_seconds)
        return (1 - doubt) * delay / runs + doubt * delay_without_knowledge(elapsed_seconds, pause_seconds)


def _span(log: float, logs: Sequence[float]) -> tuple[float, float]:
    """Return the durations that one duration stands for: up to its nearest neighbours."""
    distances = sorted(abs(log - other) for other in logs)  # the first is its own, 0
    reach = min(max(_NARROWEST, distances[round(math.sqrt(2 * len(logs)))]), _WIDEST)
    return math.exp(log - reach), math.exp(log + reach)
