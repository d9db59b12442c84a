"""Release a version: deploy it, let QA.tech test it where it was deployed, then promote it or roll it back.

    python -m flows.release

serves it from this machine, as `release/local`; in a clone of the repository `python -m flows.storefront` runs it for a
sample shop. Copy this file and give it commands of your own. What it keeps to, on a retry as well (the steps that are
done are on record on the Prefect server, as inputs of the flow run):

- One flow run is one deployment with one gate. A retry does not deploy again: it takes the gate up where it was, reruns
  only what the policy still allows, and goes on from there. A promotion that failed is retried this way.
- Only a gate that passed promotes. Any other end of it (tests failed, too little evidence, a start of unknown outcome,
  no access to QA.tech) rolls back, and the flow run fails with the gate's own message.
- Nothing stands between a gate that has not passed and the roll-back, not even a call of Prefect's API: the note of it
  is written meanwhile, and again until the API takes it.
- After the decision to roll back nothing more happens in this flow run. What was tested is gone, so its verdict, and
  what a rerun would find now, say nothing of another deployment. A retry only says why; release anew instead.
- Cancellation, a kill and a time-out of the flow run are no verdict: nothing is promoted and nothing is rolled back.
  There may be seconds left before the process is killed, too few for a roll-back; a retry can go on. The log says so.
- A deployment that failed is not rolled back either: the flow cannot know what it has changed.

A command runs a second time where the process was killed during the first. Two releases into one environment do not
know of each other: give the deployment of this flow a concurrency limit of 1.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import AfterValidator, Field

from prefect_qatech import (
    GatePolicy,
    GateReport,
    QATechApplication,
    QATechCredentials,
    QATechEnvironment,
    QATechPolling,
    QATechRunRequest,
    release_gate,
    verdict_as_state,
)
from prefect_qatech.api.ids import ApplicationShortId, TestPlanShortId
from prefect_qatech.gate.names import run_name

NOTE_SECONDS = 600.0
GRACE_SECONDS = 5.0
MAX_LINE_LENGTH = 10_000
LAST_LINES = 5


class CommandFailed(RuntimeError):
    """A command could not be started, took too long, or ended with another exit code than 0."""


class ReleaseRolledBack(RuntimeError):
    """The deployment of this flow run was rolled back before, or its roll-back failed."""


def words_of(command: str | list[str]) -> list[str]:
    """Split a command as a shell would; nothing in it is expanded."""
    words = shlex.split(command) if isinstance(command, str) else command
    if not words:
        raise ValueError("the command is empty")
    return words


Command = Annotated[str | list[str], AfterValidator(words_of)]
"""A program and its arguments. No shell reads it: for pipes and variables write `["sh", "-c", "..."]`."""

# What the form and the API refuse before there is a flow run; of ids they know it.
Address = Annotated[str, Field(pattern=r"^https?://[^\s/]+\S*$")]
Seconds = Annotated[float, Field(gt=0)]


def name_of_run() -> str:
    """Name the flow run by what is released, where it is tested, and its version."""
    given = flow_run.parameters
    return run_name(given["application_short_id"], given["environment_url"], given["target"])


# Stated on purpose: no default of the Prefect installation decides that a release is repeated.
@verdict_as_state
@flow(name="release", flow_run_name=name_of_run, retries=0)
def release(
    deploy_command: Command,
    environment_url: Address,
    application_short_id: ApplicationShortId,
    test_plan_short_id: TestPlanShortId | None = None,
    *,
    target: str | None = None,
    credentials: QATechCredentials | None = None,
    promote_command: Command | None = None,
    rollback_command: Command | None = None,
    policy: GatePolicy = GatePolicy(),  # noqa: B008 - frozen, and the UI's form shows it
    polling: QATechPolling | None = None,
    command_timeout_seconds: Seconds = 1800.0,
) -> GateReport:
    """Deploy, test, then promote or roll back.

    Args:
        deploy_command: Puts the version where it can be tested.
        environment_url: The address where it can be tested then.
        application_short_id: The application at QA.tech that is tested there: `app_...`, or its name.
        test_plan_short_id: The plan to run, `pln_...`; the project's default plan when absent.
        target: What is deployed: its version or commit, for the report.
        credentials: How to reach QA.tech; from the environment (`QATECH_API_TOKEN`) when absent.
        promote_command: Lets the version through, when the gate has passed.
        rollback_command: Takes it back, when the gate has not passed.
        policy: What the gate tolerates, and how often it reruns what failed.
        polling: How often to look at a run.
        command_timeout_seconds: How long a command may take.

    Returns:
        The gate's report.

    Raises:
        GateNotPassed: The gate did not pass; what was deployed is rolled back.
        CommandFailed: A command failed.
        ReleaseRolledBack: A retry of a release that was rolled back, or the roll-back failed.
    """
    credentials = credentials or QATechCredentials.from_env()
    if _is_loopback(environment_url) and not _is_loopback(credentials.api_url):
        raise ValueError(f"QA.tech cannot reach {environment_url}, which is this machine. Nothing was deployed.")
    environment = QATechEnvironment(url=environment_url)
    application = QATechApplication(application_short_id=application_short_id, environment=environment)

    notes = _Notes()
    noted = notes.read()
    if reason := noted.get("roll-back"):
        done = (
            "was rolled back"
            if "rolled-back" in noted
            else "was to be rolled back, and the end of that is not on record"
        )
        raise ReleaseRolledBack(f"This release {done}. A retry does not deploy again: release anew. {reason}")
    if "deployed" not in noted:
        run_command("deploy", deploy_command, command_timeout_seconds)
        notes.write("deployed")
    try:
        # In this flow run, and no sub-flow run of it: the report is on the page that people open.
        report = release_gate.fn(
            credentials,
            QATechRunRequest(test_plan_short_id=test_plan_short_id, applications=[application]),
            policy=policy,
            polling=polling,
            # A flow run deploys once, so on a retry of it the evidence is still about what is deployed. A flow that
            # calls this one and is retried runs it anew, with a deployment of its own.
            target=f"{target or 'deployment'} by flow run {flow_run.id}",
        )
    except Exception as error:
        if rollback_command is not None and "promoted" not in noted:
            _roll_back(rollback_command, command_timeout_seconds, error, notes)
        raise
    except BaseException:
        get_run_logger().warning("Interrupted: what was deployed is neither promoted nor rolled back. A retry goes on.")
        raise
    if promote_command is not None and "promoted" not in noted:
        run_command("promote", promote_command, command_timeout_seconds)
        notes.write("promoted")
    return report


def _roll_back(command: Command, timeout_seconds: float, why: Exception, notes: "_Notes") -> None:
    # The roll-back waits for no note, and a retry after a kill in the middle of it finds one.
    with ThreadPoolExecutor(1) as beside:
        note = beside.submit(notes.write, "roll-back", f"{type(why).__name__}: {why}")
        try:
            run_command("roll back", command, timeout_seconds)
        except CommandFailed as failure:
            raise ReleaseRolledBack(f"The roll-back failed. {failure}\nThe reason for it: {why}") from why
    try:
        note.result()
        notes.write("rolled-back")
    except httpx.HTTPError as error:
        raise ReleaseRolledBack(
            f"This release was rolled back, and Prefect's API took no note of that ({type(error).__name__}): do not "
            f"retry this flow run, release anew. The reason for the roll-back: {why}"
        ) from why


class _Notes:
    """Which steps of this flow run are done, on record on the Prefect server, as inputs of the flow run."""

    def __init__(self) -> None:
        self._flow_run_id = UUID(flow_run.id)

    def read(self) -> dict[str, str]:
        with get_client(sync_client=True) as client:
            rows = client.filter_flow_run_input(self._flow_run_id, "release-", limit=10, exclude_keys=set())
        return {row.key.removeprefix("release-"): str(json.loads(row.value)) for row in rows}

    def write(self, step: str, what: str = "done") -> None:
        """Write a note, again and again while Prefect's API does not take it."""
        deadline = time.monotonic() + NOTE_SECONDS
        while True:
            try:
                with get_client(sync_client=True) as client:
                    client.create_flow_run_input(self._flow_run_id, key=f"release-{step}", value=json.dumps(what))
                return
            except httpx.HTTPStatusError as error:
                # An answer that was lost: it is there.
                if error.response.status_code == 409:
                    return
                if error.response.status_code < 500 or time.monotonic() > deadline:
                    raise
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)


