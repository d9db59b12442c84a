"""The tests of a campaign are recognised across its attempts, whatever details are lost, and quarantine finds them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from itertools import pairwise, permutations
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, strategies as st

from prefect_qatech.report.build import build_report
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.identity import (
    NAME_LENGTH,
    Campaign,
    CampaignTest,
    Evidence,
    ObservedAttempt,
    attempt_of,
    recognise,
    resolve_quarantine,
)
from prefect_qatech.verdict.judge import Incident
from prefect_qatech.verdict.outcomes import Attempt, Outcome, Verdict
from prefect_qatech.verdict.policy import GatePolicy, QuarantineEntry
from prefect_qatech.verdict.rerun import NoRerun, Rerun, next_rerun
from tests.observed import FAILED, NOW, attempt, case
from tests.verdict.runs import run


def outcomes(*attempts: ObservedAttempt) -> dict[str, str]:
    """Test id to the first letters of its outcomes, `w` behind those whose identity is weak."""
    campaign = recognise(attempts)
    found = {}
    for test_id, test in campaign.tests.items():
        words = (item.outcomes.get(test_id, Outcome.ABSENT).value[0] for item in campaign.attempts)
        found[test_id] = "".join(words) + ("w" if test.identity_is_weak else "")
    return found


# --- A test's identity


def test_by_project_test_case_id() -> None:
    found = outcomes(
        attempt(case("Pay", id="r1", projectTestCaseId="P", **FAILED)),
        attempt(case("Pay by card", id="r2", projectTestCaseId="P")),
    )
    assert found == {"P": "fp"}


def test_by_id_where_there_is_no_other() -> None:
    found = outcomes(attempt(case("Pay", id="1", **FAILED)), attempt(case("Pay by card", id="1")))
    assert found == {"1": "fp"}


def test_by_an_id_that_turns_out_to_be_the_project_test_case_id() -> None:
    # The examples of the vendor's command line show the two as one.
    found = outcomes(attempt(case("Pay", id="P")), attempt(case("Buy", id="r9", projectTestCaseId="P", **FAILED)))
    assert found == {"P": "pf"}


def test_the_same_the_other_way_round() -> None:
    found = outcomes(attempt(case("Pay", id="r1", projectTestCaseId="P", **FAILED)), attempt(case("Buy", id="P")))
    assert found == {"P": "fp"}


def test_the_same_without_an_id_of_its_own() -> None:
    found = outcomes(attempt(case("Pay", id="P")), attempt(case("Buy", projectTestCaseId="P", **FAILED)))
    assert found == {"P": "pf"}


def test_by_a_name_that_is_unique_and_then_weakly() -> None:
    found = outcomes(attempt(case("Pay", id="1", **FAILED)), attempt(case("Pay", id="2")))
    assert found == {"1": "fpw"}


def test_without_any_id_by_name() -> None:
    found = outcomes(attempt(case("Pay", **FAILED), case("Search")), attempt(case("Pay")))
    assert found == {"name:Pay": "fpw", "name:Search": "pa"}


@pytest.mark.parametrize(
    ("known", "listed", "found"),
    [
        ({"id": "1"}, {"id": "1", "projectTestCaseId": "P"}, {"1": "fp"}),
        ({"id": "1", "projectTestCaseId": "P"}, {"id": "1"}, {"P": "fp"}),
        ({"id": "1"}, {"id": "2", "projectTestCaseId": "P"}, {"1": "fpw"}),
        ({"id": "1", "projectTestCaseId": "P"}, {"id": "2"}, {"P": "fpw"}),
    ],
)
def test_by_id_or_name_where_one_list_alone_tells_the_project_test_case_id(
    known: dict[str, str], listed: dict[str, str], found: dict[str, str]
) -> None:
    assert outcomes(attempt(case("Pay", **known, **FAILED)), attempt(case("Pay", **listed))) == found


def test_a_strong_identity_stays_strong() -> None:
    assert outcomes(attempt(case("Pay", id="1")), attempt(case("Pay", id="1"))) == {"1": "pp"}


def test_a_name_that_stands_twice_in_the_later_attempt_identifies_nothing() -> None:
    found = outcomes(attempt(case("Pay", id="1", **FAILED)), attempt(case("Pay", id="2"), case("Pay", id="3")))
    assert found == {"1": "fa", "2": "ap", "3": "ap"}


def test_a_name_that_stood_twice_in_the_earlier_attempt_identifies_nothing() -> None:
    found = outcomes(attempt(case("Pay", id="1", **FAILED), case("Pay", id="2")), attempt(case("Pay", id="3")))
    assert found == {"1": "fa", "2": "pa", "3": "ap"}


def test_no_name_identifies_nothing() -> None:
    found = outcomes(attempt(case("", id="1", **FAILED)), attempt(case("", id="2")))
    assert found == {"1": "fa", "2": "ap"}


def test_short_ids_identify_nothing() -> None:
    found = outcomes(attempt(case("Pay", shortId="t1", **FAILED)), attempt(case("Buy", shortId="t1")))
    assert found == {"name:Pay": "fa", "name:Buy": "ap"}


def test_names_do_not_overrule_project_test_case_ids() -> None:
    found = outcomes(attempt(case("Pay", projectTestCaseId="P", **FAILED)), attempt(case("Pay", projectTestCaseId="Q")))
    assert found == {"P": "fa", "Q": "ap"}


def test_ids_do_not_overrule_project_test_case_ids() -> None:
    found = outcomes(
        attempt(case("Pay", id="1", projectTestCaseId="P", **FAILED)),
        attempt(case("Pay", id="1", projectTestCaseId="Q")),
    )
    assert found == {"P": "fa", "Q": "ap"}


def test_an_id_that_is_the_project_test_case_id_of_another_test_does_not_overrule_them_either() -> None:
    found = outcomes(
        attempt(case("Pay", id="A", projectTestCaseId="B", **FAILED)),
        attempt(case("Search", id="C", projectTestCaseId="A")),
    )
    assert found == {"B": "fa", "A": "ap"}


def test_names_do_not_overrule_ids_whatever_the_order() -> None:
    # "Pay" was renamed, and another test has its name now.
    first = attempt(case("Pay", id="1", **FAILED))
    renamed, namesake = case("Pay by card", id="1", **FAILED), case("Pay", id="9")
    for cases in permutations((renamed, namesake)):
        assert outcomes(first, attempt(*cases)) == {"1": "ff", "9": "ap"}


def test_ids_do_not_overrule_project_test_case_ids_whatever_the_order() -> None:
    first = attempt(case("Pay", id="1", projectTestCaseId="P", **FAILED))
    same, other = case("Pay", id="2", projectTestCaseId="P", **FAILED), case("Search", id="1")
    for cases in permutations((same, other)):
        assert outcomes(first, attempt(*cases)) == {"P": "ff", "1": "ap"}


def test_a_stranger_with_the_name_of_a_failed_test_does_not_pass_for_it() -> None:
    first = attempt(case("Pay", id="1", **FAILED), result="FAILED")
    skipped, stranger = case("Pay by card", id="1", result="SKIPPED"), case("Pay", id="9")
    for cases in permutations((skipped, stranger)):
        campaign = recognise([first, attempt(*cases, kind="rerun")])
        assert build_report(campaign, GatePolicy(), ended_at=NOW).verdict is Verdict.FAIL


def test_the_order_of_a_list_changes_nothing() -> None:
    first = [case("a", id="1", **FAILED), case("b", id="2"), case("c"), case("d", projectTestCaseId="D", **FAILED)]
    second = [case("a", id="1"), case("b", id="7"), case("c", **FAILED), case("x", projectTestCaseId="D", id="1")]
    found = {json.dumps(outcomes(attempt(*first), attempt(*cases)), sort_keys=True) for cases in permutations(second)}
    assert len(found) == 1


def test_two_entries_with_one_id_are_two_tests() -> None:
    found = outcomes(attempt(case("Pay", id="1", **FAILED), case("Pay", id="1")), attempt(case("Pay", id="1")))
    assert found == {"1": "fp", "1#2": "pa"}


def test_two_entries_without_anything_are_two_tests() -> None:
    found = outcomes(attempt(case("", **FAILED), case("", **FAILED)))
    assert found == {"name:": "f", "name:#2": "f"}


def test_names_that_differ_only_behind_the_cut_are_two_tests() -> None:
    found = outcomes(attempt(case("x" * 400 + "a", **FAILED), case("x" * 400 + "b")))
    assert sorted(found.values()) == ["f", "p"]
    assert all(len(test_id) <= NAME_LENGTH + len("name:#2") for test_id in found)


def test_expected_is_what_attempt_0_listed() -> None:
    campaign = recognise([attempt(case("a", id="1"), case("b", id="2"), test_count=3), attempt(case("c", id="3"))])
    assert campaign.expected == ("1", "2")
    assert campaign.expected_count == 3
    assert list(campaign.tests) == ["1", "2", "3"]


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_id_identifies_nothing(empty: str | None) -> None:
    nothing = {"id": empty, "projectTestCaseId": empty}
    found = outcomes(
        attempt(case("Pay", **nothing, **FAILED), case("Search", **nothing)),
        attempt(case("Search", **nothing), case("Pay", **nothing)),
    )
    assert found == {"name:Pay": "fpw", "name:Search": "ppw"}


def test_the_ids_of_a_rerun() -> None:
    first = attempt(
        case("a", id="r1", projectTestCaseId="P"),
        case("b", id="2"),
        case("c"),
        case("d", id="r4", shortId="t4"),
    )
    second = attempt(case("d", id="r4", shortId="t9", **FAILED), details={"t9": {"projectTestCaseId": "Q"}})
    campaign = recognise([first, second])
    assert campaign.project_test_case_ids(["P", "2", "name:c", "r4", "gone"]) == ["P", "2", "Q"]


# --- Laws over all small campaigns

CASES = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["", "a", "b", "c"]),
        "id": st.sampled_from([None, "1", "2", "P"]),
        "projectTestCaseId": st.sampled_from([None, "P", "Q", "1"]),
        "result": st.sampled_from(["PASSED", "FAILED", "SKIPPED"]),
    }
)
DETAILS = st.fixed_dictionaries(
    {
        "projectTestCaseId": st.sampled_from([None, "P", "Q", "R", "1"]),
        "errorCode": st.sampled_from([None, "TEST_FAILED", "AGENT_STUCK"]),
    }
)


@st.composite
def small_campaigns(draw: st.DrawFn) -> list[ObservedAttempt]:
    attempts = []
    for number in range(draw(st.integers(1, 3))):
        listed = draw(st.lists(CASES, max_size=5))
        cases = [case(**{**one, "shortId": f"t{number}-{place}"}) for place, one in enumerate(listed)]
        details = {one["shortId"]: draw(DETAILS) for one in cases if draw(st.booleans())}
        attempts.append(attempt(*cases, details=details))
    return attempts


def places(campaign: Campaign) -> dict[str, dict[int, str | None]]:
    """Test id to the run test cases that belong to it, by attempt."""
    return {
        test_id: {number: item.case.short_id for number, item in test.executions.items()}
        for test_id, test in campaign.tests.items()
    }


def listed(test: CampaignTest, name: str) -> set[str]:
    return {value for item in test.executions.values() if (value := getattr(item.case, name))}


@given(small_campaigns(), st.data())
def test_lost_details_change_neither_which_test_it_is_nor_what_quarantine_finds(
    attempts: list[ObservedAttempt], data: st.DataObject
) -> None:
    whole = recognise(attempts)
    left = []
    for one in attempts:
        kept = {key: value for key, value in one.details.items() if data.draw(st.booleans())}
        left.append(replace(one, details=kept, details_lost=frozenset(one.details) - frozenset(kept)))
    lost = recognise(left)
    assert places(lost) == places(whole)
    assert lost.expected == whole.expected
    assert [test.identity_is_weak for test in lost.tests.values()] == [
        test.identity_is_weak for test in whole.tests.values()
    ]
    policy = quarantined("a", "b", "1", "P", "Q", "R")
    assert resolve_quarantine(policy, lost.names) == resolve_quarantine(policy, whole.names)
    gone = {short_id for one in left for short_id in one.details_lost}
    assert lost.causes_unknown == tuple(test_id for test_id, found in places(lost).items() if gone & {*found.values()})


@given(small_campaigns())
def test_each_entry_of_a_list_is_one_test_and_no_test_is_two_entries(attempts: list[ObservedAttempt]) -> None:
    found = Counter(short_id for test in places(recognise(attempts)).values() for short_id in test.values())
    assert found == Counter(one.short_id for run in attempts for one in run.run.test_cases)


@given(small_campaigns())
def test_what_is_one_test_has_something_in_common_and_never_two_project_test_case_ids(
    attempts: list[ObservedAttempt],
) -> None:
    for test in recognise(attempts).tests.values():
        project, ids, names = (listed(test, name) for name in ("project_test_case_id", "id", "name"))
        assert len(project) <= 1
        if len(test.executions) > 1 and not test.identity_is_weak:
            assert project or ids
        if test.identity_is_weak:
            assert names


@given(small_campaigns())
def test_a_project_test_case_id_that_is_unique_in_two_lists_makes_one_test(attempts: list[ObservedAttempt]) -> None:
    campaign = recognise(attempts)
    of_case = {short_id: test_id for test_id, found in places(campaign).items() for short_id in found.values()}
    for earlier, later in pairwise(attempts):
        for one in later.run.test_cases:
            project = one.project_test_case_id
            same = [
                [other for other in run.run.test_cases if other.project_test_case_id == project]
                for run in (earlier, later)
            ]
            elsewhere = [other for run in attempts for other in run.run.test_cases if other.id == project]
            if project and list(map(len, same)) == [1, 1] and not elsewhere:
                assert of_case[same[0][0].short_id] == of_case[one.short_id]


def lines_executed(work: Callable[[], object]) -> int:
    """How many lines of Python a call takes: a measure of work that no other process disturbs."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("known", ["projectTestCaseId", "id", "name", "one id for all", "nothing"])
