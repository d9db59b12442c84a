"""What the API takes in the body of a POST, by the names of the wire; the client's models have no part in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

__all__ = ["ApplicationBody", "EnvironmentBody", "RerunBody", "StartBody"]


def _short_id(prefix: str) -> Any:
    return Field(default=None, pattern=rf"^{prefix}(-.+_.+|_.+)$")


_Uuid = Annotated[str, AfterValidator(lambda text: str(UUID(text)))]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)


class EnvironmentBody(_Body):
    """Where an application runs, in one of three ways."""

    url: str | None = None
    name: str | None = None
    short_id: str | None = _short_id("env")
    application_build_short_id: str | None = _short_id("bld")

    @model_validator(mode="after")
    def _one_of_three(self) -> EnvironmentBody:
        if [self.url, self.short_id, self.application_build_short_id].count(None) != 2:
            raise ValueError("an environment is exactly one of url, shortId and applicationBuildShortId")
        return self


class ApplicationBody(_Body):
    """An application that is tested elsewhere, or on another device, than its plan says."""

    application_short_id: str = Field(pattern=r"^app(-.+_.+|_.+)$")
    environment: EnvironmentBody | None = None
    device_preset_short_id: str | None = _short_id("preset")


class _Notification(_Body):
    type: Literal["slack"]
    channel: str = Field(min_length=1)
    notify_on: Literal["always", "failure"] | None = None


class _GitHub(_Body):
    actor: str | None = None
    branch: str | None = None
    commit_hash: str | None = None
    commit_message: str | None = None
    repository: str | None = Field(default=None, pattern=r"^[^/\s]+/[^/\s]+$")


class _Parameters(_Body):
    configs: dict[str, Any] | None = None
    configs_by_environment: dict[str, dict[str, Any]] | None = None


class StartBody(_Body):
    """Body of `POST /run`; the GitHub fields of its top level are in `github`."""

    test_plan_short_id: str | None = _short_id("pln")
    test_case_ids: list[_Uuid] | None = Field(default=None, min_length=1)
    applications: list[ApplicationBody] | None = None
    notifications: list[_Notification] | None = Field(default=None, min_length=1)
    github: _GitHub | None = None
    parameters: _Parameters | None = None
    project_short_id: str | None = _short_id("proj")

    @model_validator(mode="after")
    def _plan_or_cases(self) -> StartBody:
        if self.test_plan_short_id is not None and self.test_case_ids is not None:
            raise ValueError("give a test plan or test cases, not both")
        return self


class RerunBody(_Body):
    """Body of `POST /run/{shortId}`."""

    failed_only: bool = False
    test_case_ids: list[_Uuid] | None = Field(default=None, min_length=1, alias="projectTestCaseIds")
    project_short_id: str | None = _short_id("proj")

    @model_validator(mode="after")
    def _one_filter(self) -> RerunBody:
        if self.failed_only and self.test_case_ids is not None:
            raise ValueError("Provide either failedOnly or projectTestCaseIds, not both")
        return self
