"""Each flow served by `.serve()`, which pickles it: the gates, a user's own flow, and those of `flows/`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from prefect_qatech import QATechCredentials
from prefect_qatech.sandbox import Sandbox
from tests.e2e.world import World, eventually
from tests.support import counted

BLOCK = {"$ref": {"block_document_slug": "qatech-credentials/qatech"}}
POLLING = {"first_seconds": 0.2, "max_seconds": 0.5}
# What serves them: one as users start it, the others together.
PROGRAMS = ("flows.check", "tests.e2e.served")
PREVIEW = {"preview_url": "http://127.0.0.1:8410", "application_short_id": "app_shop"}
RELEASE = {"deploy_command": "true", "environment_url": "http://127.0.0.1:8410", "application_short_id": "app_shop"}
# What is run by `prefect deployment run`, not by the API.
BY_COMMAND = ("own-flow/served", "gather-gates/served", "release-gate/served")
# Deployment: what is run, and how many runs that starts.
CALLS: dict[str, tuple[dict[str, Any], int]] = {
    "check-release/local": ({"test_plan_short_id": "pln_green", "polling": POLLING}, 1),
    "nightly-regression/served": (
        {"test_plan_short_ids": ["pln_green", "pln_flaky"], "polling": POLLING},
        2,
    ),
    "preview-check/served": ({**PREVIEW, "polling": POLLING}, 1),
    "watch-suspended-gates/served": ({}, 0),
    "own-flow/served": ({"plan": "pln_green", "polling": POLLING}, 2),
    "release-gate/served": ({"request": "pln_green", "target": "v1", "polling": POLLING}, 1),
    "gather-gates/served": (
        {"requests": {"one": "pln_green"}, "polling": POLLING},
        1,
    ),
    "release/served": ({**RELEASE, "polling": POLLING}, 1),
}


class Served:
    """The served flows of a world."""

    def __init__(self, world: World, sandbox: Sandbox) -> None:
        self.world, self.sandbox = world, sandbox

    def id_of(self, name: str) -> UUID:
        def look() -> str | None:
            try:
                return str(self.world.get(f"/deployments/name/{name}")["id"])
            except (AssertionError, httpx.HTTPError):
                return None

        return UUID(eventually(look, f"the deployment {name}"))

    def run(self, name: str, **parameters: Any) -> UUID:
        deployment = self.id_of(name)
        if name not in BY_COMMAND:
            return self.world.run(deployment, credentials=BLOCK, **parameters)
        given = [f"-p={key}={json.dumps(value)}" for key, value in {"credentials": BLOCK, **parameters}.items()]
        told = self.world.cli("prefect", "deployment", "run", name, *given).stdout
        [flow_run_id] = re.findall(r"UUID: (\S+)", told)
        return UUID(flow_run_id)

    def completed(self, flow_run_id: UUID) -> None:
        state = self.world.wait_for_state(flow_run_id, "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        assert state["type"] == "COMPLETED", state["message"]


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[Served]:
    with Sandbox(speed=600) as sandbox:
        env = {"QATECH_API_URL": sandbox.url, "QATECH_API_TOKEN": sandbox.token}
        world.save(QATechCredentials(api_token=sandbox.token, api_url=sandbox.url), "qatech")
        for program in PROGRAMS:
            world.spawn(program, sys.executable, "-m", program, env=env)
        try:
            yield Served(world, sandbox)
        finally:
            for program in PROGRAMS:
                world.stop(program)


def test_each_served_flow_runs(served: Served) -> None:
    runs = {name: served.run(name, **parameters) for name, (parameters, _) in CALLS.items()}
    for flow_run_id in runs.values():
        served.completed(flow_run_id)
    starts = sum(count for _, count in CALLS.values())
    assert counted(served.sandbox) == (starts, 1)
    # What one of them has tested is there to be looked into.
    tested = [run["short_id"] for run in served.sandbox.runs()][:1]
    served.completed(served.run("triage/served", run_short_ids=tested))
