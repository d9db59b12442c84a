"""What goes over the wire: strict where users speak, tolerant where the service does."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from typing import Any
from uuid import UUID

import jsonschema
import pytest
from fastapi.encoders import jsonable_encoder
from hypothesis import example, given, strategies as st
from pydantic import ValidationError

from prefect_qatech import InvalidInputError
from prefect_qatech.api.answers import NotJSONError, message_of, read_json
from prefect_qatech.api.requests import (
    QATechApplication,
    QATechEnvironment,
    QATechGitHubTrigger,
    QATechNotification,
    QATechParameters,
    QATechRerunRequest,
    QATechRunRequest,
    as_request,
)
from prefect_qatech.api.responses import (
    FINAL_STATUSES,
    QATechRun,
    QATechRunTestCase,
    QATechRunTestCaseDetails,
    QATechStartedRun,
)
from tests.support import read_vendors_document

CASE = "a1b2c3d4-e5f6-4789-a012-3456789abcde"
OTHER = "00000000-0000-4000-8000-000000000002"

# --- Requests

FULL = {
    "testPlanShortId": "pln-smoke-tests_abc123",
    "applications": [
        {
            "applicationShortId": "app_shop",
            "environment": {"url": "https://pr-42.example.com/shop?x=1#top", "name": "PR 42"},
            "devicePresetShortId": "preset-phone_p1",
        },
        {"applicationShortId": "app-admin_a2", "environment": {"shortId": "env-staging_e1"}},
        {"applicationShortId": "app_ios", "environment": {"applicationBuildShortId": "build_b1"}},
        {"applicationShortId": "app_plain"},
    ],
    "notifications": [
        {"type": "slack", "channel": "C0478ABCDEF", "notifyOn": "failure"},
        {"type": "slack", "channel": "C0478ABCDE0"},
    ],
    "parameters": {
        "configs": {"cfg_login": {"user_name": "ana", "maxTries": 3, "hint": None}},
        "configsByEnvironment": {OTHER: {"login-user": ["x_y", {"snake_key": 1}]}},
    },
    "projectShortId": "proj-shop_s1",
}
"""What goes over the wire."""
GITHUB = {
    "actor": "ana",
    "branch": "main",
    "commitHash": "5e4d3c2b",
    "commitMessage": "Pay by card\n\nand by bill",
    "repository": "shop/web",
}
IN_PYTHON = {
    "test_plan_short_id": "pln-smoke-tests_abc123",
    "applications": [
        {
            "application_short_id": "app_shop",
            "environment": {"url": "https://pr-42.example.com/shop?x=1#top", "name": "PR 42"},
            "device_preset_short_id": "preset-phone_p1",
        },
        {"application_short_id": "app-admin_a2", "environment": {"short_id": "env-staging_e1"}},
        {"application_short_id": "app_ios", "environment": {"application_build_short_id": "build_b1"}},
        {"application_short_id": "app_plain"},
    ],
    "notifications": [
        {"type": "slack", "channel": "C0478ABCDEF", "notify_on": "failure"},
        {"type": "slack", "channel": "C0478ABCDE0"},
    ],
    "github": {
        "actor": "ana",
        "branch": "main",
        "commit_hash": "5e4d3c2b",
        "commit_message": "Pay by card\n\nand by bill",
        "repository": "shop/web",
    },
    "parameters": {
        "configs": {"cfg_login": {"user_name": "ana", "maxTries": 3, "hint": None}},
        "configs_by_environment": {OTHER: {"login-user": ["x_y", {"snake_key": 1}]}},
    },
    "project_short_id": "proj-shop_s1",
}
"""The same as users, forms and deployments write it."""


def full_request() -> QATechRunRequest:
    """The same as objects."""
    return QATechRunRequest(
        test_plan_short_id="pln-smoke-tests_abc123",
        applications=[
            QATechApplication(
                application_short_id="app_shop",
                environment=QATechEnvironment(url="https://pr-42.example.com/shop?x=1#top", name="PR 42"),
                device_preset_short_id="preset-phone_p1",
            ),
            QATechApplication(
                application_short_id="app-admin_a2", environment=QATechEnvironment(short_id="env-staging_e1")
            ),
            QATechApplication(
                application_short_id="app_ios", environment=QATechEnvironment(application_build_short_id="build_b1")
            ),
            QATechApplication(application_short_id="app_plain"),
        ],
        notifications=[
            QATechNotification(channel="C0478ABCDEF", notify_on="failure"),
            QATechNotification(channel="C0478ABCDE0"),
        ],
        github=QATechGitHubTrigger(
            actor="ana",
            branch="main",
            commit_hash="5e4d3c2b",
            commit_message="Pay by card\n\nand by bill",
            repository="shop/web",
        ),
        parameters=QATechParameters(
            configs={"cfg_login": {"user_name": "ana", "maxTries": 3, "hint": None}},
            configs_by_environment={OTHER: {"login-user": ["x_y", {"snake_key": 1}]}},
        ),
        project_short_id="proj-shop_s1",
    )


def test_every_documented_field_of_a_start() -> None:
    assert full_request().to_json() == {"trigger": "GITHUB", **GITHUB, **FULL}


def test_a_start_is_written_by_the_names_of_python_everywhere() -> None:
    request = full_request()
    assert QATechRunRequest.model_validate(IN_PYTHON) == request
    for by_alias in (True, False):
        written = request.model_dump(mode="json", by_alias=by_alias, exclude_unset=True)
        for notification in written["notifications"]:
            notification["type"] = "slack"
        assert written == IN_PYTHON
    assert QATechRunRequest.model_validate_json(request.model_dump_json()) == request
    # As Prefect writes the parameters of a flow run, and reads them.
    assert QATechRunRequest.model_validate(jsonable_encoder(request)) == request


@pytest.mark.parametrize("mode", ["validation", "serialization"])
@pytest.mark.parametrize("model", [QATechRunRequest, QATechRerunRequest])
def test_the_schema_has_the_names_of_python(model: Any, mode: Any) -> None:
    schema = model.model_json_schema(mode=mode)
    for part in (schema, *schema.get("$defs", {}).values()):
        assert set(part["properties"]) == {name for name in part["properties"] if name == name.lower()}
        assert part["additionalProperties"] is False
    assert set(schema["properties"]) == set(model.model_fields)


def test_a_start_without_anything() -> None:
    assert QATechRunRequest().to_json() == {"trigger": "API"}


def test_test_cases_instead_of_a_plan() -> None:
    request = QATechRunRequest(test_case_ids=[CASE, UUID(OTHER)])  # type: ignore[list-item]
    assert request.to_json() == {"trigger": "API", "testCaseIds": [CASE, OTHER]}


def test_an_empty_github_event_is_one() -> None:
    assert QATechRunRequest(github=QATechGitHubTrigger()).to_json() == {"trigger": "GITHUB"}


def test_a_request_is_given_whole_or_as_the_id_of_a_plan_or_not_at_all() -> None:
    whole = QATechRunRequest(test_case_ids=[CASE])
    assert as_request(whole) is whole
    assert as_request("pln_smoke") == QATechRunRequest(test_plan_short_id="pln_smoke")
    assert as_request(None) == QATechRunRequest()


@pytest.mark.parametrize("given", ["smoke tests", "", ["pln_smoke"], {"test_plan_short_id": "pln_a"}, 5])
def test_what_is_no_request_is_refused_in_one_line(given: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        as_request(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (QATechRerunRequest(), {}),
        (QATechRerunRequest(failed_only=True), {"failedOnly": True}),
        (QATechRerunRequest(failed_only=False), {}),
        (QATechRerunRequest(test_case_ids=[CASE, OTHER]), {"projectTestCaseIds": [CASE, OTHER]}),
        (
            QATechRerunRequest(failed_only=True, project_short_id="proj_1"),
            {"failedOnly": True, "projectShortId": "proj_1"},
        ),
    ],
    ids=lambda value: None if isinstance(value, QATechRerunRequest) else json.dumps(value),
)
def test_every_documented_field_of_a_rerun(request_: QATechRerunRequest, body: dict[str, Any]) -> None:
    assert request_.to_json() == body
    assert json.loads(json.dumps(request_.to_json())) == body


def test_a_request_does_not_change() -> None:
    with pytest.raises(ValidationError):
        full_request().test_plan_short_id = "pln_other"


@pytest.mark.parametrize(
    ("model", "fields", "says"),
    [
        (QATechRunRequest, {"testPlan": "pln_1"}, "There is no such field"),
        (QATechRunRequest, {"trigger": "CRON"}, "There is no such field"),
        (QATechRunRequest, {"test_plan_short_id": "pln_1", "test_case_ids": [CASE]}, "a test plan or test cases"),
        (QATechRunRequest, {"test_case_ids": []}, "at least 1 item"),
        (QATechRunRequest, {"test_case_ids": CASE}, "valid list"),
        (QATechRunRequest, {"notifications": []}, "at least 1 item"),
        (QATechRunRequest, {"applications": [{}]}, "Field required"),
        (QATechRerunRequest, {"failed_only": True, "test_case_ids": [CASE]}, "failed_only or test_case_ids, not both"),
        (QATechRerunRequest, {"test_case_ids": []}, "at least 1 item"),
        (QATechRerunRequest, {"failedonly": True}, "There is no such field"),
        (QATechRerunRequest, {"failed_only": "perhaps"}, "boolean"),
        (QATechEnvironment, {}, "exactly one of"),
        (QATechEnvironment, {"url": ""}, "at least 1 char"),
        (QATechParameters, {"configs": {"": 1}}, "is empty"),
        (QATechRunRequest, {"testPlanShortId": "pln_1"}, "did you mean test_plan_short_id"),
        (QATechRerunRequest, {"projectTestCaseIds": [CASE]}, "There is no such field"),
        (QATechEnvironment, {"url": "https://a.example", "short_id": "env_1"}, "exactly one of"),
        (QATechEnvironment, {"short_id": "env_1", "application_build_short_id": "bld_1"}, "exactly one of"),
        (QATechEnvironment, {"short_id": "env_1", "name": "PR"}, "name goes with url"),
        (QATechEnvironment, {"name": "PR"}, "exactly one of"),
        (QATechNotification, {"channel": ""}, "at least 1 char"),
        (QATechNotification, {"channel": "C1", "type": "mail"}, "slack"),
        (QATechNotification, {"channel": "C1", "notify_on": "never"}, "always"),
        (QATechGitHubTrigger, {"repository": "shop"}, "pattern"),
        (QATechGitHubTrigger, {"repository": "shop/web/x"}, "pattern"),
        (QATechGitHubTrigger, {"repository": "shop/web\n"}, "pattern"),
    ],
)
def test_a_request_that_the_api_does_not_take_is_refused(model: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        model.model_validate(fields)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (QATechRunRequest, {"applications": []}),
        (QATechRunRequest, {"applications": [{"application_short_id": "jgbinp"}]}),
        (QATechRunRequest, {"test_plan_short_id": "smoke-tests"}),
        (QATechEnvironment, {"url": "shop.example"}),
        (QATechEnvironment, {"url": "http://ana:secret@shop.example", "name": "a" * 300}),
        (QATechEnvironment, {"application_build_short_id": "build_b1"}),
        (QATechEnvironment, {"application_build_short_id": "bld_b1"}),
        (QATechParameters, {"configs": {"login-user": 1}, "configs_by_environment": {"env_1": {"cfg_1": 1}}}),
        (QATechNotification, {"channel": "#releases" * 20}),
    ],
    ids=str,
)
def test_what_no_document_forbids_is_sent_as_given(model: Any, fields: dict[str, Any]) -> None:
    assert model(**fields).model_dump(exclude_unset=True) == fields


@pytest.mark.parametrize(
    "parameters",
    [
        {"configs": {"cfg_1": object()}},
        {"configs": {"cfg_1": {"deep": [float("nan")]}}},
        {"configs": {"cfg_1": float("inf")}},
        {"configs": {"cfg_1": "half a smiley: \ud83d"}},
    ],
    ids=["object", "nan", "inf", "surrogate"],
)
def test_parameters_that_json_cannot_carry_are_refused(parameters: Any) -> None:
    with pytest.raises(InvalidInputError):
        QATechRunRequest(parameters=parameters)


def test_a_text_that_nothing_can_store_is_cleaned() -> None:
    # A commit message that is not UTF-8 comes out of git, and of the environment, like this.
    request = QATechRunRequest(
        github=QATechGitHubTrigger(commit_message=b"caf\xe9\nNUL \0".decode("utf-8", "surrogateescape"), actor="\0a"),
        applications=[
            QATechApplication(
                application_short_id="app_1", environment=QATechEnvironment(url="https://a.example", name="PR\x00")
            )
        ],
    )
    body = request.to_json()
    assert (body["commitMessage"], body["actor"]) == ("caf\ufffd\nNUL \ufffd", "\ufffda")
    assert body["applications"][0]["environment"]["name"] == "PR\ufffd"


# --- The vendor's OpenAPI document


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    document: dict[str, Any] = _as_json_schema(read_vendors_document())
    return document


def _as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 as JSON Schema: `nullable` as a type, and no property that the document does not name."""
    if isinstance(node, list):
        return [_as_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _as_json_schema(value) for key, value in node.items()}
    if node.pop("nullable", False):
        node["type"] = [node["type"], "null"]
    if node.get("type") == "object" and "properties" in node:
        node["additionalProperties"] = False
    return node


