"""A wait sees the end of its run through whatever the network does, on a clock that only sleeps move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import (
    BadRequestError,
    ForbiddenError,
    InvalidResponseError,
    NotFoundError,
    QATechAPIError,
    QATechConnectionError,
    QATechError,
    RateLimitedError,
    ServerError,
    UnauthorizedError,
    UsageLimitError,
)
from prefect_qatech.polling.exceptions import WaitTimedOut
from prefect_qatech.polling.schedule import QATechPolling
from prefect_qatech.polling.steps import (
    MAX_CONSECUTIVE_ERRORS,
    MAX_ERROR_SECONDS,
    NOT_FOUND_GRACE_SECONDS,
    SETTLE_SECONDS,
)
from prefect_qatech.polling.wait import wait_for_run
from tests.virtual_time import VirtualTime
from tests.wire import Body, Service, answer, assert_holds_no_secret, chain, seen

URL = "https://app.qa.tech/p/shop/results/abc123"
GOES_ON = f"Run abc123 goes on at QA.tech, which has no call to cancel it ({URL})"

RUNNING = seen(status="RUNNING")
PASSED = seen(status="COMPLETED", result="PASSED")
UNSETTLED = seen(status="COMPLETED", result=None)


class Wait:
    """One wait on a virtual clock, and what it told.

    Args:
        respond: Seconds since the wait began to what the service does then: a body, a response or an exception.
    """

    def __init__(self, respond: Callable[[float], Any]) -> None:
        self.time = VirtualTime()
        self.looks: list[float] = []
        self.changes: list[QATechRun] = []
        self.errors: list[QATechAPIError] = []
        self._respond = respond

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/run/abc123"
        assert request.url.params["testCases"] == "all"
        self.looks.append(self.time.elapsed)
        response = self._respond(self.time.elapsed)
        if isinstance(response, Exception):
            raise response
        return response if isinstance(response, httpx.Response) else answer(response)

    def _on_change(self, run: QATechRun) -> None:
        self.changes.append(run)

    async def end(self, timeout_seconds: float = 3600, polling: QATechPolling | None = None, **known: Any) -> QATechRun:
        async with Service(self._answer).client(max_response_bytes=10_000) as client:
            return await wait_for_run(
                client,
                "abc123",
                timeout_seconds=timeout_seconds,
                polling=polling or QATechPolling(),
                surroundings=self.time.surroundings,
                on_change=self._on_change,
                on_error=self.errors.append,
                run_url=URL,
                **known,
            )

    async def fail(
        self, timeout_seconds: float = 3600, polling: QATechPolling | None = None, **known: Any
    ) -> QATechError:
        with pytest.raises(QATechError) as caught:
            await self.end(timeout_seconds, polling, **known)
        assert chain(caught.value) == [caught.value]
        assert_holds_no_secret(caught.value)
        return caught.value


def until(seconds: float, before: Any, after: Any = PASSED) -> Callable[[float], Any]:
    """Does one thing until a moment, and another from then on."""

    def respond(elapsed: float) -> Any:
        now = before if elapsed < seconds else after
        return now() if callable(now) else now

    return respond


# --- The end


@pytest.mark.parametrize(
    ("status", "result"),
    [
        ("COMPLETED", "PASSED"),
        ("COMPLETED", "FAILED"),
        ("COMPLETED", "SKIPPED"),
        ("COMPLETED", "PERHAPS"),
        ("ERROR", None),
        ("ERROR", "FAILED"),
        ("CANCELLED", None),
    ],
)
async def test_a_wait_ends_with_its_run(status: str, result: str | None) -> None:
    wait = Wait(until(100, RUNNING, seen(status=status, result=result)))
    run = await wait.end()
    assert (run.status, run.result) == (status, result)
    assert 100 <= wait.time.elapsed <= 112


async def test_a_run_that_has_ended_costs_one_look() -> None:
    wait = Wait(lambda elapsed: PASSED)
    await wait.end()
    assert (wait.looks, wait.time.sleeps) == ([0], [])


@pytest.mark.parametrize("status", ["PAUSED", "completed", "DONE", "", None])
async def test_an_unknown_status_keeps_waiting(status: Any) -> None:
    wait = Wait(until(100, seen(status=status, result="PASSED")))
    assert (await wait.end()).status == "COMPLETED"
    assert wait.time.elapsed >= 100


async def test_looks_get_rarer() -> None:
    wait = Wait(until(16_000, RUNNING))
    await wait.end(20_000)
    pauses = wait.time.sleeps
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (3, 120)


# --- What is told


async def test_only_changes_are_told() -> None:
    def respond(elapsed: float) -> Any:
        if elapsed < 50:
            return seen(status="INITIATED", result=None)
        cases = [{"name": "a", "status": "COMPLETED" if elapsed >= 200 else "RUNNING"}]
        if elapsed < 300:
            return seen(status="RUNNING", runTestCases=cases)
        return seen(status="COMPLETED", result="FAILED", runTestCases=cases)

    wait = Wait(respond)
    await wait.end()
    told = [(run.status, run.result, len(run.test_cases), run.finished_test_count) for run in wait.changes]
    assert told == [
        ("INITIATED", None, 0, 0),
        ("RUNNING", None, 1, 0),
        ("RUNNING", None, 1, 1),
        ("COMPLETED", "FAILED", 1, 1),
    ]
    assert len(wait.looks) > len(told) + 5


async def test_failed_looks_are_told_and_are_no_change() -> None:
    def respond(elapsed: float) -> Any:
        return answer(b"", 502) if 50 < elapsed < 70 else PASSED if elapsed > 100 else RUNNING

    wait = Wait(respond)
    await wait.end()
    assert [run.status for run in wait.changes] == ["RUNNING", "COMPLETED"]
    assert len(wait.errors) >= 2
    assert all(type(error) is ServerError for error in wait.errors)


# --- Failed looks

FAILING: dict[str, Any] = {
    "refused": httpx.ConnectError("refused"),
    "connect timeout": httpx.ConnectTimeout("slow"),
    "pool timeout": httpx.PoolTimeout("busy"),
    "read timeout": httpx.ReadTimeout("slow"),
    "write error": httpx.WriteError("reset"),
    "reset": httpx.ReadError("reset"),
    "half an answer": httpx.RemoteProtocolError("half"),
    "proxy": httpx.ProxyError("502"),
    "408": lambda: answer(b"", 408),
    "425": lambda: answer(b"", 425),
    "429": lambda: answer({"message": "Too many"}, 429),
    "500": lambda: answer({"message": "Oh"}, 500),
    "502": lambda: answer(b"<html>Bad Gateway</html>", 502),
    "503": lambda: answer(b"", 503),
    "504": lambda: answer(b"", 504),
    "html": lambda: answer(b"<html>maintenance</html>"),
    "empty": lambda: answer(b""),
    "broken json": lambda: answer(b'{"shortId": "abc1'),
    "json list": lambda: answer([]),
    "json null": lambda: answer(None),
    "deep json": lambda: answer(b"[" * 9_000),
    "not a run": lambda: answer({"message": "OK"}),
    "another run": lambda: answer(seen("abc124")),
    "strange cases": lambda: answer(seen(runTestCases="many")),
    "too large": lambda: answer(Body(b" " * 5_000, times=100)),
}


@pytest.mark.parametrize("first", [False, True], ids=["later", "at first"])
@pytest.mark.parametrize("kind", FAILING)
async def test_failing_looks_are_survived(kind: str, first: bool) -> None:
    def respond(elapsed: float) -> Any:
        if elapsed > 200:
            return PASSED
        if elapsed > 100 or first:
            return FAILING[kind]() if callable(FAILING[kind]) else FAILING[kind]
        return RUNNING

    wait = Wait(respond)
    assert (await wait.end()).result == "PASSED"
    assert len(wait.errors) >= 5
    assert all(error.retryable for error in wait.errors)


async def test_a_service_that_is_down_for_ten_minutes() -> None:
    wait = Wait(lambda elapsed: httpx.ConnectError("refused") if 60 < elapsed < 660 else until(900, RUNNING)(elapsed))
    assert (await wait.end()).result == "PASSED"
    assert len(wait.errors) > MAX_CONSECUTIVE_ERRORS, "the count alone does not end a wait"


@pytest.mark.parametrize("begin", [0, 100])
async def test_a_service_that_stays_down_is_given_up_when_both_budgets_are_spent(begin: float) -> None:
    wait = Wait(lambda elapsed: httpx.ConnectError("refused") if elapsed >= begin else RUNNING)
    error = await wait.fail(36_000)
    assert type(error) is QATechConnectionError
    first = min(look for look in wait.looks if look >= begin)
    assert MAX_ERROR_SECONDS < wait.time.elapsed - first <= MAX_ERROR_SECONDS + 30
    assert f"{len(wait.errors) + 1} polls in a row failed, over {wait.time.elapsed - first:.0f} s" in str(error)
    assert GOES_ON in str(error)
    assert (error.run_short_id, error.run_url) == ("abc123", URL)
    assert error.args == (str(error),)


async def test_the_time_alone_does_not_end_a_wait() -> None:
    polling = QATechPolling(first_seconds=600, max_seconds=600, jitter=0)
    wait = Wait(lambda elapsed: httpx.ReadError("reset"))
    await wait.fail(1e6, polling)
    assert len(wait.looks) == MAX_CONSECUTIVE_ERRORS + 1
    assert wait.time.elapsed == 600 * MAX_CONSECUTIVE_ERRORS


async def test_one_good_look_renews_the_budget() -> None:
    down = httpx.ReadError("reset")
    wait = Wait(lambda elapsed: RUNNING if 800 <= elapsed < 835 else PASSED if elapsed > 1500 else down)
    assert (await wait.end()).result == "PASSED"
    wait = Wait(lambda elapsed: PASSED if elapsed > 1500 else down)
    assert type(await wait.fail()) is QATechConnectionError


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (402, UsageLimitError),
        (400, BadRequestError),
        (404, NotFoundError),
        (302, InvalidResponseError),
        (451, QATechAPIError),
    ],
)
async def test_a_refusal_of_a_run_that_nobody_has_seen_is_final_at_once(
    status: int, kind: type[QATechAPIError]
) -> None:
    wait = Wait(lambda elapsed: answer({"message": "No"}, status))
    error = await wait.fail()
    assert type(error) is kind
    assert wait.looks == [0]
    assert wait.errors == []
    assert URL in str(error)
    assert (error.run_short_id, error.run_url, error.retryable) == ("abc123", URL, False)


@pytest.mark.parametrize("status", [300, 302, 304, 400, 401, 402, 403, 404, 405, 409, 410, 451])
async def test_one_odd_answer_among_good_ones_is_survived(status: int) -> None:
    told: list[float] = []

    def respond(elapsed: float) -> Any:
        if elapsed > 100 and not told:
            told.append(elapsed)
            return answer({"message": "Odd"}, status)
        return until(300, RUNNING)(elapsed)

    wait = Wait(respond)
    assert (await wait.end()).result == "PASSED"
    assert len(wait.errors) == len(told) == 1


@pytest.mark.parametrize("status", [302, 304, 401, 403, 404, 409, 451])
async def test_an_odd_answer_about_a_run_that_was_just_started_is_survived(status: int) -> None:
    wait = Wait(lambda elapsed: answer(b"", status) if elapsed == 0 else PASSED)
    assert (await wait.end(age_seconds=1)).result == "PASSED"
    assert len(wait.looks) == 2


@pytest.mark.parametrize(("status", "kind"), [(401, UnauthorizedError), (403, ForbiddenError)])
@pytest.mark.parametrize("known", [{"age_seconds": 1}, {}], ids=["just started", "polled before"])
async def test_a_token_that_is_refused_twice_is_final(
    status: int, kind: type[QATechAPIError], known: dict[str, float]
) -> None:
    wait = Wait(lambda elapsed: answer({"message": "No"}, status) if known or elapsed >= 100 else RUNNING)
    error = await wait.fail(**known)
    assert type(error) is kind
    assert len(wait.errors) == 1
    assert GOES_ON in str(error)


async def test_a_good_poll_between_two_refusals_counts() -> None:
    wait = Wait(lambda elapsed: answer(b"", 401) if len(wait.looks) % 2 == 0 else until(300, RUNNING)(elapsed))
    assert (await wait.end()).result == "PASSED"
    assert len(wait.errors) > 5


@pytest.mark.parametrize("status", [302, 404, 409])
async def test_an_odd_answer_that_stays_is_given_up_when_the_budget_is_spent(status: int) -> None:
    wait = Wait(lambda elapsed: answer(b"", status) if elapsed > 10 else RUNNING)
    assert isinstance(await wait.fail(36_000), QATechAPIError)
    assert MAX_ERROR_SECONDS < wait.time.elapsed < MAX_ERROR_SECONDS + 60


@pytest.mark.parametrize("status", [302, 401, 403, 404, 409, 451])
async def test_one_odd_answer_does_not_end_a_wait_that_is_resumed(status: int) -> None:
    wait = Wait(lambda elapsed: answer(b"", status) if elapsed == 0 else PASSED)
    assert (await wait.end(age_seconds=3600)).result == "PASSED"


async def test_not_found_is_survived_in_the_first_minute_of_a_run() -> None:
    wait = Wait(lambda elapsed: answer(b"", 404) if elapsed < NOT_FOUND_GRACE_SECONDS - 10 else PASSED)
    assert (await wait.end(age_seconds=5)).result == "PASSED"
    assert all(type(error) is NotFoundError for error in wait.errors)
    assert len(wait.errors) > 5


@pytest.mark.parametrize("age_seconds", [0.0, 30.0, 3600.0])
async def test_not_found_is_final_after_the_first_minute_of_a_wait(age_seconds: float) -> None:
    wait = Wait(lambda elapsed: answer(b"", 404))
    error = await wait.fail(age_seconds=age_seconds)
    assert type(error) is NotFoundError
    assert NOT_FOUND_GRACE_SECONDS <= wait.time.elapsed <= NOT_FOUND_GRACE_SECONDS + 10
    assert URL in str(error)


async def test_of_a_run_that_is_not_found_nobody_says_that_it_goes_on() -> None:
    assert "goes on at QA.tech" not in str(await Wait(lambda elapsed: answer(b"", 404)).fail())


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_honoured(status: int) -> None:
    wait = Wait(until(1, lambda: answer(b"", status, {"Retry-After": "120"})))
    await wait.end()
    assert wait.looks == [0, 120]


async def test_retry_after_counts_for_one_pause() -> None:
    wait = Wait(
        lambda elapsed: answer(b"", 429, {"Retry-After": "120"}) if elapsed == 0 else until(300, RUNNING)(elapsed)
    )
    await wait.end()
    assert wait.time.sleeps[0] == 120
    assert max(wait.time.sleeps[1:]) < 30


async def test_retry_after_does_not_move_the_deadline() -> None:
    wait = Wait(lambda elapsed: answer(b"", 429, {"Retry-After": "3000"}))
    error = await wait.fail(600)
    assert isinstance(error, WaitTimedOut)
    assert wait.looks == [0, 600]


# --- A result that comes late


async def test_a_result_that_comes_late() -> None:
    wait = Wait(lambda elapsed: RUNNING if elapsed < 500 else until(530, UNSETTLED)(elapsed))
    assert (await wait.end()).result == "PASSED"
    assert 530 <= wait.time.elapsed < 540, "a settling run is watched as closely as a new one"
    assert [(run.status, run.result) for run in wait.changes] == [
        ("RUNNING", None),
        ("COMPLETED", None),
        ("COMPLETED", "PASSED"),
    ]


async def test_a_result_that_never_comes() -> None:
    wait = Wait(until(500, RUNNING, UNSETTLED))
    run = await wait.end()
    assert (run.status, run.result) == ("COMPLETED", None)
    settling = wait.time.elapsed - min(look for look in wait.looks if look >= 500)
    assert SETTLE_SECONDS <= settling <= SETTLE_SECONDS + 10


async def test_a_run_that_settles_at_the_deadline_has_ended_without_a_result() -> None:
    wait = Wait(lambda elapsed: UNSETTLED if elapsed < 25 else answer(b"", 502))
    run = await wait.end(30)
    assert (run.status, run.result) == ("COMPLETED", None)
    assert wait.time.elapsed == 30


async def test_failed_looks_do_not_begin_the_settle_window_anew() -> None:
    wait = Wait(lambda elapsed: answer(b"", 502) if 20 < elapsed < 40 else UNSETTLED)
    assert (await wait.end()).result is None
    assert SETTLE_SECONDS <= wait.time.elapsed <= SETTLE_SECONDS + 10


async def test_a_run_that_goes_on_after_all_begins_it_anew() -> None:
    wait = Wait(lambda elapsed: RUNNING if 30 < elapsed < 50 else UNSETTLED)
    assert (await wait.end()).result is None
    assert wait.time.elapsed >= 50 + SETTLE_SECONDS


# --- The deadline


async def test_the_last_look_is_at_the_deadline() -> None:
    wait = Wait(lambda elapsed: RUNNING)
    error = await wait.fail(600)
    assert isinstance(error, WaitTimedOut)
    assert wait.looks[-1] == wait.time.elapsed == 600
    assert wait.looks.count(600) == 1
    assert (error.status, error.waited_seconds, error.last_error) == ("RUNNING", 600, None)
    assert (error.run_short_id, error.run_url, error.retryable) == ("abc123", URL, False)
    assert error.run is not None
    assert error.run.run_short_id == "abc123"
    assert "after 600 s its last known status is RUNNING" in str(error)
    assert GOES_ON in str(error)


async def test_a_run_that_ends_at_the_deadline_has_ended() -> None:
    assert (await Wait(until(600, RUNNING)).end(600)).result == "PASSED"


@pytest.mark.parametrize("timeout", [0, -5])
async def test_without_any_time_there_is_one_look(timeout: float) -> None:
    wait = Wait(lambda elapsed: RUNNING)
    assert isinstance(await wait.fail(timeout), WaitTimedOut)
    assert wait.looks == [0]
    assert (await Wait(lambda elapsed: PASSED).end(timeout)).result == "PASSED"


async def test_a_deadline_under_failing_looks() -> None:
    wait = Wait(lambda elapsed: RUNNING if elapsed < 100 else answer({"message": "Oh"}, 500))
    error = await wait.fail(200)
    assert isinstance(error, WaitTimedOut)
    assert (error.status, error.waited_seconds) == ("RUNNING", 200)
    assert error.last_error is not None
    assert "500" in error.last_error
    assert "The last poll failed" in str(error)


async def test_a_deadline_without_one_good_look() -> None:
    error = await Wait(lambda elapsed: httpx.ConnectError("refused")).fail(60)
    assert isinstance(error, WaitTimedOut)
    assert (error.status, error.run) == (None, None)
    assert "could not be polled" in str(error)


async def test_an_old_failure_is_not_the_last_error() -> None:
    error = await Wait(lambda elapsed: answer(b"", 500) if elapsed < 30 else RUNNING).fail(60)
    assert isinstance(error, WaitTimedOut)
    assert error.last_error is None


async def test_slow_answers_count_as_time() -> None:
    wait: Wait

    def respond(elapsed: float) -> Any:
        wait.time.pass_by(25)
        return RUNNING

    wait = Wait(respond)
    error = await wait.fail(100)
    assert isinstance(error, WaitTimedOut)
    assert wait.looks[-1] <= 100
    assert error.waited_seconds is not None
    assert error.waited_seconds <= 125


async def test_the_token_is_in_no_failed_look() -> None:
    wait = Wait(until(100, lambda: answer({"message": "Bearer qat-5ecret.Tok3n_0123456789abcdef"}, 500)))
    await wait.end()
    for error in wait.errors:
        assert_holds_no_secret(error)


@pytest.mark.parametrize("kind", [RateLimitedError, InvalidResponseError])
async def test_failed_looks_keep_their_kind(kind: type[QATechAPIError]) -> None:
    broken = {RateLimitedError: lambda: answer(b"", 429), InvalidResponseError: lambda: answer(b"<html>")}[kind]
    wait = Wait(until(50, broken))
    await wait.end()
    assert {type(error) for error in wait.errors} == {kind}


# --- What is known of a run


def progressing(total: int, seconds_each: float, side_by_side: int = 4) -> Callable[[float], Any]:
    """A run whose test cases take equally long, so many at a time, one after another; it ends with the last."""

    def respond(elapsed: float) -> Any:
        finished = min(total, int(elapsed * side_by_side / seconds_each))
        if finished == total:
            return seen(status="COMPLETED", result="PASSED", runTestCases=_cases(total, 0, 0))
        running = min(side_by_side, total - finished)
        return seen(status="RUNNING", runTestCases=_cases(finished, running, total - finished - running))

    return respond


def _cases(finished: int, running: int, queued: int) -> list[dict[str, Any]]:
    words = ["COMPLETED"] * finished + ["RUNNING"] * running + ["INITIATED"] * queued
    return [{"id": str(number), "status": word} for number, word in enumerate(words)]


async def test_a_run_is_looked_at_where_its_test_cases_are_about_to_finish() -> None:
    wait, blind = Wait(progressing(40, 120)), Wait(until(1200, RUNNING))
    await wait.end()
    await blind.end()
    assert len(wait.looks) < len(blind.looks)
    last = wait.time.sleeps[-1]
    assert last < 10 < max(wait.time.sleeps)


class Past:
    """A history that holds durations, and counts what it is asked."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.reads, self.added = list(seconds), [], []  # type: ignore[var-annotated]

    async def read(self, test_count: int) -> list[float]:
        self.reads.append(test_count)
        return self.seconds

    async def add(self, test_count: int, seconds: float) -> None:
        self.added.append((test_count, seconds))


