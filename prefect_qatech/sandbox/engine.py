"""The sandbox's state: runs, their test cases, and a virtual clock. No I/O, no threads, no background work.

What a run looks like follows from the clock at the moment in which somebody looks: `Run.settle` plays its events (a
test starts, ends, is skipped) in the order of their virtual times up to now. Only a test with a real `http` check can
hold this up: it stays RUNNING until `Execution.check` is there. Whoever looks carries out what `Run.due_checks` names.
"""

from __future__ import annotations

import math
import random
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, TypedDict, TypeVar
from uuid import UUID

from prefect_qatech.sandbox.bodies import ApplicationBody, RerunBody, StartBody
from prefect_qatech.sandbox.scenario import Outcome, Plan, RunBehaviour, SandboxScenario, TestCase

__all__ = ["Clock", "Engine", "Execution", "Refusal", "Run", "SandboxCounts"]

_T = TypeVar("_T")
USAGE_LIMIT_MESSAGE = "Organization has reached usage limit. Please upgrade your plan to run more tests."


class SandboxCounts(TypedDict):
    """What the sandbox was asked. Starts and reruns are those that it accepted, whether or not the answer arrived."""

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


class Refusal(Exception):
    """A documented error: a status and the `message` of its body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Clock:
    """Virtual seconds since the start; `speed` of them pass in a real second. With 0 it is a manual clock."""

    def __init__(self, speed: float = 60.0) -> None:
        if not (math.isfinite(speed) and speed >= 0):
            raise ValueError(f"speed is virtual seconds per real second, 0 for a clock that is advanced: not {speed}")
        self.speed = speed
        self._epoch = datetime.now(timezone.utc)
        self._start = time.monotonic()
        self._advanced = 0.0

    def now(self) -> float:
        """Give the virtual time."""
        return self._advanced + (time.monotonic() - self._start) * self.speed

    def advance(self, seconds: float) -> None:
        """Move a manual clock on."""
        if self.speed:
            raise ValueError("only a manual clock (speed 0) can be advanced")
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"the clock goes forward only: not by {seconds}")
        self._advanced += seconds

    def text(self, moment: float | None) -> str | None:
        """Give a virtual time as ISO 8601."""
        if moment is None:
            return None
        return (self._epoch + timedelta(seconds=moment)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def at_attempt(values: Sequence[_T], attempt: int) -> _T:
    """Give the value for an attempt; the last one repeats."""
    return values[min(attempt, len(values) - 1)]


@dataclass(eq=False)
class Execution:
    """One test case in one run."""

    case: TestCase
    id: str
    short_id: str
    attempt: int
    started: float | None = None
    finish: float = math.inf
    ended: bool = False
    outcome: Outcome | None = None
    check: Outcome | None = None
    check_started: bool = False

    @property
    def planned(self) -> Outcome:
        """What the scenario says for this attempt."""
        return at_attempt(self.case.outcomes, self.attempt)

    @property
    def needs_check(self) -> bool:
        """Whether a real request decides. An attempt that is planned to go wrong does so without one."""
        return self.case.http is not None and self.planned.passed

    @property
    def is_running(self) -> bool:
        """Whether it has begun and not ended (its status does not tell: an outcome may have any word as status)."""
        return self.started is not None and not self.ended

    @property
    def status(self) -> str:
        """Give the API's word."""
        if self.outcome is not None:
            return self.outcome.status
        return "INITIATED" if self.started is None else "RUNNING"

    @property
    def is_failed(self) -> bool:
        """Whether it counts among "failed, skipped and errored"."""
        return self.outcome is not None and (
            self.outcome.result in {"FAILED", "SKIPPED"} or self.outcome.status == "ERROR"
        )


