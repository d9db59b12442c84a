"""The README tells the truth: its examples are typed and run, and it names what there is."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow

from flows.demo import EXPECTED, HEAD, Expected, Seen, table
from prefect_qatech import GatePolicy, QATechCredentials, QATechTestPlan, TestVerdict, Verdict
from prefect_qatech.cli import app
from prefect_qatech.sandbox import Sandbox

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DOCUMENTS = [README, *(page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md")))]
PYTHON_BLOCKS = [
    block for text in DOCUMENTS for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]


def rows_under(heading: str) -> list[list[str]]:
    """The cells of the tables of a section, without their heads."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [number for number, row in enumerate(rows) if set("".join(row)) == {"-"}]
    return [row for number, row in enumerate(rows) if number not in rules and number + 1 not in rules]


def test_it_begins_with_the_two_commands() -> None:
    first_block = README.split("```")[1]
    assert re.findall(r"^make (\w+)", first_block, re.MULTILINE) == ["demo", "test"]


def test_there_are_examples() -> None:
    assert len(PYTHON_BLOCKS) >= 6


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each example as a file, and the flows, the deployments and the test that people copy."""
    directory = tmp_path_factory.mktemp("examples")
    for folder in ("flows", "deployments"):
        shutil.copytree(ROOT / folder, directory / folder, ignore=shutil.ignore_patterns("demo.py", "storefront"))
    shutil.copy(ROOT / "tests" / "flows" / "test_example.py", directory)
    for number, block in enumerate(PYTHON_BLOCKS):
        (directory / f"example_{number}.py").write_text(block)
    # Not the user's own settings; the package is where it is imported from here.
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--strict", "--config-file=", "--no-incremental", "."],
        ["pyright", "-p", ".", "--pythonpath", sys.executable],
    ],
    ids=["mypy", "pyright"],
)
def test_type_checkers_accept_the_examples_without_any_plugin(command: list[str], files: Path) -> None:
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    checked = subprocess.run(
        [sys.executable, "-m", *command], cwd=files, env=environment, capture_output=True, text=True, timeout=280
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=lambda block: block.split("def ")[-1].split("(")[0][:40])
def test_each_example_runs(
    block: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    qatech_sandbox: Sandbox,
    qatech_credentials: QATechCredentials,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)  # for what the examples write
    monkeypatch.setenv("QATECH_API_URL", qatech_sandbox.url)
    monkeypatch.setenv("QATECH_API_TOKEN", qatech_sandbox.token)
    # What the text around the examples says is saved.
    qatech_credentials.save("prod", overwrite=True)
    QATechTestPlan(credentials=qatech_credentials, test_plan_short_id="pln_green").save("checkout", overwrite=True)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, "README.md", "exec"), names)
    flows = [found for found in names.values() if isinstance(found, Flow) and found.fn.__module__ == "example"]
    tests = [found for name, found in names.items() if name.startswith("test_") and not isinstance(found, Flow)]
    given = {"url": "http://127.0.0.1:8410"}
    for found in flows:
        found(**{name: given[name] for name in inspect.signature(found.fn).parameters})
    for found in tests:
        found(**{name: request.getfixturevalue(name) for name in inspect.signature(found).parameters})
    assert flows or tests or ".save(" in block
    if flows or tests:
        assert qatech_sandbox.counts()["starts"] >= 1


def test_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", README, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_the_policy_table_is_the_policy() -> None:
    rows = rows_under("The policy")
    assert [row[0].strip("`") for row in rows] == list(GatePolicy.model_fields)
    defaults = GatePolicy()
    assert [row[1] for row in rows] == [f"{getattr(defaults, row[0].strip('`'))}" for row in rows]


def test_every_verdict_is_explained() -> None:
    explained = re.findall(r"`(\w+)`", " ".join(row[0] for row in rows_under("What the verdicts mean")))
    assert sorted(explained) == sorted([*Verdict, *TestVerdict])


def test_every_task_and_command_is_there() -> None:
    package = importlib.import_module("prefect_qatech")
    tasks = [row[0].strip("`") for row in rows_under("The tasks")]
    for task in tasks:
        assert callable(getattr(package, task))
        assert callable(getattr(package, f"a{task}"))
    for row in rows_under("The commands"):
        words = row[0].strip("`").split()
        assert words[0] == "prefect-qatech"
        _, _, unused = app.parse_commands([word for word in words[1:] if word.islower()])
        assert unused == [], row[0]


def test_make_targets_are_there() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:^|`)make ([a-z]+(?:-[a-z]+)*)(?= *[`#\n])", f"{README}\n{CONTRIBUTING}", re.MULTILINE)
    assert set(named) <= set(targets)
    assert "make test" in README


def test_the_picture_of_the_demo_is_what_it_shows() -> None:
    def as_it_should_be(expected: Expected) -> tuple[str, ...]:
        return Seen(
            state="",
            message="",
            verdict=expected.verdict,
            attempts=1 + expected.reruns,
            passed=6 - len(expected.flaky) - len(expected.failed),
            flaky=expected.flaky,
            failed=expected.failed,
            starts=1,
            reruns=expected.reruns,
            in_staging=expected.in_staging,
            in_production=expected.in_production,
        ).row(expected.version)

    picture = "\n".join(table([HEAD, *(as_it_should_be(expected) for expected in EXPECTED)]))
    assert picture in README