def check(openapi: dict[str, Any], name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": openapi["components"]}
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


def test_a_start_validates_against_the_vendors_document(openapi: dict[str, Any]) -> None:
    body = full_request().to_json()
    # Newer than the document: parameters, projectShortId, mobile builds.
    del body["parameters"], body["projectShortId"], body["applications"][2]
    check(openapi, "RunRequest", body)
    check(openapi, "RunRequest", QATechRunRequest().to_json())
    documented = openapi["components"]["schemas"]["RunRequest"]["properties"]
    assert set(documented) == set(body), "every documented field was checked"


def test_the_vendors_document_would_notice(openapi: dict[str, Any]) -> None:
    body = full_request().to_json()
    for path, value in (
        ("trigger", "CRON"),
        ("testPlanShortId", "abc"),
        ("notifications", [{"type": "mail"}]),
        ("x", 1),
    ):
        with pytest.raises(jsonschema.ValidationError):
            check(openapi, "RunRequest", {**body, path: value})


@pytest.mark.parametrize("fields", [{}, {"failed_only": True}, {"test_case_ids": [CASE]}], ids=str)
def test_a_rerun_validates_against_the_vendors_document(openapi: dict[str, Any], fields: Any) -> None:
    check(openapi, "RerunRequest", QATechRerunRequest(**fields).to_json())


def test_every_documented_answer_can_be_read(openapi: dict[str, Any]) -> None:
    schemas = openapi["components"]["schemas"]
    for name, model in (
        ("Run", QATechStartedRun),
        ("RerunRun", QATechStartedRun),
        ("GetRunResponse", QATechRun),
        ("RunTestCase", QATechRunTestCase),
        ("RunTestCase", QATechRunTestCaseDetails),
    ):
        known = {field.alias for field in model.model_fields.values()}
        assert set(schemas[name]["properties"]) <= known, f"{model.__name__} leaves a field of {name} aside"


# --- Answers

DETAILS = {
    "id": OTHER,
    "shortId": "tc1",
    "name": "Pay",
    "status": "COMPLETED",
    "result": "FAILED",
    "resultTitle": "No button",
    "evaluationThought": "I looked for it.",
    "errorCode": "TEST_FAILED",
    "classification": "POSITIVE",
    "promptGoal": "Pay",
    "promptExamples": "1. Pay",
    "runShortId": "abc123",
    "projectTestCaseId": CASE,
    "startedAt": "2026-09-01T12:00:00Z",
    "completedAt": "2026-09-01T12:01:00Z",
    "durationMs": 60000,
    "url": "https://app.qa.tech/tc1",
    "screenshotUrl": "https://cdn.qa.tech/1.png",
    "recordingUrl": "https://cdn.qa.tech/1.mp4",
}


def test_every_documented_field_of_an_execution() -> None:
    details = QATechRunTestCaseDetails.model_validate(DETAILS)
    assert details.model_extra == {}
    assert details.model_dump(by_alias=True) == DETAILS
    assert details.project_test_case_id == CASE
    assert details.duration_ms == 60000


def test_what_is_not_documented_is_kept_aside() -> None:
    run = QATechRun.model_validate(
        {"shortId": "abc123", "weather": [1], "runTestCases": [{"name": "Pay", "labels": ["a"]}]}
    )
    assert run.model_extra == {"weather": [1]}
    assert run.test_cases[0].model_extra == {"labels": ["a"]}


@pytest.mark.parametrize("issues", [None, "many", {"title": "x"}, [1, None, "x"]])
def test_issues_that_cannot_be_read_are_none_and_harm_nothing(issues: object) -> None:
    run = QATechRun.model_validate({"shortId": "abc123", "status": "COMPLETED", "issues": issues})
    assert (run.status, run.issues) == ("COMPLETED", [])


def test_what_is_not_documented_takes_no_name_that_is_ours() -> None:
    answer = {"shortId": "abc123", "status": "RUNNING", "is_final": True, "finished_test_count": 9, "model_fields": 1}
    run = QATechRun.model_validate(answer)
    assert (run.is_final, run.finished_test_count) == (False, 0)


@pytest.mark.parametrize("status", ["COMPLETED", "ERROR", "CANCELLED"])
def test_a_final_status(status: str) -> None:
    assert QATechRun(run_short_id="abc123", status=status).is_final
    assert status in FINAL_STATUSES


@pytest.mark.parametrize(
    "status", ["INITIATED", "RUNNING", "PAUSED", "completed", "COMPLETED ", "", None, 5, ["ERROR"]]
)
def test_any_other_status_stays_text_and_is_not_final(status: Any) -> None:
    run = QATechRun.model_validate({"shortId": "abc123", "status": status, "result": "PERHAPS"})
    assert not run.is_final
    assert run.status == ("" if status is None else str(status))
    assert run.result == "PERHAPS"


@pytest.mark.parametrize("fields", [{}, {"runTestCases": None}, {"runTestCases": []}], ids=str)
def test_absent_test_cases_are_none(fields: Any) -> None:
    assert QATechRun.model_validate({"shortId": "abc123", **fields}).test_cases == []


def test_finished_test_cases_are_counted() -> None:
    cases = [{"status": status} for status in ("COMPLETED", "ERROR", "CANCELLED", "RUNNING", "INITIATED", "NEW", None)]
    run = QATechRun.model_validate({"shortId": "abc123", "runTestCases": cases})
    assert run.finished_test_count == 3
    assert run.finished_percent == pytest.approx(100 * 3 / 7)


@pytest.mark.parametrize("fields", [{}, {"status": "COMPLETED"}, {"runTestCases": []}], ids=str)
def test_nothing_of_no_test_cases_has_finished(fields: Any) -> None:
    assert QATechRun.model_validate({"shortId": "abc123", **fields}).finished_percent == 0


def test_numbers_instead_of_texts() -> None:
    case = {"id": 7, "shortId": 8, "name": 9, "status": 1, "result": 2.5, "resultTitle": True, "evaluationThought": []}
    read = QATechRunTestCase.model_validate(case)
    assert (read.id, read.short_id, read.name, read.status, read.result) == ("7", "8", "9", "1", "2.5")
    assert (read.result_title, read.evaluation_thought) == ("True", "[]")


@pytest.mark.parametrize("value", [5, 5.0, "5", " 5 "], ids=repr)
def test_a_test_count_is_a_number_however_it_is_written(value: Any) -> None:
    started = QATechStartedRun.model_validate({"shortId": "abc123", "testCount": value})
    assert (started.test_count, type(started.test_count), started.test_count_is_unreadable) == (5, int, False)
    assert QATechStartedRun.model_validate({"shortId": "abc123", "testCount": 0}).test_count == 0


@pytest.mark.parametrize("answer", [{}, {"testCount": None}, {"testCountIsUnreadable": True}], ids=str)
def test_a_test_count_that_is_not_told_is_not_known(answer: dict[str, Any]) -> None:
    started = QATechStartedRun.model_validate({"shortId": "abc123", **answer})
    assert (started.test_count, started.test_count_is_unreadable) == (None, False)


@pytest.mark.parametrize(
    "value",
    ["many", "", "5.5", "-5", "٥", "9" * 5000, -5, 5.5, True, False, [], [5], {}, math.nan, math.inf, 1e300, 10**9],
    ids=lambda value: repr(value)[:20],
)
def test_a_test_count_that_cannot_be_read_is_marked_and_does_not_lose_the_run(value: Any) -> None:
    # A run whose answer cannot be read is one of unknown outcome, although its id stands there.
    started = QATechStartedRun.model_validate({"shortId": "abc123", "testCount": value})
    assert (started.run_short_id, started.test_count, started.test_count_is_unreadable) == ("abc123", None, True)
    assert QATechStartedRun.model_validate(started.model_dump()) == started
    assert QATechStartedRun.model_validate_json(started.model_dump_json(by_alias=True)).test_count is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e301, "5", True, [5]], ids=repr)
