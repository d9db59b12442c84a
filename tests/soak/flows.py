"""The flow that the soak's worker runs: a user's own flow with gates side by side."""

import asyncio
import json
import traceback
from pathlib import Path
from typing import Any

from prefect import flow, runtime

import prefect_qatech
from prefect_qatech import (
    GatePolicy,
    GateReport,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechError,
    QATechPolling,
    QATechRunRequest,
    arelease_gate,
)
from tests.soak.scenario import APPLICATION, MAX_RERUNS, REQUEST_SECONDS

POLLING = QATechPolling(first_seconds=0.5, max_seconds=2.0)
_PACKAGE = Path(prefect_qatech.__file__).parent


@flow
async def gates_side_by_side(tag: str, gates: dict[str, dict[str, Any]], folder: str) -> None:
    """Run gates at once, each with something of its own in its request, and write down what came of them.

    Args:
        tag: Tells this flow run's gates from others' at the sandbox.
        gates: Label to `plan`, `target` and `deadline_seconds`.
        folder: Where to write it.
    """
    credentials = QATechCredentials.from_env().model_copy(update={"timeout_seconds": REQUEST_SECONDS})
    attempt = runtime.flow_run.run_count

    async def gate(label: str, plan: str, target: str | None, deadline_seconds: float) -> dict[str, Any]:
        environment = QATechEnvironment(url=f"http://127.0.0.1:1/{tag}-{label}")
        application = QATechApplication(application_short_id=APPLICATION, environment=environment)
        try:
            report = await arelease_gate(
                credentials,
                QATechRunRequest(test_plan_short_id=plan, applications=[application]),
                target=target,
                policy=GatePolicy(max_reruns=MAX_RERUNS, deadline_seconds=deadline_seconds),
                polling=POLLING,
                label=label,
                raise_unless_passed=False,
            )
        except Exception as error:
            return _told(error)
        found = _slim(report)
        if report.passed:
            line = {"gate": f"{tag}-{label}", "attempt": attempt, "first": found["runs"][0]}
            with (Path(folder) / "passes").open("a") as passes:
                passes.write(json.dumps(line) + "\n")
        return found

    answers = await asyncio.gather(*(gate(label, **wanted) for label, wanted in gates.items()))
    named = {f"{tag}-{label}": answer for label, answer in zip(gates, answers, strict=True)}
    _write(Path(folder) / f"{attempt:03}.json", json.dumps(named))


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def _told(error: Exception) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "is_ours": isinstance(error, QATechError),
        "is_in_gate": any(Path(frame.filename).is_relative_to(_PACKAGE) for frame in frames),
        "message": str(error),
    }


def _slim(report: GateReport) -> dict[str, Any]:
    return {
        "verdict": report.verdict.value,
        "incidents": [incident.value for incident in report.incidents],
        "causes_unknown": len(report.causes_unknown),
        "reasons": [reason.sentence for reason in report.reasons],
        "runs": [attempt.run_short_id for attempt in report.attempts],
    }
