"""What the project has: pages of test cases, new ones, what came of them last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from .conftest import Api

UUID = "a1b2c3d4-e5f6-4789-a012-3456789abcde"


def create(api: Api, **body: Any) -> httpx.Response:
    whole = {"name": "Pay by invoice", "goal": "Pay.", "applicationShortId": "app_shop", **body}
    return api.client.post("/test-cases", json={name: value for name, value in whole.items() if value is not None})


def listed(api: Api, **params: Any) -> list[dict[str, Any]]:
    answer = api.client.get("/test-cases", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["testCases"]  # type: ignore[no-any-return]


def test_pages_follow_each_other(api: Api) -> None:
    everything = listed(api)
    total = api.client.get("/test-cases").json()["total"]
    pages = [listed(api, limit=4, offset=offset) for offset in range(0, total + 4, 4)]
    assert [case for page in pages for case in page] == everything
    assert len(everything) == total
    assert pages[-1] == []


def test_filters(serve: Callable[..., Api]) -> None:
    cases = [
        {"name": "a", "labels": ["smoke", "login"]},
        {"name": "b", "labels": ["smoke"], "is_enabled": False, "application": "app_b"},
    ]
    applications = [{"short_id": short_id, "name": short_id} for short_id in ("app_a", "app_b")]
    plan = {"short_id": "pln_a", "name": "A", "test_cases": cases}
    api = serve({"applications": applications, "plans": [plan]})
    for params, names in (
        ({"labels": "smoke"}, ["a", "b"]),
        ({"labels": "smoke,login"}, ["a"]),
        ({"labels": "smoke", "isEnabled": "true"}, ["a"]),
        ({"isEnabled": "false"}, ["b"]),
        ({"applicationShortId": "app_b"}, ["b"]),
        ({"applicationShortId": "b"}, ["b"]),
        ({"applicationShortId": "app_a"}, ["a"]),
    ):
        assert [case["name"] for case in listed(api, **params)] == names


def test_the_last_run_of_a_test_case(api: Api) -> None:
    assert {case["lastRun"] for case in listed(api)} == {None}
    run = api.start("pln_broken")
    api.finish(run)
    last = {case["name"]: case["lastRun"] for case in listed(api)}
    assert last["Sign out"] is None
    assert last["Pay with a credit card"].pop("completedAt").endswith("Z")
    assert last["Pay with a credit card"] == {"runShortId": run, "status": "COMPLETED", "result": "FAILED"}
    assert last["Download the invoice"]["completedAt"] is None  # skipped


def test_a_test_case_is_created_disabled_and_can_be_run(api: Api) -> None:
    needed = next(case for case in listed(api) if case["name"] == "Pay with a credit card")
    answer = create(api, waitForDependenciesProjectTestCaseIds=[needed["id"]], configShortIds=["login"])
    assert answer.status_code == 200
    assert answer.json()["success"] is True
    created = answer.json()["testCase"]
    assert httpx.get(created["url"]).status_code == 200
    [found] = [case for case in listed(api, isEnabled="false") if case["id"] == created["id"]]
    assert (found["name"], found["goal"], found["applicationName"]) == ("Pay by invoice", "Pay.", "Northwind Shop")
    run = api.client.post("/run", json={"testCaseIds": [created["id"]]}).json()["run"]
    assert run["testCount"] == 2
    # What it waits for fails.
    assert api.results(run["shortId"]) == {"Pay with a credit card": "FAILED", "Pay by invoice": "SKIPPED"}


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": ""}, 400, "name"),
        ({"name": "x" * 81}, 400, "name"),
        ({"name": None}, 400, "name"),
        ({"goal": None}, 400, "goal"),
        ({"applicationShortId": "app_nowhere"}, 404, "Application not found"),
        ({"resumeFromDependencyProjectTestCaseId": UUID}, 404, "Test case not found"),
        ({"projectShortId": "proj_other"}, 404, "Project not found"),
    ],
)
def test_test_cases_that_are_refused(api: Api, body: dict[str, Any], status: int, words: str) -> None:
    before = listed(api)
    answer = create(api, **body)
    assert answer.status_code == status
    assert words in answer.json()["message"]
    assert listed(api) == before


def test_an_environment_may_have_no_address(serve: Callable[..., Api]) -> None:
    environments = [{"short_id": "env_a", "name": "A"}]
    application = {"short_id": "app_a", "name": "A", "kind": "ios", "environments": environments}
    api = serve({"applications": [application], "plans": [{"short_id": "pln_a", "name": "A", "test_cases": []}]})
    [environment] = api.client.get("/applications/app_a/environments").json()["environments"]
    assert environment == {"shortId": "env_a", "name": "A", "url": None, "isProduction": False}
