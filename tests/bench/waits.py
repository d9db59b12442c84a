"""Many waits in one process: processor time, memory and punctuality, on a real Prefect server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.tables import Bar, print_table
from tests.e2e.world import ROOT, World, eventually, free_port

SECONDS = 600.0
"""How long the runs last that are waited for."""

_TITLES = {
    "together": "await_for_test_runs: all in one task run",
    "each": "await_for_test_run: a task run each",
    "sleeps": "a task run that only sleeps",
    "poll-tasks": "(a) a task run per poll, every 10 s",
    "threads": "(b) a sync task in a thread, every 10 s",
}


def _server_cpu(world: World) -> float:
    ticks = Path(f"/proc/{world._processes['server'].pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def compare(
    world: World, speeds: dict[int, float], compared_number: int, compared_speed: float, seconds: float = SECONDS
) -> list[Bar]:
    """Print the table; return the bars.

    Args:
        world: Where a Prefect server runs.
        speeds: How many waits, and how many times as fast their time goes.
        compared_number: How many waits of the kinds to compare with, which take more.
        compared_speed: And how many times as fast their time goes.
        seconds: How long the runs last, before their time is made faster.
    """
    port = free_port()
    world.spawn("service", sys.executable, "-m", "tests.bench.service", str(port))
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: _answers(url), "the benches' service", 30)
    figures: dict[tuple[str, int], dict[str, Any]] = {}
    rows: list[list[object]] = []
    fewest = min(speeds)
    asked = [("together", number, speed) for number, speed in speeds.items()]
    # More task runs at once keep a Prefect server on SQLite busy for longer than the runs last.
    asked += [(kind, fewest, speeds[fewest]) for kind in ("each", "sleeps")]
    asked += [(kind, compared_number, compared_speed) for kind in ("poll-tasks", "threads")]
    for kind, number, speed in asked:
        before = _server_cpu(world)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.waiting_process", kind, str(number), f"{seconds:g}", f"{speed:g}", url],
            env=world.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout.strip().splitlines()[-1]) | {"server": _server_cpu(world) - before}
        figures[kind, number] = found
        rows.append(
            [
                _TITLES[kind],
                f"{number:,}",
                f"{speed:g}",
                found["requests"] / number,
                1000 * found["cpu"] / number,
                1000 * found["server"] / number,
                found["kb"] / number,
                found["latest"] if kind in ("together", "each") else "",
            ]
        )
    heads = ["kind", "waits", "speed", "looks each", "CPU ms each", "Prefect server ms each", "kB each", "latest s"]
    print_table(f"Waits in one process, for runs of {seconds:g} s", heads, rows)
    world.stop("service")
    poll_tasks = figures["poll-tasks", compared_number]
    bars = []
    for number in speeds:
        found = figures["together", number]
        cpu = found["cpu"] / number, poll_tasks["cpu"] / compared_number
        both = cpu[0] + found["server"] / number, cpu[1] + poll_tasks["server"] / compared_number
        bars += [
            Bar(
                f"{number:,} waits: at least ten times less CPU than a task run per poll",
                f"{cpu[1] / cpu[0]:.1f} times, {both[1] / both[0]:.1f} times with the Prefect server's",
                min(cpu[1] / cpu[0], both[1] / both[0]) >= 10,
            ),
            Bar(
                f"{number:,} waits: under 60 kB for each beyond the process itself",
                f"{found['kb'] / number:.0f} kB",
                found["kb"] / number < 60,
            ),
        ]
    latest = figures["together", fewest]["latest"]
    promise = f"no look later than planned by more than 1 s at {fewest:,} waits"
    return [*bars, Bar(promise, f"{latest:.2f} s", latest <= 1)]


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/v1/run/d0x1").status_code == 200
    except httpx.HTTPError:
        return False
