"""The command `prefect-qatech`. Each command imports what it needs when it is called, so that `--help` is quick."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from cyclopts import App, CycloptsError

from prefect_qatech.cli.exits import ERROR, end

T = TypeVar("T")

_GUIDE = "https://prefect-qatech.github.io/prefect-qatech/guides/deploy/"

__all__ = ["app", "main"]

app = App(name="prefect-qatech", help="Run QA.tech tests from Prefect: tools for development and operation.")


# Named and not imported: they need Prefect's blocks, which take a second to import, and `--help` is to be quick.
_EXIT_CODES = (
    "Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 error, 130 interrupted (what was started goes on at QA.tech)."
)
for name, about in {
    "run": f"Run tests, rerun what failed, and judge; without a Prefect server.\n\n{_EXIT_CODES}",
    "rerun": f"Run a run's test cases again, wait, and judge.\n\n{_EXIT_CODES}",
    "wait": f"Wait for a run that was started elsewhere, and judge it.\n\n{_EXIT_CODES}",
    "status": "Show how a run stands now.\n\nExit codes: 0 it was read, 3 error. What is judged, `wait` says.",
}.items():
    app.command(f"prefect_qatech.cli.run:{name}", help=about)
app.command("prefect_qatech.cli.list:list_", name="list", help="List what the project has, with its ids.")
app.command(
    "prefect_qatech.cli.doctor:doctor",
    name="doctor",
    help="Check token, QA.tech, proxy, clock and Prefect, and say what to do.\n\n"
    "Exit codes: 0 nothing is wrong, 1 something is, 3 error.",
)


@app.command
def sandbox(*, port: int = 8400, scenario: Path | None = None, speed: float = 60.0) -> None:
    """Serve a local stand-in for QA.tech, for development and tests only.

    Args:
        port: The port on 127.0.0.1; 0 takes a free one and prints it.
        scenario: A YAML file that says which plans and tests there are and what comes of them.
        speed: Virtual seconds per real second; 0 is a clock that stands still until POST /sandbox/clock.
    """
    try:
        from prefect_qatech.sandbox import SandboxError, ScenarioError, serve
    except ModuleNotFoundError as error:
        end(f'{error.name} is not installed: pip install "prefect-qatech[sandbox]"')
        return
    try:
        serve(port, scenario=scenario, speed=speed)
    except (SandboxError, ScenarioError, ValueError) as error:
        end(str(error))


@app.command
def init(directory: Path) -> None:
    """Write flows, prefect.yaml, deployments and a test to begin with; nothing that is there is written over.

    Args:
        directory: Where to; made where it is missing.
    """
    examples = Path(__file__).parent.parent / "_examples"
    if not examples.is_dir():
        end("This is a clone of the repository: flows/, prefect.yaml and deployments/ are there already.")
    files = sorted(
        path.relative_to(examples) for path in examples.rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
    if there := [str(file) for file in files if (directory / file).exists()]:
        end(f"Nothing was written: {', '.join(there)} would be written over in {directory.resolve()}")
    try:
        for file in files:
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            (directory / file).write_bytes((examples / file).read_bytes())
            print(directory / file)
    except OSError as error:
        end(str(error))
    print(
        "They run on `prefect-qatech sandbox` as they stand. To make them yours, change in prefect.yaml the credentials"
    )
    print("block, the application, its address and the test plans. Then save the block, make a work pool, deploy, and")
    print(f"start a worker: {_GUIDE} has the commands.")
    print("The test needs pytest and the extra sandbox.")


@app.command
def explain(verdict_file: Path, *, policy: Path | None = None) -> None:
    """Say rule by rule why a gate's verdict is what it is, and what another policy would have said; offline.

    Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 a file that cannot be read.

    Args:
        verdict_file: A `verdict.json`.
        policy: Another policy, YAML or JSON, with the fields of `GatePolicy`.
    """
    from prefect_qatech.report import explain_command

    sys.exit(explain_command(verdict_file, policy))


ledger = App(
    name="ledger",
    help="What a flow run has started: list it; attach the run that an open intent has started, or clear the intent.",
)
app.command(ledger)


@ledger.command(name="list")
def ledger_list(flow_run_id: UUID) -> None:
    """List the slots of a flow run's ledger.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
    """
    from prefect_qatech.ledger import read_ledger

    entries = _orend(lambda: read_ledger(flow_run_id))
    for entry in entries:
        run = f"{entry.run.run_short_id}  {entry.run.run_url or ''}" if entry.run else "OPEN: outcome unknown"
        if entry.run is not None and entry.run.not_as_asked is not None:
            run = f"{run.rstrip()}  NOT WHAT WAS ASKED FOR: no call gets it"
        label = f"  label {entry.label!r}" if entry.label else ""
        print(f"{entry.slot}  {entry.sent_at:%Y-%m-%d %H:%M:%S} UTC  {entry.what}{label}  {run}".rstrip())
    if not entries:
        print("This flow run has started nothing.")


@ledger.command(name="attach")
def ledger_attach(flow_run_id: UUID, slot: str, run_short_id: str, *, url: str | None = None) -> None:
    """Record the run that an open intent has started, as found in QA.tech; a retry of the flow run then takes it up.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
        slot: The open slot, as the error and `ledger list` name it.
        run_short_id: The run that was found.
        url: Its address.
    """
    from prefect_qatech.ledger import attach_run

    record = _orend(lambda: attach_run(flow_run_id, slot, run_short_id, run_url=url))
    print(f"Run {record.run_short_id} is on record. Retry the flow run to take it up.")


@ledger.command(name="clear")
def ledger_clear(flow_run_id: UUID, slot: str) -> None:
    """Delete an open intent that surely has started nothing; a retry of the flow run then starts anew.

    Args:
        flow_run_id: The flow run, or a sub-flow run of it.
        slot: The open slot, as the error and `ledger list` name it.
    """
    from prefect_qatech.ledger import clear_intent

    _orend(lambda: clear_intent(flow_run_id, slot))
    print("The intent is cleared. Retry the flow run to start anew.")


def _orend(do: Callable[[], T]) -> T:
    try:
        return do()
    except ValueError as error:
        end(str(error))


def main() -> None:
    """Run the command line; whatever is wrong with the arguments, the exit code is that of an error."""
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(ERROR)
    except Exception:  # Python's own exit code for it, 1, would be a verdict
        traceback.print_exc()
        sys.exit(ERROR)
