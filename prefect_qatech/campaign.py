"""Pure: the report that is made of what QA.tech answered about the attempts of one gate.

`build_report` turns what was observed into a `GateReport`: the one ledger that people, files and events are served
from, small enough to be the result of a flow run (texts are cut to a stated length), and complete enough to be judged
again under another policy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prefect_qatech.identity import (
    NAME_LENGTH,
    AttemptKind,
    Campaign,
    CampaignTest,
    Execution,
    attempt_of,
    resolve_quarantine,
)
from prefect_qatech.verdict import (
    Attempt,
    GatePolicy,
    GateVerdict,
    Incident,
    Outcome,
    QuarantineEntry,
    Reason,
    TestVerdict,
    Verdict,
    judge,
)

SCHEMA_VERSION = 1
TITLE_LENGTH = 500
EXPLANATION_LENGTH = 1_000
NOTE_LENGTH = 1_500
TEXTS_BYTES = 192 * 1024
"""What the reasons and explanations of a report may take together: Prefect stores it as a result."""
URL_LENGTH = 1_000
"""The longest address that a report takes; a longer one is left out."""
LINKS_BYTES = 96 * 1024
"""What the addresses of a report's tests may take together: signed ones are long."""
UNMATCHED = "quarantine_unmatched"
"""The rule whose reason names keys of the quarantine instead of tests."""
_LINKS = ("url", "screenshot_url", "recording_url")


def _judge(
    names: Mapping[str, str],
    expected: Iterable[str],
    attempts: Sequence[Attempt],
    policy: GatePolicy,
    *,
    expected_count: int | None,
    incidents: Iterable[Incident] = (),
    today: date | None,
) -> GateVerdict:
    """Judge by a policy as people write it, and say which of its quarantine entries are not applied."""
    resolved, unmatched = resolve_quarantine(policy, names)
    gate = judge(expected, attempts, resolved, expected_count=expected_count, incidents=incidents, today=today)
    if not unmatched:
        return gate
    what = "1 quarantine entry matches" if len(unmatched) == 1 else f"{len(unmatched)} quarantine entries match"
    sentence = (
        f"{what} no test, or more than one, and so had no effect: name a test's id, or its exact and unique name."
    )
    return replace(gate, reasons=(*gate.reasons, Reason(UNMATCHED, Verdict.PASS, sentence, unmatched)))


def _finite(seconds: float | None) -> float | None:
    # JSON has neither NaN nor Infinity.
    return seconds if seconds is not None and math.isfinite(seconds) else None


_Seconds = Annotated[float | None, AfterValidator(_finite)]


