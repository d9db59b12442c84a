"""The blocks of those who configure in the UI, against the sandbox, on a real Prefect server."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from prefect import flow

from prefect_qatech import (
    GateFailed,
    GateInconclusive,
    GatePolicy,
    GateReport,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechError,
    QATechTestPlan,
    QATechTestRun,
    TestVerdict,
)
from prefect_qatech.sandbox import Sandbox
from tests.support import POLLING, Failing, cases, counted, credentials_for, one_plan, posts

pytestmark = pytest.mark.usefixtures("prefect_server")


def a_plan(sandbox: Sandbox, plan: str | None = "pln_green", **fields: Any) -> QATechTestPlan:
    return QATechTestPlan(
        **{"credentials": credentials_for(sandbox), "test_plan_short_id": plan, "polling": POLLING, **fields}
    )


def do(plan: QATechTestPlan, version: str) -> GateReport:
    """Trigger, wait and fetch in a flow."""

    @flow
    def sync_job() -> GateReport:
        run = plan.trigger()
        run.wait_for_completion()
        return run.fetch_result()

    @flow
    async def async_job() -> GateReport:
        run = await plan.atrigger()
        await run.await_for_completion()
        return await run.afetch_result()

    return sync_job() if version == "sync" else asyncio.run(async_job())


versions = pytest.mark.parametrize("version", ["sync", "async"])


@pytest.mark.parametrize(
    ("version", "plan", "tests", "reruns"), [("sync", "pln_green", 5, 0), ("async", "pln_flaky", 3, 1)]
)
def test_a_job_is_a_gate_on_the_run_that_was_triggered(
    sandbox: Sandbox, version: str, plan: str, tests: int, reruns: int
) -> None:
    report = do(a_plan(sandbox, plan), version)
    assert report.passed
    assert report.plan_short_id == plan
    assert [(attempt.kind, attempt.test_count) for attempt in report.attempts][:1] == [("start", tests)]
    flaky = [test.name for test in report.tests_with(TestVerdict.FLAKY)]
    assert flaky == ["Apply a voucher"] * reruns
    assert counted(sandbox) == (1, reruns)


def test_only_a_pass_gives_a_result_and_the_policy_says_how_often_is_rerun(sandbox: Sandbox) -> None:
    with pytest.raises(GateFailed, match="Pay with a credit card"):
        do(a_plan(sandbox, "pln_broken", policy=GatePolicy(max_reruns=0)), "async")
    assert counted(sandbox) == (1, 0)
    with pytest.raises(GateInconclusive, match="deadline"):
        do(a_plan(sandbox, "pln_never", policy=GatePolicy(deadline_seconds=1)), "sync")


@versions
async def test_there_is_no_result_before_the_end(sandbox: Sandbox, version: str) -> None:
    plan = a_plan(sandbox)
    run = plan.trigger() if version == "sync" else await plan.atrigger()
    with pytest.raises(QATechError, match="wait_for_completion") as caught:
        _ = run.fetch_result() if version == "sync" else await run.afetch_result()
    assert caught.value.run_short_id == run.run_short_id


def test_jobs_side_by_side_stay_apart_on_a_retry(sandbox: Sandbox) -> None:
    step = Failing(1)
    order = ["one", "two"]
    seen: list[dict[str, str | None]] = []

    @flow(retries=1)
    async def both() -> None:
        runs = {name: await a_plan(sandbox).atrigger("v1", label=name) for name in order}
        await asyncio.gather(*(run.await_for_completion() for run in runs.values()))
        seen.append({name: runs[name].fetch_result().run_short_id for name in sorted(runs)})
        order.reverse()
        step()

    asyncio.run(both())
    assert counted(sandbox) == (2, 0)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(set(seen[0].values())) == 2


def test_two_jobs_one_after_the_other_are_two_runs(sandbox: Sandbox) -> None:
    @flow
    def twice() -> list[str]:
        return [a_plan(sandbox).trigger().run_short_id for _ in range(2)]

    assert len(set(twice())) == 2
    assert counted(sandbox) == (2, 0)


def test_test_cases_that_were_promised_and_never_listed_are_no_pass() -> None:
    plan = one_plan(cases("passed"), test_count_offset=1)
    with Sandbox(plan, speed=2000) as sandbox, pytest.raises(GateInconclusive):
        do(a_plan(sandbox, "pln_one", policy=GatePolicy(max_reruns=0)), "sync")


async def test_outside_a_flow_each_trigger_starts_a_run(sandbox: Sandbox) -> None:
    plan = a_plan(sandbox, "pln_flaky")
    run = plan.trigger()
    run.wait_for_completion()
    assert run.fetch_result().passed
    run = await plan.atrigger()
    await run.await_for_completion()
    assert (await run.afetch_result()).passed
    assert counted(sandbox) == (2, 2)


async def test_what_was_configured_and_saved_is_what_is_run(sandbox: Sandbox) -> None:
    staging = QATechEnvironment(url="http://127.0.0.1:8410", name="Staging")
    plan = a_plan(
        sandbox,
        applications=[QATechApplication(application_short_id="app_shop", environment=staging)],
        policy=GatePolicy(
            max_reruns=1, quarantine={"Sign out": {"reason": "r", "owner": "o", "expires": "2030-01-01"}}
        ),
    )
    # A block in a block keeps its token only where it was saved itself.
    await plan.credentials.asave("for-checkout", overwrite=True)
    await plan.asave("checkout", overwrite=True)
    loaded = await QATechTestPlan.aload("checkout")
    fields = set(QATechTestPlan.model_fields) - {"credentials"}
    assert loaded.model_dump(include=fields) == plan.model_dump(include=fields)
    await loaded.atrigger()
    assert [request["body"] for request in posts(sandbox)] == [
        {
            "trigger": "API",
            "testPlanShortId": "pln_green",
            "applications": [
                {
                    "applicationShortId": "app_shop",
                    "environment": {"url": "http://127.0.0.1:8410", "name": "Staging"},
                }
            ],
        }
    ]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"test_plan_short_id": "check out"}, "test_plan_short_id: 'check out' has blanks"),
        ({"credentials": {"api_token": ""}}, "the API token is empty"),
    ],
)
def test_a_plan_that_cannot_be_run_cannot_be_made(sandbox: Sandbox, fields: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        a_plan(sandbox, **{"plan": None, **fields})
    assert posts(sandbox) == []


@versions
async def test_a_mask_for_a_token_starts_nothing(sandbox: Sandbox, version: str) -> None:
    plan = a_plan(sandbox, credentials=credentials_for(sandbox, api_token="**********"))
    with pytest.raises(ValueError, match="carries no secrets"):
        _ = plan.trigger() if version == "sync" else await plan.atrigger()
    assert posts(sandbox) == []


def test_a_job_shows_its_run_and_no_token(sandbox: Sandbox) -> None:
    run = a_plan(sandbox).trigger()
    assert run.run_url is not None
    assert run.run_short_id in repr(run)
    assert sandbox.token not in repr(run) + repr(run.plan)


@pytest.mark.parametrize(
    ("owner", "sync", "version"),
    [
        (QATechTestPlan, "trigger", "atrigger"),
        (QATechTestRun, "wait_for_completion", "await_for_completion"),
        (QATechTestRun, "fetch_result", "afetch_result"),
    ],
)
def test_twins_take_the_same(owner: type, sync: str, version: str) -> None:
    assert inspect.signature(getattr(owner, sync)) == inspect.signature(getattr(owner, version))
    assert not inspect.iscoroutinefunction(getattr(owner, sync))
    assert inspect.iscoroutinefunction(getattr(owner, version))


def test_the_form_of_the_block_asks_for_what_is_needed() -> None:
    schema = QATechTestPlan.model_json_schema()
    assert schema["block_type_slug"] == "qatech-test-plan"
    assert schema["required"] == ["credentials"]
    assert (
        schema["block_schema_references"]["credentials"]["block_type_slug"] == QATechCredentials.get_block_type_slug()
    )
    assert set(schema["properties"]) == {"credentials", "test_plan_short_id", "applications", "policy", "polling"}
    assert schema["properties"]["policy"]["default"]["max_reruns"] == GatePolicy().max_reruns
