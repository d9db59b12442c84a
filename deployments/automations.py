"""Creates or updates the automations that act on a gate's verdict; run it as often as you like.

    python deployments/automations.py [--notify slack-webhook/releases] [--promote promote/production]
                                      [--promote-approved] [--crashed-after 540]

| the gate | then |
|---|---|
| failed | the deployment `triage/triage` looks into it |
| asks a person, failed, is inconclusive, ended without a verdict | `--notify`, a notification block, tells people |
| of the deployment `check-release/release-gate` passed, run as deployed | the deployment `--promote` runs |
| of that deployment did not pass, and a person approved | the same, with `--promote-approved` |
| of that deployment gives no sign of life | after `--crashed-after` seconds its flow run is marked as crashed |

A process that is killed with its worker leaves its flow run RUNNING for ever. Prefect's flow runs send a heartbeat
every 180 seconds (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, at least 30); three of them are a good measure. The limits: a
server that is down sees no heartbeats, so a gate that is at work can be marked as crashed, and a flow run that is
killed before its first heartbeat is not noticed. Nothing is retried by itself, as Prefect's own report of a crash may
overwrite the retry's state: a person looks, and presses "Retry", which takes up the recorded campaign.

A run of `release-gate` with another plan, application, address or policy than it was deployed with promotes nothing: it
says nothing of the release. Other than deployed may be what changes neither (`MAY_DIFFER` in
`prefect_qatech/report/deployed.py`): `target`, above all, which names what is tested.

The deployment `--promote` gets those of these parameters that its flow has: `target`, `run_short_id`, `run_url`,
`plan_short_id`, `applications`, `policy`, `verdict`, `decision`, `changed_parameters` (none) and `gate_flow_run_id`. It
should have `target`, and let out nothing else.

An approval stands in the place of the verdict: nobody is told of the failure that a person has settled, and no triage
looks into it. A flow run that fails before its gate begins (a block that is gone, parameters of the wrong type) has
Prefect's own event alone, `prefect.flow-run.Failed`.

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

from prefect_qatech.report.deployed import OWN_PARAMETERS
from prefect_qatech.report.headline import VERDICT_STATES

GATE = "check-release/release-gate"
TRIAGE = "triage/triage"


def typed(expression: str) -> dict[str, Any]:
    """Give a parameter that keeps its type: a list stays a list, and what is absent is null."""
    template = "{{ " + expression + " | tojson }}"
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


def from_event(*names: str) -> dict[str, Any]:
    """Give the parameters that have the names of what a gate's event tells."""
    return {name: typed(f"event.payload.get('{name}')") for name in names}


GATE_FLOW_RUN = {"gate_flow_run_id": typed("event.payload.get('flow_run_id')")}
FOR_TRIAGE = {**from_event("run_short_ids", "plan_short_id", "run_url", "credentials_block", "label"), **GATE_FLOW_RUN}
FOR_PROMOTION = {
    **from_event("target", "run_short_id", "run_url", "plan_short_id", "applications", "policy", "verdict", "decision"),
    **from_event("changed_parameters"),
    **GATE_FLOW_RUN,
}


# Slack would take "<!channel>" in the name of a test for a call to everybody, and "<https://...|here>" for a link;
# other services go by the "@" alone.
AS_TEXT = "replace('<', '＜') | replace('>', '＞') | replace('@', '＠')"


def line(name: str, expression: str) -> str:
    """Give a line of a notification, which is left out where there is nothing to tell."""
    return f"{{% if {expression} %}}{name}: {{{{ {expression} | {AS_TEXT} }}}}\n{{% endif %}}"


HAPPENED = {
    "qatech.gate.asked": "a person has to decide",
    "qatech.gate.failed": "failed",
    "qatech.gate.inconclusive": "inconclusive",
    "qatech.gate.errored": "ended without a verdict",
}
SUBJECT = "{{ event.resource.name }}: {{ " + str(HAPPENED) + "[event.event] }}"
BODY = (
    "{{ event.payload.get('reasons', []) | join(' ') }}"
    "{{ (event.payload.get('error') or '') | "
    + AS_TEXT
    + " }}\n"
    + line("Failed", "event.payload.get('failed_tests', [])[:10] | join(', ')")
    + line("New or known", "event.payload.get('new_and_known')")
    + "{% if event.payload.get('decide_until') %}Approve or reject ('Resume' on the flow run's page) within "
    "{{ (event.payload.decide_seconds / 60) | round | int }} min, until {{ event.payload.decide_until }}\n{% endif %}"
    + line("Target", "event.payload.get('target')")
    + line("Where", "event.payload.get('applications', []) | map(attribute='environment_url') | select | join(', ')")
    + line("Run", "event.payload.get('run_url')")
    + "Flow run: {{ (flow_run | ui_url) or event.payload.get('flow_run_id') }}"
)


