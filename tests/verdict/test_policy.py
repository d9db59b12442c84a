"""What a policy may hold, and what is refused."""

from __future__ import annotations

import json
import time
from datetime import date, datetime, timedelta, timezone
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.verdict.policy import GatePolicy
from tests.verdict.runs import (
    quarantine,
)


def test_defaults_of_the_policy() -> None:
    assert GatePolicy().model_dump() == {
        "max_reruns": 2,
        "max_failed": 0,
        "max_flaky": None,
        "max_undecided": 0,
        "min_decided": 1,
        "passes_required": 1,
        "fuse_failures": None,
        "quarantine": {},
        "quarantine_time_zone": "UTC",
        "release_check": {"on_blocker": "inconclusive", "min_score": None},
        "deadline_seconds": 3600,
    }


@pytest.mark.parametrize(
    "policy",
    [
        GatePolicy(),
        GatePolicy(max_reruns=0, max_failed=3, max_flaky=0, max_undecided=1, min_decided=9, passes_required=2),
        GatePolicy(max_reruns=10, fuse_failures=0, deadline_seconds=0.5),
        GatePolicy(fuse_failures=7, deadline_seconds=90),
        GatePolicy(fuse_failures=0.3, quarantine=quarantine("a", "b"), quarantine_time_zone="Asia/Tokyo"),
    ],
)
def test_policy_survives_json(policy: GatePolicy) -> None:
    again = GatePolicy.model_validate(json.loads(json.dumps(policy.model_dump(mode="json"))))
    assert again == policy
    assert type(again.fuse_failures) is type(policy.fuse_failures)
    assert GatePolicy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    "bad",
    [
        {"max_reruns": -1},
        {"max_reruns": 11},
        {"max_reruns": True},
        {"max_reruns": 1.0},
        {"max_reruns": "1"},
        {"max_failed": -1},
        {"max_failed": False},
        {"max_flaky": -1},
        {"max_flaky": True},
        {"max_undecided": -1},
        {"max_undecided": True},
        {"min_decided": 0},
        {"min_decided": True},
        {"passes_required": 0},
        {"passes_required": True},
        {"fuse_failures": -1},
        {"fuse_failures": True},
        {"fuse_failures": 0.0},
        {"fuse_failures": 1.0},
        {"fuse_failures": 2.5},
        {"fuse_failures": -0.5},
        {"fuse_failures": float("nan")},
        {"fuse_failures": "0.3"},
        {"deadline_seconds": 0},
        {"deadline_seconds": -1},
        {"deadline_seconds": float("inf")},
        {"deadline_seconds": float("nan")},
        {"deadline_seconds": True},
        {"quarantine_time_zone": "CET+2"},
        {"quarantine_time_zone": "Europe"},
        {"quarantine_time_zone": "../etc/passwd"},
        {"quarantine_time_zone": "a\x00b"},
        {"quarantine_time_zone": ""},
        {"quarantine_time_zone": None},
        {"quarantine": ["a"]},
        {"quarantine": {"a": {"reason": "r", "owner": "o"}}},
        {"quarantine": {"a": {"reason": " ", "owner": "o", "expires": "2026-09-01"}}},
        {"quarantine": {"a": {"reason": "r", "owner": "", "expires": "2026-09-01"}}},
        {"quarantine": {"a": {"reason": "r", "owner": "o", "expires": "soon"}}},
        {"quarantine": {"a": {"reason": "r", "owner": "o", "expires": "2026-09-01", "more": 1}}},
        {"max_rerun": 1},
    ],
    ids=str,
)
def test_bad_policies_are_refused(bad: dict[str, Any]) -> None:
    for make in (lambda: GatePolicy(**bad), lambda: GatePolicy.model_validate(bad)):
        with pytest.raises(InvalidInputError) as caught:
            make()
        assert next(iter(bad)) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_fuse_that_is_none_says_what_it_may_be() -> None:
    with pytest.raises(
        InvalidInputError, match=r"'0\.3' is neither a number of tests nor a share of them, such as 0\.3"
    ):
        GatePolicy(fuse_failures="0.3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("zone", "hour", "day"),
    [
        ("UTC", 23, 1),
        ("Asia/Tokyo", 14, 1),
        ("Asia/Tokyo", 15, 2),
        ("America/Los_Angeles", 6, 0),
        ("America/Los_Angeles", 7, 1),
    ],
)
def test_the_quarantine_ends_by_the_clocks_of_its_time_zone(zone: str, hour: int, day: int) -> None:
    policy, expected = GatePolicy(quarantine_time_zone=zone), date(2026, 8, 31) + timedelta(days=day)
    moment = datetime(2026, 9, 1, hour, tzinfo=timezone.utc)
    assert policy.quarantine_day(moment) == expected
    assert policy.quarantine_day(moment.astimezone(timezone(timedelta(hours=-11)))) == expected
    assert policy.quarantine_day(moment.replace(tzinfo=None)) == expected


def test_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        GatePolicy().max_failed = 9  # type: ignore[misc]


def test_policy_makes_a_form() -> None:
    schema = TypeAdapter(GatePolicy).json_schema()
    for field in (*schema["properties"].values(), *schema["$defs"]["QuarantineEntry"]["properties"].values()):
        assert field["title"]
        assert field["description"].endswith(".")
    assert schema["additionalProperties"] is False


def test_the_form_takes_whole_entries_of_the_quarantine_only() -> None:
    schema = GatePolicy.model_json_schema()
    whole, form = {"reason": "known bug", "owner": "web team", "expires": "2030-12-31"}, Draft202012Validator(schema)
    assert form.is_valid({"quarantine": {"Pay by card": whole}})
    assert not form.is_valid({"quarantine": {"Pay by card": {"reason": "known bug"}}})
    assert "additionalProperties" not in schema["properties"]["quarantine"], "of which Prefect's form takes no notice"


def test_a_moment_without_a_time_zone_is_in_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert GatePolicy().quarantine_day(datetime(2026, 9, 1, 5)) == date(2026, 9, 1)  # noqa: DTZ001
    finally:
        monkeypatch.undo()
        time.tzset()
