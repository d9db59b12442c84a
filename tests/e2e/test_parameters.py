"""A gate's parameters in each way into a deployment: as Python objects, and as JSON with the same names as in code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from prefect_qatech import QATechCredentials
from prefect_qatech.sandbox import Sandbox
from tests.e2e.parameters import as_json, for_many, request
from tests.e2e.world import PATIENCE_SECONDS, World, eventually
from tests.support import posts

GATE, MANY = "release-gate/objects", "gather-gates/objects"
DEPLOYED = ["objects", "to-deployment", "deployed", "deployed-json"]
WAYS = (
    *("serve", "serve, many", "to_deployment", "deploy", "deploy, JSON"),
    *("run_deployment", "run_deployment, many", "run_deployment, JSON", "run_deployment, JSON, many"),
    *("CLI", "API", "API, many"),
)


@pytest.fixture(scope="module")
def sandbox(world: World) -> Iterator[Sandbox]:
    """A sandbox, and a world in which everything is deployed to test it."""
    with Sandbox(speed=600) as sandbox:
        world.save(QATechCredentials(api_token=sandbox.token, api_url=sandbox.url), "parameters")
        world.spawn("parameters", sys.executable, "-m", "tests.e2e.parameters", "serve")
        try:
            for name in (GATE, MANY, "release-gate/to-deployment"):
                eventually(lambda name=name: world.http.get(f"/deployments/name/{name}").is_success, name)  # type: ignore[misc]
            yield sandbox
        finally:
            world.stop("parameters")


def id_of(world: World, name: str) -> str:
    return str(world.get(f"/deployments/name/{name}")["id"])


def created(world: World, name: str, parameters: dict[str, Any]) -> None:
    """Create a flow run by the API, which holds the parameters against the schema of the deployment's form."""
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}, "enforce_parameter_schema": True}
    world.post(f"/deployments/{id_of(world, name)}/create_flow_run", body)


def runs_of_all(world: World) -> list[dict[str, Any]]:
    return list(world.post("/flow_runs/filter", {"deployments": {"name": {"any_": DEPLOYED}}}))


def test_the_same_request_arrives_in_each_way(world: World, sandbox: Sandbox) -> None:
    earlier = {run["id"] for run in runs_of_all(world)}
    process = world.spawn("deploy", sys.executable, "-m", "tests.e2e.parameters", "deploy")
    assert process.wait(PATIENCE_SECONDS) == 0, world.log("deploy")
    for name in (GATE, MANY, "release-gate/to-deployment", "release-gate/deployed", "release-gate/deployed-json"):
        created(world, name, {})
    created(world, GATE, as_json("API"))
    created(world, MANY, for_many("API, many", as_json("API, many")))
    given = [f"-p={name}={json.dumps(value)}" for name, value in as_json("CLI").items()]
    world.cli("prefect", "deployment", "run", GATE, *given)

    def all_have_ended() -> bool:
        runs = [run for run in runs_of_all(world) if run["id"] not in earlier]
        broken = [run["state"] for run in runs if run["state"]["type"] in {"FAILED", "CRASHED", "CANCELLED"}]
        assert not broken, f"{broken}\n{world.log('parameters')[-5000:]}"
        return len(runs) == len(WAYS) and {run["state"]["type"] for run in runs} == {"COMPLETED"}

    eventually(all_have_ended, "the ends of all gates")
    arrived = {post["body"]["commitMessage"]: post["body"] for post in posts(sandbox)}
    assert arrived == {way: request(way).to_json() for way in WAYS}


def test_the_form_has_the_names_of_the_code(world: World, sandbox: Sandbox) -> None:
    for name in (GATE, MANY):
        schema = world.get(f"/deployments/name/{name}")["parameter_openapi_schema"]
        fields = [
            *schema["properties"],
            *(f for one in schema["definitions"].values() for f in one.get("properties", {})),
        ]
        assert {"test_plan_short_id", "application_short_id", "notify_on", "max_reruns", "first_seconds"} <= {*fields}
        assert [field for field in fields if field != field.lower()] == []