def one_test(duration: float, status: str = "COMPLETED") -> Callable[[float], Any]:
    """A run of one test case, which shows no progress."""
    ended = seen(status=status, result="PASSED", runTestCases=_cases(1, 0, 0))
    return until(duration, seen(status="RUNNING", runTestCases=_cases(0, 1, 0)), ended)


async def test_past_durations_say_when_to_look() -> None:
    past = Past(600, 610, 590, 605, 595)
    wait, blind = Wait(one_test(600)), Wait(one_test(600))
    await wait.end(age_seconds=0, history=past)
    await blind.end()
    assert len(wait.looks) < 0.8 * len(blind.looks)
    assert wait.looks[-1] - 600 <= blind.looks[-1] - 600
    assert past.reads == [1]
    assert [count for count, _ in past.added] == [1]
    assert past.added[0][1] == pytest.approx(600, abs=10)


async def test_a_run_that_was_taken_up_later_has_its_age() -> None:
    past = Past(600, 610, 590, 605, 595)
    wait = Wait(one_test(100))
    await wait.end(age_seconds=500, history=past)
    assert past.added[0][1] == pytest.approx(600, abs=10)
    assert wait.time.sleeps[0] > 20, "it is no new run, whose errors show early"
    assert wait.looks[-1] - 100 < 10


