"""What the project has, as the API lists it; and new test cases."""

from __future__ import annotations

from collections.abc import Sequence

from prefect_qatech.sandbox.answers import (
    ApplicationsAnswer,
    CreateTestCaseAnswer,
    EnvironmentsAnswer,
    LastRun,
    OutboundIpsAnswer,
    ProjectsAnswer,
    TestCaseListItem,
    TestCasesAnswer,
)
from prefect_qatech.sandbox.bodies import TestCaseBody
from prefect_qatech.sandbox.engine import Engine, Refusal
from prefect_qatech.sandbox.ids import resolve
from prefect_qatech.sandbox.scenario import TestCase

__all__ = ["applications", "create_test_case", "environments", "outbound_ips", "projects", "test_cases"]


def projects(engine: Engine) -> ProjectsAnswer:
    """Return the answer of `GET /projects`."""
    project = engine.scenario.project
    return {"projects": [{"shortId": project.short_id, "name": project.name}]}


def applications(engine: Engine) -> ApplicationsAnswer:
    """Return the answer of `GET /applications`."""
    listed = engine.scenario.applications
    return {"applications": [{"shortId": app.short_id, "name": app.name, "kind": app.kind} for app in listed]}


def environments(engine: Engine, application_short_id: str) -> EnvironmentsAnswer:
    """Return the answer of `GET /applications/{shortId}/environments`."""
    return {
        "environments": [
            {"shortId": saved.short_id, "name": saved.name, "url": saved.url, "isProduction": saved.is_production}
            for saved in engine.application(application_short_id).environments
        ]
    }


def outbound_ips(engine: Engine) -> OutboundIpsAnswer:
    """Return the answer of `GET /outbound-ips`."""
    return {"ipAddresses": engine.scenario.outbound_ips}


def test_cases(
    engine: Engine,
    application_short_id: str | None,
    labels: Sequence[str],
    is_enabled: bool | None,
    *,
    limit: int,
    offset: int,
) -> TestCasesAnswer:
    """Return the answer of `GET /test-cases`."""
    known = [app.short_id for app in engine.scenario.applications]
    wanted = application_short_id and (resolve(application_short_id, known, "app") or application_short_id)
    found = [
        case
        for case in engine.cases.values()
        if wanted in {None, _application_of(engine, case)}
        and is_enabled in {None, case.is_enabled}
        and {*labels} <= {*case.labels}
    ]
    listed = [_item(engine, case) for case in found[offset : offset + limit]]
    return {"testCases": listed, "total": len(found), "limit": limit, "offset": offset}


def create_test_case(engine: Engine, body: TestCaseBody) -> CreateTestCaseAnswer:
    """Carry out `POST /test-cases` and return its answer."""
    engine.check_project(body.project_short_id)
    application = engine.application(body.application_short_id)
    by_uuid = {case.uuid: key for key, case in engine.cases.items()}
    needed = [
        body.resume_from_dependency_project_test_case_id,
        *(body.wait_for_dependencies_project_test_case_ids or []),
    ]
    depends_on = [*dict.fromkeys(uuid for uuid in needed if uuid is not None)]
    unknown = [uuid for uuid in depends_on if uuid not in by_uuid]
    if unknown:
        raise Refusal(404, f"Test case not found: {', '.join(unknown[:5])}")
    uuid = engine.new_uuid()
    case = TestCase(
        name=body.name,
        key=uuid,
        uuid=uuid,
        application=application.short_id,
        goal=body.goal,
        depends_on=[by_uuid[one] for one in depends_on],
        is_enabled=False,
        created_seconds=engine.clock.now(),
    )
    engine.cases[case.key] = case
    return {
        "success": True,
        "testCase": {"id": case.uuid, "name": case.name, "url": engine.page(f"test-cases/{case.uuid}")},
    }


def _application_of(engine: Engine, case: TestCase) -> str | None:
    first = next((app.short_id for app in engine.scenario.applications), None)
    return case.application or (case.http.application if case.http else first)


def _item(engine: Engine, case: TestCase) -> TestCaseListItem:
    application = _application_of(engine, case)
    return {
        "id": case.uuid,
        "name": case.name,
        "isEnabled": case.is_enabled,
        "labels": case.labels,
        "classification": case.classification,
        "applicationShortId": application,
        "applicationName": engine.application(application).name if application else None,
        "goal": case.goal,
        "createdAt": engine.clock.text(case.created_seconds),
        "lastRun": _last_run(engine, case),
    }


def _last_run(engine: Engine, case: TestCase) -> LastRun | None:
    last = engine.last_executions.get(case.key)
    if last is None:
        return None
    run, execution = last
    run.settle(engine.clock.now())
    return {
        "runShortId": run.short_id,
        "status": execution.status,
        "result": execution.result,
        "completedAt": engine.clock.text(execution.completed),
    }
