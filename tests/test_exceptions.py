"""The tree is the one that is drawn, and errors keep what they know on their way through Prefect's result store."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import cloudpickle
import pytest
from prefect.serializers import JSONSerializer

from prefect_qatech import exceptions
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import (
    InvalidInputError,
    LedgerConflict,
    NotFoundError,
    OtherPlanStarted,
    QATechAPIError,
    QATechError,
    StartOutcomeUnknown,
)
from prefect_qatech.polling import exceptions as polling_exceptions
from prefect_qatech.polling.exceptions import RunsNotEnded, WaitTimedOut
from prefect_qatech.report import exceptions as report_exceptions
from prefect_qatech.report.build import build_report
from prefect_qatech.report.exceptions import GateFailed, GateInconclusive, GateNotPassed, GatesNotPassed
from prefect_qatech.report.model import GateReport, GatesReport
from prefect_qatech.verdict.identity import ObservedAttempt, recognise
from prefect_qatech.verdict.outcomes import Verdict
from prefect_qatech.verdict.policy import GatePolicy

CLASSES = {
    name: item
    for module in (exceptions, polling_exceptions, report_exceptions)
    for name, item in vars(module).items()
    if inspect.isclass(item) and issubclass(item, Exception) and item.__module__ == module.__name__
}


def report() -> GateReport:
    case = {"id": "1", "name": "Pay", "status": "COMPLETED", "result": "FAILED", "resultTitle": "No button"}
    run = QATechRun.model_validate(
        {"shortId": "abc123", "status": "COMPLETED", "result": "FAILED", "runTestCases": [case]}
    )
    campaign = recognise([ObservedAttempt("start", run, run_url="https://app.qa.tech/p/shop/results/abc123")])
    return build_report(campaign, GatePolicy(), ended_at=datetime(2026, 9, 1, tzinfo=timezone.utc))


RUN = {"run_short_id": "abc123", "run_url": "https://app.qa.tech/p/shop/results/abc123"}
API_FIELDS = {
    "status": 503,
    "service_message": "Try later",
    "request": "GET /v1/run/abc123",
    "retryable": True,
    "retry_after_seconds": 12.5,
    **RUN,
}
SLOT = {"slot": "0123-4567", "flow_run_id": "5e4d3c2b-0000-4000-8000-000000000001", **RUN}


def fields_of(cls: type[QATechError]) -> dict[str, Any]:
    """A value for every field that a class takes."""
    if issubclass(cls, QATechAPIError):
        return API_FIELDS
    if issubclass(cls, GateNotPassed):
        return {"report": report()}
    if issubclass(cls, GatesNotPassed):
        return {"report": GatesReport(names=("a", "b"), reports={"a": report()}, errors={"b": "No such plan."})}
    if issubclass(cls, OtherPlanStarted):
        plans = {"asked_plan": "pln_broken", "started_plan": "pln_green"}
        return {"request": "POST /v1/run", "sent_at": "2026-09-01T00:00:00+00:00", **plans, **SLOT}
    if issubclass(cls, StartOutcomeUnknown):
        return {"request": "POST /v1/run", "sent_at": "2026-09-01T00:00:00+00:00", **SLOT}
    if issubclass(cls, LedgerConflict):
        return SLOT
    if issubclass(cls, InvalidInputError):
        return {"faults": (("applications.0", "No application."), ("", "Not both."))}
    if issubclass(cls, RunsNotEnded):
        # Errors are equal to none but themselves; how they are kept, a test of its own tells.
        return {
            "runs": {"abc123": QATechRun.model_validate({"shortId": "abc123", "status": "COMPLETED"})},
            "errors": {},
        }
    if issubclass(cls, WaitTimedOut):
        run = QATechRun.model_validate({"shortId": "abc123", "status": "RUNNING", "kept": {"aside": 1}})
        return {"status": "RUNNING", "waited_seconds": 60.5, "last_error": "HTML", "run": run, **RUN}
    return RUN


def drawn() -> dict[str, str]:
    """Each class of the drawing in the module's docstring, with the class under which it stands."""
    parents: dict[str, str] = {}
    branch = ["Exception"]
    for line in (exceptions.__doc__ or "").split("```")[1].splitlines():
        if match := re.match(r"((?:│   |    |├── |└── )*)(\w+)", line):
            depth = len(match[1]) // 4
            branch[depth + 1 :] = [match[2]]
            parents[match[2]] = branch[depth]
    return parents


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert drawn() == {name: cls.__base__.__name__ for name, cls in CLASSES.items()}  # type: ignore[union-attr]
    assert len(CLASSES) > 10


