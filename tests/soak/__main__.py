"""`python -m tests.soak [--gates 300] [--seed 1] [--minutes 8]`; exit code 0 when all zeros are zeros."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.soak.books import Books
from tests.soak.scenario import KINDS
from tests.soak.soak import Soak, Tally

_MOST_WRONGS = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Gates under faults and kills.")
    parser.add_argument("--gates", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=8, help="time limit for all of it")
    asked = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("run it as root, which starts PostgreSQL as the user postgres")
    home = Path(tempfile.mkdtemp(prefix="qatech-soak-"))
    soak = Soak(asked.gates, asked.seed, asked.minutes, home, lambda line: print(line, file=sys.stderr, flush=True))
    books = soak.run()
    zeros, missing = _zeros(books, soak.tally), _missing(books, soak.tally)
    wrongs = [*missing, *books.wrongs]
    for wrong in wrongs[:_MOST_WRONGS]:
        print(f"WRONG: {wrong}")
    if len(wrongs) > _MOST_WRONGS:
        print(f"WRONG: and {len(wrongs) - _MOST_WRONGS} more")
    _print_table(len(soak.gates), asked.seed, books, soak.tally, zeros)
    if any(zeros.values()) or missing:
        print(f"Logs: {home}")
        return 1
    shutil.rmtree(home)
    return 0


def _zeros(books: Books, tally: Tally) -> dict[str, int]:
    return {
        "double starts": books.double_starts,
        "double reruns, or over the budget": books.double_reruns,
        "runs that no ledger accounts for": books.unrecorded,
        "wrong PASS": books.wrong_pass,
        "PASS on evidence of an earlier attempt": books.old_pass,
        "bare errors after a first run": books.bare_errors,
        "other verdicts that nothing explains": books.unexplained,
        "gates that did not end": books.not_ended,
        "processes left": tally.processes_left,
    }


def _missing(books: Books, tally: Tally) -> list[str]:
    """Say what has to have happened for the zeros to mean anything, and did not."""
    happened = {
        "no gate ended": books.ended,
        "no process was killed": tally.kills,
        "no flow run was retried": tally.retries,
        "no fault was injected": tally.faults.total(),
        "no gate passed": sum(count for (_, end), count in books.verdicts.items() if end == "pass"),
        "nothing was rerun": books.reruns,
        "nothing was tested again after a pass": books.starts_after_a_pass,
        "no rerun was refused": books.incidents["rerun_refused"],
        "no details were lost": books.incidents["details lost"],
        "no deadline passed": books.incidents["deadline_passed"],
        "the Prefect API did not hang": tally.hangs,
    }
    timed_out = [f"the time limit came first, after {tally.seconds:.0f} s"] if tally.timed_out else []
    return [what for what, count in happened.items() if not count] + timed_out


def _print_table(gates: int, seed: int, books: Books, tally: Tally, zeros: dict[str, int]) -> None:
    def line(what: str, value: object, *, must_be_zero: bool = False) -> None:
        print(f"  {what:<40}{value}{'  (must be 0)' if must_be_zero else ''}")

    print(f"\nSoak, seed {seed}")
    line("gates", gates)
    line("gates ended", books.ended)
    line("starts counted by the sandbox", books.starts)
    line("of these, anew after a pass", books.starts_after_a_pass)
    line("reruns counted by the sandbox", books.reruns)
    line("answers to both that never arrived", books.unheard)
    for what, count in zeros.items():
        line(what, count, must_be_zero=True)
    line("kills (of these, during a POST)", f"{tally.kills} ({tally.kills_in_a_post})")
    line('retries of killed flow runs ("Retry")', tally.retries)
    line("retries for Prefect's sake", _listed(tally.retries_for_prefect) or "0")
    line("incidents, in the last reports", _listed(books.incidents))
    line("hangs of the Prefect API", tally.hangs)
    line("requests to the sandbox", tally.requests)
    line("faults injected", f"{tally.faults.total()}: {_listed(tally.faults)}")
    line("wall time", f"{tally.seconds:.0f} s")
    ends = ("pass", "fail", "inconclusive", "outcome unknown", "refused")
    print(f"\n  {'plan':<12}" + "".join(f"{end:>17}" for end in ends))
    for kind in KINDS:
        print(f"  {kind.name:<12}" + "".join(f"{books.verdicts[kind.name, end] or '':>17}" for end in ends))
    print()


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{what} {count}" for what, count in sorted(counter.items()))


if __name__ == "__main__":
    sys.exit(main())
