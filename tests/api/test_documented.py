"""Each method of the client against the bodies of QA.tech's documents: what it sends, and what it makes of the answer.

Where a method sends a POST, an answer that leaves its outcome unknown brings no second one.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from pydantic import SecretStr

from prefect_qatech import (
    QATechChange,
    QATechClient,
    QATechNewTestCase,
    QATechReleaseCheckRequest,
    QATechRerunRequest,
    QATechRunRequest,
    ServerError,
    StartOutcomeUnknown,
)
from prefect_qatech.api import lists
from prefect_qatech.api.uploads import UploadedFile
from tests.wire import TOKEN, URL

UUID = "0a1b2c3d-0000-4000-8000-00000000000a"
RUN = {"id": UUID, "shortId": "abc123", "url": "https://app.qa.tech/p/shop/results/abc123", "testCount": 5}
STARTED = {"success": True, "run": {**RUN, "testPlan": {"name": "Smoke", "shortId": "pln_1"}}}
CASE = {
    "id": UUID,
    "name": "Pay",
    "isEnabled": True,
    "labels": ["smoke"],
    "classification": "functional",
    "applicationShortId": "app_1",
    "applicationName": "Shop",
    "goal": "Buy a book.",
    "createdAt": "2026-03-01T10:00:00Z",
    "lastRun": {
        "runShortId": "abc123",
        "status": "COMPLETED",
        "result": "PASSED",
        "completedAt": "2026-03-02T10:00:00Z",
    },
}
STEP = {
    "index": 0,
    "startedAt": "2026-03-01T10:00:00Z",
    "endedAt": "2026-03-01T10:00:01Z",
    "durationMs": 1000,
    "reasoning": "I pay.",
    "toolCalls": [{"name": "click", "arguments": {"on": "Pay"}}],
    "toolResult": "Done.",
    "screenshotUrl": "https://app.qa.tech/1.png",
}
EXECUTION = {
    "id": UUID,
    "shortId": "rtc1",
    "name": "Pay",
    "status": "COMPLETED",
    "result": "FAILED",
    "resultTitle": "No button",
    "evaluationThought": "I looked.",
    "errorCode": "TEST_FAILED",
    "classification": "POSITIVE",
    "promptGoal": "Pay",
    "promptExamples": None,
    "runShortId": "abc123",
    "projectTestCaseId": UUID,
    "startedAt": "2026-03-01T10:00:00Z",
    "completedAt": "2026-03-01T10:01:00Z",
    "durationMs": 60_000,
    "url": "https://app.qa.tech/results/test/rtc1",
    "screenshotUrl": None,
    "recordingUrl": None,
}
CHECK = {
    "shortId": "chk1",
    "url": "https://app.qa.tech/p/shop/release-checks/chk1",
    "status": "COMPLETED",
    "releaseName": "v1",
    "summary": "Fine",
    "progress": {"message": "Done", "updatedAt": "2026-03-01T10:00:00Z", "testsRun": 1, "changesVerified": 1},
    "overallScore": 87,
    "categories": [{"name": "payment", "score": 9}],
    "findings": [{"title": "Slow", "category": "ux", "severity": "low", "description": "5 s", "isBlocker": False}],
    "automatedTestSummary": {"passed": 1, "failed": 0, "total": 1, "runShortIds": ["abc123"]},
    "markdown": "# Fine",
    "manualFollowUps": ["Pay once"],
}
FILE = UploadedFile("token-1", "android", "hash")


@dataclass(frozen=True)
class Documented:
    """A call, the request that it has to be, the documented answer, and what has to be read from it."""

    call: Callable[[QATechClient], Awaitable[Any]]
    request: str
    answer: Any
    read: Callable[[Any], Any]
    expected: Any
    body: Any = None
    query: Mapping[str, str] = field(default_factory=dict)


DOCUMENTED = {
    "start_run": Documented(
        lambda client: client.start_run(QATechRunRequest(test_plan_short_id="pln_1")),
        "POST run",
        STARTED,
        lambda run: (run.run_short_id, run.test_count, run.url, run.test_plan.name),
        ("abc123", 5, RUN["url"], "Smoke"),
        body={"trigger": "API", "testPlanShortId": "pln_1"},
    ),
    "rerun": Documented(
        lambda client: client.rerun("old123", QATechRerunRequest(test_case_ids=[UUID])),
        "POST run/old123",
        {"success": True, "run": RUN},
        lambda run: (run.run_short_id, run.test_count),
        ("abc123", 5),
        body={"projectTestCaseIds": [UUID]},
    ),
    "get_run": Documented(
        lambda client: client.get_run("abc123", test_cases="failed"),
        "GET run/abc123",
        {"id": UUID, "shortId": "abc123", "status": "COMPLETED", "result": "FAILED", "runTestCases": [EXECUTION]},
        lambda run: (run.status, run.result, run.test_cases[0].result_title),
        ("COMPLETED", "FAILED", "No button"),
        query={"testCases": "failed"},
    ),
    "get_run_test_case": Documented(
        lambda client: client.get_run_test_case("rtc1"),
        "GET run-test-case/rtc1",
        EXECUTION,
        lambda case: (case.error_code, case.project_test_case_id, case.duration_ms),
        ("TEST_FAILED", UUID, 60_000),
    ),
    "get_test_case_trace": Documented(
        lambda client: client.get_test_case_trace("rtc1"),
        "GET run-test-case/rtc1/trace",
        {"runTestCaseShortId": "rtc1", "total": 1, "limit": 100, "offset": 0, "steps": [STEP]},
        lambda steps: [(step.reasoning, step.tool_calls[0].arguments, step.screenshot_url) for step in steps],
        [("I pay.", {"on": "Pay"}, "https://app.qa.tech/1.png")],
    ),
    "list_projects": Documented(
        lambda client: client.list_projects(),
        "GET projects",
        {"projects": [{"shortId": "proj_1", "name": "Shop", "plan": "pro"}]},
        lambda projects: [(project.short_id, project.name) for project in projects],
        [("proj_1", "Shop")],
    ),
    "list_applications": Documented(
        lambda client: client.list_applications(),
        "GET applications",
        {"applications": [{"shortId": "app_1", "name": "Shop", "kind": "ios"}]},
        lambda applications: [(found.short_id, found.name, found.kind) for found in applications],
        [("app_1", "Shop", "ios")],
    ),
    "list_environments": Documented(
        lambda client: client.list_environments("app_1"),
        "GET applications/app_1/environments",
        {"environments": [{"shortId": "env_1", "name": "Device", "url": None, "isProduction": True}]},
        lambda found: [(one.short_id, one.name, one.url, one.is_production) for one in found],
        [("env_1", "Device", None, True)],
    ),
    "list_test_cases": Documented(
        lambda client: client.list_test_cases(application_short_id="app_1", labels=["a", "b"], is_enabled=True),
        "GET test-cases",
        {"testCases": [CASE], "total": 1, "limit": 20, "offset": 0},
        lambda cases: [(case.id, case.labels, case.is_enabled, case.last_run.result) for case in cases],
        [(UUID, ["smoke"], True, "PASSED")],
        query={"applicationShortId": "app_1", "labels": "a,b", "isEnabled": "true"},
    ),
    "create_test_case": Documented(
        lambda client: client.create_test_case(
            QATechNewTestCase(
                name="Pay",
                goal="Buy a book.",
                application_short_id="app_1",
                resume_from_dependency_project_test_case_id=UUID,
                wait_for_dependencies_project_test_case_ids=[UUID],
            )
        ),
        "POST test-cases",
        {"success": True, "testCase": {"id": UUID, "name": "Pay", "url": "https://app.qa.tech/tc"}},
        lambda created: (created.id, created.name, created.url),
        (UUID, "Pay", "https://app.qa.tech/tc"),
        body={
            "name": "Pay",
            "goal": "Buy a book.",
            "applicationShortId": "app_1",
            "resumeFromDependencyProjectTestCaseId": UUID,
            "waitForDependenciesProjectTestCaseIds": [UUID],
        },
    ),
    "register_build": Documented(
        lambda client: client.register_build("app_1", FILE),
        "POST applications/app_1/builds",
        {
            "applicationBuildShortId": "bld_1",
            "platform": "android",
            "fileName": "shop.apk",
            "fileSizeBytes": 3,
        },
        lambda build: (build.application_build_short_id, build.file_size_bytes),
        ("bld_1", 3),
        body={"platform": "android", "buildToken": "token-1"},
    ),
    "list_builds": Documented(
        lambda client: client.list_builds("app_1", max_builds=7),
        "GET applications/app_1/builds",
        {
            "builds": [
                {
                    "applicationBuildShortId": "build_1",
                    "platform": "ios",
                    "fileName": "shop.ipa",
                    "appBundleId": "org.example.shop",
                }
            ]
        },
        lambda builds: [(build.application_build_short_id, build.app_bundle_id) for build in builds],
        [("build_1", "org.example.shop")],
        query={"perPage": "7"},
    ),
    "list_outbound_ips": Documented(
        lambda client: client.list_outbound_ips(),
        "GET outbound-ips",
        {"ipAddresses": ["192.0.2.1"]},
        lambda addresses: addresses,
        ["192.0.2.1"],
    ),
    "start_release_check": Documented(
        lambda client: client.start_release_check(
            QATechReleaseCheckRequest(
                release_name="v1", changes=[QATechChange(summary="A basket", reference="4f2c9e1")]
            )
        ),
        "POST release-checks",
        {"shortId": "chk1", "url": CHECK["url"], "reviewShortId": "rev1"},
        lambda check: (check.short_id, check.url, check.review_short_id),
        ("chk1", CHECK["url"], "rev1"),
        body={"releaseName": "v1", "changes": [{"summary": "A basket", "reference": "4f2c9e1"}]},
    ),
    "get_release_check": Documented(
        lambda client: client.get_release_check("chk1"),
        "GET release-checks/chk1",
        CHECK,
        lambda check: (check.status, check.overall_score, check.findings[0].title, check.manual_follow_ups),
        ("COMPLETED", 87, "Slow", ["Pay once"]),
    ),
}
ELSEWHERE = {
    "upload_build": "below: it is three requests",
    "upload_file": "below: it is the first two of them",
    "know_project": "tests/api/test_lookup.py: it asks where a project has a name",
    "may_start_runs": "tests/api/test_client.py: it asks for what is refused",
}
"""What is no single request, and where it is tested."""


def client() -> QATechClient:
    return QATechClient(api_token=SecretStr(TOKEN), api_url=URL)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "_projects", {})


def test_no_method_is_left_out() -> None:
    methods = inspect.getmembers(QATechClient, inspect.iscoroutinefunction)
    assert {name for name, _ in methods if not name.startswith("_")} == {*DOCUMENTED, *ELSEWHERE}


@pytest.mark.parametrize("name", DOCUMENTED)
async def test_a_method_sends_and_reads_what_is_documented(name: str) -> None:
    case = DOCUMENTED[name]
    method, path = case.request.split()
    with respx.mock(base_url=URL) as service:
        route = service.route(method=method, path=f"/v1/{path}").respond(json=case.answer)
        async with client() as qatech:
            found = await case.call(qatech)
        assert route.call_count == 1
        sent = route.calls.last.request
    assert case.read(found) == case.expected
    assert (json.loads(sent.content) if sent.content else None) == case.body
    query = {key: value for key, value in sent.url.params.items() if key not in ("limit", "offset")}
    assert query == case.query
    # The one call that needs no token gets none.
    assert ("Authorization" in sent.headers) == (name != "list_outbound_ips")


@pytest.mark.parametrize("name", [name for name, case in DOCUMENTED.items() if case.request.startswith("POST")])
@pytest.mark.parametrize(
    "outcome",
    [httpx.Response(500), httpx.Response(504), httpx.Response(200, json={}), httpx.ReadTimeout("no answer")],
    ids=["500", "504", "an answer of nothing", "no answer"],
)
async def test_a_post_of_unknown_outcome_is_sent_once(name: str, outcome: Any) -> None:
    case = DOCUMENTED[name]
    with respx.mock(base_url=URL) as service:
        route = service.route(method="POST", path=f"/v1/{case.request.split()[1]}").mock(side_effect=[outcome] * 9)
        async with client() as qatech:
            with pytest.raises(StartOutcomeUnknown) as caught:
                await case.call(qatech)
        assert route.call_count == 1
    assert not caught.value.retryable


@pytest.mark.parametrize("name", [name for name, case in DOCUMENTED.items() if case.request.startswith("GET")])
async def test_a_get_that_failed_may_be_sent_again(name: str) -> None:
    case = DOCUMENTED[name]
    with respx.mock(base_url=URL) as service:
        service.route(method="GET", path=f"/v1/{case.request.split()[1]}").respond(500)
        async with client() as qatech:
            with pytest.raises(ServerError) as caught:
                await case.call(qatech)
    assert caught.value.retryable


async def test_a_build_is_uploaded_as_documented(tmp_path: Path) -> None:
    apk = tmp_path / "shop.apk"
    apk.write_bytes(b"PK\x03\x04" + bytes(100))
    with respx.mock() as service:
        address = service.post(f"{URL}/v1/applications/app_1/builds/upload-url").respond(
            json={"uploadUrl": "https://store.example/put?signature=1", "buildToken": "token-1"}
        )
        put = service.put("https://store.example/put?signature=1").respond(200)
        register = service.post(f"{URL}/v1/applications/app_1/builds").respond(json=DOCUMENTED["register_build"].answer)
        async with client() as qatech:
            build = await qatech.upload_build("app_1", apk)
        assert json.loads(address.calls.last.request.content) == {"fileName": "shop.apk"}
        assert put.calls.last.request.content == apk.read_bytes()
        assert "Authorization" not in put.calls.last.request.headers
        assert json.loads(register.calls.last.request.content) == {"platform": "android", "buildToken": "token-1"}
        assert [route.call_count for route in (address, put, register)] == [1, 1, 1]
    assert build.as_environment().application_build_short_id == "bld_1"
