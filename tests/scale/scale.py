"""Gates on three machines, one of which dies; then what an operator does, and what came of it."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from prefect_qatech import QATechCredentials
from prefect_qatech.sandbox import Sandbox
from tests.e2e.world import eventually
from tests.scale.machines import APIS, WORKERS, Machines

SPEED = 6.0
"""Virtual seconds of the sandbox in a real one: a run takes some ten seconds, so that a death comes in the middle."""
PREVIEW, RELEASE, TRIAGE = "preview-check/preview-check", "check-release/release-gate", "triage/triage"
RELEASES = 3
DEAD = WORKERS[0]
MAX_RERUNS = 1
LEAST_CAMPAIGNS_CUT = 2
# A flow run that should have a process and has had none for so long was taken by the machine that died.
LOST_SECONDS = 30.0
EVENT_SECONDS = 10.0
TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Truth:
    """What must come of a plan's gates, with one rerun allowed."""

    verdict: str
    reruns: int
    deadline_seconds: float = 600.0


PLANS = {
    "pln_green": Truth("pass", 0),
    "pln_flaky": Truth("pass", 1),
    "pln_broken": Truth("fail", 1),
    "pln_error": Truth("pass", 1),
    "pln_mixed": Truth("fail", 1),
    "pln_never": Truth("inconclusive", 0, deadline_seconds=25.0),
}


@dataclass
class Gate:
    """A gate: its flow run, and the address by which its runs are known at the sandbox."""

    deployment: str
    plan: str
    url: str
    flow_run_id: UUID
    ended_as: str = ""
    verdict: str = ""

    @property
    def truth(self) -> Truth:
        return PLANS[self.plan]


@dataclass
class Findings:
    """What was seen. `wrongs` are sentences; a run without them is a good one."""

    gates: list[Gate] = field(default_factory=list)
    starts: int = 0
    reruns: int = 0
    posts: int = 0
    processes_killed: int = 0
    cut: list[UUID] = field(default_factory=list)
    recovered: list[UUID] = field(default_factory=list)
    runs_of_machines: Counter[str] = field(default_factory=Counter)
    requests_of_apis: Counter[str] = field(default_factory=Counter)
    ledger_rows_of_apis: Counter[str] = field(default_factory=Counter)
    triages: int = 0
    processes_left: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    wrongs: list[str] = field(default_factory=list)