def test_recognising_tests_takes_work_in_proportion_to_their_number(known: str) -> None:
    def of(count: int) -> list[ObservedAttempt]:
        def one(number: int) -> dict[str, Any]:
            if known == "one id for all":
                return case("", id="1")
            return case(**({} if known == "nothing" else {known: str(number)}), **FAILED)

        return [attempt(*map(one, range(count))), attempt(*map(one, range(0, count, 3)), kind="rerun")]

    small, large = of(200), of(800)
    assert lines_executed(lambda: recognise(large)) < 6 * lines_executed(lambda: recognise(small))


# --- Quarantine


def quarantined(*keys: str, expires: date = date(2026, 9, 30), **fields: Any) -> GatePolicy:
    entry = QuarantineEntry(reason="known", owner="ana", expires=expires)
    return GatePolicy(quarantine=dict.fromkeys(keys, entry), **fields)


def two(*names: str) -> ObservedAttempt:
    """Test 1 passes, test 2 fails."""
    first, second = names
    return attempt(case(first, id="1"), case(second, id="2", **FAILED), result="FAILED")


@pytest.mark.parametrize("key", ["2", "Pay by card"])
def test_a_quarantine_takes_a_test_by_its_id_or_its_name(key: str) -> None:
    policy, observed = quarantined(key), two("Search", "Pay by card")
    report = build_report(recognise([observed]), policy, ended_at=NOW)
    assert (report.verdict, report.quarantine_unmatched) == (Verdict.PASS, ())
    assert [test.quarantined for test in report.tests] == [False, True]
    assert list(report.quarantine) == ["2"]
    assert isinstance(next_rerun(recognise([observed]), policy, today=NOW.date()), NoRerun), (
        "it does not block: no rerun"
    )


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("Pay", ("Search", "Pay by card")),  # a part of the name
        ("pay by card", ("Search", "Pay by card")),
        ("Pay by card ", ("Search", "Pay by card")),
        ("", ("Search", "")),
        ("3", ("Search", "Pay by card")),
        ("Pay", ("Pay", "Pay")),
        ("1", ("Search", "1")),  # the id of one test, and the name of another
        ("2", ("2", "Pay")),
        ("x" * 400, ("x" * 300 + "a", "x" * 300 + "b")),
    ],
)
def test_a_quarantine_entry_that_matches_no_test_or_more_than_one_has_no_effect(
    key: str, names: tuple[str, ...]
) -> None:
    policy, campaign = quarantined(key), recognise([two(*names)])
    report = build_report(campaign, policy, ended_at=NOW)
    assert report.verdict is Verdict.FAIL
    assert report.quarantine_unmatched == (key,)
    assert not any(test.quarantined for test in report.tests)
    assert report.quarantine == {}
    [reason] = [reason for reason in report.reasons if reason.rule == "quarantine_unmatched"]
    assert (reason.verdict, reason.test_ids) == (Verdict.PASS, (key,))
    assert isinstance(next_rerun(campaign, policy, today=NOW.date()), Rerun), "it blocks, so that it is rerun"
    kept = GateReport.model_validate_json(report.model_dump_json())
    assert kept.judge_again(policy).reasons[-1].test_ids == (key,)


