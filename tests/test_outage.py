"""A Prefect API that is down holds no wait up: what only shows or remembers something is given up."""

from __future__ import annotations

import time
from collections.abc import Iterator

import anyio
import pytest
from prefect import flow
from pydantic import SecretStr

from prefect_qatech import (
    QATechCredentials,
    QATechPolling,
    RunsNotEnded,
    WaitTimedOut,
    apublish_gate_report,
    start_test_run,
    wait_for_test_run,
    wait_for_test_runs,
)
from prefect_qatech.polling import throttle
from prefect_qatech.polling.throttle import Throttle
from prefect_qatech.report import artifacts
from prefect_qatech.sandbox import Sandbox
from tests.outage import Mode, PrefectInFront, prefect_in_front
from tests.support import a_report, credentials_for

pytestmark = pytest.mark.usefixtures("prefect_server")

POLLING = QATechPolling(first_seconds=0.2, max_seconds=0.5)
SLOW_MACHINE_SECONDS = 45.0
"""What all the rest may need where the machine is busy; a Prefect API that hangs is waited for a minute or more."""


@pytest.fixture
def prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[PrefectInFront]:
    """Prefect's API, which can be broken."""
    monkeypatch.setattr(artifacts, "REPORT_SECONDS", 1.0)
    monkeypatch.setattr(throttle, "PATIENCE_SECONDS", 0.2)
    with prefect_in_front() as proxy:
        yield proxy


@pytest.mark.parametrize(("number", "mode"), [(1, "hangs"), (3, "hangs"), (3, "503"), (1, "refuses")])
def test_a_wait_ends_at_its_deadline(
    credentials: QATechCredentials, prefect: PrefectInFront, mode: Mode, number: int
) -> None:
    took: list[float] = []

    @flow
    def user() -> None:
        runs = [start_test_run(credentials, "pln_never") for _ in range(number)]
        prefect.set(mode)
        began = time.monotonic()
        try:
            if number == 1:
                wait_for_test_run(credentials, runs[0], 3, polling=POLLING)
            else:
                wait_for_test_runs(credentials, runs, 3, polling=POLLING)
        except (WaitTimedOut, RunsNotEnded):
            took.append(time.monotonic() - began)
        finally:
            prefect.set("up")

    user()
    assert 3 <= took[0] <= 3 + SLOW_MACHINE_SECONDS


def test_a_run_that_passes_meanwhile_is_seen_to_pass(prefect: PrefectInFront) -> None:
    """Its test cases finish one after the other, so there is something to show again and again."""
    tests = [{"name": f"Test {number}", "duration_seconds": 1} for number in range(6)]
    seen: list[str | None] = []

    @flow
    def user(credentials: QATechCredentials) -> None:
        record = start_test_run(credentials, "pln_one")
        prefect.set("hangs")
        try:
            seen.append(wait_for_test_run(credentials, record, 200, polling=POLLING).result)
        finally:
            prefect.set("up")

    with Sandbox({"plans": [{"short_id": "pln_one", "name": "One", "test_cases": tests}]}, speed=1) as sandbox:
        user(credentials_for(sandbox))
    assert seen == ["PASSED"]


async def test_a_report_is_not_waited_for_for_long(prefect: PrefectInFront) -> None:
    took: list[float] = []

    @flow
    async def user() -> None:
        prefect.set("hangs")
        began = time.monotonic()
        try:
            await apublish_gate_report(a_report())
        finally:
            prefect.set("up")
        took.append(time.monotonic() - began)

    await user()
    assert took[0] <= SLOW_MACHINE_SECONDS


async def test_a_limit_of_a_server_that_hangs_limits_nothing(prefect: PrefectInFront) -> None:
    limited = Throttle(QATechCredentials(api_token=SecretStr("x"), rate_limit_name="qatech"))
    prefect.set("hangs")
    with anyio.fail_after(SLOW_MACHINE_SECONDS):
        await limited.wait(3600)


async def test_a_limit_that_has_no_place_yet_is_waited_for(
    prefect: PrefectInFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def slow(name: str, strict: bool) -> None:
        await anyio.sleep(3)
        asked.append(name)

    monkeypatch.setattr(throttle, "rate_limit", slow)
    monkeypatch.setattr(throttle, "PATIENCE_SECONDS", 2.0)  # a busy machine may need more than a moment to answer
    await Throttle(QATechCredentials(api_token=SecretStr("x"), rate_limit_name="qatech")).wait(3600)
    assert asked == ["qatech"]
