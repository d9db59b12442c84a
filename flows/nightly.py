"""Several test plans in one night: a gate for each, some at once, one summary, one verdict over all.

    python -m flows.nightly

serves it from this machine; `deployments/prefect.yaml` deploys it for a work pool, with a schedule.
"""

from __future__ import annotations

import asyncio

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.logging import get_run_logger

from prefect_qatech import GatePolicy, GateReport, QATechCredentials, QATechPolling, Verdict, arelease_gate
from prefect_qatech.report.escape import link, markdown_text, plain_text

Night = dict[str, GateReport | Exception]
"""What came of each plan; an exception where the gate could not be evaluated."""


class NightNotPassed(RuntimeError):
    """Not every plan has passed."""


@flow(name="nightly-regression")
async def nightly(
    credentials: QATechCredentials,
    test_plan_short_ids: list[str],
    plans_at_once: int = 4,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    polling: QATechPolling | None = None,
) -> dict[str, str]:
    """Test several plans; none that fails keeps another from being tested and told.

    Args:
        credentials: How to reach QA.tech.
        test_plan_short_ids: The plans, `pln_...`, each once.
        plans_at_once: How many are tested at once.
        policy: What is tolerated, how often is rerun, how long is waited; for each plan.
        polling: How often to look at a run.

    Returns:
        Each plan's verdict.

    Raises:
        NightNotPassed: Some plan did not pass, or could not be tested.
        ValueError: No plan, or one of them twice; nothing was started.
    """
    if not test_plan_short_ids or len(set(test_plan_short_ids)) < len(test_plan_short_ids):
        raise ValueError("test_plan_short_ids must name at least one plan, and each once.")
    if plans_at_once < 1:
        raise ValueError("plans_at_once must be at least 1.")
    limit = asyncio.Semaphore(plans_at_once)

    async def gate(plan: str) -> GateReport | Exception:
        async with limit:
            try:
                return await arelease_gate(
                    credentials, plan, policy=policy, polling=polling, label=plan, raise_unless_passed=False
                )
            except Exception as error:
                get_run_logger().error("%s could not be tested: %s", plan, error)
                return error

    found = await asyncio.gather(*(gate(plan) for plan in test_plan_short_ids))
    night: Night = dict(zip(test_plan_short_ids, found, strict=True))
    await acreate_markdown_artifact(markdown=summary(night), key="qatech-nightly", description="QA.tech: the night")
    if verdict_of(night) is not Verdict.PASS:
        told = [f"{plan}: {plain_text(in_words(outcome), 200)}" for plan, outcome in night.items()]
        raise NightNotPassed(f"The night is {verdict_of(night)}. {'; '.join(told)}.")
    return {plan: in_words(outcome) for plan, outcome in night.items()}


def verdict_of(night: Night) -> Verdict:
    """Give the worst verdict; a plan that could not be tested proves nothing."""
    return Verdict.worst(
        outcome.verdict if isinstance(outcome, GateReport) else Verdict.INCONCLUSIVE for outcome in night.values()
    )


def in_words(outcome: GateReport | Exception) -> str:
    """Say what came of a plan."""
    if isinstance(outcome, GateReport):
        return outcome.verdict.value
    return f"could not be tested ({type(outcome).__name__}: {outcome})"


def summary(night: Night) -> str:
    """Render the night as Markdown: a row for each plan, and the reasons of those that did not pass."""
    rows = ["| Plan | Verdict | Tests | Attempts | Run |", "| --- | --- | --- | --- | --- |"]
    reasons = []
    for plan, outcome in night.items():
        if isinstance(outcome, Exception):
            rows.append(f"| {markdown_text(plan, 80)} | could not be tested | | | |")
            reasons.append(f"- {markdown_text(plan, 80)}: {markdown_text(f'{type(outcome).__name__}: {outcome}', 500)}")
            continue
        name = markdown_text(outcome.plan_name or plan, 80)
        tests = ", ".join(f"{count} {verdict}" for verdict, count in outcome.counts.items() if count)
        run = link(outcome.run_short_id or "", outcome.run_url)
        rows.append(f"| {name} | {outcome.verdict} | {tests} | {len(outcome.attempts)} | {run} |")
        reasons += [
            f"- {name}: {markdown_text(reason.sentence, 500)}"
            for reason in outcome.reasons
            if reason.verdict is not Verdict.PASS
        ]
    return "\n".join([f"## Nightly regression: {verdict_of(night)}", "", *rows, "", *reasons])


if __name__ == "__main__":
    nightly.serve(name="nightly-regression", cron="0 2 * * *")
