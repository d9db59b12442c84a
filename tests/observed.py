"""Attempts as they are observed, for the tests of identities and reports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from prefect_qatech.api.responses import QATechRun, QATechRunTestCaseDetails
from prefect_qatech.verdict.identity import ObservedAttempt

NOW = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)
PASSED, FAILED = {"result": "PASSED"}, {"result": "FAILED"}


def case(name: str = "", **fields: Any) -> dict[str, Any]:
    return {"name": name, "status": "COMPLETED", "result": "PASSED", **fields}


def attempt(
    *cases: Mapping[str, Any],
    status: str = "COMPLETED",
    result: str | None = None,
    details: Mapping[str, Mapping[str, Any]] | None = None,
    **fields: Any,
) -> ObservedAttempt:
    body = {"shortId": "abc123", "status": status, "result": result, "runTestCases": list(cases)}
    read = {key: QATechRunTestCaseDetails.model_validate(value) for key, value in (details or {}).items()}
    return ObservedAttempt(
        fields.pop("kind", "start"),
        QATechRun.model_validate(body),
        details=read,
        **{"run_url": "https://q/abc", **fields},
    )
