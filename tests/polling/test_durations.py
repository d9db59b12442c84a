"""What past durations foretell: three ways to read them, and which of them counts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_qatech.polling.durations import Bumps, DoublePareto, LogNormal, PastDurations, Way
from prefect_qatech.polling.progress import delay_without_knowledge, doubt_at

FITS: list[Any] = [Bumps, LogNormal, DoublePareto]
DURATIONS = st.lists(st.floats(0.1, 1e5), min_size=3, max_size=20)
SECONDS = st.floats(0.01, 1e6)


def read(seconds: list[float]) -> PastDurations:
    past = PastDurations.of(seconds)
    assert past is not None
    return past


def weight_of(way: type, past: PastDurations) -> float:
    return sum(weight for weight, one in past.ways if isinstance(one, way))


def drawn(sample: Callable[[random.Random], float], number: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [sample(chance) for _ in range(number)]


def log_normal(chance: random.Random) -> float:
    return 600 * math.exp(chance.gauss(0, 0.35))


def two_kinds(chance: random.Random) -> float:
    return (240 if chance.random() < 0.4 else 1200) * math.exp(chance.gauss(0, 0.12))


def pareto(chance: random.Random) -> float:
    return 300 * chance.paretovariate(1.5)


# --- Each way is the distribution that it says it is


def of_bumps(bumps: Bumps) -> Callable[[random.Random], float]:
    def sample(chance: random.Random) -> float:
        place = chance.randrange(len(bumps.logs))
        return math.exp(chance.gauss(bumps.logs[place], bumps.widths[place]))

    return sample


def of_double_pareto(way: DoublePareto) -> Callable[[random.Random], float]:
    def sample(chance: random.Random) -> float:
        if chance.random() < way.above / (way.above + way.below):
            return way.edge_seconds * math.exp(-chance.expovariate(way.below))
        return way.edge_seconds * math.exp(chance.expovariate(way.above))

    return sample


_BUMPS = Bumps(logs=(math.log(300), math.log(330), math.log(900)), widths=(0.1, 0.2, 0.4))
_LOG_NORMAL = LogNormal(middle=math.log(600), spread=0.35)
_DOUBLE_PARETO = DoublePareto(edge_seconds=300, above=1.5, below=12)
_UNIT_EXPONENT = DoublePareto(edge_seconds=300, above=1, below=3)


@pytest.mark.parametrize("seconds", [200, 290, 310, 500, 900, 3000])
@pytest.mark.parametrize(
    ("way", "sample"),
    [
        (_BUMPS, of_bumps(_BUMPS)),
        (_LOG_NORMAL, lambda chance: math.exp(chance.gauss(_LOG_NORMAL.middle, _LOG_NORMAL.spread))),
        (_DOUBLE_PARETO, of_double_pareto(_DOUBLE_PARETO)),
        (_UNIT_EXPONENT, of_double_pareto(_UNIT_EXPONENT)),
    ],
    ids=["bumps", "log-normal", "double Pareto", "double Pareto, exponent 1"],
)
def test_a_way_is_the_distribution_it_says(way: Way, sample: Callable[[random.Random], float], seconds: float) -> None:
    durations = drawn(sample, 40_000)
    over, gone = way.over(seconds)
    assert gone == pytest.approx(sum(one < seconds for one in durations) / len(durations), abs=0.01)
    assert over == pytest.approx(sum(max(0, seconds - one) for one in durations) / len(durations), rel=0.03, abs=0.3)


@given(st.sampled_from(FITS), DURATIONS, SECONDS, SECONDS)
def test_a_fitted_way_is_a_distribution(fit: Any, durations: list[float], one: float, other: float) -> None:
    credit, way = fit.fitted([math.log(value) for value in durations])
    assert math.isfinite(credit)
    sooner, later = sorted((one, other))
    (over, gone), (over_later, gone_later) = way.over(sooner), way.over(later)
    tolerance = 1e-6 * (1 + later)
    assert -tolerance <= over <= sooner + tolerance
    assert -1e-9 <= gone <= gone_later + 1e-9 <= 1 + 2e-9
    assert (later - sooner) * gone - tolerance <= over_later - over <= (later - sooner) * gone_later + tolerance


@pytest.mark.parametrize("above", [0.5, 1.5, 4])
@pytest.mark.parametrize("below", [3, 12])
def test_a_double_pareto_is_found_again(above: float, below: float) -> None:
    real = DoublePareto(edge_seconds=300, above=above, below=below)
    _, found = DoublePareto.fitted([math.log(one) for one in drawn(of_double_pareto(real), 2_000)])
    assert found.above == pytest.approx(above, rel=0.1)
    for seconds in (150, 250, 300, 350, 500, 1_000, 5_000):
        assert found.over(seconds)[1] == pytest.approx(real.over(seconds)[1], abs=0.03)


def test_a_log_normal_is_found_again() -> None:
    _, found = LogNormal.fitted([math.log(one) for one in drawn(log_normal, 2_000)])
    assert (found.middle, found.spread) == pytest.approx((math.log(600), 0.35), rel=0.05)


def test_a_duration_that_has_none_near_stands_for_more() -> None:
    _, bumps = Bumps.fitted([math.log(one) for one in (300, 305, 310, 315, 320, 325, 330, 2000)])
    assert bumps.widths[-1] > 1.5 * bumps.widths[3]
    assert max(bumps.widths) <= 6 * min(bumps.widths)


# --- Which of them counts


@pytest.mark.parametrize(
    ("sample", "way"),
    [(log_normal, LogNormal), (two_kinds, Bumps), (pareto, DoublePareto)],
    ids=lambda one: one.__name__,
)
def test_the_way_that_fits_counts_most(sample: Callable[[random.Random], float], way: type) -> None:
    weights = [weight_of(way, read(drawn(sample, 50, seed))) for seed in range(12)]
    assert sum(weights) / len(weights) > 0.5
    assert all(sum(weight for weight, _ in read(drawn(sample, 50, seed)).ways) == pytest.approx(1) for seed in range(3))


def test_durations_of_two_kinds_stay_two_kinds() -> None:
    past = read([200, 205, 210, 198, 202, 1000, 1010, 990, 1005, 995])
    assert weight_of(Bumps, past) > 0.99
    between, near = past.expected_delay(500, 30), past.expected_delay(190, 30)
    assert between < near / 10


def test_a_few_equal_durations_are_no_promise_that_all_are() -> None:
    few, many = read([600, 600, 600]), read([600] * 30)
    assert few.over(550)[1] > 3 * many.over(550)[1]
    assert few.over(650)[1] < many.over(650)[1]


@settings(max_examples=30)
@given(DURATIONS, st.floats(0.1, 10))
def test_the_unit_of_time_does_not_matter(durations: list[float], factor: float) -> None:
    one, other = read(durations), read([factor * value for value in durations])
    for seconds in (0.5 * min(durations), sorted(durations)[len(durations) // 2], 2 * max(durations)):
        assert other.over(factor * seconds)[1] == pytest.approx(one.over(seconds)[1], abs=0.02)


@pytest.mark.parametrize("pause", [20, 100, 400])
def test_the_expected_delay_is_that_of_the_runs_that_go_on(pause: float) -> None:
    past = PastDurations(((1.0, _BUMPS),))
    sample = of_bumps(_BUMPS)
    delays = [max(0.0, 250 + pause - one) for one in drawn(sample, 40_000) if one > 250]
    doubt, (_, gone) = doubt_at(250), past.over(250)
    believed = (1 - doubt) * (1 - gone)
    mixed = believed * sum(delays) / len(delays) + doubt * delay_without_knowledge(250, pause)
    assert past.expected_delay(250, pause) == pytest.approx(mixed / (believed + doubt), rel=0.05, abs=0.05)


# --- What is no past


@pytest.mark.parametrize("seconds", [[], [600], [600, 650], [600, 650, 0], [600, math.inf, math.nan, -1, 700]], ids=str)
def test_two_durations_foretell_nothing(seconds: list[float]) -> None:
    assert PastDurations.of(seconds) is None


@pytest.mark.parametrize("seconds", [[600, 600, 600], [1e-3, 1, 1e6], [0.5] * 20], ids=str)
def test_three_do_whatever_they_are(seconds: list[float]) -> None:
    assert 0 <= read(seconds).expected_delay(100, 30) <= 30
