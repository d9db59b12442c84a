"""Pure: what the durations of past runs foretell of one more.

Nobody knows how durations vary, so three ways to read them compete, and each counts by how well it foretells the
durations at hand. A few of them say little, so the three share; fifty mostly settle it.

- `Bumps`: each duration stands for durations like it, whatever they all look like together. So those of two kinds (a
  full suite, a suite that stops at its first failure) stay two kinds.
- `LogNormal`: one kind of run, slower or faster by many small influences.
- `DoublePareto`: a usual duration that hardly any run stays below, and a long tail above, in which a run that has
  lasted long has as much again before it. (Reed, "The Pareto, Zipf and other power laws", Economics Letters 74, 2001.)

The past may be wrong about this run. How much it is doubted, and what bounds the harm, stands in
`prefect_qatech.polling.progress`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from prefect_qatech.polling.progress import delay_without_knowledge, doubt_at

FEWEST_DURATIONS = 3
"""Two durations do not tell how much durations vary."""

_LEAST_WEIGHT = 0.01
_FITS_KEPT = 256
_FAR = 5.0

_WIDTHS = (0.06, 0.1, 0.16, 0.25, 0.4)
_NARROWEST, _WIDEST = 0.5, 3.0

_USUAL_SPREAD, _USUAL_COUNT = 0.25, 2
"""A few equal durations do not promise that all are: as if so many more had varied by so much (log scale)."""

_EDGE = 0.1
"""For the same reason no edge is sharper than with one more duration so far from it, on each side (log scale)."""


class Way(Protocol):
    """One way to read past durations: a distribution of a run's duration."""

    def over(self, seconds: float) -> tuple[float, float]:
        """Say for how long, on average, a run is over at an age, and how probably it is over at all."""


@dataclass(frozen=True)
class PastDurations:
    """How long such runs took before.

    Attributes:
        ways: How that is read; each with its weight, and the weights are 1 together.
    """

    ways: tuple[tuple[float, Way], ...]

    @classmethod
    def of(cls, seconds: Iterable[float]) -> PastDurations | None:
        """Make a forecast of past durations.

        Args:
            seconds: The durations; what is no duration is left out.

        Returns:
            The forecast; None when there are fewer than `FEWEST_DURATIONS`.
        """
        logs = tuple(math.log(value) for value in seconds if 0 < value < math.inf)
        return cls(_read(logs)) if len(logs) >= FEWEST_DURATIONS else None

    def expected_delay(self, elapsed_seconds: float, pause_seconds: float) -> float:
        """Say for how many seconds of a pause, on average, the run will have been over."""
        over, gone = self.over(elapsed_seconds)
        over_later, _ = self.over(elapsed_seconds + pause_seconds)
        doubt = doubt_at(elapsed_seconds)
        like_before = (1 - doubt) * max(0.0, over_later - over - pause_seconds * gone)
        unlike = doubt * delay_without_knowledge(elapsed_seconds, pause_seconds)
        return (like_before + unlike) / ((1 - doubt) * (1 - gone) + doubt)

    def over(self, seconds: float) -> tuple[float, float]:
        """Say for how long, on average, a run is over at an age, and how probably it is over at all."""
        if seconds <= 0:
            return 0.0, 0.0
        over = gone = 0.0
        for weight, way in self.ways:
            for_how_long, how_probably = way.over(seconds)
            over += weight * for_how_long
            gone += weight * how_probably
        return over, gone


@lru_cache(maxsize=_FITS_KEPT)
def _read(logs: tuple[float, ...]) -> tuple[tuple[float, Way], ...]:
    """Fit each way and weigh them (Akaike weights); kept, as many waits have the same past."""
    fits: list[Callable[[Sequence[float]], tuple[float, Way]]] = [Bumps.fitted, LogNormal.fitted, DoublePareto.fitted]
    fitted = [fit(logs) for fit in fits]
    best = max(credit for credit, _ in fitted)
    weights = [math.exp(credit - best) for credit, _ in fitted]
    ways = [
        (weight, way)
        for weight, (_, way) in zip(weights, fitted, strict=True)
        if weight >= _LEAST_WEIGHT * sum(weights)
    ]
    total = sum(weight for weight, _ in ways)
    return tuple((weight / total, way) for weight, way in ways)


