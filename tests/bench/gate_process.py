"""One gate on instant runs: `python -m tests.bench.gate_process KIND URL TOKEN`; prints figures as JSON.

A flow run has a process of its own, so all that the process asks of Prefect's API is counted, until its logs and events
are delivered. Events and task runs go over a websocket, and are counted nowhere.

KIND is `gate` (release_gate), `gate-target` (the same, which names what it tests), `hand` (a flow by hand with bare
httpx: start, look until it ends, raise) or `hand-report` (the same, with what anybody would want to see: a link, a
progress bar, a report, a table of the tests).
"""

from __future__ import annotations

import asyncio
import collections
import json
import re
import sys
import time
from typing import Any

import httpx
from prefect import flow
from prefect.artifacts import (
    acreate_link_artifact,
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from pydantic import SecretStr

from prefect_qatech import QATechCredentials, QATechPolling, arelease_gate
from prefect_qatech.report.events import deliver

calls: collections.Counter[str] = collections.Counter()
service = ""
PLAN = "pln_one"


async def by_hand(http: httpx.AsyncClient, report: bool) -> None:
    started = (await http.post("/v1/run", json={"testPlanShortId": PLAN})).raise_for_status().json()["run"]
    if report:
        await acreate_link_artifact(link=started["url"], key="hand-run")
        progress = await acreate_progress_artifact(progress=0, key="hand-progress")
    while True:
        path = f"/v1/run/{started['shortId']}"
        run = (await http.get(path, params={"testCases": "all"})).raise_for_status().json()
        if run["status"] in ("COMPLETED", "ERROR", "CANCELLED"):
            break
        await asyncio.sleep(0.05)
    if report:
        tests = [{"test": case["name"], "result": case["result"]} for case in run["runTestCases"]]
        await aupdate_progress_artifact(artifact_id=progress, progress=100)
        await acreate_markdown_artifact(markdown=f"# {run['result']}", key="hand-report")
        await acreate_table_artifact(table=tests, key="hand-tests")
    if run["result"] != "PASSED":
        raise RuntimeError(run["result"])


@flow
async def hand(report: bool, token: str) -> None:
    async with httpx.AsyncClient(base_url=service, headers={"Authorization": f"Bearer {token}"}) as http:
        await by_hand(http, report)


def _count(request: httpx.Request) -> None:
    where = "QA.tech" if str(request.url).startswith(service) else "Prefect"
    path = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "{id}", request.url.path)
    calls[f"{where} {request.method} {path}"] += 1


def count_calls() -> None:
    """Count every request of every client of this process."""
    real, sync = httpx.AsyncClient.send, httpx.Client.send

    async def send(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        _count(request)
        return await real(self, request, **options)

    def sync_send(self: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        _count(request)
        return sync(self, request, **options)

    httpx.AsyncClient.send = send  # type: ignore[method-assign, assignment]
    httpx.Client.send = sync_send  # type: ignore[method-assign, assignment]


async def once(kind: str, token: str) -> None:
    if kind.startswith("gate"):
        credentials = QATechCredentials(api_token=SecretStr(token), api_url=service)
        polling = QATechPolling(first_seconds=0.05, max_seconds=0.05)
        await arelease_gate(credentials, PLAN, target="v1" if kind == "gate-target" else None, polling=polling)
    else:
        await hand(kind == "hand-report", token)


async def main() -> None:
    global service
    kind, service, token = sys.argv[1:4]
    count_calls()
    began = time.monotonic()
    await once(kind, token)
    wall = time.monotonic() - began
    await deliver()
    # What tells Prefect of events asks it for the flow's name.
    await asyncio.sleep(1)
    print(json.dumps({"wall": wall, "calls": calls}))


if __name__ == "__main__":
    asyncio.run(main())