def on_gate(*what: str, as_deployed: DeploymentResponse | None = None) -> EventTrigger:
    """Give a trigger for what a gate tells; of one deployment, where one is given, and run as it was deployed."""
    related: dict[str, str | list[str]] = {}
    if as_deployed is not None:
        related = {"prefect.resource.id": f"prefect.deployment.{as_deployed.id}", OWN_PARAMETERS: "true"}
    return EventTrigger(
        expect={f"qatech.gate.{each}" for each in what},
        match={"prefect.resource.id": "qatech.gate.*"},
        match_related=related,
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def on_crash() -> EventTrigger:
    """Give a trigger for each flow run of these deployments whose process is gone."""
    return EventTrigger(
        expect={"prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.id": "prefect.tag.qatech"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=timedelta(0),
    )


def without_heartbeat(seconds: int, of: DeploymentResponse) -> EventTrigger:
    """Give a trigger for each flow run of a deployment that went silent without having ended or being put to sleep."""
    ends = {"Completed", "Failed", "Cancelled", "Crashed", "TimedOut", "Suspended"}
    # Prefect's events have the names of states, and a gate's state that of the verdict: "Passed, 1 flaky".
    ends |= {f"{name}{rest}" for name in VERDICT_STATES for rest in ("", "*")}
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


def run(deployment: DeploymentResponse, parameters: dict[str, Any]) -> RunDeployment:
    """Give the action that runs a deployment with those parameters that its flow has."""
    has = (deployment.parameter_openapi_schema or {}).get("properties", {})
    return RunDeployment(
        source="selected",
        deployment_id=deployment.id,
        parameters={name: value for name, value in parameters.items() if name in has},
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
    parser.add_argument(
        "--promote-approved",
        action="store_true",
        help="promote what a person has approved as well",
    )
    parser.add_argument("--crashed-after", metavar="SECONDS", type=int, help="silence until a gate is marked crashed")
    given = parser.parse_args()
    if given.promote_approved and not given.promote:
        parser.error("--promote-approved goes with --promote")
    wanted = [
        Automation(
            name="qatech: gate failed -> triage",
            description="Looks into each gate that failed.",
            trigger=on_gate("failed"),
            actions=[run(deployment_named(TRIAGE), FOR_TRIAGE)],
        )
    ]
    if given.notify:
        wanted.append(
            Automation(
                name="qatech: gate needs people -> notify",
                description="Tells people that a gate asks them, or has not passed, or has no verdict.",
                trigger=on_gate("asked", "failed", "inconclusive", "errored"),
                actions=[notification(given.notify, SUBJECT, BODY)],
            )
        )
        crashed = "{{ flow_run.name }} crashed: there is no verdict"
        told = "{{ flow_run.state.message | " + AS_TEXT + " }}"
        retry = told + ' "Retry" takes up the recorded campaign: {{ flow_run | ui_url }}'
        wanted.append(
            Automation(
                name="qatech: flow run crashed -> notify",
                description="Tells people that the process of a gate is gone.",
                trigger=on_crash(),
                actions=[notification(given.notify, crashed, retry)],
            )
        )
    if given.promote:
        promotes = deployment_named(given.promote)
        if "target" not in (promotes.parameter_openapi_schema or {}).get("properties", {}):
            print(f"{given.promote} has no parameter target: it cannot know what it is to let out.", file=sys.stderr)
        released = ("passed", "approved") if given.promote_approved else ("passed",)
        wanted.append(
            Automation(
                name="qatech: gate passed -> promote",
                description="Runs the deployment that lets the release out.",
                # Of this deployment alone: a preview or a night that has passed lets nothing out.
                trigger=on_gate(*released, as_deployed=deployment_named(GATE)),
                actions=[run(promotes, FOR_PROMOTION)],
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