@dataclass
class Campaign:
    """A root run and the reruns that descend from it; `executions` says how often a test case was executed in it."""

    runs: int = 0
    executions: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Run:
    """One run."""

    id: str
    short_id: str
    plan: Plan | None
    campaign: Campaign
    index: int
    parent: str | None
    behaviour: RunBehaviour
    parallel: int
    executions: list[Execution]
    applications: dict[str, ApplicationBody]
    created: float
    test_count: int
    time: float = 0.0
    ended: float | None = None

    @property
    def begin(self) -> float:
        """When it leaves the queue."""
        return self.created + self.behaviour.queue_seconds

    @property
    def _cutoff(self) -> float:
        return math.inf if self.behaviour.status == "COMPLETED" else self.begin + self.behaviour.after_seconds

    def settle(self, now: float) -> None:
        """Play what has happened by now."""
        if now < self.begin or self.ended is not None:
            return
        self.time = max(self.time, self.begin)
        limit = min(now, self._cutoff)
        while True:
            self._start_what_can()
            running = [execution for execution in self.executions if execution.is_running]
            if not running:
                if math.isinf(self._cutoff) and not self.behaviour.never_ends:
                    self.ended = self.time
                break
            first = min(running, key=lambda execution: execution.finish)
            if first.finish > limit:
                break
            if first.needs_check and first.check is None:
                return
            self.time = first.finish
            first.ended = True
            first.outcome = first.check if first.needs_check else first.planned
        if self._cutoff <= now:
            for execution in self.executions:
                if not execution.ended:
                    if execution.started is None:
                        self.campaign.executions[execution.case.key] -= 1
                    word = self.behaviour.status
                    execution.outcome = Outcome(status=word, title=f"The run ended with {word}")
                    execution.ended, execution.finish = True, self._cutoff
            self.ended = self._cutoff

    def _start_what_can(self) -> None:
        by_key = {execution.case.key: execution for execution in self.executions}
        changed = True
        while changed:
            changed = False
            running = sum(execution.is_running for execution in self.executions)
            for execution in self.executions:
                if execution.ended or execution.started is not None:
                    continue
                needed = [by_key[key] for key in execution.case.depends_on]
                if not all(other.ended for other in needed):
                    continue
                missing = [other for other in needed if not (other.outcome and other.outcome.passed)]
                if missing:
                    execution.ended = changed = True
                    execution.outcome = Outcome(
                        result="SKIPPED",
                        title="A test that it depends on did not pass",
                        thought=f'"{missing[0].case.name}" did not pass, so this test was not carried out.',
                    )
                    # It was not executed, so its next execution is still the attempt that this one would have been.
                    self.campaign.executions[execution.case.key] -= 1
                elif running < self.parallel:
                    running += 1
                    execution.started = self.time
                    stuck = self.behaviour.never_ends and execution is self.executions[-1]
                    execution.finish = math.inf if stuck else self.time + execution.case.duration_seconds

    def due_checks(self, now: float) -> list[Execution]:
        """Give the executions whose real check is to be carried out now; each is given once."""
        limit = min(now, self._cutoff)
        due = [
            execution
            for execution in self.executions
            if execution.needs_check
            and execution.is_running
            and execution.finish <= limit
            and not execution.check_started
        ]
        for execution in due:
            execution.check_started = True
        return due

    def status(self, now: float) -> str:
        """Give the API's word."""
        if self.ended is not None:
            return self.behaviour.status
        return "INITIATED" if now < self.begin else "RUNNING"

    def result(self, now: float) -> str | None:
        """Give the API's word, or null."""
        if self.ended is None or now < self.ended + self.behaviour.result_delay_seconds:
            return None
        if "result" in self.behaviour.model_fields_set:
            return self.behaviour.result
        if self.behaviour.status != "COMPLETED":
            return None
        outcomes = [execution.outcome for execution in self.executions if execution.outcome]
        if any(outcome.result == "FAILED" or outcome.status == "ERROR" for outcome in outcomes):
            return "FAILED"
        return "PASSED" if any(outcome.result == "PASSED" for outcome in outcomes) else "SKIPPED"