def test_a_duration_that_is_no_number_is_not_known(value: Any) -> None:
    assert QATechRunTestCaseDetails.model_validate({"durationMs": value}).duration_ms is None


@pytest.mark.parametrize("model", [QATechStartedRun, QATechRun, QATechRunTestCase, QATechRunTestCaseDetails])
def test_the_texts_of_an_answer_can_be_stored(model: Any) -> None:
    names = [field.alias for field in model.model_fields.values() if field.annotation in (str, str | None)]
    read = model.model_validate({name: f"a\0b{name}\ud800" for name in names} | {"shortId": "abc123"})
    texts = read.model_dump(by_alias=True)
    assert len(names) >= 2
    assert all(texts[name] == f"a\ufffdb{name}\ufffd" for name in names if name != "shortId")


@pytest.mark.parametrize("value", ["pln_1", ["pln_1"], 5, True, []], ids=str)
def test_a_strange_test_plan_does_not_lose_the_run(value: Any) -> None:
    assert QATechStartedRun.model_validate({"shortId": "abc123", "testPlan": value}).run_short_id == "abc123"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
UNTOUCHED = {"shortId", "runTestCases", "testCount", "testCountIsUnreadable", "testPlan"}


@pytest.mark.parametrize("model", [QATechStartedRun, QATechRun, QATechRunTestCase, QATechRunTestCaseDetails])
@given(data=st.data())
def test_an_answer_is_read_whatever_stands_in_its_other_fields(model: Any, data: st.DataObject) -> None:
    names = [field.alias for field in model.model_fields.values() if field.alias not in UNTOUCHED]
    answer = {"shortId": "abc123"} | {name: data.draw(JSON) for name in [*names, "somethingNew"]}
    read = model.model_validate(deepcopy(answer))
    assert (read.run_short_id if model in (QATechStartedRun, QATechRun) else read.short_id) == "abc123"


