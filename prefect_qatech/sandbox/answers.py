"""What the sandbox answers, by the names of the wire: types for the engine, and schemas of the OpenAPI document."""

from __future__ import annotations

from typing_extensions import TypedDict

__all__ = [
    "ApplicationsAnswer",
    "CreateTestCaseAnswer",
    "EnvironmentsAnswer",
    "ErrorAnswer",
    "OutboundIpsAnswer",
    "ProjectsAnswer",
    "RerunAnswer",
    "RunAnswer",
    "RunReference",
    "RunTestCase",
    "RunTestCaseAnswer",
    "StartAnswer",
    "StartedRun",
    "TestCaseListItem",
    "TestCasesAnswer",
]


class ErrorAnswer(TypedDict):
    """What went wrong."""

    message: str


class PlanReference(TypedDict):
    """The plan of a run."""

    name: str
    shortId: str


class RunReference(TypedDict):
    """A run that was made."""

    id: str
    shortId: str
    url: str
    testCount: int


class StartedRun(RunReference):
    """A run that was started."""

    testPlan: PlanReference | None


class StartAnswer(TypedDict):
    """Answer to `POST /run`."""

    success: bool
    run: StartedRun


class RerunAnswer(TypedDict):
    """Answer to `POST /run/{shortId}`."""

    success: bool
    run: RunReference


class RunTestCase(TypedDict):
    """A test case in a run."""

    id: str
    shortId: str
    name: str
    status: str
    result: str | None
    resultTitle: str | None
    evaluationThought: str | None
    promptGoal: str | None
    promptExamples: str | None


class RunAnswer(TypedDict):
    """Answer to `GET /run/{shortId}`."""

    id: str
    shortId: str
    status: str
    result: str | None
    runTestCases: list[RunTestCase]


class RunTestCaseAnswer(RunTestCase):
    """Answer to `GET /run-test-case/{shortId}`."""

    errorCode: str | None
    classification: str
    runShortId: str
    projectTestCaseId: str
    startedAt: str | None
    completedAt: str | None
    durationMs: int | None
    url: str
    screenshotUrl: str | None
    recordingUrl: str | None


class ProjectItem(TypedDict):
    """A project."""

    shortId: str
    name: str


class ProjectsAnswer(TypedDict):
    """Answer to `GET /projects`."""

    projects: list[ProjectItem]


class ApplicationItem(TypedDict):
    """An application."""

    shortId: str
    name: str
    kind: str


class ApplicationsAnswer(TypedDict):
    """Answer to `GET /applications`."""

    applications: list[ApplicationItem]


class EnvironmentItem(TypedDict):
    """A saved environment."""

    shortId: str
    name: str
    url: str | None
    isProduction: bool


class EnvironmentsAnswer(TypedDict):
    """Answer to `GET /applications/{shortId}/environments`."""

    environments: list[EnvironmentItem]


class LastRun(TypedDict):
    """What came of a test case when it was last in a run."""

    runShortId: str
    status: str
    result: str | None
    completedAt: str | None


class TestCaseListItem(TypedDict):
    """A test case of the project."""

    id: str
    name: str
    isEnabled: bool
    labels: list[str]
    classification: str
    applicationShortId: str | None
    applicationName: str | None
    goal: str | None
    createdAt: str | None
    lastRun: LastRun | None


class TestCasesAnswer(TypedDict):
    """Answer to `GET /test-cases`."""

    testCases: list[TestCaseListItem]
    total: int
    limit: int
    offset: int


class TestCaseReference(TypedDict):
    """A test case that was made."""

    id: str
    name: str
    url: str


class CreateTestCaseAnswer(TypedDict):
    """Answer to `POST /test-cases`."""

    success: bool
    testCase: TestCaseReference


class OutboundIpsAnswer(TypedDict):
    """Answer to `GET /outbound-ips`."""

    ipAddresses: list[str]
