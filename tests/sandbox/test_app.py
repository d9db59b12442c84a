"""The documented API, over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from prefect_qatech.sandbox import Sandbox

from .conftest import Api, Site, eventually

UUID = "a1b2c3d4-e5f6-4789-a012-3456789abcde"


def test_start_look_rerun(api: Api) -> None:
    answer = api.client.post("/run", json={"testPlanShortId": "pln_flaky"}).json()
    run = answer["run"]
    assert answer["success"] is True
    assert run["testCount"] == 3
    assert run["testPlan"] == {"name": "One fails once", "shortId": "pln_flaky"}
    assert run["url"] == f"{api.sandbox.url}/p/proj_demo/results/{run['shortId']}"
    assert api.get(run["shortId"], None)["runTestCases"] == []
    done = api.finish(run["shortId"])
    assert (done["status"], done["result"]) == ("COMPLETED", "FAILED")
    [failed] = api.get(run["shortId"], "failed")["runTestCases"]
    assert failed["resultTitle"] == "The voucher was not applied"
    details = api.client.get(f"/run-test-case/{failed['shortId']}").json()
    assert details["errorCode"] == "TEST_FAILED"
    assert details["projectTestCaseId"] == failed["id"]
    assert details["runShortId"] == run["shortId"]
    assert httpx.get(details["screenshotUrl"]).headers["content-type"] == "image/svg+xml"
    assert httpx.get(details["recordingUrl"]).status_code == 200
    again = api.rerun(run["shortId"], failedOnly=True)
    assert again != run["shortId"]
    assert api.results(again) == {"Apply a voucher": "PASSED"}


def test_the_plans_of_the_default_scenario(api: Api) -> None:
    assert set(api.results(api.start("pln_green")).values()) == {"PASSED"}
    broken = api.start("pln_broken")
    assert list(api.results(broken).values()) == ["PASSED", "FAILED", "SKIPPED"]
    assert list(api.results(api.rerun(broken, failedOnly=True)).values()) == ["FAILED", "SKIPPED"]
    error = api.start("pln_error")
    assert api.finish(error)["status"] == "ERROR"
    assert api.finish(api.rerun(error))["result"] == "PASSED"
    assert api.finish(api.start("pln_never"))["status"] == "RUNNING"
    mixed = api.results(api.start("pln_mixed"))
    assert set(mixed.values()) == {"PASSED", "FAILED", "SKIPPED", "ERROR", "CANCELLED", "MAYBE"}


def test_a_start_without_a_body_takes_the_default_plan(api: Api) -> None:
    assert api.client.post("/run").json()["run"]["testPlan"]["shortId"] == "pln_green"


def test_test_cases_can_be_started_one_by_one(api: Api) -> None:
    [case] = [
        case for case in api.client.get("/test-cases").json()["testCases"] if case["name"] == "Read the order history"
    ]
    answer = api.client.post("/run", json={"testCaseIds": [case["id"]]}).json()["run"]
    assert answer["testPlan"] is None
    assert answer["testCount"] == 2  # the sign-in comes along


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("{", 400, "not JSON"),
        ("[]", 400, "not a JSON object"),
        ({"testPlanShortId": 5}, 400, ": testPlanShortId: "),
        ({"testPlanShortId": "smoke"}, 404, "Test plan not found"),
        ({"testPlanShortId": "app_green"}, 404, "Test plan not found"),
        ({"trigger": "CRON"}, 400, ": trigger: "),
        ({"trigger": []}, 400, ": trigger: "),
        ({"trigger": {}}, 400, ": trigger: "),
        ({"notifications": []}, 400, ": notifications: "),
        ({"notifications": [{"type": "mail", "channel": "C1"}]}, 400, ": notifications.0.type: "),
        ({"testCaseIds": ["1"]}, 404, "Test case not found"),
        (
            {"applications": [{"applicationShortId": "app_shop", "environment": {}}]},
            400,
            ": applications.0.environment: ",
        ),
        ({"trigger": "GITHUB", "repository": "no-owner"}, 400, ": repository: must be owner/repo"),
        ({"testPlanShortId": "pln_nowhere"}, 404, "Test plan not found"),
        ({"testCaseIds": [UUID]}, 404, "Test case not found"),
        ({"applications": [{"applicationShortId": "app_nowhere"}]}, 404, "Application not found"),
        (
            {"applications": [{"applicationShortId": "app_shop", "environment": {"shortId": "env_nowhere"}}]},
            404,
            "Environment not found",
        ),
        ({"projectShortId": "proj_other"}, 404, "Project not found"),
    ],
)
def test_starts_that_are_refused(api: Api, body: Any, status: int, words: str) -> None:
    answer = api.client.post("/run", content=body) if isinstance(body, str) else api.client.post("/run", json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["message"])
    assert words in answer.json()["message"]
    assert api.sandbox.counts()["starts"] == 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (None, "body is required"),
        ({"failedOnly": True, "projectTestCaseIds": [UUID]}, "not both"),
        ({"failedOnly": "true"}, "failedOnly"),
        ({"projectTestCaseIds": []}, "No tests to rerun"),
        ({"projectTestCaseIds": [UUID]}, "not part of the run"),
        ({"failedOnly": True}, "No tests to rerun"),
    ],
)
def test_reruns_that_are_refused(api: Api, body: Any, words: str) -> None:
    run = api.start("pln_green")
    api.finish(run)
    answer = api.client.post(f"/run/{run}", json=body) if body is not None else api.client.post(f"/run/{run}")
    assert answer.status_code == 400
    assert words in answer.json()["message"]
    assert api.sandbox.counts()["reruns"] == 0


def test_what_is_not_there(api: Api) -> None:
    for path in ("/run/abc123", "/run-test-case/abc123", "/applications/app_x/environments", "/nonsense"):
        answer = api.client.get(path)
        assert (answer.status_code, list(answer.json())) == (404, ["message"])
    assert api.client.post("/run/abc123", json={}).status_code == 404
    assert api.client.get("/projects", params={"projectShortId": "proj_other"}).status_code == 404
    assert api.client.get(f"/run/{api.start('pln_green')}", params={"testCases": "some"}).status_code == 400


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer nonsense", 401),
        ("Basic sandbox-token", 401),
        ("Bearer sandbox-suspended-token", 403),
        ("Bearer sandbox-read-token", 403),
        ("bearer sandbox-token", 200),
    ],
)
def test_tokens(api: Api, header: str | None, status: int) -> None:
    headers = {"Authorization": header} if header else {}
    assert httpx.post(f"{api.sandbox.url}/v1/run", headers=headers).status_code == status
    assert api.sandbox.counts()["starts"] == (status == 200)
    assert httpx.get(f"{api.sandbox.url}/v1/outbound-ips").status_code == 200


def test_a_read_token_reads(api: Api) -> None:
    headers = {"Authorization": "Bearer sandbox-read-token"}
    assert httpx.get(f"{api.sandbox.url}/v1/projects", headers=headers).status_code == 200


def test_the_catalogue(api: Api) -> None:
    get = api.client.get
    assert get("/applications").json() == {
        "applications": [{"shortId": "app_shop", "name": "Northwind Shop", "kind": "web"}]
    }
    environments = get("/applications/app_shop/environments").json()["environments"]
    assert [(env["shortId"], env["isProduction"]) for env in environments] == [
        ("env_staging", False),
        ("env_production", True),
    ]
    assert get("/projects").json() == {"projects": [{"shortId": "proj_demo", "name": "Demo"}]}
    assert get("/test-cases", params={"labels": "smoke"}).json()["total"] == 1
    assert get("/test-cases", params={"isEnabled": "false"}).json()["total"] == 0
    assert get("/test-cases", params={"applicationShortId": "app_x"}).json()["total"] == 0
    page = get("/test-cases", params={"limit": 2, "offset": 1}).json()
    assert len(page["testCases"]) == page["limit"] == 2
    assert page["testCases"][0]["name"] == "Sign out"
    for wrong in ({"limit": "many"}, {"isEnabled": "maybe"}):
        assert get("/test-cases", params=wrong).status_code == 400


def test_the_usage_limit(api: Api) -> None:
    run = api.start("pln_flaky")
    api.finish(run)
    steer = api.sandbox.url + "/sandbox/usage_limit"
    assert httpx.post(steer, json={"remaining_test_executions": 0}).status_code == 200
    for answer in (api.client.post("/run"), api.client.post(f"/run/{run}", json={"failedOnly": True})):
        assert answer.status_code == 402
        assert answer.json()["message"].startswith("Organization has reached usage limit")
    api.sandbox.set_usage_limit(None)
    api.rerun(run, failedOnly=True)
    for wrong in (-1, True, "1"):
        assert httpx.post(steer, json={"remaining_test_executions": wrong}).status_code == 400


def test_counts_and_the_log(api: Api) -> None:
    run = api.start("pln_flaky", trigger="GITHUB", branch="main")
    api.finish(run)
    again = api.rerun(run, failedOnly=True)
    api.rerun(run)
    [failed] = api.get(run, "failed")["runTestCases"]
    api.rerun(run, projectTestCaseIds=[failed["id"]])
    api.client.post("/run", json={"testPlanShortId": "pln_nowhere"})
    counts = api.sandbox.counts()
    assert counts["starts"] == counts["starts_by_plan"]["pln_flaky"] == 1
    assert counts["reruns"] == 3
    assert counts["reruns_failed_only"] == counts["reruns_everything"] == counts["reruns_listed"] == 1
    assert counts["test_executions"] == 3 + 1 + 3 + 1
    assert counts["gets"] == 2
    assert counts["requests"] == {"POST /v1/run": 2, "GET /v1/run/{shortId}": 2, "POST /v1/run/{shortId}": 3}
    assert httpx.get(f"{api.sandbox.url}/sandbox/counts").json() == counts
    log = httpx.get(f"{api.sandbox.url}/sandbox/requests").json()["requests"]
    assert log == api.sandbox.requests()
    assert (log[0]["method"], log[0]["path"], log[0]["status"]) == ("POST", "/v1/run", 200)
    assert log[0]["body"] == {"testPlanShortId": "pln_flaky", "trigger": "GITHUB", "branch": "main"}
    assert log[0]["run_short_id"] == run
    assert log[-1]["status"] == 404
    assert api.sandbox.token not in str(log)
    runs = httpx.get(f"{api.sandbox.url}/sandbox/runs").json()["runs"]
    assert [(r["short_id"], r["parent"]) for r in runs][:2] == [(run, None), (again, run)]


def test_steering(api: Api) -> None:
    url = api.sandbox.url + "/sandbox"
    run = api.start("pln_green")
    assert httpx.post(f"{url}/clock", json={"advance_seconds": 1000}).status_code == 200
    assert api.get(run)["status"] == "COMPLETED"
    assert httpx.get(f"{url}/health").json() == {"ok": True, "virtual_seconds": 1000.0, "speed": 0}
    for body in ({}, {"advance_seconds": -1}, {"advance_seconds": "1"}, {"advance_seconds": 1, "more": 1}, 5):
        assert httpx.post(f"{url}/clock", json=body).status_code == 400
    # As curl sends it.
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{url}/clock", content='{"advance_seconds": 1}', headers=form).status_code == 200
    assert httpx.post(f"{url}/reset").status_code == 200
    assert api.sandbox.counts()["starts"] == 0
    assert api.client.get(f"/run/{run}").status_code == 404


def test_only_this_machine_steers(api: Api) -> None:
    answer = httpx.post(f"{api.sandbox.url}/sandbox/reset", headers={"Host": "rebound.example"})
    assert answer.status_code == 403
    port = api.sandbox.url.rsplit(":", 1)[1]
    assert httpx.get(f"{api.sandbox.url}/sandbox/health", headers={"Host": f"localhost:{port}"}).status_code == 200


def test_an_answer_does_not_wait_for_an_acknowledgement(api: Api) -> None:
    lasted = []
    for _ in range(40):
        began = time.monotonic()
        api.client.get("/projects")
        lasted.append(time.monotonic() - began)
    # With Nagle's algorithm each lasts 40 ms or more, without it 0.5 ms; a busy machine does not hold all of them up.
    assert min(lasted) < 0.035


def test_time_passes_by_itself() -> None:
    with Sandbox(speed=5000) as sandbox:
        api = Api(sandbox)
        with api.client:
            run = api.start("pln_green")
            for _ in range(1000):
                if api.get(run)["status"] == "COMPLETED":
                    break
            assert api.get(run)["result"] == "PASSED"
            steer = f"{sandbox.url}/sandbox/clock"
            assert httpx.post(steer, json={"advance_seconds": 1}).status_code == 400


def test_the_page_of_a_run_and_hostile_texts(serve: Callable[..., Api]) -> None:
    name = "<script>alert('x')</script>\x00\x1b\ud800" + "y" * 100_000
    case = {"name": name, "outcomes": {"outcome": "failed", "title": "<b>&</b>", "thought": name}}
    api = serve({"plans": [{"short_id": "pln_a", "name": "<i>", "test_cases": [case]}]})
    run = api.start("pln_a")
    assert api.finish(run)["runTestCases"][0]["name"] == name
    page = httpx.get(f"{api.sandbox.url}/p/proj_sandbox/results/{run}")
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "<b>" not in page.text
    assert "<i>" not in page.text
    for path in (f"/p/proj_other/results/{run}", "/p/proj_sandbox/results/abc123"):
        assert httpx.get(api.sandbox.url + path).status_code == 404


def test_a_sandbox_ends_and_can_be_served_again() -> None:
    before = {*threading.enumerate()}
    sandbox = Sandbox(speed=0)
    with pytest.raises(RuntimeError, match="while it is being served"):
        _ = sandbox.url
    ports_refuse = []
    for _ in range(3):
        with sandbox:
            url = sandbox.url
            with pytest.raises(RuntimeError, match="already"):
                sandbox.__enter__()
            assert httpx.get(f"{url}/sandbox/health").status_code == 200
        assert not sandbox.is_serving()
        try:
            httpx.get(f"{url}/sandbox/health")
        except httpx.ConnectError:
            ports_refuse.append(url)
    # Another process can get a port at once that has become free, but hardly three times.
    assert ports_refuse
    assert {*threading.enumerate()} <= before


# --- real pages

GOOD = {
    "/index.html": (200, "<h1>Northwind Shop</h1>"),
    "/catalogue.html": (200, "<button>Add to basket</button>"),
    "/search.html": (200, "<p>3 results</p>"),
    "/basket.html": (200, "<p>Total: <b>42.00</b> EUR</p>"),
    "/checkout.html": (200, "<p>Order placed</p>"),
    "/imprint.html": (200, "Northwind Ltd"),
}


def at(url: str) -> list[dict[str, Any]]:
    return [{"applicationShortId": "app_shop", "environment": {"url": url}}]


def test_the_storefront_is_really_tested(api: Api, site: Site) -> None:
    site.pages = {**GOOD, "/basket.html": (500, "<p>Oops</p>"), "/search.html": (200, "<p>No results &amp; more</p>")}
    run = api.start("pln_storefront", applications=at(site.url + "/"))
    assert site.seen == []
    done = {test["name"]: test for test in api.finish(run)["runTestCases"]}
    basket, search = done["Basket shows the total"], done["Search finds a product"]
    assert basket["resultTitle"] == "The page /basket.html answered 500"
    assert search["resultTitle"] == 'Expected to see "3 results"'
    assert 'Expected to see "3 results", saw "No results & more"' in search["evaluationThought"]
    assert done["Checkout takes an order"]["result"] == "SKIPPED"
    assert sorted(site.seen) == ["/basket.html", "/catalogue.html", "/imprint.html", "/index.html", "/search.html"]
    assert api.client.get(f"/run-test-case/{basket['shortId']}").json()["errorCode"] == "TEST_FAILED"
    api.get(run)
    assert api.sandbox.counts()["http_checks"] == len(site.seen) == 5  # once each, however often one looks

    site.pages = GOOD  # the fix is deployed; the rerun remembers where
    again = api.rerun(run, failedOnly=True)
    assert set(api.results(again).values()) == {"PASSED"}
    assert site.seen[5:].index("/checkout.html") > site.seen[5:].index("/basket.html")
    assert len(site.seen) == 8


def test_without_an_override_the_saved_environment_is_tested(serve: Callable[..., Api], site: Site) -> None:
    site.pages = {"/": (200, "hello")}
    environments = [
        {"short_id": "env_down", "name": "Down", "url": "http://127.0.0.1:1"},
        {"short_id": "env_up", "name": "Up", "url": site.url},
    ]
    api = serve(
        {
            "applications": [{"short_id": "app_a", "name": "A", "environments": environments}],
            "plans": [
                {
                    "short_id": "pln_a",
                    "name": "A",
                    "test_cases": [{"name": "t", "http": {"application": "app_a", "path": "/"}}],
                }
            ],
        }
    )
    down = api.finish(api.start("pln_a"))["runTestCases"][0]
    assert down["resultTitle"] == "The page / could not be opened"
    up = [{"applicationShortId": "app_a", "environment": {"shortId": "env_up"}}]
    assert api.results(api.start("pln_a", applications=up)) == {"t": "PASSED"}
    build = [{"applicationShortId": "app_a", "environment": {"applicationBuildShortId": "bld_1"}}]
    nowhere = api.finish(api.start("pln_a", applications=build))["runTestCases"][0]
    assert api.client.get(f"/run-test-case/{nowhere['shortId']}").json()["errorCode"] == "PLATFORM_NO_ADDRESS"


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1", "http://example.com", "http://127.0.0.1.example.com", "http://[::"]
)
def test_no_other_machine_is_knocked_at(api: Api, url: str) -> None:
    run = api.start("pln_storefront", applications=at(url))
    test = api.finish(run)["runTestCases"][0]
    details = api.client.get(f"/run-test-case/{test['shortId']}").json()
    assert details["result"] == "FAILED"
    assert details["errorCode"] == "PLATFORM_ADDRESS_NOT_ALLOWED"
    assert details["evaluationThought"]


def test_a_page_that_hangs_holds_its_test_and_nobody_else(
    api: Api, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_qatech.sandbox.service.MAX_WAIT_FOR_CHECKS_SECONDS", 0.1)
    monkeypatch.setattr("prefect_qatech.sandbox.checks._TIMEOUT_SECONDS", 3600)
    site.hold = threading.Event()
    held = api.start("pln_storefront", applications=at(site.url))
    assert api.finish(held)["status"] == "RUNNING"
    assert set(api.results(api.start("pln_green")).values()) == {"PASSED"}
    checks = api.sandbox.counts()["http_checks"]
    monkeypatch.setattr("prefect_qatech.sandbox.checks._TIMEOUT_SECONDS", 0.3)
    run = api.start("pln_storefront", applications=at(site.url))
    api.finish(run)
    eventually(lambda: api.get(run)["status"] == "COMPLETED")
    assert api.get(run)["runTestCases"][0]["resultTitle"] == "The page /index.html did not answer"
    assert api.get(held)["status"] == "RUNNING"
    assert api.sandbox.counts()["http_checks"] == checks + 5


def test_everybody_looks_at_once_and_each_page_is_fetched_once(api: Api, site: Site) -> None:
    site.pages = GOOD
    run = api.start("pln_storefront", applications=at(site.url))
    api.sandbox.advance(1000)
    threads = [threading.Thread(target=api.get, args=(run,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert api.get(run)["result"] == "PASSED"
    assert len(site.seen) == api.sandbox.counts()["http_checks"] == 6
