"""What the API takes in the body of a POST, by the names of the wire.

The documented objects are open: a field that is not known here is kept aside, so that it can be counted, and is no
error. An id may look like anything; what is not there is answered with 404.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel

from prefect_qatech.sandbox.scenario import Platform

__all__ = [
    "ApplicationBody",
    "BuildBody",
    "EnvironmentBody",
    "ReleaseCheckBody",
    "RerunBody",
    "StartBody",
    "TestCaseBody",
    "UploadBody",
    "unknown_fields",
]


def _same_case(value: str) -> str:
    try:
        return str(UUID(value))
    except ValueError:
        return value  # unknown then, and the engine says so


_Uuid = Annotated[str, AfterValidator(_same_case)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True, alias_generator=to_camel)


def unknown_fields(value: object, place: str = "") -> Iterator[str]:
    """Return the names of all fields that were sent and are not known, `applications.colour` for example."""
    if isinstance(value, BaseModel):
        yield from (f"{place}{name}" for name in value.model_extra or {})
        for name, field in type(value).model_fields.items():
            yield from unknown_fields(getattr(value, name), f"{place}{field.alias or name}.")
    elif isinstance(value, list):
        for item in value:
            yield from unknown_fields(item, place)


class EnvironmentBody(_Body):
    """Where an application runs: an address, a saved environment, or a mobile build."""

    url: str | None = None
    name: str | None = None
    short_id: str | None = None
    application_build_short_id: str | None = None

    @model_validator(mode="after")
    def _one_of_three(self) -> EnvironmentBody:
        if self.url is None and self.short_id is None and self.application_build_short_id is None:
            raise ValueError("an environment is one of url, shortId and applicationBuildShortId")
        return self


class ApplicationBody(_Body):
    """An application that is tested elsewhere, or on another device, than its plan says."""

    application_short_id: str
    environment: EnvironmentBody | None = None
    device_preset_short_id: str | None = None


class NotificationBody(_Body):
    """A Slack channel that is told of the run."""

    type: Literal["slack"]
    channel: str
    notify_on: Literal["always", "failure"] | None = None


class ParametersBody(_Body):
    """Values for configs, by a config's id or slug, whatever they are."""

    configs: dict[str, Any] | None = None
    configs_by_environment: dict[str, dict[str, Any]] | None = None


class StartBody(_Body):
    """Body of `POST /run`. The GitHub fields count with `trigger` GITHUB, and are ignored otherwise."""

    trigger: Literal["API", "GITHUB"] | None = None
    actor: str | None = None
    branch: str | None = None
    commit_hash: str | None = None
    commit_message: str | None = None
    repository: str | None = Field(default=None, description="owner/repo")
    test_plan_short_id: str | None = None
    test_case_ids: list[_Uuid] | None = None
    applications: list[ApplicationBody] | None = None
    notifications: list[NotificationBody] | None = Field(default=None, min_length=1)
    parameters: ParametersBody | None = None
    project_short_id: str | None = None

    @field_validator("actor", "branch", "commit_hash", "commit_message", "repository", mode="before")
    @classmethod
    def _ignored_without_github(cls, value: object, info: ValidationInfo) -> object:
        return value if info.data.get("trigger") == "GITHUB" else None

    @field_validator("repository")
    @classmethod
    def _owner_and_repository(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[^/\s]+/[^/\s]+", value):
            raise ValueError("must be owner/repo")
        return value


class RerunBody(_Body):
    """Body of `POST /run/{shortId}`; `{}` reruns everything."""

    failed_only: bool | None = None
    project_test_case_ids: list[_Uuid] | None = None
    project_short_id: str | None = None

    @model_validator(mode="after")
    def _one_filter(self) -> RerunBody:
        if self.failed_only and self.project_test_case_ids is not None:
            raise ValueError("Provide either failedOnly or projectTestCaseIds, not both")
        return self


class TestCaseBody(_Body):
    """Body of `POST /test-cases`."""

    __test__ = False  # not a class of pytest's

    name: str = Field(min_length=1, max_length=80)
    goal: str
    application_short_id: str
    expected_result: str | None = None
    config_short_ids: list[str] | None = None
    scenario_short_id: str | None = None
    resume_from_dependency_project_test_case_id: _Uuid | None = None
    wait_for_dependencies_project_test_case_ids: list[_Uuid] | None = None
    project_short_id: str | None = None


class UploadBody(_Body):
    """Body of `POST /applications/{shortId}/builds/upload-url`."""

    file_name: str
    project_short_id: str | None = None

    @field_validator("file_name")
    @classmethod
    def _of_a_mobile_build(cls, value: str) -> str:
        if not value.lower().endswith((".apk", ".aab", ".ipa")):
            raise ValueError("must end with .apk, .aab or .ipa")
        return value


class BuildBody(_Body):
    """Body of `POST /applications/{shortId}/builds`."""

    platform: Platform
    build_token: str
    project_short_id: str | None = None


class ChangeBody(_Body):
    """A change that a release check looks at."""

    summary: str
    details: str | None = None
    reference: str | None = None
    diff: str | None = None


class RegressionBody(_Body):
    """What a release check runs."""

    test_plan_short_id: str | None = None
    test_case_ids: list[_Uuid] | None = None


class ReleaseCheckBody(_Body):
    """Body of `POST /release-checks`; at least one of changes, regression and prUrl."""

    release_name: str | None = None
    release_summary: str | None = None
    context: str | None = None
    changes: list[ChangeBody] | None = None
    regression: RegressionBody | None = None
    pr_url: str | None = None
    application_overrides: list[ApplicationBody] | None = None
    project_short_id: str | None = None

    @model_validator(mode="after")
    def _something_to_check(self) -> ReleaseCheckBody:
        if not (self.changes or self.regression or self.pr_url):
            raise ValueError("at least one of changes, regression and prUrl is needed")
        return self
