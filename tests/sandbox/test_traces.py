"""Why a test failed: the agent's steps, the pictures, the issues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import httpx

from .conftest import Api, Site


def trace(api: Api, short_id: str, **params: Any) -> dict[str, Any]:
    answer = api.client.get(f"/run-test-case/{short_id}/trace", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def texts(picture: httpx.Response) -> str:
    """Return what can be read in a picture."""
    assert picture.status_code == 200
    return " ".join(
        text.text or "" for text in ElementTree.fromstring(picture.text).iter("{http://www.w3.org/2000/svg}text")
    )


def scenario(*cases: dict[str, Any]) -> dict[str, Any]:
    return {"plans": [{"short_id": "pln_a", "name": "A", "test_cases": [*cases], "run": {"queue_seconds": 0}}]}


def test_the_steps_of_a_test_a_page_at_a_time(serve: Callable[..., Api]) -> None:
    steps = [
        {
            "reasoning": f"Step {n}",
            "tool_calls": [{"name": "click", "arguments": {"on": ["button", n]}}],
            "tool_result": "ok",
        }
        for n in range(250)
    ]
    api = serve(scenario({"name": "t", "duration_seconds": 250, "outcomes": {"outcome": "failed", "steps": steps}}))
    run = api.start("pln_a")
    [test] = api.get(run)["runTestCases"]
    assert trace(api, test["shortId"])["total"] == 0
    api.sandbox.advance(100)  # as far as the agent has come
    assert trace(api, test["shortId"])["total"] == 100
    api.finish(run)
    pages = [trace(api, test["shortId"], limit=100, offset=offset) for offset in (0, 100, 200, 300)]
    assert [(page["total"], page["limit"], page["offset"]) for page in pages] == [
        (250, 100, offset) for offset in (0, 100, 200, 300)
    ]
    found = [step for page in pages for step in page["steps"]]
    assert [step["index"] for step in found] == [*range(250)]
    assert found[7]["reasoning"] == "Step 7"
    assert found[7]["toolCalls"] == [{"name": "click", "arguments": {"on": ["button", 7]}}]
    assert (found[7]["toolResult"], found[7]["durationMs"]) == ("ok", 1000)
    assert found[7]["endedAt"] == found[8]["startedAt"] > found[7]["startedAt"]
    assert len(trace(api, test["shortId"])["steps"]) == 100
    assert api.client.get("/run-test-case/nowhere/trace").status_code == 404


def test_a_trace_of_its_own_tells_what_was_to_be_done_and_what_came_of_it(api: Api) -> None:
    run = api.start("pln_broken")
    tests = {test["name"]: test for test in api.finish(run)["runTestCases"]}
    steps = trace(api, tests["Pay with a credit card"]["shortId"])["steps"]
    assert "Pay with a credit card" in steps[0]["reasoning"]
    assert steps[-1]["reasoning"] == tests["Pay with a credit card"]["evaluationThought"]
    assert (
        "Sign in as a known customer."
        in trace(api, tests["Sign in with a password"]["shortId"])["steps"][0]["reasoning"]
    )
    assert trace(api, tests["Download the invoice"]["shortId"])["steps"] == []  # skipped


def test_issues_are_told_where_they_are_asked_for(serve: Callable[..., Api]) -> None:
    issues = [
        {"title": "A link is dead", "category": "functional", "severity": "low"},
        {"title": "Grey on grey", "category": "accessibility", "description": "The contrast is 1.2."},
    ]
    api = serve(scenario({"name": "t", "outcomes": {"outcome": "passed", "issues": issues}}, {"name": "u"}))
    run = api.start("pln_a")

    def told(**params: str) -> list[dict[str, Any]]:
        return api.client.get(f"/run/{run}", params=params).json()["issues"]  # type: ignore[no-any-return]

    assert told(issues="all") == []
    test = api.finish(run)["runTestCases"][0]
    assert [(issue["title"], issue["runTestCaseShortId"]) for issue in told(issues="all")] == [
        ("A link is dead", test["shortId"]),
        ("Grey on grey", test["shortId"]),
    ]
    assert [issue["description"] for issue in told(issues="accessibility", testCases="all")] == ["The contrast is 1.2."]
    assert told(issues="security") == []
    assert "issues" not in api.get(run)


def test_a_screenshot_is_a_picture_that_names_the_test(api: Api, site: Site) -> None:
    where = [{"applicationShortId": "app_shop", "environment": {"url": site.url}}]
    run = api.start("pln_storefront", applications=where)
    test = api.finish(run)["runTestCases"][0]
    details = api.client.get(f"/run-test-case/{test['shortId']}").json()
    picture = httpx.get(details["screenshotUrl"])
    assert picture.headers["content-type"] == "image/svg+xml"
    for words in (test["name"], "FAILED", test["resultTitle"], f"{site.url}/index.html"):
        assert words in texts(picture)
    steps = trace(api, test["shortId"])["steps"]
    pictures = {texts(httpx.get(step["screenshotUrl"])) for step in steps}
    assert len(pictures) == len(steps) == 3
    assert all(test["name"] in each and "FAILED" not in each for each in pictures)
    assert httpx.get(details["screenshotUrl"].replace(test["shortId"], "nowhere")).status_code == 404


def test_a_picture_of_a_hostile_text_is_a_picture(serve: Callable[..., Api]) -> None:
    name = "<script>alert('x')</script>\x00\x1b\ud800" + "y" * 100_000
    api = serve(scenario({"name": name, "outcomes": {"outcome": "failed", "title": "]]>&<b>" + name}}))
    test = api.finish(api.start("pln_a"))["runTestCases"][0]
    details = api.client.get(f"/run-test-case/{test['shortId']}").json()
    drawn = ElementTree.fromstring(httpx.get(details["screenshotUrl"]).text)
    assert {element.tag.rpartition("}")[2] for element in drawn.iter()} == {"svg", "title", "rect", "circle", "text"}
    assert httpx.get(details["screenshotUrl"], params={"step": "<b>\x00"}).status_code == 200