class _Fact(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ReportedReason(_Fact):
    """Why a verdict is what it is, by one rule.

    Attributes:
        rule: Name of the rule.
        verdict: What the rule says on its own.
        sentence: The same in words.
        test_ids: The tests that it is about; for `quarantine_unmatched`, the keys of the quarantine.
    """

    rule: str
    verdict: Verdict
    sentence: str
    test_ids: tuple[str, ...] = ()


class ReportedAttempt(_Fact):
    """One run of the campaign.

    Attributes:
        number: 0 for the first run.
        kind: `start`, `rerun` or `attached`.
        filter: What a rerun was asked to repeat: `failed_only`, `test_cases` or `everything`.
        run_short_id: Its short id.
        run_url: Its address on QA.tech.
        rerun_of: Short id of the run that it repeats.
        status: Its last status.
        result: Its result.
        test_count: How many test cases the answer to its POST promised.
        started_at: When it was started.
        finished_at: When it was first seen to have ended.
        counts: Outcome to number of tests.
    """

    number: int
    kind: AttemptKind
    filter: str | None = None
    run_short_id: str
    run_url: str | None = None
    rerun_of: str | None = None
    status: str
    result: str | None = None
    test_count: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    counts: dict[Outcome, int] = Field(default_factory=dict)

    @property
    def duration_seconds(self) -> float | None:
        """How long it took, in seconds, as far as it was watched."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())


class ReportedTest(_Fact):
    """One test over all attempts. Texts come from the service, are cut, and are not escaped.

    Attributes:
        test_id: Its identity in this report.
        name: Its name.
        verdict: Over all attempts.
        outcomes: One outcome per attempt.
        expected: Whether it stood in attempt 0.
        identity_is_weak: Whether it was recognised by its name alone.
        quarantined: Whether an unexpired quarantine entry takes it out of the verdict.
        reason: The service's few words for its last outcome that was not a pass.
        explanation: The agent's reasoning for it, cut.
        error_code: The service's error code for it.
        duration_seconds: How long its last execution took.
        url: Address of its last execution that was not a pass, else of the last one.
        screenshot_url: Picture of the same.
        recording_url: Recording of the same.
    """

    test_id: str
    name: str
    verdict: TestVerdict
    outcomes: tuple[Outcome, ...]
    expected: bool = True
    identity_is_weak: bool = False
    quarantined: bool = False
    reason: str | None = None
    explanation: str | None = None
    error_code: str | None = None
    duration_seconds: _Seconds = None
    url: str | None = None
    screenshot_url: str | None = None
    recording_url: str | None = None


class GateDecision(_Fact):
    """What a person decided about a gate that did not pass.

    Attributes:
        approved: Whether the release may go out all the same. No answer in time is a no.
        reason: Why, in the person's words.
        decided_by: Who, as the person says; Prefect's open-source server does not know its users.
        decided_at: When the answer was there, or the time for it was over.
        evidence_sha256: Hash of the evidence that was shown; an approval counts for no other.
    """

    approved: bool
    reason: str
    decided_by: str | None = None
    decided_at: datetime
    evidence_sha256: str


class GateReport(_Fact):
    """Everything that a gate found out: the result of `release_gate`.

    Attributes:
        schema_version: Version of this shape.
        verdict: `pass`, `inconclusive` or `fail`; only `pass` is a go.
        verdict_without_reruns: What the verdict would have been after attempt 0.
        reasons: Why, rule by rule.
        attempts: The runs, attempt 0 first.
        tests: The tests, in the order of first appearance.
        expected_count: How many tests attempt 0 was to have.
        incidents: What happened outside of the tests: the deadline, the usage limit, a POST of unknown outcome.
        policy: The policy that decided.
        plan_short_id: The test plan.
        plan_name: Its name.
        label: The user's label of the gate.
        started_at: When the campaign began.
        ended_at: When the verdict was given.
        judged_on: The day for which quarantine entries were checked, by the policy's time zone.
        flow_run_id: The flow run of the gate.
        decision: What a person decided, where one was asked.
        target: What was tested, as the caller named it: a commit, an image digest, a version of the data.
        evidence_is_older: Whether the evidence was found in an earlier attempt of the flow run.
        is_one_run_only: Whether the gate took up a run that somebody else started, so that only this run was judged.
        notes: What the incidents were about, a sentence each, with the run's id and link.
        causes_unknown: Ids of the tests whose details could not be had, so that their cause is not known.
        quarantine_unmatched: Quarantine keys that match no test, or more than one.
    """

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    verdict_without_reruns: Verdict
    reasons: tuple[ReportedReason, ...]
    attempts: tuple[ReportedAttempt, ...]
    tests: tuple[ReportedTest, ...]
    expected_count: int | None = None
    incidents: tuple[Incident, ...] = ()
    policy: GatePolicy = GatePolicy()
    plan_short_id: str | None = None
    plan_name: str | None = None
    label: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    judged_on: date | None = None
    flow_run_id: str | None = None
    decision: GateDecision | None = None
    target: str | None = None
    evidence_is_older: bool = False
    is_one_run_only: bool = False
    notes: tuple[str, ...] = ()
    causes_unknown: tuple[str, ...] = ()
    quarantine_unmatched: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the evidence says that the release may go out."""
        return self.verdict is Verdict.PASS

    @property
    def approved(self) -> bool:
        """Whether a person has approved the release on this very evidence."""
        decision = self.decision
        return decision is not None and decision.approved and decision.evidence_sha256 == self.evidence_sha256

    @property
    def evidence_sha256(self) -> str:
        """Hash of what the verdict stands on: target, runs, outcomes, incidents, policy; of no times and no words."""
        evidence = {
            "target": self.target,
            "verdict": self.verdict,
            "runs": [(attempt.run_short_id, attempt.status, attempt.result) for attempt in self.attempts],
            "tests": sorted((test.test_id, test.verdict, test.quarantined, test.outcomes) for test in self.tests),
            "incidents": sorted(self.incidents),
            "expected_count": self.expected_count,
            "policy": self.policy.model_dump(mode="json"),
        }
        return hashlib.sha256(json.dumps(evidence, sort_keys=True).encode()).hexdigest()

    @property
    def run_short_id(self) -> str | None:
        """Short id of the campaign's last run."""
        return self.attempts[-1].run_short_id if self.attempts else None

    @property
    def run_url(self) -> str | None:
        """Address of the campaign's last run."""
        return self.attempts[-1].run_url if self.attempts else None

    @property
    def counts(self) -> dict[TestVerdict, int]:
        """Test verdict to number of tests; all tests are counted, quarantined ones and later ones included."""
        return dict(Counter(test.verdict for test in self.tests))

    def tests_with(self, *verdicts: TestVerdict) -> tuple[ReportedTest, ...]:
        """Give the tests that have one of the verdicts, in order."""
        return tuple(test for test in self.tests if test.verdict in verdicts)

    def judge_again(self, policy: GatePolicy, *, today: date | None = None) -> GateVerdict:
        """Judge the same evidence under another policy, offline.

        Args:
            policy: The other policy.
            today: The day for which its quarantine entries are checked; the day of this report when absent.

        Returns:
            The verdict that it would have been.
        """
        attempts = [
            attempt_of(
                attempt.status,
                attempt.result,
                {
                    test.test_id: test.outcomes[attempt.number]
                    for test in self.tests
                    if test.outcomes[attempt.number] is not Outcome.ABSENT
                },
            )
            for attempt in self.attempts
        ]
        if today is None:
            same_zone = policy.quarantine_time_zone == self.policy.quarantine_time_zone
            today = self.judged_on if same_zone or not self.ended_at else policy.quarantine_day(self.ended_at)
        return _judge(
            self._names,
            [test.test_id for test in self.tests if test.expected],
            attempts,
            policy,
            expected_count=self.expected_count,
            incidents=self.incidents,
            today=today,
        )

    @property
    def quarantine(self) -> dict[str, QuarantineEntry]:
        """Test id to the policy's quarantine entry for it, expired ones included."""
        return resolve_quarantine(self.policy, self._names)[0].quarantine

    @property
    def _names(self) -> dict[str, str]:
        return {test.test_id: test.name for test in self.tests}


class GatesReport(BaseModel):
    """What became of several gates.

    Attributes:
        names: All of them, in the order in which they were asked for.
        reports: A gate's name to its report.
        errors: The name of a gate that could not be evaluated to what went wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...] = Field(min_length=1)
    reports: dict[str, GateReport]
    errors: dict[str, str] = {}

    @property
    def verdict(self) -> Verdict:
        """The worst verdict. A gate that could not be evaluated proves nothing: inconclusive at best."""
        return Verdict.worst(self.verdict_of(name) for name in self.names)

    @property
    def passed(self) -> bool:
        """Whether every gate has passed."""
        return self.verdict is Verdict.PASS

    def verdict_of(self, name: str) -> Verdict:
        """Give the verdict of one gate."""
        return self.reports[name].verdict if name in self.reports else Verdict.INCONCLUSIVE


def build_report(
    campaign: Campaign,
    policy: GatePolicy,
    *,
    ended_at: datetime,
    incidents: Iterable[Incident] = (),
    plan_short_id: str | None = None,
    plan_name: str | None = None,
    label: str | None = None,
    flow_run_id: str | None = None,
    target: str | None = None,
    evidence_is_older: bool = False,
    is_one_run_only: bool = False,
    notes: Iterable[str] = (),
) -> GateReport:
    """Judge a campaign and put everything that readers need into one report.

    Args:
        campaign: What was observed.
        policy: The policy that decides.
        ended_at: When the verdict is given; its day decides on quarantine entries.
        incidents: What happened outside of the tests.
        plan_short_id: The test plan.
        plan_name: Its name.
        label: The user's label of the gate.
        flow_run_id: The flow run of the gate.
        target: What was tested, as the caller named it.
        evidence_is_older: Whether the evidence was found in an earlier attempt of the flow run.
        is_one_run_only: Whether the gate took up a run that somebody else started.
        notes: What the incidents were about.

    Returns:
        The report.
    """
    incidents, today = tuple(incidents), policy.quarantine_day(ended_at)
    quarantine, unmatched = resolve_quarantine(policy, campaign.names)
    verdict = _judge(
        campaign.names,
        campaign.expected,
        campaign.attempts,
        policy,
        expected_count=campaign.expected_count,
        incidents=incidents,
        today=today,
    )
    explained = sum(_shown(test)[1] for test in campaign.tests.values())
    text_bytes = TEXTS_BYTES // max(1, 2 * explained)
    without_reruns = judge(
        campaign.expected, campaign.attempts[:1], quarantine, expected_count=campaign.expected_count, today=today
    )
    return GateReport(
        verdict=verdict.verdict,
        verdict_without_reruns=without_reruns.verdict,
        reasons=tuple(
            ReportedReason(rule=r.rule, verdict=r.verdict, sentence=r.sentence, test_ids=r.test_ids)
            for r in verdict.reasons
        ),
        attempts=tuple(_report_attempt(number, campaign) for number in range(len(campaign.observed))),
        tests=_with_fewer_links(
            _report_test(test, verdict.tests[test_id], campaign, quarantine, today, text_bytes)
            for test_id, test in campaign.tests.items()
        ),
        expected_count=campaign.expected_count,
        incidents=incidents,
        policy=policy,
        plan_short_id=plan_short_id,
        plan_name=_cut(plan_name, NAME_LENGTH),
        label=label,
        started_at=campaign.observed[0].started_at if campaign.observed else None,
        ended_at=ended_at,
        judged_on=today,
        flow_run_id=flow_run_id,
        target=target,
        evidence_is_older=evidence_is_older,
        is_one_run_only=is_one_run_only,
        notes=tuple(_cut(note, NOTE_LENGTH) or "" for note in notes),
        causes_unknown=campaign.causes_unknown,
        quarantine_unmatched=unmatched,
    )


def _report_attempt(number: int, campaign: Campaign) -> ReportedAttempt:
    observed = campaign.observed[number]
    return ReportedAttempt(
        number=number,
        kind=observed.kind,
        filter=observed.filter,
        run_short_id=observed.run.run_short_id,
        run_url=_whole(observed.run_url),
        rerun_of=observed.rerun_of,
        status=observed.run.status[:NAME_LENGTH],
        result=_cut(observed.run.result, NAME_LENGTH),
        test_count=observed.test_count,
        started_at=observed.started_at,
        finished_at=observed.finished_at,
        counts=dict(Counter(campaign.attempts[number].outcomes.values())),
    )


def _report_test(
    test: CampaignTest, verdict: TestVerdict, campaign: Campaign, policy: GatePolicy, today: date, text_bytes: int
) -> ReportedTest:
    outcomes = tuple(
        test.executions[number].outcome if number in test.executions else Outcome.ABSENT
        for number in range(len(campaign.observed))
    )
    shown, not_passed = _shown(test)
    details = shown.details
    entry = policy.quarantine.get(test.test_id)
    return ReportedTest(
        test_id=test.test_id,
        name=test.name[:NAME_LENGTH],
        verdict=verdict,
        outcomes=outcomes,
        expected=0 in test.executions,
        identity_is_weak=test.identity_is_weak,
        quarantined=entry is not None and today <= entry.expires,
        reason=_cut_to_bytes(shown.case.result_title, TITLE_LENGTH, text_bytes) if not_passed else None,
        explanation=_cut_to_bytes(shown.case.evaluation_thought, EXPLANATION_LENGTH, text_bytes)
        if not_passed
        else None,
        error_code=_cut(details.error_code, NAME_LENGTH) if details else None,
        duration_seconds=details.duration_ms / 1000 if details and details.duration_ms is not None else None,
        url=_whole(details.url) if details else None,
        screenshot_url=_whole(details.screenshot_url) if details else None,
        recording_url=_whole(details.recording_url) if details else None,
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
    """Give the execution that a report tells of: the last that was not a pass, else the last; and which it is."""
    not_passed = [number for number in test.executions if test.executions[number].outcome is not Outcome.PASSED]
    return test.executions[max(not_passed or test.executions)], bool(not_passed)


def _cut_to_bytes(text: str | None, length: int, size: int) -> str | None:
    cut = _cut(text, length)
    while cut and len(json.dumps(cut, ensure_ascii=False).encode()) > size:
        cut = _cut(cut, max(1, len(cut) * 2 // 3))
        if cut == "…":
            break
    return cut


def _whole(url: str | None) -> str | None:
    # Half an address leads elsewhere.
    return url if url is not None and len(url) <= URL_LENGTH else None


def _cut(text: str | None, length: int) -> str | None:
    return text if text is None or len(text) <= length else text[: length - 1] + "…"
