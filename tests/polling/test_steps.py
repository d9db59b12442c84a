"""What is decided after each poll, without any I/O: what was seen and what time it is make the next step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import NotFoundError, QATechAPIError, QATechError, ServerError, UnauthorizedError
from prefect_qatech.polling.exceptions import WaitTimedOut
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.steps import (
    MAX_CONSECUTIVE_ERRORS,
    MAX_ERROR_SECONDS,
    NOT_FOUND_GRACE_SECONDS,
    SETTLE_SECONDS,
    Watch,
    next_step,
)
from tests.wire import seen

POLLING = QATechPolling(jitter=0)
WATCH = Watch("abc123", "https://app.qa.tech/p/shop/results/abc123", began=0, deadline=3600, age_seconds=0)
DOWN = ServerError("502 Bad Gateway", status=502, retryable=True)
MISSING = NotFoundError("404 Not Found", status=404)
REFUSED = UnauthorizedError("401 Unauthorized", status=401)


def run(status: str, result: str | None = None, finished: int = 0, running: int = 0) -> QATechRun:
    cases = [{"id": str(number), "status": "COMPLETED"} for number in range(finished)]
    cases += [{"id": str(finished + number), "status": "RUNNING"} for number in range(running)]
    return QATechRun.model_validate(seen(status=status, result=result, runTestCases=cases))


RUNNING = run("RUNNING", running=1)
PASSED = run("COMPLETED", "PASSED", finished=1)
UNSETTLED = run("COMPLETED", None, finished=1)


def after(*polls: tuple[float, QATechRun | QATechAPIError], watch: Watch = WATCH) -> Any:
    """What is decided at the last of these polls (moment, answer)."""
    for now, answer in polls:
        watch = watch.after(answer, now)
    return next_step(watch, polls[-1][0], POLLING, 0.5)


def duration(*polls: tuple[float, QATechRun | QATechAPIError], watch: Watch = WATCH) -> float | None:
    for now, answer in polls:
        watch = watch.after(answer, now)
    return watch.duration(POLLING)


# --- Ended


@pytest.mark.parametrize("ended", [PASSED, run("COMPLETED", "FAILED"), run("ERROR"), run("CANCELLED")])
def test_a_run_that_has_ended_ends_the_wait(ended: QATechRun) -> None:
    assert after((0, RUNNING), (100, ended)) == ended


def test_a_run_is_over_at_the_deadline_too() -> None:
    assert after((0, RUNNING), (3600, PASSED)) == PASSED


def test_a_result_is_waited_for_as_closely_as_at_first() -> None:
    assert after((0, RUNNING), (900, UNSETTLED)) == 3
    assert after((0, RUNNING), (900, UNSETTLED), (905, PASSED)) == PASSED
    assert after((0, RUNNING), (900, UNSETTLED), (900 + SETTLE_SECONDS - 1, UNSETTLED)) != UNSETTLED
    assert after((0, RUNNING), (900, UNSETTLED), (900 + SETTLE_SECONDS, UNSETTLED)) == UNSETTLED


def test_a_run_that_goes_on_after_all_has_not_ended() -> None:
    polls = [(900.0, UNSETTLED), (910.0, RUNNING), (900 + SETTLE_SECONDS, UNSETTLED)]
    assert isinstance(after(*polls), float)


def test_a_failed_poll_does_not_end_a_settling_run_before_the_deadline() -> None:
    assert isinstance(after((900, UNSETTLED), (900 + SETTLE_SECONDS, DOWN)), float)
    assert after((3590, UNSETTLED), (3600, DOWN)) == UNSETTLED


# --- Pause


def test_without_knowledge_a_pause_is_the_root_of_the_age() -> None:
    watch = replace(WATCH, age_seconds=None)
    assert after((100, run("RUNNING")), watch=watch) == 10
    assert after((400, run("RUNNING")), watch=watch) == 20


def test_a_run_that_was_taken_up_late_is_as_old_as_it_is() -> None:
    assert after((0, run("RUNNING")), watch=replace(WATCH, age_seconds=400)) == 20


def test_a_pause_ends_at_the_deadline() -> None:
    assert after((3598, RUNNING)) == 2
    late = ServerError("503", status=503, retryable=True, retry_after_seconds=300)
    assert after((100, late)) == 300
    assert after((3500, late)) == 100


def test_a_good_poll_ends_what_the_service_asked_for() -> None:
    late = ServerError("503", status=503, retryable=True, retry_after_seconds=300)
    assert after((100, late), (400, run("RUNNING"))) == 20


def test_past_durations_are_needed_once_and_only_of_a_run_that_goes_on() -> None:
    assert not WATCH.after(RUNNING, 0).needs_past(POLLING, 0)
    assert WATCH.after(RUNNING, 3).needs_past(POLLING, 3)
    assert not WATCH.after(RUNNING, 3).with_past([600]).needs_past(POLLING, 3)
    assert not WATCH.after(PASSED, 3).needs_past(POLLING, 3)
    assert not WATCH.after(run("RUNNING"), 3).needs_past(POLLING, 3)
    assert not WATCH.after(RUNNING, 3).after(DOWN, 6).needs_past(POLLING, 6)
    assert not replace(WATCH, age_seconds=None).after(RUNNING, 3).needs_past(POLLING, 3)


def test_past_durations_lengthen_a_pause_and_the_early_polls_stay() -> None:
    past = [600.0 + number for number in range(50)]
    without, known = WATCH.after(RUNNING, 100), WATCH.after(RUNNING, 100).with_past(past)
    assert next_step(without, 100, POLLING, 0.5) == 10
    longer = next_step(known, 100, POLLING, 0.5)
    assert isinstance(longer, float)
    assert longer > 30
    assert next_step(WATCH.after(RUNNING, 10).with_past(past), 10, POLLING, 0.5) == 20


# --- Give up


def given_up(step: Any) -> Any:
    assert isinstance(step, QATechError)
    return step


def test_the_deadline_ends_the_wait() -> None:
    error = given_up(after((0, RUNNING), (3600, RUNNING)))
    assert isinstance(error, WaitTimedOut)
    assert (error.status, error.waited_seconds, error.run, error.last_error) == ("RUNNING", 3600, RUNNING, None)
    assert given_up(after((0, RUNNING), (3600, DOWN))).last_error == "502 Bad Gateway"


@pytest.mark.parametrize(
    ("age", "waited", "told"),
    [
        (None, 3600.0, "did not end in time: after 3600 s its last known status is RUNNING."),
        (None, 0.2, "did not end in time: its last known status is RUNNING."),
        (0.0, 3600.0, "did not end in time: 3600 s after its start its last known status is RUNNING."),
        (120.0, 0.2, "did not end in time: 120 s after its start its last known status is RUNNING."),
    ],
)
def test_how_long_it_took_is_told_since_the_start_and_not_since_the_last_of_several_waits(
    age: float | None, waited: float, told: str
) -> None:
    assert told in str(replace(WATCH, age_seconds=age).after(RUNNING, 0).timed_out(waited))


def test_a_wait_that_resumes_a_run_tells_the_age_of_the_run() -> None:
    watch = replace(WATCH, deadline=0, age_seconds=120).after(RUNNING, 0.0)
    assert "120 s after its start" in str(given_up(next_step(watch, 0.0, POLLING, 0.5)))


def failing(first: float, times: int, seconds: float) -> list[tuple[float, QATechRun | QATechAPIError]]:
    return [(first + seconds * number / (times - 1), DOWN) for number in range(times)]


@pytest.mark.parametrize(
    ("times", "seconds", "is_enough"),
    [
        (MAX_CONSECUTIVE_ERRORS + 1, MAX_ERROR_SECONDS + 1, True),
        (MAX_CONSECUTIVE_ERRORS, MAX_ERROR_SECONDS + 1, False),
        (MAX_CONSECUTIVE_ERRORS + 1, MAX_ERROR_SECONDS, False),
    ],
)
def test_a_failing_service_is_given_up_when_both_budgets_are_spent(times: int, seconds: float, is_enough: bool) -> None:
    step = after((100, RUNNING), *failing(200, times, seconds))
    assert isinstance(step, QATechError) is is_enough
    one_good = [*failing(200, times, seconds)[:-1], (200 + seconds - 1, RUNNING), (200 + seconds, DOWN)]
    assert isinstance(after((100, RUNNING), *one_good), float)


@pytest.mark.parametrize("age_seconds", [0.0, 3600.0])
def test_a_run_that_nobody_has_seen_is_given_up_at_once_but_for_the_first_minute_of_a_wait(age_seconds: float) -> None:
    watch = replace(WATCH, age_seconds=age_seconds)
    assert given_up(after((NOT_FOUND_GRACE_SECONDS, MISSING), watch=watch)).status == 404
    assert isinstance(after((NOT_FOUND_GRACE_SECONDS - 1, MISSING), watch=watch), float)
    assert isinstance(after((0, REFUSED), watch=watch), float)
    assert isinstance(after((0, REFUSED), (1, REFUSED), watch=watch), QATechError)
    assert isinstance(after((0, MISSING), watch=replace(WATCH, age_seconds=None)), QATechError)
    assert isinstance(after((0, RUNNING), (100, MISSING)), float)


def test_a_token_is_refused_twice() -> None:
    assert isinstance(after((0, RUNNING), (10, REFUSED)), float)
    assert isinstance(after((0, RUNNING), (10, REFUSED), (20, RUNNING), (30, REFUSED)), float)
    assert given_up(after((0, RUNNING), (10, REFUSED), (20, DOWN), (30, REFUSED))).status == 401


def test_the_error_of_a_poll_is_left_as_it_is() -> None:
    error = NotFoundError("404 Not Found", status=404)
    final = given_up(after((100, error)))
    assert str(error) == "404 Not Found"
    assert str(final) != str(error)
    assert (type(final), final.status, final.run_short_id, final.run_url) == (
        NotFoundError,
        404,
        WATCH.run_short_id,
        WATCH.run_url,
    )


# --- How long it took


def test_a_duration_is_between_the_last_two_polls() -> None:
    assert duration((300, RUNNING), (320, PASSED)) == 310
    assert duration((300, RUNNING), (320, PASSED), watch=replace(WATCH, age_seconds=100)) == 410
    assert duration((300, RUNNING), (320, UNSETTLED), (350, PASSED)) == 310


@pytest.mark.parametrize(
    ("polls", "why"),
    [
        ([(320, PASSED)], "it had ended before the first poll"),
        ([(10, RUNNING), (20, PASSED)], "it ended with the early polls"),
        ([(300, RUNNING), (320, run("ERROR", finished=1))], "it broke off"),
        ([(300, RUNNING), (320, run("COMPLETED", "PASSED"))], "its test cases are unknown"),
        ([(300, RUNNING), (541, PASSED)], "the poll that saw its end came too late"),
    ],
)
def test_what_says_nothing_of_other_runs_is_no_duration(polls: list[Any], why: str) -> None:
    assert duration(*polls) is None, why


def test_without_its_age_a_run_has_no_duration() -> None:
    assert duration((300, RUNNING), (320, PASSED), watch=replace(WATCH, age_seconds=None)) is None
