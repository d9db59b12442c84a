"""Files: the last verdict's, complete or not there, and nobody else's lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from prefect_qatech.exceptions import InvalidInputError
from prefect_qatech.report import files as files_module
from prefect_qatech.report.files import (
    OLDER,
    append_job_summary,
    check_report_directory,
    clear_report_files,
    write_report_files,
)
from prefect_qatech.report.model import GateReport
from prefect_qatech.report.verdict_json import load_verdict_json
from prefect_qatech.verdict.policy import GatePolicy
from tests.report import campaigns
from tests.report.campaigns import attempt, everything, passing, report_of

NAMES = {"verdict.json", "ctrf.json", "summary.md", "junit.xml"}


def campaign(run: str) -> GateReport:
    return report_of(attempt(0, {"Login": "P"}, run=run))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_four_files(tmp_path: Path) -> None:
    paths = write_report_files(everything(), tmp_path / "deep" / "report")
    assert set(paths) == {"verdict", "ctrf", "summary", "junit"}
    assert names(tmp_path / "deep" / "report") == NAMES
    assert load_verdict_json(paths["verdict"].read_text(encoding="utf-8")) == everything()
    assert paths["summary"].read_text(encoding="utf-8").startswith("## ❌ FAIL")


def test_the_same_campaign_replaces_its_files(tmp_path: Path) -> None:
    first = report_of(attempt(0, {"Login": "F"}))
    second = report_of(attempt(0, {"Login": "F"}), attempt(1, {"Login": "P"}))
    assert write_report_files(first, tmp_path) == write_report_files(second, tmp_path)
    assert names(tmp_path) == NAMES
    assert load_verdict_json((tmp_path / "verdict.json").read_text(encoding="utf-8")) == second


def run_of(directory: Path) -> str:
    """The campaign whose files a directory holds, all of them."""
    assert names(directory) - {OLDER} == NAMES
    verdict = load_verdict_json((directory / "verdict.json").read_text(encoding="utf-8"))
    run = verdict.attempts[0].run_short_id
    assert json.loads((directory / "ctrf.json").read_text(encoding="utf-8"))["results"]["extra"]["campaign"] == run
    assert f'name="qatech.campaign" value="{run}"' in (directory / "junit.xml").read_text(encoding="utf-8")
    assert f"/results/{run})" in (directory / "summary.md").read_text(encoding="utf-8")
    return run


def older(directory: Path) -> list[Path]:
    return sorted((directory / OLDER).iterdir()) if (directory / OLDER).exists() else []


def failing() -> GateReport:
    return report_of(attempt(0, {"Login": "F"}, run="fails"), policy=GatePolicy(max_reruns=0))


def test_the_directory_holds_the_last_verdict_and_the_older_ones_stand_below(tmp_path: Path) -> None:
    runs = ["abc", "def", "ghi"]
    for number, run in enumerate(runs, start=1):
        paths = write_report_files(campaign(run), tmp_path)
        assert {path.parent for path in paths.values()} == {tmp_path}
        assert run_of(tmp_path) == run
        assert len(older(tmp_path)) == number - 1
    assert [run_of(directory) for directory in older(tmp_path)] == runs[:-1]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6}Z", older(tmp_path)[0].name)


@pytest.mark.parametrize("run", ["../escaped", "..", "a/b", "/tmp/x", "x" * 200, "a:b", "é", "\ud800", ""])
def test_a_run_id_is_no_path(tmp_path: Path, run: str) -> None:
    report = passing()
    forged = report.model_copy(update={"attempts": (report.attempts[0].model_copy(update={"run_short_id": run}),)})
    inside = tmp_path / "report"
    write_report_files(campaign("abc"), inside)
    write_report_files(forged, inside)
    assert names(inside) == {*NAMES, OLDER}
    assert [names(directory) for directory in older(inside)] == [NAMES]
    assert names(tmp_path) == {"report"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_files_of_somebody_else_are_not_lost(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("somebody's", encoding="utf-8")
    write_report_files(campaign("abc"), tmp_path)
    assert run_of(tmp_path) == "abc"
    [directory] = older(tmp_path)
    assert (directory / name).read_text(encoding="utf-8") == "somebody's"
    # Nor where only one of ours was replaced by it.
    (tmp_path / name).write_text("somebody's again", encoding="utf-8")
    write_report_files(campaign("abc"), tmp_path)
    assert "somebody's again" in {path.read_text(encoding="utf-8") for path in tmp_path.glob(f"{OLDER}/*/{name}")}


@pytest.mark.parametrize("fault", ["disk full", "no extra", "broken form"])
def test_no_older_green_file_stays_where_the_new_ones_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    write_report_files(passing(), tmp_path)
    if fault == "disk full":
        disk_is_full(monkeypatch)
    elif fault == "no extra":
        monkeypatch.setitem(sys.modules, "junitparser", None)
    else:
        monkeypatch.setitem(files_module._FILES, "ctrf.json", (lambda report: str(1 / 0), "a mark"))
    with pytest.raises((OSError, InvalidInputError, ZeroDivisionError)):
        write_report_files(failing(), tmp_path)
    left = "".join(path.read_text(encoding="utf-8") for path in tmp_path.iterdir() if path.is_file())
    assert "run1" not in left
    assert names(tmp_path) & NAMES == ({*NAMES} - {"junit.xml"} if fault == "no extra" else set())


def disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing new can be made; what is there can be renamed and removed."""

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    opened = Path.open
    monkeypatch.setattr(Path, "mkdir", lambda path, **options: None if path.is_dir() else refuse())
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **more: refuse() if set(mode) & set("xwa") else opened(path, mode, **more)
    )


