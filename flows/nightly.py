"""Several test plans in one night: a gate for each, some at once, one summary, one verdict over all.

    python -m flows.nightly

serves it from this machine, as `nightly-regression/local`, and starts no night by itself; `prefect.yaml` deploys it for
a work pool, with a schedule.
"""

from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from prefect_qatech import (
    GatePolicy,
    GatesReport,
    QATechCredentials,
    QATechPolling,
    agather_gates,
    verdict_as_state,
)
from prefect_qatech.api.ids import TestPlanShortId


def night() -> str:
    """Name the night: the same on each retry."""
    return f"night of {flow_run.scheduled_start_time:%Y-%m-%d %H:%M} UTC"


@verdict_as_state
@flow(name="nightly-regression", flow_run_name=night, retries=0)
async def nightly(
    credentials: QATechCredentials,
    test_plan_short_ids: Annotated[
        list[TestPlanShortId], Field(json_schema_extra={"minItems": 1, "uniqueItems": True})
    ],
    gates_at_once: Annotated[int, Field(ge=1)] = 4,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    polling: QATechPolling | None = None,
) -> GatesReport:
    """Test several plans; none that fails keeps another from being tested and told.

    Args:
        credentials: How to reach QA.tech.
        test_plan_short_ids: The plans, `pln_...`, each once.
        gates_at_once: How many are tested at once.
        policy: What is tolerated, how often is rerun, how long is waited; for each plan.
        polling: How often to look at a run.

    Returns:
        The report of each plan's gate.

    Raises:
        GatesNotPassed: Some plan did not pass, or could not be tested.
        ValueError: No plan, or one of them twice; nothing was started.
    """
    if not test_plan_short_ids or len(set(test_plan_short_ids)) < len(test_plan_short_ids):
        raise ValueError("test_plan_short_ids must name at least one plan, and each once.")
    # In this flow run, so that its summary is on the page that people open; below it are the gates, and nothing else.
    return await agather_gates.fn(
        credentials,
        {plan: plan for plan in test_plan_short_ids},
        # A retry in the same night tests what has passed no second time.
        target=night(),
        policy=policy,
        gates_at_once=gates_at_once,
        polling=polling,
    )


if __name__ == "__main__":
    nightly.serve(name="local")
