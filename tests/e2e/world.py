"""A real Prefect server and a real worker, as processes that a test can kill and restart."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import httpx
from prefect.blocks.core import Block
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.head_start import copy_tables, keep_tables, one_certificate

ROOT = Path(__file__).parents[2]
POOL = "e2e"
# On any machine: what is waited for may have to wait for several other processes.
PATIENCE_SECONDS = 300.0
# Variables of a process worker's job: without a command, each flow run imports Prefect twice, first for a workspace.
AT_ONCE = {"command": f"{sys.executable} -m prefect.engine"}
# Python's garbage collector frees a cursor of SQLite in the thread of the server's event loop, and that waits for the
# connection's mutex. Where the connection is waiting for SQLite's lock meanwhile, the loop stands still for a minute:
# what holds the lock cannot go on, events are lost, and an automation does nothing.
WITHOUT_GARBAGE_COLLECTION = "import gc; gc.disable(); from prefect.cli import app; app()"
# The server's work is most of what the tests cost. It writes the states of task runs, which reach it as events, once a
# second and not each by itself, a fifth of that work.
LESS_WORK = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "50",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
# What the server says when it refuses a part of its work: a request, which its client repeats five times, or an
# automation's action, which nobody repeats.
REFUSALS = ("database is locked", "QueuePool limit")
T = TypeVar("T")


def free_port() -> int:
    """A port for a server that starts later: below those that the system gives to connections meanwhile."""
    while True:
        with suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", random.randint(20_000, 32_000)))
            port: int = listener.getsockname()[1]
            return port


def eventually(look: Callable[[], T], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Look until something true is seen."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen is not None and seen is not False and seen != []:
            return seen
        assert time.monotonic() < deadline, f"not seen within {seconds} s: {what}"
        time.sleep(0.5)


class World:
    """One Prefect server (SQLite) and one process worker on free ports and a folder of their own."""

    started: ClassVar[list[World]] = []

    def __init__(self, home: Path) -> None:
        self.started.append(self)
        self.home = home
        self.port = free_port()
        self.api_url = f"http://127.0.0.1:{self.port}/api"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # The server waits up to 60 s for a lock of SQLite.
        self.http = httpx.Client(base_url=self.api_url, timeout=PATIENCE_SECONDS)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of everything in this world."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "QATECH"))}
        return {
            **inherited,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_API_SSL_CERT_FILE": str(one_certificate()),
            **LESS_WORK,
            # Each new client asks for a token that this server, as by default, does not have.
            "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Else its log does not hold each refusal of a locked SQLite.
            "PREFECT_SERVER_LOG_RETRYABLE_ERRORS": "true",
            # It writes every five seconds where runs wait for each other, and nothing here is about late runs.
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
            # Else the pages of the server would ask the server on the default port.
            "PREFECT_SERVER_UI_API_URL": self.api_url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_CLI_COLORS": "false",
            "PYTHONPATH": str(ROOT),
            **(more or {}),
        }

    def spawn(
        self, name: str, *command: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> subprocess.Popen[bytes]:
        """Start a process with SIGINT as a terminal would leave it."""
        if (earlier := self._processes.pop(name, None)) is not None:
            earlier.wait(PATIENCE_SECONDS)
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment(env),
                cwd=cwd,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A shell that starts a process in the background makes it ignore SIGINT, and Prefect's worker needs it.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self._processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")

    @classmethod
    def refusals(cls) -> int:
        """How often SQLite's lock has made a server of this process give something up."""
        logs = [world.home / "server.log" for world in cls.started]
        texts = [log.read_text(errors="replace") for log in logs if log.exists()]
        return sum(text.count(sentence) for text in texts for sentence in REFUSALS)

    def start_server(self) -> None:
        database = self.home / "prefect.db"
        if not database.exists():
            copy_tables(database)
        self.spawn(
            "server",
            sys.executable,
            "-c",
            WITHOUT_GARBAGE_COLLECTION,
            "server",
            "start",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        )

        def healthy() -> bool:
            try:
                return self.http.get("/health").status_code == 200
            except httpx.HTTPError:
                return False

        eventually(healthy, "the Prefect server's health")
        keep_tables(database)

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self.spawn(
            "worker", sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"
        )

    def stop_everything(self) -> None:
        for name in [name for name in self._processes if name != "server"]:
            self.stop(name)
        for pid in self.flow_run_pids():
            os.kill(pid, signal.SIGKILL)
        self.stop("server")
        self.http.close()

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of Prefect's or ours: `prefect ...` or `prefect-qatech ...`."""
        module = {"prefect": "prefect", "prefect-qatech": "prefect_qatech.cli"}[arguments[0]]
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments[1:]],
            env=self.environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def save(self, block: Block, name: str) -> None:
        """Save a block, as a program of a user's does."""

        def save() -> None:
            with temporary_settings({PREFECT_API_URL: self.api_url}):
                block.save(name, overwrite=True)

        # In this thread Playwright may have a running loop.
        with ThreadPoolExecutor(1) as executor:
            executor.submit(save).result()

    def post(self, path: str, body: Any) -> Any:
        # SQLite is locked now and then, and Prefect's own client repeats a 503 as well.
        answer = eventually(
            lambda: found if (found := self.http.post(path, json=body)).status_code != 503 else None,
            f"no 503 of {path}",
        )
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def get(self, path: str) -> Any:
        def asked() -> httpx.Response | None:
            # A busy server resets a connection now and then.
            try:
                return self.http.get(path)
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                return None

        answer = eventually(asked, f"an answer of {path}")
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def deploy(
        self, entrypoint: str, env: Mapping[str, str], name: str = "e2e", job: Mapping[str, str] = AT_ONCE
    ) -> UUID:
        """Create a deployment of a flow for the process worker."""
        flow = self.post("/flows/", {"name": entrypoint.split(":")[1].replace("_", "-")})
        deployment = self.post(
            "/deployments/",
            {
                "name": name,
                "flow_id": flow["id"],
                "entrypoint": entrypoint,
                # Where only a path is given, each flow run begins with a copy of all that is there.
                "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
                "work_pool_name": POOL,
                "job_variables": {"env": dict(env), **job},
                "enforce_parameter_schema": False,
            },
        )
        return UUID(deployment["id"])

    def run(self, deployment_id: UUID, **parameters: Any) -> UUID:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return UUID(self.post(f"/deployments/{deployment_id}/create_flow_run", body)["id"])

    def state(self, flow_run_id: UUID) -> dict[str, Any]:
        state: dict[str, Any] = self.get(f"/flow_runs/{flow_run_id}")["state"]
        return state

    def wait_for_state(self, flow_run_id: UUID, *types: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            state = self.state(flow_run_id)
            return state if state["type"] in types else None

        return eventually(look, f"flow run {flow_run_id} in {types}, is {self.state(flow_run_id)}", seconds)

    def retry(self, flow_run_id: UUID) -> None:
        """What the UI's "Retry" sends."""
        body = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        run_count = self.get(f"/flow_runs/{flow_run_id}")["run_count"]

        # The runner and the worker each report a crash, a second or so apart; the second may overwrite the retry.
        def taken_up() -> bool:
            flow_run = self.get(f"/flow_runs/{flow_run_id}")
            if flow_run["run_count"] > run_count:
                return True
            if flow_run["state"]["type"] not in ("SCHEDULED", "PENDING"):
                self.post(f"/flow_runs/{flow_run_id}/set_state", body)
            return False

        eventually(taken_up, "the retry")

    def flow_run_pids(self, flow_run_id: UUID | None = None) -> list[int]:
        """Processes of this world that execute a flow run."""
        return [pid for pid, found in self._flow_run_processes() if flow_run_id is None or found == str(flow_run_id)]

    def _flow_run_processes(self) -> Iterator[tuple[int, str]]:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                raw = (entry / "environ").read_bytes().split(b"\0")
                is_zombie = b") Z " in (entry / "stat").read_bytes()
            except OSError:
                continue
            env = dict(item.split(b"=", 1) for item in raw if b"=" in item)
            found = env.get(b"PREFECT__FLOW_RUN_ID")
            if found and not is_zombie and env.get(b"PREFECT_API_URL", b"").decode() == self.api_url:
                yield int(entry.name), found.decode()

    def kill(self, flow_run_id: UUID) -> None:
        """SIGKILL the processes that execute a flow run."""
        pids = self.flow_run_pids(flow_run_id)
        assert pids, "no process executes the flow run"
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        eventually(lambda: not self.flow_run_pids(flow_run_id), "the end of the flow run's processes")
