"""Pure: a gate's verdict for those who start, wait and rerun in a flow of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from prefect_qatech.campaign import GateReport, build_report
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.identity import ObservedAttempt, recognise
from prefect_qatech.models import QATechRun, QATechRunTestCaseDetails
from prefect_qatech.verdict import GatePolicy, Incident

_DEFAULT_POLICY = GatePolicy()


def evaluate(
    runs: Sequence[QATechRun],
    policy: GatePolicy = _DEFAULT_POLICY,
    *,
    expected_count: int | None = None,
    target: str | None = None,
    label: str | None = None,
    plan_short_id: str | None = None,
    plan_name: str | None = None,
    details: Mapping[str, QATechRunTestCaseDetails] | None = None,
    incidents: Iterable[Incident] = (),
    notes: Iterable[str] = (),
    now: datetime | None = None,
) -> GateReport:
    """Judge runs that were waited for, as `release_gate` judges its own, and make a report of them.

    Nothing is started, asked or published: `publish_gate_report` takes the report.

    Args:
        runs: The first run, then its reruns in their order, each as `wait_for_test_run` returned it, with all of its
            test cases. A run that has not ended is no evidence.
        policy: What is tolerated. How often is rerun, and how long is waited, is up to you.
        expected_count: How many test cases the first run was to have: `test_count` of what `start_test_run` returned.
            Without it the report says that nobody knows whether all are listed.
        target: What was tested: a commit, an image digest, a version of the data.
        label: A name for this gate. The report's artifacts are kept by it, or by the plan.
        plan_short_id: The test plan.
        plan_name: Its name.
        details: Run test case short id to its details, for the causes of failures, where you have asked for them.
        incidents: What happened outside of the tests; each makes the verdict inconclusive at best.
        notes: What the incidents were about, a sentence each.
        now: When the verdict is given; its day decides on quarantine entries. The present by default.

    Returns:
        The report; its verdict is `pass`, `fail` or `inconclusive`, and only `report.passed` is a go.

    Raises:
        InvalidInputError: `runs` holds something else than runs, or one run twice.

    Example:
        ```python
        @flow
        def release():
            credentials = QATechCredentials.load("prod")
            started = start_test_run(credentials, "pln_smoke")
            runs = [wait_for_test_run(credentials, started)]
            if runs[0].result != "PASSED":
                rerun = rerun_test_run(credentials, started, failed_only=True)
                runs.append(wait_for_test_run(credentials, rerun))
            report = evaluate(runs, GatePolicy(max_flaky=1), expected_count=started.test_count, target="v1.4.2")
            publish_gate_report(report)
            return report.verdict
        ```
    """
    runs = _checked(runs)
    observed = [
        ObservedAttempt("rerun" if number else "start", run, run_url=run.url, test_count=None, details=details or {})
        for number, run in enumerate(runs)
    ]
    if observed:
        observed[0] = replace(observed[0], test_count=expected_count)
    return build_report(
        recognise(observed),
        policy,
        ended_at=now or datetime.now(timezone.utc),
        incidents=incidents,
        plan_short_id=plan_short_id,
        plan_name=plan_name,
        label=label,
        target=target,
        notes=notes,
    )


def _checked(runs: Sequence[QATechRun]) -> list[QATechRun]:
    takes = "evaluate takes a list of the runs that wait_for_test_run returned"
    if isinstance(runs, (str, QATechRun)) or not isinstance(runs, Sequence):
        raise InvalidInputError(f"{takes}, not {type(runs).__name__}.")
    strangers = [type(run).__name__ for run in runs if not isinstance(run, QATechRun)]
    if strangers:
        raise InvalidInputError(f"{takes}; this one holds {strangers[0]}.")
    ids = [run.run_short_id for run in runs]
    if len(set(ids)) < len(ids):
        # A pass that is counted twice would be evidence twice.
        raise InvalidInputError(f"{takes}, each once; run {max(ids, key=ids.count)} is in it more than once.")
    return list(runs)
