"""Pure: what a gate tests, where, and who or what has it tested. What nobody knows is absent, and never made up."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from prefect_qatech.addresses import safe_url, without_password
from prefect_qatech.api.requests import QATechApplication, QATechRunRequest
from prefect_qatech.inputs import CleanText
from prefect_qatech.texts import cut
from prefect_qatech.verdict.identity import NAME_LENGTH

_Name = Annotated[CleanText, AfterValidator(lambda text: cut(text, NAME_LENGTH))]


class ReportedApplication(BaseModel):
    """An application that was tested somewhere else than its plan says, and where.

    Attributes:
        application_short_id: Its short id, or its name where it was given by that.
        environment_url: The address of its environment, without a password.
        environment_name: A name for that address.
        environment_short_id: Short id of a saved environment.
        application_build_short_id: Short id of a mobile build.
        device_preset_short_id: Short id of a device preset.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    application_short_id: CleanText
    environment_url: Annotated[CleanText, AfterValidator(without_password)] | None = None
    environment_name: _Name | None = None
    environment_short_id: CleanText | None = None
    application_build_short_id: CleanText | None = None
    device_preset_short_id: CleanText | None = None

    @classmethod
    def of(cls, application: QATechApplication) -> ReportedApplication:
        """Return what a report says of an application of a request."""
        environment = application.environment
        return cls(
            application_short_id=application.application_short_id,
            environment_url=environment.url if environment else None,
            environment_name=environment.name if environment else None,
            environment_short_id=environment.short_id if environment else None,
            application_build_short_id=environment.application_build_short_id if environment else None,
            device_preset_short_id=application.device_preset_short_id,
        )


class GateSubject(BaseModel):
    """What a gate tests, where, and who or what has it tested. What is not known is None.

    Attributes:
        target: What is tested, as the caller named it: a commit, an image digest, a version of the data.
        plan_short_id: The test plan.
        plan_name: Its name.
        label: The user's label of the gate.
        project_short_id: The project, where it was named.
        applications: What was tested where, as the request had it; none where that was up to the plan.
        branch: The branch that the request names.
        commit: The commit that the request names.
        credentials_block: Name of the saved credentials block by which it was tested.
        flow_run_id: The flow run of the gate.
        flow_run_url: The page of that flow run.
        deployment: The deployment that runs, as `flow/deployment`.
        started_by: Who or what started it.

    Example:
        ```python
        GateSubject(target="v1.4.2", plan_short_id="pln_smoke")
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: CleanText | None = None
    plan_short_id: CleanText | None = None
    plan_name: _Name | None = None
    label: CleanText | None = None
    project_short_id: CleanText | None = None
    applications: tuple[ReportedApplication, ...] = ()
    branch: _Name | None = None
    commit: _Name | None = None
    credentials_block: CleanText | None = None
    flow_run_id: str | None = None
    flow_run_url: Annotated[str | None, AfterValidator(safe_url)] = None
    deployment: _Name | None = None
    started_by: _Name | None = None


def subject_of(
    request: QATechRunRequest,
    *,
    target: str | None = None,
    label: str | None = None,
    credentials_block: str | None = None,
    project_short_id: str | None = None,
) -> GateSubject:
    """Return what a request asks to be tested; `project_short_id` counts where the request names none."""
    github = request.github
    return GateSubject(
        target=target,
        plan_short_id=request.test_plan_short_id,
        label=label,
        project_short_id=request.project_short_id or project_short_id,
        applications=tuple(ReportedApplication.of(application) for application in request.applications or ()),
        branch=github.branch if github else None,
        commit=github.commit_hash if github else None,
        credentials_block=credentials_block,
        started_by=f"{github.actor} on GitHub" if github and github.actor else None,
    )
