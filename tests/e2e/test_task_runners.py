"""Our tasks in the processes that Prefect itself can take them to: a process pool and a task worker.

Dask and Ray are in `tests/runners`, which needs more packages.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from prefect_qatech import QATechCredentials
from prefect_qatech.sandbox import Sandbox
from tests.e2e.elsewhere import (
    TOKEN,
    Elsewhere,
    check_campaign,
    check_errors,
    check_no_token,
    counted,
    scenario,
)
from tests.e2e.world import World, eventually


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    world = World(tmp_path_factory.mktemp("elsewhere"))
    try:
        world.start_server()
        with Sandbox(scenario(), speed=60) as sandbox:
            yield Elsewhere(world, sandbox)
    finally:
        world.stop_everything()


@pytest.fixture(autouse=True)
def sandbox(elsewhere: Elsewhere) -> Sandbox:
    elsewhere.sandbox.reset()
    return elsewhere.sandbox


@pytest.fixture(scope="module")
def task_worker(elsewhere: Elsewhere) -> Iterator[None]:
    world = elsewhere.world
    world.spawn("task-worker", sys.executable, "-m", "tests.e2e.runner_flows", "serve")
    eventually(lambda: world.post("/task_workers/filter", {}), "the task worker's subscription")
    yield
    world.stop("task-worker")


def test_a_campaign_in_a_process_pool(elsewhere: Elsewhere) -> None:
    check_campaign(elsewhere, "process-pool")
    check_no_token(elsewhere.world.home)


def test_errors_come_back_from_a_process_pool(elsewhere: Elsewhere) -> None:
    check_errors(elsewhere, "process-pool")
    check_no_token(elsewhere.world.home)


@pytest.mark.usefixtures("task_worker")
def test_delayed_tasks_run_on_a_task_worker(elsewhere: Elsewhere, sandbox: Sandbox) -> None:
    outcome = elsewhere.run("task-worker", "delayed")
    first, equal, labelled = outcome["runs"]
    assert first == equal, "one label is one run"
    assert labelled != first
    # Each look was a look: none came from a cache, which a task worker of Prefect's gives a task without one.
    assert outcome["looks"] == [["Completed", first]] * 4
    assert sandbox.counts()["requests"]["GET /v1/run/{shortId}"] >= 5
    assert (outcome["waited"], outcome["error"]["type"], outcome["error"]["status"]) == ("FAILED", "NotFoundError", 404)
    assert counted(sandbox) == (2, 1, 4)
    parameters = list((elsewhere.world.home / "storage" / "parameters").iterdir())
    assert len(parameters) == 10, "the parameters of each delayed task are stored"
    assert check_no_token(elsewhere.world.home) > 20


@pytest.mark.usefixtures("task_worker")
def test_outside_of_a_flow_run_each_delayed_start_is_a_run(elsewhere: Elsewhere, sandbox: Sandbox) -> None:
    one, other = elsewhere.run("task-worker", "delayed_without_a_flow")
    assert one != other
    assert counted(sandbox) == (2, 0, 2)
    check_no_token(elsewhere.world.home)


@pytest.mark.parametrize("shift", range(3))
def test_a_token_in_a_stored_pickle_would_be_found(tmp_path: Path, shift: int) -> None:
    stored = base64.encodebytes(b"x" * shift + cloudpickle.dumps({"credentials": TOKEN}))
    (tmp_path / "parameters").write_text(repr({"result": stored.decode()}))
    with pytest.raises(AssertionError, match="parameters"):
        check_no_token(tmp_path)
    (tmp_path / "parameters").write_bytes(cloudpickle.dumps(QATechCredentials(api_token=TOKEN)))
    assert check_no_token(tmp_path) == 1
