"""Looks into a gate that failed: what the agent saw, test by test, in one artifact.

    python -m flows.triage

serves it from this machine, as `triage/local`; `prefect.yaml` deploys it for a work pool, where the event
`qatech.gate.failed` starts it with the gate's ids.
"""

import asyncio
from uuid import UUID

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.sorting import ArtifactSort
from prefect.logging import get_run_logger
from prefect.utilities.urls import url_for

from prefect_qatech import (
    BadRequestError,
    QATechAPIError,
    QATechClient,
    QATechCredentials,
    QATechDetectedIssue,
    QATechRun,
    QATechRunTestCase,
    QATechTraceStep,
    describe_failure,
)
from prefect_qatech.report.artifacts import artifact_key
from prefect_qatech.report.escape import link, markdown_text

AT_ONCE = 8
MOST_TESTS = 25
MOST_NAMES = 200


@flow(name="triage", flow_run_name="triage of {plan_short_id}", retries=0)
async def triage(
    credentials: QATechCredentials,
    run_short_ids: list[str],
    plan_short_id: str | None = None,
    gate_flow_run_id: str | None = None,
    label: str | None = None,
    run_url: str | None = None,
    credentials_block: str | None = None,
) -> int:
    """Fetch the details of each test that has not passed in a gate's last word on it, and write them down.

    Args:
        credentials: How to reach QA.tech, where no block is named.
        run_short_ids: The gate's runs, the first one first.
        plan_short_id: The gate's plan.
        gate_flow_run_id: The gate's flow run.
        label: The gate's label.
        run_url: Address of the gate's latest run.
        credentials_block: Name of the block with which the gate reached QA.tech: its runs are seen with no other.

    Returns:
        How many tests have not passed.

    Raises:
        QATechAPIError: A run could not be read.
        ValueError: No run was given.
    """
    if not run_short_ids:
        raise ValueError("run_short_ids must name the gate's runs: there is nothing to look into.")
    if credentials_block is not None:
        credentials = await QATechCredentials.aload(credentials_block)
    limit = asyncio.Semaphore(AT_ONCE)
    async with credentials.get_client() as client:
        last_word: dict[str, QATechRunTestCase] = {}
        runs = [await look_at(client, run_short_id) for run_short_id in run_short_ids]
        for run in runs:
            for case in run.test_cases:
                last_word[case.project_test_case_id or case.id or case.name] = case
        open_cases = [case for case in last_word.values() if (case.status, case.result) != ("COMPLETED", "PASSED")]
        # Failures first: what was skipped was mostly skipped because of them.
        open_cases.sort(key=lambda case: case.result != "FAILED")
        issues = [issue for run in runs for issue in run.issues]
        sections = await asyncio.gather(*(section(client, case, issues, limit) for case in open_cases[:MOST_TESTS]))
    head = [
        f"## {len(open_cases)} of {len(last_word)} tests have not passed",
        f"Plan {markdown_text(plan_short_id or 'unknown', 100)}. "
        f"Runs: {', '.join(link(run.run_short_id, run_url if run is runs[-1] else None) for run in runs)}. "
        f"{await the_gate(gate_flow_run_id, artifact_key('report', label or plan_short_id))}",
    ]
    await acreate_markdown_artifact(
        markdown="\n\n".join([*head, *sections, *named(open_cases[MOST_TESTS:])]),
        key=artifact_key("triage", plan_short_id),
        description="QA.tech: why the gate failed, test by test",
    )
    return len(open_cases)


async def look_at(client: QATechClient, run_short_id: str) -> QATechRun:
    """Read a run with what QA.tech noticed in it; without, where QA.tech does not know such a thing."""
    try:
        return await client.get_run(run_short_id, test_cases="all", with_issues=True)
    except BadRequestError:
        return await client.get_run(run_short_id, test_cases="all")


async def the_gate(flow_run_id: str | None, report_key: str) -> str:
    """Give links to the gate's flow run and its report in Prefect's UI; its bare id where nobody knows the UI."""
    if flow_run_id is None:
        return "The gate's flow run is unknown."
    page = url_for("flow-run", obj_id=flow_run_id)
    if page is None or not is_uuid(flow_run_id):
        return f"The gate's flow run: {markdown_text(flow_run_id, 100)}."
    links = [f"[The gate's flow run]({page})"]
    async with get_client() as client:
        found = await client.read_artifacts(
            # The rest of the key says where the plan was tested.
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_=f"{report_key}%")),
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run_id)])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    # Prefect's own function knows no address of an artifact.
    links += [f"[its report]({page.partition('/runs/')[0]}/artifacts/artifact/{report.id})" for report in found]
    return f"{', '.join(links)}."


def is_uuid(text: str) -> bool:
    """Whether a text is an id of Prefect's."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def named(cases: list[QATechRunTestCase]) -> list[str]:
    """Name the tests that are not looked into, as far as there is room."""
    if not cases:
        return []
    names = [markdown_text(case.name, 200) for case in cases[:MOST_NAMES]]
    more = [f"{len(cases) - MOST_NAMES} more"] if len(cases) > MOST_NAMES else []
    return [f"### {len(cases)} more are not looked into", ", ".join([*names, *more])]


async def section(
    client: QATechClient, case: QATechRunTestCase, issues: list[QATechDetectedIssue], limit: asyncio.Semaphore
) -> str:
    """Render a test with its details and trace; where they cannot be had, with what the run says of it."""
    found: QATechRunTestCase = case
    steps: list[QATechTraceStep] = []
    note = ""
    try:
        if case.short_id:
            async with limit:
                found = await client.get_run_test_case(case.short_id)
                steps = await client.get_test_case_trace(case.short_id)
    except QATechAPIError as error:
        get_run_logger().warning("Test case %s could not be looked into: %s", case.short_id, error)
        note = "\n\nIts details or its trace could not be had."
    return describe_failure(found, steps, issues) + note


if __name__ == "__main__":
    triage.serve(name="local")
