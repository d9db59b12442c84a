"""What an attempt says about a test, and what all attempts together say about it.

An allowlist: what is not known (a status, a result, an error code) is never a pass. Only a pass or a failure decides
about a test; a miss, a skip or a cancelled test never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Word(str, Enum):
    """A word of the report, which prints as itself."""

    def __str__(self) -> str:
        # Python 3.10 and 3.11 disagree on how a str enum prints; reports need the word itself.
        return str(self.value)


class Outcome(Word):
    """What one attempt says about one test."""

    PASSED = "passed"
    FAILED = "failed"
    MISSED = "missed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"
    ABSENT = "absent"


class TestVerdict(Word):
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


class Verdict(Word):
    """What the gate says; only `pass` is a go. Compare with `worst`: as words, "fail" < "pass"."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Return the worst of some verdicts.

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


@dataclass(frozen=True)
class Attempt:
    """One QA.tech run of a campaign: its status, what it says about each test, and its own result."""

    status: str
    outcomes: Mapping[str, Outcome]
    result: str | None = None


DECIDING = frozenset({Outcome.PASSED, Outcome.FAILED})
PASSING = frozenset({TestVerdict.PASSED, TestVerdict.RECOVERED, TestVerdict.FLAKY})
DECIDED = PASSING | {TestVerdict.FAILED}
UNDECIDED = frozenset(TestVerdict) - DECIDED


def classify(status: str, result: str | None, error_code: str | None = None) -> Outcome:
    """Return the outcome of a test in an attempt: an allowlist, so that an unknown word is never a pass.

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
    """Return the verdict of a test over all attempts.

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
    deciding = [outcome for outcome in outcomes if outcome in DECIDING]
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
