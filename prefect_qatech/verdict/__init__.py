"""Pure: what the answers of QA.tech mean. No I/O, no clock, no Prefect; the same input gives the same verdict.

`outcomes` says what an attempt says about a test, `identity` which test it is, `policy` what a gate asks for, `judge`
whether the release may go out, `rerun` what to ask for again.
"""

from prefect_qatech.verdict.judge import GateVerdict, Incident, Reason, ReleaseCheckEvidence, judge
from prefect_qatech.verdict.outcomes import Attempt, Outcome, TestVerdict, Verdict, classify, merge
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry, ReleaseCheckPolicy
from prefect_qatech.verdict.rerun import NoRerun, Rerun, plan_rerun, rerun_base

__all__ = [
    "Attempt",
    "GatePolicy",
    "GateVerdict",
    "Incident",
    "NoRerun",
    "Outcome",
    "QuarantineEntry",
    "Reason",
    "ReleaseCheckEvidence",
    "ReleaseCheckPolicy",
    "Rerun",
    "TestVerdict",
    "Verdict",
    "classify",
    "judge",
    "merge",
    "plan_rerun",
    "rerun_base",
]