@pytest.mark.parametrize("age", [None, 0])
async def test_without_its_age_a_duration_means_nothing(age: float | None) -> None:
    past = Past(600, 600, 600)
    await Wait(one_test(400)).end(age_seconds=age, history=past)
    assert (len(past.reads), len(past.added)) == ((0, 0) if age is None else (1, 1))


@pytest.mark.parametrize(
    ("respond", "why"),
    [
        (one_test(20), "it ends with the early looks"),
        (one_test(0), "nobody saw its end"),
        (one_test(400, "ERROR"), "it broke off"),
        (one_test(400, "CANCELLED"), "it broke off"),
        (until(400, RUNNING, PASSED), "its test cases are not known"),
        (
            lambda elapsed: httpx.ConnectError("down") if 100 < elapsed < 500 else one_test(300)(elapsed),
            "nobody knows when it ended",
        ),
    ],
)
async def test_what_is_not_worth_remembering(respond: Callable[[float], Any], why: str) -> None:
    past = Past()
    await Wait(respond).end(age_seconds=0, history=past)
    assert past.added == [], why


async def test_a_run_that_ends_at_once_asks_for_no_history() -> None:
    past = Past(600, 600, 600)
    await Wait(one_test(2)).end(age_seconds=0, history=past)
    assert past.reads == []


async def test_past_durations_count_from_the_first_pause_on() -> None:
    wait = Wait(one_test(600))
    await wait.end(age_seconds=0, history=Past(600, 610, 590, 605, 595))
    assert len([look for look in wait.looks if look < 40]) <= 5, "at 0, 3, 10 and 30 s, but for the jitter"


async def test_a_result_that_comes_late_is_no_longer_run() -> None:
    past = Past()
    ended = {"status": "COMPLETED", "runTestCases": _cases(1, 0, 0)}
    respond = until(300, seen(runTestCases=_cases(0, 1, 0)), lambda: seen(result=None, **ended))
    await Wait(lambda elapsed: seen(result="PASSED", **ended) if elapsed > 340 else respond(elapsed)).end(
        age_seconds=0, history=past
    )
    assert len(past.added) == 1
    assert past.added[0][1] == pytest.approx(300, abs=20)
