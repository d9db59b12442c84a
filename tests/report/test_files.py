"""Files: complete or not there, and nobody else's overwritten."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from prefect_qatech.campaign import GateReport
from prefect_qatech.report import append_job_summary, load_verdict_json, write_report_files
from prefect_qatech.report import files as files_module
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


def test_files_of_another_gate_are_left_alone(tmp_path: Path) -> None:
    write_report_files(campaign("abc"), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in NAMES}
    paths = write_report_files(campaign("def"), tmp_path)
    assert paths["junit"] == tmp_path / "def" / "junit.xml"
    assert write_report_files(campaign("def"), tmp_path) == paths
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == before
    assert names(tmp_path) == {*NAMES, "def"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_files_of_nobody_known_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("somebody's", encoding="utf-8")
    paths = write_report_files(campaign("abc"), tmp_path)
    assert {path.parent for path in paths.values()} == {tmp_path / "abc"}
    assert (tmp_path / name).read_text(encoding="utf-8") == "somebody's"


def test_a_campaign_without_a_run_gets_a_number(tmp_path: Path) -> None:
    write_report_files(campaigns.no_run(), tmp_path)
    assert write_report_files(campaigns.no_run(), tmp_path)["verdict"] == tmp_path / "gate-1" / "verdict.json"
    assert write_report_files(campaigns.no_run(), tmp_path)["verdict"] == tmp_path / "gate-2" / "verdict.json"


@pytest.mark.parametrize("run", ["../escaped", "..", "a/b", "/tmp/x", "x" * 200, "pln_smoke", ""])
def test_a_run_id_that_is_none_is_no_path(tmp_path: Path, run: str) -> None:
    report = passing()
    forged = report.model_copy(update={"attempts": (report.attempts[0].model_copy(update={"run_short_id": run}),)})
    inside = tmp_path / "report"
    write_report_files(campaign("abc"), inside)
    paths = write_report_files(forged, inside)
    assert {path.parent for path in paths.values()} == {inside / "gate-1"}
    assert names(tmp_path) == {"report"}


def test_gates_at_the_same_moment_take_different_directories(tmp_path: Path) -> None:
    barrier, found = threading.Barrier(8), []

    def write(number: int) -> None:
        barrier.wait()
        found.append(write_report_files(campaign(f"run{number}"), tmp_path)["verdict"])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8
    runs = {json.loads(path.read_text(encoding="utf-8"))["attempts"][0]["run_short_id"] for path in found}
    assert runs == {f"run{number}" for number in range(8)}


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report_files(everything(), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in NAMES}

    def fail(source: object, target: object) -> None:
        assert Path(str(source)).parent == Path(str(target)).parent
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report_files(everything(), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == before
    assert names(tmp_path) == NAMES


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    """While the files are written again and again, each look finds a whole one."""
    write_report_files(everything(), tmp_path)
    over = threading.Event()

    def write() -> None:
        for _ in range(20):
            write_report_files(everything(), tmp_path)
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not over.is_set():
        load_verdict_json((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    thread.join()


def test_without_junitparser_the_other_files_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "junitparser", None)
    with pytest.raises(ImportError, match=r"prefect-qatech\[junit\]"):
        write_report_files(everything(), tmp_path)
    assert names(tmp_path) == NAMES - {"junit.xml"}


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
