"""The sandbox's answers against the vendor's own OpenAPI document, which is not part of this repository."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from jsonschema import Draft7Validator

from tests.support import read_vendors_document

from .conftest import Api


def _with_null(schema: Any) -> Any:
    """Turn OpenAPI 3.0's `nullable` into JSON Schema's type list."""
    if isinstance(schema, list):
        return [_with_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: _with_null(value) for key, value in schema.items() if key != "nullable"}
    if schema.get("nullable"):
        converted["type"] = [schema["type"], "null"]
    return converted


@pytest.fixture(scope="module")
def check() -> Callable[[httpx.Response, str], None]:
    """Check an answer against what the document says of its path, method and status."""
    document = _with_null(read_vendors_document())

    def check_answer(answer: httpx.Response, path: str) -> None:
        responses = document["paths"][path][answer.request.method.lower()]["responses"]
        assert str(answer.status_code) in responses, f"{answer.status_code} is not documented for {path}"
        schema = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
        assert answer.headers["content-type"] == "application/json"
        Draft7Validator({**schema, "components": document["components"]}).validate(answer.json())
        if answer.status_code != 200:
            assert isinstance(answer.json()["message"], str)  # the document does not require it; the pages promise it

    return check_answer


Check = Callable[[httpx.Response, str], None]
PLANS = ["pln_green", "pln_flaky", "pln_broken", "pln_storefront", "pln_mixed", "pln_never", "pln_error"]


@pytest.mark.parametrize("plan", PLANS)
def test_runs_in_every_state(api: Api, check: Check, plan: str) -> None:
    started = api.client.post("/run", json={"testPlanShortId": plan})
    check(started, "/run")
    run = started.json()["run"]["shortId"]
    for seconds in (0, 3, 20, 15, 1000):
        api.sandbox.advance(seconds)
        for params in ({}, {"testCases": "failed"}, {"testCases": "all"}):
            check(api.client.get(f"/run/{run}", params=params), "/run/{shortId}")
    for body in ({}, {"failedOnly": True}):
        check(api.client.post(f"/run/{run}", json=body), "/run/{shortId}")


def test_refusals(api: Api, check: Check) -> None:
    run = api.start("pln_green")
    check(api.client.post("/run", json={"notifications": []}), "/run")
    check(api.client.post("/run", json={"testPlanShortId": "pln_nowhere"}), "/run")
    check(api.client.post(f"/run/{run}", json={"failedOnly": True}), "/run/{shortId}")
    check(api.client.get(f"/run/{run}?testCases=x"), "/run/{shortId}")
    check(api.client.get("/run/abc123"), "/run/{shortId}")
    check(api.client.post("/run/abc123", json={}), "/run/{shortId}")
    for token, status in (("nonsense", 401), ("sandbox-suspended-token", 403)):
        headers = {"Authorization": f"Bearer {token}"}
        for answer, path in (
            (api.client.post("/run", headers=headers), "/run"),
            (api.client.post(f"/run/{run}", json={}, headers=headers), "/run/{shortId}"),
            (api.client.get(f"/run/{run}", headers=headers), "/run/{shortId}"),
        ):
            assert answer.status_code == status
            check(answer, path)
    api.sandbox.set_usage_limit(0)
    for answer, path in (
        (api.client.post("/run"), "/run"),
        (api.client.post(f"/run/{run}", json={}), "/run/{shortId}"),
    ):
        assert answer.status_code == 402
        check(answer, path)


def test_a_server_error(api: Api, check: Check) -> None:
    api.sandbox.set_faults([{"kind": "status"}])
    check(api.client.post("/run"), "/run")


def test_a_bug_of_the_sandbox_is_a_documented_500(api: Api, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_qatech.sandbox.engine.Engine.start", None)
    answer = api.client.post("/run")
    assert answer.status_code == 500
    check(answer, "/run")


def test_outbound_ips(api: Api, check: Check) -> None:
    check(api.client.get("/outbound-ips"), "/outbound-ips")
