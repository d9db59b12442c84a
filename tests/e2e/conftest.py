from __future__ import annotations

import sys
from collections.abc import Iterator
from subprocess import Popen
from uuid import UUID

import pytest

from prefect_qatech.sandbox import Sandbox
from tests.e2e.world import AT_ONCE, POOL, World

FLOWS = (
    "sync_gate",
    "async_gate",
    "two_equal_gates",
    "sync_wait",
    "submitted_wait",
    "submitted_waits",
    "async_wait",
    "async_submitted_wait",
)


class Deployed:
    """A world with a worker, a sandbox, and the flows of tests/e2e/flows.py deployed to test it."""

    def __init__(self, world: World, sandbox: Sandbox) -> None:
        self.world = world
        self.sandbox = sandbox
        self.env = {
            "QATECH_API_TOKEN": sandbox.token,
            "QATECH_API_URL": sandbox.url,
            "PYTHONPATH": world.environment()["PYTHONPATH"],
        }
        # What is cancelled runs as it does for users.
        self._ids: dict[str, UUID] = {
            name: world.deploy(f"tests/e2e/flows.py:{name}", self.env, job={} if "wait" in name else AT_ONCE)
            for name in FLOWS
        }

    def run(self, flow: str, plan: str, **parameters: object) -> UUID:
        return self.world.run(self._ids[flow], plan=plan, **parameters)

    def run_in_a_pod(self, flow: str, plan: str) -> tuple[UUID, Popen[bytes]]:
        """Run a flow as a Kubernetes Job does, with the variable that Prefect's Kubernetes worker gives it."""
        body = {"parameters": {"plan": plan}, "state": {"type": "PENDING"}}
        flow_run_id = self.world.post(f"/deployments/{self._ids[flow]}/create_flow_run", body)["id"]
        command = (sys.executable, "-m", "prefect", "flow-run", "execute", flow_run_id)
        env = {**self.env, "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule"}
        return UUID(flow_run_id), self.world.spawn(f"pod-{flow_run_id}", *command, env=env)


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    created = World(tmp_path_factory.mktemp("world"))
    try:
        created.start_server()
        created.post("/work_pools/", {"name": POOL, "type": "process", "base_job_template": {}})
        created.start_worker()
        yield created
    finally:
        created.stop_everything()
        assert created.flow_run_pids() == []


@pytest.fixture(scope="package")
def deployed(world: World) -> Iterator[Deployed]:
    with Sandbox(speed=60) as sandbox:
        yield Deployed(world, sandbox)


@pytest.fixture
def sandbox(deployed: Deployed) -> Iterator[Sandbox]:
    """The deployed flows' sandbox, as new."""
    deployed.sandbox.reset()
    deployed.sandbox.clear_faults()
    yield deployed.sandbox
    deployed.sandbox.clear_faults()
