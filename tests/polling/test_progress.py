"""What is foretold of how much longer a run takes, and that a wrong forecast does little harm."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from prefect_qatech.polling.durations import PastDurations
from prefect_qatech.polling.progress import (
    Forecast,
    Progress,
    best_forecast,
    delay_without_knowledge,
    doubt_at,
)
from prefect_qatech.polling.schedule import QATechPolling

ELAPSED = st.floats(0, 1e5)
PAUSES = st.floats(0, 3600)
DURATIONS = st.lists(st.floats(0.1, 1e5), min_size=3, max_size=20)


@st.composite
def progresses(draw: st.DrawFn) -> Progress:
    total = draw(st.integers(1, 200))
    finished = draw(st.integers(0, total))
    seen = draw(st.floats(0, 1e4))
    return Progress(
        total=total,
        finished=finished,
        running=draw(st.integers(0, total - finished)),
        seen_seconds=seen,
        found_finished=draw(st.integers(0, finished)),
        changed_seconds=draw(st.floats(0, seen)),
        test_seconds=draw(st.floats(0, 1e6)),
    )


FORECASTS = st.one_of(progresses(), DURATIONS.map(PastDurations.of))


@given(FORECASTS, ELAPSED, PAUSES, PAUSES)
def test_the_expected_delay_is_within_the_pause_and_grows_with_it(
    forecast: Forecast, elapsed: float, one: float, other: float
) -> None:
    shorter, longer = sorted((one, other))
    less, more = forecast.expected_delay(elapsed, shorter), forecast.expected_delay(elapsed, longer)
    tolerance = 1e-6 * (1 + elapsed + longer)
    assert -tolerance <= less <= shorter + tolerance
    assert less <= more + tolerance
    assert more - less <= longer - shorter + tolerance, "a second more of pause is at most a second more of delay"


@given(ELAPSED, PAUSES)
def test_nothing_is_known(elapsed: float, pause: float) -> None:
    assert 0 <= delay_without_knowledge(elapsed, pause) <= pause


def sampled(sample: Callable[[random.Random], float], pause: float, times: int = 40_000) -> float:
    """The expected delay, from chance alone."""
    chance = random.Random(1)
    return sum(max(0.0, pause - sample(chance)) for _ in range(times)) / times


@pytest.mark.parametrize("pause", [20, 100, 400])
def test_progress_is_an_erlang_distribution(pause: float) -> None:
    progress = Progress(total=10, finished=7, running=2, seen_seconds=300, changed_seconds=290, test_seconds=600)
    mean, shape = progress.remaining_seconds()
    expected = sampled(lambda chance: chance.gammavariate(shape, mean / shape), pause)
    doubt = doubt_at(300)
    mixed = (1 - doubt) * expected + doubt * delay_without_knowledge(300, pause)
    assert progress.expected_delay(300, pause) == pytest.approx(mixed, rel=0.05, abs=0.05)


# --- What progress tells


def watched(looks: list[tuple[float, int, int]], total: int) -> Progress:
    """Progress after looks at (seconds, finished, running)."""
    progress = None
    for seconds, finished, running in looks:
        progress = Progress.after(progress, seconds, total=total, finished=finished, running=running)
    assert progress is not None
    return progress


def test_the_pace_tells_how_much_is_left() -> None:
    # Four side by side, a minute each: 12 of 40 after three minutes leave about seven minutes.
    progress = watched([(0, 0, 4), (60, 4, 4), (120, 8, 4), (180, 12, 4)], 40)
    mean, shape = progress.remaining_seconds()
    assert 330 <= mean <= 480
    assert shape > 3


def test_the_fewer_are_left_the_sooner_is_looked() -> None:
    polling, pauses = QATechPolling(), []
    for finished in range(4, 40):
        progress = watched([(0, 0, 4), (10.0 * finished, finished, min(4, 40 - finished))], 40)
        pauses.append(polling.next_poll_seconds(10.0 * finished, math.inf, forecast=progress))
    assert pauses[0] > 25
    assert pauses[-1] < 6
    assert all(later <= sooner * 1.25 for sooner, later in pairwise(pauses))


def test_a_test_that_hangs_is_looked_at_more_and_more_rarely() -> None:
    polling, pauses = QATechPolling(), []
    progress = watched([(0, 0, 4), (300, 39, 1)], 40)
    for seconds in range(330, 3000, 30):
        progress = Progress.after(progress, seconds, total=40, finished=39, running=1)
        pauses.append(polling.next_poll_seconds(seconds, math.inf, forecast=progress))
    assert pauses == sorted(pauses)
    assert pauses[-1] > 3 * pauses[0]


def test_what_finished_before_the_wait_shows_no_pace() -> None:
    taken_up = watched([(0, 30, 4), (60, 32, 4)], 40)
    assert taken_up.ended == 2
    assert taken_up.remaining_seconds()[0] > 60


def test_fewer_test_cases_than_before_are_no_error() -> None:
    strange = watched([(0, 5, 1), (60, 2, 1), (120, 0, 0), (180, 3, 0)], 4)
    assert 0 <= strange.expected_delay(180, 30) <= 30


def test_a_service_that_tells_no_running_tests() -> None:
    progress = watched([(0, 0, 0), (100, 10, 0)], 20)
    assert 60 <= progress.remaining_seconds()[0] <= 140


def test_all_finished_and_still_no_end() -> None:
    progress = watched([(0, 0, 4), (100, 20, 0), (105, 20, 0)], 20)
    assert QATechPolling().next_poll_seconds(105, math.inf, forecast=progress) == 3


def test_what_to_go_by() -> None:
    past = PastDurations.of([600, 620, 640])
    nothing_yet = watched([(0, 0, 2), (60, 0, 2)], 2)
    few, enough = watched([(0, 0, 4), (60, 1, 4)], 9), watched([(0, 0, 4), (60, 3, 4)], 9)
    assert best_forecast(enough, past) is enough
    assert best_forecast(few, past) is past
    assert best_forecast(few, None) is few
    assert best_forecast(nothing_yet, None) is None
    assert best_forecast(None, past) is past
    assert best_forecast(None, None) is None


# --- Wrong forecasts


def noticed(duration: float, polling: QATechPolling, forecast: Forecast | None) -> tuple[int, float]:
    """How many looks a run costs, and how late its end is noticed."""
    elapsed, looks = 0.0, 1
    while elapsed < duration:
        elapsed += polling.next_poll_seconds(elapsed, math.inf, forecast=forecast)
        looks += 1
    return looks, elapsed - duration


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(60, 3000), min_size=3, max_size=20), st.floats(0.1, 5))
def test_a_history_that_is_wrong_does_little_harm(past: list[float], factor: float) -> None:
    polling = QATechPolling(jitter=0)
    duration = factor * sorted(past)[len(past) // 2]
    looks, late = noticed(duration, polling, PastDurations.of(past))
    without, _ = noticed(duration, polling, None)
    assert late <= polling.max_seconds
    assert late <= max(polling.first_seconds, 1.01 * polling.growth * math.sqrt(duration / doubt_at(duration)))
    assert looks <= 2.5 * without + 10


@pytest.mark.parametrize("factor", [0.3, 3])
def test_a_suite_three_times_slower_or_faster_is_noticed_like_any_other(factor: float) -> None:
    polling = QATechPolling(jitter=0)
    past = PastDurations.of([560, 580, 600, 610, 650])
    _, late = noticed(600 * factor, polling, past)
    assert late <= polling.max_seconds
    if factor > 1:
        pause = polling.next_poll_seconds(600 * factor, math.inf, forecast=past)
        assert 0.6 < pause / polling.next_poll_seconds(600 * factor, math.inf) < 1.1


@given(FORECASTS, ELAPSED)
def test_pauses_with_a_forecast_keep_their_bounds(forecast: Forecast, elapsed: float) -> None:
    polling = QATechPolling(jitter=0)
    assert 3 <= polling.next_poll_seconds(elapsed, math.inf, forecast=forecast) <= 120


@given(FORECASTS, st.floats(3, 7200), st.randoms(use_true_random=False))
def test_one_look_is_exactly_at_the_deadline(forecast: Forecast, deadline: float, chance: random.Random) -> None:
    polling, remaining = QATechPolling(), deadline
    while remaining > 0:
        pause = polling.next_poll_seconds(deadline - remaining, remaining, forecast=forecast, random=chance.random())
        assert 0 < pause <= remaining
        remaining -= pause
    assert remaining == 0


@given(FORECASTS, ELAPSED, st.floats(0, 3600))
def test_retry_after_is_a_floor(forecast: Forecast, elapsed: float, retry_after: float) -> None:
    polling = QATechPolling(jitter=0)
    without = polling.next_poll_seconds(elapsed, math.inf, forecast=forecast)
    pause = polling.next_poll_seconds(elapsed, math.inf, forecast=forecast, retry_after_seconds=retry_after)
    assert pause == max(without, retry_after)


def test_early_looks_are_made_whatever_is_foretold() -> None:
    polling, elapsed, looks = QATechPolling(jitter=0), 0.0, []
    past = PastDurations.of([3000] * 30)
    while elapsed < 60:
        elapsed += polling.next_poll_seconds(elapsed, math.inf, forecast=past)
        looks.append(elapsed)
    assert looks[:3] == pytest.approx([3, 10, 30])
    assert looks[3] > 100


def test_a_dear_request_is_made_less_often_at_the_beginning() -> None:
    polling, elapsed, looks = QATechPolling(growth=2, jitter=0), 0.0, []
    past = PastDurations.of([3000, 3100, 3200])
    while elapsed < 30:
        elapsed += polling.next_poll_seconds(elapsed, math.inf, forecast=past)
        looks.append(elapsed)
    assert looks == pytest.approx([3, 30])


@given(st.floats(0, 1), st.sampled_from([0.5, 1.0, 2.0]))
def test_an_early_look_that_jitter_made_too_early_is_not_made_again(random: float, growth: float) -> None:
    polling, elapsed, looks = QATechPolling(growth=growth), 0.0, 0
    past = PastDurations.of([3000, 3100, 3200])
    while elapsed < 33:
        elapsed += polling.next_poll_seconds(elapsed, math.inf, forecast=past, random=random)
        looks += 1
    assert looks <= (2 if growth > 1 else 3) + 1


def test_a_request_that_is_worth_more_is_made_more_rarely() -> None:
    past = PastDurations.of([560, 580, 600, 610, 650])
    pauses = [QATechPolling(growth=growth).next_poll_seconds(500, math.inf, forecast=past) for growth in (0.5, 1, 2)]
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[-1]
