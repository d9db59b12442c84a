"""An id is refused only where it cannot be one; what it looks like is the service's to say."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given, strategies as st

from prefect_qatech import InvalidInputError
from prefect_qatech.api.ids import check_id, check_run_short_id, names
from prefect_qatech.api.requests import (
    QATechApplication,
    QATechEnvironment,
    QATechParameters,
    QATechRerunRequest,
    QATechRunRequest,
)
from prefect_qatech.api.responses import QATechRun, QATechStartedRun

CASE = "a1b2c3d4-e5f6-4789-a012-3456789abcde"

IDS = [
    "abc123",
    "UkxK",
    "0",
    "8B-",
    "-abc",
    "_abc",
    "-",
    "app_x1",
    "pln_abc123",
    "pln-smoke-tests_abc123",
    "build_abc123",
    "jgbinp",
    "a.b",
    "a:b;c@d",
    "abc\\def",
    "[abc](x)",
    "épreuve",
    "A" * 200,
    CASE,
    CASE.upper(),
]
NO_IDS = [
    "",
    " ",
    "abc 123",
    "abc\n",
    "\nabc",
    "abc\t",
    "abc\u00a0",
    "abc\x00",
    "abc\x7f",
    "abc\u200b",
    "abc\ud800",
    "abc/def",
    "../abc",
    "..",
    ".",
    "...",
    "abc%2Fdef",
    "abc?x=1",
    "abc#x",
    "https://app.qa.tech/p/shop/results/abc123",
    "a" * 201,
    "a" * 100_000,
    5,
    ["abc"],
]
NO_NAMES = [value for value in NO_IDS if not isinstance(value, str) or not value.isprintable() or len(value) > 200]
NO_NAMES += ["", " "]
NAMED = ["application", "environment", "project", "test case"]
"""These fields take names as well: what is no id may be one."""

FIELDS: dict[str, Any] = {
    "plan": lambda value: QATechRunRequest(test_plan_short_id=value).test_plan_short_id,
    "application": lambda value: QATechApplication(application_short_id=value).application_short_id,
    "environment": lambda value: QATechEnvironment(short_id=value).short_id,
    "build": lambda value: QATechEnvironment(application_build_short_id=value).application_build_short_id,
    "preset": lambda value: (
        QATechApplication(application_short_id="app_1", device_preset_short_id=value).device_preset_short_id
    ),
    "project": lambda value: QATechRerunRequest(project_short_id=value).project_short_id,
    "test case": lambda value: QATechRerunRequest(test_case_ids=[value]).test_case_ids[0],
    "config": lambda value: next(iter(QATechParameters(configs={value: 1}).configs)),
    "environment of configs": lambda value: next(
        iter(QATechParameters(configs_by_environment={value: {"cfg_1": 1}}).configs_by_environment)
    ),
    "run": check_run_short_id,
    "run in an answer": lambda value: QATechRun.model_validate({"shortId": value}).run_short_id,
    "started run": lambda value: QATechStartedRun.model_validate({"shortId": value}).run_short_id,
}


@pytest.mark.parametrize("field", FIELDS)
def test_an_id_is_taken_as_it_is(field: str) -> None:
    assert [FIELDS[field](value) for value in IDS] == IDS


@pytest.mark.parametrize("field", FIELDS)
def test_what_cannot_be_an_id_is_refused(field: str) -> None:
    for value in NO_IDS:
        if isinstance(value, list) and field in ("config", "environment of configs"):
            continue  # no key of a mapping
        if field in NAMED and value not in NO_NAMES:
            assert FIELDS[field](value) == value
            continue
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - pydantic's own, where an answer is read
            pytest.fail(f"{value!r} was taken as {FIELDS[field](value)!r}")
        if field not in ("run in an answer", "started run"):
            assert isinstance(caught.value, InvalidInputError)
            assert len(str(caught.value)) < 280, "an overlong id is not repeated in full"
            assert str(caught.value).isprintable()


@pytest.mark.parametrize("field", ["test case", "environment of configs"])
def test_a_uuid_is_taken_as_its_text(field: str) -> None:
    assert FIELDS[field](UUID(CASE)) == CASE


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("run", "https://app.qa.tech/p/shop/results/abc123", """has a "/": a run's short id, such as 'abc123' (the"""),
        ("plan", "check out", "test_plan_short_id: 'check out' has blanks: a test plan's short id, such as 'pln_abc1"),
        ("application", "", "application_short_id: '' is empty: an application's short id, such as 'app_abc123', or"),
        ("test case", " ", "test_case_ids.0: ' ' is empty: a test case's UUID or its name is needed"),
        ("environment of configs", "..", "an environment's UUID is needed"),
    ],
)
def test_what_is_refused_says_which_id_is_needed(field: str, value: str, says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        FIELDS[field](value)
    assert says in str(caught.value)


@given(st.text())
def test_an_id_is_always_one_part_of_an_address(text: str) -> None:
    try:
        check_id(text)
    except InvalidInputError:
        return
    url = httpx.URL(f"https://api.example/v1/run/{text}")
    assert (url.path, url.query, url.fragment) == (f"/v1/run/{text}", b"", "")


@pytest.mark.parametrize(
    ("asked", "answered", "same"),
    [
        ("pln_abc", "pln_abc", True),
        ("pln_abc", "pln-smoke-tests_abc", True),
        ("pln-smoke-tests_abc", "pln_abc", True),
        ("pln-old-name_abc", "pln-new_name_abc", True),
        ("abc", "pln-smoke_abc", True),
        ("pln_a_b", "pln-smoke_a_b", True),
        ("a_b", "pln_a_b", True),
        ("smoke-tests", "pln-smoke-tests_abc", True),
        ("_abc", "pln__abc", True),
        ("pln_broken", "pln_green", False),
        ("pln-smoke_abc", "pln-smoke_xyz", False),
        ("pln_smoke", "pln-smoke_abc", False),
        ("abc", "pln_xyz", False),
        ("pln_abc", "pln_abcd", False),
        ("pln_", "pln_x", False),
    ],
)
def test_an_id_is_the_same_with_and_without_slug_and_prefix(asked: str, answered: str, same: bool) -> None:
    assert names(asked, answered) is same
