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
    "ours": "await_for_test_run",
    "core": "the same, without task runs",
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
    asked = [("core", number, speed) for number, speed in speeds.items()]
    # More task runs at once keep a Prefect server on SQLite busy for longer than the runs last.
    asked += [(kind, fewest, speeds[fewest]) for kind in ("ours", "sleeps")]
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
                found["latest"] if kind in ("ours", "core") else "",
            ]
        )
    heads = ["kind", "waits", "speed", "looks each", "CPU ms each", "Prefect server ms each", "kB each", "latest s"]
    print_table(f"Waits in one process, for runs of {seconds:g} s", heads, rows)
    world.stop("service")
    other = figures["poll-tasks", compared_number]
    idle = figures["sleeps", fewest]["kb"] / fewest
    bars = []
    for kind in ("core", "ours"):
        found = figures[kind, fewest]
        cpu = found["cpu"] / fewest, other["cpu"] / compared_number
        both = cpu[0] + found["server"] / fewest, cpu[1] + other["server"] / compared_number
        heaviest = max(one["kb"] / number for (what, number), one in figures.items() if what == kind)
        bars += [
            Bar(
                f"{_TITLES[kind]}: at least ten times less CPU than a task run per poll",
                f"{both[1] / both[0]:.1f} times with the Prefect server's, {cpu[1] / cpu[0]:.1f} times without",
                both[1] / both[0] >= 10,
            ),
            Bar(
                f"{_TITLES[kind]}: under 60 kB for each waiting run",
                f"{heaviest:.0f} kB (a task run that only sleeps: {idle:.0f} kB)",
                heaviest < 60,
            ),
            Bar(
                f"{_TITLES[kind]}: no look later than planned by more than 1 s at {fewest:,} waits",
                f"{found['latest']:.2f} s",
                found["latest"] <= 1,
            ),
        ]
    return bars


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/v1/run/d0x1").status_code == 200
    except httpx.HTTPError:
        return False
