"""The sandbox's state: what the project has, its runs, and a virtual clock. No I/O, no threads, no background work."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from typing_extensions import TypedDict

from prefect_qatech.sandbox.answers import (
    RerunAnswer,
    RunAnswer,
    RunReference,
    RunTestCase,
    RunTestCaseAnswer,
    StartAnswer,
)
from prefect_qatech.sandbox.bodies import ApplicationBody, RerunBody, StartBody
from prefect_qatech.sandbox.clock import Clock
from prefect_qatech.sandbox.ids import resolve
from prefect_qatech.sandbox.runs import Campaign, Execution, Run, at_attempt
from prefect_qatech.sandbox.scenario import (
    Application,
    Plan,
    RunBehaviour,
    SandboxScenario,
    TestCase,
    with_dependencies,
)

__all__ = ["Engine", "Refusal", "SandboxCounts"]

USAGE_LIMIT_MESSAGE = "Organization has reached usage limit. Please upgrade your plan to run more tests."


class SandboxCounts(TypedDict):
    """What the sandbox was asked. Starts and reruns are those that it accepted, whether or not the answer arrived.

    `gets` are those of the API; `requests` counts by method and path, pages and unversioned paths too;
    `unknown_fields` are fields of bodies that no document of the API names.
    """

    starts: int
    starts_by_plan: dict[str, int]
    reruns: int
    reruns_failed_only: int
    reruns_everything: int
    reruns_listed: int
    test_executions: int
    http_checks: int
    gets: int
    requests: dict[str, int]
    unknown_fields: dict[str, int]
    uploads: int
    builds: int
    release_checks: int


class Refusal(Exception):
    """A documented error: a status and the `message` of its body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Engine:
    """Starts, reruns and shows runs by a scenario."""

    def __init__(self, scenario: SandboxScenario, clock: Clock, *, seed: int | None = 0, base_url: str = "") -> None:
        self.scenario = scenario
        self.clock = clock
        self.base_url = base_url
        self.cases: dict[str, TestCase] = dict(scenario.cases)
        self.runs: dict[str, Run] = {}
        self.executions: dict[str, tuple[Run, Execution]] = {}
        self.last_executions: dict[str, tuple[Run, Execution]] = {}
        self.remaining: int | None = scenario.usage_limit
        self.counts = SandboxCounts(
            starts=0,
            starts_by_plan={plan.short_id: 0 for plan in scenario.plans},
            reruns=0,
            reruns_failed_only=0,
            reruns_everything=0,
            reruns_listed=0,
            test_executions=0,
            http_checks=0,
            gets=0,
            requests={},
            unknown_fields={},
            uploads=0,
            builds=0,
            release_checks=0,
        )
        self._random = random.Random(seed)
        self._short_ids = iter(scenario.run_short_ids)

    # --- what is asked

    def start(self, request: StartBody) -> StartAnswer:
        """Carry out `POST /run` and return its answer."""
        self.check_project(request.project_short_id)
        run = self.begin(request.test_plan_short_id, request.test_case_ids, request.applications)
        self.counts["starts"] += 1
        plan = run.plan
        if plan is not None:
            self.counts["starts_by_plan"][plan.short_id] += 1
        return {
            "success": True,
            "run": {
                **self._reference(run),
                "testPlan": {"name": plan.name, "shortId": plan.short_id} if plan else None,
            },
        }

    def begin(
        self, plan_short_id: str | None, test_case_ids: list[str] | None, overrides: Sequence[ApplicationBody] | None
    ) -> Run:
        """Make the first run of a campaign: of a plan, of single test cases, or of the default plan."""
        plan: Plan | None = None
        if plan_short_id is not None or test_case_ids is None:
            plan = self._plan(plan_short_id)
        if test_case_ids is None:
            keys = plan.keys if plan else []
        else:
            by_uuid = {case.uuid: key for key, case in self.cases.items()}
            unknown = [uuid for uuid in test_case_ids if uuid not in by_uuid]
            if unknown:
                raise Refusal(404, f"Test case not found: {', '.join(unknown[:5])}")
            keys = [by_uuid[uuid] for uuid in test_case_ids]
        return self._add_run(plan, keys, Campaign(), None, self.overrides(overrides))

    def rerun(self, run: Run, request: RerunBody) -> RerunAnswer:
        """Carry out `POST /run/{shortId}` and return its answer."""
        self.check_project(request.project_short_id)
        if request.project_test_case_ids is not None:
            by_uuid = {execution.case.uuid: execution.case.key for execution in run.executions}
            unknown = [uuid for uuid in request.project_test_case_ids if uuid not in by_uuid]
            if unknown:
                raise Refusal(400, f"Test cases are not part of the run: {', '.join(unknown[:5])}")
            keys, kind = {by_uuid[uuid] for uuid in request.project_test_case_ids}, "listed"
        elif request.failed_only:
            keys, kind = {execution.case.key for execution in run.executions if execution.is_failed}, "failed_only"
        else:
            keys, kind = {execution.case.key for execution in run.executions}, "everything"
        if not keys:
            raise Refusal(400, "No tests to rerun")
        # The order is that of the run, whatever the order in which they were named.
        in_order = [execution.case.key for execution in run.executions if execution.case.key in keys]
        new = self._add_run(run.plan, in_order, run.campaign, run, run.applications)
        self.counts["reruns"] += 1
        self.counts[f"reruns_{kind}"] += 1  # type: ignore[literal-required]
        return {"success": True, "run": self._reference(new)}

    def count_unknown_fields(self, request: str, names: Sequence[str]) -> None:
        """Count fields of a body that no document names."""
        for name in names:
            key = f"{request}: {name}"
            self.counts["unknown_fields"][key] = self.counts["unknown_fields"].get(key, 0) + 1

    # --- what there is

    def check_project(self, short_id: str | None) -> None:
        """Refuse a project other than the scenario's."""
        if short_id is not None and resolve(short_id, [self.scenario.project.short_id], "proj") is None:
            raise Refusal(404, "Project not found")

    def application(self, short_id: str) -> Application:
        """Return an application."""
        known = {app.short_id: app for app in self.scenario.applications}
        found = resolve(short_id, known, "app")
        if found is None:
            raise Refusal(404, "Application not found")
        return known[found]

    def overrides(self, overrides: Sequence[ApplicationBody] | None) -> dict[str, ApplicationBody]:
        """Return the overrides by application, each of which there is. Any build will do: it may be from elsewhere."""
        applications = {}
        for override in overrides or []:
            application = self.application(override.application_short_id)
            applications[application.short_id] = self._with_known_environment(override, application)
        return applications

    def find(self, short_id: str) -> Run:
        """Return a run."""
        run = self.runs.get(short_id)
        if run is None:
            raise Refusal(404, "Run not found")
        return run

    def find_execution(self, short_id: str) -> tuple[Run, Execution]:
        """Return a test case in a run, and the run."""
        found = self.executions.get(short_id)
        if found is None:
            raise Refusal(404, "Run test case not found")
        return found

    def test_url(self, run: Run, application: str) -> str | None:
        """Return where a run tests an application: at its own override, else in the first saved environment."""
        override = run.applications.get(application)
        environment = override.environment if override else None
        if environment is not None and (environment.url is not None or environment.short_id is None):
            return environment.url  # a mobile build has none
        for saved in self.application(application).environments:
            if environment is None or saved.short_id == environment.short_id:
                return saved.url
        return None

    # --- what is shown

    def show(self, run: Run, which: str | None) -> RunAnswer:
        """Return the answer of `GET /run/{shortId}`."""
        now = self.clock.now()
        listed = [execution for execution in run.executions if which == "all" or (which and execution.is_failed)]
        return {
            "id": run.id,
            "shortId": run.short_id,
            "status": run.status(now),
            "result": run.result(now),
            "runTestCases": [self._brief(execution) for execution in listed],
        }

    def show_execution(self, run: Run, execution: Execution) -> RunTestCaseAnswer:
        """Return the answer of `GET /run-test-case/{shortId}`."""
        outcome = execution.outcome
        started, completed = execution.started, execution.completed
        return {
            **self._brief(execution),
            "errorCode": outcome.error_code if outcome else None,
            "classification": execution.case.classification,
            "runShortId": run.short_id,
            "projectTestCaseId": execution.case.uuid,
            "startedAt": self.clock.text(started),
            "completedAt": self.clock.text(completed),
            "durationMs": None if completed is None or started is None else round((completed - started) * 1000),
            "url": f"{self.run_url(run)}#{execution.short_id}",
            "screenshotUrl": self.page(f"screenshots/{execution.short_id}.svg") if completed is not None else None,
            "recordingUrl": self.page(f"recordings/{execution.short_id}") if completed is not None else None,
        }

    def summary(self, run: Run) -> dict[str, Any]:
        """Return what the sandbox's own list of runs says of one."""
        now = self.clock.now()
        return {
            "short_id": run.short_id,
            "parent": run.parent,
            "index": run.index,
            "plan": run.plan and run.plan.short_id,
            "status": run.status(now),
            "result": run.result(now),
            "test_count": run.test_count,
            "test_cases": [execution.case.name for execution in run.executions],
            "applications": [
                override.model_dump(by_alias=True, exclude_none=True) for override in run.applications.values()
            ],
            "created_at": self.clock.text(run.created),
        }

    def run_url(self, run: Run) -> str:
        """Return the address of a run's page."""
        return self.page(f"results/{run.short_id}")

    def page(self, path: str) -> str:
        """Return the address of a page of the project."""
        return f"{self.base_url}/p/{self.scenario.project.short_id}/{path}"

    # --- inside

    def _plan(self, short_id: str | None) -> Plan:
        plans = {plan.short_id: plan for plan in self.scenario.plans}
        found = resolve(short_id or self.scenario.default_plan or self.scenario.plans[0].short_id, plans, "pln")
        if found is None:
            raise Refusal(404, "Test plan not found")
        return plans[found]

    def _with_known_environment(self, override: ApplicationBody, application: Application) -> ApplicationBody:
        environment = override.environment
        if environment is None or environment.url is not None or environment.short_id is None:
            return override
        found = resolve(environment.short_id, [saved.short_id for saved in application.environments], "env")
        if found is None:
            raise Refusal(404, "Environment not found")
        return override.model_copy(update={"environment": environment.model_copy(update={"short_id": found})})

    def _brief(self, execution: Execution) -> RunTestCase:
        outcome = execution.outcome
        return {
            "id": execution.id,
            "shortId": execution.short_id,
            "name": execution.case.name,
            "status": execution.status,
            "result": execution.result,
            "resultTitle": outcome.title if outcome else None,
            "evaluationThought": outcome.thought if outcome else None,
            "promptGoal": execution.case.goal,
            "promptExamples": None,
        }

    def _reference(self, run: Run) -> RunReference:
        return {"id": run.id, "shortId": run.short_id, "url": self.run_url(run), "testCount": run.test_count}

    def _add_run(
        self,
        plan: Plan | None,
        keys: Sequence[str],
        campaign: Campaign,
        parent: Run | None,
        applications: Mapping[str, ApplicationBody],
    ) -> Run:
        cases = with_dependencies(self.cases, keys)
        if self.remaining is not None:
            # The budget is for a run as a whole: one that would exceed it is not begun.
            if self.remaining < max(1, len(cases)):
                raise Refusal(402, USAGE_LIMIT_MESSAGE)
            self.remaining -= len(cases)
        self.counts["test_executions"] += len(cases)
        executions = []
        for case in cases:
            own_id = case.uuid if self.scenario.run_test_case_ids == "test_case" else self.new_uuid()
            executions.append(Execution(case, own_id, self.new_short_id(), campaign.executions.get(case.key, 0)))
            campaign.executions[case.key] = campaign.executions.get(case.key, 0) + 1
        index = campaign.runs
        campaign.runs += 1
        run = Run(
            id=self.new_uuid(),
            short_id=next(self._short_ids, None) or self.new_short_id(),
            plan=plan,
            campaign=campaign,
            index=index,
            parent=parent.short_id if parent else None,
            behaviour=at_attempt(plan.run, index) if plan else RunBehaviour(),
            parallel=(plan and plan.parallel) or self.scenario.parallel,
            executions=executions,
            applications=dict(applications),
            created=self.clock.now(),
            test_count=max(0, len(cases) + (at_attempt(plan.test_count_offset, index) if plan else 0)),
        )
        self.runs[run.short_id] = run
        for execution in executions:
            self.executions[execution.short_id] = self.last_executions[execution.case.key] = (run, execution)
        return run

    def new_short_id(self) -> str:
        """Return a short id that nothing has."""
        while True:
            short_id = "".join(self._random.choices(string.ascii_lowercase + string.digits, k=6))
            if short_id not in self.runs and short_id not in self.executions:
                return short_id

    def new_uuid(self) -> str:
        """Return a UUID."""
        return str(UUID(int=self._random.getrandbits(128), version=4))
