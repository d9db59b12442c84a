"""Whether a flow run has the parameters of its deployment: a gate that has others says nothing of a release."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow

from prefect_qatech import QATechCredentials
from prefect_qatech.report.deployed import OWN_PARAMETERS, changed_parameters, where_it_runs

DEPLOYED = {"plan": "pln_smoke", "environment_url": "https://staging.example.com", "policy": {"max_failed": 0}}
SCHEMA = {"properties": {"plan": {}, "policy": {"default": {"max_failed": 0}}, "target": {"default": None}}}


@pytest.mark.parametrize(
    ("run", "changed"),
    [
        ({}, []),
        ({"target": "v2", "polling": {"growth": 2}, "on_failed": "ask"}, []),
        ({"plan": "pln_other"}, ["plan"]),
        ({"environment_url": None, "policy": {"max_failed": 99}}, ["environment_url", "policy"]),
        ({"run": "abc123"}, ["run"]),
        ({"unheard_of": True}, ["unheard_of"]),
    ],
)
def test_what_is_tested_and_the_rules_are_the_deployments_own(run: dict[str, Any], changed: list[str]) -> None:
    assert changed_parameters({**DEPLOYED, **run}, DEPLOYED, SCHEMA) == changed


def test_a_form_that_spells_out_the_defaults_changes_nothing() -> None:
    deployed = {"plan": "pln_smoke"}
    assert changed_parameters({**deployed, "policy": {"max_failed": 0}, "target": None}, deployed, SCHEMA) == []
    assert changed_parameters({**deployed, "policy": {"max_failed": 1}}, deployed, SCHEMA) == ["policy"]


def test_what_the_run_lacks_is_a_change() -> None:
    assert changed_parameters({}, {"plan": "pln_smoke"}) == ["plan"]


@flow
async def asking(credentials: QATechCredentials, plan: str) -> Any:
    return await where_it_runs()


@flow
async def above(credentials: QATechCredentials, plan: str) -> Any:
    return await asking(credentials, plan)


async def run_of(deployed: Any, **parameters: Any) -> tuple[FlowRun, UUID, Any]:
    """Deploy a flow with the block `own`, and run it with other parameters, without a worker."""
    async with get_client() as client:
        flow_id = await client.create_flow(deployed)
        slug = {"$ref": {"block_document_slug": "qatech-credentials/own"}}
        deployment_id = await client.create_deployment(
            flow_id, name=uuid4().hex, parameters={"credentials": slug, "plan": "pln_smoke"}
        )
        made = await client.create_flow_run_from_deployment(deployment_id, parameters=parameters)
    block = await QATechCredentials.aload("own")
    told = await run_flow(deployed, flow_run=made, parameters={"credentials": block, "plan": "x"})
    return made, deployment_id, told


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("deployed", [asking, above])
async def test_the_deployment_of_the_run_that_somebody_started_tells_it(
    deployed: Any, credentials: QATechCredentials
) -> None:
    await credentials.save("own", overwrite=True)
    block = {"$ref": {"block_document_id": str((await QATechCredentials.aload("own"))._block_document_id)}}
    for parameters, changed in (({"credentials": block}, []), ({"plan": "pln_other"}, ["plan"])):
        made, deployment_id, (related, differing) = await run_of(deployed, **parameters)
        assert differing == changed
        labels = {one["prefect.resource.id"]: one.get(OWN_PARAMETERS) for one in related}
        assert labels[f"prefect.deployment.{deployment_id}"] == ("false" if changed else "true")
        assert f"prefect.flow-run.{made.id}" in labels


@pytest.mark.usefixtures("prefect_server")
async def test_a_flow_run_without_a_deployment_is_nobodys_own(credentials: QATechCredentials) -> None:
    related, differing = await asking(credentials, "pln_smoke")
    assert differing is None
    assert [one["prefect.resource.role"] for one in related] == ["flow-run"]