def test_a_full_disk_does_not_cost_anybody_else_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report_files(passing(), tmp_path)
    (tmp_path / "summary.md").write_text("somebody's", encoding="utf-8")
    with monkeypatch.context() as patch:
        disk_is_full(patch)
        with pytest.raises(OSError, match="No space left"):
            write_report_files(failing(), tmp_path)
        with pytest.raises(OSError, match="No space left"):
            write_report_files(failing(), tmp_path / "new")
        clear_report_files(tmp_path)
    assert names(tmp_path) == {"summary.md"}


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        assert source.parent == target.parent, "only within one file system can a file be moved at once"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report_files(everything(), tmp_path)
    assert names(tmp_path) == set()


def test_the_verdict_comes_last_and_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever finds a verdict.json finds the other files of its campaign, at any moment."""
    looks = 0

    def looking(change: Any) -> Any:
        def changed(path: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal looks
            try:
                return change(path, *arguments, **options)
            finally:
                looks += 1
                if (tmp_path / "verdict.json").exists():
                    kept = tmp_path / "kept"
                    kept.mkdir()
                    for name in NAMES:
                        shutil.copy(tmp_path / name, kept)
                    run_of(kept)
                    shutil.rmtree(kept)

        return changed

    write_report_files(campaign("abc"), tmp_path)
    for method in ("replace", "rename", "unlink"):
        monkeypatch.setattr(Path, method, looking(getattr(Path, method)))
    write_report_files(campaign("def"), tmp_path)
    write_report_files(campaign("def"), tmp_path)
    assert looks > 16


@pytest.mark.parametrize("method", ["replace", "rename"])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_gate_that_writes_in_the_middle_of_another_does_not_mix_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, name: str
) -> None:
    write_report_files(campaign("first"), tmp_path)
    change, left = getattr(Path, method), [campaign("between")]

    def changed(path: Path, target: Path) -> Any:
        # The one method is used for what is moved away, the other for what takes its place.
        if left and (path if method == "rename" else target) == tmp_path / name:
            write_report_files(left.pop(), tmp_path)
        return change(path, target)

    monkeypatch.setattr(Path, method, changed)
    write_report_files(campaign("last"), tmp_path)
    assert not left
    assert run_of(tmp_path) == "last"
    for directory in older(tmp_path):
        texts = [path.read_text(encoding="utf-8") for path in directory.iterdir()]
        assert len({run for text in texts for run in ("first", "between", "last") if f"/results/{run}" in text}) == 1


WRITER = """
import sys
from tests.report.campaigns import attempt, report_of
from prefect_qatech.report.files import write_report_files

reports = [report_of(attempt(0, {"Login": "P"}, run=f"{sys.argv[1]}x{n}")) for n in range(int(sys.argv[3]))]
sys.stdin.readline()
for report in reports:
    write_report_files(report, sys.argv[2])
