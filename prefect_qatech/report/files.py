"""The report as files in a directory, and as a GitHub job's summary.

The directory that a user names holds the last verdict and no other. What stands there goes before anything new is
rendered, so that no older verdict is left behind when the disk is full; then each file is written beside its place and
moved over it, complete. `verdict.json` comes last: whoever finds it finds the other files of the same campaign.

The files of one campaign have the same time of change, by which they are known: older ones are kept in `older/<time>`,
and a writer that finds its own files mixed with those of another one, which writes at the same moment, writes again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.report.ctrf import render_ctrf
from prefect_qatech.report.junit import check_junit, render_junit
from prefect_qatech.report.markdown import MAX_BYTES, render_job_summary
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.verdict_json import load_verdict_json, render_verdict_json
from prefect_qatech.report.wording import campaign_id

MAX_STEP_SUMMARY_BYTES = 1024 * 1024
"""GitHub takes no larger summary of a step, and shows nothing of one that is."""

OLDER = "older"
"""The directory of older files, below the one that a user names."""

_VERDICT = "verdict.json"
# A line of Markdown that no reader sees.
_SUMMARY_MARK = "[//]: # (prefect-qatech)"


def _render_summary(report: GateReport) -> str:
    heading, _, rest = render_job_summary(report).partition("\n")
    return f"{heading}\n\n{_SUMMARY_MARK}\n{rest}"


# How each file is made, and what stands near the beginning of one of ours.
_FILES: dict[str, tuple[Callable[[GateReport], str], str]] = {
    "ctrf.json": (render_ctrf, '"generatedBy": "prefect-qatech"'),
    "summary.md": (_render_summary, _SUMMARY_MARK),
    "junit.xml": (render_junit, 'name="qatech.verdict"'),
    _VERDICT: (render_verdict_json, '"verdict_without_reruns":'),
}
_HEAD_BYTES = 4096
_MAX_TRIES = 200


def check_report_directory(directory: Path | str) -> None:
    """Check, before anything is started, that a report can be written into a directory; make it where it is missing.

    Raises:
        InvalidInputError: `junitparser` is not installed, or the directory cannot be made or written to.
    """
    check_junit()
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"The report directory {directory} cannot be made: {error.strerror}.") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise InvalidInputError(f"The report directory {directory} cannot be written to.")


def write_report_files(report: GateReport, directory: Path | str) -> dict[str, Path]:
    """Write `verdict.json`, `ctrf.json`, `summary.md` and `junit.xml`.

    - Files of the same campaign (the same first run) are replaced.
    - Any other files of these names are moved to `older/<time>` below the directory, where they can be deleted.
    - Of several gates that write into one directory at once, the last one wins, with all of its files.

    Args:
        report: The report.
        directory: Where to; it is made where it is missing.

    Returns:
        `verdict`, `ctrf`, `summary` and `junit` to the path of the file.

    Raises:
        OSError: A file could not be written; no older one is left in its place.
        InvalidInputError: `junitparser` is not installed; the other files are there.

    Example:
        ```python
        write_report_files(report, "qatech-report")["junit"]
        ```
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    campaign = campaign_id(report)
    is_same = campaign is not None and _campaign_of(directory / _VERDICT) == campaign
    _clear(directory, _remove if is_same else _set_aside)
    texts: dict[str, str] = {}
    missing: InvalidInputError | None = None
    for name, (render, _) in _FILES.items():
        try:
            texts[name] = render(report)
        except InvalidInputError as error:
            missing = error
    _write(directory, texts)
    if missing is not None:
        raise missing
    return {Path(name).stem: directory / name for name in _FILES}


def clear_report_files(directory: Path | str) -> None:
    """Move the files of an older report out of the way, for a gate that ends without a report of its own.

    Files of these names that are not ours stay where they are; one of ours that cannot be moved or removed is an
    OSError.
    """
    _clear(Path(directory), lambda path: _set_aside(path) if _is_ours(path) else None)


def _clear(directory: Path, clear: Callable[[Path], None]) -> None:
    failure: OSError | None = None
    for name in reversed(_FILES):  # the verdict first, as it says that all are there
        try:
            clear(directory / name)
        except OSError as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _remove(path: Path) -> None:
    if _is_ours(path):
        path.unlink(missing_ok=True)
    else:
        _set_aside(path)


def _set_aside(path: Path) -> None:
    if not os.path.lexists(path):
        return
    older = path.parent / OLDER
    moved = older / f".{path.name}.{uuid4().hex}"
    try:
        older.mkdir(exist_ok=True)
        # Moved first, and then looked at: what is looked at first could be replaced in between.
        path.rename(moved)
    except FileNotFoundError:
        return  # another gate was faster
    except OSError:
        # For example, a full disk. Keeping an older verdict would be worse than losing this one.
        if not _is_ours(path):
            raise
        path.unlink(missing_ok=True)
        return
    with suppress(OSError):  # it is out of the way
        folder = older / f"{datetime.fromtimestamp(moved.lstat().st_mtime, tz=timezone.utc):%Y-%m-%dT%H-%M-%S.%fZ}"
        folder.mkdir(exist_ok=True)
        moved.replace(folder / path.name)


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return False
    return _FILES[path.name][1] in head


def _campaign_of(verdict: Path) -> str | None:
    try:
        return campaign_id(load_verdict_json(verdict.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _write(directory: Path, texts: Mapping[str, str]) -> None:
    stamp = time.time_ns()
    for _ in range(_MAX_TRIES):
        temporary: dict[Path, Path] = {}
        try:
            for name, text in texts.items():
                path = directory / name
                # In the same directory, as a file can be moved at once only within one file system.
                temporary[path] = path.with_name(f".{name}.{uuid4().hex}")
                with temporary[path].open("x", encoding="utf-8", errors="replace", newline="\n") as file:
                    file.write(text)
                os.utime(temporary[path], ns=(stamp, stamp))
            for path, written in temporary.items():
                written.replace(path)
        finally:
            for written in temporary.values():
                written.unlink(missing_ok=True)
        if len({_is_of(stamp, path) for path in temporary}) == 1:
            return  # all are ours, or none is: then another gate came later, and sees to the whole
    raise OSError(f"Other gates write into {directory} without end: give each gate a directory of its own.")


def _is_of(stamp: int, path: Path) -> bool:
    try:
        return path.lstat().st_mtime_ns == stamp
    except OSError:
        return False


def append_job_summary(report: GateReport, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Append the report to the summary of the GitHub job step that this runs in, which `GITHUB_STEP_SUMMARY` names.

    Return the file; None outside of GitHub Actions, and where the step has written so much that nothing more fits.
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
