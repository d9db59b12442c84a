"""Tasks that run in other processes: what must come of the flows in `runner_flows.py`, whatever takes them there."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect_qatech import QATechCredentials
from prefect_qatech.sandbox import Sandbox, SandboxScenario, load_scenario
from tests.e2e.runner_flows import BLOCK
from tests.e2e.world import PATIENCE_SECONDS, World

TOKEN = "qat-7d2f91c04be85a63"
_BASE64 = re.compile(rb"[A-Za-z0-9+/\\n]{24,}={0,2}")


def scenario() -> SandboxScenario:
    """The default one with a token that stands nowhere else."""
    default = load_scenario(None)
    return default.model_copy(update={"tokens": [default.tokens[0].model_copy(update={"token": TOKEN})]})


class Elsewhere:
    """A world with a saved credentials block, whose token no later process is given."""

    def __init__(self, world: World, sandbox: Sandbox) -> None:
        self.world, self.sandbox = world, sandbox
        world.save(QATechCredentials(api_token=sandbox.token, api_url=sandbox.url), BLOCK)

    def run(self, kind: str, flow: str) -> Any:
        """Run a flow of `runner_flows.py` and give what it printed."""
        name = f"{kind}-{flow}"
        process = self.world.spawn(name, sys.executable, "-m", "tests.e2e.runner_flows", kind, flow)
        try:
            assert process.wait(PATIENCE_SECONDS) == 0, self.world.log(name)[-5_000:]
        finally:
            self.world.stop(name)
        return json.loads([line for line in self.world.log(name).splitlines() if line.startswith(("{", "["))][-1])


def counted(sandbox: Sandbox) -> tuple[int, int, int]:
    """Starts, reruns and POSTs in all."""
    counts = sandbox.counts()
    posts = sum(number for name, number in counts["requests"].items() if name.startswith("POST"))
    return counts["starts"], counts["reruns"], posts


def check_campaign(elsewhere: Elsewhere, kind: str) -> None:
    """One start per distinct slot, whatever is submitted or mapped; a retry of the flow run finds all of them."""
    outcome = elsewhere.run(kind, "campaign")
    first, retried = outcome["attempts"]
    assert retried == first
    # One label is one run.
    assert first["equal"] == first["first"] * 2
    assert len({*first["first"], *first["reruns"], *first["mapped"], *first["labelled"]}) == 7
    assert counted(elsewhere.sandbox) == (5, 2, 7)
    assert (outcome["first"], outcome["mapped"], outcome["tests"]) == ("FAILED", ["PASSED", "FAILED"], 3)


def check_errors(elsewhere: Elsewhere, kind: str) -> None:
    """Errors come back as they are, with their fields."""
    missing, late, wrong, tokenless, nameless = elsewhere.run(kind, "errors")
    assert (missing["type"], missing["status"], missing["request"]) == ("NotFoundError", 404, "POST /v1/run")
    assert (late["type"], late["waited_seconds"] >= 0) == ("WaitTimedOut", True)
    assert f"Run {late['run_short_id']} goes on at QA.tech" in late["text"]
    assert wrong["type"] == "InvalidInputError"
    assert wrong["text"].startswith("test_plan_short_id: 'check out' has blanks: a test plan's short id, ")
    assert tokenless["type"] == "InvalidInputError"
    assert "an unsaved credentials block carries no secrets to another process" in tokenless["text"]
    assert nameless["type"] == "InvalidInputError"
    assert "on a distributed task runner, name this start: label=" in nameless["text"]
    assert "\n" not in wrong["text"] + tokenless["text"]
    assert counted(elsewhere.sandbox) == (1, 0, 2), "a start, and one of a plan that is not there"


def hidden_in(content: bytes) -> Iterator[bytes]:
    """A file's content, and what its base64 says: Prefect keeps pickles so."""
    yield content
    for found in _BASE64.findall(content):
        text = found.replace(b"\\n", b"").rstrip(b"=")
        for shift in range(4):
            part = text[shift:]
            yield base64.b64decode(part[: len(part) // 4 * 4])


def check_no_token(*folders: Path) -> int:
    """The token is in no file: results, parameters, logs, the server's database. Gives how many were read."""
    read = 0
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                read += 1
                assert not any(TOKEN.encode() in text for text in hidden_in(path.read_bytes())), path
    return read
