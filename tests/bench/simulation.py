"""Simulated runs: how many requests a schedule costs, and how late it notices the end.

Durations come from three distributions; a run's test cases go several at a time through durations of their own, scaled
so that the last one ends with the run. Everything is seeded; the schedule is the one that the tasks use. A wait looks
once at the beginning, as all of them do, the fixed intervals too.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from prefect_qatech import QATechPolling
from prefect_qatech.polling.durations import PastDurations
from prefect_qatech.polling.progress import Progress, best_forecast
from prefect_qatech.report.plan_durations import MAX_DURATIONS
from tests.bench.tables import Bar, print_table

FIXED_SECONDS = (5, 10, 20, 30)
_GROWTHS = (0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 6.0)
_PAST = MAX_DURATIONS
_PRICES = (0.03, 0.06, 0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_STEP = 0.5
_HISTORIES = 40
_SPREAD = 4_000


def log_normal(chance: random.Random) -> float:
    """Around ten minutes, log-sd 0.35."""
    return 600 * math.exp(chance.gauss(0, 0.35))


def bimodal(chance: random.Random) -> float:
    """Four or twenty minutes: a suite that sometimes stops early."""
    return (240 if chance.random() < 0.4 else 1200) * math.exp(chance.gauss(0, 0.12))


def heavy_tail(chance: random.Random) -> float:
    """Pareto from five minutes on, exponent 1.5, up to four hours."""
    return min(300 * (1 - chance.random()) ** (-1 / 1.5), 4 * 3600.0)


DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "log-normal": log_normal,
    "bimodal": bimodal,
    "heavy tail": heavy_tail,
}


def _normal(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


FURTHER: dict[str, Callable[[random.Random], float]] = {
    "shifted gamma": lambda chance: 300 + chance.gammavariate(2, 150),
    "uniform": lambda chance: chance.uniform(200, 1000),
    "three humps": lambda chance: chance.choice([200, 600, 1400]) * math.exp(chance.gauss(0, 0.1)),
    "Weibull 0.8": lambda chance: chance.weibullvariate(600, 0.8),
    "exponential": lambda chance: chance.expovariate(1 / 600),
    "log-normal 1": lambda chance: 600 * math.exp(chance.gauss(0, 1)),
    "15 %": lambda chance: 600 * math.exp(chance.gauss(0, 0.15)),
    "2 %": lambda chance: 600 * math.exp(chance.gauss(0, 0.02)),
}
"""Durations for which nothing is made; only past durations are tried on them."""

MAX_RATIOS: dict[int, dict[str, float]] = {
    5: {},
    10: {},
    50: {"Weibull 0.8": 1.3, "15 %": 0.55, "2 %": 0.35},
}
"""For so many past durations: how many requests at most, against a fixed interval of equal mean delay."""

_MAX_RATIO = {5: 1.3, 10: 1.3, 50: 1.1}
"""The same for all the other distributions."""

_PAST_GROWTHS = (0.12, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_PAST_HISTORIES, _PAST_RUNS = 8, 400

SHARES_OVER: dict[str, tuple[Callable[[float], float], float]] = {
    "log-normal": (lambda t: _normal(math.log(t / 600) / 0.35), 4_000.0),
    "bimodal": (lambda t: 0.4 * _normal(math.log(t / 240) / 0.12) + 0.6 * _normal(math.log(t / 1200) / 0.12), 2_500.0),
    "heavy tail": (lambda t: 1 - (max(t, 300) / 300) ** -1.5, 4 * 3600.0),
}
"""Of each distribution: which share of the runs is over at an age, and at which age all are."""


@dataclass(frozen=True)
class Run:
    """A run: when it ends, when its test cases start and finish (both sorted)."""

    duration: float
    starts: tuple[float, ...]
    ends: tuple[float, ...]

    @classmethod
    def drawn(cls, duration: float, chance: random.Random) -> Run:
        """Let test cases of varying durations go through a number of places."""
        places = [0.0] * chance.choice([2, 4, 8])
        starts, ends = [], []
        for _ in range(chance.choice([6, 10, 20, 40])):
            place = min(range(len(places)), key=places.__getitem__)
            starts.append(places[place])
            places[place] += math.exp(chance.gauss(0, 0.5))
            ends.append(places[place])
        scale = duration / max(ends)
        return cls(duration, tuple(sorted(s * scale for s in starts)), tuple(sorted(e * scale for e in ends)))

    def seen(self, before: Progress | None, elapsed: float) -> Progress:
        """What a look sees."""
        finished = bisect_right(self.ends, elapsed)
        running = bisect_right(self.starts, elapsed) - finished
        return Progress.after(before, elapsed, total=len(self.ends), finished=finished, running=running)


@dataclass(frozen=True)
class Outcome:
    """What a schedule came to."""

    requests: float
    delays: tuple[float, ...]

    @cached_property
    def mean(self) -> float:
        """Mean delay in seconds."""
        return sum(self.delays) / len(self.delays)

    @cached_property
    def p95(self) -> float:
        """The delay that 95 of 100 do not exceed."""
        return sorted(self.delays)[math.ceil(0.95 * len(self.delays)) - 1]


def fixed(runs: Sequence[Run], interval: float) -> Outcome:
    """Look at 0 and then at a fixed interval."""
    counts = [math.ceil(run.duration / interval) for run in runs]
    delays = tuple(count * interval - run.duration for count, run in zip(counts, runs, strict=True))
    return Outcome(1 + sum(counts) / len(counts), delays)


def ours(
    runs: Sequence[Run],
    polling: QATechPolling,
    seed: int,
    *,
    histories: Sequence[PastDurations | None] = (None,),
    sees_progress: bool = False,
) -> Outcome:
    """Wait as the tasks do: history counts from the second look on, progress as soon as it shows something."""
    chance = random.Random(seed)
    if not sees_progress:
        waits = [Looks(polling, past, chance) for past in histories]
        found = [waits[number % len(waits)].noticing(run.duration) for number, run in enumerate(runs)]
        return Outcome(sum(count for count, _ in found) / len(runs), tuple(delay for _, delay in found))
    requests, delays = 0, []
    for number, run in enumerate(runs):
        past = histories[number % len(histories)]
        elapsed, progress = 0.0, None
        while True:
            requests += 1
            if elapsed >= run.duration:
                break
            progress = run.seen(progress, elapsed)
            forecast = best_forecast(progress, past if elapsed >= 0.9 * polling.first_seconds else None)
            elapsed += polling.next_poll_seconds(elapsed, math.inf, forecast=forecast, random=chance.random())
        delays.append(elapsed - run.duration)
    return Outcome(requests / len(runs), tuple(delays))


class Looks:
    """The looks of a wait that sees no progress: the same for all runs with one history, and made as far as needed."""

    def __init__(self, polling: QATechPolling, past: PastDurations | None, chance: random.Random) -> None:
        self._polling, self._past, self._chance = polling, past, chance
        self._looks = [0.0]

    def noticing(self, duration: float) -> tuple[int, float]:
        """How many looks a run costs, and how late its end is noticed."""
        while self._looks[-1] < duration:
            elapsed = self._looks[-1]
            past = self._past if elapsed >= 0.9 * self._polling.first_seconds else None
            random = self._chance.random()
            self._looks.append(
                elapsed + self._polling.next_poll_seconds(elapsed, math.inf, forecast=past, random=random)
            )
        place = bisect_left(self._looks, duration)
        return place + 1, self._looks[place] - duration


def polling_of(growth: float) -> QATechPolling:
    """The default schedule with another price of a request.

    Who looks more often begins earlier, too; who looks less often has a longer interval at most.
    """
    first_seconds = 3.0 if growth >= 0.5 else 1.0 if growth > 0.15 else 0.5
    return QATechPolling(growth=growth, first_seconds=first_seconds, max_seconds=120 * max(1.0, growth))


def oracle(runs: Sequence[Run], name: str, early_looks: Sequence[float]) -> list[Outcome]:
    """What could be reached by who knows the distribution: the best looks for each price of a request.

    Looked at backwards, the cost from a look at t on is least over the next look s: the price, times the share that
    still goes on, the delay of those that end between, and the cost from s on. Only `s * over(t)` depends on both; so
    each s is a line, and the least is on their lower hull (times are on a grid of `_STEP`).

    Args:
        runs: The runs.
        name: Of the distribution.
        early_looks: Looks that are made whatever is known; the rest is best after them.
    """
    share, end = SHARES_OVER[name]
    over = [0.0, *(share(place * _STEP) for place in range(1, round(end / _STEP))), 1.0]
    lost = [0.0]
    for one, other in pairwise(over):
        lost.append(lost[-1] + _STEP * (one + other) / 2)
    return [_follow(runs, _next_looks(over, lost, price), early_looks) for price in _PRICES]


def _next_looks(over: Sequence[float], lost: Sequence[float], price: float) -> list[int]:
    last = len(over) - 1
    hull: list[tuple[int, float]] = [(last, lost[last])]
    best, at_hull = [last] * len(over), 0
    for place in range(last - 1, -1, -1):
        at_hull = min(at_hull, len(hull) - 1)
        steps = over[place] * _STEP
        while at_hull + 1 < len(hull) and (
            hull[at_hull + 1][1] - hull[at_hull + 1][0] * steps <= hull[at_hull][1] - hull[at_hull][0] * steps
        ):
            at_hull += 1
        best[place], base = hull[at_hull]
        cost = price * (1 - over[place]) - lost[place] + (place - best[place]) * steps + base
        line = (place, lost[place] + cost)
        while len(hull) > 1 and _crossing(hull[-1], line) >= _crossing(hull[-2], hull[-1]):
            hull.pop()
        hull.append(line)
    return best


def _crossing(one: tuple[int, float], other: tuple[int, float]) -> float:
    return (one[1] - other[1]) / (one[0] - other[0])


def _follow(runs: Sequence[Run], next_looks: Sequence[int], early_looks: Sequence[float]) -> Outcome:
    looks = [0.0, *early_looks]
    while (place := round(looks[-1] / _STEP)) < len(next_looks) - 1:
        looks.append(next_looks[place] * _STEP)
    # Hardly any run outlasts the grid.
    looks.append(looks[-1] + max(run.duration for run in runs))
    counts = [bisect_left(looks, run.duration) for run in runs]
    delays = tuple(looks[count] - run.duration for count, run in zip(counts, runs, strict=True))
    return Outcome(1 + sum(counts) / len(counts), delays)


def at(
    outcomes: Sequence[Outcome], of: Callable[[Outcome], float], value: float, give: Callable[[Outcome], float]
) -> float:
    """Read off the curve of outcomes: what one figure is where another has a value (straight in logarithms)."""
    ordered = sorted(outcomes, key=of)
    for low, high in pairwise(ordered):
        if of(low) <= value <= of(high):
            share = math.log(value / of(low)) / math.log(of(high) / of(low))
            return math.exp((1 - share) * math.log(give(low)) + share * math.log(give(high)))
    return math.nan


def _requests(outcome: Outcome) -> float:
    return outcome.requests


def _mean(outcome: Outcome) -> float:
    return outcome.mean


def _p95(outcome: Outcome) -> float:
    return outcome.p95


def simulate(seed: int, number: int) -> list[Bar]:
    """Print the tables; return the bars."""
    progress_shares: dict[str, list[float]] = {}
    history_shares: dict[str, list[float]] = {}
    oracle_shares: dict[str, list[float]] = {}
    early_shares: dict[str, list[float]] = {}
    for name, distribution in DISTRIBUTIONS.items():
        chance = random.Random(f"{seed} {name}")
        runs = [Run.drawn(distribution(chance), chance) for _ in range(number)]
        histories = [PastDurations.of([distribution(chance) for _ in range(_PAST)]) for _ in range(_HISTORIES)]
        curves = {
            "nothing": [ours(runs, polling_of(growth), seed) for growth in _GROWTHS],
            "history": [ours(runs, polling_of(growth), seed, histories=histories) for growth in _GROWTHS],
            "progress": [ours(runs, polling_of(growth), seed, sees_progress=True) for growth in _GROWTHS],
            "both": [
                ours(runs, polling_of(growth), seed, histories=histories, sees_progress=True) for growth in _GROWTHS
            ],
            "oracle": oracle(runs, name, []),
            "oracle, early": oracle(runs, name, [3, 10, 30]),
        }
        rows: list[list[object]] = []
        for interval in FIXED_SECONDS:
            other = fixed(runs, interval)
            rows.append([f"fixed {interval} s", other.requests, other.mean, other.p95, "", ""])
            for known, curve in curves.items():
                delay = at(curve, _requests, other.requests, _mean)
                p95 = at(curve, _requests, other.requests, _p95)
                requests = at(curve, _mean, other.mean, _requests)
                rows.append([f"  {known}", other.requests, delay, p95, delay / other.mean, requests / other.requests])
                if known == "progress":
                    progress_shares.setdefault(name, []).append(delay / other.mean)
                if known == "history":
                    history_shares.setdefault(name, []).append(1 - requests / other.requests)
                if known == "oracle":
                    oracle_shares.setdefault(name, []).append(1 - requests / other.requests)
                if known == "oracle, early":
                    early_shares.setdefault(name, []).append(1 - requests / other.requests)
        standard = _GROWTHS.index(1.0)
        for known, curve in list(curves.items())[:4]:
            rows.append(
                [f"default, {known}", curve[standard].requests, curve[standard].mean, curve[standard].p95, "", ""]
            )
        heads = ["schedule", "requests", "mean delay s", "p95 s", "share of delay*", "share of requests**"]
        print_table(f"Durations: {name} ({number} runs)", heads, rows)
    print("  oracle: who knows the distribution; early: and looks at 3, 10 and 30 s, as we do by default")
    print("  * at as many requests as the fixed interval; ** at the same mean delay")
    return [
        Bar(
            "with progress, at equal requests at most half the mean delay of a fixed interval",
            _by_name(progress_shares, "x"),
            all(share <= 0.5 for shares in progress_shares.values() for share in shares),
        ),
        Bar(
            "with history alone, at equal delay at least 30 % fewer requests",
            f"{_by_name(history_shares, '% fewer', 100)}; met in {_met(history_shares)}. "
            f"An oracle that knows the distribution: {_by_name(oracle_shares, '%', 100)}; "
            f"with looks at 3, 10 and 30 s: {_by_name(early_shares, '%', 100)}",
            all(share >= 0.3 for shares in history_shares.values() for share in shares),
        ),
        *_with_history_alone(seed),
        _without_knowledge(seed),
    ]


def _met(shares: dict[str, list[float]]) -> str:
    all_of_them = [share for of_one in shares.values() for share in of_one]
    return f"{sum(share >= 0.3 for share in all_of_them)} of {len(all_of_them)}"


def _by_name(shares: dict[str, list[float]], unit: str, times: float = 1) -> str:
    def figures(values: list[float]) -> str:
        return " / ".join(f"{value * times:.0f}" if times > 1 else f"{value:.2f}" for value in values)

    against = " / ".join(map(str, FIXED_SECONDS))
    return "; ".join(f"{name} {figures(values)}" for name, values in shares.items()) + f" {unit} (fixed {against} s)"


def _with_history_alone(seed: int) -> list[Bar]:
    """Compare past durations, few and many, with fixed intervals, whatever the distribution."""
    heads = ["durations", *(f"fixed {interval} s" for interval in FIXED_SECONDS), "at most"]
    bars = []
    for number, special in MAX_RATIOS.items():
        rows: list[list[object]] = []
        for name, distribution in (DISTRIBUTIONS | FURTHER).items():
            ratios = _ratios(distribution, number, random.Random(f"{seed} {name}"), seed)
            rows.append([name, *ratios, special.get(name, _MAX_RATIO[number])])
        print_table(f"History alone, {number} past durations: requests at equal mean delay", heads, rows)
        missed = [str(row[0]) for row in rows if not max(row[1:-1]) <= row[-1]]  # type: ignore[type-var, operator]
        worst = max(max(row[1:-1]) for row in rows)  # type: ignore[type-var]
        bars.append(
            Bar(
                f"with {number} past durations never more requests than the table says, whatever the distribution",
                f"at worst {worst:.2f} times a fixed interval; missed: {', '.join(missed) or 'none'}",
                not missed,
            )
        )
    return bars


def _ratios(
    distribution: Callable[[random.Random], float], number: int, chance: random.Random, seed: int
) -> list[float]:
    # Each history meets all runs, so that no chance remains but that of the history.
    runs = [Run(distribution(chance), (), ()) for _ in range(_PAST_RUNS)]
    pasts = [PastDurations.of([distribution(chance) for _ in range(number)]) for _ in range(_PAST_HISTORIES)]
    curve = []
    for growth in _PAST_GROWTHS:
        outcomes = [ours(runs, polling_of(growth), seed + place, histories=[past]) for place, past in enumerate(pasts)]
        requests = sum(outcome.requests for outcome in outcomes) / len(outcomes)
        curve.append(Outcome(requests, tuple(delay for outcome in outcomes for delay in outcome.delays)))
    others = [fixed(runs, interval) for interval in FIXED_SECONDS]
    return [at(curve, _mean, other.mean, _requests) / other.requests for other in others]


def _without_knowledge(seed: int) -> Bar:
    """Compare the default schedule with the best fixed interval for each duration, in cost: price x requests + delay.

    A duration is spread by a fifth to each side, so that no interval fits it by chance, and the best fixed interval is
    the one that is best for that duration, as if somebody knew it.
    """
    polling = QATechPolling()
    price = polling.request_price_seconds
    rows: list[list[object]] = []
    worst = 0.0
    for duration in (5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120, 10_240, 20_480, 40_960):
        chance = random.Random(f"{seed} {duration}")
        runs = [Run(duration * chance.uniform(0.8, 1.2), (), ()) for _ in range(_SPREAD)]
        outcome = ours(runs, polling, seed)
        cost = price * outcome.requests + outcome.mean
        best, interval = min(
            (price * other.requests + other.mean, step)
            for step in (0.5 * 1.1**power for power in range(70))
            for other in [fixed(runs, step)]
        )
        worst = max(worst, cost / best)
        rows.append([f"{duration:,}", outcome.requests, outcome.mean, cost, interval, best, cost / best])
    heads = ["duration s", "requests", "mean delay s", "cost", "best fixed s", "its cost", "ratio"]
    print_table("Without any knowledge: the default schedule against the best fixed interval", heads, rows)
    return Bar(
        "without either, never worse than 1.45 times the best fixed interval in cost, at any duration",
        f"at worst {worst:.2f} times, from 5 s to 11 h",
        worst <= 1.45,
    )
