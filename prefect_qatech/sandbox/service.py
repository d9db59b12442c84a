"""The sandbox's whole state, on which the routes work and which `Sandbox` calls directly, from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydantic import TypeAdapter

from prefect_qatech.sandbox.builds import Builds
from prefect_qatech.sandbox.checks import carry_out_check
from prefect_qatech.sandbox.clock import Clock
from prefect_qatech.sandbox.engine import Engine, SandboxCounts
from prefect_qatech.sandbox.faults import Fault, Faults
from prefect_qatech.sandbox.release_checks import ReleaseChecks
from prefect_qatech.sandbox.runs import Execution, Run
from prefect_qatech.sandbox.scenario import SandboxScenario

__all__ = ["Service"]

_FAULTS = TypeAdapter(list[Fault])
# A page that hangs must not hang the answer: the test stays RUNNING, and the next poll finds the result.
MAX_WAIT_FOR_CHECKS_SECONDS = 2.0


class Service:
    """The sandbox's whole state; `lock` is held by whoever works on the engine."""

    def __init__(
        self, scenario: SandboxScenario, *, speed: float = 60.0, seed: int | None = 0, base_url: str = ""
    ) -> None:
        self.lock = threading.RLock()
        self.scenario = scenario
        self._speed, self._seed, self._base_url = speed, seed, base_url
        self.reset()

    def reset(self) -> None:
        """Forget all runs, counts and requests; the scenario's own faults and limits apply again."""
        with self.lock:
            self.engine = Engine(self.scenario, Clock(self._speed), seed=self._seed, base_url=self._base_url)
            self.builds = Builds(self.engine)
            self.release_checks = ReleaseChecks(self.engine)
            self.faults = Faults(self.scenario.faults)
            self.log: deque[dict[str, Any]] = deque(maxlen=1000)
            self.checks: dict[Execution, asyncio.Task[None]] = {}

    def counts(self) -> SandboxCounts:
        """Return a copy of the counts."""
        with self.lock:
            return deepcopy(self.engine.counts)

    def requests(self) -> list[dict[str, Any]]:
        """Return the last requests."""
        with self.lock:
            return [dict(entry) for entry in self.log]

    def runs(self) -> list[dict[str, Any]]:
        """Return all runs as they are now."""
        with self.lock:
            for run in self.engine.runs.values():
                run.settle(self.engine.clock.now())
            return [self.engine.summary(run) for run in self.engine.runs.values()]

    def set_faults(self, faults: Sequence[Mapping[str, Any] | Fault]) -> None:
        """Replace the faults."""
        checked = _FAULTS.validate_python([*faults])
        with self.lock:
            self.faults.replace(checked)

    def set_usage_limit(self, remaining: int | None) -> None:
        """Set how many test executions are left; None is no limit."""
        if remaining is not None and (isinstance(remaining, bool) or not isinstance(remaining, int) or remaining < 0):
            raise ValueError(f"remaining test executions: a number from 0, or none at all, not {remaining!r}")
        with self.lock:
            self.engine.remaining = remaining

    def advance(self, seconds: float) -> None:
        """Move the manual clock on."""
        with self.lock:
            self.engine.clock.advance(seconds)

    async def settle(self, run: Run) -> None:
        """Bring a run up to now, real checks included."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + MAX_WAIT_FOR_CHECKS_SECONDS
        while True:
            with self.lock:
                now = self.engine.clock.now()
                run.settle(now)
                for execution in run.due_checks(now):
                    self.checks[execution] = loop.create_task(self._check(run, execution))
                waiting = [self.checks[execution] for execution in run.executions if execution in self.checks]
            if not waiting or loop.time() >= deadline:
                return
            await asyncio.wait(waiting, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    async def _check(self, run: Run, execution: Execution) -> None:
        engine, checks = self.engine, self.checks
        check = execution.case.http
        assert check is not None  # noqa: S101  # only such an execution has a check that is due
        engine.counts["http_checks"] += 1
        try:
            execution.check = await carry_out_check(check, engine.test_url(run, check.application))
        finally:
            checks.pop(execution, None)
