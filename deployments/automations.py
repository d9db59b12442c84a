"""Creates or updates the automations that act on a gate's verdict; run it as often as you like.

    python deployments/automations.py [--notify slack-webhook/releases] [--promote promote/production]
                                      [--crashed-after 540]

| the gate | then |
|---|---|
| failed | the deployment `triage/triage` looks into it |
| is inconclusive | `--notify`, a notification block of Prefect's, tells people |
| of the deployment `check-release/release-gate` passed | the deployment `--promote` runs |
| of that deployment gives no sign of life | after `--crashed-after` seconds its flow run is marked as crashed |

A process that is killed with its worker leaves its flow run RUNNING for ever. Prefect's flow runs send a heartbeat
every 180 seconds (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, at least 30); three of them are a good measure. The limits: a
server that is down sees no heartbeats, so a gate that is at work can be marked as crashed, and a flow run that is
killed before its first heartbeat is not noticed. Nothing is retried by itself, as Prefect's own report of a crash may
overwrite the retry's state: a person looks, and presses "Retry", which takes up the recorded campaign.

The deployment `--promote` gets `run_short_id`, `plan_short_id` and `gate_flow_run_id` as parameters.

Without an option its automation is neither created nor changed. `prefect deploy` creates the one for triage as well; it
goes by its name, so there is one of it, whichever came last.
"""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import RunDeployment, SendNotification
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

GATE = "check-release/release-gate"
TRIAGE = "triage/triage"


def typed(expression: str) -> dict[str, Any]:
    """Give a parameter that keeps its type: a list stays a list, and what is absent is null."""
    template = "{{ " + expression + " | tojson }}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


PARAMETERS = {
    "plan_short_id": typed("event.payload.get('plan_short_id')"),
    "gate_flow_run_id": typed("event.payload.get('flow_run_id')"),
}


def on_gate(verdict: str, of: DeploymentResponse | None = None) -> EventTrigger:
    """Give a trigger for each gate with a verdict; for those of one deployment, where one is given."""
    return EventTrigger(
        expect={f"qatech.gate.{verdict}"},
        match={"prefect.resource.id": "qatech.gate.*"},
        match_related={"prefect.resource.id": f"prefect.deployment.{of.id}"} if of else {},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def without_heartbeat(seconds: int, of: DeploymentResponse) -> EventTrigger:
    """Give a trigger for each flow run of a deployment that went silent without having ended or being put to sleep."""
    ends = {"Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Suspended"}
    return EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ends)},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.id": f"prefect.deployment.{of.id}"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=seconds),
    )


def run(deployment: DeploymentResponse, **parameters: Any) -> RunDeployment:
    """Give the action that runs a deployment with the gate's ids."""
    return RunDeployment(
        source="selected",
        deployment_id=deployment.id,
        parameters={**PARAMETERS, **parameters},
        job_variables=None,
    )


def deployment_named(name: str) -> DeploymentResponse:
    """Find a deployment, `flow/deployment`."""
    try:
        with get_client(sync_client=True) as client:
            return client.read_deployment_by_name(name)
    except ObjectNotFound:
        sys.exit(f"There is no deployment {name}. Deploy it first; nothing was changed.")


def notification(slug: str, subject: str, body: str) -> SendNotification:
    """Give the action that tells people through a notification block, `block-type/name`."""
    block_type, _, name = slug.partition("/")
    try:
        with get_client(sync_client=True) as client:
            block = client.read_block_document_by_name(name=name, block_type_slug=block_type)
    except ObjectNotFound:
        sys.exit(f"There is no block {slug}. Save it first; nothing was changed.")
    return SendNotification(block_document_id=block.id, subject=subject, body=body)


def create_or_update(wanted: AutomationCore) -> None:
    """Make the automation of this name what it should be, and leave one of it."""
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(wanted.name)
        if not found:
            client.create_automation(wanted)
        else:
            client.update_automation(found[0].id, wanted)
        for superfluous in found[1:]:
            client.delete_automation(superfluous.id)
    print(f"{'Updated' if found else 'Created'} {wanted.name!r}")


def main() -> None:
    """Find what the automations are about, then create or update them."""
    parser = argparse.ArgumentParser(description="Create or update the automations that act on a gate's verdict.")
    parser.add_argument("--notify", metavar="BLOCK", help="notification block, as block-type/name")
    parser.add_argument("--promote", metavar="DEPLOYMENT", help="deployment that promotes, as flow/deployment")
    parser.add_argument("--crashed-after", metavar="SECONDS", type=int, help="silence until a gate is marked crashed")
    given = parser.parse_args()
    wanted = [
        Automation(
            name="qatech: gate failed -> triage",
            description="Looks into each gate that failed.",
            trigger=on_gate("failed"),
            actions=[run(deployment_named(TRIAGE), run_short_ids=typed("event.payload.run_short_ids"))],
        )
    ]
    if given.notify:
        body = "{{ event.payload.reasons | join(' ') }} Run: {{ event.payload.get('run_url') }}"
        tell = notification(given.notify, "{{ event.resource.name }} is inconclusive", body)
        wanted.append(
            Automation(
                name="qatech: gate inconclusive -> notify",
                description="Tells people that a gate needs them.",
                trigger=on_gate("inconclusive"),
                actions=[tell],
            )
        )
    if given.promote:
        # Of this deployment alone: a preview or a night that has passed lets nothing out.
        promote = run(deployment_named(given.promote), run_short_id=typed("event.payload.run_short_id"))
        wanted.append(
            Automation(
                name="qatech: gate passed -> promote",
                description="Runs the deployment that lets the release out.",
                trigger=on_gate("passed", of=deployment_named(GATE)),
                actions=[promote],
            )
        )
    if given.crashed_after is not None:
        mark = ChangeFlowRunState(
            state=StateType.CRASHED,
            name=None,
            force=False,
            message='No sign of life any more. "Retry" takes up the recorded campaign; nothing is started anew.',
        )
        wanted.append(
            Automation(
                name="qatech: gate without heartbeat -> crashed",
                description="Marks a gate whose process is gone, so that somebody sees it.",
                trigger=without_heartbeat(given.crashed_after, deployment_named(GATE)),
                actions=[mark],
            )
        )
    for automation in wanted:
        create_or_update(AutomationCore(**automation.model_dump(exclude={"id"}, exclude_unset=True)))


if __name__ == "__main__":
    main()
