"""The documentation tells the truth: its examples are typed and run, and it names what there is."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect import Flow
from pydantic import BaseModel

import prefect_qatech
from prefect_qatech import (
    GatePolicy,
    GatesReport,
    QATechCredentials,
    QATechError,
    QATechPolling,
    QATechRun,
    QATechRunRecord,
    QATechTestPlan,
    TestVerdict,
    Verdict,
)
from prefect_qatech.cli import app
from prefect_qatech.report import events
from prefect_qatech.report.explain import load_policy
from prefect_qatech.report.subject import GateSubject
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.sandbox.loading import load_scenario
from tests.documents import DOCUMENTS, PAGES, ROOT, blocks, rows, section, shell
from tests.support import a_report, credentials_for, keep_to_schema

EXAMPLES = {
    f"{name}-{number}": block
    for name, text in DOCUMENTS.items()
    for number, block in enumerate(blocks(text, "python"), 1)
}
STARTING = re.compile(r"release_gate\(|gather_gates\(|start_test_run|\.trigger\(")
PUBLIC: list[str] = prefect_qatech.__all__  # type: ignore[attr-defined, unused-ignore]
ERRORS = {
    name
    for name in PUBLIC
    if isinstance(found := getattr(prefect_qatech, name), type) and issubclass(found, QATechError)
}
SHELL = [
    (name, line)
    for name, text in DOCUMENTS.items()
    for block, _ in shell(text)
    for line in block.replace("\\\n", " ").splitlines()
]


@pytest.fixture(scope="module")
def saved(_running_qatech_sandbox: Sandbox, prefect_server: None) -> Iterator[None]:
    """What the text around the examples says is saved; by default a run is polled as often as a fast sandbox needs."""
    sandbox = _running_qatech_sandbox
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QATechPolling.model_fields["first_seconds"], "default", 0.05)
        QATechPolling.model_rebuild(force=True)
        credentials = credentials_for(sandbox)
        credentials.save("prod", overwrite=True)
        QATechTestPlan(credentials=credentials, test_plan_short_id="pln_green").save("checkout", overwrite=True)
        yield
    QATechPolling.model_rebuild(force=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each example as a file, and the flows, the deployments and the test that people copy."""
    directory = tmp_path_factory.mktemp("examples")
    for folder in ("flows", "deployments"):
        shutil.copytree(ROOT / folder, directory / folder, ignore=shutil.ignore_patterns("demo.py", "storefront"))
    shutil.copy(ROOT / "tests" / "flows" / "test_example.py", directory)
    for name, block in EXAMPLES.items():
        (directory / f"example_{re.sub('[^a-z0-9]', '_', name.lower())}.py").write_text(block)
    # Not the user's own settings; the package is where it is imported from here.
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "strict"}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    return directory


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 20


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["mypy", "--strict", "--config-file=", "--cache-dir", str(ROOT / ".mypy_cache" / "examples"), "."],
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


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_runs(
    name: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    qatech_sandbox: Sandbox,
    qatech_credentials: QATechCredentials,
    saved: None,
    tmp_path: Path,
) -> None:
    block = EXAMPLES[name]
    monkeypatch.chdir(tmp_path)  # for what the examples write
    monkeypatch.setenv("QATECH_API_URL", qatech_sandbox.url)
    monkeypatch.setenv("QATECH_API_TOKEN", qatech_sandbox.token)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, name, "exec"), names)
    flows = [found for found in names.values() if isinstance(found, Flow) and found.fn.__module__ == "example"]
    tests = [found for called, found in names.items() if called.startswith("test_") and not isinstance(found, Flow)]
    given = {
        "url": "http://127.0.0.1:8410",
        "commit": "4f2c9e1",
        "version": "v1.4.2",
        "plan": "pln_green",
        "credentials": qatech_credentials,
        "run_short_id": None,
        "pull_request": "https://github.com/northwind/shop/pull/42",
    }
    for found in flows:
        found(**{called: given[called] for called in inspect.signature(found.fn).parameters})
    for found in tests:
        found(**{called: request.getfixturevalue(called) for called in inspect.signature(found).parameters})
    counts = qatech_sandbox.counts()
    if STARTING.search(block.split("\n\n", 1)[1]):
        assert counts["starts"] >= 1
    assert flows or tests or counts["requests"] or re.search(r"\.a?save\(", block)


def words_of(line: str) -> list[str]:
    """Split a command as a shell would; a placeholder is what it stands for."""
    places = {"FLOW_RUN": str(UUID(int=1)), "SLOT": "start-1", "RUN": "abc123"}
    line = re.sub(r"\s+(?:&|\|\| .*)$", "", line)
    return [places.get(word, word) for word in shlex.split(line, comments=True)]


