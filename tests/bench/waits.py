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

SECONDS = 90.0
"""How long the runs last that are waited for."""

_TITLES = {
    "ours": "await_for_test_run",
    "core": "the same, without Prefect",
    "poll-tasks": "(a) a task run per poll",
    "threads": "(b) a sync task in a thread",
}


def _server_cpu(world: World) -> float:
    ticks = Path(f"/proc/{world._processes['server'].pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def compare(world: World, numbers: list[int], compared_number: int, seconds: float = SECONDS) -> list[Bar]:
    """Print the table; return the bars."""
    port = free_port()
    world.spawn("service", sys.executable, "-m", "tests.bench.service", str(port))
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: _answers(url), "the benches' service", 30)
    figures: dict[tuple[str, int], dict[str, Any]] = {}
    rows: list[list[object]] = []
    asked = [("core", numbers[-1]), *(("ours", number) for number in numbers)]
    asked += [("poll-tasks", compared_number), ("threads", compared_number)]
    for kind, number in asked:
        before = _server_cpu(world)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.waiting_process", kind, str(number), f"{seconds:g}", url],
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
                found["requests"] / number,
                1000 * found["cpu"] / number,
                1000 * found["server"] / number,
                found["kb"] / number,
                found["latest"] if kind in ("ours", "core") else "",
            ]
        )
    heads = ["kind", "waits", "looks each", "CPU ms each", "Prefect server ms each", "kB each", "latest s"]
    print_table(f"Waits in one process, for runs of {seconds:g} s", heads, rows)
    world.stop("service")
    ours, other = figures["ours", numbers[0]], figures["poll-tasks", compared_number]
    cpu = ours["cpu"] / numbers[0], other["cpu"] / compared_number
    both = cpu[0] + ours["server"] / numbers[0], cpu[1] + other["server"] / compared_number
    heaviest = max(figures["ours", number]["kb"] / number for number in numbers)
    return [
        Bar(
            "at least ten times less CPU than a task run per poll",
            f"{cpu[1] / cpu[0]:.1f} times in the process, {both[1] / both[0]:.1f} times with the Prefect server",
            cpu[1] / cpu[0] >= 10,
        ),
        Bar("under 60 kB for each waiting run", f"{heaviest:.0f} kB", heaviest < 60),
        Bar(
            f"no look later than planned by more than 1 s at {numbers[0]:,} waits",
            f"{ours['latest']:.2f} s",
            ours["latest"] <= 1,
        ),
    ]


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/v1/run/d0x1").status_code == 200
    except httpx.HTTPError:
        return False