def test_an_entry_that_matches_nothing_does_not_touch_the_others() -> None:
    report = build_report(recognise([two("Search", "Pay")]), quarantined("Pay", "Refund", "x"), ended_at=NOW)
    assert (report.verdict, report.quarantine_unmatched) == (Verdict.PASS, ("Refund", "x"))


def test_a_quarantined_name_that_a_rerun_makes_ambiguous_has_no_effect_any_more() -> None:
    first, namesake = two("Search", "Pay"), case("Pay", id="9")
    assert build_report(recognise([first]), quarantined("Pay"), ended_at=NOW).verdict is Verdict.PASS
    rerun = attempt(case("Pay", id="2", **FAILED), namesake, result="FAILED", kind="rerun")
    report = build_report(recognise([first, rerun]), quarantined("Pay"), ended_at=NOW)
    assert (report.verdict, report.quarantine_unmatched) == (Verdict.FAIL, ("Pay",))


@pytest.mark.parametrize("key", ["1", "1#2"])
def test_two_tests_that_share_an_id_are_not_in_quarantine_by_it(key: str) -> None:
    # Which of the two is the first is a matter of the list's order.
    for cases in permutations((case("Search", id="1"), case("Pay", id="1", **FAILED))):
        report = build_report(recognise([attempt(*cases, result="FAILED")]), quarantined(key), ended_at=NOW)
        assert (report.verdict, report.quarantine_unmatched) == (Verdict.FAIL, (key,))


