"""A gate at work without a flow run, for what the flow changes nothing of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from prefect_qatech import (
    GatePolicy,
    GateReport,
    QATechCredentials,
    QATechReleaseCheck,
    QATechReleaseCheckRequest,
    QATechRunRecord,
    QATechRunRequest,
    QATechStartedReleaseCheck,
    astart_release_check,
    await_for_release_check,
)
from prefect_qatech.cli.disk import RunJournal
from prefect_qatech.cli.display import Display
from prefect_qatech.cli.steps import TerminalSteps
from prefect_qatech.gate import details, steps
from prefect_qatech.gate.campaign import GateCampaign
from prefect_qatech.sandbox import Sandbox
from tests.support import POLLING, credentials_for

Judge = Callable[..., Awaitable[GateReport]]


@dataclass
class CheckSteps:
    """The steps of a release check, of which nothing is on record."""

    credentials: QATechCredentials
    request: QATechReleaseCheckRequest

    async def has_started_check(self, first: QATechRunRecord) -> bool:
        return False

    async def start_check(self, first: QATechRunRecord, seconds_left: float) -> QATechStartedReleaseCheck:
        return await astart_release_check.fn(self.credentials, self.request)

    async def wait_for_check(self, check: QATechStartedReleaseCheck, seconds_left: float) -> QATechReleaseCheck:
        return await await_for_release_check.fn(self.credentials, check, seconds_left, polling=POLLING)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps between attempts."""
    monkeypatch.setattr(details, "FIRST_PAUSE_SECONDS", 0.05)
    for name in ("astart_in_campaign", "arerun_in_campaign", "astart_release_check"):
        monkeypatch.setattr(steps, name, getattr(steps, name).with_options(retry_delay_seconds=0))


def set_clock(patch: pytest.MonkeyPatch, hours: float) -> None:
    """Let the clock of this machine be ahead of that of Prefect's server."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=hours)

    for module in ("_prefect", "gate.approval", "gate.suspend", "gate.watcher"):
        patch.setattr(f"prefect_qatech.{module}.datetime", Clock, raising=False)


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Run a campaign to its report, with the steps that it has at a terminal."""

    async def judge(
        sandbox: Sandbox,
        plan: str = "pln_one",
        policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen
        check: QATechReleaseCheckRequest | None = None,
    ) -> GateReport:
        credentials = credentials_for(sandbox)
        at_terminal = TerminalSteps(
            credentials,
            RunJournal(tmp_path / "journal", {}),
            Display(),
            policy.deadline_seconds,
            start=lambda client: client.start_run(QATechRunRequest(test_plan_short_id=plan)),
            polling=POLLING,
        )
        beside = CheckSteps(credentials, check) if check is not None else None
        return await GateCampaign(at_terminal, policy, check=beside).run()

    return judge
