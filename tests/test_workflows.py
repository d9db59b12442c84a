"""What runs on GitHub is what `.ci/run` and the make targets do: few permissions, actions that cannot change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import keep_to_schema

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").iterdir())
SCHEMAS = {
    **dict.fromkeys(WORKFLOWS, "vendor.github-workflows"),
    GITHUB / "dependabot.yml": "vendor.dependabot",
    **{
        path: "vendor.github-issue-config" if path.stem == "config" else "vendor.github-issue-forms"
        for path in sorted((GITHUB / "ISSUE_TEMPLATE").iterdir())
    },
}
ids = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


def targets(text: str) -> set[str]:
    return {word for line in re.findall(r"\bmake ([a-z -]+)", text) for word in line.split()}


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.stem)
def test_each_file_keeps_to_its_schema(path: Path) -> None:
    keep_to_schema(SCHEMAS[path], path)


@ids
def test_actions_and_images_are_pinned_by_hash_and_say_their_version(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    for job in jobs(path).values():
        image = job.get("container", {}).get("image", "none@sha256:" + "0" * 64)
        assert re.fullmatch(r".+@sha256:[0-9a-f]{64}", image), image


def test_an_action_has_one_version() -> None:
    used = {action for path in WORKFLOWS for action in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))}
    assert len({action.split("@")[0] for action in used}) == len(used)


@ids
def test_jobs_may_read_and_nothing_else_and_end(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["timeout-minutes"] <= 120
        [checkout] = [step for step in job["steps"] if "checkout" in step.get("uses", "")]
        assert checkout["with"] == {"persist-credentials": False}
        # What somebody else can write, such as the title of a pull request, is in no command.
        assert not any("${{" in step.get("run", "") for step in job["steps"])


def test_they_run_what_ci_runs_by_make_targets_that_there_are() -> None:
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = {
        path.stem: [step["run"] for job in jobs(path).values() for step in job["steps"] if "run" in step]
        for path in WORKFLOWS
    }
    run = {name: targets(" \n".join(lines)) for name, lines in commands.items()}
    assert all(line.startswith("make ") for lines in commands.values() for line in lines)
    assert run["ci"] == targets((ROOT / ".ci" / "run").read_text(encoding="utf-8")) | {"build"}
    assert run["versions"] == {"test-versions"}
    assert set().union(*run.values()) <= there


def test_the_versions_are_those_that_the_package_names() -> None:
    [job] = jobs(GITHUB / "workflows" / "versions.yml").values()
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert job["strategy"]["matrix"]["python"] == named


def test_a_commit_is_looked_at_as_make_lint_does() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    [repo] = config["repos"]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert lint is not None
    tools = {tuple(line.split("/")[1].split()[:2]) for line in lint[1].splitlines()}
    hooks = {hook["entry"].split("/")[-1].removesuffix(" --fix") for hook in repo["hooks"]}
    assert {" ".join(word for word in tool if not word.startswith("-")) for tool in tools} == hooks
