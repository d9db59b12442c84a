"""The command that says why a gate's verdict is what it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from prefect_qatech.cli.exits import EXIT_CODES, end
from prefect_qatech.cli.terminal import show, terminal_width
from prefect_qatech.report.escape import plain_text
from prefect_qatech.report.explain import explain as explained, load_policy
from prefect_qatech.report.verdict_json import load_verdict_json
from prefect_qatech.verdict.outcomes import Verdict

_MAX_ERROR = 1_000


def explain(verdict_file: Path, *, policy: Path | None = None) -> NoReturn:
    """Explain a verdict rule by rule, and what another policy would have decided; offline.

    Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 a file that cannot be read. They are as the other policy judges, where
    there is one; else the worse of the recorded verdict and of what the runs give now.

    Args:
        verdict_file: A `verdict.json`.
        policy: Another policy, YAML or JSON, with the fields of `GatePolicy`.
    """
    try:
        report = load_verdict_json(verdict_file.read_text(encoding="utf-8"))
        other = load_policy(policy) if policy is not None else None
        lines = explained(report, other, width=terminal_width())
        judged = report.judge_again(other or report.policy).verdict
    except (OSError, ValueError) as error:
        end(f"Cannot explain: {plain_text(str(error), _MAX_ERROR)}")
    show(lines)
    sys.exit(EXIT_CODES[judged if other is not None else Verdict.worst([judged, report.verdict])])
