"""A user's own flow, and flows that somebody has imported: `python -m tests.e2e.served` serves all of them."""

import asyncio

from prefect import flow
from prefect.runner import Runner

from flows.nightly import nightly
from flows.preview import preview_check
from flows.release import release
from flows.triage import triage
from flows.watcher import watch
from prefect_qatech import GateReport, QATechCredentials, QATechPolling, QATechRunRequest, gather_gates, release_gate


@flow
def own_flow(
    credentials: QATechCredentials, plan: str, polling: QATechPolling, mixed: dict[str, str] | None = None
) -> list[str]:
    """What a user writes: a gate, then many."""
    report: GateReport = release_gate(credentials, plan, polling=polling)
    requests = {name: QATechRunRequest(test_plan_short_id=found) for name, found in (mixed or {"again": plan}).items()}
    both = gather_gates(credentials, requests, polling=polling)
    return [report.verdict.value, both.verdict.value]


SERVED = (own_flow, release_gate, gather_gates, nightly, preview_check, release, triage, watch)


def main() -> None:
    """Do what `.serve()` does, for all in one process; `prefect.serve()` is something else: it imports them anew."""
    # More processes at once than cores wait for one another, and Prefect's SQLite then answers nothing for a minute.
    runner = Runner(query_seconds=1, limit=2)
    for found in SERVED:
        runner.add_flow(found, name="served")
    asyncio.run(runner.start())


if __name__ == "__main__":
    main()