"""


@pytest.mark.slow
def test_of_gates_at_the_same_moment_the_last_one_wins_as_a_whole(tmp_path: Path) -> None:
    """Four processes of 15 campaigns each: what is left is that of one of them, and no set of older files is mixed."""
    command = [sys.executable, "-c", WRITER]
    writers = [
        subprocess.Popen([*command, f"run{number}", str(tmp_path), "15"], stdin=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    for writer in writers:
        assert writer.stdin is not None
        with writer.stdin as stdin:
            stdin.write("\n")
    assert [writer.wait(120) for writer in writers] == [0] * 4
    last = run_of(tmp_path)
    runs = [run_of(directory) for directory in older(tmp_path) if names(directory) == NAMES]
    assert len(set(runs)) == len(runs) > 4
    assert last not in runs
    for directory in older(tmp_path):
        found = {run for path in directory.iterdir() for run in re.findall(r"run\dx\d+", path.read_text("utf-8"))}
        assert len(found) == 1


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """While the files are written again and again, each look finds a whole one, or none."""
    over, looks = threading.Event(), 0

    def write() -> None:
        for _ in range(20):
            write_report_files(everything(), tmp_path)
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not over.is_set():
        with suppress(FileNotFoundError):
            load_verdict_json((tmp_path / "verdict.json").read_text(encoding="utf-8"))
            looks += 1
    thread.join()
    assert looks > 0


def test_without_junitparser_the_other_files_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "junitparser", None)
    with pytest.raises(InvalidInputError, match=r'pip install "prefect-qatech\[junit\]"'):
        write_report_files(everything(), tmp_path)
    assert names(tmp_path) == NAMES - {"junit.xml"}


def test_what_a_gate_can_know_before_it_starts_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_report_directory(tmp_path / "deep" / "report")
    assert (tmp_path / "deep" / "report").is_dir()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "report", str(tmp_path / "file")):
        with pytest.raises(InvalidInputError, match=r"report directory .*file.* cannot be made: "):
            check_report_directory(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
        with pytest.raises(InvalidInputError, match="cannot be written to"):
            check_report_directory(tmp_path)
    monkeypatch.setitem(sys.modules, "junitparser", None)
    with pytest.raises(InvalidInputError, match=r'pip install "prefect-qatech\[junit\]"'):
        check_report_directory(tmp_path)


def test_a_gate_without_a_report_clears_what_stands_there(tmp_path: Path) -> None:
    clear_report_files(tmp_path / "nowhere")
    write_report_files(everything(), tmp_path)
    clear_report_files(str(tmp_path))
    assert names(tmp_path) == {OLDER}
    assert [run_of(directory) for directory in older(tmp_path)] == ["run1"]
    clear_report_files(tmp_path)
    assert len(older(tmp_path)) == 1


@pytest.mark.parametrize("name", sorted(NAMES))
def test_only_files_of_ours_are_cleared(tmp_path: Path, name: str) -> None:
    write_report_files(campaign("abc"), tmp_path)
    (tmp_path / name).write_text('<testsuite name="pytest"/>\n## Results\n{"verdict": "x"}', encoding="utf-8")
    clear_report_files(tmp_path)
    assert names(tmp_path) == {name, OLDER}


@pytest.mark.parametrize("report", [everything(), passing(), campaigns.inconclusive(), campaigns.no_run()])
def test_every_report_is_known_as_ours(tmp_path: Path, report: GateReport) -> None:
    write_report_files(report.model_copy(update={"plan_name": "\U0001f469 " * 100}), tmp_path)
    clear_report_files(tmp_path)
    assert names(tmp_path) == {OLDER}


def test_the_directory_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OSError, match="file"):
        write_report_files(everything(), tmp_path / "file" / "report")


def test_job_summary(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    path.write_text("before", encoding="utf-8")
    assert append_job_summary(everything(), {"GITHUB_STEP_SUMMARY": str(path)}) == path
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n## ❌ FAIL")
    append_job_summary(passing(), {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.read_text(encoding="utf-8").count("\n## ") == 2


@pytest.mark.parametrize("environ", [{}, {"GITHUB_STEP_SUMMARY": ""}])
def test_no_job_summary_outside_of_github(environ: dict[str, str]) -> None:
    assert append_job_summary(everything(), environ) is None


@pytest.mark.parametrize("left", [-10, 0, 1, 50, 700, 3_000, 100_000])
def test_the_job_summary_keeps_githubs_limit(tmp_path: Path, left: int) -> None:
    path = tmp_path / "summary"
    path.write_text("x" * (files_module.MAX_STEP_SUMMARY_BYTES - left), encoding="utf-8")
    written = append_job_summary(everything(), {"GITHUB_STEP_SUMMARY": str(path)})
    assert path.stat().st_size <= files_module.MAX_STEP_SUMMARY_BYTES + max(0, -left)
    assert (written is None) == (left < 50)  # the headline alone is worth it


def test_a_summary_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        append_job_summary(everything(), {"GITHUB_STEP_SUMMARY": str(tmp_path / "nowhere" / "x")})
