"""Which thing a name means: a pure function of what the catalogue answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from prefect_qatech import (
    InvalidInputError,
    QATechApplication,
    QATechApplicationInfo,
    QATechEnvironment,
    QATechEnvironmentInfo,
    QATechNewTestCase,
    QATechProject,
    QATechRerunRequest,
    QATechRunRequest,
    QATechTestCase,
)
from prefect_qatech.api.names import Answers, NotAsked, Question, choose, looks_like_id, needs_answers, resolved

CASE = "a1b2c3d4-e5f6-4789-a012-3456789abcde"
PAY, SIGN_IN, OLD = (f"{number}" * 8 + "-0000-4000-8000-000000000000" for number in (1, 2, 3))
APPS = [("app-web-shop_x1", "Shop"), ("app_x2", "Shop for phones"), ("app_x3", "Twin"), ("app_x4", "Twin")]


def cases(*, application: str | None = None) -> list[QATechTestCase]:
    listed = [
        QATechTestCase(id=PAY, name="Pay by card", labels=["smoke", "pay"], is_enabled=True),
        QATechTestCase(id=SIGN_IN, name="Sign in", labels=["smoke"]),
        QATechTestCase(id=OLD, name="Old", labels=["smoke", "old"], is_enabled=False),
    ]
    return listed[:2] if application else listed


ANSWERS: Answers = {
    Question("project"): [QATechProject(short_id="proj_1", name="Web shop")],
    Question("application"): [QATechApplicationInfo(short_id=short_id, name=name) for short_id, name in APPS],
    Question("environment", "app-web-shop_x1"): [QATechEnvironmentInfo(short_id="env_1", name="Staging")],
    Question("environment", "app_x2"): [QATechEnvironmentInfo(short_id="env_2", name="Staging")],
    Question("test case"): cases(),
    Question("test case", is_selection=True): cases(),
    Question("test case", "app-web-shop_x1", is_selection=True): cases(application="Shop"),
}


def where(application: str, environment: str | None = None) -> QATechRunRequest:
    saved = QATechEnvironment(short_id=environment) if environment else None
    return QATechRunRequest(applications=[QATechApplication(application_short_id=application, environment=saved)])


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (where("Shop"), where("app-web-shop_x1")),
        (where("x1"), where("app-web-shop_x1")),
        (where("x2"), where("app_x2")),
        (where("app_nowhere", "env_nowhere"), where("app_nowhere", "env_nowhere")),
        (where("Shop", "Staging"), where("app-web-shop_x1", "env_1")),
        (where("Shop for phones", "Staging"), where("app_x2", "env_2")),
        (where("app_x2", "Staging"), where("app_x2", "env_2")),
        (where("Shop", "env_other"), where("app-web-shop_x1", "env_other")),
        (QATechRunRequest(project_short_id="Web shop"), QATechRunRequest(project_short_id="proj_1")),
        (QATechRunRequest(test_case_ids=["Pay by card", CASE]), QATechRunRequest(test_case_ids=[PAY, CASE])),
        (QATechRunRequest(test_case_ids=["Pay by card", PAY]), QATechRunRequest(test_case_ids=[PAY])),
        (QATechRerunRequest(test_case_ids=["Old"]), QATechRerunRequest(test_case_ids=[OLD])),
        (QATechRunRequest(labels=["smoke"]), QATechRunRequest(test_case_ids=[PAY, SIGN_IN])),
        (QATechRunRequest(labels=["smoke", "pay"]), QATechRunRequest(test_case_ids=[PAY])),
        (QATechRunRequest(application_short_id="Shop"), QATechRunRequest(test_case_ids=[PAY, SIGN_IN])),
        (
            QATechRunRequest(labels=["pay"], application_short_id="Shop"),
            QATechRunRequest(test_case_ids=[PAY]),
        ),
        (
            QATechNewTestCase(
                name="x",
                goal="y",
                application_short_id="Shop",
                resume_from_dependency_project_test_case_id="Sign in",
                wait_for_dependencies_project_test_case_ids=["Sign in", "Old"],
            ),
            QATechNewTestCase(
                name="x",
                goal="y",
                application_short_id="app-web-shop_x1",
                resume_from_dependency_project_test_case_id=SIGN_IN,
                wait_for_dependencies_project_test_case_ids=[SIGN_IN, OLD],
            ),
        ),
    ],
)
def test_names_become_ids(request_: Any, expected: Any) -> None:
    assert resolved(request_, ANSWERS) == expected
    assert resolved(expected, {}) == expected, "what has ids only needs no answer"


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (
            where("Shopp"),
            r"applications.0.application_short_id: there is no application 'Shopp'; did you mean 'Shop' \(",
        ),
        (where("shop"), "did you mean 'Shop'"),
        (where("web-shop"), "there is no application 'web-shop'"),
        (where("eu_x1"), "there is no application 'eu_x1'"),
        (where("zzzzzz"), r"there is 'Shop' \(app-web-shop_x1\), 'Shop for phones' \(app_x2\)"),
        (where("Twin"), r"'Twin' is more than one application: 'Twin' \(app_x3\), 'Twin' \(app_x4\)"),
        (
            where("app_x2", "staging"),
            r"applications.0.environment.short_id: there is no environment 'staging'; did you",
        ),
        (QATechRunRequest(project_short_id="Web"), "there is no project 'Web'"),
        (QATechRunRequest(test_case_ids=[CASE, "Pay"]), "test_case_ids.1: there is no test case 'Pay'"),
        (QATechRunRequest(test_case_ids=["app_x1"]), "there is no test case 'app_x1'"),
        (QATechRunRequest(labels=["smok"]), "no enabled test case of the labels 'smok'.*that are near: 'smoke'"),
        (QATechRunRequest(labels=["Smoke"]), "no enabled test case of the labels 'Smoke'"),
        (QATechRunRequest(labels=["old"]), "no enabled test case of the labels 'old', and 1 that are disabled"),
        (QATechRunRequest(labels=["pay", "old"]), "never a run of everything"),
        (QATechRunRequest(labels=["old"], application_short_id="Shop"), "and the application 'app-web-shop_x1'"),
    ],
)
def test_what_means_nothing_or_too_much_is_an_error(request_: Any, told: str) -> None:
    with pytest.raises(InvalidInputError, match=told) as caught:
        resolved(request_, ANSWERS)
    assert str(caught.value).isprintable()
    assert "Nothing was sent" in str(caught.value)


@pytest.mark.parametrize("nothing", [QATechRunRequest(labels=["x"]), QATechRunRequest(application_short_id="app_x1")])
def test_an_empty_catalogue_selects_nothing(nothing: QATechRunRequest) -> None:
    answers = {Question("test case", nothing.application_short_id, is_selection=True): []}
    with pytest.raises(InvalidInputError, match="never a run of everything"):
        resolved(nothing, answers)


def test_the_next_question_follows_from_the_last_answer() -> None:
    request = where("Shop", "Staging")
    asked: dict[Question, Any] = {}
    while True:
        try:
            resolved(request, asked)
        except NotAsked as needed:
            asked[needed.question] = ANSWERS[needed.question]
        else:
            break
    assert list(asked) == [Question("application"), Question("environment", "app-web-shop_x1")]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("app_x", "application", True),
        ("app-my-shop_x", "application", True),
        ("pln_x", "application", True),
        ("build_x1", "environment", True),
        (CASE, "test case", True),
        (CASE, "application", True),
        ("app_my shop", "application", False),
        ("app_", "application", False),
        ("apps_x", "application", False),
        ("App_x", "application", False),
        ("jgbinp", "application", False),
        ("app_x", "test case", False),
        ("Pay", "test case", False),
        (CASE.replace("-", ""), "test case", False),
    ],
)
def test_what_looks_like_an_id(text: str, kind: Any, expected: bool) -> None:
    assert looks_like_id(text, kind) is expected


def test_a_request_of_ids_needs_no_answer() -> None:
    assert not needs_answers(where("app_1", "env_1"))
    assert not needs_answers(QATechRunRequest(test_plan_short_id="smoke", project_short_id="proj_1"))
    assert needs_answers(QATechRunRequest(labels=["smoke"]))
    assert needs_answers(where("jgbinp"))


def test_hostile_names_are_told_in_one_short_line() -> None:
    things = [("app_1", "Shop\nINFO: passed" + "x" * 10_000), ("app_2" + "y" * 10_000, "Shop\x1b[31m")]
    with pytest.raises(InvalidInputError) as caught:
        choose("Shop", things, "application", "application_short_id")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


IDS = st.from_regex(r"(app(-[a-z_]{1,4})?_)?[a-z0-9_]{1,4}", fullmatch=True)
NAMES = st.one_of(st.text(max_size=6), st.sampled_from(["Shop", "shop", "x1", "app_x1"]), IDS)


@given(things=st.lists(st.tuples(IDS, NAMES), max_size=8), pick=st.integers(0, 7), other=NAMES)
def test_a_name_means_what_has_it_and_nothing_else(things: list[tuple[str, str]], pick: int, other: str) -> None:
    asked = things[pick][1] if pick < len(things) else other
    called = {short_id for short_id, name in things if name == asked}
    of_that_id = {short_id for short_id, _ in things if asked and short_id.endswith(asked)}
    try:
        found = choose(asked, things, "application", "here")
    except InvalidInputError:
        assert len(called) != 1 or len(called | of_that_id) > 1
    else:
        assert found in called | of_that_id
        assert called <= {found}, "a thing of that name is never passed over for one of that id"


@given(
    labels=st.sets(st.sampled_from("abc"), min_size=1),
    listed=st.lists(st.tuples(st.sets(st.sampled_from("abcd")), st.sampled_from([True, False, None])), max_size=8),
)
def test_labels_select_the_enabled_test_cases_that_have_all_of_them(
    labels: set[str], listed: list[tuple[set[str], bool | None]]
) -> None:
    there = [
        QATechTestCase(id=str(number), name="same", labels=sorted(has), is_enabled=is_enabled)
        for number, (has, is_enabled) in enumerate(listed)
    ]
    wanted = [
        case.id for case, (has, enabled) in zip(there, listed, strict=True) if labels <= has and enabled is not False
    ]
    request = QATechRunRequest(labels=sorted(labels))
    answers: Answers = {Question("test case", is_selection=True): there}
    if wanted:
        assert resolved(request, answers) == QATechRunRequest(test_case_ids=wanted)
    else:
        with pytest.raises(InvalidInputError, match="never a run of everything"):
            resolved(request, answers)
