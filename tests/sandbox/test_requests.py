"""What the vendor's documents do not forbid is not refused; and every request leaves a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from .conftest import Api

UUID = "a1b2c3d4-e5f6-4789-a012-3456789abcde"


def at(**environment: str) -> dict[str, Any]:
    return {"applications": [{"applicationShortId": "app_shop", "environment": environment}]}


@pytest.mark.parametrize(
    "body",
    [
        {"applications": []},
        at(url="shop.example.com"),
        at(url="https://pr-7.example.com", shortId="env_staging"),
        at(shortId="staging"),
        at(applicationBuildShortId="bld_abc123"),
        at(applicationBuildShortId="build_abc123"),
        {"applications": [{"applicationShortId": "shop", "devicePresetShortId": "iphone"}]},
        {"parameters": {"configs": {"cfg_abc123": {"user": "ada"}, "login-of-a-customer": 5}}},
        {"parameters": {"configsByEnvironment": {UUID: {"login-of-a-customer": None}}}},
        {"trigger": "API", "repository": "no-owner", "branch": 5},
        {"projectShortId": "demo"},
    ],
)
def test_starts_that_no_document_forbids(api: Api, body: Any) -> None:
    api.start("pln_green", **body)
    assert api.sandbox.counts()["unknown_fields"] == {}


@pytest.mark.parametrize("short_id", ["pln_green", "green", "pln-all-is-well_green", "pln-all_is_well_green"])
def test_a_plan_has_a_prefix_a_slug_or_neither(api: Api, short_id: str) -> None:
    answer = api.client.post("/run", json={"testPlanShortId": short_id})
    assert answer.json()["run"]["testPlan"]["shortId"] == "pln_green"


def test_ids_of_the_scenario_may_have_a_slug_or_no_prefix(serve: Callable[..., Api]) -> None:
    plans = [{"short_id": short_id, "name": "A", "test_cases": []} for short_id in ("pln-smoke_a_x1", "jgbinp")]
    api = serve({"plans": plans})
    for asked, meant in (("pln_x1", "pln-smoke_a_x1"), ("x1", "pln-smoke_a_x1"), ("pln_jgbinp", "jgbinp")):
        answer = api.client.post("/run", json={"testPlanShortId": asked})
        assert answer.json()["run"]["testPlan"]["shortId"] == meant


def test_the_test_cases_count_where_a_plan_is_named_as_well(api: Api) -> None:
    case = api.client.get("/test-cases").json()["testCases"][0]
    body = {"testPlanShortId": "pln_broken", "testCaseIds": [case["id"].upper()]}
    run = api.client.post("/run", json=body).json()["run"]
    assert (run["testCount"], run["testPlan"]["shortId"]) == (1, "pln_broken")


def test_unknown_fields_are_ignored_and_counted(api: Api) -> None:
    run = api.start("pln_broken", priority="high", **at(url="https://a.example", region="eu"))
    api.finish(run)
    api.rerun(run, failedOnly=True, failed_only=False)
    assert api.sandbox.counts()["unknown_fields"] == {
        "POST /v1/run: priority": 1,
        "POST /v1/run: applications.environment.region": 1,
        "POST /v1/run/{shortId}: failed_only": 1,
    }


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_json_does_not_have_is_no_json(api: Api, number: str) -> None:
    body = f'{{"applications": [{{"applicationShortId": "app_shop", "priority": {number}}}]}}'
    for path in ("/run", f"/run/{api.start('pln_green')}", "/test-cases"):
        answer = api.client.post(path, content=body)
        assert (answer.status_code, answer.json()["message"]) == (400, "Validation error: the body is not JSON")
    assert len(api.sandbox.runs()) == 1


def test_a_body_that_is_nested_too_deeply_is_refused_and_told_of(api: Api) -> None:
    for depth in (200, 100_000):
        answer = api.client.post(
            "/run", content='{"parameters": {"configs": {"a": ' + "[" * depth + "]" * depth + "}}}"
        )
        assert answer.status_code == 400
    assert httpx.get(f"{api.sandbox.url}/sandbox/requests").status_code == 200


def test_a_page_beyond_the_end_is_empty(api: Api) -> None:
    for offset in ("1000000", "9" * 30):
        page = api.client.get("/test-cases", params={"offset": offset})
        assert page.status_code == 200
        assert page.json()["testCases"] == []
    assert api.client.get("/test-cases", params={"limit": "9" * 30}).json()["limit"] == 1000


def test_requests_beside_the_api_leave_a_trace(api: Api) -> None:
    run = api.start("pln_green")
    for path in (f"/p/proj_demo/results/{run}", "/nonsense", "/v1/nonsense", "/"):
        httpx.get(api.sandbox.url + path)
    httpx.post(api.sandbox.url)
    log = [(entry["method"], entry["path"], entry["status"]) for entry in api.sandbox.requests()[1:]]
    assert log == [
        ("GET", f"/p/proj_demo/results/{run}", 200),
        ("GET", "/nonsense", 404),
        ("GET", "/v1/nonsense", 404),
        ("GET", "/", 404),
        ("POST", "/", 404),
    ]
    assert api.sandbox.counts()["requests"]["GET /p/{project}/results/{shortId}"] == 1
    assert api.sandbox.counts()["gets"] == 1  # of the API


def test_the_api_is_served_without_its_version_as_well(api: Api) -> None:
    with httpx.Client(base_url=api.sandbox.url, headers=api.client.headers) as client:
        run = client.post("/run", json={"testPlanShortId": "pln_green"}).json()["run"]["shortId"]
        assert client.get(f"/run/{run}").json()["status"] == "INITIATED"
        api.sandbox.set_faults([{"on": {"path": "status"}, "kind": "status", "status": 502}])
        assert client.get(f"/run/{run}").status_code == 502
        assert httpx.get(f"{api.sandbox.url}/run/{run}").status_code == 401
    assert api.sandbox.requests()[0]["run_short_id"] == run
    assert api.sandbox.counts()["requests"] == {"POST /run": 1, "GET /run/{shortId}": 3}


@pytest.mark.parametrize("chained", [False, True])
def test_a_run_of_six_thousand_tests_is_played_at_once(serve: Callable[..., Api], chained: bool) -> None:
    cases = [
        {
            "name": f"t{i}",
            "outcomes": "failed" if i == 0 else "passed",
            "depends_on": [f"t{i - 1}"] * (chained and i > 0),
        }
        for i in range(6000)
    ]
    api = serve({"plans": [{"short_id": "pln_a", "name": "A", "test_cases": cases}]})
    run = api.start("pln_a")
    api.sandbox.advance(1_000_000)
    began = time.process_time()
    done = api.get(run)
    # Of this process alone, so that a busy machine does not count: 0.2 s, where 48 s were needed.
    assert time.process_time() - began < 1
    assert (done["status"], done["result"], len(done["runTestCases"])) == ("COMPLETED", "FAILED", 6000)
    results = [test["result"] for test in done["runTestCases"]]
    assert results == ["FAILED"] + (["SKIPPED"] if chained else ["PASSED"]) * 5999
