"""The gates with parameters that are Python objects: `python -m tests.e2e.parameters serve | deploy`.

`serve` serves them; `deploy` deploys them for a work pool, and runs deployments that `serve` has made. Each way names
itself in its request, so that the sandbox tells which one arrived.
"""

import asyncio
import sys
from datetime import date
from typing import Any

from prefect.deployments import run_deployment
from prefect.runner import Runner

from prefect_qatech import (
    GatePolicy,
    QATechApplication,
    QATechEnvironment,
    QATechGitHubTrigger,
    QATechNotification,
    QATechParameters,
    QATechPolling,
    QATechRunRequest,
    QuarantineEntry,
    gather_gates,
    release_gate,
)
from tests.e2e.world import POOL, ROOT

BLOCK = {"$ref": {"block_document_slug": "qatech-credentials/parameters"}}
ENVIRONMENT_ID = "11111111-2222-4333-8444-555555555555"


def request(way: str) -> QATechRunRequest:
    """A request that has everything, and names the way that it went."""
    return QATechRunRequest(
        test_plan_short_id="pln_green",
        applications=[
            QATechApplication(
                application_short_id="app_shop",
                environment=QATechEnvironment(url="http://127.0.0.1:8410", name="Preview"),
                device_preset_short_id="preset_phone",
            )
        ],
        notifications=[QATechNotification(channel="C0478ABCDEF", notify_on="failure")],
        github=QATechGitHubTrigger(
            actor="ada", branch="main", commit_hash="c0ffee", commit_message=way, repository="northwind/shop"
        ),
        parameters=QATechParameters(
            configs={"cfg_shop": {"userName": "ada", "pass_code": 1}},
            configs_by_environment={ENVIRONMENT_ID: {"cfg_shop": "x"}},
        ),
    )


def as_objects(way: str) -> dict[str, Any]:
    """Parameters of `release_gate`."""
    entry = QuarantineEntry(reason="known", owner="ada", expires=date(2100, 1, 1))
    return {
        "credentials": BLOCK,
        "request": request(way),
        "target": "v1",
        "policy": GatePolicy(max_reruns=1, fuse_failures=0.5, quarantine={"Sign out": entry}),
        "polling": QATechPolling(first_seconds=0.2, max_seconds=0.5),
    }


def as_json(way: str) -> dict[str, Any]:
    """The same as people write it: the names of Python, and only what they set."""
    objects = as_objects(way)
    return {
        name: value.model_dump(mode="json", exclude_unset=True) if hasattr(value, "model_dump") else value
        for name, value in objects.items()
    }


def for_many(way: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters of `gather_gates`, of those of `release_gate`."""
    return {
        **{name: value for name, value in parameters.items() if name != "request"},
        "requests": {way: parameters["request"]},
    }


def serve() -> None:
    """Do what `.serve(...)` does, and `serve(flow.to_deployment(...))`, in one process."""
    # More processes at once than cores wait for one another, and Prefect's SQLite then answers nothing for a minute.
    runner = Runner(query_seconds=1, limit=2)
    runner.add_flow(release_gate, name="objects", parameters=as_objects("serve"))
    runner.add_flow(gather_gates, name="objects", parameters=for_many("serve, many", as_objects("serve, many")))
    runner.add_deployment(release_gate.to_deployment("to-deployment", parameters=as_objects("to_deployment")))  # type: ignore[arg-type]
    asyncio.run(runner.start())


def deploy() -> None:
    """Deploy for a work pool; then run what `serve` has made, with other parameters."""
    for parameters, name in ((as_objects("deploy"), "deployed"), (as_json("deploy, JSON"), "deployed-json")):
        found = release_gate.from_source(source=str(ROOT), entrypoint="tests/e2e/parameters.py:release_gate")
        found.deploy(name, work_pool_name=POOL, parameters=parameters, print_next_steps=False)  # type: ignore[union-attr]
    for way, made in (("run_deployment", as_objects), ("run_deployment, JSON", as_json)):
        run_deployment("release-gate/objects", parameters=made(way), timeout=0)
        many = f"{way}, many"
        run_deployment("gather-gates/objects", parameters=for_many(many, made(many)), timeout=0)


if __name__ == "__main__":
    {"serve": serve, "deploy": deploy}[sys.argv[1]]()
