"""What a report says of its subject: what the request had, and what the flow run tells; nothing that nobody knows."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from pydantic import ValidationError

from prefect_qatech import (
    GateSubject,
    QATechApplication,
    QATechEnvironment,
    QATechGitHubTrigger,
    QATechRunRequest,
    evaluate,
)
from prefect_qatech.report.deployed import run_by, starter_of
from prefect_qatech.report.subject import subject_of

PREVIEW = QATechEnvironment(url="https://ada:secret@pr-42.example.com/shop", name="PR 42")


def test_what_a_request_says_is_in_its_subject() -> None:
    request = QATechRunRequest(
        test_plan_short_id="pln_smoke",
        applications=[QATechApplication(application_short_id="app_shop", environment=PREVIEW)],
        github=QATechGitHubTrigger(actor="ada", branch="basket", commit_hash="4f2c9e1"),
        project_short_id="proj_shop",
    )
    subject = subject_of(request, target="v2", label="before", credentials_block="prod", project_short_id="proj_other")
    assert subject.model_dump(exclude_defaults=True, exclude={"applications"}) == {
        "target": "v2",
        "plan_short_id": "pln_smoke",
        "label": "before",
        "project_short_id": "proj_shop",
        "branch": "basket",
        "commit": "4f2c9e1",
        "credentials_block": "prod",
        "started_by": "ada on GitHub",
    }
    [application] = subject.applications
    assert (application.application_short_id, application.environment_name) == ("app_shop", "PR 42")
    assert application.environment_url == "https://pr-42.example.com/shop", "who reads it may not sign in there"


def test_nothing_is_made_up() -> None:
    assert subject_of(QATechRunRequest()) == GateSubject()
    report = evaluate([], subject=GateSubject(target="v2"))
    assert {name for name in GateSubject.model_fields if getattr(report, name)} == {"target"}


def test_a_word_that_is_no_field_is_refused_and_not_lost() -> None:
    with pytest.raises(ValidationError, match="taget"):
        GateSubject(taget="v2")


@pytest.mark.parametrize(
    ("created_by", "told"),
    [
        (None, None),
        ({"type": "SCHEDULE", "display_value": None}, None),
        ({"type": "SCHEDULE", "display_value": "every-night"}, "schedule every-night"),
        ({"type": "AUTOMATION", "display_value": "Retest"}, "automation Retest"),
        ({"type": "USER", "display_value": "Ada"}, "Ada"),
    ],
)
def test_who_or_what_has_started_a_flow_run(created_by: dict[str, Any] | None, told: str | None) -> None:
    body = {"id": uuid4(), "flow_id": uuid4(), "created_by": created_by}
    assert starter_of(FlowRun.model_validate(body)) == told


@flow(name="gate-inside")
async def inside() -> dict[str, str | None]:
    return await run_by()


@flow(name="gate-above")
async def above() -> dict[str, str | None]:
    return await inside()


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("deployed", [inside, above])
async def test_the_deployment_that_somebody_started_is_named(deployed: Any) -> None:
    async with get_client() as client:
        flow_id = await client.create_flow(deployed)
        deployment_id = await client.create_deployment(flow_id, name="staging")
        made = await client.create_flow_run_from_deployment(deployment_id)
    told = await run_flow(deployed, flow_run=made)
    assert told["deployment"] == f"{deployed.name}/staging"
    assert (told["flow_run_id"] == str(made.id)) is (deployed is inside), "the gate's own flow run"
    assert told["flow_run_id"] == str(UUID(told["flow_run_id"]))


@pytest.mark.usefixtures("prefect_server")
async def test_a_flow_run_without_a_deployment_tells_of_none() -> None:
    told = await inside()
    assert (told.get("deployment"), told.get("started_by")) == (None, None)
