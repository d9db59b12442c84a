"""How the release flow runs a command: its output, its end, and what it leaves behind."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal
from prefect_shell import ShellOperation

from flows.release import CommandFailed, run_command, words_of

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def logger(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Outside of a flow, for brevity: no flow run's logger."""
    caplog.set_level("INFO")
    monkeypatch.setattr("flows.release.get_run_logger", lambda: logging.getLogger("release"))


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def run_by_prefect_shell(_: str, command: list[str]) -> None:
    ShellOperation(commands=[shlex.join(command)]).run()


# Not by choice: where it stops all of a command some day, these tests say so, and ours can go.
RUNNERS = [
    pytest.param(run_command, id="ours"),
    pytest.param(
        run_by_prefect_shell,
        id="prefect-shell",
        marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason="leaves it running"),
    ),
]
PATIENCE_SECONDS = 120


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody may be there to reap an orphan; a zombie does nothing any more.
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_for_end(pid: int, patience_seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + patience_seconds
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.05)


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_each_line_of_the_output_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr, flush=True); sys.stdout.buffer.write(b'\\xff\\n')"
    run_command("deploy", [sys.executable, "-u", "-c", code])
    messages = [record.getMessage() for record in caplog.records if record.name == "release"]
    assert [line for line in messages if line in ("one", "two", "\N{REPLACEMENT CHARACTER}")] == [
        "one",
        "two",
        "\N{REPLACEMENT CHARACTER}",
    ]


def test_a_failing_command_is_named_with_its_exit_code_and_last_lines() -> None:
    with pytest.raises(CommandFailed) as caught:
        run_command("deploy", python("[print(f'line {n}') for n in range(9)]; raise SystemExit(3)"))
    message = str(caught.value)
    assert message.startswith("deploy: the command ")
    assert "ended with exit code 3. Its last lines:\nline 4\nline 5\nline 6\nline 7\nline 8" in message
    assert "line 3" not in message


def test_a_command_that_says_nothing() -> None:
    with pytest.raises(CommandFailed, match=r"ended with exit code 1\. Its last lines:\n\(no output\)"):
        run_command("deploy", "false")


def test_a_command_that_is_killed() -> None:
    with pytest.raises(CommandFailed, match="was ended by signal 9"):
        run_command("deploy", python("import os; os.kill(os.getpid(), 9)"))


@pytest.mark.parametrize("command", [["/does/not/exist"], "no-such-program --flag", "/"])
def test_a_command_that_cannot_be_started(command: str | list[str]) -> None:
    with pytest.raises(CommandFailed, match=r"deploy: the command .* could not be started"):
        run_command("deploy", command)


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    run_command("deploy", f"{sys.executable} -c pass ; touch {tmp_path}/touched $HOME `id`")
    assert list(tmp_path.iterdir()) == []
    assert words_of("a 'b c' $D") == ["a", "b c", "$D"]


@pytest.mark.parametrize("command", ["", [], "  "])
def test_an_empty_command_is_refused(command: str | list[str]) -> None:
    with pytest.raises(ValueError, match="the command is empty"):
        words_of(command)


def test_it_is_stopped_with_all_its_children_when_it_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.release.GRACE_SECONDS", 0.5)
    pids = tmp_path / "pids"
    # Neither the command nor its child listens to SIGTERM.
    code = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); child = os.fork();"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'); print('working', flush=True); time.sleep(600)"
    )
    began = time.monotonic()
    with pytest.raises(CommandFailed, match=r"did not end within 3 s and was stopped\. Its last lines:\nworking"):
        run_command("deploy", python(code), 3)
    assert time.monotonic() - began < 200
    for pid in pids.read_text().split():
        wait_for_end(int(pid))


def test_what_a_command_leaves_running_on_purpose_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.release.GRACE_SECONDS", 0.5)
    began = time.monotonic()
    # The background process holds the output open.
    run_command("deploy", ["sh", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; echo started"])
    assert time.monotonic() - began < 200
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def interrupt_once_it_runs(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """A function that waits until the command has written its id to `pid`, then interrupts the main thread."""
    pid = tmp_path / "pid"

    def interrupt(*_: object) -> None:
        raise TerminationSignal(signal.SIGTERM)

    def wait_then_interrupt() -> None:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGALRM)

    previous = signal.signal(signal.SIGALRM, interrupt)
    yield wait_then_interrupt
    signal.signal(signal.SIGALRM, previous)
    if pid.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def test_an_interruption_stops_the_command(interrupt_once_it_runs: Callable[[], None], tmp_path: Path) -> None:
    threading.Thread(target=interrupt_once_it_runs, daemon=True).start()
    with pytest.raises(TerminationSignal):
        run_command("deploy", ["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600"])
    wait_for_end(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("run", RUNNERS)
def test_an_interruption_stops_a_command_that_was_started_this_moment(
    run: Callable[[str, list[str]], None],
    interrupt_once_it_runs: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    popen = subprocess.Popen

    def start(*args: Any, **options: Any) -> Any:
        process = popen(*args, **options)
        interrupt_once_it_runs()
        time.sleep(0.1)  # where this is the main thread, the interruption comes here, before anybody has the process
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(TerminationSignal):
        run("deploy", ["sh", "-c", f"echo $$ > {tmp_path}/pid; sleep 600"])
    wait_for_end(int((tmp_path / "pid").read_text()), PATIENCE_SECONDS if run is run_command else 5)


@pytest.mark.parametrize("run", RUNNERS)
def test_an_interruption_stops_what_does_not_listen(
    run: Callable[[str, list[str]], None],
    interrupt_once_it_runs: Callable[[], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.release.GRACE_SECONDS", 0.5)
    # The command itself ends at SIGTERM, its child does not.
    child = f"trap '' TERM; echo $$ > {tmp_path}/pid; sleep 600; sleep 600"
    threading.Thread(target=interrupt_once_it_runs, daemon=True).start()
    with pytest.raises(TerminationSignal):
        run("deploy", ["sh", "-c", f"sh -c {shlex.quote(child)}; true"])
    wait_for_end(int((tmp_path / "pid").read_text()), PATIENCE_SECONDS if run is run_command else 5)


def test_a_time_out_of_prefects_stops_the_command_in_a_thread_too(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    caught: list[BaseException] = []

    def work() -> None:
        try:
            run_command("deploy", ["sh", "-c", f"echo $$ > {pid}; sleep 600"])
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not pid.exists() or not pid.read_text():
        time.sleep(0.05)
    # What Prefect does to a thread.
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_long(thread.ident or 0), ctypes.py_object(TimeoutError))
    thread.join(PATIENCE_SECONDS)
    assert [type(error) for error in caught] == [TimeoutError]
    wait_for_end(int(pid.read_text()))
