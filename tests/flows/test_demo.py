"""The demo as a process: what it shows, what it gives back, and that nothing of it is left, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import prefect
import pytest

from flows import demo
from flows.demo import EXPECTED, Seen, environment, table
from flows.storefront.local import LocalStorefront
from prefect_qatech.sandbox import Sandbox
from tests.head_start import copy_tables

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PROC = Path("/proc")

GOOD = Seen("Passed", "", "pass", 1, 6, (), (), 1, 0, "v1-good", "v1-good")


class Demo:
    """A demo that runs; all its processes inherit a mark by which they are found."""

    def __init__(self, home: Path, **env: str) -> None:
        self.mark = f"demo-{uuid4()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.demo", "--home", str(home)],
            cwd=ROOT,
            env={**os.environ, "DEMO_MARK": self.mark, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def read_until(self, pattern: str) -> None:
        assert self.process.stdout is not None
        while not re.search(pattern, self.output):
            line = self.process.stdout.readline()
            assert line, f"the demo has ended:\n{self.output}"
            self.output += line

    def finish(self, timeout: float) -> int:
        output, _ = self.process.communicate(timeout=timeout)
        self.output += output
        return self.process.returncode

    def processes(self) -> list[str]:
        found = []
        for process in PROC.glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("demo")
    (prefect_home := home / f"prefect-{prefect.__version__}").mkdir()
    copy_tables(prefect_home / "prefect.db")
    return home


def test_the_three_versions(home: Path) -> None:
    # Settings of the user's that would break it if they were inherited.
    elsewhere = {
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "QATECH_API_TOKEN": "real",
        "QATECH_API_URL": "https://x.test",
    }
    running = Demo(home, **elsewhere)
    try:
        assert running.finish(800) == 0, running.output
    finally:
        running.process.kill()
    rows = [re.split(r"\s{2,}", line.strip()) for line in running.output.splitlines()]
    assert ["v1-good", "pass", "1", "1 + 0", "6 passed", "promoted"] in rows
    flaky = "5 passed, flaky: Checkout takes an order"
    assert ["v2-stumbles", "pass", "2", "1 + 1", flaky, "promoted"] in rows
    failed = "5 passed, failed: Checkout takes an order"
    assert ["v3-broken", "fail", "3", "1 + 2", failed, "rolled back to v2-stumbles"] in rows
    assert "1 of 6 tests failed: Checkout takes an order. The release may not go out." in running.output
    assert f"PREFECT_HOME={home.resolve()}" in running.output
    assert "addresses of runs and of the shop are dead" in running.output
    assert "Staging serves v3-broken (before: v2-stumbles)" in running.output
    assert "Traceback" not in running.output
    assert running.processes() == []


@pytest.mark.skipif(not PROC.exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("Starting", signal.SIGTERM),
        ("Releasing v1", signal.SIGINT),
        ("QA.tech run", signal.SIGTERM),
    ],
)
def test_nothing_is_left_when_it_is_interrupted(home: Path, moment: str, number: signal.Signals) -> None:
    running = Demo(home)
    try:
        running.read_until(moment)
        assert len(running.processes()) >= 1
        running.process.send_signal(number)
        assert running.finish(300) == 128 + number
    finally:
        running.process.kill()
    assert "everything that the demo had started is ended" in running.output
    assert "Traceback" not in running.output
    assert running.processes() == []


def test_nothing_of_the_users_settings_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example.com/api")
    monkeypatch.setenv("PREFECT_PROFILE", "production")
    monkeypatch.setenv("QATECH_API_TOKEN", "secret")
    monkeypatch.setenv("PATH", "/bin")
    given: Mapping[str, str] = environment(Path("/somewhere"), verbose=False)
    assert given["PATH"] == "/bin"
    assert given["PREFECT_HOME"] == "/somewhere"
    assert not {"PREFECT_API_URL", "PREFECT_PROFILE", "QATECH_API_TOKEN"} & set(given)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "Completed"},
        {"verdict": "inconclusive"},
        {"starts": 2},
        {"reruns": 1},
        {"flaky": ("a",)},
        {"failed": ("a",)},
        {"in_production": None},
        {"in_staging": "v3-broken"},
    ],
)
def test_whatever_is_not_as_expected_is_noticed(changes: dict[str, object]) -> None:
    assert GOOD.is_as(EXPECTED[0])
    assert not Seen(**{**vars(GOOD), **changes}).is_as(EXPECTED[0])


def test_a_demo_that_goes_wrong_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(version: str, sandbox: Sandbox, shop: LocalStorefront) -> Seen:
        return GOOD

    monkeypatch.setattr(demo, "release_version", pretend)
    assert not demo.work(tmp_path, verbose=True)
    assert capsys.readouterr().out.count("Not as it should be") == 2


def test_the_table_is_aligned() -> None:
    assert list(table([("a", "bb"), ("ccc", "d")])) == ["a    bb", "---  --", "ccc  d"]
