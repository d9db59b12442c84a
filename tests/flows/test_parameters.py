"""The parameters of the shipped flows, and the blocks, as the forms and the API hold them against their schemas."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.check import check_release
from flows.nightly import nightly
from flows.preview import preview_check
from flows.release import release
from prefect_qatech import InvalidInputError, QATechCredentials, QATechTestPlan, release_gate

CREDENTIALS = {"api_token": "x", "api_url": "https://api.qa.tech"}
ENTRY = {"reason": "known", "owner": "web team", "expires": "2030-12-31"}
GOOD: dict[Any, dict[str, Any]] = {
    check_release: {
        "credentials": CREDENTIALS,
        "test_plan_short_id": "pln-smoke_abc",
        "application_short_id": "Web shop",
        "environment_url": "https://pr-42.example.com/x?y=z",
        "policy": {"quarantine": {"Pay by card": ENTRY}},
    },
    preview_check: {
        "credentials": CREDENTIALS,
        "preview_url": "http://127.0.0.1:8410",
        "application_short_id": "app_shop",
    },
    release: {
        "deploy_command": "true",
        "environment_url": "https://staging.example.com",
        "application_short_id": "app_shop",
    },
    nightly: {"credentials": CREDENTIALS, "test_plan_short_ids": ["pln_a", "pln_b"]},
    release_gate: {"credentials": CREDENTIALS, "request": {"test_plan_short_id": "pln_smoke"}},
}
WRONG_POLICIES: list[dict[str, Any]] = [
    {"max_reruns": 99},
    {"max_failed": -1},
    {"fuse_failures": 5.5},
    {"quarantine": {"Pay": {"reason": "known"}}},
    {"quarantine": {"Pay": {**ENTRY, "owner": ""}}},
    {"quarantine": {"Pay": {**ENTRY, "expires": "soon"}}},
    {"quarantine": {"Pay": "known"}},
]


@cache
def schema_of(flow: Flow[..., Any]) -> dict[str, Any]:
    return parameter_schema(flow.fn).model_dump_for_openapi()


def faults(flow: Flow[..., Any], **changed: Any) -> list[str]:
    """What the server, and each of its forms, has against parameters."""
    return [error.json_path for error in validate({**GOOD[flow], **changed}, schema_of(flow))]


@pytest.mark.parametrize("flow", GOOD, ids=lambda flow: flow.name)
def test_what_people_mean_is_taken(flow: Flow[..., Any]) -> None:
    assert faults(flow) == []


@pytest.mark.parametrize(
    ("flow", "name", "wrong"),
    [
        (check_release, "test_plan_short_id", ["", "pln smoke", "https://app.qa.tech/p/x/plans/pln_smoke", "p" * 201]),
        (check_release, "application_short_id", ["", "  "]),
        (check_release, "environment_url", ["", "staging.example.com", "ftp://example.com", "https://a b"]),
        (check_release, "on_failed", ["approve"]),
        (check_release, "decision_timeout_seconds", [0, -1, 10**9]),
        (preview_check, "preview_url", ["", "staging.example.com"]),
        (preview_check, "test_plan_short_id", ["pln smoke"]),
        (release, "environment_url", ["staging.example.com"]),
        (release, "command_timeout_seconds", [0]),
        (nightly, "test_plan_short_ids", [[], ["pln_a", "pln_a"], ["pln a"]]),
        (nightly, "gates_at_once", [0]),
        (release_gate, "request", [{"test_plan_short_id": "pln smoke"}]),
        *((flow, "policy", WRONG_POLICIES) for flow in (check_release, nightly, preview_check, release)),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_form(flow: Flow[..., Any], name: str, wrong: list[Any]) -> None:
    for value in wrong:
        assert faults(flow, **{name: value})[:1] != [], value
        assert all(place.startswith(f"$.{name}") for place in faults(flow, **{name: value})), value


def test_a_wrong_policy_is_refused_by_the_form_of_a_block() -> None:
    schema = QATechTestPlan.model_json_schema()
    block = {"credentials": CREDENTIALS, "test_plan_short_id": "pln_smoke"}
    assert validate({**block, "policy": GOOD[check_release]["policy"]}, schema) == []
    for policy in WRONG_POLICIES:
        assert validate({**block, "policy": policy}, schema) != [], policy
    assert validate({**block, "test_plan_short_id": "pln smoke"}, schema) != []


@pytest.mark.parametrize("policy", WRONG_POLICIES, ids=str)
def test_a_wrong_policy_is_in_no_block_that_could_be_saved(policy: dict[str, Any]) -> None:
    credentials = QATechCredentials.model_validate(CREDENTIALS)
    with pytest.raises(InvalidInputError):
        QATechTestPlan(credentials=credentials, policy=policy)
    plan = QATechTestPlan(credentials=credentials)
    with pytest.raises(ValueError, match="policy"):
        plan.policy = policy  # type: ignore[assignment]
    assert plan.policy.max_reruns == 2


def test_the_form_shows_by_example_what_a_quarantine_looks_like() -> None:
    field = schema_of(check_release)["definitions"]["GatePolicy"]["properties"]
    example = field["quarantine"]["description"].partition("For example ")[2].removesuffix(".")
    policy = {"quarantine": json.loads(example)}
    assert faults(check_release, policy=policy) == []
