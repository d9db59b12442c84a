"""How long runs took, kept in a Prefect variable for each test plan: `qatech_durations_<plan>`.

A variable, and not versions of an artifact, because it stays one small row: people can see it in the UI, correct it and
delete it, and nothing has to clear up behind it. It holds the last `MAX_DURATIONS` durations for each of the
`MAX_TEST_COUNTS` numbers of test cases that were seen last.

It is a help and nothing depends on it. Two flow runs that end at once may write over each other, and one duration is
lost; a variable that cannot be read, written or understood counts as empty; what takes longer than `PATIENCE_SECONDS`
is given up. A Prefect API that failed once is not asked again by the same waits: each would wait for it in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import anyio
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate, VariableUpdate
from prefect.logging import get_logger

from prefect_qatech._prefect import PATIENCE_SECONDS
from prefect_qatech.report.escape import cut_key, key_text

MAX_DURATIONS = 50
MAX_TEST_COUNTS = 8
"""Together they stay below the 5,000 characters that a variable may have."""

MAX_SECONDS = 7 * 24 * 3600.0


def variable_name(plan_short_id: str) -> str:
    """Return the name of a plan's variable, different for each plan."""
    return cut_key(f"qatech_durations_{key_text(plan_short_id, '_')}", 255)


def durations_in(value: Any) -> dict[str, list[float]]:
    """Pure: read what a variable holds, however strange; test counts that were seen last come last."""
    if not isinstance(value, Mapping):
        return {}
    durations = {
        str(count): [float(second) for second in seconds if _is_duration(second)][-MAX_DURATIONS:]
        for count, seconds in value.items()
        if isinstance(seconds, list)
    }
    return {count: seconds for count, seconds in durations.items() if seconds}


def with_duration(value: Any, test_count: int, seconds: float) -> dict[str, list[float]]:
    """Pure: add a duration to what a variable holds, and drop what is oldest."""
    durations = durations_in(value)
    seconds = round(seconds, 1) if math.isfinite(seconds) else seconds
    if not _is_duration(seconds):
        return durations
    longer = [*durations.pop(str(test_count), []), float(seconds)]
    durations[str(test_count)] = longer[-MAX_DURATIONS:]
    return dict(list(durations.items())[-MAX_TEST_COUNTS:])


def _is_duration(seconds: object) -> bool:
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    return is_number and 0 < seconds <= MAX_SECONDS  # type: ignore[operator]


class PlanHistory:
    """The durations of a plan's runs, for all waits of a task run: read once, and written one after another."""

    def __init__(self, plan_short_id: str) -> None:
        self._name = variable_name(plan_short_id)
        self._known: dict[str, list[float]] | None = None
        self._has_failed = False
        self._lock = anyio.Lock()

    async def read(self, test_count: int) -> list[float]:
        """Return the durations of the runs with that many test cases; an empty list where they cannot be read."""
        if self._has_failed:
            return []
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                async with self._lock:
                    if self._known is None:
                        async with get_client() as client:
                            variable = await client.read_variable_by_name(self._name)
                        self._known = durations_in(variable.value if variable else None)
        except Exception as error:  # a wait goes on without
            self._give_up(error)
        return (self._known or {}).get(str(test_count), [])

    async def latest_test_count(self) -> int | None:
        """Return how many test cases the plan's latest run had; None where nobody remembers."""
        await self.read(0)
        counts = [int(count) for count in self._known or {} if count.isdigit()]
        return counts[-1] if counts else None

    async def add(self, test_count: int, seconds: float) -> None:
        if self._has_failed:
            return
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                async with self._lock, get_client() as client:
                    variable = await client.read_variable_by_name(self._name)
                    value = with_duration(variable.value if variable else None, test_count, seconds)
                    if variable is None:
                        await client.create_variable(VariableCreate(name=self._name, value=value, tags=["qatech"]))
                    else:
                        await client.update_variable(VariableUpdate(name=self._name, value=value))
                    self._known = value
        except Exception as error:  # the run has ended, and that counts
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._has_failed = True
        get_logger("qatech").debug("The variable %s was left alone: %r", self._name, error)
