"""Pure: judge what was observed of a gate's runs, and make a report of it.

`build_report` does it for the gate, `evaluate` for those who start, wait and rerun in a flow of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone

from prefect_qatech.api.catalogue import QATechReleaseCheck
from prefect_qatech.api.responses import QATechRun, QATechRunTestCaseDetails
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.inputs import short_repr
from prefect_qatech.report.issues import Noticed, noticed_in
from prefect_qatech.report.model import GateReport, ReportedAttempt, ReportedReason, ReportedReleaseCheck, ReportedTest
from prefect_qatech.report.release_check import report_release_check
from prefect_qatech.report.subject import GateSubject
from prefect_qatech.texts import cut, cut_to_bytes
from prefect_qatech.verdict.identity import (
    NAME_LENGTH,
    Campaign,
    CampaignTest,
    Execution,
    ObservedAttempt,
    recognise,
    resolve_quarantine,
)
from prefect_qatech.verdict.judge import GateVerdict, Incident, judge_named
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict
from prefect_qatech.verdict.policy import DEFAULT_POLICY, GatePolicy

TITLE_LENGTH = 500
EXPLANATION_LENGTH = 1_000
NOTE_LENGTH = 1_500
TEXTS_BYTES = 192 * 1024
"""What the reasons and explanations of a report may take together: Prefect stores it as a result."""
LINKS_BYTES = 96 * 1024
"""What the addresses of a report's tests may take together: signed ones are long."""
_LINKS = ("url", "screenshot_url", "recording_url")
_UNKNOWN = GateSubject()


