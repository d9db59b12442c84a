"""Flow runs and task runs are called by what they are about."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import anyio
import pytest
from prefect import Task, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

import prefect_qatech
from flows.check import check_release
from prefect_qatech import (
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechNewTestCase,
    QATechReleaseCheckRequest,
    QATechRunRequest,
    QATechStartedReleaseCheck,
    arelease_gate,
)
from prefect_qatech.gate.names import run_name
from prefect_qatech.ledger import QATechRunRecord
from tests.support import POLLING, Failing, a_report, flow_run_id

SHOP = QATechApplication(application_short_id="app_shop", environment=QATechEnvironment(url="http://127.0.0.1:8410/a"))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (("pln_a", "https://staging.example.com/x", "4f2c9e1aa07be2d1"), "pln_a on staging.example.com (4f2c9e1)"),
        (("pln_a", "https://user:secret@pr-42.example.com", None), "pln_a on pr-42.example.com"),
        (("pln_a", None, "v1.4.2"), "pln_a (v1.4.2)"),
        ((None, "no address", None), "default test plan"),
        (("pln_a", "http://[", "x\n" * 100), f"pln_a ({('x ' * 100)[:39].rstrip()}…)"),
    ],
)
def test_a_gate_is_called_by_what_it_tests_where_and_which_version(given: tuple[Any, ...], name: str) -> None:
    assert run_name(*given) == name


@pytest.mark.usefixtures("prefect_server")
async def test_lists_of_flow_runs_show_it(credentials: QATechCredentials) -> None:
    request = QATechRunRequest(test_plan_short_id="pln_green", applications=[SHOP])
    where = {"application_short_id": "app_shop", "environment_url": "http://127.0.0.1:8410"}
    states = {
        "pln_green on 127.0.0.1:8410 (v1)": await arelease_gate(
            credentials, request, target="v1", polling=POLLING, return_state=True
        ),
        "pln_green (v2)": await arelease_gate(
            credentials, "pln_green", target="v2", polling=POLLING, return_state=True
        ),
        "pln_green on 127.0.0.1:8410": check_release(
            credentials, "pln_green", polling=POLLING, return_state=True, **where
        ),
    }
    async with get_client() as client:
        for name, state in states.items():
            assert (await client.read_flow_run(state.state_details.flow_run_id)).name == name


RUN = QATechRunRecord(kind="start", run_short_id="abc", started_at=datetime(2026, 9, 1, tzinfo=timezone.utc))
CHECK = QATechReleaseCheckRequest(pr_url="https://a.b/1")
CASE = QATechNewTestCase(name="Pay", goal="Pay.", application_short_id="app_shop")
TASK_RUNS: list[tuple[str, dict[str, Any], str]] = [
    ("start_test_run", {"request": QATechRunRequest(test_plan_short_id="pln_smoke")}, "start run of pln_smoke"),
    ("start_test_run", {"request": None}, "start run"),
    ("rerun_test_run", {"run": RUN}, "start rerun of abc"),
    ("get_test_run", {"run": "abc"}, "get run abc"),
    ("wait_for_test_run", {"run": RUN}, "wait for abc"),
    ("wait_for_test_runs", {"runs": [RUN, "def"]}, "wait for 2 runs"),
    (
        "publish_gate_report",
        {"report": a_report()},
        "publish report of pln_smoke, run abc123",
    ),
    ("start_release_check", {"request": CHECK}, "start release check of https://a.b/1"),
    ("wait_for_release_check", {"check": QATechStartedReleaseCheck(short_id="chk")}, "wait for release check chk"),
    ("list_projects", {}, "list projects"),
    ("list_applications", {}, "list applications"),
    ("list_environments", {"application_short_id": "app_shop"}, "list environments of app_shop"),
    ("list_test_cases", {"application_short_id": None}, "list test cases"),
    ("list_builds", {"application_short_id": "app_shop"}, "list builds of app_shop"),
    ("list_outbound_ips", {}, "list outbound IPs"),
    ("get_test_case_trace", {"run_test_case_short_id": "t1"}, "get trace of t1"),
    ("create_test_case", {"request": CASE}, "create test case Pay"),
    ("upload_build", {"path": Path("builds/shop.apk")}, "upload shop.apk"),
]


@pytest.mark.parametrize(("name", "parameters", "wanted"), TASK_RUNS)
@pytest.mark.parametrize("version", ["", "a"], ids=["sync", "async"])
def test_the_name_of_a_task_run_says_what_about_which_object(
    version: str, name: str, parameters: dict[str, Any], wanted: str
) -> None:
    name_of = getattr(prefect_qatech, f"{version}{name}").task_run_name
    assert (name_of if isinstance(name_of, str) else name_of(parameters)) == wanted
    if not isinstance(name_of, str):
        for wrong in (None, object(), 7, b"x", [], "a\nb" * 200):
            assert len(name_of(dict.fromkeys(parameters, wrong))) < 150, "what is wrong is for the task to say"


def test_every_task_has_such_a_name() -> None:
    tasks = {name for name in prefect_qatech.__all__ if isinstance(getattr(prefect_qatech, name), Task)}
    assert tasks == {f"{version}{name}" for version in ("", "a") for name, *_ in TASK_RUNS}


@pytest.mark.usefixtures("prefect_server")
async def test_task_runs_say_which_run_they_start_and_which_they_resume(credentials: QATechCredentials) -> None:
    """A gate that wakes, or is retried, shows no second start."""
    step = Failing()
    seen: list[Any] = []

    @flow(retries=1)
    async def user() -> None:
        report = await arelease_gate.fn(credentials, "pln_flaky", target="v1", polling=POLLING)
        seen.append((flow_run_id(), report.plan_name, [attempt.run_short_id for attempt in report.attempts]))
        step()

    await user()
    own, plan, (first, rerun) = seen[0]
    wanted = [
        *[f"publish report of {plan}, run {rerun}"] * 2,
        *(f"start run {first}", f"wait for {first}", f"start rerun {rerun}", f"wait for {rerun}"),
        *(f"resume run {first}", f"wait for {first}", f"resume rerun {rerun}", f"wait for {rerun}"),
    ]

    # The server notes them a moment later.
    names: list[str] = []
    for _ in range(600):
        async with get_client() as client:
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[own]))
            names = [task_run.name for task_run in await client.read_task_runs(flow_run_filter=mine)]
        if sorted(names) == sorted(wanted):
            return
        await anyio.sleep(0.2)
    pytest.fail(f"{names} are not {wanted}")
