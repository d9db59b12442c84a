"""The sandbox's own OpenAPI document: it tells all that is served, and no request brings anything else out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jsonschema import Draft202012Validator

from prefect_qatech.sandbox import load_scenario
from prefect_qatech.sandbox.app import create_app
from prefect_qatech.sandbox.service import Service

from .conftest import Api

ENDPOINTS = {
    "POST /v1/run",
    "GET /v1/run/{shortId}",
    "POST /v1/run/{shortId}",
    "GET /v1/run-test-case/{shortId}",
    "GET /v1/run-test-case/{shortId}/trace",
    "GET /v1/projects",
    "GET /v1/applications",
    "GET /v1/applications/{shortId}/environments",
    "POST /v1/applications/{shortId}/builds/upload-url",
    "POST /v1/applications/{shortId}/builds",
    "GET /v1/applications/{shortId}/builds",
    "GET /v1/test-cases",
    "POST /v1/test-cases",
    "GET /v1/outbound-ips",
    "POST /v1/release-checks",
    "GET /v1/release-checks/{shortId}",
}
DOCUMENT: dict[str, Any] = create_app(Service(load_scenario())).app.openapi()  # type: ignore[attr-defined]
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}


def test_all_that_is_served_is_in_the_document(api: Api) -> None:
    assert httpx.get(f"{api.sandbox.url}/openapi.json").json() == DOCUMENT
    assert OPERATIONS.keys() >= ENDPOINTS
    beside = {name.split()[1].split("/")[1] for name in OPERATIONS.keys() - ENDPOINTS}
    assert beside == {"uploads", "p", "sandbox"}
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len({*ids}) == len(ids)


def closed(schema: Any) -> Any:
    """Allow no field that the document does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return (
        {"additionalProperties": False, **inner} if "properties" in inner and inner.get("type") == "object" else inner
    )


COMPONENTS = closed(DOCUMENT["components"])


def check(name: str, answer: httpx.Response) -> None:
    """Hold an answer against the document."""
    where = f"{answer.request.method} {answer.request.url} {answer.request.content[:500]!r} -> {answer.text[:500]}"
    assert answer.status_code != 500, where
    responses = OPERATIONS[name]["responses"]
    assert str(answer.status_code) in responses, f"{answer.status_code} is not documented: {where}"
    content = responses[str(answer.status_code)].get("content", {})
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    assert (media_type in content) if content else not answer.content, f"{media_type} is not documented: {where}"
    if media_type == "application/json":
        value = json.loads(answer.text, parse_constant=pytest.fail)
        Draft202012Validator({**closed(content[media_type]["schema"]), "components": COMPONENTS}).validate(value)


# --- requests

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
JUNK_FIELDS = st.dictionaries(st.text(max_size=8), JUNK, min_size=1, max_size=2)


