"""`make test-versions` tries the versions that `pyproject.toml` names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import versions


def test_every_dependency_of_a_user_has_a_floor_and_the_matrix_starts_there() -> None:
    extras = versions.PROJECT["optional-dependencies"]
    needed = [*versions.PROJECT["dependencies"], *extras["sandbox"], *extras["junit"]]
    assert len(versions.floors()) == len(needed)
    assert "prefect==3.7.5" in versions.floors()


def test_the_pythons_are_those_that_pip_lets_in() -> None:
    assert versions.PYTHONS == ["3.10", "3.11", "3.12", "3.13"]
    assert versions.PROJECT["requires-python"] == ">=3.10,<3.14"


def test_the_newest_patch_of_a_python_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    for name in ("3.10.9", "3.10.13", "3.1.20"):
        (tmp_path / "versions" / name / "bin").mkdir(parents=True)
        (tmp_path / "versions" / name / "bin" / "python").touch()
    assert versions.interpreter("3.10") == str(tmp_path / "versions" / "3.10.13" / "bin" / "python")


def test_a_python_that_is_not_there_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert versions.main(["3.10"]) == 1
    assert "Python 3.10, lowest: not run there is no Python 3.10 here" in capsys.readouterr().out


@pytest.mark.slow
def test_a_suite_that_fails_or_runs_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_good(): pass\n\ndef test_bad(): assert False\n")

    def told(which: str) -> str:
        # Without this project's settings, which load the whole package.
        return versions.tested(sys.executable, ["-c", os.devnull, str(tmp_path), "-k", which])

    assert "1 passed" in told("good")
    assert told("bad").startswith("FAILED: ")
    assert told("no_such_test").startswith("FAILED: ")


def test_what_leans_on_prefect_is_there() -> None:
    assert [name for name in versions.LEANS_ON_PREFECT if not (versions.ROOT / "tests" / name).is_file()] == []
