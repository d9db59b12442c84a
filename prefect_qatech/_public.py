"""Every public name of the package, once; `import X as X` says that it is meant for others."""

from prefect_qatech.api.catalogue import (
    QATechApplicationInfo as QATechApplicationInfo,
    QATechBuild as QATechBuild,
    QATechChange as QATechChange,
    QATechCreatedTestCase as QATechCreatedTestCase,
    QATechEnvironmentInfo as QATechEnvironmentInfo,
    QATechFinding as QATechFinding,
    QATechLastRun as QATechLastRun,
    QATechNewTestCase as QATechNewTestCase,
    QATechProject as QATechProject,
    QATechRegression as QATechRegression,
    QATechReleaseCheck as QATechReleaseCheck,
    QATechReleaseCheckRequest as QATechReleaseCheckRequest,
    QATechScore as QATechScore,
    QATechStartedReleaseCheck as QATechStartedReleaseCheck,
    QATechTestCase as QATechTestCase,
    QATechToolCall as QATechToolCall,
    QATechTraceStep as QATechTraceStep,
)
from prefect_qatech.api.client import QATechClient as QATechClient
from prefect_qatech.api.requests import (
    QATechApplication as QATechApplication,
    QATechEnvironment as QATechEnvironment,
    QATechGitHubTrigger as QATechGitHubTrigger,
    QATechNotification as QATechNotification,
    QATechParameters as QATechParameters,
    QATechRerunRequest as QATechRerunRequest,
    QATechRunRequest as QATechRunRequest,
)
from prefect_qatech.api.responses import (
    QATechDetectedIssue as QATechDetectedIssue,
    QATechRun as QATechRun,
    QATechRunTestCase as QATechRunTestCase,
    QATechRunTestCaseDetails as QATechRunTestCaseDetails,
    QATechStartedRun as QATechStartedRun,
)
from prefect_qatech.catalogue import (
    acreate_test_case as acreate_test_case,
    aget_test_case_trace as aget_test_case_trace,
    alist_applications as alist_applications,
    alist_builds as alist_builds,
    alist_environments as alist_environments,
    alist_outbound_ips as alist_outbound_ips,
    alist_projects as alist_projects,
    alist_test_cases as alist_test_cases,
    aupload_build as aupload_build,
    create_test_case as create_test_case,
    get_test_case_trace as get_test_case_trace,
    list_applications as list_applications,
    list_builds as list_builds,
    list_environments as list_environments,
    list_outbound_ips as list_outbound_ips,
    list_projects as list_projects,
    list_test_cases as list_test_cases,
    upload_build as upload_build,
)
from prefect_qatech.credentials import QATechCredentials as QATechCredentials
from prefect_qatech.exceptions import (
    BadRequestError as BadRequestError,
    ForbiddenError as ForbiddenError,
    InvalidInputError as InvalidInputError,
    InvalidResponseError as InvalidResponseError,
    LedgerConflict as LedgerConflict,
    LedgerUnavailable as LedgerUnavailable,
    NotFoundError as NotFoundError,
    NothingToRerunError as NothingToRerunError,
    OtherPlanStarted as OtherPlanStarted,
    QATechAPIError as QATechAPIError,
    QATechConnectionError as QATechConnectionError,
    QATechError as QATechError,
    QATechTimeoutError as QATechTimeoutError,
    RateLimitedError as RateLimitedError,
    ServerError as ServerError,
    StartOutcomeUnknown as StartOutcomeUnknown,
    UnauthorizedError as UnauthorizedError,
    UsageLimitError as UsageLimitError,
)
from prefect_qatech.gate.flow import (
    arelease_gate as arelease_gate,
    release_gate as release_gate,
)
from prefect_qatech.gate.many import (
    agather_gates as agather_gates,
    gather_gates as gather_gates,
)
from prefect_qatech.gate.state import verdict_as_state as verdict_as_state
from prefect_qatech.gate.watcher import (
    awake_suspended_gates as awake_suspended_gates,
    wake_suspended_gates as wake_suspended_gates,
)
from prefect_qatech.ledger import (
    QATechLedgerEntry as QATechLedgerEntry,
    QATechRunRecord as QATechRunRecord,
    aattach_run as aattach_run,
    aclear_intent as aclear_intent,
    aread_ledger as aread_ledger,
    attach_run as attach_run,
    clear_intent as clear_intent,
    read_ledger as read_ledger,
)
from prefect_qatech.polling.exceptions import (
    RunsNotEnded as RunsNotEnded,
    WaitTimedOut as WaitTimedOut,
)
from prefect_qatech.polling.schedule import QATechPolling as QATechPolling
from prefect_qatech.release_checks import (
    astart_release_check as astart_release_check,
    await_for_release_check as await_for_release_check,
    start_release_check as start_release_check,
    wait_for_release_check as wait_for_release_check,
)
from prefect_qatech.report.build import evaluate as evaluate
from prefect_qatech.report.exceptions import (
    GateFailed as GateFailed,
    GateInconclusive as GateInconclusive,
    GateNotPassed as GateNotPassed,
    GatesNotPassed as GatesNotPassed,
)
from prefect_qatech.report.model import (
    GateDecision as GateDecision,
    GateReport as GateReport,
    GatesReport as GatesReport,
    ReportedAttempt as ReportedAttempt,
    ReportedFinding as ReportedFinding,
    ReportedIssue as ReportedIssue,
    ReportedReason as ReportedReason,
    ReportedReleaseCheck as ReportedReleaseCheck,
    ReportedScore as ReportedScore,
    ReportedStanding as ReportedStanding,
    ReportedTest as ReportedTest,
)
from prefect_qatech.report.subject import (
    GateSubject as GateSubject,
    ReportedApplication as ReportedApplication,
)
from prefect_qatech.report.triage import describe_failure as describe_failure
from prefect_qatech.tasks import (
    aget_test_run as aget_test_run,
    apublish_gate_report as apublish_gate_report,
    arerun_test_run as arerun_test_run,
    astart_test_run as astart_test_run,
    get_test_run as get_test_run,
    publish_gate_report as publish_gate_report,
    rerun_test_run as rerun_test_run,
    start_test_run as start_test_run,
)
from prefect_qatech.test_plan import (
    QATechTestPlan as QATechTestPlan,
    QATechTestRun as QATechTestRun,
)
from prefect_qatech.verdict.judge import Incident as Incident
from prefect_qatech.verdict.outcomes import Outcome as Outcome, TestVerdict as TestVerdict, Verdict as Verdict
from prefect_qatech.verdict.policy import (
    GatePolicy as GatePolicy,
    QuarantineEntry as QuarantineEntry,
    ReleaseCheckPolicy as ReleaseCheckPolicy,
)
from prefect_qatech.waits import (
    await_for_test_run as await_for_test_run,
    await_for_test_runs as await_for_test_runs,
    wait_for_test_run as wait_for_test_run,
    wait_for_test_runs as wait_for_test_runs,
)