@dataclass
class World:
    """What is there to ask for, and how to ask."""

    api: Api
    ids: dict[str, list[str]]

    def value(self, schema: dict[str, Any], name: str = "") -> st.SearchStrategy[Any]:
        """Return values as a schema wants them, and values in which something may be anything."""
        return self._value(schema, name, st.nothing()) | self._value(schema, name, JUNK)

    def _value(self, schema: dict[str, Any], name: str, junk: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return junk | self._fitting(schema, name, junk)

    def _fitting(self, schema: dict[str, Any], name: str, junk: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            return self._fitting(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]], name, junk)
        if choices := schema.get("anyOf", schema.get("oneOf", [])):
            return st.one_of([self._fitting(one, name, junk) for one in choices])
        if "enum" in schema or "const" in schema:
            return st.sampled_from(schema.get("enum", [schema.get("const")]))
        kind = schema.get("type")
        if kind == "object":
            fields = {key: self._value(field, key, junk) for key, field in schema.get("properties", {}).items()}
            required = {key: fields.pop(key) for key in schema.get("required", [])}
            # The objects of the API are open.
            known = st.fixed_dictionaries(required, optional=fields)
            if schema.get("additionalProperties") is False and junk.is_empty:
                return known
            return known | st.tuples(JUNK_FIELDS, known).map(lambda both: {**both[0], **both[1]})
        if kind == "array":
            return st.lists(self._value(schema["items"], name, junk), min_size=schema.get("minItems", 0), max_size=3)
        if kind == "string":
            known_ids = st.sampled_from(self.ids[name]) if name in self.ids else st.nothing()
            return known_ids | known_ids | st.text(max_size=90) | st.sampled_from(["o/r", "a.apk", "a,b", "7"])
        if kind in {"integer", "number"}:
            low = schema.get("minimum")
            return st.integers(low) if kind == "integer" else st.integers(0, 1000) | st.floats(low)
        return st.booleans() if kind == "boolean" else st.none() if kind == "null" else JUNK

    def request(self, draw: Any, name: str) -> httpx.Request:
        """Draw a request of an operation."""
        method, path = name.split()
        operation = OPERATIONS[name]
        query: dict[str, str] = {}
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                some_text = st.text(min_size=1, max_size=20).filter(lambda text: "/" not in text and text.strip("."))
                # The ids of `/run/{shortId}` are those of runs.
                known = self.ids[path.split("/{" + parameter["name"])[0].rpartition("/")[2]]
                given_text = draw(st.sampled_from(known * 4 + ["nowhere"]) | some_text.filter(_is_utf8))
                path = path.replace("{" + parameter["name"] + "}", quote(given_text, safe=""))
            elif draw(st.booleans()):
                drawn = draw(self.value(parameter["schema"], parameter["name"]))
                query[parameter["name"]] = _utf8(str(drawn).lower() if isinstance(drawn, bool) else str(drawn))
        tokens = [self.api.sandbox.token] * 8 + ["sandbox-read-token", "sandbox-suspended-token", "nonsense"]
        token = draw(st.none() | st.sampled_from(tokens)) if name.startswith("PUT") else draw(st.sampled_from(tokens))
        body: bytes | None = None
        if "requestBody" in operation:
            schema = next(iter(operation["requestBody"]["content"].values()))["schema"]
            body = draw(st.none() | self.value(schema).map(lambda value: json.dumps(value).encode()) | st.binary())
        return httpx.Request(
            method,
            self.api.sandbox.url + path,
            params=query,
            content=body,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )


def _is_utf8(text: str) -> bool:
    return _utf8(text) == text


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@pytest.fixture
def world(api: Api) -> World:
    runs = [api.start("pln_mixed"), api.start("pln_storefront"), api.start("pln_never")]
    api.sandbox.advance(60)
    tests = [test for run in runs for test in api.get(run)["runTestCases"]]
    upload = api.client.post("/applications/app_shop/builds/upload-url", json={"fileName": "shop.apk"}).json()
    check_id = api.client.post("/release-checks", json={"prUrl": "x"}).json()["shortId"]
    httpx.put(upload["uploadUrl"], content=b"PK", verify=False)
    uuids = [test["id"] for test in tests[:3]]
    ids = {
        "applicationShortId": ["app_shop"],
        "applications": ["app_shop"],
        "testPlanShortId": ["pln_green", "pln_flaky"],
        "projectShortId": ["proj_demo"],
        "p": ["proj_demo"],
        "shortId": ["env_staging"],
        "applicationBuildShortId": ["bld_1"],
        "testCaseIds": uuids,
        "projectTestCaseIds": uuids,
        "resumeFromDependencyProjectTestCaseId": uuids,
        "waitForDependenciesProjectTestCaseIds": uuids,
        "test-cases": uuids,
        "buildToken": [upload["buildToken"]],
        "uploads": [upload["buildToken"]],
        "run": runs,
        "results": runs,
        "recordings": runs,
        "release-checks": [check_id],
        "run-test-case": [test["shortId"] for test in tests[:3]],
        "screenshots": [test["shortId"] for test in tests[:3]],
    }
    return World(api, ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OPERATIONS])
def test_no_request_brings_out_what_is_not_documented(world: World, name: str) -> None:
    sandbox = world.api.sandbox
    run = next(run["short_id"] for run in sandbox.runs())

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(st.data())
    def fuzz(data: Any) -> None:
        check(name, client.send(world.request(data.draw, name)))
        sandbox.clear_faults()
        sandbox.set_usage_limit(None)

    # To read the certificates of all authorities takes longer than some requests.
    with httpx.Client(timeout=20, verify=False) as client:
        fuzz()
        # Whatever was asked, the sandbox can still tell of it.
        for path in ("counts", "requests", "runs"):
            answer = client.get(f"{sandbox.url}/sandbox/{path}")
            check(f"GET /sandbox/{path}", answer)
            assert answer.status_code == 200
        headers = world.api.client.headers
        check("GET /v1/run/{shortId}", client.get(f"{sandbox.url}/v1/run/{run}?testCases=all", headers=headers))
