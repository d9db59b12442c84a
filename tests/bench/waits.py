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
"""How long the runs last whose waits are compared."""

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
    world: World, speeds: dict[int, float], compared_number: int, compared_speed: float, real_seconds: float = 120.0
) -> list[Bar]:
    """Print the table; return the bars.

    Args:
        world: Where a Prefect server runs.
        speeds: How many waits, and how many times as fast their time goes.
        compared_number: How many waits of the kinds to compare with, which take more.
        compared_speed: And how many times as fast their time goes.
        real_seconds: How long the runs last on which looks are seen to be punctual, as their time is not made faster:
            the first minutes are those with the most looks.
    """
    port = free_port()
    world.spawn("service", sys.executable, "-m", "tests.bench.service", str(port))
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: _answers(url), "the benches' service", 30)
    figures: dict[tuple[str, int, float], dict[str, Any]] = {}
    rows: list[list[object]] = []
    fewest = min(speeds)
    asked = [("together", number, SECONDS, speed) for number, speed in speeds.items()]
    asked += [("together", fewest, real_seconds, 1)]
    # More task runs at once keep a Prefect server on SQLite busy for longer than the runs last.
    asked += [(kind, fewest, SECONDS, speeds[fewest]) for kind in ("each", "sleeps")]
    asked += [(kind, compared_number, SECONDS, compared_speed) for kind in ("poll-tasks", "threads")]
    for kind, number, seconds, speed in asked:
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
        figures[kind, number, speed] = found
        rows.append(
            [
                _TITLES[kind],
                f"{number:,}",
                f"{seconds:g}",
                f"{speed:g}",
                found["requests"] / number,
                1000 * found["cpu"] / number,
                1000 * found["server"] / number,
                found["kb"] / number,
                found["latest"] if kind in ("together", "each") else "",
            ]
        )
    heads = ["kind", "waits", "runs of s", "speed", "looks", "CPU ms", "Prefect server ms", "kB", "latest look s"]
    print_table("Waits in one process; looks, processor time and memory for each wait", heads, rows)
    world.stop("service")
    poll_tasks = figures["poll-tasks", compared_number, compared_speed]
    bars = []
    for number, speed in speeds.items():
        found = figures["together", number, speed]
        cpu = found["cpu"] / number, poll_tasks["cpu"] / compared_number
        both = cpu[0] + found["server"] / number, cpu[1] + poll_tasks["server"] / compared_number
        bars += [
            Bar(
                f"{number:,} waits: at least ten times less CPU than a task run per poll, Prefect's server included",
                f"{both[1] / both[0]:.1f} times; in the waiting process alone {cpu[1] / cpu[0]:.1f} times",
                both[1] / both[0] >= 10,
            ),
            Bar(
                f"{number:,} waits: under 60 kB for each beyond the process itself",
                f"{found['kb'] / number:.0f} kB",
                found["kb"] / number < 60,
            ),
        ]
    latest = figures["together", fewest, 1]["latest"]
    promise = f"no look later than planned by more than 1 s at {fewest:,} waits"
    return [*bars, Bar(promise, f"{latest:.2f} s", latest <= 1)]


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/v1/run/d0x1").status_code == 200
    except httpx.HTTPError:
        return False
