"""From what QA.tech answered to a go or no-go: outcomes -> test verdicts -> the gate, and what to rerun.

Pure: no I/O, no clock, no Prefect. The same input gives the same verdict, and every verdict carries its reasons.

- Only a pass or a failure decides about a test; a miss, a skip or a cancelled test never does.
- The gate is the worst that any rule says of PASS < INCONCLUSIVE < FAIL, and only PASS is a go.
- What is not known (a status, a result, a run that did not complete) is never counted as a pass.
- A rerun is proposed only where it could still make the gate pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime, timezone, tzinfo
from enum import Enum
from fractions import Fraction
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from prefect_qatech.inputs import Checked, shown

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


class _Word(str, Enum):
    def __str__(self) -> str:
        # Python 3.10 and 3.11 disagree on how a str enum prints; reports need the word itself.
        return str(self.value)


class Outcome(_Word):
    """What one attempt says about one test."""

    PASSED = "passed"
    FAILED = "failed"
    MISSED = "missed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"
    ABSENT = "absent"


class TestVerdict(_Word):
    """What all attempts together say about one test."""

    __test__ = False  # pytest collects every class whose name begins with Test

    PASSED = "passed"
    RECOVERED = "recovered"
    FLAKY = "flaky"
    FAILED = "failed"
    ERRORED = "errored"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    MISSING = "missing"


class Verdict(_Word):
    """What the gate says; only `pass` is a go. Compare with `worst`: as words, "fail" < "pass"."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Give the worst of some verdicts.

        Args:
            verdicts: At least one.

        Returns:
            The worst of them; `fail` is worse than `inconclusive`, which is worse than `pass`.

        Raises:
            ValueError: There is none: nothing was said, which is not a pass.

        Example:
            >>> print(Verdict.worst([Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE]))
            fail
        """
        return max((cls(verdict) for verdict in verdicts), key=list(cls).index)


class Incident(_Word):
    """What happened to the campaign outside of its tests; each makes the gate inconclusive."""

    DEADLINE_PASSED = "deadline_passed"
    USAGE_LIMIT = "usage_limit"
    OUTCOME_UNKNOWN = "outcome_unknown"
    NOTHING_TO_RERUN = "nothing_to_rerun"
    RERUN_REFUSED = "rerun_refused"
    WAIT_GAVE_UP = "wait_gave_up"
    COUNT_UNREADABLE = "count_unreadable"
    STALE_PASS = "stale_pass"  # noqa: S105 - a verdict, not a password


_INCIDENT_SENTENCES = {
    Incident.DEADLINE_PASSED: "The deadline passed before the tests had ended.",
    Incident.USAGE_LIMIT: "QA.tech refused a rerun: the organisation has used up what its plan allows (402).",
    Incident.OUTCOME_UNKNOWN: "A request to start a run got no clear answer: whether that run exists is not known.",
    Incident.NOTHING_TO_RERUN: "QA.tech says that nothing is left to rerun, although tests are still open.",
    Incident.RERUN_REFUSED: "A rerun that the verdict needed could not be started.",
    Incident.WAIT_GAVE_UP: "A run could not be followed to its end, so what it found is not known.",
    Incident.COUNT_UNREADABLE: "QA.tech told how many tests the run has in a way that cannot be read, "
    "so nobody knows whether all are listed.",
    Incident.STALE_PASS: "This run passed before, for another target or in an earlier attempt of the flow run: "
    "it says nothing of what was deployed since.",
}
_DECIDING = frozenset({Outcome.PASSED, Outcome.FAILED})
_PASSING = frozenset({TestVerdict.PASSED, TestVerdict.RECOVERED, TestVerdict.FLAKY})
_DECIDED = _PASSING | {TestVerdict.FAILED}
_UNDECIDED = frozenset(TestVerdict) - _DECIDED

# Strict, because True is an int to Python and a form that sends a text has a fault.
_Count = Annotated[int, Field(strict=True, ge=0)]
_AtLeastOne = Annotated[int, Field(strict=True, ge=1)]
_Share = Annotated[float, Field(strict=True, gt=0, lt=1)]


def _count_or_share(value: object, check: ValidatorFunctionWrapHandler) -> object:
    try:
        return check(value)
    except ValidationError:
        raise ValueError(f"{shown(value)} is neither a number of tests nor a share of them, such as 0.3") from None


class QuarantineEntry(Checked):
    """Why a test does not block for now, who sees to it, and until when."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    reason: str = Field(min_length=1, title="Reason", description="Why the test may not block the gate.")
    owner: str = Field(min_length=1, title="Owner", description="Who repairs the test, or the product.")
    expires: date = Field(title="Expires", description="Last day on which the test does not block.")


