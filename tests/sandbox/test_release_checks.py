"""Release checks: what they run, how they go, what they find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from .conftest import Api


def check(api: Api, **body: Any) -> dict[str, Any]:
    answer = api.client.post("/release-checks", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def look(api: Api, short_id: str) -> dict[str, Any]:
    answer = api.client.get(f"/release-checks/{short_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_a_check_of_changes_goes_its_way(api: Api) -> None:
    started = check(api, releaseName="v9", changes=[{"summary": "A new basket"}, {"summary": "Vouchers"}])
    assert started["reviewShortId"]
    now = look(api, started["shortId"])
    assert (now["status"], now["overallScore"], now["findings"], now["markdown"]) == ("RUNNING", None, [], None)
    assert now["progress"]["changesVerified"] == 0
    api.sandbox.advance(119)
    assert look(api, started["shortId"])["status"] == "RUNNING"
    api.sandbox.advance(2)
    done = look(api, started["shortId"])
    assert (done["status"], done["overallScore"], done["releaseName"]) == ("COMPLETED", 95, "v9")
    assert (done["progress"]["changesVerified"], done["progress"]["changesTotal"]) == (2, 2)
    assert "v9" in done["markdown"]
    assert done["createdAt"] < done["updatedAt"]
    page = httpx.get(started["url"])
    assert page.status_code == 200
    assert "v9" in page.text
    assert api.sandbox.counts()["release_checks"] == 1
    assert api.sandbox.counts()["starts"] == 0


def test_its_regression_is_a_run_that_it_waits_for(api: Api) -> None:
    started = check(api, regression={"testPlanShortId": "pln_broken"})
    done = look(api, started["shortId"])
    assert done["status"] == "RUNNING"
    [run] = done["automatedTestSummary"]["runShortIds"]
    assert api.get(run)["status"] == "INITIATED"
    api.sandbox.advance(10_000)
    done = look(api, started["shortId"])
    assert done["status"] == "COMPLETED"
    assert done["automatedTestSummary"] == {"passed": 1, "failed": 2, "total": 3, "runShortIds": [run]}
    assert done["progress"]["testsRun"] == 3
    never = check(api, regression={"testPlanShortId": "pln_never"})["shortId"]
    api.sandbox.advance(10_000)
    assert look(api, never)["status"] == "RUNNING"


def test_what_it_finds_is_the_scenarios_to_say(serve: Callable[..., Api]) -> None:
    blocker = {"title": "Nobody can pay", "is_blocker": True, "severity": "critical", "evidence": ["a", 1]}
    reviews = [
        {
            "overall_score": 20,
            "duration_seconds": 5,
            "categories": [{"name": "payment", "score": 5}],
            "findings": [blocker],
            "manual_follow_ups": ["Pay once by hand"],
            "pages_tested": ["/basket"],
            "health_signals": {"errors": 4},
        },
        {"status": "ERROR", "overall_score": None, "summary": None, "categories": []},
    ]
    api = serve({"plans": [{"short_id": "pln_a", "name": "A", "test_cases": []}], "release_checks": reviews})
    first, second = (check(api, prUrl="https://example.com/pr/7")["shortId"] for _ in range(2))
    api.sandbox.advance(1000)
    done = look(api, first)
    assert done["findings"] == [
        {
            "title": "Nobody can pay",
            "category": "functional",
            "severity": "critical",
            "description": None,
            "isBlocker": True,
            "recommendation": None,
            "evidence": ["a", 1],
        }
    ]
    assert done["categories"] == [{"name": "payment", "score": 5, "summary": None}]
    assert (done["manualFollowUps"], done["pagesTested"]) == (["Pay once by hand"], ["/basket"])
    assert done["healthSignals"] == {"errors": 4}
    assert "BLOCKER: Nobody can pay" in done["markdown"]
    assert look(api, second)["status"] == "ERROR"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "at least one of changes, regression and prUrl"),
        ({"changes": []}, 400, "at least one of"),
        ({"changes": [{"details": "x"}]}, 400, "changes.0.summary"),
        ({"regression": {"testPlanShortId": "pln_nowhere"}}, 404, "Test plan not found"),
        ({"prUrl": "x", "projectShortId": "proj_other"}, 404, "Project not found"),
        ({"prUrl": "x", "applicationOverrides": [{"applicationShortId": "app_x"}]}, 404, "Application not found"),
    ],
)
def test_checks_that_are_refused(api: Api, body: dict[str, Any], status: int, words: str) -> None:
    answer = api.client.post("/release-checks", json=body)
    assert answer.status_code == status
    assert words in answer.json()["message"]
    assert api.sandbox.counts()["release_checks"] == 0
    assert api.client.get("/release-checks/abc123").status_code == 404


def test_its_regression_counts_for_the_usage_limit(api: Api) -> None:
    api.sandbox.set_usage_limit(0)
    assert api.client.post("/release-checks", json={"regression": {}}).status_code == 402
    assert check(api, prUrl="https://example.com/pr/7")