@pytest.mark.parametrize(
    "line",
    sorted(
        {line for _, line in SHELL if line.startswith("prefect-qatech ")}
        | {
            command
            for text in DOCUMENTS.values()
            for command in re.findall(r"`(prefect-qatech [a-z][^`]*)`", text)
            if "..." not in command and "DIR" not in command.split()[2:]
        }
    ),
)
def test_each_command_is_one_with_these_options(line: str) -> None:
    words = words_of(line)[1:]
    # A command that is only named stands there without what it needs.
    is_whole = len(words) > 1 and not line.endswith(("--policy", "--resume"))
    if is_whole:
        app.parse_args(words, exit_on_error=False, print_error=False)
    else:
        _, _, unused = app.parse_commands([word for word in words if not word.startswith("-")])
        assert unused == []


def test_each_block_of_commands_is_run_or_says_why_not() -> None:
    notes = [(name, note) for name, text in DOCUMENTS.items() for _, note in shell(text) if note]
    for name, note in notes:
        place, reason = note.removeprefix("run in "), note.removeprefix("not run: ")
        if place != note:
            assert f'PAGES["{name}"]' in (ROOT / place).read_text(), name
        else:
            assert len(reason.split()) >= 4, name
    # In a block of no language stands what a program prints.
    printed = "\n".join(block for text in DOCUMENTS.values() for block in blocks(text))
    assert not re.search(r"(?m)^(?:pip|python|prefect|prefect-qatech|make|export|curl) ", printed)


def test_a_command_that_there_is_not_would_be_noticed() -> None:
    with pytest.raises(Exception, match=r"[Uu]nknown"):
        app.parse_args(words_of("prefect-qatech run --plan pln_smoke --rerun 2")[1:], exit_on_error=False)


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if blocks(text, "yaml")])
def test_each_yaml_is_what_it_is_for(name: str, tmp_path: Path) -> None:
    for block in blocks(PAGES[name], "yaml"):
        data = yaml.safe_load(block)
        file = tmp_path / "file.yaml"
        file.write_text(block)
        if "plans" in data:
            assert load_scenario(file).plans
        elif set(data) <= set(GatePolicy.model_fields):
            assert load_policy(file) != GatePolicy()
        elif "deployments" in data:
            [entrypoint] = [each["entrypoint"] for each in data["deployments"]]
            assert (ROOT / entrypoint.split(":")[0]).exists()
        else:
            schema = "vendor.github-workflows" if "jobs" in data else "vendor.gitlab-ci"
            keep_to_schema(schema, file)
            for command in re.findall(r"(?m)(prefect-qatech run (?:.|\n +--)*)", block):
                app.parse_args(words_of(command.replace("\n", " "))[1:], exit_on_error=False, print_error=False)


def test_the_journal_of_a_ci_job_is_kept_also_where_the_job_fails() -> None:
    github, gitlab = [yaml.safe_load(block) for block in blocks(DOCUMENTS["guides/ci.md"], "yaml")[:2]]
    steps = [step for step in github["jobs"]["qatech"]["steps"] if "cache" in step.get("uses", "")]
    # `actions/cache` itself saves after success alone.
    assert [step["uses"].partition("@")[0] for step in steps] == ["actions/cache/restore", "actions/cache/save"]
    restore, save = steps
    assert save["if"] == "always()"
    assert save["with"]["path"] == restore["with"]["path"] == ".qatech"
    assert save["with"]["key"] == restore["with"]["key"]
    assert save["with"]["key"].startswith(restore["with"]["restore-keys"])
    assert gitlab["qatech"]["cache"]["when"] == "always"
    # Jobs side by side would take each other's place.
    assert "github.job" in save["with"]["key"]
    assert "strategy.job-index" in save["with"]["key"]
    assert "$CI_JOB_NAME_SLUG" in gitlab["qatech"]["cache"]["key"]


def test_every_public_name_has_its_place() -> None:
    shown = set(re.findall(r"^::: prefect_qatech\.(\w+)$", "\n".join(PAGES.values()), re.MULTILINE))
    assert shown <= set(PUBLIC) | {"exceptions"}
    named = {word for text in PAGES.values() for word in re.findall(r"\w+", text)}
    # An async version is told of with its sync one.
    missing = {name for name in PUBLIC if name not in named and name[1:] not in PUBLIC}
    assert missing == set()


def test_every_error_says_what_it_means_and_what_to_do() -> None:
    page = PAGES["reference/errors.md"]
    told = re.findall(r"^### (\w+)$", page, re.MULTILINE)
    assert set(told) == ERRORS
    assert len(told) == len(ERRORS)
    bases = {"QATechError", "QATechAPIError"}
    assert [name for name in told if name not in bases and "*Do:*" not in section(page, name)] == []


