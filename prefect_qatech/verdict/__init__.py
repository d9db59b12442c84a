"""Pure: what the answers of QA.tech mean. No I/O, no clock, no Prefect; the same input gives the same verdict.

`outcomes` says what an attempt says about a test, `identity` which test it is, `policy` what a gate asks for, `judge`
whether the release may go out, `rerun` what to ask for again.
"""

from prefect_qatech.verdict.judge import (
    GateVerdict as GateVerdict,
    Incident as Incident,
    Reason as Reason,
    ReleaseCheckEvidence as ReleaseCheckEvidence,
    judge as judge,
)
from prefect_qatech.verdict.outcomes import (
    Attempt as Attempt,
    Outcome as Outcome,
    TestVerdict as TestVerdict,
    Verdict as Verdict,
    classify as classify,
    merge as merge,
)
from prefect_qatech.verdict.policy import (
    GatePolicy as GatePolicy,
    QuarantineEntry as QuarantineEntry,
    ReleaseCheckPolicy as ReleaseCheckPolicy,
)
from prefect_qatech.verdict.rerun import (
    NoRerun as NoRerun,
    Rerun as Rerun,
    plan_rerun as plan_rerun,
    rerun_base as rerun_base,
)
