"""What past durations foretell, and that a few of them promise little."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from prefect_qatech.polling.durations import DOUBTED_RUNS, PastDurations
from prefect_qatech.polling.progress import delay_without_knowledge, doubt_at

DURATIONS = st.lists(st.floats(0.1, 1e5), min_size=3, max_size=20)


def read(seconds: list[float]) -> PastDurations:
    past = PastDurations.of(seconds)
    assert past is not None
    return past


def drawn(sample: Callable[[random.Random], float], number: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [sample(chance) for _ in range(number)]


@pytest.mark.parametrize("elapsed", [0, 250, 320, 2000])
@pytest.mark.parametrize("pause", [20, 100, 400])
def test_the_expected_delay_is_that_of_the_runs_that_go_on(elapsed: float, pause: float) -> None:
    past = PastDurations(500, ((250, 350), (300, 400), (800, 1100)))
    chance = random.Random(1)
    ends = [chance.uniform(*past.spans[chance.randrange(3)]) for _ in range(40_000)]
    delays = [max(0.0, elapsed + pause - end) for end in ends if end > elapsed]
    like_before = 3 * len(delays) / len(ends)
    usual = max(500, elapsed)
    at_any_moment = sum(max(0.0, pause - chance.expovariate(1 / usual)) for _ in range(40_000)) / 40_000
    mean = sum(delays) / len(delays) if delays else 0.0
    believed = (like_before * mean + DOUBTED_RUNS * at_any_moment) / (like_before + DOUBTED_RUNS)
    doubt = doubt_at(elapsed)
    mixed = (1 - doubt) * believed + doubt * delay_without_knowledge(elapsed, pause)
    assert past.expected_delay(elapsed, pause) == pytest.approx(mixed, rel=0.05, abs=0.05)


def test_durations_of_two_kinds_stay_two_kinds() -> None:
    past = read([200, 205, 210, 198, 202] * 5 + [1000, 1010, 990, 1005, 995] * 5)
    assert past.expected_delay(500, 30) < past.expected_delay(190, 30) / 10


def test_a_few_equal_durations_are_no_promise_that_all_are() -> None:
    few, many = read([600, 600, 600]), read([600] * 30)
    assert few.expected_delay(300, 60) > 3 * many.expected_delay(300, 60)
    assert few.expected_delay(580, 60) < many.expected_delay(580, 60)


def test_a_duration_that_has_none_near_stands_for_more() -> None:
    reaches = [math.log(longest / shortest) for shortest, longest in read([*range(300, 340, 4), 2000]).spans]
    assert reaches[-1] > 3 * max(reaches[:-1])


def test_a_run_that_outlasts_its_past_is_expected_to_last_as_long_again() -> None:
    past = read([600, 620, 640])
    assert past.expected_delay(10_000, 100) == pytest.approx(100**2 / 2 / 10_000, rel=0.01)


@pytest.mark.parametrize("number", [3, 5, 10, 50])
@pytest.mark.parametrize("elapsed", [30, 300, 900])
def test_where_runs_end_at_any_moment_the_pace_hardly_changes(number: int, elapsed: float) -> None:
    """A run is nearly polled at a fixed interval, which is best there; so the harm of a past is bounded."""
    best = 60 + 600 * math.expm1(-60 / 600)
    delays = [
        read(drawn(lambda chance: chance.expovariate(1 / 600), number, seed)).expected_delay(elapsed, 60)
        for seed in range(40)
    ]
    assert 0.7 * best < sum(delays) / len(delays) < 1.4 * best


@settings(max_examples=30)
@given(DURATIONS, st.floats(0.1, 10))
def test_the_unit_of_time_does_not_matter(durations: list[float], factor: float) -> None:
    one, other = read(durations), read([factor * value for value in durations])
    assert other.mean_seconds == pytest.approx(factor * one.mean_seconds)
    for span, scaled in zip(one.spans, other.spans, strict=True):
        assert scaled == pytest.approx([factor * edge for edge in span])


@pytest.mark.parametrize("seconds", [[], [600], [600, 650], [600, 650, 0], [600, math.inf, math.nan, -1, 700]], ids=str)
def test_two_durations_foretell_nothing(seconds: list[float]) -> None:
    assert PastDurations.of(seconds) is None


@pytest.mark.parametrize("seconds", [[600, 600, 600], [1e-3, 1, 1e6], [0.5] * 20], ids=str)
def test_three_do_whatever_they_are(seconds: list[float]) -> None:
    assert 0 <= read(seconds).expected_delay(100, 30) <= 30
