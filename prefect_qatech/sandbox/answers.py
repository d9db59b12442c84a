"""What the sandbox answers, by the names of the wire: types for the engine, and schemas of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from typing_extensions import NotRequired, TypedDict

__all__ = [
    "ApplicationsAnswer",
    "BuildAnswer",
    "BuildItem",
    "BuildsAnswer",
    "CreateTestCaseAnswer",
    "DetectedIssue",
    "EnvironmentsAnswer",
    "ErrorAnswer",
    "FindingItem",
    "OutboundIpsAnswer",
    "ProjectsAnswer",
    "ReleaseCheckAnswer",
    "ReleaseCheckStartAnswer",
    "RerunAnswer",
    "RunAnswer",
    "RunReference",
    "RunTestCase",
    "RunTestCaseAnswer",
    "StartAnswer",
    "StartedRun",
    "TestCaseListItem",
    "TestCasesAnswer",
    "TestSummary",
    "TraceAnswer",
    "TraceStep",
    "UploadAnswer",
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


class DetectedIssue(TypedDict):
    """Something that was noticed in a run. No document says what it looks like: the shape is the sandbox's own."""

    id: str
    title: str
    category: str
    severity: str
    description: str | None
    runTestCaseShortId: str


class RunAnswer(TypedDict):
    """Answer to `GET /run/{shortId}`; `issues` where they were asked for."""

    id: str
    shortId: str
    status: str
    result: str | None
    runTestCases: list[RunTestCase]
    issues: NotRequired[list[DetectedIssue]]


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


class ToolCallItem(TypedDict):
    """What the agent did in a step."""

    name: str
    arguments: dict[str, Any]


class TraceStep(TypedDict):
    """A step of the agent."""

    index: int
    startedAt: str | None
    endedAt: str | None
    durationMs: int
    reasoning: str
    toolCalls: list[ToolCallItem]
    toolResult: str | None
    screenshotUrl: str | None


class TraceAnswer(TypedDict):
    """Answer to `GET /run-test-case/{shortId}/trace`."""

    runTestCaseShortId: str
    total: int
    limit: int
    offset: int
    steps: list[TraceStep]


class UploadAnswer(TypedDict):
    """Answer to `POST /applications/{shortId}/builds/upload-url`."""

    uploadUrl: str
    buildToken: str


class BuildAnswer(TypedDict):
    """Answer to `POST /applications/{shortId}/builds`."""

    applicationBuildShortId: str
    platform: str
    fileName: str
    fileSizeBytes: int


class BuildItem(TypedDict):
    """A mobile build."""

    applicationBuildShortId: str
    platform: str
    fileName: str
    appBundleId: str | None


class BuildsAnswer(TypedDict):
    """Answer to `GET /applications/{shortId}/builds`."""

    builds: list[BuildItem]


class ReleaseCheckStartAnswer(TypedDict):
    """Answer to `POST /release-checks`."""

    shortId: str
    url: str
    reviewShortId: str


class ReleaseCheckProgress(TypedDict):
    """How far a release check is."""

    message: str
    updatedAt: str | None
    testsRun: int
    changesVerified: int
    changesTotal: int


class CategoryItem(TypedDict):
    """The score in one category."""

    name: str
    score: float | None
    summary: str | None


class FindingItem(TypedDict):
    """Something that was found."""

    title: str
    category: str
    severity: str
    description: str | None
    isBlocker: bool
    recommendation: str | None
    evidence: Any


class TestSummary(TypedDict):
    """What came of the tests of a release check."""

    passed: int
    failed: int
    total: int
    runShortIds: list[str]


class ReleaseCheckAnswer(TypedDict):
    """Answer to `GET /release-checks/{shortId}`."""

    shortId: str
    url: str
    status: str
    releaseName: str | None
    summary: str | None
    progress: ReleaseCheckProgress
    overallScore: float | None
    categories: list[CategoryItem]
    findings: list[FindingItem]
    automatedTestSummary: TestSummary
    markdown: str | None
    createdAt: str | None
    updatedAt: str | None
    intentVerification: Any
    pagesTested: list[str]
    checklistCoverage: Any
    healthSignals: Any
    manualFollowUps: list[str]
