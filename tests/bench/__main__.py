"""`python -m tests.bench [--quick] [--runs 300] [--seed 1]`: the tables, then which bars are met."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.bench.gate import compare_gates, compare_imports
from tests.bench.simulation import simulate
from tests.bench.tables import Bar, print_bars
from tests.bench.waits import compare
from tests.e2e.world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What waiting costs.")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, to see that it works")
    parser.add_argument("--runs", type=int, default=300, help="simulated runs for each distribution")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    bars: list[Bar] = simulate(asked.seed, 60 if asked.quick else asked.runs)
    home = Path(tempfile.mkdtemp(prefix="qatech-bench-"))
    world = World(home)
    try:
        world.start_server()
        speeds: dict[int, float] = {100: 20, 200: 20} if asked.quick else {1_000: 5, 5_000: 2}
        bars += compare(world, speeds, 10 if asked.quick else 40, 20 if asked.quick else 5, 10 if asked.quick else 120)
        bars += compare_gates(world)
        bars += compare_imports(world)
    finally:
        world.stop_everything()
        shutil.rmtree(home, ignore_errors=True)
    print_bars(bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