class GatePolicy(Checked):
    """What a release gate asks for, and what it may spend on reruns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_reruns: Annotated[_Count, Field(le=10)] = Field(
        default=2, title="Reruns", description="At most so many reruns of open tests; 0 means none."
    )
    max_failed: _Count = Field(default=0, title="Failed tests allowed", description="More failed tests fail the gate.")
    max_flaky: _Count | None = Field(
        default=None,
        title="Flaky tests allowed",
        description="More tests that failed first and passed later fail the gate. Empty: no limit, only reported.",
    )
    max_undecided: _Count = Field(
        default=0,
        title="Undecided tests allowed",
        description="More tests that neither passed nor failed make the gate inconclusive. Each may hide a failure.",
    )
    min_decided: _AtLeastOne = Field(
        default=1,
        title="Decided tests needed",
        description="Fewer tests that passed or failed make the gate inconclusive: testing nothing proves nothing.",
    )
    passes_required: _AtLeastOne = Field(
        default=1,
        title="Passes needed after a failure",
        description="So many passes must follow a test's last failure for it to be flaky rather than failed.",
    )
    fuse_failures: Annotated[_Count | _Share | None, WrapValidator(_count_or_share)] = Field(
        default=None,
        title="Fuse",
        description="No rerun when more tests failed or were missed: a broken build is not flaky. A whole number, or a "
        "share of the tests such as 0.3. Empty: 10 tests or 30 %, whichever is more.",
    )
    quarantine: dict[str, QuarantineEntry] = Field(
        default_factory=dict,
        title="Quarantine",
        description="By a test's id, or its exact and unique name: tests that run and are reported, but do not block "
        "until their entry expires. An entry that matches no test, or more than one, is not applied, and is reported.",
    )
    quarantine_time_zone: str = Field(
        default="UTC",
        title="Time zone of the quarantine",
        description="The days of the quarantine end by the clocks of this time zone, such as Europe/Stockholm.",
    )
    deadline_seconds: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] = Field(
        default=3600,
        title="Deadline in seconds",
        description="The campaign, reruns included, must end within this time.",
    )

    @field_validator("quarantine_time_zone")
    @classmethod
    def _is_a_time_zone(cls, name: str) -> str:
        _time_zone(name)
        return name

    def quarantine_day(self, moment: datetime) -> date:
        """Return the day for which quarantine entries are looked at.

        Args:
            moment: When the verdict is given; one without a time zone is taken to be in UTC.

        Returns:
            Its date by the clocks of `quarantine_time_zone`.

        Example:
            >>> GatePolicy(quarantine_time_zone="Asia/Tokyo").quarantine_day(datetime(2026, 9, 1, 20))
            datetime.date(2026, 9, 2)
        """
        aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return aware.astimezone(_time_zone(self.quarantine_time_zone)).date()


def _time_zone(name: str) -> tzinfo:
    if name == "UTC":
        return timezone.utc  # also where a system has no time zones on its disk
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # of a folder, of a path, of a name that nobody knows
        raise ValueError(f"{shown(name)} is not a time zone: an IANA name such as Europe/Stockholm is needed") from None


_DEFAULT_POLICY = GatePolicy()


@dataclass(frozen=True)
class Attempt:
    """One QA.tech run of a campaign: its status, what it says about each test, and its own result."""

    status: str
    outcomes: Mapping[str, Outcome]
    result: str | None = None


@dataclass(frozen=True)
class Reason:
    """What one rule says on its own, in a sentence, and the tests that it is about.

    The rules: `passed`, `max_failed`, `max_flaky`, `flaky_reported`, `max_undecided`, `min_decided`,
    `only_quarantined`, `mass_failure`, `no_attempt`, `run_not_completed`, `contradiction`, the words of `Incident`, and
    `vanished`, `appeared`, `quarantine`, `quarantine_expired`, `quarantine_unmatched`, which only report. A limit that
    holds is a pass.
    """

    rule: str
    verdict: Verdict
    sentence: str
    test_ids: tuple[str, ...] = ()


def _select(tests: Mapping[str, TestVerdict], verdicts: AbstractSet[TestVerdict]) -> tuple[str, ...]:
    return tuple(test for test, verdict in tests.items() if verdict in verdicts)


@dataclass(frozen=True)
class GateVerdict:
    """The gate's verdict, that of every test, and the reasons, the gravest first.

    `failed`, `flaky`, `decided` and `undecided` sort all tests by their verdict, those in quarantine included; what the
    gate counted stands in the reasons.
    """

    verdict: Verdict
    tests: Mapping[str, TestVerdict]
    reasons: tuple[Reason, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Tests whose last word is a failure."""
        return _select(self.tests, {TestVerdict.FAILED})

    @property
    def flaky(self) -> tuple[str, ...]:
        """Tests that failed and passed later."""
        return _select(self.tests, {TestVerdict.FLAKY})

    @property
    def decided(self) -> tuple[str, ...]:
        """Tests that passed or failed at least once."""
        return _select(self.tests, _DECIDED)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Tests that neither passed nor failed."""
        return _select(self.tests, _UNDECIDED)

    @property
    def blocking(self) -> tuple[Reason, ...]:
        """The reasons that are not a pass; empty exactly when the gate passes."""
        return tuple(reason for reason in self.reasons if reason.verdict is not Verdict.PASS)


@dataclass(frozen=True)
class Rerun:
    """What to ask for next.

    Attributes:
        kind: `failed_only` and `test_cases` as the API has them; `everything` that the run held.
        test_ids: The open tests that it is for, in a stable order.
        base: Index of the attempt whose run is to be rerun.
    """

    kind: Literal["failed_only", "test_cases", "everything"]
    test_ids: tuple[str, ...]
    base: int = 0


@dataclass(frozen=True)
class NoRerun:
    """Why nothing is rerun: a stable slug and a sentence."""

    reason: str
    sentence: str


def classify(status: str, result: str | None, error_code: str | None = None) -> Outcome:
    """Say what an attempt says about a test: an allowlist, so that an unknown word is never a pass.

    Args:
        status: The run test case's status.
        result: Its result.
        error_code: Its error code, where it was asked for.

    Returns:
        The outcome; never `absent`, which only a list can tell.

    Example:
        >>> print(classify("COMPLETED", "PASSED"), classify("COMPLETED", "FAILED", "AGENT_STUCK"))
        passed missed
    """
    if status == "CANCELLED":
        return Outcome.CANCELLED
    if status in ("INITIATED", "RUNNING") or (status == "COMPLETED" and result is None):
        return Outcome.UNFINISHED
    if status != "COMPLETED" or (error_code or "").startswith(("AGENT_", "PLATFORM_")):
        return Outcome.MISSED
    # An empty code is read the graver way: it leaves a failure a failure, and a pass none.
    match result, error_code:
        case "PASSED", None:
            return Outcome.PASSED
        case "FAILED", None | "" | "TEST_FAILED":
            return Outcome.FAILED
        case "SKIPPED", _:
            return Outcome.SKIPPED
    return Outcome.MISSED


def merge(outcomes: Sequence[Outcome], passes_required: int = 1) -> TestVerdict:
    """Say what all attempts together say about a test.

    Args:
        outcomes: Its outcome in each attempt, in their order.
        passes_required: How many passes must follow its last failure.

    Returns:
        The test's verdict.

    Raises:
        ValueError: `passes_required` is less than 1, or an outcome is not one.

    Example:
        >>> print(merge([Outcome.FAILED, Outcome.PASSED]), merge([Outcome.FAILED, Outcome.SKIPPED]))
        flaky failed
    """
    if passes_required < 1:
        raise ValueError(f"passes_required is {passes_required}; without a pass after its failure a test is not flaky")
    outcomes = [Outcome(outcome) for outcome in outcomes]
    deciding = [outcome for outcome in outcomes if outcome in _DECIDING]
    if not deciding:
        present = set(outcomes) - {Outcome.ABSENT}
        if not present:
            return TestVerdict.MISSING
        if present & {Outcome.MISSED, Outcome.UNFINISHED}:
            return TestVerdict.ERRORED
        return TestVerdict.CANCELLED if Outcome.CANCELLED in present else TestVerdict.SKIPPED
    if Outcome.FAILED not in deciding:
        return TestVerdict.PASSED if outcomes[0] is Outcome.PASSED else TestVerdict.RECOVERED
    passes_at_the_end = deciding[::-1].index(Outcome.FAILED)
    return TestVerdict.FLAKY if passes_at_the_end >= passes_required else TestVerdict.FAILED


class _Survey:
    """What both decisions count. A test in quarantine stands in `tests` and `histories` and is counted nowhere."""

    def __init__(
        self,
        expected: Iterable[str],
        attempts: Sequence[Attempt],
        policy: GatePolicy,
        expected_count: int | None,
        today: date | None,
    ) -> None:
        self.attempts, self.policy = attempts, policy
        self.expected = dict.fromkeys(expected)
        listed = (test for attempt in attempts for test, o in attempt.outcomes.items() if o != Outcome.ABSENT)
        self.histories = {
            test: [Outcome(attempt.outcomes.get(test, Outcome.ABSENT)) for attempt in attempts]
            for test in dict.fromkeys([*self.expected, *listed])
        }
        self.tests = {test: merge(history, policy.passes_required) for test, history in self.histories.items()}
        self.unnamed = max(0, (expected_count or 0) - len(self.expected))

        if policy.quarantine and today is None:
            raise ValueError("the policy has a quarantine, whose entries expire: judging it needs today's date")
        entries = {test: policy.quarantine[test] for test in self.tests if test in policy.quarantine}
        self.expired = tuple(test for test, entry in entries.items() if today is not None and entry.expires < today)
        self.quarantined = tuple(test for test in entries if test not in self.expired)

        self.counted = counted = {test: v for test, v in self.tests.items() if test not in self.quarantined}
        asked = {test: verdict for test, verdict in counted.items() if test in self.expected}
        self.appeared = tuple(test for test in counted if test not in self.expected)
        self.failed = _select(counted, {TestVerdict.FAILED})
        self.flaky = _select(counted, {TestVerdict.FLAKY})
        self.decided = _select(asked, _DECIDED)
        self.undecided = _select(asked, _UNDECIDED)
        self.open = tuple(test for test, verdict in counted.items() if self.is_open(test, verdict))
        self.test_count = len(asked) + self.unnamed
        # A run that ended in ERROR tells of itself, not of the build, so that its misses do not blow the fuse.
        proper = [index for index, attempt in enumerate(attempts) if attempt.status != "ERROR"]
        self.missed = tuple(t for t in self.undecided if any(self.histories[t][i] is Outcome.MISSED for i in proper))

    def is_open(self, test: str, verdict: TestVerdict) -> bool:
        # A test that only appeared later matters when it fails; nobody asked for its pass.
        return verdict is TestVerdict.FAILED or (test in self.expected and verdict not in _PASSING)

    def fuse_blown(self) -> bool:
        fuse = self.policy.fuse_failures
        if fuse is None:
            limit = max(Fraction(10), Fraction(3, 10) * self.test_count)
        else:
            # By its decimal digits: 0.29 of 100 tests are 29, and as a binary float a little less.
            limit = Fraction(str(fuse)) * (self.test_count if isinstance(fuse, float) else 1)
        return len(self.failed) + len(self.missed) > limit

    def unproven(self) -> tuple[str, ...]:
        """Counted tests with a deciding outcome that their verdict needs and that a run gave which did not complete."""

        def needs_a_broken_run(test: str) -> bool:
            deciding = [index for index, outcome in enumerate(self.histories[test]) if outcome in _DECIDING]
            needed = self.policy.passes_required if self.tests[test] is TestVerdict.FLAKY else 1
            return any(self.attempts[index].status != "COMPLETED" for index in deciding[-needed:])

        return tuple(filter(needs_a_broken_run, dict.fromkeys([*self.decided, *self.failed, *self.flaky])))

    def vanished(self) -> tuple[str, ...]:
        """Tests that were open before a completed rerun and are not in its list."""
        reruns = [index for index, attempt in enumerate(self.attempts) if index and attempt.status == "COMPLETED"]

        def has_vanished(test: str) -> bool:
            history, needed = self.histories[test], self.policy.passes_required
            absences = (index for index in reruns if history[index] is Outcome.ABSENT)
            return any(self.is_open(test, merge(history[:index], needed)) for index in absences)

        return tuple(test for test in self.counted if has_vanished(test))

    def is_explained(self, index: int) -> bool:
        """Whether a test explains that a completed run did not pass.

        A test that did not pass there does, once it is decided, there or since: that is the ordinary way to flaky and
        recovered. One in quarantine does as well, as nobody reruns it.
        """
        return any(
            history[index] not in (Outcome.PASSED, Outcome.ABSENT)
            and (test in self.quarantined or any(outcome in _DECIDING for outcome in history[index:]))
            for test, history in self.histories.items()
        )


def judge(
    expected: Iterable[str],
    attempts: Sequence[Attempt],
    policy: GatePolicy = _DEFAULT_POLICY,
    *,
    expected_count: int | None = None,
    incidents: Iterable[Incident] = (),
    today: date | None = None,
) -> GateVerdict:
    """Decide whether the release may go out.

    Args:
        expected: Ids of the tests that attempt 0 listed.
        attempts: The runs of the campaign, in their order.
        policy: What the gate asks for.
        expected_count: How many tests the start's answer announced; those that were never listed count as missing.
        incidents: What happened outside of the tests.
        today: The date on which quarantine entries are looked at; an entry holds through its last day.

    Returns:
        The verdict, with that of each test (those that appeared later included) and all reasons.

    Raises:
        ValueError: The policy has a quarantine and `today` is missing, or an outcome is not one.

    Example:
        >>> gate = judge(["login"], [Attempt("COMPLETED", {"login": Outcome.PASSED})])
        >>> print(gate.verdict, gate.reasons[0].sentence)
        pass 1 of 1 test passed.
    """
    survey = _Survey(expected, attempts, policy, expected_count, today)
    happened = {Incident(incident) for incident in incidents}
    reasons = [
        *_test_reasons(survey),
        *_run_reasons(survey),
        *(Reason(i.value, Verdict.INCONCLUSIVE, _INCIDENT_SENTENCES[i]) for i in Incident if i in happened),
        *_notes(survey),
    ]
    verdict = Verdict.worst([Verdict.PASS, *(reason.verdict for reason in reasons)])
    if verdict is Verdict.PASS:
        passed = tuple(test for test in survey.decided if survey.tests[test] in _PASSING)
        sentence = f"{len(passed)} of {_tests(survey.test_count)} passed."
        reasons.insert(0, Reason("passed", Verdict.PASS, sentence, passed))
    reasons.sort(key=lambda reason: -list(Verdict).index(reason.verdict))
    return GateVerdict(verdict, survey.tests, tuple(reasons))


def _tests(count: int) -> str:
    return f"{count} test" if count == 1 else f"{count} tests"


def _limit(count: int) -> str:
    return f"at most {count}" if count else "none"


def _run(index: int) -> str:
    return f"Rerun {index}" if index else "The first run"


def _shown(word: str) -> str:
    # Sentences go into reports as they are; a word that is not the API's is not to be trusted there.
    return word if word in ("INITIATED", "RUNNING", "ERROR", "CANCELLED", "FAILED", "SKIPPED") else "something unknown"


def _test_reasons(survey: _Survey) -> Iterable[Reason]:
    policy = survey.policy
    if survey.failed:
        yield Reason(
            "max_failed",
            Verdict.FAIL if len(survey.failed) > policy.max_failed else Verdict.PASS,
            f"{_tests(len(survey.failed))} failed; this gate allows {_limit(policy.max_failed)}.",
            survey.failed,
        )
    if survey.flaky:
        sentence = f"{_tests(len(survey.flaky))} failed first and passed in a rerun"
        if policy.max_flaky is not None and len(survey.flaky) > policy.max_flaky:
            sentence += f": flaky; this gate allows {_limit(policy.max_flaky)}."
            yield Reason("max_flaky", Verdict.FAIL, sentence, survey.flaky)
        else:
            sentence += ": flaky, which this gate allows. A real bug that shows only sometimes looks like this."
            yield Reason("flaky_reported", Verdict.PASS, sentence, survey.flaky)
    if undecided := len(survey.undecided) + survey.unnamed:
        unlisted = f" ({survey.unnamed} of them announced by QA.tech, but never listed)" if survey.unnamed else ""
        allowed = _limit(policy.max_undecided)
        yield Reason(
            "max_undecided",
            Verdict.INCONCLUSIVE if undecided > policy.max_undecided else Verdict.PASS,
            f"{_tests(undecided)}{unlisted} neither passed nor failed; this gate allows {allowed}.",
            survey.undecided,
        )
    if len(survey.decided) < policy.min_decided:
        sentence = f"{_tests(len(survey.decided))} passed or failed; at least {policy.min_decided} must."
        yield Reason("min_decided", Verdict.INCONCLUSIVE, sentence, survey.decided)
    if survey.expected and not survey.test_count:
        sentence = f"The suite has no test outside of the quarantine ({_tests(len(survey.expected))} in it)."
        yield Reason("only_quarantined", Verdict.INCONCLUSIVE, sentence, tuple(survey.expected))
    if survey.fuse_blown() and len(survey.missed) > len(survey.failed):
        sentence = (
            f"{_tests(len(survey.missed))} of {survey.test_count} could not be carried out properly: too many to rerun."
        )
        yield Reason("mass_failure", Verdict.INCONCLUSIVE, sentence, survey.missed)


def _run_reasons(survey: _Survey) -> Iterable[Reason]:
    if not survey.attempts:
        yield Reason("no_attempt", Verdict.INCONCLUSIVE, "No run was started, so nothing was tested.")
    broken = [index for index, attempt in enumerate(survey.attempts) if attempt.status != "COMPLETED"]
    if broken:
        unproven = survey.unproven()
        # Without any completed run there is nothing to go by, whatever the tests and the policy's tolerances say.
        blocks = bool(unproven) or len(broken) == len(survey.attempts)
        runs = ", ".join(f"{_run(index)} ({_shown(survey.attempts[index].status)})" for index in broken)
        whose = f"the result of {_tests(len(unproven))}" if unproven else "no result that counts"
        yield Reason(
            "run_not_completed",
            Verdict.INCONCLUSIVE if blocks else Verdict.PASS,
            f"{runs} did not complete, and {whose} comes from there.",
            unproven,
        )
    for index, attempt in enumerate(survey.attempts):
        if attempt.status != "COMPLETED" or attempt.result is None:
            continue
        if attempt.result != "PASSED":
            if not survey.is_explained(index):
                sentence = f"{_run(index)} ended as {_shown(attempt.result)}, although none of its tests failed."
                yield Reason("contradiction", Verdict.INCONCLUSIVE, sentence)
        elif failed := tuple(test for test in survey.failed if survey.histories[test][index] is Outcome.FAILED):
            yield Reason(
                "contradiction",
                Verdict.FAIL if len(survey.failed) > survey.policy.max_failed else Verdict.PASS,
                f"{_run(index)} ended as PASSED, although {_tests(len(failed))} in it failed: the tests count.",
                failed,
            )


def _notes(survey: _Survey) -> Iterable[Reason]:
    for rule, tests, what in (
        ("vanished", survey.vanished(), "still open but not in the list of a rerun: the earlier verdict stands."),
        ("appeared", survey.appeared, "not expected from the start: a failure counts, a pass is no evidence."),
        ("quarantine", survey.quarantined, "in quarantine: reported, and counted nowhere."),
        ("quarantine_expired", survey.expired, "counted again, because the quarantine entry expired."),
    ):
        if tests:
            yield Reason(rule, Verdict.PASS, f"{_tests(len(tests))} {what}", tests)


def rerun_base(open_tests: Iterable[str], attempts: Sequence[Attempt]) -> int:
    """Say which attempt a rerun of some tests is asked of.

    Args:
        open_tests: The tests that the rerun is for.
        attempts: The runs of the campaign so far.

    Returns:
        Index of the latest attempt that lists all of them; 0 where none does.

    Example:
        >>> rerun_base(["a"], [Attempt("COMPLETED", {"a": Outcome.FAILED}), Attempt("COMPLETED", {})])
        0
    """
    wanted = tuple(open_tests)
    for index in range(len(attempts) - 1, 0, -1):
        if all(attempts[index].outcomes.get(test, Outcome.ABSENT) != Outcome.ABSENT for test in wanted):
            return index
    return 0


def plan_rerun(
    expected: Iterable[str],
    attempts: Sequence[Attempt],
    policy: GatePolicy = _DEFAULT_POLICY,
    *,
    expected_count: int | None = None,
    incidents: Iterable[Incident] = (),
    today: date | None = None,
) -> Rerun | NoRerun:
    """Decide what to rerun, if anything. Reruns cost money: none is asked for that could not make the gate pass.

    Tests in quarantine are not rerun, as they do not block; of tests that appeared later, only those that failed are.

    Args:
        expected, attempts, policy, expected_count, incidents, today: As for `judge`.

    Returns:
        What to ask for, or why not: `no_attempt`, `nothing_open`, `gate_passes`, `budget_spent`, `fuse`, `cancelled`,
        `not_final`, `cannot_help`, the first of them that holds.

    Raises:
        ValueError: As for `judge`.

    Example:
        >>> plan_rerun(["a", "b"], [Attempt("COMPLETED", {"a": Outcome.PASSED, "b": Outcome.FAILED})])
        Rerun(kind='failed_only', test_ids=('b',), base=0)
    """
    expected, incidents = tuple(expected), tuple(incidents)
    survey = _Survey(expected, attempts, policy, expected_count, today)

    def judged(runs: Sequence[Attempt], policy: GatePolicy) -> GateVerdict:
        return judge(expected, runs, policy, expected_count=expected_count, incidents=incidents, today=today)

    if not attempts:
        return NoRerun("no_attempt", "There is no run yet that could be rerun.")
    status, runs_left = attempts[-1].status, policy.max_reruns + 1 - len(attempts)
    passes = judged(attempts, policy).verdict is Verdict.PASS
    # A run that ended in ERROR is rerun even where no test in it is open: its passes prove nothing.
    whole = status == "ERROR" and not passes
    if not survey.open and not whole:
        return NoRerun("nothing_open", "No test is open that could be asked for again.")
    if passes:
        return NoRerun("gate_passes", "The gate passes as it is.")
    if runs_left < 1:
        return NoRerun("budget_spent", f"The limit of reruns, {policy.max_reruns}, is reached.")
    if survey.fuse_blown():
        count = f"{_tests(len(survey.failed) + len(survey.missed))} of {survey.test_count}"
        return NoRerun("fuse", f"{count} failed or were missed: a broken build is not flaky, and reruns cost money.")
    if status == "CANCELLED":
        return NoRerun("cancelled", "The latest run was cancelled: somebody meant it.")
    if status not in ("COMPLETED", "ERROR"):
        return NoRerun("not_final", "The latest run has not ended.")

    # The best that the reruns left could bring. Which failures then stay, as many as the policy tolerates, is open; so
    # the limit of flaky tests is held against the fewest that there can be.
    least_flaky = len(survey.flaky) + max(0, len(survey.failed) - policy.max_failed)
    if policy.max_flaky is not None and least_flaky > policy.max_flaky:
        sentence = (
            f"Even if all open tests passed now, {_tests(least_flaky)} would be flaky; "
            f"this gate allows {_limit(policy.max_flaky)}."
        )
        return NoRerun("cannot_help", sentence)
    hoped = Attempt("COMPLETED", dict.fromkeys([*survey.open, *(expected if whole else ())], Outcome.PASSED))
    best = judged([*attempts, *[hoped] * runs_left], policy.model_copy(update={"max_flaky": None}))
    if best.blocking:
        sentence = f"Even if all open tests passed now, the gate would not. {best.blocking[0].sentence}"
        return NoRerun("cannot_help", sentence)

    if whole:
        return Rerun("everything", survey.open, len(attempts) - 1)
    not_passed = {Outcome.FAILED, Outcome.SKIPPED, Outcome.MISSED}
    selected_by_the_service = {test for test, history in survey.histories.items() if history[0] in not_passed}
    if len(attempts) == 1 and not survey.unnamed and selected_by_the_service == set(survey.open):
        return Rerun("failed_only", survey.open)
    return Rerun("test_cases", survey.open, rerun_base(survey.open, attempts))
