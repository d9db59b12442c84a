"""The report as a Prefect table artifact: one row per test case, one column per attempt."""

from __future__ import annotations

import re

from prefect_qatech.report.escape import cell_text
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.outcomes import Outcome

MAX_ROWS = 2_000


def render_table(report: GateReport) -> list[dict[str, str]]:
    """Return a row for each test, those that need a look first; above 2000 a last row says how many were left out.

    The cells are plain text without any markup: the one Prefect UI renders them as Markdown, the other does not.
    """
    order = ("failed", "errored", "cancelled", "missing", "skipped", "flaky", "recovered", "passed")
    tests = sorted(report.tests, key=lambda test: order.index(test.verdict.value))
    columns = [f"Attempt {attempt.number + 1}" for attempt in report.attempts]
    rows = [
        {
            "Test": cell_text(test.name, 200) or "(no name)",
            "Verdict": f"{test.verdict} (in quarantine)" if test.quarantined else test.verdict.value,
            # A test that passed is in no rerun, and nothing is wrong with that.
            **{
                column: "–" if outcome is Outcome.ABSENT else outcome.value
                for column, outcome in zip(columns, test.outcomes, strict=False)
            },
            "Reason": cell_text(test.reason or "", 300),
            "Id": _id(test.test_id),
        }
        for test in tests[:MAX_ROWS]
    ]
    if len(tests) > MAX_ROWS:
        # The UI takes its columns from the first row, so that this one needs no others.
        rows.append({"Test": f"… and {len(tests) - MAX_ROWS} more; verdict.json has them all"})
    return rows


def _id(test_id: str) -> str:
    # People copy it, so that what cannot be markup stays as it is.
    return test_id if re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z-]{0,99}", test_id) else cell_text(test_id, 200)