def evaluate(
    runs: Sequence[QATechRun],
    policy: GatePolicy = DEFAULT_POLICY,
    subject: GateSubject = _UNKNOWN,
    *,
    expected_count: int | None = None,
    details: Mapping[str, QATechRunTestCaseDetails] | None = None,
    incidents: Iterable[Incident] = (),
    notes: Iterable[str] = (),
    release_check: QATechReleaseCheck | None = None,
    now: datetime | None = None,
) -> GateReport:
    """Judge runs that were waited for, as `release_gate` judges its own, and make a report of them.

    Nothing is started, asked or published: `publish_gate_report` takes the report.

    Args:
        runs: The first run, then its reruns in their order, each as `wait_for_test_run` returned it, with all of its
            test cases. A run that has not ended is no evidence. Give the tasks that wait what start and rerun returned:
            only so is a rerun known to be one of these tests, and else no test of it is recognised by its name alone.
            What QA.tech noticed in a run is shown where the run
            holds it: as `get_test_run(credentials, run, "all", with_issues=True)` returns it.
        policy: What is tolerated. How often is rerun, and how long is waited, is up to you.
        subject: What was tested. The report's artifacts are kept by its label, or by its plan.
        expected_count: How many test cases the first run was to have: `test_count` of what `start_test_run` returned.
            Without it the report says that nobody knows whether all are listed.
        details: Run test case short id to its details, for the causes of failures, where you have asked for them.
        incidents: What happened outside of the tests; each makes the verdict inconclusive at best.
        notes: What the incidents were about, a sentence each.
        release_check: A release check that belongs to it, as `wait_for_release_check` returned it.
        now: When the verdict is given; its day decides on quarantine entries. The present by default.

    Returns:
        The report; its verdict is `pass`, `fail` or `inconclusive`, and only `report.passed` is a go.

    Raises:
        InvalidInputError: `runs` holds something else than runs, one run twice, a rerun without the run before it that
            it repeats, or runs of two plans, as far as these are known; or `expected_count` is no count.

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
            subject = GateSubject(target="v1.4.2", plan_short_id="pln_smoke")
            report = evaluate(runs, GatePolicy(max_flaky=1), subject, expected_count=started.test_count)
            publish_gate_report(report)
            return report.verdict
        ```
    """
    runs, expected_count = _checked(runs), _checked_count(expected_count)
    observed = [
        ObservedAttempt(
            "rerun" if number else "start",
            run,
            run_url=run.url,
            details=details or {},
            rerun_of=run.rerun_of,
            is_of_unknown_origin=number > 0 and run.rerun_of is None,
        )
        for number, run in enumerate(runs)
    ]
    if observed:
        observed[0] = replace(observed[0], test_count=expected_count)
    return build_report(
        recognise(observed),
        policy,
        subject,
        ended_at=now or datetime.now(timezone.utc),
        incidents=incidents,
        notes=notes,
        release_check=report_release_check(release_check) if release_check is not None else None,
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
    for number, run in enumerate(runs):
        # A rerun holds a part of the tests only.
        if run.rerun_of is not None and run.rerun_of not in ids[:number]:
            raise InvalidInputError(
                f"{takes}, the first run before its reruns; run {run.run_short_id} is a rerun of {run.rerun_of}, which "
                "does not stand before it."
            )
    plans = sorted({run.plan_short_id for run in runs if run.plan_short_id is not None})
    if len(plans) > 1:
        raise InvalidInputError(f"{takes}, all of one plan; these are of {' and '.join(plans)}.")
    return list(runs)


def _checked_count(expected_count: int | None) -> int | None:
    is_count = isinstance(expected_count, int) and not isinstance(expected_count, bool) and expected_count >= 0
    if expected_count is None or is_count:
        return expected_count
    raise InvalidInputError(f"expected_count must be a number of tests, 0 or more, not {short_repr(expected_count)}.")


def build_report(
    campaign: Campaign,
    policy: GatePolicy,
    subject: GateSubject = _UNKNOWN,
    *,
    ended_at: datetime,
    incidents: Iterable[Incident] = (),
    notes: Iterable[str] = (),
    evidence_is_older: bool = False,
    is_one_run_only: bool = False,
    release_check: ReportedReleaseCheck | None = None,
) -> GateReport:
    """Judge a campaign and put everything that readers need into one report.

    The day of `ended_at` decides on quarantine entries. `evidence_is_older`: it was found in an earlier attempt of the
    flow run. `is_one_run_only`: the gate judges an attached run, of which nothing earlier is known.
    """
    incidents, today = tuple(incidents), policy.quarantine_day(ended_at)
    quarantine, unmatched = resolve_quarantine(policy, campaign.names)
    checked = release_check.evidence if release_check is not None else None
    noticed = noticed_in(campaign, (shown.case.short_id for shown, bad in map(_shown, campaign.tests.values()) if bad))
    verdict = judge_named(campaign, policy, incidents=incidents, today=today, release_check=checked)
    first_alone = replace(campaign, attempts=campaign.attempts[:1])
    return GateReport(
        **dict(subject),
        verdict=verdict.verdict,
        verdict_without_reruns=judge_named(first_alone, policy, today=today, release_check=checked).verdict,
        reasons=tuple(
            ReportedReason(rule=r.rule, verdict=r.verdict, sentence=r.sentence, test_ids=r.test_ids)
            for r in verdict.reasons
        ),
        attempts=tuple(_report_attempt(number, campaign) for number in range(len(campaign.observed))),
        tests=_report_tests(campaign, verdict, quarantine, today, noticed),
        expected_count=campaign.expected_count,
        incidents=incidents,
        policy=policy,
        started_at=campaign.observed[0].started_at if campaign.observed else None,
        ended_at=ended_at,
        judged_on=today,
        evidence_is_older=evidence_is_older,
        is_one_run_only=is_one_run_only,
        notes=tuple(cut(note, NOTE_LENGTH) for note in notes),
        causes_unknown=campaign.causes_unknown,
        quarantine_unmatched=unmatched,
        release_check=release_check,
        issues=noticed[None].issues,
        issue_count=noticed[None].total,
        issues_unknown=tuple(attempt.run.run_short_id for attempt in campaign.observed if attempt.issues_lost),
    )


def _report_attempt(number: int, campaign: Campaign) -> ReportedAttempt:
    observed = campaign.observed[number]
    return ReportedAttempt(
        number=number,
        kind=observed.kind,
        filter=observed.filter,
        run_short_id=observed.run.run_short_id,
        run_url=observed.run_url,
        rerun_of=observed.rerun_of,
        status=cut(observed.run.status, NAME_LENGTH),
        result=_cut(observed.run.result, NAME_LENGTH),
        test_count=observed.test_count,
        started_at=observed.started_at,
        finished_at=observed.finished_at,
        counts=dict(Counter(campaign.attempts[number].outcomes.values())),
    )


def _report_tests(
    campaign: Campaign,
    verdict: GateVerdict,
    quarantine: GatePolicy,
    today: date,
    noticed: Mapping[str | None, Noticed],
) -> tuple[ReportedTest, ...]:
    explained = sum(_shown(test)[1] for test in campaign.tests.values())
    text_bytes = TEXTS_BYTES // max(1, 2 * explained)
    return _with_fewer_links(
        _report_test(test, verdict.tests[test_id], campaign, quarantine, today, text_bytes, noticed)
        for test_id, test in campaign.tests.items()
    )


def _report_test(
    test: CampaignTest,
    verdict: TestVerdict,
    campaign: Campaign,
    policy: GatePolicy,
    today: date,
    text_bytes: int,
    noticed: Mapping[str | None, Noticed],
) -> ReportedTest:
    outcomes = tuple(
        test.executions[number].outcome if number in test.executions else Outcome.ABSENT
        for number in range(len(campaign.observed))
    )
    shown, not_passed = _shown(test)
    title, thought = (shown.case.result_title, shown.case.evaluation_thought) if not_passed else (None, None)
    details = shown.details or QATechRunTestCaseDetails()
    entry = policy.quarantine.get(test.test_id)
    mine = noticed.get(shown.case.short_id or "", Noticed())
    return ReportedTest(
        test_id=test.test_id,
        name=test.name[:NAME_LENGTH],
        verdict=verdict,
        outcomes=outcomes,
        expected=0 in test.executions,
        identity_is_weak=test.identity_is_weak,
        quarantined=entry is not None and today <= entry.expires,
        reason=cut_to_bytes(title, TITLE_LENGTH, text_bytes),
        explanation=cut_to_bytes(thought, EXPLANATION_LENGTH, text_bytes),
        error_code=_cut(details.error_code, NAME_LENGTH),
        duration_seconds=None if details.duration_ms is None else details.duration_ms / 1000,
        url=details.url,
        screenshot_url=details.screenshot_url,
        recording_url=details.recording_url,
        issues=mine.issues,
        issue_count=mine.total,
    )


def _with_fewer_links(tests: Iterable[ReportedTest]) -> tuple[ReportedTest, ...]:
    """Leave out addresses beyond `LINKS_BYTES`: recordings before pictures, and those of failed tests last."""
    kept = list(tests)
    places = sorted(range(len(kept)), key=lambda place: kept[place].verdict is not TestVerdict.FAILED)
    left = LINKS_BYTES
    for name in _LINKS:
        for place in places:
            link: str | None = getattr(kept[place], name)
            if link is not None and len(link.encode()) > left:
                kept[place] = kept[place].model_copy(update={name: None})
            elif link is not None:
                left -= len(link.encode())
    return tuple(kept)


def _shown(test: CampaignTest) -> tuple[Execution, bool]:
    """Return the last execution that was not a pass, else the last one; and whether there was one that was not."""
    not_passed = [number for number in test.executions if test.executions[number].outcome is not Outcome.PASSED]
    return test.executions[max(not_passed or test.executions)], bool(not_passed)


def _cut(text: str | None, length: int) -> str | None:
    return None if text is None else cut(text, length)
