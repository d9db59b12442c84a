"""Waits poll no more often than their credentials allow, and share that fairly."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections import Counter
from typing import Any

import anyio
import pytest
from hypothesis import given, strategies as st
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from pydantic import SecretStr

from prefect_qatech import QATechCredentials, QATechPolling
from prefect_qatech.polling import throttle
from prefect_qatech.polling.throttle import RequestBudget, Throttle, budget_of
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.tasks import astart_test_run
from prefect_qatech.waits import await_for_test_run
from tests.support import credentials_for, looks, one_plan


def test_what_is_shared_is_not_in_a_pickle() -> None:
    credentials = QATechCredentials(api_token=SecretStr("x"), max_polls_per_second=5, rate_limit_name="qatech")
    assert budget_of(credentials) is budget_of(credentials) is not None
    copy = pickle.loads(pickle.dumps(credentials))
    assert (copy.max_polls_per_second, copy.rate_limit_name) == (5, "qatech")


# --- The budget


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_the_rate() -> None:
    budget = RequestBudget(4, Clock())
    assert [budget.reserve(60) for _ in range(8)] == pytest.approx([0, 0, 0, 0, 0.25, 0.5, 0.75, 1])


def test_an_idle_budget_saves_up_one_second() -> None:
    clock = Clock()
    budget = RequestBudget(4, clock)
    for _ in range(4):
        budget.reserve(60)
    clock.now += 3600
    assert [budget.reserve(60) for _ in range(5)] == pytest.approx([0, 0, 0, 0, 0.25])


def test_a_slow_rate() -> None:
    clock = Clock()
    budget = RequestBudget(0.1, clock)
    assert [budget.reserve(60) for _ in range(3)] == pytest.approx([0, 10, 20])
    assert budget.reserve(5) == 5, "a deadline is not moved"
    assert budget.reserve(60) == pytest.approx(30), "and asking for it does not push the others back"
    assert budget.reserve(0) == 0


@given(st.floats(0.1, 100), st.lists(st.floats(0, 2), min_size=2, max_size=200))
def test_the_rate_is_kept_whenever_is_asked(rate: float, gaps: list[float]) -> None:
    clock, places = Clock(), []
    budget = RequestBudget(rate, clock)
    for gap in gaps:
        clock.now += gap
        places.append(clock.now + budget.reserve(1e9))
    assert places == sorted(places)
    for place in places:
        within = sum(place <= other < place + 1 for other in places)
        assert within <= rate + max(rate, 1) + 1


def test_waits_get_equal_shares_of_a_small_budget() -> None:
    clock, shares = Clock(), Counter[int]()
    budget = RequestBudget(1, clock)
    due = {wait: clock.now + wait / 100 for wait in range(10)}
    while clock.now < 1100:
        wait = min(due, key=due.__getitem__)
        clock.now = max(clock.now, due[wait])
        shares[wait] += 1
        # Some would like to poll every second, others every five.
        due[wait] = clock.now + budget.reserve(1e9) + (1 if wait < 5 else 5)
    assert max(shares.values()) <= 1.7 * min(shares.values())


def test_a_budget_of_many_threads() -> None:
    budget, places, lock = RequestBudget(1000, Clock()), [], threading.Lock()

    def work() -> None:
        for _ in range(200):
            place = budget.reserve(1e9)
            with lock:
                places.append(place)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(places) == pytest.approx(0.6)


# --- In tasks


@pytest.fixture
def slow_run() -> Any:
    return one_plan([{"name": "Test", "duration_seconds": 4000}])


@pytest.mark.usefixtures("prefect_server")
async def test_waits_of_a_process_keep_to_the_budget(slow_run: Any) -> None:
    polling = QATechPolling(first_seconds=0.01, max_seconds=0.02)

    @flow
    async def many(credentials: QATechCredentials) -> None:
        records = [await astart_test_run(credentials, "pln_one") for _ in range(3)]
        await asyncio.gather(*(await_for_test_run(credentials, record, polling=polling) for record in records))

    with Sandbox(speed=2000, scenario=slow_run) as sandbox:
        began = anyio.current_time()
        await many(credentials_for(sandbox, max_polls_per_second=10))
        lasted = anyio.current_time() - began
        assert looks(sandbox) <= 10 * lasted + 11 + 3


@pytest.mark.usefixtures("prefect_server")
async def test_a_limit_on_the_prefect_server_is_asked_for_each_poll(
    slow_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = throttle.rate_limit

    async def counted(name: str, strict: bool) -> None:
        asked.append(name)
        await real(name, strict=strict)

    monkeypatch.setattr(throttle, "rate_limit", counted)
    async with get_client() as prefect:
        await prefect.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name="qatech-polls", limit=5, slot_decay_per_second=50)
        )

    @flow
    async def one(credentials: QATechCredentials) -> None:
        record = await astart_test_run(credentials, "pln_one")
        await await_for_test_run(credentials, record, polling=QATechPolling(first_seconds=0.2))

    with Sandbox(speed=2000, scenario=slow_run) as sandbox:
        await one(credentials_for(sandbox, rate_limit_name="qatech-polls"))
        assert asked == ["qatech-polls"] * looks(sandbox)
        sandbox.reset()
        await one(credentials_for(sandbox, rate_limit_name="there is none"))


async def test_a_limit_that_cannot_be_asked_for_limits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(name: str, strict: bool) -> None:
        raise RuntimeError("no server")

    monkeypatch.setattr(throttle, "rate_limit", broken)

    limited = Throttle(QATechCredentials(api_token=SecretStr("x"), rate_limit_name="qatech"))
    await limited.wait(60)


async def test_a_limit_that_hangs_does_not_move_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hanging(name: str, strict: bool) -> None:
        await anyio.sleep(3600)

    monkeypatch.setattr(throttle, "rate_limit", hanging)
    limited = Throttle(QATechCredentials(api_token=SecretStr("x"), rate_limit_name="qatech"))
    with anyio.fail_after(120):
        await limited.wait(0.05)
        await limited.wait(0)
