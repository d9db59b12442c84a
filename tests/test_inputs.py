"""What is wrong with what users pass in is one kind of error, in one line."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from prefect_qatech import GateDecision, GatePolicy, InvalidInputError
from prefect_qatech.api.requests import QATechApplication, QATechRunRequest
from prefect_qatech.inputs import Checked
from prefect_qatech.texts import clean_text

CASE = "a1b2c3d4-e5f6-4789-a012-3456789abcde"


@pytest.mark.parametrize(
    ("model", "fields", "message", "names"),
    [
        (
            QATechRunRequest,
            {"test_plan_short_id": "check out"},
            "test_plan_short_id: 'check out' has blanks: a test plan's short id, such as 'pln_abc123', is needed",
            ("test_plan_short_id",),
        ),
        (
            QATechRunRequest,
            {"test_plan_short_id": 5, "sandwich": "x"},
            "test_plan_short_id: Input should be a valid string, not 5; sandwich: There is no such field",
            ("test_plan_short_id", "sandwich"),
        ),
        (
            QATechRunRequest,
            {"testPlanShortId": "pln_1"},
            "testPlanShortId: There is no such field; did you mean test_plan_short_id?",
            ("testPlanShortId",),
        ),
        (
            QATechRunRequest,
            {"applications": [{"application_short_id": "app_shop", "environment": {"shortId": "env_1"}}]},
            "applications.0.environment.shortId: There is no such field; did you mean short_id?",
            ("applications.0.environment.shortId",),
        ),
        (
            QATechRunRequest,
            {"test_plan_short_id": "x\nINFO: all tests passed" + "y" * 200},
            "test_plan_short_id: 'x\\nINFO: all tests passed" + "y" * 53 + "… is longer than 200 characters: a test "
            "plan's short id, such as 'pln_abc123', is needed",
            ("test_plan_short_id",),
        ),
        (QATechApplication, {}, "application_short_id: Field required", ("application_short_id",)),
        (
            QATechApplication,
            {"application_short_id": "app_shop", "url": "https://shop.example.com"},
            "url: There is no such field; it goes into environment=QATechEnvironment(url=...)",
            ("url",),
        ),
        (
            QATechRunRequest,
            {"url": "https://shop.example.com"},
            "url: There is no such field; it goes into "
            "applications=[QATechApplication(environment=QATechEnvironment(url=...))]",
            ("url",),
        ),
        (
            QATechRunRequest,
            {"applications": [{"application_short_id": "app_shop", "url": "https://shop.example.com"}]},
            "applications.0.url: There is no such field; it goes into environment=QATechEnvironment(url=...)",
            ("applications.0.url",),
        ),
        (
            QATechRunRequest,
            {"plan": "pln_smoke"},
            "plan: There is no such field; did you mean test_plan_short_id?",
            ("plan",),
        ),
        (
            QATechRunRequest,
            {"applications": {"application_short_id": "app_1"}},
            "applications: Input should be a valid list (put a single item into [...]), not "
            "{'application_short_id': 'app_1'}",
            ("applications",),
        ),
        *(
            (
                QATechRunRequest,
                {**selection, **more},
                "labels and application_short_id say which test cases are run: give them instead of a test plan or "
                "test cases; `applications` says where an application is tested",
                ("",),
            )
            for selection in ({"labels": ["smoke"]}, {"application_short_id": "Shop"})
            for more in ({"test_plan_short_id": "pln_a"}, {"test_case_ids": [CASE]})
        ),
        (
            QATechRunRequest,
            {"labels": "smoke"},
            "labels: Input should be a valid list (put a single item into [...]), not 'smoke'",
            ("labels",),
        ),
        (
            QATechRunRequest,
            {"labels": []},
            "labels: List should have at least 1 item after validation, not 0, not []",
            ("labels",),
        ),
        (
            QATechRunRequest,
            {"test_plan_short_id": "pln_a", "test_case_ids": [CASE]},
            "give a test plan or test cases, not both",
            ("",),
        ),
        (
            QATechRunRequest,
            {"test_case_ids": [" ", " ", " ", " "]},
            "; ".join(
                f"test_case_ids.{number}: ' ' is empty: a test case's UUID or its name is needed" for number in range(3)
            )
            + "; and 1 more",
            ("test_case_ids.0", "test_case_ids.1", "test_case_ids.2", "test_case_ids.3"),
        ),
    ],
)
@pytest.mark.parametrize("way", ["called", "validated"])
def test_what_is_wrong_is_said_in_one_line(
    model: Any, fields: dict[str, Any], message: str, names: tuple[str, ...], way: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        model(**fields) if way == "called" else model.model_validate(fields)
    error = caught.value
    assert isinstance(error, InvalidInputError)
    assert str(error) == message
    assert tuple(field for field, _ in error.faults) == names
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_json_that_does_not_fit_is_the_same_error() -> None:
    with pytest.raises(InvalidInputError, match=r"^testPlanShortId: There is no such field; did you mean"):
        QATechRunRequest.model_validate_json('{"testPlanShortId": "pln_1"}')
    with pytest.raises(InvalidInputError, match="EOF while parsing"):
        QATechRunRequest.model_validate_json("{")


def test_a_model_among_other_parameters_is_told_as_well() -> None:
    class Parameters(BaseModel):
        request: QATechRunRequest

    with pytest.raises(ValidationError) as caught:
        Parameters.model_validate({"request": {"testPlanShortId": "pln_1"}})
    [fault] = caught.value.errors()
    assert fault["loc"] == ("request",)
    assert fault["msg"] == "Value error, testPlanShortId: There is no such field; did you mean test_plan_short_id?"
    assert TypeAdapter(QATechRunRequest | str).validate_python("pln_1") == "pln_1"
    assert TypeAdapter(QATechRunRequest | str).validate_python({}) == QATechRunRequest()


def test_an_input_that_must_not_be_shown_is_not() -> None:
    class Secretive(Checked):
        model_config = ConfigDict(hide_input_in_errors=True)

        number: int

    with pytest.raises(InvalidInputError) as caught:
        Secretive(number="hunter2")  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value) + repr(caught.value.faults)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Pay\tby card\r\nnow é 😀", "Pay\tby card\r\nnow é 😀"),
        ("Pay\x00", "Pay\ufffd"),
        ("\x1b[31m\x08\x0b\x7f\x9b", "\ufffd[31m\ufffd\ufffd\ufffd\ufffd"),
        ("\ud83d half", "\ufffd half"),
        ("", ""),
    ],
)
def test_a_text_is_cleaned_of_what_nothing_can_store(text: str, clean: str) -> None:
    assert clean_text(text) == clean


@given(st.text(st.characters(exclude_categories=())))
def test_a_cleaned_text_can_be_stored_and_is_clean(text: str) -> None:
    clean = clean_text(text)
    assert "\x00" not in clean.encode().decode()
    assert clean_text(clean) == clean
    assert len(clean) == len(text)


def test_what_people_write_into_a_policy_or_a_decision_can_be_stored() -> None:
    policy = GatePolicy.model_validate(
        {"quarantine": {"Pay\x00": {"reason": "a\x00b", "owner": "Ana\x7f", "expires": "2026-12-31"}}}
    )
    [(name, entry)] = policy.quarantine.items()
    assert (name, entry.reason, entry.owner) == ("Pay\ufffd", "a\ufffdb", "Ana\ufffd")
    decision = GateDecision(
        approved=True,
        reason="fine\x00",
        decided_by="Ana\x1b",
        decided_at=datetime.now(timezone.utc),
        evidence_sha256="0",
    )
    assert (decision.reason, decision.decided_by) == ("fine\ufffd", "Ana\ufffd")
