"""`prefect-qatech drill`: the gate does what it must in each case, and a gate that does not is found out."""

import asyncio
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from prefect_qatech.cli import drill as module, main
from prefect_qatech.cli.drill_cases import CASES, CONTROLS, Stage, play
from prefect_qatech.report.model import GateReport
from prefect_qatech.verdict.judge import Reason, Survey, judge

CASE = {case.name: case for case in CASES}
SECONDS = 200.0


def test_a_gate_that_only_says_no_is_no_gate() -> None:
    assert CONTROLS
    assert all(case.may_say == {"pass"} for case in CONTROLS)


async def test_a_judge_that_passes_what_was_cancelled_is_found_out(
    prefect_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sys.modules[judge.__module__]._run_reasons

    def blind(survey: Survey) -> Iterable[Reason]:
        return [reason for reason in whole(survey) if reason.rule != "run_not_completed"]

    monkeypatch.setattr(sys.modules[judge.__module__], "_run_reasons", blind)
    played = await play(CASE["cancelled-run"], tmp_path, SECONDS)
    assert (played.verdict, played.fails_closed) == ("pass", False)


async def test_a_second_start_and_a_gate_that_hangs_are_found_out(prefect_server: None, tmp_path: Path) -> None:
    async def twice(stage: Stage) -> GateReport:
        await stage.gate()
        return await stage.gate()

    assert not (await play(replace(CASE["all-pass"], play=twice), tmp_path, SECONDS)).fails_closed

    async def hang(stage: Stage) -> GateReport:
        await asyncio.sleep(3600)
        return await stage.gate()

    played = await play(replace(CASE["failed"], play=hang), tmp_path, 0.1)
    assert (played.verdict, played.fails_closed) == ("nothing", False)


@pytest.fixture
def here(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on the Prefect server of the tests."""
    monkeypatch.setattr("prefect.testing.utilities.prefect_test_harness", lambda *_: _nothing())


class _nothing:
    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, *_: object) -> None:
        """Nothing."""


def drill(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["prefect-qatech", "drill", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.timeout(600)  # all cases, most of which wait
def test_the_gate_does_what_it_must_and_the_command_tells_each_case(
    here: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code = drill(monkeypatch=monkeypatch)
    out = capsys.readouterr().out
    assert code == 0, out
    # Some are played at once, so each is told when it has ended.
    assert sorted(line.split()[1] for line in out.splitlines() if line.startswith("yes")) == sorted(CASE)
    assert "-> inconclusive" in out
    assert max(map(len, out.splitlines())) <= 80
    assert not (tmp_path / "summary.md").exists(), "a drill is no report of the job"


def test_a_gate_that_fails_open_ends_the_command_with_one(
    here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prefect_qatech.cli.drill_cases.CASES", (replace(CASE["skipped"], tests=("passed",)),))
    assert drill("--json", monkeypatch=monkeypatch) == module.EXIT_OPEN
    told = json.loads(capsys.readouterr().out)
    assert told["fails_closed"] is False
    assert [(case["case"], case["verdict"]) for case in told["cases"]] == [("skipped", "pass")]


def test_a_case_that_there_is_not_is_told_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drill("--case", "nonsense", monkeypatch=monkeypatch) == 3
    assert "cancelled-run" in capsys.readouterr().err
