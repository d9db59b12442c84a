"""Every block of commands of the README and the documentation, as it is written, from the wheel alone, in a new folder.

A block that is not run here says above itself where it is, or why not (tests/documents.py).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_qatech.sandbox import Sandbox
from prefect_qatech.sandbox.loading import load_scenario
from tests.documents import DOCUMENTS, blocks, shell
from tests.e2e.world import World, eventually, free_port
from tests.head_start import copy_tables
from tests.support import fault, unpacked_wheel

COMMANDS = {"python": "", "prefect": "-m prefect", "prefect-qatech": "-m prefect_qatech.cli"}
# No index is asked: what would be installed is here, if the wheel has the extras that are asked for.
PIP = """#!/bin/sh
exec "{python}" - "$@" <<'END'
import sys
import time
from importlib.metadata import PathDistribution
from datetime import datetime
from pathlib import Path
from packaging.requirements import Requirement
[wheel] = Path("{site}").glob("*.dist-info")
has = PathDistribution(wheel).metadata
wanted = Requirement(sys.argv[-1])
assert sys.argv[1] == "install" and wanted.name == has["Name"], sys.argv
assert wanted.extras <= set(has.get_all("Provides-Extra")), wanted
END
"""
LOST = """
from prefect import flow
from prefect_qatech import QATechCredentials, StartOutcomeUnknown, start_test_run

@flow
def user():
    credentials = QATechCredentials.from_env().model_copy(update={"timeout_seconds": 0.5})
    for label in ("one", "two"):
        try:
            start_test_run(credentials, "pln_green", label=label)
        except StartOutcomeUnknown as error:
            print(error.flow_run_id, error.slot)

