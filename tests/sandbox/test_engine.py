"""The state alone, without HTTP: time, outcomes, dependencies, campaigns."""

from __future__ import annotations

from typing import Any

import pytest

from prefect_qatech.sandbox import load_scenario
from prefect_qatech.sandbox.bodies import RerunBody, StartBody
from prefect_qatech.sandbox.clock import Clock
from prefect_qatech.sandbox.engine import Engine, Refusal
from prefect_qatech.sandbox.runs import Run
from prefect_qatech.sandbox.scenario import Outcome

QUEUE = 2


def engine_of(cases: list[dict[str, Any]], plan: dict[str, Any] | None = None, **scenario: Any) -> Engine:
    whole = {"short_id": "pln_a", "name": "A", "test_cases": cases, **(plan or {})}
    return Engine(load_scenario({"plans": [whole], **scenario}), Clock(0))


def start(engine: Engine, **body: Any) -> Run:
    return engine.find(engine.start(StartBody(**body))["run"]["shortId"])


def rerun(engine: Engine, run: Run, *names: str, failed_only: bool = False) -> Run:
    ids = [engine.cases[name].uuid for name in names] or None
    run.settle(engine.clock.now())
    answer = engine.rerun(run, RerunBody(failedOnly=failed_only, projectTestCaseIds=ids))
    return engine.find(answer["run"]["shortId"])


def look(engine: Engine, run: Run, advance: float = 0) -> dict[str, str]:
    engine.clock.advance(advance)
    run.settle(engine.clock.now())
    return {
        execution.case.name: (execution.outcome.result if execution.outcome else None) or execution.status
        for execution in run.executions
    }


def states(engine: Engine, run: Run) -> tuple[str, str | None]:
    shown = engine.show(run, None)
    return shown["status"], shown["result"]


def test_a_run_goes_from_queue_to_end_with_the_clock_alone() -> None:
    engine = engine_of([{"name": "t", "duration_seconds": 30}])
    run = start(engine)
    assert look(engine, run) == {"t": "INITIATED"}
    assert states(engine, run) == ("INITIATED", None)
    assert look(engine, run, QUEUE) == {"t": "RUNNING"}
    assert states(engine, run) == ("RUNNING", None)
    assert look(engine, run, 29.9) == {"t": "RUNNING"}
    assert look(engine, run, 0.1) == {"t": "PASSED"}
    assert states(engine, run) == ("COMPLETED", "PASSED")


def test_nobody_needs_to_look_meanwhile() -> None:
    cases = [{"name": f"t{i}", "duration_seconds": 10} for i in range(10)]
    often, once = engine_of(cases, {"parallel": 3}), engine_of(cases, {"parallel": 3})
    watched, unwatched = start(often), start(once)
    for _ in range(60):
        look(often, watched, 1)
    look(once, unwatched, 60)
    assert watched.ended == unwatched.ended == QUEUE + 40
    assert [e.finish for e in watched.executions] == [e.finish for e in unwatched.executions]


def test_so_many_at_once_in_order() -> None:
    engine = engine_of([{"name": name, "duration_seconds": 10} for name in "abc"], {"parallel": 2})
    run = start(engine)
    assert look(engine, run, QUEUE + 5) == {"a": "RUNNING", "b": "RUNNING", "c": "INITIATED"}
    assert look(engine, run, 5) == {"a": "PASSED", "b": "PASSED", "c": "RUNNING"}


def test_details_tell_times_of_the_virtual_clock() -> None:
    engine = engine_of([{"name": "t", "duration_seconds": 12.5}])
    run = start(engine)
    look(engine, run, QUEUE)
    running = engine.show_execution(run, run.executions[0])
    assert running["startedAt"]
    assert running["completedAt"] is running["durationMs"] is running["screenshotUrl"] is None
    look(engine, run, 100)
    done = engine.show_execution(run, run.executions[0])
    assert done["durationMs"] == 12_500
    assert done["completedAt"] > done["startedAt"] == running["startedAt"]


def test_a_dependent_waits_and_is_skipped_behind_a_failure() -> None:
    engine = engine_of(
        [
            {"name": "child", "depends_on": ["parent"], "duration_seconds": 10},
            {"name": "parent", "duration_seconds": 10, "outcomes": ["failed", "passed"]},
            {"name": "grandchild", "depends_on": ["child"]},
        ]
    )
    run = start(engine)
    assert look(engine, run, QUEUE + 5) == {"parent": "RUNNING", "child": "INITIATED", "grandchild": "INITIATED"}
    assert look(engine, run, 5) == {"parent": "FAILED", "child": "SKIPPED", "grandchild": "SKIPPED"}
    assert run.ended == QUEUE + 10  # a skip takes no time
    assert run.executions[1].outcome
    assert '"parent" did not pass' in (run.executions[1].outcome.thought or "")
    again = rerun(engine, run, failed_only=True)
    assert look(engine, again, 100) == {"parent": "PASSED", "child": "PASSED", "grandchild": "PASSED"}