KEEPING_EVERYTHING: dict[str, Callable[[QATechError], QATechError]] = {
    "the oldest pickle": lambda error: pickle.loads(pickle.dumps(error, 2)),
    "the newest pickle": lambda error: pickle.loads(pickle.dumps(error, pickle.HIGHEST_PROTOCOL)),
    "cloudpickle": lambda error: cloudpickle.loads(cloudpickle.dumps(error)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
KEEPING_THE_MESSAGE: dict[str, Callable[[QATechError], QATechError]] = {
    "args": lambda error: type(error)(*error.args),
    "Prefect's JSON": lambda error: JSONSerializer().loads(JSONSerializer().dumps(error)),
}


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_an_error_keeps_everything_through_pickle(cls: type[QATechError]) -> None:
    fields = fields_of(cls)
    parameters = set(inspect.signature(cls).parameters) - {"message"}
    assert set(fields) == parameters, "the test knows every field"
    for way, through in KEEPING_EVERYTHING.items():
        kept = through(cls("What happened, and what to do.", **fields))
        assert type(kept) is cls, way
        assert str(kept) == kept.message == "What happened, and what to do.", way
        assert kept.args == ("What happened, and what to do.",), way
        assert {name: getattr(kept, name) for name in fields} == fields, way


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_an_error_is_made_of_its_message_alone(cls: type[QATechError]) -> None:
    for way, through in KEEPING_THE_MESSAGE.items():
        kept = through(cls("What happened, and what to do.", **fields_of(cls)))
        assert type(kept) is cls, way
        assert str(kept) == "What happened, and what to do.", way
        again = pickle.loads(pickle.dumps(kept))
        assert (type(again), str(again)) == (cls, str(kept)), way


@pytest.mark.parametrize("cls", [GateFailed, GateInconclusive, GatesNotPassed])
def test_a_report_that_was_not_stored_is_not_made_up(cls: type[QATechError]) -> None:
    error: Any = cls("No.")
    with pytest.raises(AttributeError, match=r'JSON.*result_serializer="pickle"'):
        _ = error.report


def test_why_each_run_is_waited_for_no_more_is_kept() -> None:
    why = {"a": NotFoundError("Not there.", status=404, run_short_id="a"), "b": WaitTimedOut("Late.", status="RUNNING")}
    kept = pickle.loads(pickle.dumps(RunsNotEnded("No.", runs={}, errors=why)))
    assert [(type(error), error.message, error.status) for error in kept.errors.values()] == [
        (NotFoundError, "Not there.", 404),
        (WaitTimedOut, "Late.", "RUNNING"),
    ]


def test_a_message_that_a_wait_added_to_survives() -> None:
    error = NotFoundError("Not there.", status=404)
    error.message += " It goes on."
    assert str(pickle.loads(pickle.dumps(error))) == "Not there. It goes on."


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_the_message_is_what_prints(cls: type[QATechError]) -> None:
    error = cls("Run %s {gone} 100 %.", **fields_of(cls))
    assert str(error) == "Run %s {gone} 100 %."
    assert repr(error) == f"{cls.__name__}('Run %s {{gone}} 100 %.')"


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_nothing_may_be_sent_again_unless_the_error_says_so(cls: type[QATechError]) -> None:
    needed = {name: value for name, value in fields_of(cls).items() if name in ("report", "runs", "errors")}
    error = cls("No.", **needed)
    assert error.retryable is False
    assert error.retry_after_seconds is None


def test_a_gates_error_names_the_run_and_carries_the_report() -> None:
    error = GateFailed("No.", report=report())
    assert (error.run_short_id, error.run_url) == (RUN["run_short_id"], RUN["run_url"])
    kept = pickle.loads(pickle.dumps(error))
    assert kept.report.verdict is Verdict.FAIL
    assert kept.report.tests[0].reason == "No button"
