"""A process that is told to end while its POST is under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from prefect.settings import PREFECT_API_URL

from prefect_qatech import aread_ledger
from prefect_qatech.sandbox import Sandbox
from tests.support import fault

SCRIPT = """
    import asyncio
    from prefect import flow, runtime
    from prefect_qatech import QATechCredentials, astart_test_run, start_test_run

    @flow
    def sync_flow():
        print("id:", runtime.flow_run.id, flush=True)
        start_test_run(QATechCredentials.from_env(), "pln_green")

    @flow
    async def async_flow():
        print("id:", runtime.flow_run.id, flush=True)
        await astart_test_run(QATechCredentials.from_env(), "pln_green")

    {call}
"""


@pytest.fixture
def process(request: pytest.FixtureRequest, prefect_server: None, sandbox: Sandbox) -> Iterator[subprocess.Popen[str]]:
    """A flow's process, whose POST is answered a second after it was accepted."""
    sandbox.set_faults(fault({"kind": "latency", "seconds": 1, "times": 1, "accepted": True}, "start"))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT).format(call=request.param)],
        env={
            **os.environ,
            "PREFECT_API_URL": PREFECT_API_URL.value() or "",
            "QATECH_API_TOKEN": sandbox.token,
            "QATECH_API_URL": sandbox.url,
        },
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize("process", ["sync_flow()", "asyncio.run(async_flow())"], indirect=True)
async def test_a_termination_during_the_post_keeps_the_runs_id(
    process: subprocess.Popen[str], sandbox: Sandbox
) -> None:
    deadline = time.monotonic() + 120
    while sandbox.counts()["starts"] == 0:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        await anyio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    [run] = sandbox.runs()
    [entry] = await aread_ledger(output.partition("id: ")[2].split()[0])
    assert process.returncode != 0, output
    assert entry.run is not None, output
    assert entry.run.run_short_id == run["short_id"]
    assert run["short_id"] in output
