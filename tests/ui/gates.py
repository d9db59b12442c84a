"""Runs gates against the Prefect server of PREFECT_API_URL: `python -m tests.ui.gates JOBS`, a process of its own.

JOBS is JSON: a list of {name, api_url, token, plan, policy?, ask?}; those with `ask` pause for a person, those whose
plan is a list are a night, and those with `triage` look into the gate of that name. One line of JSON is printed: name
to {id, verdict}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from flows.nightly import nightly
from flows.triage import triage
from prefect_qatech import GateNotPassed, GatePolicy, GateReport, QATechCredentials, QATechPolling, arelease_gate

POLLING = QATechPolling(first_seconds=0.05, max_seconds=0.2)


def credentials_of(job: dict[str, Any]) -> QATechCredentials:
    return QATechCredentials.model_validate({"api_token": job["token"], "api_url": job["api_url"]})


async def night(job: dict[str, Any]) -> dict[str, Any]:
    state = await nightly.with_options(flow_run_name=job["name"])(
        credentials_of(job), job["plan"], polling=POLLING, return_state=True
    )
    return {"id": str(state.state_details.flow_run_id), "verdict": state.name}


async def look_into(job: dict[str, Any], gate: dict[str, Any]) -> dict[str, Any]:
    state = await triage.with_options(flow_run_name=job["name"])(
        credentials_of(job), gate["runs"], plan_short_id=job["plan"], gate_flow_run_id=gate["id"], return_state=True
    )
    return {"id": str(state.state_details.flow_run_id), "verdict": state.name}


async def run(job: dict[str, Any]) -> dict[str, Any]:
    gate = arelease_gate.with_options(flow_run_name=job["name"])
    # The flow run is to fail where the gate does not pass, as everywhere else.
    state = await gate(
        credentials_of(job),
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
    runs = [attempt.run_short_id for attempt in report.attempts]
    return {"id": report.flow_run_id, "verdict": report.verdict.value, "runs": runs}


async def main(jobs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    # One after the other: SQLite takes one writer, and the order of a history is the order of these.
    done: dict[str, dict[str, Any]] = {}
    for job in jobs:
        if "triage" in job:
            done[job["name"]] = await look_into(job, done[job["triage"]])
        else:
            done[job["name"]] = await (night(job) if isinstance(job["plan"], list) else run(job))
    return done


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
