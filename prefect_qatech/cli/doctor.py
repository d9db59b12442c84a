"""The command that looks at everything that must be right before a gate can run."""

from __future__ import annotations

import asyncio
import json as json_module
import sys
from dataclasses import asdict
from typing import Annotated, NoReturn

from cyclopts import Parameter

from prefect_qatech.cli.doctor_checks import Finding, Where, examine
from prefect_qatech.cli.terminal import row, show, terminal_width

EXIT_WRONG = 1


def doctor(
    *,
    block: str | None = None,
    read_only: Annotated[bool, Parameter(negative="")] = False,
    timeout_seconds: float = 10.0,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> NoReturn:
    """Check token, QA.tech, proxy, clock and Prefect, and say what to do; it starts nothing, and shows no token.

    Args:
        block: Check a saved block QATechCredentials, instead of QATECH_API_TOKEN, QATECH_API_URL and so on.
        read_only: A token that may only read is enough, as for a watcher or a triage.
        timeout_seconds: How long each check may take.
        json: Print what was found as JSON.
    """
    findings = asyncio.run(_findings(Where(block=block, read_only=read_only), timeout_seconds, tell=not json))
    wrong = sum(finding.state == "wrong" for finding in findings)
    if json:
        print(json_module.dumps({"ok": not wrong, "checks": [asdict(finding) for finding in findings]}, indent=2))
    else:
        show(["Nothing is wrong." if not wrong else f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong."])
    sys.exit(EXIT_WRONG if wrong else 0)


async def _findings(where: Where, seconds: float, *, tell: bool) -> list[Finding]:
    findings = []
    async for finding in examine(where, seconds):
        findings.append(finding)
        if tell:
            show(_lines(finding, terminal_width()))
    return findings


def _lines(finding: Finding, width: int) -> list[str]:
    lines = row([(finding.state, 7), (finding.check, 11)], finding.message, width)
    return lines + (row([("", 7), ("", 11)], f"-> {finding.advice}", width) if finding.advice else [])