async def test_every_event_has_the_payload_that_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    emitted: dict[str, set[str]] = {}
    monkeypatch.setattr(events, "emit_event", lambda event, payload, **_: emitted.update({event: set(payload)}))
    record = QATechRunRecord.model_validate(
        {"kind": "start", "run_short_id": "abc123", "started_at": "2026-01-31T12:00:00Z"}
    )
    report = a_report()
    events.emit_run_started(record)
    events.emit_run_started(record.model_copy(update={"rerun_of": "abc122"}))
    events.emit_run_finished(QATechRun(run_short_id="abc123", status="COMPLETED", result="PASSED"), None)
    events.emit_run_unattended("abc123", None, "cancelled")
    await events.emit_gate_asked(report, seconds=60)
    await events.emit_gate_errored(RuntimeError("gone"), GateSubject(plan_short_id="pln_smoke"))
    await events.emit_gate_verdict(report)
    await events.emit_gates_verdict(GatesReport(names=("one",), reports={"one": report}))

    page = PAGES["reference/events.md"]
    written = set(re.findall(r"`(qatech\.[a-z.]+\.[a-z]+)`", page.split("## Payload")[0]))
    constants = {
        value
        for name, value in vars(events).items()
        if name.isupper() and isinstance(value, str) and "qatech." in value
    }
    assert written == {*constants, *events.GATE_EVENTS.values(), *events.GATES_EVENTS.values()}
    for event, payload in emitted.items():
        headings = re.findall(r"^## (Payload of .*)$", page, re.MULTILINE)
        own = [heading for heading in headings if f"`{event}`" in heading]
        [heading] = own or [heading for heading in headings if f"`{event.rsplit('.', 1)[0]}.*`" in heading]
        assert {row[0].strip("`") for row in rows(section(page, heading))} == payload, event


def test_every_environment_variable_is_told() -> None:
    page = " ".join(row[0] for row in rows(PAGES["reference/environment.md"]))
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "prefect_qatech").rglob("*.py")
        if "sandbox" not in path.relative_to(ROOT).parts
    )
    read = {
        *re.findall(r'env(?:iron)?(?:\.get\(|\[)"([A-Z_]+)"', code),
        *re.findall(r'"([A-Z_]+)" in environ', code),
    }
    assert len(read) >= 8
    assert [name for name in sorted(read) if f"`{name}`" not in page] == []


def test_the_policy_table_is_the_policy() -> None:
    found = rows(PAGES["reference/policy.md"])
    assert [row[0].strip("`") for row in found] == list(GatePolicy.model_fields)
    defaults = [getattr(GatePolicy(), row[0].strip("`")) for row in found]
    assert [row[1] for row in found] == [
        f"{type(value).__name__}()" if isinstance(value, BaseModel) and value == type(value)() else f"{value}"
        for value in defaults
    ]


def test_every_verdict_is_explained() -> None:
    explained = re.findall(r"`(\w+)`", " ".join(row[0] for row in rows(PAGES["understand/verdicts.md"])))
    assert sorted(explained) == sorted([*Verdict, *TestVerdict])


def test_every_task_is_there_in_both_versions() -> None:
    tasks = [name for row in rows(PAGES["reference/tasks.md"]) for name in re.findall(r"`(\w+)`", row[0])]
    assert len(tasks) >= 6
    for task in tasks:
        assert callable(getattr(prefect_qatech, task))
        assert callable(getattr(prefect_qatech, f"a{task}"))


def anchors(text: str) -> set[str]:
    """The anchors of a page, as the site makes them of its headings and of the objects that it documents."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    objects = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    return {
        *objects,
        *(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings),
    }


@pytest.mark.parametrize(
    "question",
    [
        "find my plan's id",
        "test my token",
        "get told in Slack",
        "quarantine a test by its name",
        "rerun only what failed in yesterday's run",
        "run it without a server",
        "pass credentials on the command line",
        "see what a long run does",
        "upgrade",
        "does this error mean",
        "write names instead of ids",
        "have QA.tech review a change",
    ],
)
def test_a_question_has_its_answer_one_click_away(question: str) -> None:
    [answer] = [row[1] for row in rows(PAGES["answers.md"]) if row[0].endswith(f"{question}?")]
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", answer)
    assert links
    for page, anchor in links:
        assert not anchor or anchor in anchors(PAGES[page]), f"{page}#{anchor}"
    assert "Find an answer: answers.md" in (ROOT / "mkdocs.yml").read_text()


def test_every_link_within_the_documentation_leads_to_a_heading_that_is_there() -> None:
    for name, text in PAGES.items():
        for page, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*\.md)?(?:#([^)\s]+))?\)", text):
            target = os.path.normpath(Path(name).parent / page) if page else name
            assert target in PAGES, f"{name}: {page}"
            assert not anchor or anchor in anchors(PAGES[target]), f"{name}: {page}#{anchor}"


def test_no_page_names_what_is_not_for_readers() -> None:
    for name, text in DOCUMENTS.items():
        assert not re.search(r"/(?:home|root|work|tmp|opt)/|pypi\.org|files\.pythonhosted", text), name
