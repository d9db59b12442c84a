"""The README tells the truth: its examples import what exists, and it names what there is."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from flows.demo import EXPECTED, HEAD, Expected, Seen, table
from prefect_qatech import GatePolicy, TestVerdict, Verdict
from prefect_qatech.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


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


@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_examples_compile_and_import_what_exists(block: str) -> None:
    tree = ast.parse(block)
    compile(block, "README.md", "exec")
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported
    for node in imported:
        assert node.module is not None
        module = importlib.import_module(node.module)
        for name in node.names:
            assert hasattr(module, name.name), f"{node.module} has no {name.name}"


def test_there_are_examples() -> None:
    assert len(PYTHON_BLOCKS) >= 3


def test_the_example_of_a_test_passes(request: pytest.FixtureRequest) -> None:
    [block] = [block for block in PYTHON_BLOCKS if "def test_" in block and "Sandbox" in block]
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    test = names["test_a_flaky_release_goes_out_after_one_rerun"]
    assert callable(test)
    test(**{name: request.getfixturevalue(name) for name in inspect.signature(test).parameters})


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
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= set(targets)


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