user()
"""


@dataclass
class Reader:
    """Somebody who has installed the wheel, and does what a page says in an empty folder."""

    world: World
    sandbox: Sandbox
    folder: Path
    environment: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)

    def does(self, script: str) -> str:
        """Run commands as a terminal would, up to the first that fails, and return what they print."""
        shell = subprocess.Popen(
            ["/bin/bash", "-c", f"set -e\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{script}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = shell.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            raise
        assert shell.returncode == 0, f"{script}\n{printed}"
        return printed

    def in_its_place(self, block: str) -> str:
        """Put what a reader has where a page cannot know it, and free ports in the place of those that it names."""
        port = free_port()
        there = (
            f"curl -sf -o .health --retry 60 --retry-delay 1 --retry-connrefused http://127.0.0.1:{port}/sandbox/health"
        )
        block = re.sub(
            r"^(prefect-qatech sandbox)(?: --port 8400)?(.*?)(?: &)?$",
            rf"\1 --port {port}\2 > sandbox.log &\n{there}",
            block,
            flags=re.MULTILINE,
        )
        block = block.replace("127.0.0.1:8400", f"127.0.0.1:{port}").replace("export QATECH_API_TOKEN=...\n", "")
        for name, value in self.values.items():
            block = re.sub(rf"\b{name}\b", value, block)
        return block


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def reader(world: World, site: Path, tmp_path: Path) -> Iterator[Reader]:
    programs, folder = tmp_path / "bin", tmp_path / "empty"
    programs.mkdir()
    folder.mkdir()
    for name, how in COMMANDS.items():
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {how} "$@"\n')
    (programs / "pip").write_text(PIP.format(python=sys.executable, site=site))
    for program in programs.iterdir():
        program.chmod(0o755)
    scenario = load_scenario().model_dump(mode="json", exclude_defaults=True)
    scenario["plans"].append({"short_id": "pln_smoke", "name": "Smoke", "test_cases": ["Sign in with a password"]})
    with Sandbox(scenario, speed=600) as sandbox:
        given = {
            "QATECH_API_URL": sandbox.url,
            "QATECH_API_TOKEN": sandbox.token,
            "PYTHONPATH": str(site),
            "PATH": f"{programs}:/usr/bin:/bin",
        }
        reader = Reader(world, sandbox, folder, world.environment(given))
        where = reader.does("python -c 'import prefect_qatech; print(prefect_qatech.__file__)'")
        assert where.startswith(str(site)), "the wheel, and not this repository"
        yield reader


# --- What a page takes for granted


def a_served_gate(reader: Reader) -> None:
    """The block that the text names is saved, and the flow above the command is served in another terminal."""
    reader.does("""python -c 'from prefect_qatech import QATechCredentials as C; C.from_env().save("prod")'""")
    (reader.folder / "gate.py").write_text(blocks(DOCUMENTS["guides/deploy.md"], "python")[0])
    reader.world.spawn("gate", sys.executable, "gate.py", env=reader.environment, cwd=reader.folder)
    http = reader.world.http
    eventually(lambda: http.get("/deployments/name/check/gate").status_code == 200, "the deployment")


def a_scenario(reader: Reader) -> None:
    (reader.folder / "shop.yaml").write_text(blocks(DOCUMENTS["guides/testing.md"], "yaml")[0])


def yesterdays_run(reader: Reader) -> None:
    reader.does("prefect-qatech run --plan pln_flaky --rerun-failed 0 || test $? = 1")
    reader.values["abc123"] = reader.sandbox.runs()[0]["short_id"]


def variables_of_ci(reader: Reader) -> None:
    reader.environment = {
        **reader.environment,
        "GIT_COMMIT": "4f2c9e1",
        "GITHUB_SHA": "4f2c9e2",
        "CI_COMMIT_SHA": "4f2c9e3",
        "PREVIEW_URL": "https://pr-42.example.com",
    }


def lost_answers(reader: Reader) -> None:
    """Two starts of a flow run of which nobody knows whether they were accepted."""
    lost = fault({"kind": "drop_after"}, "start")
    reader.sandbox.set_faults(lost * 2)
    (reader.folder / "lost.py").write_text(LOST)
    (flow_run, one), (_, two) = (
        line.split() for line in re.findall(r"(?m)^[0-9a-f-]{36} \S+$", reader.does("python lost.py"))
    )
    run = reader.sandbox.runs()[0]["short_id"]
    rows = reader.world.post(f"/flow_runs/{flow_run}/input/filter", {"prefix": "qatech-", "limit": 200})
    intents = [json.loads(row["value"]) for row in rows if row["key"].endswith("-intent")]
    assert len(intents) == 2
    # Nobody may settle a POST that can still be under way.
    busy_until = max(
        datetime.fromisoformat(row["sent_at"].replace("Z", "+00:00")).timestamp() + row["busy_seconds"]
        for row in intents
    )
    eventually(lambda: time.time() > busy_until + 1, "the time after which the answers are lost for good")
    reader.values |= {
        "attach FLOW_RUN SLOT": f"attach {flow_run} {one}",
        "clear FLOW_RUN SLOT": f"clear {flow_run} {two}",
    }
    reader.values |= {"FLOW_RUN": flow_run, "RUN": run}


TAKEN_FOR_GRANTED: dict[str, Callable[[Reader], None]] = {
    "guides/ci.md": variables_of_ci,
    "guides/deploy.md": a_served_gate,
    "guides/rerun.md": yesterdays_run,
    "guides/testing.md": a_scenario,
    "reference/errors.md": lost_answers,
    "understand/ledger.md": lost_answers,
}

# What a page says comes of it; that no command fails holds for all.
PROMISED = {
    "README.md": r"PASS",
    "guides/ci.md": r"(?s)PASS.*PASS.*PASS",
    "guides/deploy.md": r"[Cc]ompleted",
    "guides/ids-and-tokens.md": r"Nothing is wrong",
    "guides/rerun.md": r"PASS",
    "guides/testing.md": r"",  # that it answers at all
    "guides/upgrade.md": r"registered 2 blocks",
    "reference/errors.md": r"(?s)OPEN.*OPEN",
    "understand/ledger.md": r"(?s)OPEN.*OPEN",
    "understand/waiting.md": r"qatech",
}


def of_workflows(text: str) -> list[str]:
    """The commands in the files of CI services that a page shows, but for those of the services themselves."""

    def texts(data: Any) -> Iterator[str]:
        if isinstance(data, str):
            yield data
        elif isinstance(data, (dict, list)):
            for inner in data.values() if isinstance(data, dict) else data:
                yield from texts(inner)

    found = [each for block in blocks(text, "yaml") for each in texts(yaml.safe_load(block))]
    return [each for each in found if each.startswith(("pip install", "prefect-qatech "))]


@pytest.mark.parametrize(
    "name",
    [name for name, text in DOCUMENTS.items() if name != "start.md" and any(not note for _, note in shell(text))],
)
def test_the_commands_of_a_page_do_what_it_says(name: str, reader: Reader) -> None:
    TAKEN_FOR_GRANTED.get(name, lambda _: None)(reader)
    commands = [*(block for block, note in shell(DOCUMENTS[name]) if not note), *of_workflows(DOCUMENTS[name])]
    try:
        printed = reader.does("\n".join(map(reader.in_its_place, commands)))
    finally:
        reader.world.stop("gate")
    assert re.search(PROMISED[name], printed), printed
    assert reader.sandbox.token not in printed


def test_start_is_true_as_it_is_written(reader: Reader, tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    home.mkdir()
    copy_tables(home / "prefect.db")
    mine = {
        name: value for name, value in reader.environment.items() if not name.startswith(("PREFECT_API_URL", "QATECH"))
    }
    del mine["PREFECT_SERVER_UI_API_URL"]
    # On a busy machine a server takes its time.
    mine |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120"}
    reader.environment = mine
    (reader.folder / "gate.py").write_text(blocks(DOCUMENTS["start.md"], "python")[0])
    commands = [block for block, note in shell(DOCUMENTS["start.md"]) if not note]
    script = reader.in_its_place("\necho ----\n".join(commands))
    script = script.replace("127.0.0.1:4200", f"127.0.0.1:{port}").replace(
        "prefect server start", f"prefect server start --port {port}"
    )
    printed = reader.does(script).split("----\n")
    _, _, flaky, broken, alone, with_server = printed
    assert re.search(r"PASS", flaky)
    assert "Apply a voucher" in flaky
    assert "exit code 1: this release must not go out" in broken
    for of_the_flow in (alone, with_server):
        assert "pass" in of_the_flow
        assert "Apply a voucher: flaky" in of_the_flow
    assert "registered" in with_server
