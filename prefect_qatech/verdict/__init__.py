"""Pure: what the answers of QA.tech mean. No I/O, no clock, no Prefect."""

from prefect_qatech.verdict.judge import (
    Attempt,
    GatePolicy,
    GateVerdict,
    Incident,
    NoRerun,
    Outcome,
    QuarantineEntry,
    Reason,
    Rerun,
    TestVerdict,
    Verdict,
    classify,
    judge,
    merge,
    plan_rerun,
    rerun_base,
)

__all__ = [
    "Attempt",
    "GatePolicy",
    "GateVerdict",
    "Incident",
    "NoRerun",
    "Outcome",
    "QuarantineEntry",
    "Reason",
    "Rerun",
    "TestVerdict",
    "Verdict",
    "classify",
    "judge",
    "merge",
    "plan_rerun",
    "rerun_base",
]
