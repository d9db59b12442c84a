"""A run of the sandbox: what it looks like follows from the clock at the moment in which somebody looks.

`Run.settle` plays its events (a test starts, ends, is skipped) in the order of their virtual times up to now. Only a
test with a real `http` check can hold this up: it stays RUNNING until `Execution.check` is there. Whoever looks carries
out what `Run.due_checks` names. No I/O, no threads, no background work; and a step for each test, not for each pair.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from prefect_qatech.sandbox.bodies import ApplicationBody
from prefect_qatech.sandbox.scenario import Outcome, Plan, RunBehaviour, TestCase

__all__ = ["Campaign", "Execution", "Run", "at_attempt"]

_T = TypeVar("_T")


def at_attempt(values: Sequence[_T], attempt: int) -> _T:
    """Return the value for an attempt; the last one repeats."""
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
    def completed(self) -> float | None:
        """When it was carried out to the end; None for one that never began."""
        return self.finish if self.ended and self.started is not None else None

    @property
    def status(self) -> str:
        """The API's word."""
        if self.outcome is not None:
            return self.outcome.status
        return "INITIATED" if self.started is None else "RUNNING"

    @property
    def result(self) -> str | None:
        """The API's word, or null."""
        return self.outcome.result if self.outcome else None

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
    """One run. Its executions hold, for each test case, all that it depends on."""

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

    def __post_init__(self) -> None:
        self._places = {execution.case.key: place for place, execution in enumerate(self.executions)}
        self._dependents: list[list[int]] = [[] for _ in self.executions]
        # How many of the tests that each one depends on have not ended.
        self._awaited = [len(execution.case.depends_on) for execution in self.executions]
        for place, execution in enumerate(self.executions):
            for key in execution.case.depends_on:
                self._dependents[self._places[key]].append(place)
        # Both are heaps: places in the list, and (finish, place).
        self._ready = [place for place, awaited in enumerate(self._awaited) if not awaited]
        self._running: list[tuple[float, int]] = []

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
            if not self._running:
                if math.isinf(self._cutoff) and not self.behaviour.never_ends:
                    self.ended = self.time
                break
            finish, place = self._running[0]
            if finish > limit:
                break
            execution = self.executions[place]
            if execution.needs_check and execution.check is None:
                return
            heapq.heappop(self._running)
            self.time = finish
            self._end(place, (execution.check if execution.needs_check else None) or execution.planned)
        if self._cutoff <= now:
            self._cut_off()

    def _start_what_can(self) -> None:
        while self._ready and len(self._running) < self.parallel:
            place = heapq.heappop(self._ready)
            execution = self.executions[place]
            execution.started = self.time
            stuck = self.behaviour.never_ends and place == len(self.executions) - 1
            execution.finish = math.inf if stuck else self.time + execution.case.duration_seconds
            heapq.heappush(self._running, (execution.finish, place))

    def _end(self, place: int, outcome: Outcome) -> None:
        """End a test, and skip what depends on one that did not pass; a skip takes no time."""
        ending = [(place, outcome)]
        while ending:
            place, outcome = ending.pop()
            self.executions[place].ended = True
            self.executions[place].outcome = outcome
            for dependent in self._dependents[place]:
                self._awaited[dependent] -= 1
                if self._awaited[dependent]:
                    continue
                case = self.executions[dependent].case
                blocking = next((key for key in case.depends_on if not self._has_passed(key)), None)
                if blocking is None:
                    heapq.heappush(self._ready, dependent)
                    continue
                # It was not executed, so its next execution is still the attempt that this one would have been.
                self.campaign.executions[case.key] -= 1
                name = self.executions[self._places[blocking]].case.name
                skipped = Outcome(
                    result="SKIPPED",
                    title="A test that it depends on did not pass",
                    thought=f'"{name}" did not pass, so this test was not carried out.',
                )
                ending.append((dependent, skipped))

    def _has_passed(self, key: str) -> bool:
        outcome = self.executions[self._places[key]].outcome
        return outcome is not None and outcome.passed

    def _cut_off(self) -> None:
        word = self.behaviour.status
        for execution in self.executions:
            if not execution.ended:
                if execution.started is None:
                    self.campaign.executions[execution.case.key] -= 1
                execution.outcome = Outcome(status=word, title=f"The run ended with {word}")
                execution.ended, execution.finish = True, self._cutoff
        self.ended = self._cutoff

    def due_checks(self, now: float) -> list[Execution]:
        """Return the executions whose real check is to be carried out now; each is returned once."""
        limit = min(now, self._cutoff)
        due = [
            execution
            for finish, place in self._running
            if finish <= limit
            and (execution := self.executions[place]).needs_check
            and not execution.ended
            and not execution.check_started
        ]
        for execution in due:
            execution.check_started = True
        return due

    def status(self, now: float) -> str:
        """Return the API's word."""
        if self.ended is not None:
            return self.behaviour.status
        return "INITIATED" if now < self.begin else "RUNNING"

    def result(self, now: float) -> str | None:
        """Return the API's word, or null."""
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
