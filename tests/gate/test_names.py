"""Flow runs and task runs are called by what they are about."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from flows.check import check_release
from prefect_qatech import (
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechPolling,
    QATechRunRequest,
    arelease_gate,
)
from prefect_qatech.gate.names import run_name
from tests.support import Failing, flow_run_id

POLLING = QATechPolling(first_seconds=0.05, max_seconds=0.2)
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


@pytest.mark.usefixtures("prefect_server")
async def test_task_runs_say_which_run_they_start_and_which_they_resume(credentials: QATechCredentials) -> None:
    """A gate that wakes, or is retried, shows no second start."""
    step = Failing()
    seen: list[Any] = []

    @flow(retries=1)
    async def user() -> None:
        report = await arelease_gate.fn(credentials, "pln_flaky", target="v1", polling=POLLING)
        seen.append((flow_run_id(), [attempt.run_short_id for attempt in report.attempts]))
        step()

    await user()
    own, (first, rerun) = seen[0]
    wanted = [
        *(f"start run {first}", f"wait for {first}", f"start rerun {rerun}", f"wait for {rerun}"),
        *(f"resume run {first}", f"wait for {first}", f"resume rerun {rerun}", f"wait for {rerun}"),
    ]

    # The server notes them a moment later.
    names: list[str] = []
    for _ in range(50):
        async with get_client() as client:
            mine = FlowRunFilter(id=FlowRunFilterId(any_=[own]))
            names = [task_run.name for task_run in await client.read_task_runs(flow_run_filter=mine)]
        if sorted(name for name in names if "publish" not in name) == sorted(wanted):
            return
        await anyio.sleep(0.2)
    pytest.fail(f"{names} are not {wanted}")
