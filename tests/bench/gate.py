"""What one gate costs on instant runs, and what importing the package costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from statistics import median

from prefect_qatech.sandbox import Sandbox
from tests.bench.tables import Bar, print_table
from tests.e2e.world import ROOT, World
from tests.support import one_plan

_TITLES = {
    "gate": "release_gate",
    "gate-target": "release_gate, target",
    "hand": "by hand, bare httpx",
    "hand-report": "by hand, with link, progress and report",
}
_IMPORTS = 7
_MOST_CALLS = 1.5
_MOST_IMPORT_MS = 60


def compare_gates(world: World) -> list[Bar]:
    """Print what a gate and flows by hand ask of Prefect and of QA.tech; return the bar."""
    instant = one_plan([{"name": f"Test {number}", "duration_seconds": 0} for number in range(6)])
    found: dict[str, dict[str, float]] = {}
    calls: dict[str, Counter[str]] = {}
    with Sandbox(speed=2000, scenario=instant) as sandbox:
        for kind in _TITLES:
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.gate_process", kind, sandbox.url, sandbox.token],
                env=world.environment(),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            answer = json.loads(done.stdout.strip().splitlines()[-1])
            calls[kind] = Counter(answer["calls"])
            found[kind] = {
                "wall": answer["wall"],
                **{
                    where: sum(count for call, count in calls[kind].items() if call.startswith(where))
                    for where in ("Prefect", "QA.tech")
                },
            }
    rows = [[_TITLES[kind], one["wall"], int(one["Prefect"]), int(one["QA.tech"])] for kind, one in found.items()]
    print_table(
        "One gate, instant runs, a process each", ["flow", "wall s", "Prefect API calls", "QA.tech calls"], rows
    )
    rows = [
        [call, *(calls[kind][call] for kind in _TITLES)]
        for call in sorted(set().union(*calls.values()))
        if call.startswith("Prefect")
    ]
    print_table("Where the Prefect API calls go", ["call", *_TITLES.values()], rows)
    bare, named = (found[kind]["Prefect"] / found["hand"]["Prefect"] for kind in ("gate", "gate-target"))
    full = found["gate"]["Prefect"] / found["hand-report"]["Prefect"]
    measured = f"{bare:.2f} times, {named:.2f} with a target; {full:.2f} times those of one that reports as well"
    return [Bar("a gate: at most 1.5 times the Prefect API calls of a flow by hand", measured, bare <= _MOST_CALLS)]


def compare_imports(world: World) -> list[Bar]:
    """Print what the package adds to the import of Prefect; return the bar."""
    rows: list[list[object]] = []
    milliseconds: dict[str, float] = {}
    for title, code in (
        ("import prefect", "import prefect"),
        ("import prefect, prefect_qatech", "import prefect, prefect_qatech"),
        ("from prefect import flow, task", "from prefect import flow, task"),
        ("the same, and release_gate", "from prefect import flow, task; from prefect_qatech import release_gate"),
    ):
        _import_ms(world, code)
        milliseconds[title] = median(_import_ms(world, code) for _ in range(_IMPORTS))
        rows.append([title, milliseconds[title]])
    print_table(f"Import time (-X importtime, median of {_IMPORTS})", ["import", "ms"], rows)
    adds = milliseconds["import prefect, prefect_qatech"] - milliseconds["import prefect"]
    used = milliseconds["the same, and release_gate"] - milliseconds["from prefect import flow, task"]
    return [
        Bar(
            "import prefect_qatech adds under 60 ms to import prefect",
            f"{max(0.0, adds):.0f} ms (the first use of release_gate: {used:.0f} ms)",
            adds < _MOST_IMPORT_MS,
        )
    ]


def _import_ms(world: World, code: str) -> float:
    """Sum up what a process spends in the imports of a line of code."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        env=world.environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line]
    return sum(int(line[0]) for line in lines if line[0].strip().isdigit()) / 1000