def run_command(step: str, command: Command, timeout_seconds: float = 1800.0) -> None:
    """Run a command, its output line by line in the log.

    `prefect-shell` was tried. There, a cancellation that comes between the start of the command and the `try` around it
    leaves the command running; so do children that ignore SIGTERM. A server that the command leaves running on purpose
    is killed or, where it holds the output open, waited for without end.

    Args:
        step: What it is for, in a word or two.
        command: The program and its arguments. They and the output are logged: no secrets in either.
        timeout_seconds: How long it may take. Then, and when the flow run is cancelled, it is stopped with all that it
            has started.

    Raises:
        CommandFailed: It could not be started, took too long, or ended with another exit code than 0.
    """
    words = words_of(command)
    what = f'{step}: the command "{shlex.join(words)}"'
    logger = get_run_logger()
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    problems: list[str] = []
    stop, ended = threading.Event(), threading.Event()

    def log(line: str) -> None:
        last_lines.append(line)
        logger.info("%s", line)

    def work() -> None:
        try:
            if problem := _run(words, timeout_seconds, log, stop):
                problems.append(problem)
        finally:
            ended.set()

    # Signals interrupt the main thread, and time-outs the thread of the task, at any place, between the start of a
    # process and the next line, too. So the process belongs to a thread of its own, which nothing interrupts.
    worker = threading.Thread(target=work, name="command")
    try:
        worker.start()
        # A time-out of Prefect's reaches a thread only where it runs Python code.
        while not ended.wait(0.2):
            pass
    except BaseException:
        stop.set()
        ended.wait(3 * GRACE_SECONDS)
        logger.warning("Interrupted: %s was stopped.", what)
        raise
    if problems:
        raise CommandFailed("\n".join([f"{what} {problems[0]}. Its last lines:", *(last_lines or ["(no output)"])]))


