"""The package on the lowest and on the highest versions of what it depends on, on each Python that it names.

    python -m tests.versions [PYTHON ...] [--only lowest|highest] [-- ARGUMENTS FOR PYTEST]

`make test-versions` runs all of it. For each combination an environment is made and thrown away again. In `lowest` each
dependency has its floor in `pyproject.toml`, in `highest` the newest version that goes together with the others. There
run the fast suite (`make test-fast`), what leans on Prefect, with a server of that version, and the gate that the guide
deploys, with a worker. Arguments for pytest replace the fast suite: `-- tests/gate`, say, or `-- tests` for all.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = [name.rsplit(" ", 1)[1] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
# What looks at the packages, the recipes and the documentation is the same on every version.
OTHER = (
    *("e2e", "ui", "scale", "runners", "readers"),
    *("test_docs.py", "test_packages.py", "test_readme.py", "test_recipes.py", "test_versions.py"),
)
FAST = ["-n", "2", "--dist", "loadfile", "-m", "not slow", "tests", *(f"--ignore=tests/{name}" for name in OTHER)]
LEANS_ON_PREFECT = (
    *("test_prefect.py", "test_tasks.py", "test_test_plan.py", "test_block_types.py", "test_sync.py"),
    *(
        "gate/test_flow.py",
        "gate/test_state.py",
        "gate/test_stored_results.py",
        "gate/test_approval.py",
        "gate/test_suspend.py",
    ),
    *("ledger/test_call_site.py", "ledger/test_terminated.py", "report/test_artifacts.py"),
)
WITH_SERVER = ["-n", "2", "--dist", "loadfile", "-m", "slow", *(f"tests/{name}" for name in LEANS_ON_PREFECT)]
GATE = ["tests/e2e/test_deployments.py", "-k", "the_commands_of_the_guide_deploy_everything_and_the_gate_passes"]


def floors() -> list[str]:
    """Return the lowest version of each dependency that a user may have, as constraints of pip."""
    extras = PROJECT["optional-dependencies"]
    found = [
        re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+).*", requirement)
        for requirement in (*PROJECT["dependencies"], *extras["sandbox"], *extras["junit"])
    ]
    return [f"{floor[1]}=={floor[2]}" for floor in found if floor]


def interpreter(version: str) -> str | None:
    """Find a Python: pyenv's, or one that is on the PATH."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    # 3.10.9 is older than 3.10.13.
    found = sorted(
        pyenv.glob(f"{version}.*/bin/python"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])]
    )
    return str(found[-1]) if found else shutil.which(f"python{version}")


def check(python: str, which: str, fast: Sequence[str], directory: Path) -> dict[str, str]:
    """Install the package in an environment of its own, and run the tests there."""
    constraints = directory / "constraints.txt"
    constraints.write_text("\n".join(floors() if which == "lowest" else []))
    there = str(directory / "venv" / "bin" / "python")
    # pip tries for many minutes which versions go together.
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", python, directory / "venv"], check=True)
    install = [*uv, "pip", "install", "--python", there, "--constraint", str(constraints), "--editable", f"{ROOT}[dev]"]
    subprocess.run(install, check=True)
    version = subprocess.run(
        [there, "-c", "import importlib.metadata as m; print(m.version('prefect'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "prefect": version,
        "fast suite": tested(there, fast),
        "with a server": tested(there, WITH_SERVER),
        "gate": tested(there, GATE),
    }


def tested(python: str, arguments: Sequence[str]) -> str:
    """Run pytest; return its last line, which says how many tests passed."""
    command = [python, "-m", "pytest", "-q", "--disable-warnings", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    [*_, last] = done.stdout.strip().splitlines() or ["nothing was said"]
    if done.returncode == 0:
        return last.strip("= ")
    print(done.stdout[-20_000:], done.stderr[-5_000:], sep="\n", flush=True)
    return f"FAILED: {last.strip('= ')}"


def main(arguments: Sequence[str]) -> int:
    """Run each combination that was asked for.

    Returns:
        The exit code: 0 when each of them has passed.
    """
    ours, fast = list(arguments), FAST
    if "--" in ours:
        place = ours.index("--")
        ours, fast = ours[:place], ours[place + 1 :]
    parser = argparse.ArgumentParser(prog="tests.versions")
    parser.add_argument("pythons", nargs="*", default=PYTHONS, metavar="PYTHON", help=f"of {', '.join(PYTHONS)}")
    parser.add_argument("--only", choices=["lowest", "highest"])
    given = parser.parse_args(ours)
    bad = 0
    for version in given.pythons:
        for which in [given.only] if given.only else ["lowest", "highest"]:
            began = time.monotonic()
            python = interpreter(version)
            if python is None:
                told = {"not run": f"there is no Python {version} here"}
            else:
                with tempfile.TemporaryDirectory(prefix="versions-") as directory:
                    told = check(python, which, fast, Path(directory))
            bad += any(what.startswith("FAILED") for what in told.values()) or python is None
            said = "; ".join(f"{name} {what}" for name, what in told.items())
            print(f"Python {version}, {which}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
