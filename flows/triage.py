"""Looks into a gate that failed: what the agent saw, test by test, in one artifact.

    python -m flows.triage

serves it from this machine, as `triage/local`; `prefect.yaml` deploys it for a work pool, where the event
`qatech.gate.failed` starts it with the gate's ids.
"""

import asyncio

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.logging import get_run_logger

from prefect_qatech import QATechAPIError, QATechClient, QATechCredentials, QATechRunTestCase, QATechRunTestCaseDetails
from prefect_qatech.report.artifacts import artifact_key
from prefect_qatech.report.escape import link, markdown_text

AT_ONCE = 8
MOST_TESTS = 50


@flow(name="triage", retries=0)
async def triage(
    credentials: QATechCredentials,
    run_short_ids: list[str],
    plan_short_id: str | None = None,
    gate_flow_run_id: str | None = None,
) -> int:
    """Fetch the details of each test that has not passed in a gate's last word on it, and write them down.

    Args:
        credentials: How to reach QA.tech.
        run_short_ids: The gate's runs, the first one first.
        plan_short_id: The gate's plan.
        gate_flow_run_id: The gate's flow run.

    Returns:
        How many tests have not passed.

    Raises:
        QATechAPIError: A run could not be read.
        ValueError: No run was given.
    """
    if not run_short_ids:
        raise ValueError("run_short_ids must name the gate's runs: there is nothing to look into.")
    limit = asyncio.Semaphore(AT_ONCE)
    async with credentials.get_client() as client:
        last_word: dict[str, QATechRunTestCase] = {}
        for run_short_id in run_short_ids:
            for case in (await client.get_run(run_short_id, test_cases="all")).test_cases:
                last_word[case.project_test_case_id or case.id or case.name] = case
        open_cases = [case for case in last_word.values() if (case.status, case.result) != ("COMPLETED", "PASSED")]
        # Failures first: what was skipped was mostly skipped because of them.
        open_cases.sort(key=lambda case: case.result != "FAILED")
        sections = await asyncio.gather(*(section(client, case, limit) for case in open_cases[:MOST_TESTS]))
    head = [
        f"## {len(open_cases)} of {len(last_word)} tests have not passed",
        f"Plan {markdown_text(plan_short_id or 'unknown', 100)}, runs {markdown_text(', '.join(run_short_ids), 500)}, "
        f"the gate's flow run {markdown_text(gate_flow_run_id or 'unknown', 100)}.",
    ]
    left = [f"{len(open_cases) - MOST_TESTS} more are not shown."] if len(open_cases) > MOST_TESTS else []
    await acreate_markdown_artifact(
        markdown="\n\n".join([*head, *sections, *left]),
        key=artifact_key("triage", plan_short_id),
        description="QA.tech: why the gate failed, test by test",
    )
    return len(open_cases)


async def section(client: QATechClient, case: QATechRunTestCase, limit: asyncio.Semaphore) -> str:
    """Render a test with its details; where they cannot be had, with what the run says of it."""
    found: QATechRunTestCase = case
    note = ""
    try:
        if case.short_id:
            async with limit:
                found = await client.get_run_test_case(case.short_id)
    except QATechAPIError as error:
        get_run_logger().warning("The details of test case %s could not be had: %s", case.short_id, error)
        note = "Its details could not be had."
    lines = [
        f"### {markdown_text(case.name, 200)}",
        f"**{markdown_text(found.result or found.status, 50)}**",
        markdown_text(found.result_title or "no reason given", 300),
        markdown_text(found.evaluation_thought or "", 2_000),
        note,
    ]
    if isinstance(found, QATechRunTestCaseDetails):
        minutes = f"{found.duration_ms / 60_000:.1f} minutes" if found.duration_ms is not None else ""
        links = [
            link(text, url)
            for text, url in (
                ("test", found.url),
                ("screenshot", found.screenshot_url),
                ("recording", found.recording_url),
            )
            if url
        ]
        lines.append(", ".join(part for part in (markdown_text(found.error_code or "", 100), minutes, *links) if part))
    return "\n\n".join(line for line in lines if line)


if __name__ == "__main__":
    triage.serve(name="local")
