"""`prefect-qatech sandbox`, as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from prefect_qatech.cli import main
from prefect_qatech.sandbox import SandboxError, serve

COMMAND = [sys.executable, "-m", "prefect_qatech.cli", "sandbox"]


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        assert process.stdout
        line = process.stdout.readline().strip()
        assert line.startswith("Sandbox listening on http://127.0.0.1:"), (
            line,
            process.stderr and process.stderr.read(),
        )
        yield process, line.split()[-1]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.slow
def test_it_serves_until_a_signal_and_no_run_has_the_id_of_an_earlier_one() -> None:
    headers = {"Authorization": "Bearer sandbox-token"}
    ids: list[str] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with running("--port", "0", "--speed", "5000") as (process, url):
            for _ in range(2):
                ids.append(httpx.post(f"{url}/v1/run", headers=headers).raise_for_status().json()["run"]["shortId"])
                httpx.post(f"{url}/sandbox/reset").raise_for_status()
            assert httpx.get(f"{url}/sandbox/health").json()["speed"] == 5000
            process.send_signal(number)
            assert process.wait(timeout=120) == 0
            assert process.stdout
            assert process.stderr
            out = process.stdout.read()
            assert process.stderr.read() == ""
            assert "QATECH_API_TOKEN=sandbox-token" in out
            assert "development and tests only" in out
    assert len({*ids}) == 4


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command in this process; it must end with an error of one line."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["prefect-qatech", "sandbox", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert (ended.value.code, printed.out, printed.err.count("\n")) == (3, "", 1)
        return printed.err

    return run


def test_a_port_in_use(fail: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"Port {port} is in use" in fail("--port", str(port))


def test_a_scenario_that_is_wrong_or_not_there(fail: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    assert "there is no such scenario file" in fail("--scenario", str(file))
    file.write_text("plans:\n  - short_id: pln_a\n    name: A\n    test_cases: [{name: t, outcomes: odd}]\n")
    message = fail("--scenario", str(file))
    assert "shop.yaml, line 4, plans.0.test_cases.0.outcomes" in message


@pytest.mark.parametrize("arguments", [{"port": 70_000}, {"host": "0.0.0.0"}, {"host": "::1"}])
def test_what_cannot_be_served(arguments: dict[str, object]) -> None:
    with pytest.raises(SandboxError):
        serve(**arguments)  # type: ignore[arg-type]


def test_a_speed_that_is_none() -> None:
    with pytest.raises(ValueError, match="speed is virtual seconds"):
        serve(0, speed=-1)
