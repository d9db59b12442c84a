"""Pure: which tests the attempts of a gate are about, and by which names people and reruns call them.

A *campaign* is all attempts of one gate; *attempt* 0 is the first run, the others are reruns. Tests are recognised by
the lists of the runs alone: whether the request for a test's details was answered changes neither which test it is, nor
which quarantine entry finds it. Details tell causes, and the id by which a rerun names a test where the list has none.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from prefect_qatech.api.responses import QATechRun, QATechRunTestCase, QATechRunTestCaseDetails
from prefect_qatech.verdict.outcomes import Attempt, Outcome, classify
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry

NAME_LENGTH = 300

AttemptKind = Literal["start", "rerun", "attached"]


@dataclass(frozen=True)
class ObservedAttempt:
    """What is known of one attempt: a run that was started, rerun, or attached (started elsewhere).

    `run` is the last answer of `GET /run/{shortId}?testCases=all`, with what QA.tech noticed unless that is lost.
    `test_count` is what the answer to its POST promised; `finished_at` when it was first seen to have ended. The
    details are of test cases that did not pass, by the short ids of their executions, as far as they could be had.
    `filter` is what a rerun was asked to repeat. `is_of_unknown_origin`: nobody knows whether it repeats a run of this
    campaign.
    """

    kind: AttemptKind
    run: QATechRun
    run_url: str | None = None
    test_count: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    details: Mapping[str, QATechRunTestCaseDetails] = field(default_factory=dict)
    rerun_of: str | None = None
    filter: str | None = None
    details_lost: frozenset[str] = frozenset()
    issues_lost: bool = False
    is_of_unknown_origin: bool = False


@dataclass(frozen=True)
class Execution:
    """One test in one attempt: what the list of the run says, and its details, where they were answered."""

    case: QATechRunTestCase
    details: QATechRunTestCaseDetails | None

    @property
    def outcome(self) -> Outcome:
        return classify(self.case.status, self.case.result, self.details.error_code if self.details else None)


@dataclass
class CampaignTest:
    """One test across the attempts, with an execution by the number of each that lists it.

    `test_id` is its `projectTestCaseId`, else its id, else its name, as the first list that has the test gives them.
    Its other ids are those of any list. Its identity is weak where it was recognised by its name alone.
    """

    test_id: str
    name: str
    ids: set[str] = field(default_factory=set)
    project_test_case_id: str | None = None
    identity_is_weak: bool = False
    executions: dict[int, Execution] = field(default_factory=dict)

    @property
    def rerun_id(self) -> str | None:
        """The UUID by which a rerun names it, as far as it is known."""
        from_details = (item.details.project_test_case_id for item in self.executions.values() if item.details)
        return self.project_test_case_id or next(filter(None, from_details), None) or min(self.ids, default=None)

    def add(self, number: int, item: Execution) -> None:
        self.executions[number] = item
        self.project_test_case_id = self.project_test_case_id or item.case.project_test_case_id or None
        if item.case.id:
            self.ids.add(item.case.id)


@dataclass(frozen=True)
class Evidence:
    """What a verdict, and the next rerun, go by.

    Attributes:
        names: Test id to name, of all tests of the campaign.
        expected: Ids of the tests of attempt 0.
        expected_count: How many tests attempt 0 was to have, by the answer to its POST.
        attempts: What `judge` takes.
    """

    names: Mapping[str, str]
    expected: Sequence[str]
    expected_count: int | None
    attempts: Sequence[Attempt]


@dataclass(frozen=True)
class Campaign(Evidence):
    """The attempts of one gate, with each test recognised across them.

    Attributes:
        observed: What was observed, in attempt order.
        tests: Test id to what is known of the test, in the order of first appearance.
    """

    observed: tuple[ObservedAttempt, ...]
    tests: Mapping[str, CampaignTest]

    @property
    def causes_unknown(self) -> tuple[str, ...]:
        """Ids of the tests of which some execution's details were lost, and with them perhaps its cause."""
        return tuple(
            test_id
            for test_id, test in self.tests.items()
            if any(item.case.short_id in self.observed[n].details_lost for n, item in test.executions.items())
        )

    def project_test_case_ids(self, test_ids: Iterable[str]) -> list[str]:
        """Return the UUIDs by which a rerun names the tests, where they are known."""
        ids = (self.tests[test_id].rerun_id for test_id in test_ids if test_id in self.tests)
        return [test_id for test_id in ids if test_id]


def recognise(observed: Sequence[ObservedAttempt]) -> Campaign:
    """Recognise the tests of a campaign across its attempts.

    In the lists of the runs, a test is the same one where `projectTestCaseId` is the same; else where `id` is; else
    where the name is the same and unique on both sides, and then its identity is weak. A run test case's short id is
    new in each run. A name alone is nothing in a run that may be of another plan, whose tests can have the same names.
    """
    tests: dict[str, CampaignTest] = {}
    twins: Counter[str] = Counter()
    for number, attempt in enumerate(observed):
        cases = [Execution(case, attempt.details.get(case.short_id or "")) for case in attempt.run.test_cases]
        matches = _match([item.case for item in cases], list(tests.values()), by_name=not attempt.is_of_unknown_origin)
        for place, item in enumerate(cases):
            if (test := matches.get(place)) is None:
                test = _new_test(item.case, tests, twins)
                tests[test.test_id] = test
            test.add(number, item)
    attempts = tuple(
        attempt_of(
            attempt.run.status,
            attempt.run.result,
            {test_id: test.executions[number].outcome for test_id, test in tests.items() if number in test.executions},
        )
        for number, attempt in enumerate(observed)
    )
    expected = tuple(test_id for test_id, test in tests.items() if 0 in test.executions)
    names = {test_id: test.name for test_id, test in tests.items()}
    count = observed[0].test_count if observed else None
    return Campaign(names, expected, count, attempts, tuple(observed), tests)


