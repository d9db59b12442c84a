"""Durations of past runs are kept small, and no fault of theirs reaches a wait."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import anyio
import pytest
from hypothesis import given, strategies as st
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.variables import Variable

from prefect_qatech.report import plan_durations
from prefect_qatech.report.plan_durations import MAX_DURATIONS, PlanHistory, durations_in, variable_name, with_duration

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.integers(0, 10**6), st.floats())
def test_whatever_a_variable_holds_it_can_be_added_to(value: Any, count: int, seconds: float) -> None:
    kept = with_duration(value, count, seconds)
    assert durations_in(kept) == kept
    if 0.1 < seconds < 1000:
        assert kept[str(count)][-1] == round(seconds, 1)


def test_it_stays_small() -> None:
    value: Any = None
    for number in range(2_000):
        value = with_duration(value, 1000 + number % 50, 600_000 + number / 7)
    assert len(json.dumps(value)) < 5_000, "Prefect takes no longer values"
    assert list(value)[-1] == str(1000 + 1999 % 50)
    assert all(len(durations) <= MAX_DURATIONS for durations in value.values())


@pytest.mark.parametrize("plan", ["pln_smoke", "pln-Smoke/../x", "ä" * 400, ""])
def test_names_that_prefect_takes(plan: str) -> None:
    name = variable_name(plan)
    assert VariableCreate(name=name, value={}).name == name


@pytest.fixture
def plan(prefect_server: None) -> str:
    """A plan that nobody has run."""
    return f"pln_{uuid4().hex}"


async def test_what_is_added_is_read(plan: str) -> None:
    past = PlanHistory(plan)
    assert await past.read(6) == []
    for seconds in (300, 310.04, 320):
        await past.add(6, seconds)
    await past.add(2, 40)
    assert await past.read(6) == [300, 310, 320]
    assert await past.read(2) == [40]
    assert await past.read(7) == []
    assert await PlanHistory(f"{plan}2").read(6) == []


async def test_a_variable_that_holds_something_else_is_empty(plan: str) -> None:
    await Variable.aset(variable_name(plan), "what is this?")
    past = PlanHistory(plan)
    assert await past.read(6) == []
    await past.add(6, 300)
    assert await past.read(6) == [300]


async def test_a_server_that_fails_disturbs_nobody(plan: str) -> None:
    with patch.object(plan_durations, "get_client", side_effect=RuntimeError("down")):
        assert await PlanHistory(plan).read(6) == []
        await PlanHistory(plan).add(6, 300)


async def test_a_server_that_hangs_disturbs_nobody_for_long(plan: str) -> None:
    class Hanging:
        async def __aenter__(self) -> None:
            await anyio.sleep(3600)

        async def __aexit__(self, *args: object) -> None: ...

    with patch.object(plan_durations, "get_client", Hanging), patch.object(plan_durations, "PATIENCE_SECONDS", 0.05):
        assert await PlanHistory(plan).read(6) == []
        await PlanHistory(plan).add(6, 300)


async def test_a_server_that_failed_is_not_asked_again_by_the_same_waits(plan: str) -> None:
    past = PlanHistory(plan)
    with patch.object(plan_durations, "get_client", side_effect=RuntimeError("down")) as asked:
        for _ in range(3):
            assert await past.read(6) == []
            await past.add(6, 300)
    assert asked.call_count == 1


async def test_waits_that_end_at_once_lose_a_duration_at_most(plan: str) -> None:
    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(PlanHistory(plan).add, 6, 300 + number)
    kept = await PlanHistory(plan).read(6)
    assert kept
    assert set(kept) <= {300, 301, 302, 303, 304}
    async with get_client() as client:
        assert await client.read_variable_by_name(variable_name(plan)) is not None