def test_dependencies_come_along_on_a_rerun() -> None:
    engine = engine_of(
        [{"name": "a"}, {"name": "b", "depends_on": ["a"], "outcomes": ["failed", "passed"]}, {"name": "c"}]
    )
    run = start(engine)
    look(engine, run, 1000)
    again = rerun(engine, run, failed_only=True)
    assert again.test_count == 2
    assert look(engine, again, 1000) == {"a": "PASSED", "b": "PASSED"}


def test_an_attempt_is_an_execution_within_the_campaign() -> None:
    engine = engine_of([{"name": "t", "outcomes": ["failed", "agent_error", "passed"]}, {"name": "u"}])
    first = start(engine)
    assert look(engine, first, 1000)["t"] == "FAILED"
    other_campaign = start(engine)
    assert look(engine, other_campaign, 1000)["t"] == "FAILED"
    second = rerun(engine, first, "u")
    assert look(engine, second, 1000) == {"u": "PASSED"}  # t is not in it, so its attempts do not go on
    third = rerun(engine, first, "t")
    look(engine, third, 1000)
    assert third.executions[0].outcome
    assert third.executions[0].outcome.error_code == "AGENT_ERROR"
    for source in (third, first):  # from the rerun or from the root: one campaign; the last outcome repeats
        assert look(engine, rerun(engine, source, "t"), 1000) == {"t": "PASSED"}


def test_a_skip_behind_a_dependency_is_not_an_execution() -> None:
    engine = engine_of(
        [
            {"name": "a", "outcomes": ["failed", "passed"]},
            {"name": "b", "depends_on": ["a"], "outcomes": ["failed", "passed"]},
        ]
    )
    run = start(engine)
    assert look(engine, run, 1000) == {"a": "FAILED", "b": "SKIPPED"}
    run = rerun(engine, run, failed_only=True)
    assert look(engine, run, 1000) == {"a": "PASSED", "b": "FAILED"}
    run = rerun(engine, run, failed_only=True)
    assert look(engine, run, 1000) == {"a": "PASSED", "b": "PASSED"}


def test_failed_only_takes_failed_skipped_and_errored_ones() -> None:
    outcomes = ["passed", "failed", "skipped", "error", "cancelled", "agent_error", "platform_error"]
    engine = engine_of([{"name": outcome, "outcomes": outcome} for outcome in outcomes])
    run = start(engine)
    look(engine, run, 1000)
    again = rerun(engine, run, failed_only=True)
    assert [e.case.name for e in again.executions] == ["failed", "skipped", "error", "agent_error", "platform_error"]
    assert {test["name"] for test in engine.show(run, "failed")["runTestCases"]} == {
        execution.case.name for execution in again.executions
    }


def test_nothing_to_rerun_and_strangers_are_refused() -> None:
    engine = engine_of([{"name": "t"}], {}, test_cases=[{"name": "stranger"}])
    run = start(engine)
    look(engine, run, 1000)
    with pytest.raises(Refusal, match="No tests to rerun") as caught:
        rerun(engine, run, failed_only=True)
    assert caught.value.status == 400
    with pytest.raises(Refusal, match="not part of the run") as caught:
        rerun(engine, run, "stranger")
    assert caught.value.status == 400
    assert engine.counts["reruns"] == 0


def test_a_run_level_error_takes_the_unfinished_tests_along() -> None:
    engine = engine_of(
        [{"name": "quick", "duration_seconds": 3}, {"name": "slow"}],
        {"run": [{"status": "ERROR", "after_seconds": 10}, {"status": "CANCELLED"}, {}]},
    )
    first = start(engine)
    assert look(engine, first, QUEUE + 9.9) == {"quick": "PASSED", "slow": "RUNNING"}
    assert look(engine, first, 0.1) == {"quick": "PASSED", "slow": "ERROR"}
    assert states(engine, first) == ("ERROR", None)
    second = rerun(engine, first)
    assert look(engine, second, 1000)["slow"] == "CANCELLED"
    assert states(engine, second) == ("CANCELLED", None)
    third = rerun(engine, second)
    look(engine, third, 1000)
    assert states(engine, third) == ("COMPLETED", "PASSED")


def test_results_can_be_late_never_or_wrong() -> None:
    engine = engine_of(
        [{"name": "t", "duration_seconds": 10, "outcomes": "failed"}],
        {
            "run": [
                {"result_delay_seconds": 5},
                {"result_delay_seconds": float("inf")},
                {"result": None},
                {"result": "PASSED"},
            ]
        },
    )
    run = start(engine)
    look(engine, run, QUEUE + 10)
    assert states(engine, run) == ("COMPLETED", None)
    look(engine, run, 5)
    assert states(engine, run) == ("COMPLETED", "FAILED")
    for expected in (None, None, "PASSED"):
        run = rerun(engine, run)
        look(engine, run, 1e6)
        assert states(engine, run) == ("COMPLETED", expected)