@pytest.mark.parametrize("short_id", ["../x", "a/b", "..", "", None, 5, "abc\n", "a b", "a" * 201], ids=ascii)
@pytest.mark.parametrize("model", [QATechStartedRun, QATechRun])
def test_an_answer_whose_run_has_no_proper_id_is_none(model: Any, short_id: Any) -> None:
    with pytest.raises(ValidationError):
        model.model_validate({"shortId": short_id})
    with pytest.raises(ValidationError):
        model.model_validate({})


@pytest.mark.parametrize("cases", ["none", {"a": 1}, [None], ["Pay"], [[]], 5], ids=str)
def test_test_cases_that_make_no_sense_are_not_read_as_none(cases: Any) -> None:
    with pytest.raises(ValidationError):
        QATechRun.model_validate({"shortId": "abc123", "runTestCases": cases})


@given(st.one_of(st.binary(), st.text().map(str.encode), JSON.map(lambda value: json.dumps({"it": value}).encode())))
@example(b'{"it": [NaN, -Infinity, 1e999, "a\\u0000b", "\\ud800"]}')
@example(b"[" * 100_000)
def test_a_body_is_json_of_texts_that_can_be_stored_or_is_refused(content: bytes) -> None:
    assert isinstance(message_of(content), str)
    try:
        read = read_json(content)
    except NotJSONError:
        return
    stored = json.dumps(read, allow_nan=False, ensure_ascii=False).encode("utf-8")
    assert rb"\u0000" not in stored
