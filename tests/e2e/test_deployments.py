"""The guide "Deploy a gate", command by command, on a real server with a real worker; then each deployment at work."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock

from prefect_qatech import QATechCredentials
from prefect_qatech.sandbox import Sandbox
from tests.documents import PAGES, blocks
from tests.e2e.flows import promote
from tests.e2e.world import AT_ONCE, PATIENCE_SECONDS, World, eventually
from tests.support import posts, unpacked_wheel

GATE, NIGHT = "check-release/release-gate", "nightly-regression/nightly-regression"
PREVIEW, TRIAGE = "preview-check/preview-check", "triage/triage"
SUSPENDED, WATCHER = "check-release/suspended-gate", "watch-suspended-gates/watcher"
POLLING = {"first_seconds": 0.2, "max_seconds": 0.5}
COMMANDS = blocks(PAGES["guides/deploy.md"], "sh")[-1].splitlines()
[SUSPENDED_COMMAND] = blocks(PAGES["guides/suspended.md"], "sh")
PROGRAMS = {"prefect": ["-m", "prefect"], "prefect-qatech": ["-m", "prefect_qatech.cli"], "python": []}


class Scene:
    """What was deployed, the sandbox that it tests, and what each command of the guide said."""

    def __init__(self, world: World, sandbox: Sandbox, directory: Path) -> None:
        self.world, self.sandbox, self.directory = world, sandbox, directory / "empty"
        self.said: dict[str, str] = {}
        # The package as it is installed, not this repository.
        site = unpacked_wheel(directory)
        self.env = {"QATECH_API_URL": sandbox.url, "QATECH_API_TOKEN": sandbox.token, "PYTHONPATH": str(site)}
        self.directory.mkdir()

    def command(self, line: str) -> str:
        program, *arguments = shlex.split(line)
        done = subprocess.run(
            [sys.executable, *PROGRAMS[program], *arguments],
            env=self.world.environment(self.env),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.world.get(f"/deployments/name/{name}")
        return found

    def change(self, path: str, **fields: Any) -> None:
        """Change what Prefect's server has, as often as a locked SQLite asks for."""
        eventually(lambda: self.world.http.patch(path, json=fields).is_success, "the change")

    def run(self, name: str, **parameters: Any) -> UUID:
        return self.world.run(UUID(self.deployment(name)["id"]), **parameters)

    def runs_of(self, name: str) -> list[dict[str, Any]]:
        body = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}, "sort": "START_TIME_DESC"}
        return [run for run in self.world.post("/flow_runs/filter", body) if not run["auto_scheduled"]]

    def triage_of(self, gate: UUID) -> dict[str, Any]:
        """Wait for the triage of a gate; that of an earlier one may arrive late."""

        def triages() -> list[dict[str, Any]]:
            return [run for run in self.runs_of(TRIAGE) if run["parameters"]["gate_flow_run_id"] == str(gate)]

        [triage] = eventually(triages, "the triage of the gate")
        return triage

    def artifact(self, flow_run_id: UUID, key: str) -> str:
        body = {"artifacts": {"flow_run_id": {"any_": [str(flow_run_id)]}, "key": {"any_": [key]}}}
        [found] = self.world.post("/artifacts/filter", body)
        return str(found["data"])

    def automations(self) -> list[str]:
        return sorted(found["name"] for found in self.world.post("/automations/filter", {}))