def test_a_run_that_never_ends() -> None:
    engine = engine_of(
        [{"name": "a", "outcomes": "failed"}, {"name": "b", "depends_on": ["a"]}], {"run": {"never_ends": True}}
    )
    run = start(engine)
    look(engine, run, 1e9)
    assert states(engine, run) == ("RUNNING", None)


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [
        ([], "SKIPPED"),
        (["passed", "passed"], "PASSED"),
        (["passed", "failed"], "FAILED"),
        (["passed", "error"], "FAILED"),
        (["passed", "skipped"], "PASSED"),
        (["skipped", "cancelled"], "SKIPPED"),
    ],
)
def test_the_result_follows_from_the_tests(outcomes: list[str], result: str) -> None:
    engine = engine_of([{"name": f"t{i}", "outcomes": outcome} for i, outcome in enumerate(outcomes)])
    run = start(engine)
    look(engine, run, 1000)
    assert states(engine, run) == ("COMPLETED", result)


def test_an_outcome_may_have_any_words_even_those_of_running_tests() -> None:
    engine = engine_of([{"name": "t", "outcomes": {"status": "RUNNING", "result": None}}, {"name": "u"}])
    run = start(engine)
    assert look(engine, run, 1000) == {"t": "RUNNING", "u": "PASSED"}
    assert states(engine, run)[0] == "COMPLETED"


def test_the_count_may_disagree_with_the_list() -> None:
    engine = engine_of([{"name": "t"}], {"test_count_offset": [3, -5]})
    run = start(engine)
    assert (run.test_count, len(run.executions)) == (4, 1)
    assert rerun(engine, run).test_count == 0


def test_the_usage_limit_is_for_whole_runs() -> None:
    engine = engine_of([{"name": "a"}, {"name": "b"}], usage_limit=3)
    run = start(engine)
    with pytest.raises(Refusal, match="usage limit") as caught:
        rerun(engine, run)
    assert caught.value.status == 402
    rerun(engine, run, "a")
    with pytest.raises(Refusal):
        rerun(engine, run, "a")
    assert (engine.counts["starts"], engine.counts["reruns"], engine.counts["test_executions"]) == (1, 1, 3)


def test_a_check_holds_its_test_until_it_is_there() -> None:
    page = {"application": "app_a", "path": "/"}
    engine = engine_of(
        [{"name": "t", "http": page, "duration_seconds": 10}, {"name": "u", "depends_on": ["t"]}],
        applications=[{"short_id": "app_a", "name": "A"}],
    )
    run = start(engine)
    look(engine, run, QUEUE + 9)
    assert run.due_checks(engine.clock.now()) == []
    assert look(engine, run, 1000) == {"t": "RUNNING", "u": "INITIATED"}
    [execution] = run.due_checks(engine.clock.now())
    assert run.due_checks(engine.clock.now()) == []  # once
    execution.check = Outcome(result="PASSED")
    assert look(engine, run) == {"t": "PASSED", "u": "PASSED"}
    assert execution.finish == QUEUE + 10


def test_a_planned_failure_needs_no_page() -> None:
    page = {"application": "app_a", "path": "/"}
    engine = engine_of(
        [{"name": "t", "http": page, "outcomes": ["agent_error", "passed"]}],
        applications=[{"short_id": "app_a", "name": "A"}],
    )
    run = start(engine)
    assert look(engine, run, 1000) == {"t": "FAILED"}
    again = rerun(engine, run)
    look(engine, again, 1000)
    assert len(again.due_checks(engine.clock.now())) == 1


def test_ids_are_seeded_and_new_in_each_run() -> None:
    one, two = engine_of([{"name": "t"}]), engine_of([{"name": "t"}])
    first, same = start(one), start(two)
    assert first.short_id == same.short_id
    assert len(first.short_id) == 6
    assert first.short_id.isalnum()
    assert first.short_id == first.short_id.lower()
    assert rerun(one, first).executions[0].short_id != first.executions[0].short_id


@pytest.mark.parametrize("of", ["test_case", "execution"])
def test_whose_id_a_run_test_case_shows(of: str) -> None:
    engine = engine_of([{"name": "t"}], run_test_case_ids=of)
    run = start(engine)
    shown = engine.show(run, "all")["runTestCases"][0]
    assert (shown["id"] == engine.scenario.cases["t"].uuid) is (of == "test_case")
    assert engine.show_execution(run, run.executions[0])["projectTestCaseId"] == engine.scenario.cases["t"].uuid


def test_clocks() -> None:
    with pytest.raises(ValueError, match="manual clock"):
        Clock(60).advance(1)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="forward only"):
            Clock(0).advance(seconds)
    for speed in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="speed is virtual seconds"):
            Clock(speed)
