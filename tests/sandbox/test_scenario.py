from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from prefect_qatech.sandbox import SandboxScenario, ScenarioError, load_scenario
from prefect_qatech.sandbox.scenario import with_dependencies


def test_the_default_scenario_has_what_is_promised() -> None:
    scenario = load_scenario()
    assert scenario.token == "sandbox-token"
    assert scenario.project.short_id == "proj_demo"
    assert [plan.short_id for plan in scenario.plans] == [
        "pln_green",
        "pln_flaky",
        "pln_broken",
        "pln_storefront",
        "pln_mixed",
        "pln_never",
        "pln_error",
    ]
    storefront = next(plan for plan in scenario.plans if plan.short_id == "pln_storefront")
    checks = [scenario.cases[key] for key in storefront.keys]
    assert all(case.http and 20 <= case.duration_seconds <= 60 for case in checks)
    assert scenario.cases["Checkout takes an order"].depends_on == ["Basket shows the total"]
    assert load_scenario("default") == scenario
    assert load_scenario(scenario) is scenario


def test_a_test_case_keeps_its_uuid_from_scenario_to_scenario() -> None:
    one = load_scenario({"plans": [{"short_id": "pln_a", "name": "A", "test_cases": [{"name": "Buy"}]}]})
    two = load_scenario({"plans": [{"short_id": "pln_b", "name": "B", "test_cases": [{"name": "Buy", "key": "Buy"}]}]})
    assert one.cases["Buy"].uuid == two.cases["Buy"].uuid == str(UUID(one.cases["Buy"].uuid))


def test_two_test_cases_may_have_one_name() -> None:
    cases = [{"name": "Same", "key": "one"}, {"name": "Same", "key": "two", "depends_on": ["one"]}]
    scenario = load_scenario({"plans": [{"short_id": "pln_a", "name": "A", "test_cases": cases}]})
    assert scenario.cases["one"].uuid != scenario.cases["two"].uuid


def test_a_single_outcome_and_a_single_run_are_lists_of_one() -> None:
    plan = {
        "short_id": "pln_a",
        "name": "A",
        "run": {"status": "ERROR"},
        "test_count_offset": 2,
        "test_cases": [{"name": "t", "outcomes": "agent_error"}],
    }
    scenario = load_scenario({"plans": [plan]})
    assert scenario.cases["t"].outcomes[0].error_code == "AGENT_ERROR"
    assert scenario.plans[0].run[0].status == "ERROR"
    assert scenario.plans[0].test_count_offset == [2]


def test_free_text_is_free() -> None:
    name = "<script>alert(1)</script>|`\x00\x1b[31m\u202e" + "x" * 100_000
    outcome = {"outcome": "failed", "title": "]]>\ud800", "thought": name}
    scenario = load_scenario(
        {"plans": [{"short_id": "pln_a", "name": name, "test_cases": [{"name": name, "outcomes": outcome}]}]}
    )
    assert scenario.cases[name].outcomes[0].title == "]]>\ud800"
    assert scenario.cases[name].outcomes[0].error_code == "TEST_FAILED"


PLAN = "plans:\n  - short_id: pln_a\n    name: A\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("plans: [", 1, "not valid YAML"),
        ("plans: [\x07]", None, "not valid YAML"),
        ("", None, "plans: Field required"),
        ("- a", 1, "valid dictionary"),
        (PLAN + "    test_cases: []\nnonsense: 1\n", 5, "nonsense: Extra inputs are not permitted"),
        (PLAN + "    test_cases: []\n    name: B\n", 5, "'name' stands there twice"),
        (
            PLAN + "    test_cases:\n      - name: t\n        outcomes: [passed, exploded]\n",
            6,
            "plans.0.test_cases.0.outcomes.1: 'exploded' is not an outcome",
        ),
        (PLAN + "    test_cases:\n      - {name: t, durations: 3}\n", 5, "plans.0.test_cases.0.durations"),
        (PLAN + "    test_cases: [not there]\n", None, "plan pln_a names a test case that is not there: 'not there'"),
        (PLAN + "    test_cases: [{name: t}, {name: t}]\n", None, "test case 't' is there twice"),
        (
            PLAN + "    test_cases: [{name: t, depends_on: [u]}, {name: u, depends_on: [t]}]\n",
            None,
            "depends on itself",
        ),
        (PLAN + "    test_cases: [{name: t, depends_on: [v]}]\n", None, "depends on 'v', which is not there"),
        (
            PLAN + "    test_cases: [{name: t, http: {application: app_x, path: /}}]\n",
            None,
            "of app_x, which is not there",
        ),
        ("plans:\n  - {short_id: a/b, name: A, test_cases: []}\n", 2, "plans.0.short_id: 'a/b' has a"),
        (PLAN + "    test_cases: []\nfaults: [{kind: earthquake}]\n", 5, "faults.0.kind"),
        (PLAN + "    test_cases: []\nusage_limit: -1\n", 5, "usage_limit"),
        (PLAN + "    test_cases: []\ndefault_plan: pln_b\n", None, "default_plan 'pln_b' is not among the plans"),
        (PLAN + "    test_cases: []\ntokens: [a, a]\n", None, "token one of them is there twice"),
    ],
)
def test_a_wrong_scenario_is_refused_in_one_line_that_names_the_place(
    tmp_path: Path, text: str, line: int | None, words: str
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(file)
    message = str(caught.value)
    assert "shop.yaml" in message
    assert words in message
    assert "\n" not in message
    if line is not None:
        assert f"line {line}" in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="there is no such scenario file"):
        load_scenario(tmp_path / "nowhere.yaml")
    with pytest.raises(ScenarioError, match="cannot be read"):
        load_scenario(tmp_path)
    with pytest.raises(ScenarioError, match="nowhere: there is no such"):
        load_scenario("nowhere")


def test_a_mapping_is_checked_as_well() -> None:
    with pytest.raises(ScenarioError, match=r"^scenario, plans: "):
        load_scenario({"plans": []})


def test_dependencies_come_first() -> None:
    cases: list[dict[str, Any]] = [
        {"name": "c", "depends_on": ["b"]},
        {"name": "b", "depends_on": ["a"]},
        {"name": "a"},
    ]
    scenario = load_scenario({"test_cases": cases, "plans": [{"short_id": "pln_a", "name": "A", "test_cases": ["c"]}]})
    assert isinstance(scenario, SandboxScenario)
    assert [case.name for case in with_dependencies(scenario.cases, ["c"])] == ["a", "b", "c"]


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


def refusal_of(source: Path | dict[str, Any]) -> str:
    """Why it is no scenario; empty where it is one."""
    try:
        load_scenario(source)
    except ScenarioError as error:
        return str(error)
    return ""


@given(st.one_of(st.binary(), st.text().map(str.encode), YAML.map(lambda data: yaml.safe_dump(data).encode())))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_is_a_scenario_or_says_in_one_line_why_it_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_bytes(content)
    assert len(refusal_of(path).splitlines()) <= 1


@given(st.data())
def test_a_field_that_is_something_else_is_named_in_one_line(data: st.DataObject) -> None:
    scenario = load_scenario().model_dump(mode="json", exclude_defaults=True)
    place: Any = scenario
    while isinstance(place, (dict, list)) and place:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or data.draw(st.booleans()):
            place[key] = data.draw(YAML)
            break
        place = place[key]
    assert len(refusal_of(scenario).splitlines()) <= 1
