"""The soak itself: a Prefect server, a worker, a sandbox with faults, and a loop that kills and retries."""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import httpx

from prefect_qatech.sandbox import Sandbox
from tests.e2e.postgres import create_database, initialize
from tests.e2e.world import POOL, World, eventually, free_port
from tests.soak.books import Books, Gate, Told, gate_of, reckon
from tests.soak.scenario import KINDS, REQUEST_SECONDS, SPEED, faults, scenario

GATES_PER_FLOW_RUN = 15
FLOW_RUNS_AT_ONCE = 5
TICK_SECONDS = 0.2
LOOK_SECONDS = 2.0
# The runner and the worker each report a crash, up to 1.5 s apart, and the second would overwrite a retry; more here,
# as the machine is busy.
SETTLED_SECONDS = 3.0
# A flow run that should have a process and has had none for so long is one that Prefect lost.
LOST_SECONDS = 60.0
MOST_RETRIES_FOR_PREFECT = 8
# Now and then the Prefect server stops in the middle of all, and answers nobody for so long.
HANG_SECONDS = 8.0
HANG_AT_SECONDS, HANG_EVERY_SECONDS = 25.0, 75.0
_RERUN = re.compile(r"/v1/run/([^/]+)")
TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


class SoakWorld(World):
    """A world whose server writes to PostgreSQL.

    On SQLite, Prefect's server stands still for a minute whenever fifteen requests wait for its one lock: they hold all
    connections of the pool, and the request that has the lock needs another one.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._database = Path(tempfile.mkdtemp(prefix="qatech-soak-postgres-"))
        self._database_port, self._password = free_port(), secrets.token_urlsafe(16)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        address = f"prefect:{self._password}@127.0.0.1:{self._database_port}/prefect"
        return {
            **super().environment(more),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{address}",
            # What no gate needs.
            "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "3",
        }

    def start_server(self) -> None:
        self.spawn("postgres", *initialize(self._database, "prefect", self._password, self._database_port))
        eventually(
            lambda: create_database("prefect", "prefect", self._password, self._database_port), "PostgreSQL's start"
        )
        super().start_server()

    def stop_everything(self) -> None:
        postgres = self._processes.pop("postgres")
        super().stop_everything()
        # SIGTERM would wait for connections that nobody closes any more.
        postgres.send_signal(signal.SIGINT)
        postgres.wait(20)
        shutil.rmtree(self._database)

    def hang(self, seconds: float) -> bool:
        """Let the server answer nobody for some seconds, connections and all."""
        group = self._processes["server"].pid
        os.killpg(group, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            os.killpg(group, signal.SIGCONT)
        return True


@dataclass(frozen=True)
class Kill:
    """When a process is to be killed: at this age, or before, in one of its POSTs or after a gate has passed."""

    how: Literal["at a moment", "in a POST", "after a pass"]
    seconds: float


@dataclass
class FlowRun:
    """A flow run of the soak."""

    tag: str
    id: UUID
    gates: list[Gate]
    kills: deque[Kill]
    folder: Path
    state: str = "SCHEDULED"
    state_id: str = ""
    since: float = 0.0
    pids: list[int] = field(default_factory=list)
    process_since: float | None = None
    killed: bool = False
    retries_for_prefect: int = 0
    ended: bool = False

    def has_passed(self, seconds: float) -> bool:
        """Whether a gate of its has passed in the last seconds."""
        passes = self.folder / "passes"
        return passes.exists() and time.time() - passes.stat().st_mtime < seconds

    def told(self) -> Told:
        """Read what it wrote down; a process that was killed may have left half a line."""
        answers = [(int(path.stem), json.loads(path.read_text())) for path in sorted(self.folder.glob("*.json"))]
        passes = self.folder / "passes"
        lines = passes.read_text().split("\n")[:-1] if passes.exists() else []
        return Told(answers, [json.loads(line) for line in lines])


@dataclass
class Tally:
    """What the soak did and what was done to it."""

    kills: int = 0
    kills_in_a_post: int = 0
    hangs: int = 0
    retries: int = 0
    retries_for_prefect: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    processes_left: int = 0
    seconds: float = 0.0
    timed_out: bool = False


def choose_gates(count: int, rng: random.Random) -> list[Gate]:
    """Choose what each gate is to meet; of few gates as of many, each kind has its share."""
    weights = [kind.weight for kind in KINDS]
    kinds = [*KINDS, *rng.choices(KINDS, weights, k=max(0, count - len(KINDS)))][:count]
    rng.shuffle(kinds)
    return [
        Gate(
            f"f{number // GATES_PER_FLOW_RUN:02}",
            f"gate-{number}",
            kind,
            rng.choice(kind.deadlines),
            rng.choice((None, f"version {number}")),
        )
        for number, kind in enumerate(kinds)
    ]


def choose_kills(rng: random.Random) -> deque[Kill]:
    """Choose how often, when and how the processes of a flow run are killed."""
    moments = (Kill("in a POST", 40.0), Kill("after a pass", 60.0), Kill("at a moment", rng.uniform(1.0, 30.0)))
    return deque(rng.choices(moments, (4, 3, 3), k=rng.choice((0, 1, 1, 1, 2))))


class Soak:
    """One soak.

    Args:
        gates: How many gates.
        seed: Of everything that is chosen.
        minutes: The time limit for all of it.
        home: A folder of its own.
        say: Told how it goes.
    """

    def __init__(self, gates: int, seed: int, minutes: float, home: Path, say: Callable[[str], None]) -> None:
        self._rng = random.Random(seed)
        self.gates = choose_gates(gates, self._rng)
        self.tally = Tally()
        self._say = say
        self._began = time.monotonic()
        self._deadline = self._began + 60 * minutes
        self._home = home
        self._world = SoakWorld(home)
        self._sandbox = Sandbox(scenario(), speed=SPEED, seed=seed)
        self._flow_runs: list[FlowRun] = []
        self._deployment_id = UUID(int=0)
        self._log: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._gate_of_run: dict[str, str] = {}
        self._over = threading.Event()
        self._spoke = 0.0
        self._hangs_next = self._began + HANG_AT_SECONDS
        self._repeated: set[str] = set()

    def run(self) -> Books:
        """Do it all, and leave nothing behind."""
        world = self._world
        try:
            with self._sandbox:
                self._set_up()
                with ThreadPoolExecutor(1, "killer") as pool:
                    killer = pool.submit(self._kill_at_random)
                    try:
                        self._see_to_the_end(killer)
                    finally:
                        self._over.set()
                    killer.result()
                self._read_log()
                books = self._settle_accounts()
                self.tally.processes_left = self._flow_run_processes_left()
        finally:
            world.stop_everything()
        self.tally.processes_left += len(list(_processes_of(world.api_url)))
        self.tally.seconds = time.monotonic() - self._began
        return books

    def _set_up(self) -> None:
        world, sandbox = self._world, self._sandbox
        world.start_server()
        world.post(
            "/work_pools/",
            {"name": POOL, "type": "process", "base_job_template": {}, "concurrency_limit": FLOW_RUNS_AT_ONCE},
        )
        env = {
            "QATECH_API_TOKEN": sandbox.token,
            "QATECH_API_URL": sandbox.url,
            "PYTHONPATH": world.environment()["PYTHONPATH"],
        }
        self._deployment_id = world.deploy("tests/soak/flows.py:gates_side_by_side", env)
        sandbox.set_faults(faults(self._rng))
        for tag in dict.fromkeys(gate.tag for gate in self.gates):
            gates = [gate for gate in self.gates if gate.tag == tag]
            folder = self._home / "told" / tag
            folder.mkdir(parents=True)
            wanted = {
                gate.label: {"plan": gate.kind.plan, "target": gate.target, "deadline_seconds": gate.deadline_seconds}
                for gate in gates
            }
            flow_run_id = world.run(self._deployment_id, tag=tag, gates=wanted, folder=str(folder))
            self._flow_runs.append(FlowRun(tag, flow_run_id, gates, choose_kills(self._rng), folder))
        world.start_worker()
        self._say(f"{len(self.gates)} gates in {len(self._flow_runs)} flow runs; Prefect at {world.api_url}")

    def _see_to_the_end(self, killer: Future[None]) -> None:
        while not all(flow_run.ended for flow_run in self._flow_runs) and not killer.done():
            now = time.monotonic()
            if now > self._deadline:
                self.tally.timed_out = True
                return
            self._see_states(now)
            for flow_run in self._flow_runs:
                self._take_care_of(flow_run, now)
            if now > self._hangs_next:
                self._hangs_next = now + HANG_EVERY_SECONDS
                self.tally.hangs += self._world.hang(HANG_SECONDS)
            if now - self._spoke >= 15:
                self._spoke = now
                states = Counter("ended" if one.ended else one.state.lower() for one in self._flow_runs)
                shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
                done = f"{self.tally.kills} kills, {self.tally.retries} retries"
                self._say(f"{now - self._began:4.0f} s: {shown}; {done}")
            time.sleep(LOOK_SECONDS)

    # --- the sandbox's log

    def _read_log(self) -> None:
        # It keeps the last 1000 requests only; the moment is a microsecond of one thread, so no two are alike.
        for entry in self._sandbox.requests():
            self._log[entry["at"], entry["method"], entry["path"]] = entry
            self._note_rerun(entry)
            if entry["method"] == "POST" and entry["run_short_id"]:
                self._gate_of_run.setdefault(entry["run_short_id"], self._gate_of_post(entry))

    def _note_rerun(self, entry: dict[str, Any]) -> None:
        if entry["method"] == "POST" and (repeated := _RERUN.fullmatch(entry["path"])):
            self._repeated.add(repeated.group(1))

    def _gate_of_post(self, entry: dict[str, Any]) -> str:
        if isinstance(entry["body"], dict) and "applications" in entry["body"]:
            return gate_of(entry["body"]["applications"])
        repeated = _RERUN.fullmatch(entry["path"])
        return self._gate_of_run.get(repeated.group(1), "") if repeated else ""

    def _post_under_way(self, flow_run: FlowRun, age: float) -> bool:
        """Whether the sandbox holds back its answer to a POST that the flow run's process, of that age, has sent."""
        since = datetime.now(timezone.utc) - timedelta(seconds=min(age, REQUEST_SECONDS))
        return any(
            entry["status"] is None
            and entry["fault"] == "latency"
            and entry["method"] == "POST"
            and datetime.fromisoformat(entry["at"]) > since
            and self._gate_of_post(entry).startswith(f"{flow_run.tag}-")
            for entry in self._sandbox.requests()[-200:]
        )

    # --- killing, in a thread of its own: Prefect's server may be slow to answer

    def _kill_at_random(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            now = time.monotonic()
            self._read_log()
            self._see_processes(now)
            for flow_run in self._flow_runs:
                if flow_run.process_since is not None and flow_run.kills and not flow_run.killed:
                    self._kill_if_due(flow_run, now - flow_run.process_since)

    def _see_processes(self, now: float) -> None:
        seen: dict[str, list[int]] = {}
        for pid, flow_run_id in self._world._flow_run_processes():
            seen.setdefault(flow_run_id, []).append(pid)
        for flow_run in self._flow_runs:
            pids = seen.get(str(flow_run.id), [])
            if bool(pids) != bool(flow_run.pids):
                flow_run.process_since, flow_run.since = (now if pids else None), now
            flow_run.pids = pids

    def _kill_if_due(self, flow_run: FlowRun, age: float) -> None:
        kill, in_a_post = flow_run.kills[0], self._post_under_way(flow_run, age)
        is_moment = (kill.how == "in a POST" and in_a_post) or (kill.how == "after a pass" and flow_run.has_passed(age))
        if age < kill.seconds and not is_moment:
            return
        flow_run.kills.popleft()
        for pid in flow_run.pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            flow_run.killed = True
        self.tally.kills += flow_run.killed
        self.tally.kills_in_a_post += flow_run.killed and in_a_post

    # --- retrying

    def _see_states(self, now: float) -> None:
        asked = {"deployments": {"id": {"any_": [str(self._deployment_id)]}}, "limit": 200}
        try:
            answer = self._world.http.post("/flow_runs/filter", json=asked)
        except httpx.HTTPError:
            return  # it is busy; the next look will do
        if not answer.is_success:
            return
        states = {found["id"]: found["state"] for found in answer.json()}
        for flow_run in self._flow_runs:
            state = states.get(str(flow_run.id))
            if state is not None and (state["type"], state["id"]) != (flow_run.state, flow_run.state_id):
                flow_run.state, flow_run.state_id, flow_run.since = state["type"], state["id"], now

    def _take_care_of(self, flow_run: FlowRun, now: float) -> None:
        if flow_run.ended or flow_run.pids or now - flow_run.since < SETTLED_SECONDS:
            return
        if flow_run.state == "COMPLETED":
            lost = self._lost_by_prefect(flow_run)
            if lost and flow_run.retries_for_prefect < MOST_RETRIES_FOR_PREFECT:
                self._retry(flow_run, now, lost)
            else:
                flow_run.ended = True
        elif flow_run.killed and flow_run.state == "CRASHED":
            self._retry(flow_run, now, None)
        elif flow_run.state in TERMINAL:
            self._retry(flow_run, now, f"{flow_run.state} by itself")
        elif flow_run.state in {"PENDING", "RUNNING"} and now - flow_run.since > LOST_SECONDS:
            self._retry(flow_run, now, f"{flow_run.state} without a process")

    def _lost_by_prefect(self, flow_run: FlowRun) -> str | None:
        """Name the error, not one of this package's, with which a gate of an ended flow run ended."""
        answers = flow_run.told().last
        if not answers:
            return "COMPLETED without an answer"
        return next((one["error"] for one in answers.values() if "error" in one and not one["is_ours"]), None)

    def _retry(self, flow_run: FlowRun, now: float, for_prefect: str | None) -> None:
        """Send what the UI's "Retry" sends."""
        body = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
        try:
            if not self._world.http.post(f"/flow_runs/{flow_run.id}/set_state", json=body, timeout=90).is_success:
                return
        except httpx.HTTPError:
            return
        if for_prefect is None:
            self.tally.retries += 1
        else:
            self.tally.retries_for_prefect[for_prefect] += 1
            flow_run.retries_for_prefect += 1
        flow_run.state, flow_run.since, flow_run.killed = "SCHEDULED", now, False

    # --- the end

    def _settle_accounts(self) -> Books:
        tally = self.tally
        tally.requests = sum(self._sandbox.counts()["requests"].values())
        tally.faults = Counter(_kind_of_fault(entry) for entry in self._log.values() if entry["fault"])
        told = {flow_run.tag: flow_run.told() for flow_run in self._flow_runs if flow_run.ended}
        ledgers = {flow_run.tag: self._ledger(flow_run.id) for flow_run in self._flow_runs}
        return reckon(self.gates, told, self._sandbox.runs(), ledgers, self._repeated)

    def _ledger(self, flow_run_id: UUID) -> dict[str, str]:
        rows: dict[str, str] = {}
        while True:
            asked = {"prefix": "qatech-", "limit": 200, "exclude_keys": sorted(rows)}
            page = self._world.post(f"/flow_runs/{flow_run_id}/input/filter", asked)
            rows |= {row["key"]: row["value"] for row in page}
            if len(page) < 200:
                return rows

    def _flow_run_processes_left(self) -> int:
        """Count the processes of flow runs that have ended."""
        ended = {str(flow_run.id) for flow_run in self._flow_runs if flow_run.ended}
        give_up_at = time.monotonic() + 10
        while left := sum(found in ended for _, found in self._world._flow_run_processes()):
            if time.monotonic() > give_up_at:
                break
            time.sleep(TICK_SECONDS)
        return left


def _kind_of_fault(entry: dict[str, Any]) -> str:
    return str(entry["status"] if entry["fault"] == "status" else entry["fault"])


def _processes_of(api_url: str) -> Iterator[int]:
    """Whatever still runs with this world's Prefect: server, worker, flow runs and their children."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            is_zombie = b") Z " in (entry / "stat").read_bytes()
        except OSError:
            continue
        if f"PREFECT_API_URL={api_url}".encode() in environment and not is_zombie:
            yield int(entry.name)
