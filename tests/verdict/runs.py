"""Runs in a few letters, and what a verdict says of them."""

from __future__ import annotations

from datetime import date

from prefect_qatech.verdict.judge import GateVerdict
from prefect_qatech.verdict.outcomes import Attempt, Outcome, Verdict
from prefect_qatech.verdict.policy import QuarantineEntry

PASSED, FAILED, MISSED, SKIPPED, CANCELLED, UNFINISHED, ABSENT = Outcome
PASS, INCONCLUSIVE, FAIL = Verdict
TODAY = date(2026, 9, 1)
LETTERS = {o.value[0]: o for o in Outcome}  # p f m s c u a


def run(words: str = "", status: str = "COMPLETED", result: str | None = None) -> Attempt:
    """`run("a:p b:f")` is a run in which test a passed and test b failed."""
    pairs = (word.split(":") for word in words.split())
    return Attempt(status, {test: LETTERS[letter] for test, letter in pairs}, result)


def suite(**counts: int) -> Attempt:
    """`suite(p=30, f=2)` is a run of 32 tests."""
    return run(" ".join(f"{letter}{i}:{letter}" for letter, count in counts.items() for i in range(count)))


def quarantine(*tests: str, expires: date = TODAY) -> dict[str, QuarantineEntry]:
    return {test: QuarantineEntry(reason="known bug", owner="ana", expires=expires) for test in tests}


def rules(gate: GateVerdict, *verdicts: Verdict) -> set[str]:
    return {reason.rule for reason in gate.reasons if reason.verdict in (verdicts or Verdict)}