def test_of_two_entries_for_one_test_the_one_that_expires_first_holds() -> None:
    past, future = quarantined("2", expires=date(2026, 8, 1)), quarantined("Pay", expires=date(2026, 12, 1))
    for first, second in permutations((past, future)):
        policy = GatePolicy(quarantine={**first.quarantine, **second.quarantine})
        report = build_report(recognise([two("Search", "Pay")]), policy, ended_at=NOW)
        assert (report.verdict, report.quarantine_unmatched) == (Verdict.FAIL, ())


@pytest.mark.parametrize(
    ("zone", "verdict"),
    [("UTC", Verdict.PASS), ("Pacific/Kiritimati", Verdict.FAIL), ("America/New_York", Verdict.PASS)],
)
def test_a_quarantine_expires_by_its_time_zone(zone: str, verdict: Verdict) -> None:
    # 12:00 UTC is 02:00 of the next day on Kiritimati.
    policy, campaign = quarantined("Pay", expires=NOW.date(), quarantine_time_zone=zone), recognise([two("a", "Pay")])
    report = build_report(campaign, policy, ended_at=NOW)
    assert report.verdict is verdict
    made = next_rerun(campaign, policy, today=policy.quarantine_day(NOW))
    assert isinstance(made, Rerun) is (verdict is Verdict.FAIL)
    assert report.judge_again(policy).verdict is verdict
    elsewhere = build_report(campaign, GatePolicy(), ended_at=NOW)
    assert elsewhere.judge_again(policy).verdict is verdict, "another policy brings its own time zone"


