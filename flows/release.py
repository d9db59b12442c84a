"""Release a version: deploy it, let QA.tech test it where it was deployed, then promote it or roll it back.

    python -m flows.release v2-stumbles        # a sample shop on this machine, tested by the sandbox

Copy this file and give it commands of your own. What it keeps to, on a retry as well (the steps that are done are on
record on the Prefect server, as inputs of the flow run):

- One flow run is one deployment with one gate. A retry does not deploy again: it takes the gate up where it was, reruns
  only what the policy still allows, and goes on from there. A promotion that failed is retried this way.
- Only a gate that passed promotes. Any other end of it (tests failed, too little evidence, a start of unknown outcome,
  no access to QA.tech) rolls back, and the flow run fails with the gate's own message.
- After the decision to roll back nothing more happens in this flow run. What was tested is gone, so its verdict, and
  what a rerun would find now, say nothing of another deployment. A retry only says why; release anew instead.
- Cancellation, a kill and a time-out of the flow run are no verdict: nothing is promoted and nothing is rolled back.
  There may be seconds left before the process is killed, too few for a roll-back; a retry can go on. The log says so.
- A deployment that failed is not rolled back either: the flow cannot know what it has changed.

A command runs a second time where the process was killed during the first. Two releases into one environment do not
know of each other: give the deployment of this flow a concurrency limit of 1.
"""

import json
from urllib.parse import urlsplit
from uuid import UUID

from prefect import flow, runtime
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger

from flows.commands import Command, CommandFailed, run_command
from prefect_qatech import (
    GatePolicy,
    GateReport,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechPolling,
    QATechRunRequest,
    release_gate,
)


class ReleaseRolledBack(RuntimeError):
    """The deployment of this flow run was rolled back before, or its roll-back failed."""


@flow(name="release")
def release(
    deploy_command: Command,
    environment_url: str,
    application_short_id: str,
    test_plan_short_id: str | None = None,
    *,
    target: str | None = None,
    credentials: QATechCredentials | None = None,
    promote_command: Command | None = None,
    rollback_command: Command | None = None,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    polling: QATechPolling | None = None,
    command_timeout_seconds: float = 1800.0,
) -> GateReport:
    """Deploy, test, then promote or roll back.

    Args:
        deploy_command: Puts the version where it can be tested.
        environment_url: The address where it can be tested then.
        application_short_id: The application at QA.tech that is tested there, `app_...`.
        test_plan_short_id: The plan to run, `pln_...`; the project's default plan when absent.
        target: What is deployed: its version or commit, for the report.
        credentials: How to reach QA.tech; from the environment (`QATECH_API_TOKEN`) when absent.
        promote_command: Lets the version through, when the gate has passed.
        rollback_command: Takes it back, when the gate has not passed.
        policy: What the gate tolerates, and how often it reruns what failed.
        polling: How often to look at a run.
        command_timeout_seconds: How long a command may take.

    Returns:
        The gate's report.

    Raises:
        GateNotPassed: The gate did not pass; what was deployed is rolled back.
        CommandFailed: A command failed.
        ReleaseRolledBack: A retry of a release that was rolled back, or the roll-back failed.
    """
    credentials = credentials or QATechCredentials.from_env()
    if _is_loopback(environment_url) and not _is_loopback(credentials.api_url):
        raise ValueError(f"QA.tech cannot reach {environment_url}, which is this machine. Nothing was deployed.")
    environment = QATechEnvironment(url=environment_url)
    application = QATechApplication(application_short_id=application_short_id, environment=environment)

    if reason := _noted("roll-back"):
        done = (
            "was rolled back"
            if _noted("rolled-back")
            else "was to be rolled back, and the end of that is not on record"
        )
        raise ReleaseRolledBack(f"This release {done}. A retry does not deploy again: release anew. {reason}")
    if not _noted("deployed"):
        run_command("deploy", deploy_command, command_timeout_seconds)
        _note("deployed")
    try:
        report = release_gate(
            credentials,
            QATechRunRequest(test_plan_short_id=test_plan_short_id, applications=[application]),
            policy=policy,
            polling=polling,
            # A flow run deploys once, so on a retry of it the evidence is still about what is deployed. A flow that
            # calls this one and is retried runs it anew, with a deployment of its own.
            target=f"{target or 'deployment'} by flow run {runtime.flow_run.id}",
        )
    except Exception as error:
        if rollback_command is not None and not _noted("promoted"):
            _roll_back(rollback_command, command_timeout_seconds, error)
        raise
    except BaseException:
        get_run_logger().warning("Interrupted: what was deployed is neither promoted nor rolled back. A retry goes on.")
        raise
    if promote_command is not None and not _noted("promoted"):
        run_command("promote", promote_command, command_timeout_seconds)
        _note("promoted")
    return report


def _roll_back(command: Command, timeout_seconds: float, why: Exception) -> None:
    _note("roll-back", f"{type(why).__name__}: {why}")
    try:
        run_command("roll back", command, timeout_seconds)
    except CommandFailed as failure:
        raise ReleaseRolledBack(f"The roll-back failed. {failure}\nThe reason for it: {why}") from why
    _note("rolled-back")


def _noted(step: str) -> str | None:
    """Give what an earlier attempt of this flow run, or this one, has noted of a step."""
    with get_client(sync_client=True) as client:
        try:
            return str(json.loads(client.read_flow_run_input(UUID(runtime.flow_run.id), f"release-{step}")))
        except PrefectHTTPStatusError as error:
            if error.response.status_code == 404:
                return None
            raise


def _note(step: str, what: str = "done") -> None:
    with get_client(sync_client=True) as client:
        client.create_flow_run_input(UUID(runtime.flow_run.id), key=f"release-{step}", value=json.dumps(what))


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


if __name__ == "__main__":
    from flows.storefront.local import release_sample

    release_sample(release)
