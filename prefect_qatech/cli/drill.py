"""The command that tries the installed gate before it is trusted with releases."""

from __future__ import annotations

import asyncio
import json as json_module
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

from cyclopts import Parameter

from prefect_qatech.cli.display import one_line
from prefect_qatech.cli.exits import end
from prefect_qatech.cli.terminal import row, show, terminal_width
from prefect_qatech.texts import cut

if TYPE_CHECKING:
    from prefect_qatech.cli.drill_cases import Case, Played

EXIT_OPEN = 1
_STARTUP_SECONDS = 120
_CASE_SECONDS = 180.0
_AT_ONCE = 3
_MAX_REASON = 200


def drill(
    *,
    case: Annotated[list[str] | None, Parameter(negative="")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> NoReturn:
    """Run the installed gate through all that can go wrong, on the sandbox, and say whether it fails closed.

    It uses a Prefect server of its own and no token: neither your Prefect nor QA.tech is touched. It takes some two
    minutes. Run it before you trust a new version, of this package or of Prefect.

    Args:
        case: Only this case, by its name; may be repeated.
        json: Print what was found as JSON.
    """
    try:
        from prefect_qatech.cli.drill_cases import CASES
    except ModuleNotFoundError as error:
        end(f'{error.name} is not installed: pip install "prefect-qatech[sandbox]"')
    if unknown := set(case or ()) - {one.name for one in CASES}:
        end(f"There is no case {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in CASES)}.")
    began = time.monotonic()
    with _quiet_prefect():
        played = asyncio.run(_play([one for one in CASES if case is None or one.name in case], tell=not json))
    failed_open = [one for one in played if not one.fails_closed]
    if json:
        told = {"fails_closed": not failed_open, "cases": [asdict(one) for one in played]}
        show([json_module.dumps(told, indent=2)])
    else:
        how = "each of them" if not failed_open else f"all but {len(failed_open)} of them"
        show(["", f"{len(played)} cases in {time.monotonic() - began:.0f} s: the gate does what it must in {how}."])
    sys.exit(EXIT_OPEN if failed_open else 0)


async def _play(cases: Sequence[Case], *, tell: bool) -> list[Played]:
    from prefect_qatech.cli.drill_cases import play

    # A drill mostly waits.
    turns = asyncio.Semaphore(_AT_ONCE)
    with tempfile.TemporaryDirectory(prefix="qatech-drill-") as directory:

        async def in_turn(case: Case) -> Played:
            async with turns:
                played = await play(case, Path(directory) / case.name, _CASE_SECONDS)
            if tell:
                show(_lines(played, terminal_width()))
            return played

        return [*await asyncio.gather(*(in_turn(case) for case in cases))]


def _lines(played: Played, width: int) -> Iterator[str]:
    head = [("yes" if played.fails_closed else "no", 3), (played.case, 17)]
    yield from row(head, played.what, width)
    starts = "" if played.fails_closed else f" ({played.starts} starts)"
    yield from row(
        [("", 3), ("", 17)], f"-> {played.verdict}{starts}: {cut(one_line(played.reason), _MAX_REASON)}", width
    )


@contextmanager
def _quiet_prefect() -> Iterator[None]:
    """Use a temporary Prefect server, without its log, and no CI service."""
    from prefect.settings import (
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_SERVER_ANALYTICS_ENABLED,
        PREFECT_SERVER_LOGGING_LEVEL,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    summary = os.environ.pop("GITHUB_STEP_SUMMARY", None)
    logging.disable(logging.CRITICAL)
    settings = {
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_SERVER_LOGGING_LEVEL: "CRITICAL",
        # Prefect joins its heartbeat thread at the end of each flow run, which takes a second.
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
    }
    try:
        with temporary_settings(settings), prefect_test_harness(_STARTUP_SECONDS):
            yield
    finally:
        logging.disable(logging.NOTSET)
        if summary is not None:
            os.environ["GITHUB_STEP_SUMMARY"] = summary