def test_what_is_next_to_rerun_knows_how_many_tests_were_promised_and_what_happened() -> None:
    promised, today = Evidence({}, ("a",), 3, (run("a:f"),)), date(2026, 9, 1)
    made = next_rerun(promised, GatePolicy(), today=today)
    assert isinstance(made, NoRerun)
    assert "never listed" in made.sentence
    whole = replace(promised, expected_count=1)
    assert next_rerun(whole, GatePolicy(), today=today) == Rerun("failed_only", ("a",))
    lost = next_rerun(whole, GatePolicy(), today=today, incidents=[Incident.WAIT_GAVE_UP])
    assert isinstance(lost, NoRerun)
    assert lost.reason == "cannot_help"


def test_an_id_with_a_number_sign_of_its_own_is_still_told_from_its_twin() -> None:
    policy = GatePolicy(quarantine={"team#7": QuarantineEntry(reason="known", owner="ana", expires=date(2026, 9, 1))})
    resolved, unmatched = resolve_quarantine(policy, {"team#7": "One", "team#7#2": "Two"})
    assert (resolved.quarantine, unmatched) == ({}, ("team#7",))


@pytest.mark.parametrize(
    ("status", "result", "read_as"),
    [
        ("COMPLETED", "PASSED", "COMPLETED"),
        ("COMPLETED", "FAILED", "COMPLETED"),
        ("COMPLETED", None, "RUNNING"),
        ("ERROR", None, "ERROR"),
        ("CANCELLED", None, "CANCELLED"),
        ("RUNNING", None, "RUNNING"),
    ],
)
def test_a_run_that_is_completed_without_a_result_has_not_ended(status: str, result: str | None, read_as: str) -> None:
    assert attempt_of(status, result, {"a": Outcome.PASSED}) == Attempt(read_as, {"a": Outcome.PASSED}, result)


def test_a_campaign_of_no_run_is_empty() -> None:
    assert recognise([]) == Campaign({}, (), None, (), (), {})
