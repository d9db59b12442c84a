"""What is asked of QA.tech: the bodies of a start and of a rerun.

Sources: the vendor's API reference (https://docs.qa.tech/api-reference) and OpenAPI document.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from prefect_qatech.api.ids import (
    ApplicationShortId,
    BuildShortId,
    ConfigKey,
    DevicePresetShortId,
    EnvironmentId,
    EnvironmentShortId,
    ProjectShortId,
    TestCaseId,
    TestPlanShortId,
)
from prefect_qatech.api.wire import FilledText, Request
from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.inputs import CleanText, Several, short_repr


class QATechEnvironment(Request):
    """Where an application under test runs: an address, a saved environment, or a mobile build; one of the three.

    Attributes:
        url: Address of a deployment, a preview for example.
        name: A name for that address in the service's reports.
        short_id: Short id of a saved environment, `env_...`, or its name.
        application_build_short_id: Short id of a mobile build, `bld_...` or `build_...`.

    Example:
        ```python
        QATechEnvironment(url="https://pr-42.example.com", name="PR 42")
        ```
    """

    url: FilledText | None = Field(default=None, title="Address")
    name: CleanText | None = Field(default=None, title="Name of the address")
    short_id: EnvironmentShortId | None = Field(default=None, title="Saved environment")
    application_build_short_id: BuildShortId | None = Field(default=None, title="Mobile build")

    @model_validator(mode="after")
    def _one_of_three(self) -> QATechEnvironment:
        given = [name for name in ("url", "short_id", "application_build_short_id") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give an environment exactly one of url, short_id and application_build_short_id")
        if self.name is not None and self.url is None:
            raise ValueError("name goes with url only")
        return self


class QATechApplication(Request):
    """An application of the project, tested somewhere else or on another device than the plan says.

    Attributes:
        application_short_id: Short id of the application, `app_...`, or its name.
        environment: Where it runs; the plan's own environment when absent.
        device_preset_short_id: Short id of a device preset, `preset_...`.

    Example:
        ```python
        QATechApplication(application_short_id="app_shop", environment=QATechEnvironment(url="https://pr-42.example.com"))
        ```
    """

    application_short_id: ApplicationShortId = Field(title="Application")
    environment: QATechEnvironment | None = Field(default=None, title="Environment")
    device_preset_short_id: DevicePresetShortId | None = Field(default=None, title="Device preset")


class QATechNotification(Request):
    """A Slack channel that QA.tech notifies of the run.

    Attributes:
        channel: Id of the channel, `C0478ABCDEF`.
        notify_on: `always`, or on `failure` only; the service's default when absent.
        type: The kind of notification; the API knows `slack`.
    """

    type: Literal["slack"] = Field(default="slack", title="Kind")
    channel: FilledText = Field(title="Slack channel id")
    notify_on: Literal["always", "failure"] | None = Field(default=None, title="Notify on")


class QATechGitHubTrigger(Request):
    """What the service shows of the GitHub event that a run belongs to.

    Attributes:
        actor: Login of the person.
        branch: Name of the branch.
        commit_hash: Hash of the commit.
        commit_message: Message of the commit.
        repository: `owner/repo`.
    """

    actor: CleanText | None = Field(default=None, title="Person")
    branch: CleanText | None = Field(default=None, title="Branch")
    commit_hash: CleanText | None = Field(default=None, title="Commit")
    commit_message: CleanText | None = Field(default=None, title="Message of the commit")
    repository: str | None = Field(default=None, pattern=r"^[^/\s]+/[^/\s]+$", title="Repository (owner/repo)")


class QATechParameters(Request):
    """Values for the project's configs, for this run only.

    Attributes:
        configs: Config short id (`cfg_...`), or its slug, to its payload.
        configs_by_environment: UUID of an environment to such a mapping.
    """

    configs: dict[ConfigKey, Any] | None = Field(default=None, title="Configs")
    configs_by_environment: dict[EnvironmentId, dict[ConfigKey, Any]] | None = Field(
        default=None, title="Configs by environment"
    )


class QATechRunRequest(Request):
    """Body of `POST /run`: what to test, where. Without any field, the project's default test plan.

    - What is run is a plan, test cases, or the enabled test cases of some labels or of an application.
    - Applications, environments, test cases and the project are given by id or by name. What looks like an id
      (`app_...`, a UUID) is taken as one; a name must be exact, and that of one thing only.

    Attributes:
        test_plan_short_id: The plan to run, `pln_...`.
        test_case_ids: UUIDs or names of the test cases to run.
        labels: Run the test cases that have all of these labels.
        application_short_id: Run the test cases of this application.
        applications: Applications to test elsewhere than their plan says.
        notifications: Slack channels to tell.
        github: The GitHub event behind the run; makes `trigger` GITHUB.
        parameters: Values for the project's configs.
        project_short_id: The project, `proj_...` or its name, where the token belongs to an organisation.

    Example:
        ```python
        QATechRunRequest(test_plan_short_id="pln_smoke", applications=[...])
        QATechRunRequest(labels=["smoke"], application_short_id="Shop")
        ```
    """

    test_plan_short_id: TestPlanShortId | None = Field(default=None, title="Test plan")
    test_case_ids: list[TestCaseId] | None = Field(default=None, min_length=1, title="Test cases")
    labels: list[FilledText] | None = Field(default=None, min_length=1, title="Test cases with these labels")
    application_short_id: ApplicationShortId | None = Field(default=None, title="Test cases of this application")
    applications: Several[QATechApplication] | None = Field(default=None, title="Applications")
    notifications: Several[QATechNotification] | None = Field(default=None, min_length=1, title="Notifications")
    github: QATechGitHubTrigger | None = Field(default=None, title="GitHub event")
    parameters: QATechParameters | None = Field(default=None, title="Parameters")
    project_short_id: ProjectShortId | None = Field(default=None, title="Project")

    @model_validator(mode="after")
    def _plan_or_cases(self) -> QATechRunRequest:
        if self.test_plan_short_id is not None and self.test_case_ids is not None:
            raise ValueError("give a test plan or test cases, not both")
        if self.is_selection and (self.test_plan_short_id is not None or self.test_case_ids is not None):
            raise ValueError(
                "labels and application_short_id say which test cases are run: give them instead of a test plan or "
                "test cases; `applications` says where an application is tested"
            )
        return self

    @property
    def is_selection(self) -> bool:
        """Whether the test cases that are run have to be found by labels or application."""
        return self.labels is not None or self.application_short_id is not None

    def to_json(self) -> dict[str, Any]:
        """Return the body that goes over the wire; the GitHub fields stand at its top level."""
        body = super().to_json()
        github = body.pop("github", None)
        return {**body, "trigger": "API"} if github is None else {**body, "trigger": "GITHUB", **github}


def as_request(request: QATechRunRequest | str | None) -> QATechRunRequest:
    """Return the request that a caller means: an id is that of a test plan, None the project's default plan."""
    if isinstance(request, QATechRunRequest):
        return request
    if request is None or isinstance(request, str):
        return QATechRunRequest(test_plan_short_id=request)
    raise InvalidInputError(
        f"request: a QATechRunRequest, the id of a test plan ('pln_...') or None is needed, not {short_repr(request)}"
    )


class QATechRerunRequest(Request):
    """Body of `POST /run/{shortId}`: everything again, what did not pass, or the listed test cases.

    Attributes:
        failed_only: Rerun the failed, skipped and errored test cases.
        test_case_ids: UUIDs or names of the test cases to rerun (`projectTestCaseIds` of the API).
        project_short_id: The project, or its name, where the token belongs to an organisation.
    """

    failed_only: bool = False
    test_case_ids: list[TestCaseId] | None = Field(default=None, min_length=1)
    project_short_id: ProjectShortId | None = None

    @model_validator(mode="after")
    def _one_filter(self) -> QATechRerunRequest:
        if self.failed_only and self.test_case_ids is not None:
            raise ValueError("give failed_only or test_case_ids, not both; neither reruns everything")
        return self

    def to_json(self) -> dict[str, Any]:
        """Return the body that goes over the wire; `{}` reruns everything."""
        body = super().to_json()
        if not body.pop("failedOnly"):
            return {"projectTestCaseIds" if name == "testCaseIds" else name: value for name, value in body.items()}
        return {"failedOnly": True, **body}