def attempt_of(status: str, result: str | None, outcomes: Mapping[str, Outcome]) -> Attempt:
    """Return what `judge` takes: COMPLETED without a result is unfinished, for a run as for a test."""
    return Attempt("RUNNING" if status == "COMPLETED" and result is None else status, outcomes, result)


def _match(
    cases: Sequence[QATechRunTestCase], tests: Sequence[CampaignTest], *, by_name: bool
) -> dict[int, CampaignTest]:
    """Find the known tests that a list holds: place in the list to test."""
    matches: dict[int, CampaignTest] = {}
    taken: set[str] = set()
    cases_by_name, tests_by_name = Counter(case.name for case in cases), Counter(test.name for test in tests)

    def match(index: _Index, key_of: Callable[[QATechRunTestCase], Hashable], *, is_weak: bool = False) -> None:
        for place, case in enumerate(cases):
            if place not in matches and (test := index.first(key_of(case), taken)) is not None:
                matches[place] = test
                taken.add(test.test_id)
                test.identity_is_weak = test.identity_is_weak or is_weak

    # The stronger identity goes first for the whole list: a name must not take what an id names.
    match(_Index(tests, _project_keys), lambda case: case.project_test_case_id)
    match(_Index(tests, _id_keys), lambda case: _key_of_case(case.id, case))
    if not by_name:
        return matches
    unique = [test for test in tests if tests_by_name[test.name] == 1]
    match(
        _Index(unique, lambda test: _keys_of_test(test.name, test)),
        lambda case: _key_of_case(case.name, case) if cases_by_name[case.name] == 1 else None,
        is_weak=True,
    )
    return matches


def _project_keys(test: CampaignTest) -> Iterable[Hashable]:
    # The vendor's examples show the id in a list equal to the projectTestCaseId, which not every list gives.
    return [test.project_test_case_id] if test.project_test_case_id else test.ids


def _id_keys(test: CampaignTest) -> Iterable[Hashable]:
    keys = [key for test_id in test.ids for key in _keys_of_test(test_id, test)]
    return [*keys, (test.project_test_case_id, _ANY)] if test.project_test_case_id else keys


# An id or a name does not make one test of two whose projectTestCaseIds differ. So a case that has one, and whose test
# was not found by it, is looked for among the tests that have none.
_ANY, _WITHOUT = "any", "without projectTestCaseId"


def _keys_of_test(name: str, test: CampaignTest) -> Iterable[Hashable]:
    return [(name, _ANY)] if test.project_test_case_id else [(name, _ANY), (name, _WITHOUT)]


def _key_of_case(name: str | None, case: QATechRunTestCase) -> Hashable:
    return (name, _WITHOUT if case.project_test_case_id else _ANY) if name else None


class _Index:
    """Known tests by key, each line in the order of their first appearance."""

    def __init__(self, tests: Iterable[CampaignTest], keys_of: Callable[[CampaignTest], Iterable[Hashable]]) -> None:
        self._lines: dict[Hashable, deque[CampaignTest]] = defaultdict(deque)
        for test in tests:
            for key in keys_of(test):
                self._lines[key].append(test)

    def first(self, key: Hashable, taken: Container[str]) -> CampaignTest | None:
        """Return the first test under a key that is not taken."""
        line = self._lines.get(key)
        while line and line[0].test_id in taken:
            line.popleft()
        return line[0] if line else None


def _new_test(case: QATechRunTestCase, tests: Mapping[str, CampaignTest], twins: Counter[str]) -> CampaignTest:
    wanted = (case.project_test_case_id or case.id or f"name:{case.name}")[:NAME_LENGTH]
    test_id = wanted
    while test_id in tests:
        twins[wanted] += 1
        test_id = f"{wanted}#{twins[wanted] + 1}"
    return CampaignTest(test_id, case.name)


def resolve_quarantine(policy: GatePolicy, names: Mapping[str, str]) -> tuple[GatePolicy, tuple[str, ...]]:
    """Find the tests that the entries of a quarantine are about, among all tests of the campaign, id to name.

    A key is a test's id, or its exact name where only one test has it. Where two entries are about one test, the one
    that expires first holds.

    Returns:
        The policy with test ids as keys, and the keys that match no test, or more than one: they are not applied.

    Example:
        >>> entry = QuarantineEntry(reason="known", owner="ana", expires="2026-09-01")
        >>> policy = GatePolicy(quarantine={"Login": entry, "Pay": entry})
        >>> resolved, unmatched = resolve_quarantine(policy, {"1": "Login"})
        >>> list(resolved.quarantine), unmatched
        (['1'], ('Pay',))
    """
    if not policy.quarantine:
        return policy, ()
    tests: dict[str, set[str]] = {}
    for test_id, name in names.items():
        # Entries of a list that share an id got numbers behind it, by their order: no number tells which test is meant.
        shared, _, number = test_id.rpartition("#")
        tests.setdefault(shared if number.isdigit() and shared in names else test_id, set()).add(test_id)
        if name:
            tests.setdefault(name[:NAME_LENGTH], set()).add(test_id)
    resolved: dict[str, QuarantineEntry] = {}
    unmatched = []
    for key, entry in policy.quarantine.items():
        matches = tests.get(key[:NAME_LENGTH], set())
        if len(matches) == 1:
            [test_id] = matches
            resolved[test_id] = min(resolved.get(test_id, entry), entry, key=lambda entry: entry.expires)
        else:
            unmatched.append(key)
    return policy.model_copy(update={"quarantine": resolved}), tuple(unmatched)
