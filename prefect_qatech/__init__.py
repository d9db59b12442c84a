"""QA.tech end-to-end tests in Prefect: run, rerun only what failed, decide whether a release may go out, report."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Imported when they are used: flows and blocks bring in much of Prefect, which not every importer needs.
if TYPE_CHECKING:
    from prefect_qatech.campaign import GateDecision, GateReport
    from prefect_qatech.client import QATechClient
    from prefect_qatech.credentials import QATechCredentials
    from prefect_qatech.exceptions import (
        BadRequestError,
        ForbiddenError,
        GateFailed,
        GateInconclusive,
        GateNotPassed,
        InvalidResponseError,
        LedgerConflict,
        NotFoundError,
        NothingToRerunError,
        QATechAPIError,
        QATechConnectionError,
        QATechError,
        QATechTimeoutError,
        RateLimitedError,
        ServerError,
        StartOutcomeUnknown,
        UnauthorizedError,
        UsageLimitError,
        WaitTimedOut,
    )
    from prefect_qatech.gate import arelease_gate, release_gate
    from prefect_qatech.jobs import QATechTestPlan, QATechTestRun
    from prefect_qatech.ledger import (
        QATechLedgerEntry,
        QATechRunRecord,
        aattach_run,
        aclear_intent,
        aread_ledger,
        attach_run,
        clear_intent,
        read_ledger,
    )
    from prefect_qatech.models import (
        QATechApplication,
        QATechEnvironment,
        QATechGitHubTrigger,
        QATechNotification,
        QATechParameters,
        QATechRerunRequest,
        QATechRun,
        QATechRunRequest,
        QATechRunTestCase,
        QATechRunTestCaseDetails,
        QATechStartedRun,
    )
    from prefect_qatech.polling import QATechPolling
    from prefect_qatech.tasks import (
        aget_test_run,
        apublish_gate_report,
        arerun_test_run,
        astart_test_run,
        await_for_test_run,
        get_test_run,
        publish_gate_report,
        rerun_test_run,
        start_test_run,
        wait_for_test_run,
    )
    from prefect_qatech.verdict import GatePolicy, Outcome, QuarantineEntry, TestVerdict, Verdict

__all__ = [
    "BadRequestError",
    "ForbiddenError",
    "GateDecision",
    "GateFailed",
    "GateInconclusive",
    "GateNotPassed",
    "GatePolicy",
    "GateReport",
    "InvalidResponseError",
    "LedgerConflict",
    "NotFoundError",
    "NothingToRerunError",
    "Outcome",
    "QATechAPIError",
    "QATechApplication",
    "QATechClient",
    "QATechConnectionError",
    "QATechCredentials",
    "QATechEnvironment",
    "QATechError",
    "QATechGitHubTrigger",
    "QATechLedgerEntry",
    "QATechNotification",
    "QATechParameters",
    "QATechPolling",
    "QATechRerunRequest",
    "QATechRun",
    "QATechRunRecord",
    "QATechRunRequest",
    "QATechRunTestCase",
    "QATechRunTestCaseDetails",
    "QATechStartedRun",
    "QATechTestPlan",
    "QATechTestRun",
    "QATechTimeoutError",
    "QuarantineEntry",
    "RateLimitedError",
    "ServerError",
    "StartOutcomeUnknown",
    "TestVerdict",
    "UnauthorizedError",
    "UsageLimitError",
    "Verdict",
    "WaitTimedOut",
    "aattach_run",
    "aclear_intent",
    "aget_test_run",
    "apublish_gate_report",
    "aread_ledger",
    "arelease_gate",
    "arerun_test_run",
    "astart_test_run",
    "attach_run",
    "await_for_test_run",
    "clear_intent",
    "get_test_run",
    "publish_gate_report",
    "read_ledger",
    "release_gate",
    "rerun_test_run",
    "start_test_run",
    "wait_for_test_run",
]

_MODULES = {
    "BadRequestError": "exceptions",
    "ForbiddenError": "exceptions",
    "GateDecision": "campaign",
    "GateFailed": "exceptions",
    "GateInconclusive": "exceptions",
    "GateNotPassed": "exceptions",
    "GatePolicy": "verdict",
    "GateReport": "campaign",
    "InvalidResponseError": "exceptions",
    "LedgerConflict": "exceptions",
    "NotFoundError": "exceptions",
    "NothingToRerunError": "exceptions",
    "Outcome": "verdict",
    "QATechAPIError": "exceptions",
    "QATechApplication": "models",
    "QATechClient": "client",
    "QATechConnectionError": "exceptions",
    "QATechCredentials": "credentials",
    "QATechEnvironment": "models",
    "QATechError": "exceptions",
    "QATechGitHubTrigger": "models",
    "QATechLedgerEntry": "ledger",
    "QATechNotification": "models",
    "QATechParameters": "models",
    "QATechPolling": "polling",
    "QATechRerunRequest": "models",
    "QATechRun": "models",
    "QATechRunRecord": "ledger",
    "QATechRunRequest": "models",
    "QATechRunTestCase": "models",
    "QATechRunTestCaseDetails": "models",
    "QATechStartedRun": "models",
    "QATechTestPlan": "jobs",
    "QATechTestRun": "jobs",
    "QATechTimeoutError": "exceptions",
    "QuarantineEntry": "verdict",
    "RateLimitedError": "exceptions",
    "ServerError": "exceptions",
    "StartOutcomeUnknown": "exceptions",
    "TestVerdict": "verdict",
    "UnauthorizedError": "exceptions",
    "UsageLimitError": "exceptions",
    "Verdict": "verdict",
    "WaitTimedOut": "exceptions",
    "aattach_run": "ledger",
    "aclear_intent": "ledger",
    "aget_test_run": "tasks",
    "apublish_gate_report": "tasks",
    "aread_ledger": "ledger",
    "arelease_gate": "gate",
    "arerun_test_run": "tasks",
    "astart_test_run": "tasks",
    "attach_run": "ledger",
    "await_for_test_run": "tasks",
    "clear_intent": "ledger",
    "get_test_run": "tasks",
    "publish_gate_report": "tasks",
    "read_ledger": "ledger",
    "release_gate": "gate",
    "rerun_test_run": "tasks",
    "start_test_run": "tasks",
    "wait_for_test_run": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    item = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = item
    return item


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
