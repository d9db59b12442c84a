"""The flow that the soak's worker runs: a user's own flow with gates side by side."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from prefect import flow

from prefect_qatech import (
    GatePolicy,
    GateReport,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechError,
    QATechPolling,
    arelease_gate,
)
from tests.soak.scenario import APPLICATION, MAX_RERUNS, REQUEST_SECONDS

POLLING = QATechPolling(first_seconds=0.5, max_seconds=2.0)


@flow
async def gates_side_by_side(tag: str, gates: dict[str, dict[str, Any]], answer: str) -> dict[str, dict[str, Any]]:
    """Run gates at once, each with something of its own in its request, and write down what came of them.

    Args:
        tag: Tells this flow run's gates from others' at the sandbox.
        gates: Label to `plan` and `deadline_seconds`.
        answer: The file to write.
    """
    credentials = QATechCredentials.from_env().model_copy(update={"timeout_seconds": REQUEST_SECONDS})
    reports = await asyncio.gather(
        *(
            arelease_gate(
                credentials,
                gate["plan"],
                applications=[
                    QATechApplication(
                        application_short_id=APPLICATION,
                        environment=QATechEnvironment(url=f"http://127.0.0.1:1/{tag}-{label}"),
                    )
                ],
                policy=GatePolicy(max_reruns=MAX_RERUNS, deadline_seconds=gate["deadline_seconds"]),
                polling=POLLING,
                label=label,
                raise_unless_passed=False,
            )
            for label, gate in gates.items()
        ),
        return_exceptions=True,
    )
    found = {label: _slim(report) for label, report in zip(gates, reports, strict=True)}
    _write(Path(answer), json.dumps(found))
    return found


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def _slim(report: GateReport | BaseException) -> dict[str, Any]:
    if isinstance(report, BaseException):
        ours = isinstance(report, QATechError)
        return {"error": type(report).__name__, "is_ours": ours, "message": str(report)}
    return {
        "verdict": report.verdict.value,
        "incidents": [incident.value for incident in report.incidents],
        "reasons": [reason.sentence for reason in report.reasons],
        "runs": [attempt.run_short_id for attempt in report.attempts],
    }
