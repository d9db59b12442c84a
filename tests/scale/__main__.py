"""`python -m tests.scale [--gates 36]`; exit code 0 when nothing was wrong."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.scale.scale import PLANS, Findings, Scale, say

LEAST_GATES = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description="Gates on more than one machine.")
    parser.add_argument("--gates", type=int, default=36)
    gates = parser.parse_args().gates
    if gates < LEAST_GATES:
        parser.error(f"at least {LEAST_GATES} gates, or a machine has nothing to do")
    if os.geteuid() != 0:
        parser.error("run it as root, which starts PostgreSQL as the user postgres")
    home = Path(tempfile.mkdtemp(prefix="qatech-scale-"))
    try:
        found = Scale(gates, home, say).run()
    except BaseException:
        print(f"Logs: {home}")
        raise
    for wrong in found.wrongs:
        print(f"WRONG: {wrong}")
    _print_table(found)
    if found.wrongs:
        print(f"Logs: {home}")
        return 1
    shutil.rmtree(home)
    return 0


def _print_table(found: Findings) -> None:
    def line(what: str, value: object) -> None:
        print(f"  {what:<44}{value}")

    print("\nMore than one machine")
    line("gates", len(found.gates))
    line("starts accepted by the sandbox", found.starts)
    line("reruns accepted by the sandbox", found.reruns)
    line("POSTs in all", found.posts)
    line("processes killed with their machine", found.processes_killed)
    line("gates cut in the middle of a campaign", len(found.cut))
    line('flow runs marked as crashed, then "Retry"', len(found.recovered))
    line("flow runs by machine", _listed(found.runs_of_machines))
    line("requests by API server", _listed(found.requests_of_apis))
    line("rows of ledgers by API server", _listed(found.ledger_rows_of_apis))
    line("triages", found.triages)
    line("processes left", found.processes_left)
    line("wall time", f"{max(found.seconds.values()):.0f} s")
    ends = Counter((gate.plan, gate.verdict) for gate in found.gates)
    print(f"\n  {'plan':<14}{'pass':>14}{'fail':>14}{'inconclusive':>14}")
    for plan in PLANS:
        print(f"  {plan:<14}" + "".join(f"{ends[plan, end] or '':>14}" for end in ("pass", "fail", "inconclusive")))
    print()


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{what} {count}" for what, count in sorted(counter.items()))


if __name__ == "__main__":
    sys.exit(main())
