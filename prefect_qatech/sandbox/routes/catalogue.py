"""The catalogue: what the project has."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from prefect_qatech.sandbox import catalogue
from prefect_qatech.sandbox.answers import (
    ApplicationsAnswer,
    CreateTestCaseAnswer,
    EnvironmentsAnswer,
    OutboundIpsAnswer,
    ProjectsAnswer,
    TestCasesAnswer,
)
from prefect_qatech.sandbox.bodies import TestCaseBody
from prefect_qatech.sandbox.routes.common import (
    Limit,
    Offset,
    Reading,
    ServiceOf,
    ShortIdInPath,
    Writing,
    answer_json,
    note,
    refusals,
)

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["Catalogue"])


@router.get(
    "/projects",
    operation_id="projects",
    response_model=ProjectsAnswer,
    responses=refusals(),
    dependencies=[Reading],
)
async def list_projects(service: ServiceOf) -> Response:
    """List the projects."""
    return answer_json(catalogue.projects(service.engine))


@router.get(
    "/applications",
    operation_id="applications",
    response_model=ApplicationsAnswer,
    responses=refusals(),
    dependencies=[Reading],
)
async def list_applications(service: ServiceOf) -> Response:
    """List the applications."""
    return answer_json(catalogue.applications(service.engine))


@router.get(
    "/applications/{shortId}/environments",
    operation_id="environments",
    response_model=EnvironmentsAnswer,
    responses=refusals(),
    dependencies=[Reading],
)
async def list_environments(service: ServiceOf, short_id: ShortIdInPath) -> Response:
    """List the saved environments of an application."""
    return answer_json(catalogue.environments(service.engine, short_id))


@router.get(
    "/test-cases",
    operation_id="test_cases",
    response_model=TestCasesAnswer,
    responses=refusals(),
    dependencies=[Reading],
)
async def list_test_cases(
    service: ServiceOf,
    limit: Limit,
    offset: Offset,
    application_short_id: Annotated[str | None, Query(alias="applicationShortId")] = None,
    labels: Annotated[str, Query(description="Separated by commas; a test case has all of them.")] = "",
    is_enabled: Annotated[Literal["true", "false"] | None, Query(alias="isEnabled")] = None,
) -> Response:
    """List test cases, a page at a time."""
    wanted = [label for label in labels.split(",") if label]
    enabled = None if is_enabled is None else is_enabled == "true"
    with service.lock:
        return answer_json(
            catalogue.test_cases(service.engine, application_short_id, wanted, enabled, limit=limit, offset=offset)
        )


@router.post(
    "/test-cases",
    operation_id="create_test_case",
    response_model=CreateTestCaseAnswer,
    responses=refusals(),
    dependencies=[Writing],
)
async def create_test_case(request: Request, service: ServiceOf, body: TestCaseBody) -> Response:
    """Create a test case; it is disabled."""
    note(request, service, body)
    with service.lock:
        return answer_json(catalogue.create_test_case(service.engine, body))


@router.get(
    "/outbound-ips", operation_id="outbound_ips", response_model=OutboundIpsAnswer, responses=refusals(token=False)
)
async def list_outbound_ips(service: ServiceOf) -> Response:
    """List the addresses from which QA.tech tests; without a token."""
    return answer_json(catalogue.outbound_ips(service.engine))
