"""What QA.tech answers about runs.

Sources: the vendor's API reference (https://docs.qa.tech/api-reference) and OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from prefect_qatech.api.ids import RunShortId
from prefect_qatech.api.wire import OptionalNumber, OptionalText, Response, Text, count_of, object_or_none, objects_only

FINAL_STATUSES = frozenset({"COMPLETED", "ERROR", "CANCELLED"})
"""Statuses after which a run does not change any more; any other, known or not, means that it goes on."""

_NAMES_OF_THE_COUNT = frozenset({"testCount", "test_count", "testCountIsUnreadable", "test_count_is_unreadable"})


class QATechTestPlanReference(Response):
    """The plan that a run belongs to."""

    name: Text = ""
    short_id: OptionalText = None


class QATechStartedRun(Response):
    """A run as the answer to a start or a rerun gives it.

    Attributes:
        run_short_id: Its short id, which every later call names.
        id: Its UUID.
        url: Its address on QA.tech.
        test_count: How many test cases it has; None where the answer does not tell, or not so that it can be read.
        test_count_is_unreadable: Whether the answer tells a count that cannot be read.
        test_plan: The plan it belongs to, where the service tells.
    """

    run_short_id: RunShortId = Field(alias="shortId")
    id: OptionalText = None
    url: OptionalText = None
    test_count: int | None = None
    test_count_is_unreadable: bool = False
    test_plan: Annotated[QATechTestPlanReference | None, BeforeValidator(object_or_none)] = None

    @model_validator(mode="before")
    @classmethod
    def _read_the_count(cls, answer: Any) -> Any:
        if not isinstance(answer, Mapping):
            return answer
        told = answer.get("testCount", answer.get("test_count"))
        count = count_of(told)
        is_unreadable = (told is not None and count is None) or answer.get("test_count_is_unreadable") is True
        rest = {name: value for name, value in answer.items() if name not in _NAMES_OF_THE_COUNT}
        return {**rest, "test_count": count, "test_count_is_unreadable": is_unreadable}


class QATechRunTestCase(Response):
    """One test case in a run.

    Attributes:
        id: UUID; as far as the vendor's examples show, the one by which a test case is started and rerun.
        short_id: Short id of this execution; a new one in each run.
        name: The test case's name.
        status: INITIATED, RUNNING, COMPLETED, ERROR, CANCELLED, or a word that is not documented.
        result: PASSED, FAILED, SKIPPED, None, or a word that is not documented.
        result_title: The reason in a few words.
        evaluation_thought: The agent's reasoning, long.
        project_test_case_id: UUID of the test case, where the service gives it here.
    """

    id: OptionalText = None
    short_id: OptionalText = None
    name: Text = ""
    status: Text = ""
    result: OptionalText = None
    result_title: OptionalText = None
    evaluation_thought: OptionalText = None
    prompt_goal: OptionalText = None
    prompt_examples: OptionalText = None
    project_test_case_id: OptionalText = None


class QATechRunTestCaseDetails(QATechRunTestCase):
    """One test case's execution with what is needed for its root cause (`GET /run-test-case/{shortId}`).

    Attributes:
        error_code: None for a clean pass; TEST_FAILED; AGENT_... or PLATFORM_... where it was not carried out properly.
        classification: POSITIVE or NEGATIVE.
        run_short_id: The run it belongs to.
        started_at: ISO 8601.
        completed_at: ISO 8601.
        duration_ms: Milliseconds.
        url: Its address on QA.tech.
        screenshot_url: Its last picture.
        recording_url: Its recording.
    """

    error_code: OptionalText = None
    classification: OptionalText = None
    run_short_id: OptionalText = None
    started_at: OptionalText = None
    completed_at: OptionalText = None
    duration_ms: OptionalNumber = None
    url: OptionalText = None
    screenshot_url: OptionalText = None
    recording_url: OptionalText = None


class QATechDetectedIssue(Response):
    """Something that QA.tech noticed in a run beside its results; it decides nothing here.

    Attributes:
        title: What it is.
        category: Its category.
        severity: How bad it is.
        description: More of it.
        run_test_case_short_id: The execution in which it was noticed.
    """

    title: Text = ""
    category: OptionalText = None
    severity: OptionalText = None
    description: OptionalText = None
    run_test_case_short_id: OptionalText = None


class QATechRun(Response):
    """A run's status and results (`GET /run/{shortId}`).

    Attributes:
        run_short_id: Its short id.
        id: Its UUID.
        status: INITIATED, RUNNING, COMPLETED, ERROR, CANCELLED, or a word that is not documented.
        result: PASSED, FAILED, SKIPPED, None, or a word that is not documented; meaningful when COMPLETED.
        test_cases: The test cases that were asked for (`runTestCases` of the API); empty when none were.
        url: Its address, where the service or the start's answer gave it.
        issues: What QA.tech noticed in it; empty when that was not asked for.
        plan_short_id: The plan it belongs to, where what its start returned was waited for or looked at.
        rerun_of: Short id of the run that it repeats, likewise.
    """

    run_short_id: RunShortId = Field(alias="shortId")
    id: OptionalText = None
    status: Text = ""
    result: OptionalText = None
    test_cases: Annotated[list[QATechRunTestCase], BeforeValidator(lambda value: [] if value is None else value)] = (
        Field(default_factory=list, alias="runTestCases")
    )
    url: OptionalText = None
    # No document says what they look like: what cannot be read is left out.
    issues: Annotated[list[QATechDetectedIssue], BeforeValidator(objects_only)] = Field(default_factory=list)
    plan_short_id: OptionalText = None
    rerun_of: OptionalText = None

    @property
    def is_final(self) -> bool:
        """Whether the run will not change any more."""
        return self.status in FINAL_STATUSES

    @property
    def finished_test_count(self) -> int:
        """How many of the test cases that were asked for will not change any more."""
        return sum(case.status in FINAL_STATUSES for case in self.test_cases)

    @property
    def finished_percent(self) -> float:
        """How many of the test cases have finished, of 100; 0 where none are listed."""
        return 100.0 * self.finished_test_count / len(self.test_cases) if self.test_cases else 0.0

    @property
    def running_test_count(self) -> int:
        """How many of the test cases that were asked for are running just now."""
        return sum(case.status == "RUNNING" for case in self.test_cases)