class Engine:
    """Starts, reruns and shows runs by a scenario."""

    def __init__(self, scenario: SandboxScenario, clock: Clock, *, seed: int = 0, base_url: str = "") -> None:
        self.scenario = scenario
        self.clock = clock
        self.base_url = base_url
        self.runs: dict[str, Run] = {}
        self.executions: dict[str, tuple[Run, Execution]] = {}
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
        )
        self._random = random.Random(seed)

    # --- what is asked

    def start(self, request: StartBody) -> dict[str, Any]:
        """Carry out `POST /run` and give its answer."""
        scenario = self.scenario
        self.check_project(request.project_short_id)
        plan: Plan | None = None
        if request.test_case_ids is not None:
            by_uuid = {case.uuid: key for key, case in scenario.cases.items()}
            unknown = [uuid for uuid in request.test_case_ids if uuid not in by_uuid]
            if unknown:
                raise Refusal(404, f"Test case not found: {', '.join(unknown[:5])}")
            keys = [by_uuid[uuid] for uuid in request.test_case_ids]
        else:
            wanted = request.test_plan_short_id or scenario.default_plan or scenario.plans[0].short_id
            plan = next((plan for plan in scenario.plans if plan.short_id == wanted), None)
            if plan is None:
                raise Refusal(404, "Test plan not found")
            keys = plan.keys
        applications = {override.application_short_id: override for override in request.applications or []}
        for override in applications.values():
            self._check_override(override)
        run = self._add_run(plan, keys, Campaign(), None, applications)
        self.counts["starts"] += 1
        if plan is not None:
            self.counts["starts_by_plan"][plan.short_id] += 1
        reference = plan and {"name": plan.name, "shortId": plan.short_id}
        return {"success": True, "run": {**self._reference(run), "testPlan": reference}}

    def rerun(self, run: Run, request: RerunBody) -> dict[str, Any]:
        """Carry out `POST /run/{shortId}` and give its answer."""
        self.check_project(request.project_short_id)
        if request.test_case_ids is not None:
            by_uuid = {execution.case.uuid: execution.case.key for execution in run.executions}
            unknown = [uuid for uuid in request.test_case_ids if uuid not in by_uuid]
            if unknown:
                raise Refusal(400, f"Test cases are not part of the run: {', '.join(unknown[:5])}")
            keys, kind = {by_uuid[uuid] for uuid in request.test_case_ids}, "listed"
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

    def check_project(self, short_id: str | None) -> None:
        """Refuse a project other than the scenario's."""
        if short_id not in {None, self.scenario.project.short_id}:
            raise Refusal(404, "Project not found")

    def find(self, short_id: str) -> Run:
        """Give a run."""
        run = self.runs.get(short_id)
        if run is None:
            raise Refusal(404, "Run not found")
        return run

    def test_url(self, run: Run, application: str) -> str | None:
        """Give the address at which a run tests an application: its own override, else the first saved environment."""
        known = self.scenario.application(application)
        override = run.applications.get(application)
        environment = override.environment if override else None
        if environment is not None and environment.short_id is None:
            return environment.url
        for saved in known.environments if known else []:
            if environment is None or saved.short_id == environment.short_id:
                return saved.url
        return None

    # --- what is shown

    def show(self, run: Run, which: str | None) -> dict[str, Any]:
        """Give the answer of `GET /run/{shortId}`."""
        now = self.clock.now()
        listed = [execution for execution in run.executions if which == "all" or (which and execution.is_failed)]
        return {
            "id": run.id,
            "shortId": run.short_id,
            "status": run.status(now),
            "result": run.result(now),
            "runTestCases": [self._brief(execution) for execution in listed],
        }

    def show_execution(self, run: Run, execution: Execution) -> dict[str, Any]:
        """Give the answer of `GET /run-test-case/{shortId}`."""
        outcome = execution.outcome
        started = execution.started
        completed = execution.finish if execution.ended and started is not None else None
        media = f"{self.base_url}/p/{self.scenario.project.short_id}"
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
            "screenshotUrl": f"{media}/screenshots/{execution.short_id}.png" if completed is not None else None,
            "recordingUrl": f"{media}/recordings/{execution.short_id}" if completed is not None else None,
        }

    def summary(self, run: Run) -> dict[str, Any]:
        """Give what the sandbox's own list of runs says of one."""
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
        """Give the address of a run's page."""
        return f"{self.base_url}/p/{self.scenario.project.short_id}/results/{run.short_id}"

    # --- inside

    def _brief(self, execution: Execution) -> dict[str, Any]:
        outcome = execution.outcome
        return {
            "id": execution.id,
            "shortId": execution.short_id,
            "name": execution.case.name,
            "status": execution.status,
            "result": outcome.result if outcome else None,
            "resultTitle": outcome.title if outcome else None,
            "evaluationThought": outcome.thought if outcome else None,
            "promptGoal": execution.case.goal,
            "promptExamples": None,
        }

    def _reference(self, run: Run) -> dict[str, Any]:
        return {"id": run.id, "shortId": run.short_id, "url": self.run_url(run), "testCount": run.test_count}

    def _add_run(
        self,
        plan: Plan | None,
        keys: Sequence[str],
        campaign: Campaign,
        parent: Run | None,
        applications: dict[str, ApplicationBody],
    ) -> Run:
        cases = self.scenario.with_dependencies(keys)
        if self.remaining is not None:
            # The budget is for a run as a whole: one that would exceed it is not begun.
            if self.remaining < max(1, len(cases)):
                raise Refusal(402, USAGE_LIMIT_MESSAGE)
            self.remaining -= len(cases)
        self.counts["test_executions"] += len(cases)
        executions = []
        for case in cases:
            own_id = case.uuid if self.scenario.run_test_case_ids == "test_case" else self._uuid()
            executions.append(Execution(case, own_id, self._short_id(), campaign.executions.get(case.key, 0)))
            campaign.executions[case.key] = campaign.executions.get(case.key, 0) + 1
        index = campaign.runs
        campaign.runs += 1
        run = Run(
            id=self._uuid(),
            short_id=self._short_id(),
            plan=plan,
            campaign=campaign,
            index=index,
            parent=parent.short_id if parent else None,
            behaviour=at_attempt(plan.run, index) if plan else RunBehaviour(),
            parallel=(plan and plan.parallel) or self.scenario.parallel,
            executions=executions,
            applications=applications,
            created=self.clock.now(),
            test_count=max(0, len(cases) + (at_attempt(plan.test_count_offset, index) if plan else 0)),
        )
        self.runs[run.short_id] = run
        self.executions.update({execution.short_id: (run, execution) for execution in executions})
        return run

    def _check_override(self, override: ApplicationBody) -> None:
        application = self.scenario.application(override.application_short_id)
        if application is None:
            raise Refusal(404, "Application not found")
        saved = override.environment.short_id if override.environment else None
        if saved is not None and saved not in {env.short_id for env in application.environments}:
            raise Refusal(404, "Environment not found")

    def _short_id(self) -> str:
        while True:
            short_id = "".join(self._random.choices(string.ascii_lowercase + string.digits, k=6))
            if short_id not in self.runs and short_id not in self.executions:
                return short_id

    def _uuid(self) -> str:
        return str(UUID(int=self._random.getrandbits(128), version=4))
