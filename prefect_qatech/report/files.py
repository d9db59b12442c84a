"""The report as files in a directory, and as a GitHub job's summary.

Each file is complete or not there: written beside its place, then moved over it. Files of another gate are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import uuid4

from prefect_qatech.campaign import GateReport
from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.junit import render_junit
from prefect_qatech.report.markdown import MAX_BYTES, render_job_summary
from prefect_qatech.report.verdict_json import load_verdict_json, render_verdict_json
from prefect_qatech.report.words import campaign_id

MAX_STEP_SUMMARY_BYTES = 1024 * 1024
"""GitHub takes no larger summary of a step, and shows nothing of one that is."""

# The ledger first: it says whose the directory is. JUnit last: it needs an extra, and the others are there by then.
_FILES: dict[str, tuple[str, Callable[[GateReport], str]]] = {
    "verdict": ("verdict.json", render_verdict_json),
    "ctrf": ("ctrf.json", render_ctrf),
    "summary": ("summary.md", render_job_summary),
    "junit": ("junit.xml", render_junit),
}


def write_report_files(report: GateReport, directory: Path | str) -> dict[str, Path]:
    """Write `verdict.json`, `ctrf.json`, `summary.md` and `junit.xml`.

    - Files of the same campaign (the same first run) are replaced.
    - Where the directory holds files of another one, or of nobody known, they go into a directory below it, which has
      the name of this campaign's first run, or of a number. The paths that come back say where.

    Args:
        report: The report.
        directory: Where to; it is made where it is missing.

    Returns:
        `verdict`, `ctrf`, `summary` and `junit` to the path of the file.

    Raises:
        OSError: A file could not be written; those before it in the order above are there.
        ImportError: `junitparser` is not installed; the other files are there.

    Example:
        ```python
        write_report_files(report, "qatech-report")["junit"]
        ```
    """
    target = _claim(Path(directory), campaign_id(report))
    paths = {}
    for kind, (name, render) in _FILES.items():
        paths[kind] = target / name
        _write(paths[kind], render(report))
    return paths


def _claim(directory: Path, campaign: str | None) -> Path:
    names = [campaign] if campaign else []
    candidates = [directory, *(directory / name for name in [*names, *(f"gate-{n}" for n in range(1, 1_000))])]
    for candidate in candidates:
        candidate.mkdir(parents=True, exist_ok=True)
        ledger = candidate / _FILES["verdict"][0]
        if not any(os.path.lexists(candidate / name) for name, _ in _FILES.values()):
            try:
                # Two gates may look at the same moment; the one that makes the file has the directory.
                ledger.open("x").close()
            except FileExistsError:
                continue
            return candidate
        if campaign and _owner(ledger) == campaign:
            return candidate
    raise FileExistsError(f"{directory} and all directories below it that could be taken hold files of other gates")


def _owner(ledger: Path) -> str | None:
    try:
        return campaign_id(load_verdict_json(ledger.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _write(path: Path, text: str) -> None:
    # In the same directory, as a file can be moved at once only within one file system.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8", errors="replace", newline="\n") as file:
            file.write(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_job_summary(report: GateReport, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Append the report to the summary of the GitHub job step that this runs in.

    Args:
        report: The report.
        environ: Where `GITHUB_STEP_SUMMARY` names the file.

    Returns:
        The file; None outside of GitHub Actions, and where the step has written so much that nothing more fits.

    Raises:
        OSError: The file could not be written.
    """
    name = environ.get("GITHUB_STEP_SUMMARY")
    if not name:
        return None
    path = Path(name)
    left = MAX_STEP_SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0) - 2
    text = render_job_summary(report, max_bytes=min(MAX_BYTES, max(0, left)))
    if not text.strip():
        return None
    with path.open("a", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(f"\n{text}\n")
    return path
