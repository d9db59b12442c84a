"""Gates that suspend: their processes end, the watcher wakes them, and each starts once; with a real worker."""

from __future__ import annotations

from uuid import UUID

from prefect_qatech.sandbox import Sandbox
from tests.e2e.world import World, eventually

ONE_FAILS_ONCE = {
    "plans": [
        {"short_id": "pln_one", "name": "One", "test_cases": [{"name": "A", "outcomes": ["failed", "passed"]}]},
        {"short_id": "pln_never", "name": "Never", "run": {"never_ends": True}, "test_cases": [{"name": "B"}]},
    ]
}


def suspended(world: World, gate: UUID) -> None:
    eventually(lambda: world.state(gate)["name"] == "Suspended", f"the suspension of {gate}")
    eventually(lambda: not world.flow_run_pids(gate), "the end of its process", 90)


def watched(world: World, watcher: UUID) -> None:
    world.wait_for_state(world.run(watcher), "COMPLETED")


def test_suspended_gates_have_no_process_and_are_woken(world: World) -> None:
    with Sandbox(ONE_FAILS_ONCE, speed=0) as sandbox:
        env = {
            "QATECH_API_TOKEN": sandbox.token,
            "QATECH_API_URL": sandbox.url,
            "PYTHONPATH": world.environment()["PYTHONPATH"],
        }
        deployed = {name: world.deploy(f"tests/e2e/flows.py:{name}", env) for name in ("suspended_gate", "watcher")}
        gate = world.run(deployed["suspended_gate"], plan="pln_one")
        late = world.run(deployed["suspended_gate"], plan="pln_never", deadline_seconds=20)
        cancelled = world.run(deployed["suspended_gate"], plan="pln_never")
        for flow_run_id in (gate, late, cancelled):
            suspended(world, flow_run_id)
        world.post(f"/flow_runs/{cancelled}/set_state", {"state": {"type": "CANCELLED"}})
        sandbox.advance(10_000)
        watched(world, deployed["watcher"])
        eventually(lambda: sandbox.counts()["reruns"] == 1, "the rerun of the gate that was woken")
        suspended(world, gate)
        sandbox.advance(10_000)

        def ended() -> bool:
            watched(world, deployed["watcher"])
            return all(world.state(found)["type"] in ("COMPLETED", "FAILED") for found in (gate, late))

        eventually(ended, "the ends of both gates")
        assert world.state(gate)["type"] == "COMPLETED"
        assert "GateInconclusive" in world.state(late)["message"]
        artifacts = world.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [str(late)]}}})
        assert [found for found in artifacts if "inconclusive" in str(found["description"]).lower()]
        assert world.state(cancelled)["type"] == "CANCELLED"
        assert (sandbox.counts()["starts"], sandbox.counts()["reruns"]) == (3, 1)
        assert world.get(f"/flow_runs/{gate}")["run_count"] == 1
