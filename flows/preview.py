"""Tests the preview deployment of a pull request.

    python -m flows.preview

serves it from this machine, as `preview-check/local`; `prefect.yaml` deploys it for a work pool. A pipeline starts it
by an API call with the parameters below, or by an event `preview.deployed` with a payload of the same names.
"""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_qatech import (
    GatePolicy,
    GateReport,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechGitHubTrigger,
    QATechPolling,
    QATechRunRequest,
    release_gate,
    verdict_as_state,
)
from prefect_qatech.api.ids import ApplicationShortId, TestPlanShortId
from prefect_qatech.gate.names import run_name

# What the form and the API refuse before there is a flow run; of ids they know it.
Address = Annotated[str, Field(pattern=r"^https?://[^\s/]+\S*$")]


def name_of_run() -> str:
    """Name the flow run by the pull request, where it runs, and its commit."""
    given = flow_run.parameters
    number = given["pull_request"]
    what = given["test_plan_short_id"] if number is None else f"Pull request {number}"
    return run_name(what, given["preview_url"], given["commit_hash"])


@verdict_as_state
@flow(name="preview-check", flow_run_name=name_of_run, retries=0)
def preview_check(
    credentials: QATechCredentials,
    preview_url: Address,
    application_short_id: ApplicationShortId,
    test_plan_short_id: TestPlanShortId | None = None,
    pull_request: int | None = None,
    repository: str | None = None,
    branch: str | None = None,
    commit_hash: str | None = None,
    commit_message: str | None = None,
    actor: str | None = None,
    policy: GatePolicy = GatePolicy(max_reruns=1),  # noqa: B008 - frozen, and the UI's form shows it
    polling: QATechPolling | None = None,
) -> GateReport:
    """Test a preview deployment, and fail unless it passes.

    Args:
        credentials: How to reach QA.tech.
        preview_url: Where the preview runs.
        application_short_id: The application that runs there: `app_...`, or its name.
        test_plan_short_id: The plan to run, `pln_...`; the project's default plan when absent.
        pull_request: Number of the pull request; names the report, whose versions are its history.
        repository: `owner/repo`.
        branch: Name of the branch.
        commit_hash: Hash of the commit that runs there: the gate's target, whose evidence a retry keeps.
        commit_message: Message of the commit.
        actor: Login of the person.
        policy: What is tolerated, how often is rerun, how long is waited.
        polling: How often to look at a run.

    Returns:
        The gate's report.

    Raises:
        GateNotPassed: The preview did not pass.
    """
    name = None if pull_request is None else f"Pull request {pull_request}"
    preview = QATechEnvironment(url=preview_url, name=name)
    github = QATechGitHubTrigger(
        actor=actor, branch=branch, commit_hash=commit_hash, commit_message=commit_message, repository=repository
    )
    # The gate is this flow run, and no sub-flow run of it.
    return release_gate.fn(
        credentials,
        QATechRunRequest(
            test_plan_short_id=test_plan_short_id,
            applications=[QATechApplication(application_short_id=application_short_id, environment=preview)],
            github=github if github != QATechGitHubTrigger() else None,
        ),
        target=commit_hash,
        policy=policy,
        label=name,
        polling=polling,
    )


if __name__ == "__main__":
    preview_check.serve(name="local")
