"""Where a gate runs: its flow run, the one that somebody started, their deployments, and whether those run as deployed.

A deployment stands for one plan, application, address and policy. A run of it with others is a gate like any other, and
says nothing of what the deployment stands for; so the deployment, as a related resource of the gate's events, has a
label that automations match.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.logging import get_logger
from prefect.utilities.urls import url_for

from prefect_qatech._prefect import PATIENCE_SECONDS, own_flow_run
from prefect_qatech.ledger import root_of

OWN_PARAMETERS = "qatech.own-parameters"
"""Label of a deployment in a gate's events: "true" where its flow run has the parameters of the deployment."""

MAY_DIFFER = frozenset(
    {
        "target",
        "label",
        "polling",
        "waiting",
        "on_inconclusive",
        "on_failed",
        "decision_timeout_seconds",
        "report_directory",
    }
)
"""Parameters of `release_gate` that change neither what is tested nor the rules; in flows of your own, too."""


def changed_parameters(
    run: Mapping[str, Any], deployed: Mapping[str, Any], schema: Mapping[str, Any] | None = None
) -> list[str]:
    """Return the names of a flow run's parameters that are not those of its deployment, but for those that may differ.

    All are JSON, with references to blocks by their ids. The deployment's schema tells the defaults.
    """
    properties = (schema or {}).get("properties") or {}
    defaults = {name: field.get("default") for name, field in properties.items() if isinstance(field, Mapping)}
    run, deployed = {**defaults, **run}, {**defaults, **deployed}
    names = (run.keys() | deployed.keys()) - MAY_DIFFER
    return sorted(name for name in names if run.get(name) != deployed.get(name))


async def run_by() -> dict[str, str | None]:
    """Return which flow run a gate is in, its page, its deployment, and who or what started it, as far as known.

    These are fields of a `GateSubject`; deployment and starter are those of the flow run that somebody started.
    """
    if (own := own_flow_run()) is None:
        return {}
    known: dict[str, str | None] = {"flow_run_id": str(own.id)}
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            known["flow_run_url"] = url_for("flow-run", obj_id=own.id)
            async with get_client() as client:
                root = await root_of(client, own)
                known["started_by"] = starter_of(root)
                if root.deployment_id is not None:
                    deployment = await client.read_deployment(root.deployment_id)
                    flow = await client.read_flow(root.flow_id)
                    known["deployment"] = f"{flow.name}/{deployment.name}"
    except Exception:  # the report counts, not its surroundings
        get_logger("qatech").warning("The flow run's deployment could not be looked up for the report", exc_info=True)
    return known


def starter_of(flow_run: FlowRun) -> str | None:
    """Pure: return who or what started a flow run: "automation Retest", "schedule nightly", "Ada"; None if unknown."""
    creator = flow_run.created_by
    if creator is None or not creator.display_value:
        return None
    kind = (creator.type or "").lower()
    return f"{kind} {creator.display_value}" if kind in ("automation", "schedule") else creator.display_value


async def where_it_runs() -> tuple[list[dict[str, str]], list[str] | None]:
    """Return what a gate's event is related to, and which parameters differ from those that were deployed.

    Returns:
        The gate's flow run, then the one that somebody started where the gate is a sub-flow run of it, each with its
        deployment; and the names of parameters that differ, None where there is no deployment, or nobody could ask.
    """
    if (own := own_flow_run()) is None:
        return [], None
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            async with get_client() as client:
                root = await root_of(client, own)
                return await _related(client, [own] if root.id == own.id else [own, root])
    except Exception:  # the event counts, not its surroundings
        get_logger("qatech").warning("The flow run's deployment could not be looked up for an event", exc_info=True)
        return [], None


async def _related(client: PrefectClient, flow_runs: list[FlowRun]) -> tuple[list[dict[str, str]], list[str] | None]:
    related: list[dict[str, str]] = []
    differing: set[str] = set()
    is_deployed = False
    for flow_run in flow_runs:
        related.append(_resource("flow-run", str(flow_run.id), flow_run.name))
        if flow_run.deployment_id is None:
            continue
        is_deployed = True
        deployment = await client.read_deployment(flow_run.deployment_id)
        # As they are stored: the context holds what the flow has made of them.
        run = await _by_id(client, (await client.read_flow_run(flow_run.id)).parameters)
        deployed = await _by_id(client, deployment.parameters)
        changed = changed_parameters(run, deployed, deployment.parameter_openapi_schema)
        differing.update(changed)
        resource = _resource("deployment", str(deployment.id), deployment.name)
        related.append({**resource, OWN_PARAMETERS: "false" if changed else "true"})
    return related, sorted(differing) if is_deployed else None


def _resource(role: str, id: str, name: str) -> dict[str, str]:
    return {
        "prefect.resource.id": f"prefect.{role}.{id}",
        "prefect.resource.role": role,
        "prefect.resource.name": name,
    }


async def _by_id(client: PrefectClient, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in which a block is named by its id alone: a form gives that, a `prefect.yaml` its slug."""
    return {name: await _block_by_id(client, value) for name, value in parameters.items()}


async def _block_by_id(client: PrefectClient, value: Any) -> Any:
    reference = value.get("$ref") if isinstance(value, Mapping) else None
    if isinstance(reference, str):
        return {"$ref": {"block_document_id": reference}}
    slug = reference.get("block_document_slug") if isinstance(reference, Mapping) else None
    if not isinstance(slug, str):
        return value
    block_type, _, name = slug.partition("/")
    block = await client.read_block_document_by_name(name=name, block_type_slug=block_type, include_secrets=False)
    return {"$ref": {"block_document_id": str(block.id)}}
