"""Each kind of fault, as an HTTP client sees it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from .conftest import Api, eventually

START = {"method": "POST", "path": "start"}


def starts(api: Api) -> int:
    return api.sandbox.counts()["starts"]


def fault(api: Api, kind: str, **fields: Any) -> None:
    api.sandbox.set_faults([{"on": START, "kind": kind, **fields}])


@pytest.mark.parametrize("status", [401, 408, 418, 429, 500, 502, 503, 504, 599])
def test_status(api: Api, status: int) -> None:
    fault(api, "status", status=status, retry_after=7)
    answer = api.client.post("/run")
    assert answer.status_code == status
    assert list(answer.json()) == ["message"]
    assert answer.headers["Retry-After"] == "7"
    assert starts(api) == 0
    assert api.client.post("/run").status_code == 200  # it was for one time


def test_status_with_a_body_and_a_date_of_ones_own(api: Api) -> None:
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    fault(api, "status", status=503, body="<h1>Bad</h1>", content_type="text/html", retry_after=date)
    answer = api.client.post("/run")
    assert (answer.text, answer.headers["content-type"]) == ("<h1>Bad</h1>", "text/html")
    assert answer.headers["Retry-After"] == date


def test_an_accepted_500(api: Api) -> None:
    fault(api, "status", accepted=True)
    assert api.client.post("/run").status_code == 500
    assert starts(api) == 1


def test_a_fault_can_be_about_one_parameter(api: Api) -> None:
    run = api.client.post("/run").json()["run"]["shortId"]
    on = {"path": "status", "query": "issues"}
    api.sandbox.set_faults([{"on": on, "kind": "status", "status": 400, "times": -1}])
    asked = [{}, {"testCases": "all"}, {"issues": "all"}, {"testCases": "all", "issues": ""}]
    assert [api.client.get(f"/run/{run}", params=query).status_code for query in asked] == [200, 200, 400, 400]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(("kind", "accepted"), [("drop_before", 0), ("drop_after", 1), ("half", 1)])
def test_lost_connections(api: Api, kind: str, accepted: int, reset: bool) -> None:
    fault(api, kind, reset=reset)
    with pytest.raises(httpx.ReadError if reset else httpx.RemoteProtocolError):
        api.client.post("/run")
    assert starts(api) == accepted
    entry = api.sandbox.requests()[-1]
    assert entry["fault"] == kind
    assert (entry["run_short_id"] is not None) == bool(accepted)
    assert api.client.post("/run").status_code == 200


def test_a_refused_start_is_not_counted_when_its_answer_is_lost(api: Api) -> None:
    fault(api, "drop_after", times=2)
    with pytest.raises(httpx.RemoteProtocolError):
        api.client.post("/run", json={"testPlanShortId": "pln_nowhere"})
    with pytest.raises(httpx.RemoteProtocolError):
        api.client.post("/run", headers={"Authorization": "Bearer nonsense"})
    assert starts(api) == 0


def test_half_a_body_says_its_full_length(api: Api) -> None:
    run = api.start("pln_green")
    api.sandbox.set_faults([{"on": {"path": "status"}, "kind": "half"}])
    with api.client.stream("GET", f"/run/{run}") as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            answer.read()
    assert 0 < answer.num_bytes_downloaded < int(answer.headers["content-length"])


@pytest.mark.parametrize("kind", ["broken_json", "html"])
def test_bodies_that_are_not_json(api: Api, kind: str) -> None:
    fault(api, kind)
    answer = api.client.post("/run")
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        answer.json()
    assert starts(api) == 1
    assert (answer.headers["content-type"] == "text/html") == (kind == "html")


def test_garbage_without_acceptance(api: Api) -> None:
    for kind in ("broken_json", "html", "half", "drip", "huge"):
        fault(api, kind, accepted=False, seconds=0, megabytes=0.01)
        if kind == "half":
            with pytest.raises(httpx.RemoteProtocolError):
                api.client.post("/run")
        else:
            assert api.client.post("/run").status_code == 200
    assert starts(api) == 0


def test_a_true_answer_of_the_wrong_type(api: Api) -> None:
    fault(api, "wrong_content_type")
    answer = api.client.post("/run")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.json()["success"] is True


def test_a_huge_body(api: Api) -> None:
    fault(api, "huge", megabytes=3)
    assert len(api.client.post("/run").content) > 3_000_000
    fault(api, "huge")
    with api.client.stream("POST", "/run") as answer:
        assert len(next(answer.iter_bytes(65536))) == 65536  # and the client goes away
    assert starts(api) == 2


def test_a_dripping_body(api: Api) -> None:
    fault(api, "drip", seconds=0.001)
    assert api.client.post("/run").json()["success"] is True
    fault(api, "drip", seconds=3600)
    with api.client.stream("POST", "/run") as answer:
        assert next(answer.iter_raw()) == b"{"  # the first drop, and the client goes away
    assert starts(api) == 2


def test_a_redirect_to_elsewhere(api: Api) -> None:
    fault(api, "redirect", location="https://other.invalid/v1/run")
    answer = api.client.post("/run")
    assert (answer.status_code, answer.headers["location"]) == (302, "https://other.invalid/v1/run")
    assert starts(api) == 0


@pytest.mark.parametrize("accepted", [None, True, False])
def test_a_late_answer(api: Api, accepted: bool | None) -> None:
    fault(api, "latency", seconds=0.15, accepted=accepted)
    began = time.monotonic()
    assert api.client.post("/run").status_code == 200
    assert time.monotonic() - began >= 0.15
    fault(api, "latency", seconds=2, accepted=accepted)
    with pytest.raises(httpx.ReadTimeout):
        api.client.post("/run", timeout=0.1)
    if accepted is False:
        time.sleep(2.5)  # long enough for a request that was not given up to be carried out
        assert starts(api) == 1
    else:
        eventually(lambda: starts(api) == 2)


def test_a_late_answer_holds_nobody_else(api: Api) -> None:
    fault(api, "latency", seconds=3600)
    with socket.create_connection(("127.0.0.1", httpx.URL(api.sandbox.url).port or 0)) as held:
        held.sendall(b"POST /v1/run HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n")
        eventually(lambda: bool(api.sandbox.requests()))
        assert api.client.get("/projects").status_code == 200
        held.setblocking(False)
        with pytest.raises(BlockingIOError):
            held.recv(1)


def test_which_requests_how_often_and_after_how_many(api: Api) -> None:
    run = api.start("pln_green")
    api.sandbox.set_faults(
        [
            {"on": {"path": "status"}, "kind": "status", "status": 502, "after": 1, "times": 2},
            {"on": {"method": "GET"}, "kind": "status", "status": 503, "after": 5, "times": -1},
        ]
    )
    seen = [api.client.get(f"/run/{run}").status_code for _ in range(6)]
    # The second rule counts only what the first lets through.
    assert seen == [200, 502, 502, 200, 200, 200]
    assert [api.client.get("/projects").status_code for _ in range(4)] == [200, 503, 503, 503]
    assert api.client.post(f"/run/{run}", json={}).status_code == 200
    assert httpx.get(f"{api.sandbox.url}/sandbox/health").status_code == 200
    assert httpx.get(f"{api.sandbox.url}/p/proj_demo/results/{run}").status_code == 200


def test_paths(api: Api) -> None:
    run = api.start("pln_flaky")
    test = api.finish(run)["runTestCases"][0]["shortId"]
    requests = {
        "start": ("POST", "/run"),
        "rerun": ("POST", f"/run/{run}"),
        "status": ("GET", f"/run/{run}"),
        "test_case": ("GET", f"/run-test-case/{test}"),
    }
    for path in requests:
        api.sandbox.set_faults([{"on": {"path": path}, "kind": "status", "status": 418, "times": -1}])
        hit = [
            name
            for name, (method, url) in requests.items()
            if api.client.request(method, url, json={}).status_code == 418
        ]
        assert hit == [path]
    api.sandbox.clear_faults()
    assert api.client.get(f"/run/{run}").status_code == 200


def test_probability_is_seeded(api: Api) -> None:
    def seen(seed: int) -> list[int]:
        api.sandbox.set_faults([{"kind": "status", "times": -1, "probability": 0.5, "seed": seed}])
        return [api.client.get("/projects").status_code for _ in range(30)]

    first = seen(1)
    assert set(first) == {200, 500}
    assert seen(1) == first
    assert seen(2) != first


def test_faults_over_http_and_of_the_scenario(serve: Callable[..., Api]) -> None:
    api = serve(
        {
            "plans": [{"short_id": "pln_a", "name": "A", "test_cases": [{"name": "t"}]}],
            "faults": [{"on": {"path": "start"}, "kind": "status", "status": 503, "retry_after": 1}],
        }
    )
    url = f"{api.sandbox.url}/sandbox/faults"
    assert [api.client.post("/run").status_code for _ in range(2)] == [503, 200]
    for body in ([{"kind": "html", "times": -1}], {"faults": [{"kind": "html", "times": -1}]}):
        assert httpx.post(url, json=body).status_code == 200
        assert api.client.get("/projects").headers["content-type"] == "text/html"
        assert httpx.delete(url).status_code == 200
        assert api.client.get("/projects").headers["content-type"] == "application/json"
    refused = httpx.post(url, json=[{"kind": "html"}, {"kind": "flood"}])
    assert refused.status_code == 400
    assert "1.kind" in refused.json()["message"]
    api.sandbox.reset()  # the scenario's own faults apply again
    assert api.client.post("/run").status_code == 503


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"kind": "status", "status": 99},
        {"kind": "status", "retry_after": "a\r\nb"},
        {"kind": "redirect", "location": "a b"},
        {"kind": "html", "times": -2},
        {"kind": "html", "probability": 2},
        {"kind": "html", "on": {"path": "everything"}},
        {"kind": "latency", "seconds": float("inf")},
    ],
)
def test_wrong_faults_are_refused(api: Api, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        api.sandbox.set_faults([wrong])