class Scale:
    """One run of it all.

    Args:
        gates: How many gates; some of them are release gates, which wait for each other.
        home: A folder of its own.
        say: Told how it goes.
    """

    def __init__(self, gates: int, home: Path, say: Callable[[str], None]) -> None:
        previews = [(PREVIEW, plan) for plan in islice(cycle(PLANS), gates - RELEASES)]
        # Of these one runs at a time; the last plan of all takes longest.
        self._wanted = [(RELEASE, "pln_green")] * RELEASES + previews
        self._say = say
        self._machines = Machines(home)
        self._sandbox = Sandbox(speed=SPEED)
        self.found = Findings()
        self._began = time.monotonic()

    def run(self) -> Findings:
        """Do it all, and leave nothing behind."""
        found, machines = self.found, self._machines
        try:
            with self._sandbox:
                machines.start()
                self._lap("servers are up")
                self._deploy()
                machines.start_workers()
                self._lap("workers are up")
                self._start_gates()
                self._kill_a_machine()
                self._lap(f"{DEAD} is dead")
                self._recover()
                self._await_the_end()
                self._lap("all gates have ended")
                self._see_triages()
                self._lap("all triages have ended")
                self._settle_accounts()
        finally:
            machines.stop_everything()
        found.processes_left = len(machines.pids())
        self._lap("everything has stopped")
        if found.processes_left:
            found.wrongs.append(f"{found.processes_left} processes are left")
        return found

    def _lap(self, what: str) -> None:
        self.found.seconds[what] = time.monotonic() - self._began
        self._say(f"{self.found.seconds[what]:4.0f} s: {what}")

    def _deploy(self) -> None:
        """The guide "Deploy a gate"."""
        machines, sandbox = self._machines, self._sandbox
        operator = machines.environment()
        where = {
            PREFECT_API_URL: operator["PREFECT_API_URL"],
            PREFECT_API_AUTH_STRING: operator["PREFECT_API_AUTH_STRING"],
        }
        with temporary_settings(where):
            QATechCredentials(api_token=sandbox.token, api_url=sandbox.url).save("qatech", overwrite=True)
        machines.cli("prefect", "work-pool", "create", "qatech", "--type", "process")
        machines.cli("prefect", "--no-prompt", "deploy", "--all")

    def _start_gates(self) -> None:
        ids = {name: UUID(self._machines.get(f"/deployments/name/{name}")["id"]) for name in (PREVIEW, RELEASE)}
        for number, (deployment, plan) in enumerate(self._wanted, 1):
            url = f"http://127.0.0.1:8410/{number}"
            where = {"preview_url": url, "pull_request": number} if deployment == PREVIEW else {"environment_url": url}
            flow_run_id = self._machines.run(
                ids[deployment],
                **where,
                test_plan_short_id=plan,
                policy={"max_reruns": MAX_RERUNS, "deadline_seconds": PLANS[plan].deadline_seconds},
                polling={"first_seconds": 0.5, "max_seconds": 2},
            )
            self.found.gates.append(Gate(deployment, plan, url, flow_run_id))

    # --- a machine dies

    def _kill_a_machine(self) -> None:
        """Kill a worker and its flow runs at once, while gates of it are in the middle of their campaigns."""
        self.found.cut = eventually(self._frozen_in_the_middle, f"a moment in the middle of campaigns on {DEAD}", 240)
        self.found.processes_killed = self._machines.signal_machine(DEAD, signal.SIGKILL)
        eventually(lambda: not self._machines.pids(DEAD), f"the end of {DEAD}")

    def _frozen_in_the_middle(self) -> list[UUID]:
        """Freeze the machine; thaw it again if one of its gates may be about to send a POST.

        Where it dies during a POST, nobody can know the outcome, and a person must say; that is another test's matter.
        A frozen process does nothing any more, so what is seen then holds.
        """
        if not self._in_the_middle():
            return []
        self._machines.signal_machine(DEAD, signal.SIGSTOP)
        cut = self._in_the_middle()
        if not cut:
            self._machines.signal_machine(DEAD, signal.SIGCONT)
        return cut

    def _in_the_middle(self) -> list[UUID]:
        """Give the gates on the machine that wait for a run of theirs, if all others there have not begun."""
        here = set(self._machines.pids(DEAD))
        on_it = {UUID(found) for pid, found in self._machines._flow_run_processes() if pid in here}
        waiting = [gate.flow_run_id for gate in self.found.gates if gate.flow_run_id in on_it and self._waits(gate)]
        for other in on_it - set(waiting):
            if self._machines.state(other)["type"] != "PENDING":
                return []
        return waiting if len(waiting) >= LEAST_CAMPAIGNS_CUT else []

    def _waits(self, gate: Gate) -> bool:
        """Whether a gate's last run goes on and is on record, so that the gate does nothing but look at it."""
        runs = self._runs().get(gate.url)
        if not runs or runs[-1]["status"] in ("COMPLETED", "ERROR", "CANCELLED"):
            return False
        recorded = {json.loads(value)["run_short_id"] for key, value in self._ledger(gate) if key.endswith("-done")}
        return {run["short_id"] for run in runs} <= recorded

    def _runs(self) -> dict[str, list[dict[str, Any]]]:
        """Give the runs that the sandbox has accepted, by the address that they test."""
        runs: dict[str, list[dict[str, Any]]] = {}
        for run in self._sandbox.runs():
            url = "".join(str(one["environment"]["url"]) for one in run["applications"])
            runs.setdefault(url, []).append(run)
        return runs

    def _ledger(self, gate: Gate) -> list[tuple[str, str]]:
        asked = {"prefix": "qatech-", "limit": 200, "exclude_keys": []}
        rows = self._machines.post(f"/flow_runs/{gate.flow_run_id}/input/filter", asked)
        return [(row["key"], row["value"]) for row in rows]

    # --- an operator comes

    def _recover(self) -> None:
        """Mark each flow run without a process as crashed, and press "Retry"."""
        lost = set(self.found.cut)
        for state_type in ("RUNNING", "PENDING"):
            lost |= {UUID(run["id"]) for run in self._flow_runs(state_type) if self._was_on_the_machine(run)}
        for flow_run_id in lost:
            self._crashed_then_retried(flow_run_id)

    def _was_on_the_machine(self, run: dict[str, Any]) -> bool:
        taken = f"submitting flow run '{run['id']}'" in self._machines.log(DEAD)
        return taken and not self._machines.flow_run_pids(UUID(run["id"])) and not self._taken_by_another(run["id"])

    def _taken_by_another(self, flow_run_id: str) -> bool:
        return any(f"submitting flow run '{flow_run_id}'" in self._machines.log(name) for name in WORKERS[1:])

    def _flow_runs(self, state_type: str) -> list[dict[str, Any]]:
        # A sub-flow runs in the process of its parent.
        of_workers = {"state": {"type": {"any_": [state_type]}}, "parent_task_run_id": {"is_null_": True}}
        asked = {"flow_runs": of_workers, "limit": 200}
        found: list[dict[str, Any]] = self._machines.post("/flow_runs/filter", asked)
        return found

    def _crashed_then_retried(self, flow_run_id: UUID) -> None:
        crashed = {"type": "CRASHED", "name": "Crashed", "message": f"{DEAD} is dead."}
        retry = {"type": "SCHEDULED", "name": "AwaitingRetry"}
        for state in (crashed, retry):
            self._machines.post(f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})
        self.found.recovered.append(flow_run_id)

    def _await_the_end(self, seconds: float = 300.0) -> None:
        """Wait for every gate; what turns out to be lost with the machine is recovered, too."""
        since: dict[str, tuple[str, float]] = {}

        def all_ended() -> bool:
            now, left = time.monotonic(), 0
            for state_type in ("SCHEDULED", "PENDING", "RUNNING"):
                for run in self._flow_runs(state_type):
                    left += not run["auto_scheduled"]
                    state_id, seen = since.setdefault(run["id"], (run["state"]["id"], now))
                    if state_type == "SCHEDULED" or state_id != run["state"]["id"]:
                        since[run["id"]] = (run["state"]["id"], now)
                    elif now - seen > LOST_SECONDS and not self._machines.flow_run_pids(UUID(run["id"])):
                        self._crashed_then_retried(UUID(run["id"]))
                        since.pop(run["id"])
            return left == 0

        try:
            eventually(all_ended, "the end of all flow runs", seconds)
        except AssertionError as error:
            self.found.wrongs.append(str(error))
        for gate in self.found.gates:
            state = self._machines.state(gate.flow_run_id)
            gate.ended_as = f"{state['name']}: {(state['message'] or '')[:200]}"

    # --- events

    def _see_triages(self) -> None:
        """Each failed gate has one triage; so has an event that is given to one API server, whichever it is."""
        runs = self._runs()
        failed = {runs[gate.url][0]["short_id"] for gate in self.found.gates if gate.truth.verdict == "fail"}
        given = {str(uuid4()): api for api in APIS}
        for marker, api in given.items():
            event = {
                "occurred": datetime.now(timezone.utc).isoformat(),
                "event": "qatech.gate.failed",
                "id": str(uuid4()),
                "resource": {"prefect.resource.id": f"qatech.gate.{marker}"},
                "payload": {"run_short_ids": sorted(failed)[:1], "plan_short_id": "pln_broken", "flow_run_id": marker},
            }
            url = f"http://127.0.0.1:{self._machines.ports[api]}/api/events"
            httpx.post(url, json=[event], auth=self._machines.http.auth, timeout=30).raise_for_status()
        deployment_id = self._machines.get(f"/deployments/name/{TRIAGE}")["id"]
        asked = {"deployments": {"id": {"any_": [deployment_id]}}, "limit": 200}

        def subject(triage: dict[str, Any]) -> str:
            marker: str = triage["parameters"]["gate_flow_run_id"]
            return marker if marker in given else str(triage["parameters"]["run_short_ids"][0])

        def all_completed() -> list[dict[str, Any]]:
            triages: list[dict[str, Any]] = self._machines.post("/flow_runs/filter", asked)
            completed = {subject(run) for run in triages if run["state"]["type"] == "COMPLETED"}
            return triages if completed >= failed | given.keys() else []

        try:
            triages = eventually(all_completed, "a triage of each failed gate and of each event", 120)
        except AssertionError as error:
            triages = self._machines.post("/flow_runs/filter", asked)
            self.found.wrongs.append(f"{error}: {[(subject(run), run['state']['type']) for run in triages]}")
        self.found.triages = len(triages)
        of = Counter(subject(run) for run in triages)
        if of != Counter(failed | given.keys()):
            self.found.wrongs.append(f"triages, each of which must be there once: {of}")

    # --- the books

    def _settle_accounts(self) -> None:
        found, runs = self.found, self._runs()
        for gate in found.gates:
            accepted = runs.pop(gate.url, [])
            starts = [run["short_id"] for run in accepted if run["parent"] is None]
            reruns = [run["short_id"] for run in accepted if run["parent"] is not None]
            found.starts += len(starts)
            found.reruns += len(reruns)
            gate.verdict = self._verdict(gate)
            if gate.verdict != gate.truth.verdict:
                found.wrongs.append(f"{gate.url} ({gate.plan}): {gate.verdict or 'no verdict'}; {gate.ended_as}")
            if (len(starts), len(reruns)) != (1, gate.truth.reruns):
                found.wrongs.append(f"{gate.url} ({gate.plan}): starts {starts}, reruns {reruns}")
        found.wrongs += [f"runs that belong to no gate: {url or 'the plan itself'}" for url in runs]
        counts = self._sandbox.counts()
        found.posts = sum(count for request, count in counts["requests"].items() if request.startswith("POST"))
        if (counts["starts"], counts["reruns"]) != (found.starts, found.reruns):
            found.wrongs.append(f"the sandbox has counted {counts['starts']} starts and {counts['reruns']} reruns")
        for flow_run_id in found.cut:
            run_count = self._machines.get(f"/flow_runs/{flow_run_id}")["run_count"]
            if run_count != 2:
                found.wrongs.append(f"{flow_run_id} was cut in the middle and has run {run_count} times, not twice")
        self._see_events()
        self._see_releases()
        self._see_who_worked()

    def _see_releases(self) -> None:
        """Release gates of one environment ran one at a time, though the API servers are two."""
        spans = []
        for gate in self.found.gates:
            if gate.deployment == RELEASE:
                states = self._machines.get(f"/flow_run_states/?flow_run_id={gate.flow_run_id}")
                begun = [state["timestamp"] for state in states if state["type"] == "RUNNING"]
                spans.append((min(begun), max(state["timestamp"] for state in states)))
        spans.sort()
        if len(spans) != RELEASES or any(one[1] > next_one[0] for one, next_one in pairwise(spans)):
            self.found.wrongs.append(f"release gates ran at the same time: {spans}")

    def _verdict(self, gate: Gate) -> str:
        """Give the verdict by which a gate's flow run has ended."""
        verdicts = {"Passed": "pass", "Gate failed": "fail", "Inconclusive": "inconclusive"}
        return next((verdict for name, verdict in verdicts.items() if gate.ended_as.startswith(name)), "")

    def _see_events(self) -> None:
        """Each gate has told its verdict in one event, whichever API server it gave it to."""
        names = {"pass": "passed", "fail": "failed", "inconclusive": "inconclusive"}

        def events_of(gate: Gate) -> list[str]:
            of_gate = {"related": {"id": [f"prefect.flow-run.{gate.flow_run_id}"]}}
            asked = {"filter": {"event": {"name": [f"qatech.gate.{name}" for name in names.values()]}, **of_gate}}
            return [event["event"] for event in self._machines.post("/events/filter", asked)["events"]]

        for gate in self.found.gates:
            wanted = f"qatech.gate.{names[gate.truth.verdict]}"
            # The services write events down some seconds later.
            deadline = time.monotonic() + EVENT_SECONDS
            while not (events := events_of(gate)) and time.monotonic() < deadline:
                time.sleep(0.5)
            if events != [wanted]:
                self.found.wrongs.append(f"{gate.url} ({gate.plan}): events {events}, not one {wanted}")

    def _see_who_worked(self) -> None:
        """Say which machine took how many flow runs, and which API server answered how many requests."""
        found, machines = self.found, self._machines
        for name in WORKERS:
            found.runs_of_machines[name] = len(re.findall(r"submitted to infrastructure", machines.log(name)))
        for line in (machines.home / "access.log").read_text().splitlines():
            for api in APIS:
                if line.endswith(f"127.0.0.1:{machines.ports[api]}"):
                    found.requests_of_apis[api] += 1
                    found.ledger_rows_of_apis[api] += bool(re.search(r'"POST \S+/input ', line))
        for what, seen, all_of in (
            ("took no flow run", found.runs_of_machines, WORKERS),
            ("wrote no row of a ledger", found.ledger_rows_of_apis, APIS),
        ):
            found.wrongs += [f"{name} {what}" for name in all_of if not seen[name]]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
