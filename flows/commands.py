"""A task that runs a command of the user's, for flows that deploy."""

import contextlib
import os
import shlex
import signal
import subprocess
import threading
from collections import deque
from typing import Annotated

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from pydantic import AfterValidator

_LONGEST_LINE = 10_000
_LAST_LINES = 5
_GRACE_SECONDS = 5.0


def words_of(command: str | list[str]) -> list[str]:
    """Split a command as a shell would; nothing in it is expanded."""
    words = shlex.split(command) if isinstance(command, str) else command
    if not words:
        raise ValueError("the command is empty")
    return words


Command = Annotated[str | list[str], AfterValidator(words_of)]
"""A program and its arguments. No shell reads it: for pipes and variables write `["sh", "-c", "..."]`."""


class CommandFailed(RuntimeError):
    """A command could not be started, took too long, or ended with another exit code than 0."""


# Stated on purpose: no default of the Prefect installation decides that a deployment is repeated, or skipped.
@task(task_run_name="{step}", retries=0, cache_policy=NO_CACHE)
def run_command(step: str, command: Command, timeout_seconds: float = 1800.0) -> None:
    """Run a command, its output line by line in the log.

    Args:
        step: What it is for, in a word or two.
        command: The program and its arguments. They and the output are logged: no secrets in either.
        timeout_seconds: How long it may take. Then, and when the flow run is cancelled, it is stopped with all that it
            has started.

    Raises:
        CommandFailed: It could not be started, took too long, or ended with another exit code than 0.
    """
    logger = get_run_logger()
    words = words_of(command)
    what = f'{step}: the command "{shlex.join(words)}"'
    last_lines: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, and no shell
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # In a session of its own, so that it can be stopped with all that it has started.
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(f"{what} could not be started: {error}") from None

    def read() -> None:
        if process.stdout is not None:
            while line := process.stdout.readline(_LONGEST_LINE):
                last_lines.append(line.rstrip())
                logger.info("%s", line.rstrip())

    reader = threading.Thread(target=read, name="command-output", daemon=True)
    try:
        reader.start()
        exit_code = process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        _stop(process)
        problem = f"did not end within {timeout_seconds:g} s and was stopped"
    except BaseException:
        _stop(process)
        logger.warning("Interrupted: %s was stopped.", what)
        raise
    else:
        ended_by = f"was ended by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
        problem = ended_by if exit_code else ""
    # Not for ever: something that the command has left running on purpose may keep the output open.
    reader.join(_GRACE_SECONDS)
    if problem:
        raise CommandFailed("\n".join([f"{what} {problem}. Its last lines:", *(last_lines or ["(no output)"])]))


def _stop(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