@pytest.fixture(scope="module")
def scene(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Sandbox(speed=60) as sandbox:
        scene = Scene(world, sandbox, tmp_path_factory.mktemp("scene"))
        for line in COMMANDS:
            if line.startswith(("prefect-qatech sandbox", "export")):
                continue  # the sandbox of this test is on a free port
            if line.endswith("&"):
                _, *arguments = shlex.split(line.removesuffix("&"))
                command = (sys.executable, "-m", "prefect", *arguments)
                world.spawn("qatech-worker", *command, env=scene.env, cwd=scene.directory)
            else:
                scene.said[line] = scene.command(line)
        scene.command(SUSPENDED_COMMAND)
        try:
            yield scene
        finally:
            world.stop("qatech-worker")


@pytest.fixture(autouse=True)
def anew(scene: Scene) -> None:
    """A new sandbox; and what the guide has shown once, a worker that imports Prefect twice for each run, is enough."""
    scene.sandbox.reset()
    template = scene.world.get("/work_pools/qatech")["base_job_template"]
    template["variables"]["properties"]["command"]["default"] = AT_ONCE["command"]
    scene.change("/work_pools/qatech", base_job_template=template)


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a notification, and what arrives there."""
    arrived: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", arrived
    server.shutdown()
    server.server_close()


class Acting:
    """The automations of deployments/automations.py at work, and what they did."""

    def __init__(self, scene: Scene, told: list[dict[str, Any]]) -> None:
        self.scene, self.told = scene, told
        self.promote = scene.world.deploy(
            "tests/e2e/flows.py:promote", {"PYTHONPATH": scene.world.environment()["PYTHONPATH"]}
        )
        # Prefect tells the action's parameters from the schema of the flow, as `prefect deploy` does.
        schema = promote.parameters.model_dump_for_openapi()
        scene.change(f"/deployments/{self.promote}", parameter_openapi_schema=schema)
        self.make()

    def make(self, *more: str) -> None:
        given = f"--notify custom-webhook/people --promote promote/e2e --crashed-after 540 {' '.join(more)}"
        self.scene.command(f"python deployments/automations.py {given}")

    def promotions(self) -> list[dict[str, Any]]:
        body = {"deployments": {"id": {"any_": [str(self.promote)]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return list(self.scene.world.post("/flow_runs/filter", body))

    def told_of(self, flow_run_id: UUID) -> dict[str, str]:
        """What people were told of a flow run: bodies by subject, of which there must be no two."""
        found = [one for one in self.told if str(flow_run_id) in one["body"]]
        bodies = {one["subject"]: one["body"] for one in found}
        assert len(bodies) == len(found)
        return bodies


@pytest.fixture(scope="module")
def acting(scene: Scene) -> Iterator[Acting]:
    with webhook() as (url, told):
        template = {"subject": "{{subject}}", "body": "{{body}}"}
        scene.world.save(CustomWebhookNotificationBlock(name="w", url=url, json_data=template), "people")
        yield Acting(scene, told)


def test_the_commands_of_the_guide_deploy_everything_and_the_gate_passes(scene: Scene) -> None:
    assert len(scene.said) == 7
    for slug in ("qatech-credentials", "qatech-test-plan"):
        assert scene.world.get(f"/block_types/slug/{slug}")["slug"] == slug
    registered = next(said for line, said in scene.said.items() if "block register" in line)
    assert "QA.tech Credentials" in registered
    assert "QA.tech Test Plan" in registered
    for name in (GATE, NIGHT, PREVIEW, TRIAGE, SUSPENDED, WATCHER):
        deployment = scene.deployment(name)
        assert deployment["description"]
        assert "qatech" in deployment["tags"]
    assert [run["state"]["type"] for run in scene.runs_of(GATE)] == ["COMPLETED"]
    form = scene.deployment(GATE)["parameter_openapi_schema"]
    assert form["definitions"]["QATechCredentials"]["block_type_slug"] == "qatech-credentials"
    assert set(form["properties"]) >= {"credentials", "test_plan_short_id", "environment_url", "policy"}


def test_the_commands_of_the_guide_may_be_given_again(scene: Scene) -> None:
    for line in scene.said:
        if "deployment run" not in line:
            scene.command(line)


def test_the_night_is_scheduled_with_its_time_zone(scene: Scene) -> None:
    [schedule] = scene.deployment(NIGHT)["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 2 * * *", "Europe/Stockholm")
    assert schedule["active"]
    body = {"deployments": {"id": {"any_": [scene.deployment(NIGHT)["id"]]}}}
    eventually(
        lambda: [run for run in scene.world.post("/flow_runs/filter", body) if run["auto_scheduled"]],
        "a night that is scheduled",
        seconds=90,
    )


def test_gates_wait_for_each_other_and_nights_do_not_pile_up(scene: Scene) -> None:
    gates = [scene.run(GATE, polling=POLLING) for _ in range(2)]
    nights = [scene.run(NIGHT, polling=POLLING) for _ in range(2)]
    for gate in gates:
        scene.world.wait_for_state(gate, "COMPLETED")
    ends = sorted(scene.world.get(f"/flow_runs/{gate}")["end_time"] for gate in gates)
    starts = sorted(scene.world.get(f"/flow_runs/{gate}")["start_time"] for gate in gates)
    assert starts[1] >= ends[0]
    states = {night: scene.world.wait_for_state(night, "COMPLETED", "CANCELLED")["type"] for night in nights}
    assert sorted(states.values()) == ["CANCELLED", "COMPLETED"]
    [night] = [night for night, state in states.items() if state == "COMPLETED"]
    summary = scene.artifact(night, "qatech-gates")
    assert "2 of 2 gates passed." in summary
    assert "Everything passes" in summary
    assert "One fails once" in summary
    asked = [post["body"].get("testPlanShortId") for post in posts(scene.sandbox) if post["path"] == "/v1/run"]
    assert sorted(asked) == ["pln_flaky", "pln_green", "pln_green", "pln_green"]


def test_the_watcher_wakes_a_suspended_gate(scene: Scene) -> None:
    gate = scene.run(SUSPENDED, polling={"first_seconds": 0.01, "max_seconds": 0.5})
    eventually(lambda: scene.world.state(gate)["name"] == "Suspended", "the suspension")

    def woken() -> bool:
        scene.world.wait_for_state(scene.run(WATCHER), "COMPLETED", "CANCELLED")
        return bool(scene.world.state(gate)["name"] != "Suspended")

    eventually(woken, "the wake-up")
    scene.world.wait_for_state(gate, "COMPLETED")
    assert [post["path"] for post in posts(scene.sandbox)] == ["/v1/run"]


def test_a_failed_gate_is_told_to_people_and_starts_its_triage_with_its_ids_and_credentials(
    scene: Scene, acting: Acting
) -> None:
    with Sandbox(speed=60) as elsewhere:
        scene.world.save(QATechCredentials(api_token=elsewhere.token, api_url=elsewhere.url), "elsewhere")
        block = {"$ref": {"block_document_slug": "qatech-credentials/elsewhere"}}
        gate = scene.run(GATE, credentials=block, test_plan_short_id="pln_broken", polling=POLLING)
        state = scene.world.wait_for_state(gate, "FAILED")
        assert "Pay with a credit card" in state["message"]
        triage = scene.triage_of(gate)
        started = [post["run_short_id"] for post in posts(elsewhere)]
        assert triage["parameters"]["plan_short_id"] == "pln_broken"
        assert triage["parameters"]["run_short_ids"][0] == started[0]
        assert len(triage["parameters"]["run_short_ids"]) == len(started) == 3
        assert triage["parameters"]["credentials_block"] == "elsewhere"
        scene.world.wait_for_state(UUID(triage["id"]), "COMPLETED")
    text = scene.artifact(UUID(triage["id"]), "qatech-triage-pln-broken")
    assert "## 2 of 3 tests have not passed" in text
    assert "Pay with a credit card" in text
    assert "The payment was refused" in text
    assert f"/runs/flow-run/{gate})" in text
    assert "/artifacts/artifact/" in text
    eventually(lambda: acting.told_of(gate), "the notification")
    [(subject, body)] = acting.told_of(gate).items()
    assert subject == "QA.tech gate pln_broken: failed"
    assert "Failed: Pay with a credit card\n" in body


def test_the_event_of_the_guide_starts_a_check_of_the_preview(scene: Scene) -> None:
    environment = {**scene.world.environment(), "PYTHONPATH": ""}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    [line] = blocks(PAGES["guides/previews.md"], "sh")
    subprocess.run(["sh", "-c", line], env=environment, timeout=PATIENCE_SECONDS, check=True)
    [run] = eventually(lambda: scene.runs_of(PREVIEW), "the check of the preview")
    assert run["parameters"]["pull_request"] == 42
    scene.world.wait_for_state(UUID(run["id"]), "COMPLETED")
    [start] = posts(scene.sandbox)
    assert start["body"]["trigger"] == "GITHUB"
    assert start["body"]["repository"] == "northwind/shop"
    [application] = start["body"]["applications"]
    assert application["environment"] == {"url": "https://pr-42.example.com", "name": "Pull request 42"}


@contextmanager
def deployed_with(scene: Scene, **parameters: Any) -> Iterator[None]:
    """The release gate, deployed with other parameters."""
    deployment = scene.deployment(GATE)
    path = f"/deployments/{deployment['id']}"
    scene.change(path, parameters={**deployment["parameters"], **parameters})
    yield
    scene.change(path, parameters=deployment["parameters"])


def test_only_the_gate_as_it_was_deployed_promotes(scene: Scene, acting: Acting) -> None:
    acting.make()  # for the second time
    assert scene.automations() == [
        "qatech: flow run crashed -> notify",
        "qatech: gate failed -> triage",
        "qatech: gate needs people -> notify",
        "qatech: gate passed -> promote",
        "qatech: gate without heartbeat -> crashed",
        "qatech: preview deployed -> preview-check",
    ]
    # A night that has passed promotes nothing, nor does a gate that was run by hand with another plan and policy.
    night = scene.run(NIGHT, polling=POLLING, test_plan_short_ids=["pln_flaky"])
    relaxed = {"max_failed": 99, "max_undecided": 99}
    custom = scene.run(GATE, polling=POLLING, test_plan_short_id="pln_broken", policy=relaxed)
    scene.world.wait_for_state(night, "COMPLETED")
    scene.world.wait_for_state(custom, "COMPLETED")
    passed = scene.run(GATE, polling=POLLING, target="v1.4.2")
    scene.world.wait_for_state(passed, "COMPLETED")
    [promotion] = eventually(acting.promotions, "the promotion")
    parameters = promotion["parameters"]
    assert parameters["gate_flow_run_id"] == str(passed)
    assert parameters["target"] == "v1.4.2"
    assert parameters["plan_short_id"] == "pln_green"
    assert parameters["verdict"] == "pass"
    assert parameters["policy"]["max_failed"] == 0
    assert parameters["changed_parameters"] == []
    [application] = parameters["applications"]
    assert application["environment_url"] == "http://127.0.0.1:8410"
    [start] = [post for post in posts(scene.sandbox) if post["body"].get("testPlanShortId") == "pln_green"]
    assert parameters["run_short_id"] == start["run_short_id"]
    scene.world.wait_for_state(UUID(promotion["id"]), "COMPLETED")
    assert [*map(acting.told_of, (night, custom, passed))] == [{}, {}, {}], "nobody is called for what has passed"


def test_a_question_is_told_and_an_approval_promotes_where_that_is_wanted(scene: Scene, acting: Acting) -> None:
    before = len(acting.promotions())
    asked = []
    policy = {"max_reruns": 0}
    with deployed_with(scene, test_plan_short_id="pln_broken", policy=policy):
        for wanted in ([], ["--promote-approved"]):
            acting.make(*wanted)
            gate = scene.run(GATE, polling=POLLING, target="v2", on_failed="ask")
            asked.append(gate)
            # The flow run that people open is the one that asks.
            scene.world.wait_for_state(gate, "PAUSED")
            eventually(lambda gate=gate: acting.told_of(gate), "the notification of the question")
            [(subject, body)] = acting.told_of(gate).items()
            assert subject == "QA.tech gate pln_broken: a person has to decide"
            assert "1 test failed" in body
            assert "within 60 min" in body
            assert "Target: v2\n" in body
            assert f"/runs/flow-run/{gate}" in body
            answer = {"decision": "approve", "reason": "Known.", "decided_by": "Ada"}
            scene.world.post(f"/flow_runs/{gate}/resume", {"run_input": answer})
            scene.world.wait_for_state(gate, "COMPLETED")
        [promotion] = eventually(lambda: acting.promotions()[before:], "the promotion")
    assert promotion["parameters"]["gate_flow_run_id"] == str(gate), "the first approval promoted nothing"
    assert promotion["parameters"]["verdict"] == "fail"
    assert promotion["parameters"]["decision"]["decided_by"] == "Ada"
    assert [len(acting.told_of(gate)) for gate in asked] == [1, 1], "nobody was told of a failure that is settled"


@pytest.mark.parametrize(
    ("parameters", "subject", "why"),
    [
        (
            {"test_plan_short_id": "pln_never", "policy": {"deadline_seconds": 1}},
            "QA.tech gate pln_never: inconclusive",
            "deadline",
        ),
        (
            {"test_plan_short_id": "pln_nowhere"},
            "QA.tech gate pln_nowhere: ended without a verdict",
            "NotFoundError",
        ),
    ],
)
def test_people_are_told_of_a_gate_that_says_neither_yes_nor_no(
    scene: Scene, acting: Acting, parameters: dict[str, Any], subject: str, why: str
) -> None:
    gate = scene.run(GATE, polling=POLLING, **parameters)
    scene.world.wait_for_state(gate, "FAILED")
    eventually(lambda: acting.told_of(gate), subject)
    [(told, body)] = acting.told_of(gate).items()
    assert told == subject
    assert why in body


def test_what_is_missing_is_said_before_anything_is_sent(scene: Scene) -> None:
    saved = scene.world.get("/block_types/slug/qatech-credentials/block_documents/name/qatech")
    # The UI's form lets an empty token through.
    empty = {"name": f"empty-{uuid4().hex[:8]}", "data": {"api_token": "", "api_url": scene.sandbox.url}}
    scene.world.post(
        "/block_documents/", {**{name: saved[name] for name in ("block_type_id", "block_schema_id")}, **empty}
    )

    def block(name: str) -> dict[str, Any]:
        return {"credentials": {"$ref": {"block_document_slug": f"qatech-credentials/{name}"}}}

    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "block": (block("nobody"), "Failed to resolve block references"),
        "token": (block(str(empty["name"])), "Failed to resolve block references"),
    }
    where = {"preview_url": "http://127.0.0.1:8410"}
    runs = {what: scene.run(PREVIEW, **{**where, **parameters}) for what, (parameters, _) in wrong.items()}
    # What the form's schema says of a plan is said before there is a flow run.
    preview = {"parameters": {**where, "test_plan_short_id": "smoke tests"}, "enforce_parameter_schema": True}
    refused = scene.world.http.post(f"/deployments/{scene.deployment(PREVIEW)['id']}/create_flow_run", json=preview)
    assert refused.status_code == 409
    assert "Validation failed for field 'test_plan_short_id'" in refused.text
    said = {what: scene.world.wait_for_state(run, "FAILED", "CRASHED")["message"] for what, run in runs.items()}
    assert [what for what, (_, says) in wrong.items() if says not in said[what]] == [], said
    assert posts(scene.sandbox) == []
