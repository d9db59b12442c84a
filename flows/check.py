"""The release gate as a deployment: somebody, or a pipeline, names an address, and the gate says whether it may go out.

    python -m flows.check

serves it from this machine, as `check-release/local`; `prefect.yaml` deploys it for a work pool. In Prefect's UI its
parameters are a form: the credentials are picked from the saved blocks.
"""

from typing import Annotated, Literal

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_qatech import (
    GatePolicy,
    GateReport,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechPolling,
    QATechRunRequest,
    release_gate,
    verdict_as_state,
)
from prefect_qatech.api.ids import ApplicationShortId, TestPlanShortId
from prefect_qatech.gate.names import run_name

# What the form and the API refuse before there is a flow run; of ids they know it.
Address = Annotated[str, Field(pattern=r"^https?://[^\s/]+\S*$")]
Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]


def name_of_run() -> str:
    """Name the flow run by what it tests, where, and which version of it."""
    given = flow_run.parameters
    return run_name(given["test_plan_short_id"], given["environment_url"], given["target"])


@verdict_as_state
@flow(name="check-release", flow_run_name=name_of_run, retries=0)
def check_release(
    credentials: QATechCredentials,
    test_plan_short_id: TestPlanShortId,
    application_short_id: ApplicationShortId | None = None,
    environment_url: Address | None = None,
    target: str | None = None,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    polling: QATechPolling | None = None,
    on_inconclusive: Literal["stop", "ask"] = "stop",
    on_failed: Literal["stop", "ask"] = "stop",
    decision_timeout_seconds: Seconds = 3600.0,
    waiting: Literal["poll", "suspend"] = "poll",
) -> GateReport:
    """Test what runs at an address, and fail unless it may go out.

    Args:
        credentials: How to reach QA.tech.
        test_plan_short_id: The plan to run, `pln_...`.
        application_short_id: The application that runs at the address: `app_...`, or its name.
        environment_url: The address; the plan's own environment when absent.
        target: What runs there: a commit, say. On a retry its evidence is kept; without it a pass is tested again.
        policy: What is tolerated, how often is rerun, how long is waited.
        polling: How often to look at a run.
        on_inconclusive: `stop`, or `ask` a person, by a form in the Prefect UI.
        on_failed: The same for a gate that failed.
        decision_timeout_seconds: How long that person has; no answer in time is a no.
        waiting: `poll`, or `suspend`, which frees the worker while QA.tech works; needs `flows/watcher.py`.

    Returns:
        The gate's report.

    Raises:
        GateNotPassed: It may not go out.
        ValueError: An address without an application, or the other way round.
    """
    if (application_short_id is None) != (environment_url is None):
        raise ValueError(
            "Give both application_short_id and environment_url, or neither: an address is an application's."
        )
    request = QATechRunRequest(test_plan_short_id=test_plan_short_id)
    if application_short_id is not None:
        environment = QATechEnvironment(url=environment_url)
        application = QATechApplication(application_short_id=application_short_id, environment=environment)
        request = QATechRunRequest(test_plan_short_id=test_plan_short_id, applications=[application])
    # The gate is this flow run, and no sub-flow run of it: its report, its question and "Retry" are on the page that
    # people open, and Prefect can suspend it.
    return release_gate.fn(
        credentials,
        request,
        target=target,
        policy=policy,
        polling=polling,
        on_inconclusive=on_inconclusive,
        on_failed=on_failed,
        decision_timeout_seconds=decision_timeout_seconds,
        waiting=waiting,
    )


if __name__ == "__main__":
    check_release.serve(name="local")
