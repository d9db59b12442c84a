"""What a project has at QA.tech, as its API lists it, and what can be added to it: test cases, builds, release checks.

Answers are read as tolerantly as those about runs (`models.py`). Source: the vendor's API reference and its CLI pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from prefect_qatech.api.ids import (
    ApplicationShortId,
    ConfigKey,
    ProjectShortId,
    ScenarioShortId,
    TestCaseId,
    TestPlanShortId,
)
from prefect_qatech.api.requests import QATechApplication, QATechEnvironment
from prefect_qatech.api.responses import FINAL_STATUSES
from prefect_qatech.api.wire import (
    FilledText,
    OptionalNumber,
    OptionalText,
    Request,
    Response,
    Text,
    object_or_none,
    objects_only,
)
from prefect_qatech.inputs import CleanText
from prefect_qatech.texts import clean_text

Flag = Annotated[bool | None, BeforeValidator(lambda value: value if isinstance(value, bool) else None)]
Texts = Annotated[list[Text], BeforeValidator(lambda value: value if isinstance(value, (list, tuple)) else [])]


class QATechProject(Response):
    """A project that the token may use.

    Attributes:
        short_id: Its short id, `proj_...`.
        name: Its name.
    """

    short_id: Text = ""
    name: Text = ""


class QATechApplicationInfo(Response):
    """An application under test.

    Attributes:
        short_id: Its short id, `app_...`.
        name: Its name.
        kind: web, ios, android, or a word that is not documented.
    """

    short_id: Text = ""
    name: Text = ""
    kind: OptionalText = None


class QATechEnvironmentInfo(Response):
    """A saved environment of an application.

    Attributes:
        short_id: Its short id, `env_...`.
        name: Its name.
        url: Its address; None where it has none, as that of a mobile application.
        is_production: Whether it is marked as production.
    """

    short_id: Text = ""
    name: Text = ""
    url: OptionalText = None
    is_production: Flag = None


class QATechLastRun(Response):
    """The result of a test case in its last run.

    Attributes:
        run_short_id: The run.
        status: As of a run test case.
        result: As of a run test case.
        completed_at: ISO 8601.
    """

    run_short_id: OptionalText = None
    status: OptionalText = None
    result: OptionalText = None
    completed_at: OptionalText = None


class QATechTestCase(Response):
    """A test case of the project.

    Attributes:
        id: Its UUID, by which it is started and rerun.
        name: Its name.
        is_enabled: Whether plans run it.
        labels: Its labels.
        classification: POSITIVE, NEGATIVE, functional, or a word that is not documented.
        application_short_id: The application that it tests.
        application_name: That application's name.
        goal: What the agent is told to do.
        created_at: ISO 8601.
        last_run: What came of it the last time, where the service tells.
    """

    id: Text = ""
    name: Text = ""
    is_enabled: Flag = None
    labels: Texts = Field(default_factory=list)
    classification: OptionalText = None
    application_short_id: OptionalText = None
    application_name: OptionalText = None
    goal: OptionalText = None
    created_at: OptionalText = None
    last_run: Annotated[QATechLastRun | None, BeforeValidator(object_or_none)] = None


class QATechNewTestCase(Request):
    """Body of `POST /test-cases`. QA.tech creates it disabled.

    Attributes:
        name: Its name, 1 to 80 characters.
        goal: What the agent is to do.
        application_short_id: The application that it tests, by id or name.
        expected_result: What has to be seen in the end.
        config_short_ids: Configs that it uses.
        scenario_short_id: The scenario that it belongs to.
        resume_from_dependency_project_test_case_id: UUID or name of the test case whose login and browser state it
            takes over.
        wait_for_dependencies_project_test_case_ids: UUIDs or names of test cases that have to pass before.
        project_short_id: The project, where the token belongs to an organisation.

    Example:
        ```python
        QATechNewTestCase(name="Pay by card", goal="Buy a book and pay by card.", application_short_id="app_shop")
        ```
    """

    name: Annotated[str, Field(min_length=1, max_length=80), AfterValidator(clean_text)]
    goal: FilledText
    application_short_id: ApplicationShortId
    expected_result: CleanText | None = None
    config_short_ids: list[ConfigKey] | None = None
    scenario_short_id: ScenarioShortId | None = None
    resume_from_dependency_project_test_case_id: TestCaseId | None = None
    wait_for_dependencies_project_test_case_ids: list[TestCaseId] | None = None
    project_short_id: ProjectShortId | None = None


class QATechCreatedTestCase(Response):
    """A test case that was created.

    Attributes:
        id: Its UUID.
        name: Its name.
        url: Its address on QA.tech.
    """

    id: Text
    name: Text = ""
    url: OptionalText = None


class QATechBuild(Response):
    """A mobile build.

    Attributes:
        application_build_short_id: Its short id; `as_environment()` is the place where it is tested.
        platform: ios or android.
        file_name: The file's name.
        file_size_bytes: Its size, where the service tells.
        app_bundle_id: The application's bundle id, where the service tells.
    """

    application_build_short_id: Text
    platform: OptionalText = None
    file_name: OptionalText = None
    file_size_bytes: OptionalNumber = None
    app_bundle_id: OptionalText = None

    def as_environment(self) -> QATechEnvironment:
        """Return where an application runs that is tested as this build."""
        return QATechEnvironment(application_build_short_id=self.application_build_short_id)


class QATechToolCall(Response):
    """What the agent did in a step.

    Attributes:
        name: The tool.
        arguments: What it was called with.
    """

    name: Text = ""
    arguments: Any = None


class QATechTraceStep(Response):
    """A step of the agent in one test case's execution.

    Attributes:
        index: Its number.
        started_at: ISO 8601.
        ended_at: ISO 8601.
        duration_ms: Milliseconds.
        reasoning: Why the agent did it, in its words.
        tool_calls: What it did.
        tool_result: What came of it.
        screenshot_url: A picture of it.
    """

    index: OptionalNumber = None
    started_at: OptionalText = None
    ended_at: OptionalText = None
    duration_ms: OptionalNumber = None
    reasoning: OptionalText = None
    tool_calls: Annotated[list[QATechToolCall], BeforeValidator(objects_only)] = Field(default_factory=list)
    tool_result: OptionalText = None
    screenshot_url: OptionalText = None


class QATechChange(Request):
    """A change that a release check looks at.

    Attributes:
        summary: What was changed.
        details: More of it.
        reference: A commit or pull request.
        diff: The change itself.
    """

    summary: FilledText
    details: CleanText | None = None
    reference: CleanText | None = None
    diff: CleanText | None = None


class QATechRegression(Request):
    """What a release check runs.

    Attributes:
        test_plan_short_id: A test plan.
        test_case_ids: UUIDs or names of test cases.
    """

    test_plan_short_id: TestPlanShortId | None = None
    test_case_ids: list[TestCaseId] | None = Field(default=None, min_length=1)


class QATechReleaseCheckRequest(Request):
    """Body of `POST /release-checks`: at least one of changes, regression and pr_url.

    Attributes:
        release_name: The release's name.
        release_summary: What is in it.
        context: What the reviewer should know.
        changes: What was changed.
        regression: What is run.
        pr_url: Address of a pull request.
        application_overrides: Applications that are checked elsewhere than QA.tech knows.
        project_short_id: The project, where the token belongs to an organisation.

    Example:
        ```python
        QATechReleaseCheckRequest(release_name="v1.4.2", regression=QATechRegression(test_plan_short_id="pln_smoke"))
        ```
    """

    release_name: CleanText | None = None
    release_summary: CleanText | None = None
    context: CleanText | None = None
    changes: list[QATechChange] | None = Field(default=None, min_length=1)
    regression: QATechRegression | None = None
    pr_url: FilledText | None = None
    application_overrides: list[QATechApplication] | None = None
    project_short_id: ProjectShortId | None = None

    @model_validator(mode="after")
    def _something_to_check(self) -> QATechReleaseCheckRequest:
        if self.changes is None and self.regression is None and self.pr_url is None:
            raise ValueError("a release check needs changes, regression or pr_url")
        return self


class QATechStartedReleaseCheck(Response):
    """A release check that was started.

    Attributes:
        short_id: Its short id.
        url: Its address on QA.tech.
        review_short_id: Short id of the review.
    """

    short_id: Text
    url: OptionalText = None
    review_short_id: OptionalText = None


class QATechScore(Response):
    """What a release check says of one category.

    Attributes:
        name: The category.
        score: Its score.
        summary: Why.
    """

    name: Text = ""
    score: OptionalNumber = None
    summary: OptionalText = None


class QATechFinding(Response):
    """What a release check found.

    Attributes:
        title: What it is.
        category: Its category.
        severity: How bad it is.
        description: More of it.
        is_blocker: Whether it stands in the way of the release; None where the service does not tell.
        recommendation: What could be done.
    """

    title: Text = ""
    category: OptionalText = None
    severity: OptionalText = None
    description: OptionalText = None
    is_blocker: Flag = None
    recommendation: OptionalText = None


FINAL_CHECK_STATUSES = FINAL_STATUSES | {"FAILED"}
"""Statuses after which a release check does not change any more; any other means that it goes on."""


class QATechReleaseCheck(Response):
    """A release check.

    Attributes:
        short_id: Its short id.
        url: Its address on QA.tech.
        status: How it stands.
        release_name: The release's name.
        summary: Its result in words.
        overall_score: Its score over all.
        categories: Its score in each category.
        findings: What it found.
        findings_are_unreadable: Whether the answer tells none, or not so that each can be read.
        manual_follow_ups: What people should look at.
        markdown: Its report.
    """

    short_id: Text = ""
    url: OptionalText = None
    status: Text = ""
    release_name: OptionalText = None
    summary: OptionalText = None
    overall_score: OptionalNumber = None
    categories: Annotated[list[QATechScore], BeforeValidator(objects_only)] = Field(default_factory=list)
    findings: Annotated[list[QATechFinding], BeforeValidator(objects_only)] = Field(default_factory=list)
    findings_are_unreadable: bool = False
    manual_follow_ups: Texts = Field(default_factory=list)
    markdown: OptionalText = None

    @model_validator(mode="before")
    @classmethod
    def _notice_what_cannot_be_read(cls, answer: Any) -> Any:
        if not isinstance(answer, Mapping) or answer.get("findings_are_unreadable") is True:
            return answer
        told = answer.get("findings")
        return {
            **answer,
            "findings_are_unreadable": not isinstance(told, (list, tuple)) or objects_only(told) != [*told],
        }

    @property
    def is_final(self) -> bool:
        """Whether it will not change any more."""
        return self.status in FINAL_CHECK_STATUSES

    @property
    def blockers(self) -> list[QATechFinding]:
        """The findings that stand in the way of the release, or are not told not to."""
        return [finding for finding in self.findings if finding.is_blocker is not False]
