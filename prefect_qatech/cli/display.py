"""What a terminal, or the log of a CI job, shows while runs go on: on stderr, so that stdout is the result."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from rich.console import Console
from rich.live import Live
from rich.text import Text

from prefect_qatech.api.responses import FINAL_STATUSES, QATechRun
from prefect_qatech.cli.terminal import ASIDE_STYLE, BAR_STYLE
from prefect_qatech.ledger import QATechRunRecord
from prefect_qatech.report.escape import plain_text
from prefect_qatech.texts import counted

MAX_RUNNING_SHOWN = 5
_MAX_LINE = 500
# Whoever read it has gone; the run goes on, and its id is on record.
_GONE = (OSError, ValueError)


class Display:
    """Shows how runs go on, a line for each change: for pipes and CI. Nothing that it does can fail."""

    def __init__(self) -> None:
        self._last = ""

    def started(self, record: QATechRunRecord) -> None:
        self.tell(_started(record))

    def changed(self, run: QATechRun) -> None:
        if (line := _progress(run)) != self._last:
            self._last = line
            self.tell(line)

    def tell(self, sentence: str) -> None:
        with suppress(*_GONE):
            print(one_line(sentence), file=sys.stderr, flush=True)

    def close(self) -> None:
        """End; what is shown later stands below."""


class LiveDisplay(Display):
    """A line that moves, and what is running, for a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(file=sys.stderr)
        self._live: Live | None = None
        self._began = time.monotonic()

    def changed(self, run: QATechRun) -> None:
        with suppress(*_GONE):
            if self._live is None:
                self._live = Live(console=self._console, transient=True, refresh_per_second=4)
                self._live.start()
            self._live.update(self._picture(run))

    def tell(self, sentence: str) -> None:
        with suppress(*_GONE):
            self._console.print(Text(one_line(sentence)), soft_wrap=True)

    def close(self) -> None:
        live, self._live = self._live, None
        with suppress(*_GONE):
            if live is not None:
                live.stop()

    def _picture(self, run: QATechRun) -> Text:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        width = 24
        full = int(width * run.finished_percent / 100)
        picture = Text()
        picture.append("█" * full + "░" * (width - full), style=BAR_STYLE)
        picture.append(f" {_progress(run)}, {minutes}:{seconds:02}")
        running = [case.name for case in run.test_cases if case.status == "RUNNING"]
        for name in running[:MAX_RUNNING_SHOWN]:
            picture.append(f"\n  … {one_line(name)[:100]}", style=ASIDE_STYLE)
        if len(running) > MAX_RUNNING_SHOWN:
            picture.append(f"\n  … and {len(running) - MAX_RUNNING_SHOWN} more", style=ASIDE_STYLE)
        return picture


def display_for(environ: Mapping[str, str]) -> Display:
    """Return a display that fits where the command runs; `CI` is set in every CI that is known."""
    is_for_people = sys.stderr.isatty() and not environ.get("CI") and environ.get("TERM") != "dumb"
    return LiveDisplay() if is_for_people else Display()


def one_line(text: str) -> str:
    """Return a text that cannot move a terminal's cursor nor give commands to a CI runner."""
    clean = plain_text(text, _MAX_LINE)
    # GitHub and Azure look for commands in what a job prints: "::name::", "##[name]", "##vso[name]".
    return clean.replace("::", ": :").replace("##", "# #")


def _started(record: QATechRunRecord) -> str:
    how = "Resuming run" if record.is_resumed else "Rerun" if record.kind == "rerun" else "Run"
    count = "" if record.test_count is None else f", {counted(record.test_count, 'test case')}"
    return f"{how} {record.run_short_id}: {record.run_url or 'no address given'}{count}"


def _progress(run: QATechRun) -> str:
    not_passed = sum(
        case.status in FINAL_STATUSES and (case.status, case.result) != ("COMPLETED", "PASSED")
        for case in run.test_cases
    )
    status = (run.status or "unknown").lower()
    result = f" ({run.result})" if run.result else ""
    told = f", {not_passed} not passed" if not_passed else ""
    return f"{run.run_short_id} {status}{result}: {run.finished_test_count} of {len(run.test_cases)} finished{told}"
