"""`python -m tests.bench [--runs 600] [--seed 1]`."""

from __future__ import annotations

import argparse

from tests.bench.simulation import simulate
from tests.bench.tables import print_bars


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="What waiting costs.")
    parser.add_argument("--runs", type=int, default=600, help="simulated runs for each distribution")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    bars = simulate(asked.seed, asked.runs)
    print_bars(bars)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
