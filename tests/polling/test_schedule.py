"""When a run is polled next."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from prefect_qatech import InvalidInputError
from prefect_qatech.polling.schedule import QATechPolling

SHARES = st.floats(0, 1)
SECONDS = st.floats(0, 1e6)


@st.composite
def pollings(draw: st.DrawFn) -> QATechPolling:
    first = draw(st.floats(0.01, 600))
    return QATechPolling(
        first_seconds=first,
        max_seconds=draw(st.floats(first, 3600)),
        growth=draw(st.floats(0.01, 100)),
        jitter=draw(st.floats(0, 0.99)),
    )


def close_to(low: float, value: float, high: float) -> bool:
    """Whether a value is between two others, but for rounding."""
    return low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


@pytest.mark.parametrize("elapsed", [0, -5, 0.0001])
def test_a_wait_that_has_just_begun_polls_as_soon_as_it_may(elapsed: float) -> None:
    assert QATechPolling(first_seconds=0.05, jitter=0).next_poll_seconds(elapsed, 60) == 0.05


@given(pollings(), SECONDS, SECONDS, SHARES)
def test_the_pause_is_within_its_bounds(
    polling: QATechPolling, elapsed: float, remaining: float, random: float
) -> None:
    pause = polling.next_poll_seconds(elapsed, remaining, random=random)
    shortest = min(polling.first_seconds * (1 - polling.jitter), remaining)
    longest = min(polling.max_seconds * (1 + polling.jitter), remaining)
    assert close_to(shortest, pause, longest)


@given(pollings(), SECONDS, SECONDS)
def test_intervals_grow(polling: QATechPolling, one: float, other: float) -> None:
    sooner, later = (polling.next_poll_seconds(elapsed, math.inf) for elapsed in sorted((one, other)))
    assert sooner <= later


def test_intervals_grow_with_the_square_root() -> None:
    polling = QATechPolling(first_seconds=3, growth=2, max_seconds=30, jitter=0)
    pauses = [polling.next_poll_seconds(elapsed, math.inf) for elapsed in (0, 1, 4, 25, 100, 225, 1000)]
    assert pauses == [3, 3, 4, 10, 20, 30, 30]


@given(pollings(), SECONDS, st.floats(0, 1e6), SHARES, SHARES)
def test_jitter_stays_in_its_share(
    polling: QATechPolling, elapsed: float, remaining: float, low: float, high: float
) -> None:
    middle = polling.next_poll_seconds(elapsed, math.inf)
    pause = polling.next_poll_seconds(elapsed, math.inf, random=low)
    assert close_to(middle * (1 - polling.jitter), pause, middle * (1 + polling.jitter))
    if low <= high:
        assert pause <= polling.next_poll_seconds(elapsed, math.inf, random=high)


def test_jitter_reaches_both_ends() -> None:
    polling = QATechPolling(first_seconds=10, jitter=0.2)
    pauses = [polling.next_poll_seconds(0, math.inf, random=random) for random in (0, 0.5, 1)]
    assert pauses == pytest.approx([8, 10, 12])


@given(pollings(), SECONDS, SECONDS, SHARES, st.floats(0, 3600))
def test_retry_after_is_a_floor_up_to_the_deadline(
    polling: QATechPolling, elapsed: float, remaining: float, random: float, retry_after: float
) -> None:
    without = polling.next_poll_seconds(elapsed, remaining, random=random)
    pause = polling.next_poll_seconds(elapsed, remaining, random=random, retry_after_seconds=retry_after)
    assert pause == max(without, min(retry_after, remaining))


@given(pollings(), st.floats(0, 7200), st.randoms(use_true_random=False))
def test_one_look_is_exactly_at_the_deadline(polling: QATechPolling, deadline: float, random: Any) -> None:
    remaining, looks = deadline, 0
    while remaining > 0 and looks < 500:
        pause = polling.next_poll_seconds(deadline - remaining, remaining, random=random.random())
        assert 0 < pause <= remaining
        remaining, looks = remaining - pause, looks + 1
    assert looks == 500 or remaining == 0
    assert polling.next_poll_seconds(deadline, 0) == 0
    assert polling.next_poll_seconds(deadline, -5, retry_after_seconds=60) == 0


def test_an_hour_costs_few_looks() -> None:
    polling, elapsed, looks = QATechPolling(jitter=0), 0.0, 0
    while elapsed < 3600:
        elapsed, looks = elapsed + polling.next_poll_seconds(elapsed, 3600 - elapsed), looks + 1
    assert looks < 200


class Linear:
    """A forecast by which so large a share of any pause is lost; counts how often it is asked."""

    def __init__(self, share: float) -> None:
        self.share, self.asked = share, 0

    def expected_delay(self, elapsed_seconds: float, pause_seconds: float) -> float:
        self.asked += 1
        return self.share * pause_seconds


@pytest.mark.parametrize(
    ("seconds", "pause"),
    [(64, 64), (640, 64), (32, 32), (48, 48), (32.9, 32.9), (0.5, 0.5)],
    ids=[
        "just the longest",
        "longer than the longest",
        "half of it",
        "three quarters of it",
        "a little more than half",
        "less than a second",
    ],
)
def test_a_pause_is_as_long_as_its_expected_delay_is_worth_a_request(seconds: float, pause: float) -> None:
    polling = QATechPolling(first_seconds=0.01, max_seconds=64, jitter=0)
    forecast = Linear(polling.request_price_seconds / seconds)
    found = polling.next_poll_seconds(1000, math.inf, forecast=forecast)
    if pause in (32, 48, 64):
        assert found == pause, "where it is hit exactly"
    assert found == pytest.approx(pause, rel=0.01)
    assert forecast.asked <= 16, "one per cent is near enough"


@pytest.mark.timeout(20)
def test_a_forecast_by_which_every_pause_is_lost_ends_the_search() -> None:
    forecast = Linear(math.inf)
    assert QATechPolling(first_seconds=5, jitter=0).next_poll_seconds(1000, math.inf, forecast=forecast) == 5
    assert forecast.asked <= 30


@pytest.mark.parametrize("name", ["first_seconds", "growth", "max_seconds", "jitter"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 1e9, None, "often"])
def test_a_config_that_makes_no_sense_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError):
        QATechPolling(**{name: value})


@pytest.mark.parametrize(
    "config",
    [
        {"first_seconds": 0},
        {"growth": 0},
        {"max_seconds": 0},
        {"jitter": 1},
        {"first_seconds": 130},
        {"first_seconds": 5, "max_seconds": 4},
        {"interval": 5},
    ],
    ids=str,
)
def test_limits_of_the_config(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        QATechPolling(**config)


def test_a_config_does_not_change() -> None:
    polling = QATechPolling(jitter=0)
    with pytest.raises(ValidationError):
        polling.jitter = 0.5
    assert QATechPolling.model_validate_json(polling.model_dump_json()) == polling
