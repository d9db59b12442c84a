"""The command `prefect-qatech`. Each command imports what it needs when it is called, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import cast

from cyclopts import App, CoercionError, CycloptsError

from prefect_qatech.cli.exits import ERROR, INTERRUPTED, end

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
    "prefect_qatech.cli.explain:explain",
    name="explain",
    help="Explain a verdict rule by rule, and what another policy would have decided; offline.\n\n"
    "Exit codes: 0 pass, 1 fail, 2 inconclusive, 3 a file that cannot be read.",
)
app.command(
    "prefect_qatech.cli.drill:drill",
    name="drill",
    help="Run the installed gate through all that can go wrong, on the sandbox, and say whether it fails closed.\n\n"
    "Exit codes: 0 it does in each case, 1 it does not, 3 error.",
)
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
    """Write flows, prefect.yaml, deployments and a test to begin with; nothing that you have changed is written over.

    Args:
        directory: Where to; made where it is missing.
    """
    examples = Path(__file__).parent.parent / "_examples"
    if not examples.is_dir():
        end("This is a clone of the repository: flows/, prefect.yaml and deployments/ are there already.")
    files = sorted(
        path.relative_to(examples) for path in examples.rglob("*") if path.is_file() and path.suffix != ".pyc"
    )
    is_other = {file: _is_other(directory / file, (examples / file).read_bytes()) for file in files}
    if there := [str(file) for file in files if is_other[file]]:
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


def _is_other(path: Path, content: bytes) -> bool:
    """Whether something else than this content is at a path."""
    return path.exists() and not (path.is_file() and path.read_bytes() == content)


_ledger = App(
    name="ledger",
    help="What a flow run has started: list it; attach the run that an open intent has started, or clear the intent.",
)
app.command(_ledger)


for name, about in {
    "list": "List the slots of a flow run's ledger.",
    "attach": "Record the run that an open intent has started; a retry of the flow run then takes it up.",
    "clear": "Delete an open intent that surely has started nothing; a retry of the flow run then starts anew.",
}.items():
    _ledger.command(f"prefect_qatech.cli.ledger:{'list_' if name == 'list' else name}", name=name, help=about)


_HINTS = {
    # Which word without an option means what, by the beginning of the word.
    ("run", "pln"): "A plan is given as --plan {word}.",
    ("run", "app"): "--application {word} runs its test cases; --url {word}=https://... tests it at another address.",
    ("run", "http"): "An address is an application's: --url app_...={word}",
    ("list", "plans"): "QA.tech's API lists no plans: copy the id, pln_..., from the plan's page at QA.tech.",
}


def _hint(error: CycloptsError) -> str | None:
    """Return a hint at what an unknown word of a command line probably means."""
    words = [*(error.unused_tokens or [])]
    if isinstance(error, CoercionError) and error.token is not None:
        words.append(error.token.value)
    for (command, beginning), hint in _HINTS.items():
        for word in words:
            if error.command_chain == (command,) and word.startswith(beginning):
                return hint.format(word=word)
    return None


def main() -> None:
    """Run the command line; whatever is wrong with the arguments, the exit code is that of an error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the command, as `>&-` does
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        # A letter that the terminal lacks must not cost a verdict.
        with suppress(AttributeError, ValueError):
            cast(TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    try:
        if sys.argv[1:] in ([], ["ledger"]):  # a variable of a CI service that is not set, say: help is no pass
            app.help_print(sys.argv[1:])
            end("a command is missing")
        app(sys.argv[1:], exit_on_error=False, print_error=True)
    except CycloptsError as error:
        if (hint := _hint(error)) is not None:
            end(hint)
        sys.exit(ERROR)
    except KeyboardInterrupt:  # while modules were imported, say: nothing was begun that would have to be told
        sys.exit(INTERRUPTED)
    except Exception:  # Python's own exit code for it, 1, would be a verdict
        with suppress(OSError, ValueError):
            traceback.print_exc()
        sys.exit(ERROR)
