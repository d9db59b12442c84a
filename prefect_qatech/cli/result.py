"""What a command that judged something leaves behind: text or JSON on stdout, files, and what CI services take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from prefect_qatech.cli.ci import tell_ci
from prefect_qatech.cli.disk import write_whole
from prefect_qatech.cli.display import one_line
from prefect_qatech.cli.terminal import show as show_lines
from prefect_qatech.report.about import about_line
from prefect_qatech.report.files import clear_report_files, write_report_files
from prefect_qatech.report.headline import headline
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.verdict_json import render_verdict_json
from prefect_qatech.report.wording import caveats, counts_text, spent
from prefect_qatech.verdict.outcomes import TestVerdict, Verdict

MAX_TESTS = 50


def forget_older(*, junit: Path | None, directory: Path | None) -> None:
    """Remove what an earlier command has written: however this one ends, its files must not show another result."""
    if directory is not None:
        clear_report_files(directory)
    if junit is not None:
        junit.unlink(missing_ok=True)


def show(
    report: GateReport, *, junit: Path | None, directory: Path | None, as_json: bool, environ: Mapping[str, str]
) -> None:
    """Print a report, write its files, and tell the CI service.

    Raises:
        OSError: Something could not be written; all the rest was by then.
    """

    def tell_the_service() -> None:
        # stdout may be JSON for a program; CI services read both.
        show_lines(tell_ci(report, directory or Path("qatech-report"), environ), sys.stderr)

    steps: list[Callable[[], object]] = [
        lambda: show_lines([render_verdict_json(report)] if as_json else lines_of(report)),
        tell_the_service,
    ]
    if directory is not None:
        steps.append(lambda: write_report_files(report, directory))
    if junit is not None:
        steps.append(lambda: _write_junit(report, junit))
    failed: list[OSError] = []
    for step in steps:
        try:
            step()
        except OSError as error:
            failed.append(error)
    if failed:
        raise failed[0]


def _write_junit(report: GateReport, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, render_junit(report))


def lines_of(report: GateReport) -> Iterator[str]:
    """Return a report as lines for a terminal: links first, then the verdict, then the tests that did not pass."""
    for attempt in report.attempts:
        yield one_line(f"Run {attempt.run_short_id}: {attempt.run_url or 'no address given'}")
    yield one_line(headline(report))
    if tested := about_line(report):
        yield one_line(tested)
    yield one_line(f"{counts_text(report)}; {spent(report)}")
    for reason in report.reasons:
        if reason.verdict is not Verdict.PASS:
            yield f"  {one_line(reason.sentence)}"
    told = [test for test in report.tests if test.verdict is not TestVerdict.PASSED]
    for test in told[:MAX_TESTS]:
        why = (f": {test.reason}" if test.reason else "") + (f" ({test.url})" if test.url else "")
        yield f"  {test.verdict.value:<12} {one_line(test.name + why)}"
    if len(told) > MAX_TESTS:
        yield f"  and {len(told) - MAX_TESTS} more"
    for sentence in [*report.notes, *(sentence for sentence, _ in caveats(report))]:
        yield f"  Note: {one_line(sentence)}"
