"""Pure: the report of a gate, and that of several gates.

A `GateReport` is the one record that people, files and events are served from, small enough to be the result of a flow
run (texts are cut to a stated length), and complete enough to be judged again under another policy. An address that
may not become a link is in no report.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prefect_qatech.addresses import safe_url
from prefect_qatech.inputs import CleanText
from prefect_qatech.report.subject import GateSubject
from prefect_qatech.verdict.identity import AttemptKind, Evidence, attempt_of, resolve_quarantine
from prefect_qatech.verdict.judge import GateVerdict, Incident, ReleaseCheckEvidence, judge_named
from prefect_qatech.verdict.outcomes import Outcome, TestVerdict, Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from prefect_qatech.verdict.rerun import NoRerun, Rerun, next_rerun

SCHEMA_VERSION = 1


# JSON has neither NaN nor Infinity.
_Number = Annotated[float | None, AfterValidator(lambda number: number if math.isfinite(number or 0) else None)]
_Url = Annotated[str | None, AfterValidator(safe_url)]


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
    run_url: _Url = None
    rerun_of: str | None = None
    status: str
    result: str | None = None
    test_count: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    counts: dict[Outcome, int] = Field(default_factory=dict)

    @property
    def duration_seconds(self) -> float | None:
        """How many seconds it took, as far as it was watched."""
        if self.started_at is None or self.finished_at is None:
            return None
        return max(0.0, (self.finished_at - self.started_at).total_seconds())


class ReportedIssue(_Fact):
    """Something that QA.tech noticed beside the results; it decides nothing.

    Attributes:
        title: What it is.
        category: Its category.
        severity: How bad it is, in the service's word.
        description: More of it.
    """

    title: str
    category: str | None = None
    severity: str | None = None
    description: str | None = None


class ReportedStanding(_Fact):
    """How a failed or flaky test stands against the campaigns before this one, of the same plan in the same place.

    Attributes:
        kind: `new`: in no campaign on record it failed or was flaky. `known`: it has failed in each campaign since an
            earlier one. `recurring`: it failed or was flaky in some of them.
        campaigns: How many campaigns are on record, this one included.
        times: In how many of them it failed or was flaky, this one included.
        since: When the first of the campaigns in a row began in which it failed; only of what is known.
        since_run_short_id: Short id of the first run of that campaign.
        is_since_first: Whether that is the first campaign on record, so that it may have failed before.
    """

    kind: Literal["new", "known", "recurring"]
    campaigns: int
    times: int = 1
    since: datetime | None = None
    since_run_short_id: str | None = None
    is_since_first: bool = False


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
        issues: What QA.tech noticed in its last execution that was not a pass.
        issue_count: How much it noticed there; the report holds the first of it.
        standing: Whether its failure is new or known; None where it neither failed nor was flaky, where there is no
            earlier campaign, and before the report is published.
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
    duration_seconds: _Number = None
    url: _Url = None
    screenshot_url: _Url = None
    recording_url: _Url = None
    issues: tuple[ReportedIssue, ...] = ()
    issue_count: int = 0
    standing: ReportedStanding | None = None


class ReportedScore(_Fact):
    """What a release check says of one category.

    Attributes:
        category: The category.
        score: Its score.
        summary: Why.
    """

    category: str
    score: _Number = None
    summary: str | None = None


class ReportedFinding(_Fact):
    """One finding of a release check.

    Attributes:
        title: What it is.
        category: Its category.
        severity: How bad it is, in the service's word.
        is_blocker: Whether it stands in the way of the release; None where the service does not tell.
        description: More of it.
        recommendation: What could be done.
    """

    title: str
    category: str | None = None
    severity: str | None = None
    is_blocker: bool | None = None
    description: str | None = None
    recommendation: str | None = None


class ReportedReleaseCheck(_Fact):
    """A release check. Texts come from the service, are cut, and are not escaped.

    Attributes:
        short_id: Its short id; None where it was not started, or nobody knows.
        url: Its address on QA.tech.
        status: Its last status; empty where it was never seen.
        is_complete: Whether it completed, and its findings could be read.
        score: Its overall score.
        summary: Its result in words.
        scores: Its score in each category.
        findings: What it found, blockers first.
        finding_count: How many findings it has; the report holds the first of them.
        blocker_count: How many of them stand in the way of the release, or are not told not to.
        manual_follow_ups: What people should look at.
    """

    short_id: str | None = None
    url: _Url = None
    status: str = ""
    is_complete: bool = False
    score: _Number = None
    summary: str | None = None
    scores: tuple[ReportedScore, ...] = ()
    findings: tuple[ReportedFinding, ...] = ()
    finding_count: int = 0
    blocker_count: int = 0
    manual_follow_ups: tuple[str, ...] = ()

    @property
    def evidence(self) -> ReleaseCheckEvidence:
        """What the verdict goes by."""
        return ReleaseCheckEvidence(self.is_complete, self.blocker_count, self.score)


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
    reason: CleanText
    decided_by: CleanText | None = None
    decided_at: datetime
    evidence_sha256: str


class GateReport(GateSubject):
    """Everything that a gate found out about its subject: the result of `release_gate`.

    The fields of `GateSubject` say what was tested, where, and who or what had it tested.

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
        started_at: When the campaign began.
        ended_at: When the verdict was given.
        judged_on: The day for which quarantine entries were checked, by the policy's time zone.
        decision: What a person decided, where one was asked.
        evidence_is_older: Whether the evidence was found in an earlier attempt of the flow run.
        is_one_run_only: Whether the gate took up a run that somebody else started, so that only this run was judged.
        notes: What the incidents were about, a sentence each, with the run's id and link.
        causes_unknown: Ids of the tests whose details could not be had, so that their cause is not known.
        quarantine_unmatched: Quarantine keys that match no test, or more than one.
        release_check: The release check, where one belonged to the gate.
        issues: What QA.tech noticed in the runs without a word of which test it was.
        issue_count: How much that was; the report holds the first of it.
        issues_unknown: Short ids of the runs of which could not be had what QA.tech noticed.
    """

    # A later version may know more.
    model_config = ConfigDict(extra="ignore")

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    verdict_without_reruns: Verdict
    reasons: tuple[ReportedReason, ...]
    attempts: tuple[ReportedAttempt, ...]
    tests: tuple[ReportedTest, ...]
    expected_count: int | None = None
    incidents: tuple[Incident, ...] = ()
    policy: GatePolicy = GatePolicy()
    started_at: datetime | None = None
    ended_at: datetime | None = None
    judged_on: date | None = None
    decision: GateDecision | None = None
    evidence_is_older: bool = False
    is_one_run_only: bool = False
    notes: tuple[CleanText, ...] = ()
    causes_unknown: tuple[str, ...] = ()
    quarantine_unmatched: tuple[str, ...] = ()
    release_check: ReportedReleaseCheck | None = None
    issues: tuple[ReportedIssue, ...] = ()
    issue_count: int = 0
    issues_unknown: tuple[str, ...] = ()

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
            "release_check": asdict(self.release_check.evidence) if self.release_check else None,
        }
        return hashlib.sha256(json.dumps(evidence, sort_keys=True).encode()).hexdigest()

    @property
    def run_short_id(self) -> str | None:
        """Short id of the campaign's latest run."""
        return self.attempts[-1].run_short_id if self.attempts else None

    @property
    def run_url(self) -> str | None:
        """Address of the campaign's latest run."""
        return self.attempts[-1].run_url if self.attempts else None

    @property
    def counts(self) -> dict[TestVerdict, int]:
        """Test verdict to number of tests; all tests are counted, quarantined ones and later ones included."""
        return dict(Counter(test.verdict for test in self.tests))

    def tests_with(self, *verdicts: TestVerdict) -> tuple[ReportedTest, ...]:
        """Return the tests that have one of the verdicts, in order."""
        return tuple(test for test in self.tests if test.verdict in verdicts)

    def judge_again(self, policy: GatePolicy, *, today: date | None = None) -> GateVerdict:
        """Judge the same evidence under another policy, offline.

        Args:
            policy: The other policy.
            today: The day for which its quarantine entries are checked; the day of this report when absent.

        Returns:
            The verdict that it would have been.
        """
        if today is None:
            same_zone = policy.quarantine_time_zone == self.policy.quarantine_time_zone
            today = self.judged_on if same_zone or not self.ended_at else policy.quarantine_day(self.ended_at)
        check = self.release_check.evidence if self.release_check else None
        return judge_named(self._evidence, policy, incidents=self.incidents, today=today, release_check=check)

    def next_rerun(self, *, incidents: Iterable[Incident] = ()) -> Rerun | NoRerun:
        """Return what the policy would have rerun next, on the evidence of this report.

        Args:
            incidents: What is held against the campaign.
        """
        return next_rerun(self._evidence, self.policy, today=self.judged_on or date.min, incidents=incidents)

    @property
    def quarantine(self) -> dict[str, QuarantineEntry]:
        """Test id to the policy's quarantine entry for it, expired ones included."""
        return resolve_quarantine(self.policy, self._evidence.names)[0].quarantine

    @property
    def _evidence(self) -> Evidence:
        names = {test.test_id: test.name for test in self.tests}
        expected = [test.test_id for test in self.tests if test.expected]
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
        return Evidence(names, expected, self.expected_count, attempts)


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
        """Return the verdict of one gate."""
        return self.reports[name].verdict if name in self.reports else Verdict.INCONCLUSIVE
