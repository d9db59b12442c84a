"""How the commands end: one meaning for each exit code, and one line where something is wrong."""

from __future__ import annotations

import sys
from typing import NoReturn

from prefect_qatech.verdict import Verdict

PASS, FAIL, INCONCLUSIVE, ERROR, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = {Verdict.PASS: PASS, Verdict.FAIL: FAIL, Verdict.INCONCLUSIVE: INCONCLUSIVE}


def end(message: str) -> NoReturn:
    """End the command, which could not be carried out."""
    print(f"prefect-qatech: {message}", file=sys.stderr)
    sys.exit(ERROR)
