"""Names and labels in flows: looked up before anything is sent, and never in the way of what is on record."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow

from prefect_qatech import (
    GatesNotPassed,
    InvalidInputError,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechNewTestCase,
    QATechPolling,
    QATechRegression,
    QATechReleaseCheckRequest,
    QATechRunRecord,
    QATechRunRequest,
    QATechTestPlan,
    ServerError,
    acreate_test_case,
    agather_gates,
    alist_environments,
    aread_ledger,
    arelease_gate,
    arerun_test_run,
    astart_release_check,
    astart_test_run,
    await_for_test_run,
    gather_gates,
    task_options,
)
from prefect_qatech.api import lists
from prefect_qatech.cli import main
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.verdict.rerun import Rerun, next_rerun
from tests.support import POLLING, Failing, counted, credentials_for, fault, flow_run_id, posts

pytestmark = pytest.mark.usefixtures("prefect_server")

WHERE = QATechApplication(application_short_id="Northwind Shop", environment=QATechEnvironment(short_id="Production"))
BY_NAME = QATechRunRequest(test_plan_short_id="pln_green", applications=[WHERE])
BY_ID = {"applicationShortId": "app_shop", "environment": {"shortId": "env_production"}}
SMOKE = QATechRunRequest(labels=["smoke"])
CHECK_OF_UNKNOWN = QATechReleaseCheckRequest(regression=QATechRegression(test_case_ids=["Sign uot"]))
UNKNOWN = QATechRunRequest(applications=[QATechApplication(application_short_id="Northwind Shp")])


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_projects", {})
    monkeypatch.setattr(task_options, "RETRY_DELAYS_SECONDS", [0.0])


def gets(sandbox: Sandbox, path: str) -> int:
    asked = [one["path"].partition("?")[0] for one in sandbox.requests() if one["method"] == "GET"]
    return asked.count(f"/v1/{path}")


async def test_a_start_a_rerun_and_a_release_check_take_names(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    regression = QATechRegression(test_case_ids=["Sign out"])

    @flow
    async def user() -> None:
        run = await astart_test_run(credentials, BY_NAME)
        await arerun_test_run(credentials, run, test_case_ids=["Sign out"])
        check = QATechReleaseCheckRequest(regression=regression, application_overrides=[WHERE])
        await astart_release_check(credentials, check)

    await user()
    start, rerun, check = posts(sandbox)
    assert start["body"]["applications"] == check["body"]["applicationOverrides"] == [BY_ID]
    [sign_out] = rerun["body"]["projectTestCaseIds"]
    assert str(UUID(sign_out)) == sign_out
    assert check["body"]["regression"]["testCaseIds"] == [sign_out]
    assert counted(sandbox) == (1, 1)


async def test_outside_a_flow_run_names_work_as_well(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    await astart_test_run(credentials, BY_NAME)
    assert posts(sandbox)[0]["body"]["applications"] == [BY_ID]


async def test_an_unknown_name_fails_before_anything_is_sent(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    new = QATechNewTestCase(name="x", goal="y", application_short_id="Northwind Shp")
    calls: dict[str, Any] = {
        "start": lambda: astart_test_run(credentials, UNKNOWN),
        "rerun": lambda: arerun_test_run(credentials, "abc123", test_case_ids=["Sign uot"]),
        "gate": lambda: arelease_gate(credentials, UNKNOWN),
        "gates": lambda: agather_gates(credentials, {"one": UNKNOWN, "two": UNKNOWN}),
        "plan": lambda: QATechTestPlan(credentials=credentials, applications=UNKNOWN.applications).atrigger(),
        "labels": lambda: astart_test_run(credentials, QATechRunRequest(labels=["smokey"])),
        "test case": lambda: astart_test_run(credentials, QATechRunRequest(test_case_ids=["Sign uot"])),
        "create": lambda: acreate_test_case(credentials, new),
        "release check": lambda: astart_release_check(credentials, CHECK_OF_UNKNOWN),
        "gate with a release check": lambda: arelease_gate(credentials, "pln_green", release_check=CHECK_OF_UNKNOWN),
    }
    ids: list[UUID] = []

    @flow
    async def user() -> None:
        ids.append(flow_run_id())
        for how, call in calls.items():
            expected = GatesNotPassed if how == "gates" else InvalidInputError
            with pytest.raises(expected, match=r"Northwind Shop|Sign out|smoke"):
                await call()
            assert posts(sandbox) == [], how
            assert await aread_ledger(ids[0]) == [], how

    await user()


async def test_a_retry_finds_its_run_also_where_the_catalogue_cannot_be_asked(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    step = Failing(1)
    found: list[QATechRunRecord] = []

    @flow(retries=1)
    async def user() -> None:
        found.append(await astart_test_run(credentials, BY_NAME))
        found.append(await astart_test_run(credentials, SMOKE))
        sandbox.set_faults(
            [
                {"on": {"method": "GET", "path": path}, "kind": "status", "status": 500, "times": -1}
                for path in ("applications", "environments", "test_cases")
            ]
        )
        step()

    try:
        await user()
    finally:
        sandbox.clear_faults()
    assert step.calls == 2
    assert [record.run_short_id for record in found[:2]] == [record.run_short_id for record in found[2:]]
    assert counted(sandbox) == (2, 0)


async def test_a_flow_run_asks_once_also_for_gates_side_by_side(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling
) -> None:
    step = Failing(1)

    @flow(retries=1)
    async def user() -> None:
        await agather_gates(credentials, {str(number): BY_NAME for number in range(2)}, polling=polling, target="v1")
        await astart_test_run(credentials, BY_NAME, target="v2")
        step()

    await user()
    assert counted(sandbox) == (3, 0)
    assert (gets(sandbox, "applications"), gets(sandbox, "applications/app_shop/environments")) == (1, 1)


async def test_what_this_very_flow_run_has_made_is_found(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    new = QATechNewTestCase(name="Pay by card", goal="Pay.", application_short_id="Northwind Shop")

    @flow
    async def user() -> None:
        await astart_test_run(credentials, QATechRunRequest(test_case_ids=["Sign out"]))
        created = await acreate_test_case(credentials, new)
        await astart_test_run(credentials, QATechRunRequest(test_case_ids=["Pay by card"]))
        assert posts(sandbox)[-1]["body"]["testCaseIds"] == [created.id]

    await user()


async def test_labels_say_what_a_gate_runs(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling
) -> None:
    report = await arelease_gate(credentials, SMOKE, polling=polling)
    assert report.passed
    assert [test.name for test in report.tests] == ["Sign in with a password"]
    [start] = posts(sandbox)
    assert set(start["body"]) == {"trigger", "testCaseIds"}


async def test_an_application_says_what_is_run(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    @flow
    async def user() -> None:
        await astart_test_run(credentials, QATechRunRequest(application_short_id="Northwind Shop"))

    await user()
    assert len(posts(sandbox)[0]["body"]["testCaseIds"]) > 5


async def test_gates_and_plans_take_names(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling
) -> None:
    plan = QATechTestPlan(
        credentials=credentials, test_plan_short_id="pln_green", applications=[WHERE], polling=polling
    )

    @flow
    def user() -> None:
        gather_gates(credentials, {"one": BY_NAME}, polling=polling)
        run = plan.trigger()
        run.wait_for_completion()
        assert run.fetch_result().passed

    await asyncio.to_thread(user)
    assert [post["body"]["applications"] for post in posts(sandbox)] == [[BY_ID], [BY_ID]]


async def test_the_reruns_of_a_gate_are_never_taken_for_names(
    sandbox: Sandbox, credentials: QATechCredentials, polling: QATechPolling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_qatech.api.names.looks_like_id", lambda text, kind: False)
    monkeypatch.setattr("prefect_qatech.gate.campaign.next_rerun", _explicit)
    report = await arelease_gate(credentials, "pln_flaky", polling=polling)
    assert report.passed
    assert gets(sandbox, "test-cases") == 0
    assert counted(sandbox) == (1, 1)


def _explicit(campaign: Any, *args: Any, **kwargs: Any) -> Any:
    """Ask for test cases by their ids, as a gate does from its second rerun on."""
    found = next_rerun(campaign, *args, **kwargs)
    return replace(found, kind="test_cases") if isinstance(found, Rerun) else found


async def test_a_look_at_the_catalogue_is_repeated_and_leaves_no_intent(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    on = {"method": "GET", "path": "applications"}
    ids: list[UUID] = []

    @flow
    async def user() -> None:
        ids.append(flow_run_id())
        await astart_test_run.with_options(retry_delay_seconds=0)(credentials, BY_NAME)

    sandbox.set_faults([{"on": on, "kind": "status", "status": 502, "times": 2}])
    await user()
    assert counted(sandbox) == (1, 0)
    sandbox.set_faults([{"on": on, "kind": "status", "status": 502, "times": -1}])
    with pytest.raises(ServerError):
        await user()
    sandbox.clear_faults()
    assert await aread_ledger(ids[1]) == []


async def test_a_project_by_its_name(sandbox: Sandbox, polling: QATechPolling) -> None:
    credentials = credentials_for(sandbox, project_short_id="Demo")
    sandbox.set_faults(fault({"kind": "status", "status": 429}, "start"))

    @flow
    async def user() -> None:
        run = await astart_test_run.with_options(retry_delay_seconds=0)(credentials, "pln_green")
        ended = await await_for_test_run(credentials, run, polling=polling)
        assert ended.result == "PASSED"
        await arerun_test_run(credentials, run)

    await user()
    assert [post["body"]["projectShortId"] for post in posts(sandbox)] == ["proj_demo"] * 3
    assert gets(sandbox, "projects") == 1


async def test_a_project_that_is_not_there_leaves_no_trace(sandbox: Sandbox) -> None:
    credentials = credentials_for(sandbox, project_short_id="Demoo")
    ids: list[UUID] = []

    @flow
    async def user() -> None:
        ids.append(flow_run_id())
        await astart_test_run(credentials, "pln_green")

    with pytest.raises(InvalidInputError, match="no project 'Demoo'; did you mean 'Demo'"):
        await user()
    assert posts(sandbox) == []
    assert await aread_ledger(ids[0]) == []


async def test_lists_take_names(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    found = await alist_environments(credentials, "Northwind Shop")
    assert [saved.name for saved in found] == ["Staging", "Production"]


# --- at a terminal


def command(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> int:
    monkeypatch.setenv("QATECH_API_URL", sandbox.url)
    monkeypatch.setenv("QATECH_API_TOKEN", sandbox.token)
    monkeypatch.setattr("prefect_qatech.cli.run.POLLING", POLLING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["prefect-qatech", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_command_takes_names_and_labels(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "Northwind Shop=Production"
    run = ("run", "--plan", "pln_green", "--environment", place, "--target", "v1")
    assert command(sandbox, monkeypatch, tmp_path, *run) == 0
    assert command(sandbox, monkeypatch, tmp_path, "run", "--label", "smoke", "--application", "Northwind Shop") == 0
    base = sandbox.runs()[0]["short_id"]
    assert command(sandbox, monkeypatch, tmp_path, "rerun", base, "--test-case", "Sign out") == 0
    by_id, by_label, rerun = posts(sandbox)
    assert by_id["body"]["applications"] == [BY_ID]
    assert len(by_label["body"]["testCaseIds"]) == 1
    assert len(rerun["body"]["projectTestCaseIds"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--label", "smokey"),
        ("run", "--test-case", "Sign uot"),
        ("run", "--url", "Northwind Shp=https://x.example"),
        ("rerun", "abc123", "--test-case", "Sign uot"),
    ],
)
def test_a_command_with_an_unknown_name_starts_nothing_and_can_be_corrected(
    arguments: tuple[str, ...],
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        assert command(sandbox, monkeypatch, tmp_path, *arguments, "--json") == 3
        assert json.loads(capsys.readouterr().out)["error"] == "InvalidInputError"
    assert posts(sandbox) == []