@dataclass(frozen=True)
class Bumps:
    """Each past duration stands for durations like it: a log-normal bump around it.

    The bumps are as wide as lets each duration be best foretold by the others, and where few others are near, wider
    (with the root of their density): the gaps between a few long ones are no promise that nothing ends there.

    Attributes:
        logs: Logarithms of the durations in seconds.
        widths: Of each: standard deviation, on that scale, of the durations that it stands for.
    """

    logs: tuple[float, ...]
    widths: tuple[float, ...]

    @classmethod
    def fitted(cls, logs: Sequence[float]) -> tuple[float, Bumps]:
        """Give it with its credit: the log-likelihood of each duration by the others, less one for the width."""
        likelihoods = {width: _foretold(logs, width) for width in _WIDTHS}
        width = max(likelihoods, key=likelihoods.__getitem__)
        near = [_near(one, logs, width) for one in logs]
        usual = math.exp(sum(map(math.log, near)) / len(near))
        widths = tuple(width * min(max(_NARROWEST, math.sqrt(usual / one)), _WIDEST) for one in near)
        return likelihoods[width] - 1, cls(tuple(logs), widths)

    def over(self, seconds: float) -> tuple[float, float]:
        """Say for how long, on average, a run is over at an age, and how probably it is over at all."""
        log = math.log(seconds)
        over = gone = 0.0
        for middle, width in zip(self.logs, self.widths, strict=True):
            if (log - middle) / width > -_FAR:
                for_how_long, how_probably = _log_normal_over(seconds, middle, width)
                over += for_how_long
                gone += how_probably
        return over / len(self.logs), gone / len(self.logs)


@dataclass(frozen=True)
class LogNormal:
    """All durations together are log-normal.

    Attributes:
        middle: Mean of their logarithms.
        spread: Standard deviation of these.
    """

    middle: float
    spread: float

    @classmethod
    def fitted(cls, logs: Sequence[float]) -> tuple[float, LogNormal]:
        """Give it with its credit: the log-likelihood, less one for each parameter."""
        number = len(logs)
        middle = sum(logs) / number
        squares = sum((one - middle) ** 2 for one in logs)
        variance = (squares + _USUAL_COUNT * _USUAL_SPREAD**2) / (number - 1 + _USUAL_COUNT)
        likelihood = -squares / variance / 2 - number * math.log(2 * math.pi * variance) / 2
        # That of one more duration, whose mean is not known exactly.
        return likelihood - 2, cls(middle, math.sqrt(variance * (1 + 1 / number)))

    def over(self, seconds: float) -> tuple[float, float]:
        """Say for how long, on average, a run is over at an age, and how probably it is over at all."""
        return _log_normal_over(seconds, self.middle, self.spread)


@dataclass(frozen=True)
class DoublePareto:
    """Powers of the time on both sides of an edge, which is one of the durations.

    Attributes:
        edge_seconds: The duration at which they meet.
        above: Exponent above: the smaller, the longer the tail.
        below: Exponent below: the larger, the fewer runs are shorter.
    """

    edge_seconds: float
    above: float
    below: float

    @classmethod
    def fitted(cls, logs: Sequence[float]) -> tuple[float, DoublePareto]:
        """Give it with its credit: the log-likelihood, less one for each parameter."""
        likelihood, way = max((cls._with_edge(edge, logs) for edge in set(logs)), key=lambda found: found[0])
        return likelihood - 3, way

    @classmethod
    def _with_edge(cls, edge: float, logs: Sequence[float]) -> tuple[float, DoublePareto]:
        """Give the exponents that are likeliest with an edge, and how likely the durations are then."""
        right = _EDGE + sum(one - edge for one in logs if one > edge)
        left = _EDGE + sum(edge - one for one in logs if one < edge)
        both = math.sqrt(right * left)
        above, below = len(logs) / (right + both), len(logs) / (left + both)
        likelihood = len(logs) * math.log(above * below / (above + below)) - above * right - below * left
        return likelihood, cls(math.exp(edge), above, below)

    def over(self, seconds: float) -> tuple[float, float]:
        """Say for how long, on average, a run is over at an age, and how probably it is over at all."""
        edge, above, below = self.edge_seconds, self.above, self.below
        log = math.log(seconds) - math.log(edge)  # their quotient could be 0
        if log <= 0:
            gone = above / (above + below) * math.exp(below * log)
            return seconds * gone / (below + 1), gone
        longer = below / (above + below)
        until_edge = edge * above / (above + below) / (below + 1)
        # The integral of (edge / t) ** above from the edge on.
        go_on = edge * (log if above == 1 else math.expm1((1 - above) * log) / (1 - above))
        return until_edge + seconds - edge - longer * go_on, 1 - longer * math.exp(-above * log)


def _log_normal_over(seconds: float, middle: float, width: float) -> tuple[float, float]:
    z = (math.log(seconds) - middle) / width
    mean = math.exp(middle + width * width / 2)
    if z > _FAR + width:
        return seconds - mean, 1.0
    share = _normal(z)
    return seconds * share - mean * _normal(z - width), share


def _foretold(logs: Sequence[float], width: float) -> float:
    """Give the log-likelihood of each duration by bumps around the others."""
    scale = (len(logs) - 1) * width * math.sqrt(2 * math.pi)
    likelihood = 0.0
    for place, one in enumerate(logs):
        near = _near(one, [*logs[:place], *logs[place + 1 :]], width)
        likelihood += math.log(near / scale + 1e-9)
    return likelihood


def _near(one: float, logs: Iterable[float], width: float) -> float:
    return sum(math.exp(-(((one - other) / width) ** 2) / 2) for other in logs)


def _normal(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2
