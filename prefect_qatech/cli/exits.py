"""How the commands end: one meaning for each exit code, and one line where something is wrong."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import NoReturn

from prefect_qatech.verdict.outcomes import Verdict

PASS, FAIL, INCONCLUSIVE, ERROR, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = {Verdict.PASS: PASS, Verdict.FAIL: FAIL, Verdict.INCONCLUSIVE: INCONCLUSIVE}


def end(message: str) -> NoReturn:
    with suppress(OSError, ValueError):  # whoever read it has gone, or a disk is full: the exit code tells it
        print(f"prefect-qatech: {message}", file=sys.stderr, flush=True)
    sys.exit(ERROR)
