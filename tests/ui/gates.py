"""Runs gates against the Prefect server of PREFECT_API_URL: `python -m tests.ui.gates JOBS`, a process of its own.

JOBS is JSON: a list of {name, api_url, token, plan, policy?, ask?}; those with `ask` pause for a
person. One line of JSON is printed: name to {id, verdict}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from prefect_qatech import GateNotPassed, GatePolicy, GateReport, QATechCredentials, QATechPolling, arelease_gate

POLLING = QATechPolling(first_seconds=0.05, max_seconds=0.2)


async def run(job: dict[str, Any]) -> dict[str, str | None]:
    gate = arelease_gate.with_options(flow_run_name=job["name"])
    # The flow run is to fail where the gate does not pass, as everywhere else.
    state = await gate(
        QATechCredentials.model_validate({"api_token": job["token"], "api_url": job["api_url"]}),
        job["plan"],
        polling=POLLING,
        policy=GatePolicy.model_validate(job.get("policy") or {}),
        on_inconclusive="ask" if job.get("ask") else "stop",
        label=job["name"] if job.get("ask") else None,
        return_state=True,
    )
    result = await state.aresult(raise_on_failure=False)
    report = result.report if isinstance(result, GateNotPassed) else result
    if not isinstance(report, GateReport):
        raise SystemExit(f"The gate {job['name']} ended without a verdict: {state.message}")
    return {"id": report.flow_run_id, "verdict": report.verdict.value}


async def main(jobs: list[dict[str, Any]]) -> dict[str, dict[str, str | None]]:
    # One after the other: SQLite takes one writer, and the order of a history is the order of these.
    return {job["name"]: await run(job) for job in jobs}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