def _run(words: list[str], timeout_seconds: float, log: Callable[[str], None], stop: threading.Event) -> str | None:
    """Run a program until it ends, takes too long or is to stop; say what went wrong."""
    deadline = time.monotonic() + timeout_seconds
    if stop.is_set():
        return "was not started"
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
        return f"could not be started: {error}"

    def read() -> None:
        if process.stdout is not None:
            with process.stdout as output:
                while line := output.readline(MAX_LINE_LENGTH):
                    log(line.rstrip())

    reader = threading.Thread(target=read, name="command-output", daemon=True)
    reader.start()
    while process.poll() is None and time.monotonic() < deadline and not stop.wait(0.05):
        pass
    if process.returncode is None:
        _stop(process)
        problem = "was stopped" if stop.is_set() else f"did not end within {timeout_seconds:g} s and was stopped"
    elif process.returncode < 0:
        problem = f"was ended by signal {-process.returncode}"
    else:
        problem = f"ended with exit code {process.returncode}" if process.returncode else ""
    # Not for ever: something that the command has left running on purpose may keep the output open.
    reader.join(GRACE_SECONDS)
    return problem or None


def _stop(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(
            f"{sys.argv[1]}: this serves the flow, and each run of it is told what to deploy; in a clone of the "
            "repository, python -m flows.storefront releases v1-good, v2-stumbles or v3-broken of a sample shop."
        )
    release.serve(name="local")
