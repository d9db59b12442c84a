"""The command line without a Prefect server: what it prints, how it ends, and that it starts nothing twice."""

import errno
import io
import json
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from prefect_qatech import QATechClient, QATechRunRecord, QATechRunRequest, QATechStartedRun
from prefect_qatech.cli import main
from prefect_qatech.cli.disk import RunJournal, write_whole
from prefect_qatech.cli.result import show
from prefect_qatech.exceptions import LedgerConflict, LedgerUnavailable
from prefect_qatech.sandbox import Sandbox
from tests.report.campaigns import attempt, report_of
from tests.support import POLLING, cases, counted, fault, one_plan

COMMAND = [sys.executable, "-c", "from prefect_qatech.cli import main; main()"]
SERVICES = ("CI", "GITHUB_ACTIONS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITLAB_CI", "TF_BUILD")
LINK = r"Run (\w+): (http://\S+)"

Run = Callable[..., int]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(one_plan(cases("passed", ["failed", "passed"])), speed=2000) as sandbox:
        yield sandbox


@pytest.fixture
def environment(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a command: the sandbox, an empty folder, no CI service."""
    for name in (*SERVICES, "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QATECH_API_URL", sandbox.url)
    monkeypatch.setenv("QATECH_API_TOKEN", sandbox.token)
    monkeypatch.setattr("prefect_qatech.cli.run.POLLING", POLLING)
    monkeypatch.chdir(tmp_path)
    return dict(os.environ)


@pytest.fixture
def command(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process; what comes back is its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["prefect-qatech", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


def run_ids(text: str) -> list[str]:
    return [short_id for short_id, _ in re.findall(LINK, text)]


def make_older(directory: Path) -> None:
    """Let two minutes pass for the journal's intents."""
    for intent in directory.glob(".qatech/*/*.intent"):
        os.utime(intent, (time.time() - 120, time.time() - 120))


@pytest.mark.parametrize(
    ("outcomes", "reruns", "code", "verdict"),
    [
        (["passed", "passed"], 0, 0, "pass"),
        (["passed", ["failed", "passed"]], 1, 0, "pass"),
        (["passed", "failed"], 1, 1, "fail"),
        (["passed", "skipped"], 0, 2, "inconclusive"),
    ],
)
def test_an_exit_code_tells_the_verdict(
    outcomes: list[Any],
    reruns: int,
    code: int,
    verdict: str,
    command: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Sandbox(one_plan(cases(*outcomes)), speed=2000) as other:
        monkeypatch.setenv("QATECH_API_URL", other.url)
        assert command("run", "--plan", "pln_one", "--rerun-failed", str(reruns)) == code
        assert counted(other)[0] == 1
    printed = capsys.readouterr()
    assert verdict.upper() in printed.out
    assert re.match(LINK, printed.out), "the link comes first"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--plna", "pln_one"],
        ["run", "--plan", "pln nothing"],
        ["run", "--plan", "pln_unknown"],
        ["run", "--url", "https://shop.example.com"],
        ["run", "--policy", "nowhere.yaml"],
        ["run", "--resume", "--anew"],
        ["run", "--started", "abc123"],
        ["run", "--resume", "--not-started"],
        ["rerun", "nowhere"],
        ["rerun", "abc123", "--failed-only", "--test-case", "9f2b306e-20df-53da-a0c4-d3d4217ae605"],
        ["status", "nowhere"],
        ["nothing"],
        ["ledger"],
        [],
    ],
)
def test_what_cannot_be_carried_out_is_an_error_and_no_verdict(
    arguments: list[str], command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 3
    assert counted(sandbox) == (0, 0)
    printed = capsys.readouterr()
    assert printed.err.strip()
    assert "Traceback" not in printed.err
    assert sandbox.token not in printed.err + printed.out


def test_json_on_stdout_is_the_report_and_nothing_else(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", "--target", "4f2c9e1", "--json") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["verdict"], report["target"], report["counts"]["flaky"]) == ("pass", "4f2c9e1", 1)
    assert len(report["attempts"]) == 2
    assert counted(sandbox) == (1, 1)
    lines = printed.err.splitlines()
    assert re.match(LINK, lines[0]), "the link comes first"
    assert len(lines) == len(set(lines)), "one line for each change"


def test_an_error_is_json_too(command: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", "--plan", "pln_unknown", "--json") == 3
    assert json.loads(capsys.readouterr().out)["error"] == "NotFoundError"


def test_files_are_written(command: Run, tmp_path: Path) -> None:
    assert (
        command("run", "--plan", "pln_one", "--rerun-failed", "0", "--junit", "out/tests.xml", "--report", "out") == 1
    )
    assert "<failure" in (tmp_path / "out/tests.xml").read_text()
    assert json.loads((tmp_path / "out/verdict.json").read_text())["verdict"] == "fail"


def test_a_policy_file_is_obeyed_and_an_option_goes_before_it(command: Run, tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "policy.yaml").write_text("max_failed: 1\nmax_reruns: 3\n")
    assert command("run", "--plan", "pln_one", "--policy", "policy.yaml", "--rerun-failed", "0") == 0
    assert counted(sandbox) == (1, 0)


def test_what_is_tested_elsewhere_is_told_to_the_service_and_its_password_to_nobody_else(
    command: Run, sandbox: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CI services keep the journal in caches, and the files as artifacts."""
    url = "https://ada:secret@pr-42.example.com"
    arguments = ["--url", f"app_shop={url}", "--environment", "app_admin=env_staging"]
    command("run", "--plan", "pln_one", *arguments, "--report", "out")
    kept = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("pr-42" in text for text in kept)
    assert not any("secret" in text for text in [*kept, *capsys.readouterr()])
    [body] = [request["body"] for request in sandbox.requests() if request["method"] == "POST"][:1]
    assert body["applications"] == [
        {"applicationShortId": "app_shop", "environment": {"url": url}},
        {"applicationShortId": "app_admin", "environment": {"shortId": "env_staging"}},
    ]


def test_a_github_step_gets_outputs_a_summary_and_annotations(
    command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    target = f"shop::v1##{'2' * 600}"
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0", "--target", target, "--json") == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["verdict"] == "fail"
    outputs = dict(line.split("=", 1) for line in (tmp_path / "outputs").read_text().splitlines())
    assert (outputs["verdict"], outputs["target"]) == ("fail", target), "a later step releases what was tested"
    assert outputs["run_url"].endswith(outputs["run_short_id"])
    assert "FAIL" in (tmp_path / "summary.md").read_text()
    annotations = [line for line in printed.err.splitlines() if line.startswith("::")]
    assert all(line.startswith("::error title=QA.tech%3A fail") for line in annotations)
    assert len(annotations) == 2


HOSTILE = "Pay\n::set-env name=X::1\n##vso[task.setvariable variable=X]1 ##[command] %0A\x1b[2J"


@pytest.mark.parametrize(
    ("service", "escaped"), [("GITHUB_ACTIONS", ["%250A"]), ("TF_BUILD", ["%AZP250A", "variable=X%5D1"])]
)
def test_a_test_cannot_give_commands_to_a_ci_runner(
    service: str, escaped: list[str], command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = one_plan([{"name": HOSTILE, "outcomes": "failed"}])
    with Sandbox(plan, speed=2000) as other:
        monkeypatch.setenv("QATECH_API_URL", other.url)
        monkeypatch.setenv(service, "True" if service == "TF_BUILD" else "true")
        assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    printed = capsys.readouterr()
    for line in (printed.out + printed.err).splitlines():
        assert line.isprintable()
        is_ours = re.match(r"::error title=[^:]*::|##vso\[task\.(logissue|uploadsummary|setvariable)[^\]]*\]", line)
        rest = line[is_ours.end() :] if is_ours else line
        assert "::" not in rest
        assert "##" not in rest
    # What the service would read as an end of a line, or of the head of a command.
    [annotation] = [line for line in printed.err.splitlines() if "0A" in line and line.startswith(("::", "##vso"))]
    assert all(text in annotation for text in escaped)


def test_azure_gets_issues_variables_and_a_summary(
    command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_BUILD", "True")
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0", "--target", "shop::v1") == 1
    told = capsys.readouterr().err
    assert "##vso[task.setvariable variable=qatech_target;isOutput=true]shop::v1\n" in told
    assert "##vso[task.setvariable variable=qatech_verdict;isOutput=true]fail" in told
    assert "##vso[task.logissue type=error]" in told
    [summary] = re.findall(r"##vso\[task\.uploadsummary\](.+)", told)
    assert "FAIL" in Path(summary).read_text()


def test_gitlab_gets_links(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITLAB_CI", "true")
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", "--report", "files") == 0
    links = json.loads((tmp_path / "files/gl-annotations.json").read_text())["QA.tech"]
    assert [set(link["external_link"]) for link in links] == [{"label", "url"}] * 2


def test_a_start_that_was_refused_for_now_is_sent_again(
    command: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_qatech.cli.steps.RETRY_DELAYS_SECONDS", (0.01, 0.01, 0.01))
    sandbox.set_faults([{"on": {"path": "start"}, "kind": "status", "status": 429, "times": 2}])
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1") == 0
    assert counted(sandbox) == (1, 1)


def test_a_start_of_unknown_outcome_is_sent_once_and_resumed_by_what_was_found(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))
    assert command("run", "--plan", "pln_one") == 3
    assert command("run", "--plan", "pln_one") == 3
    assert command("run", "--plan", "pln_one", "--resume") == 3
    assert counted(sandbox) == (1, 0)
    capsys.readouterr()
    [started] = [run["short_id"] for run in sandbox.runs()]
    assert command("run", "--plan", "pln_one", "--resume", "--started", started) == 3, "it can still be under way"
    make_older(Path())
    assert command("run", "--plan", "pln_one", "--resume", "--started", started, "--rerun-failed", "1") == 0
    assert counted(sandbox) == (1, 1)
    assert started in capsys.readouterr().out


def test_what_was_surely_not_started_is_started_on_resumption(command: Run, sandbox: Sandbox) -> None:
    sandbox.set_faults(fault({"kind": "drop_before"}, "start"))
    assert command("run", "--plan", "pln_one") == 3
    assert counted(sandbox) == (0, 0)
    assert command("run", "--plan", "pln_one", "--resume", "--not-started") == 3, "it can still be under way"
    make_older(Path())
    assert command("run", "--plan", "pln_one", "--resume", "--not-started", "--rerun-failed", "1") == 0
    assert counted(sandbox) == (1, 1)


@pytest.mark.parametrize(("target", "starts"), [(None, 2), ("v1", 1)])
def test_a_pass_is_resumed_for_its_target_only(target: str | None, starts: int, command: Run, sandbox: Sandbox) -> None:
    named = ["--target", target] if target else []
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", *named) == 0
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", "--resume", *named) == 0
    assert counted(sandbox)[0] == starts


def test_another_target_is_another_campaign(command: Run, sandbox: Sandbox) -> None:
    for target in ("v1", "v2"):
        assert command("run", "--plan", "pln_one", "--rerun-failed", "1", "--resume", "--target", target) == 0
    assert counted(sandbox)[0] == 2


def test_what_was_no_pass_is_not_turned_green_by_resuming(command: Run, sandbox: Sandbox) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0", "--resume") == 1
    assert counted(sandbox) == (1, 0)
    # Reruns that the policy has left may be spent.
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", "--resume") == 0
    assert counted(sandbox) == (1, 1)


def test_a_campaign_that_has_a_verdict_keeps_nobody_from_the_next(command: Run, sandbox: Sandbox) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    assert counted(sandbox) == (2, 0)


def test_a_journal_that_cannot_be_read_starts_nothing(command: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    [first] = (tmp_path / ".qatech").glob("*/first.json")
    first.write_text("{")
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0", "--resume") == 3
    assert counted(sandbox) == (1, 0)


def test_a_rerun_is_judged_by_what_was_run_again(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    [first] = run_ids(capsys.readouterr().out)
    assert command("rerun", first, "--failed-only") == 0
    assert counted(sandbox) == (1, 1)
    assert "1 test: 1 passed" in capsys.readouterr().out


def test_a_run_that_was_started_elsewhere_is_waited_for_and_judged(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    [first] = run_ids(capsys.readouterr().out)
    assert command("wait", first) == 1
    assert counted(sandbox) == (1, 0)
    assert "Only this run was judged" in capsys.readouterr().out
    assert command("wait", first, "--rerun-failed", "1") == 0
    assert counted(sandbox) == (1, 1)


@pytest.mark.parametrize("first", ["run", "wait"])
def test_a_run_that_is_known_for_another_target_is_no_evidence(
    first: str, command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(one_plan(cases("passed")), speed=2000) as other:
        monkeypatch.setenv("QATECH_API_URL", other.url)
        at_start = ["--target", "v1"] if first == "run" else []
        assert command("run", "--plan", "pln_one", *at_start) == 0
        [run] = run_ids(capsys.readouterr().out)
        if first == "wait":
            assert command("wait", run) == 0, "no target is named"
            assert command("wait", run, "--target", "v1") == 0
        assert command("wait", run, "--target", "v2") == 2
        assert "something else" in capsys.readouterr().out
        assert command("wait", run, "--target", "v1") == 0
        assert command("wait", run, "--target", "v2", "--journal", "elsewhere") == 0, "nothing is known there"


def test_a_rerun_alone_is_not_judged_as_the_whole(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1") == 0
    first, rerun = run_ids(capsys.readouterr().out)
    assert command("wait", rerun) == 3
    assert f"wait {first}" in capsys.readouterr().err
    assert command("wait", first, "--rerun-failed", "0") == 1


def test_a_run_that_a_person_has_found_is_the_evidence_of_the_start_that_was_lost_alone(
    command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = ("run", "--plan", "pln_one")
    with Sandbox(one_plan(cases("passed")), speed=2000) as other:
        monkeypatch.setenv("QATECH_API_URL", other.url)
        other.set_faults(fault({"kind": "drop_after", "times": 2}, "start"))
        for target in ("v1", "v2"):
            assert command(*once, "--target", target) == 3
        make_older(Path())
        of_v1, of_v2 = [run["short_id"] for run in other.runs()]
        assert command(*once, "--target", "v1", "--resume", "--started", of_v1) == 0
        assert command(*once, "--target", "v2", "--resume", "--started", of_v1) == 3, "it is the run of the other start"
        assert command("wait", of_v1, "--target", "v2") == 2
        assert command("wait", of_v1, "--target", "v1") == 0
        assert command("wait", of_v2, "--target", "v3") == 0
        capsys.readouterr()
        assert command(*once, "--target", "v2", "--resume", "--started", of_v2) == 3
        assert "v3" in capsys.readouterr().err, "it was judged for something else"


def test_a_part_of_a_run_that_was_repeated_by_command_is_not_judged_as_the_whole(
    command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    [first] = run_ids(capsys.readouterr().out)
    assert command("rerun", first, "--failed-only") == 0
    [part] = run_ids(capsys.readouterr().out)
    assert command("wait", part) == 3
    assert f"rerun of {first}" in capsys.readouterr().err
    assert command("rerun", first) == 0
    [whole] = run_ids(capsys.readouterr().out)
    assert command("wait", whole) == 0


def test_a_run_that_was_given_to_a_second_start_is_that_of_the_first(tmp_path: Path) -> None:
    for target, not_as_asked in (("v1", None), ("v2", "it is the run of another start")):
        journal = RunJournal(tmp_path, {"request": {}, "target": target})
        nonce = journal.open_intent("first")
        assert nonce is not None
        moment = datetime.now(timezone.utc)
        record = QATechRunRecord(kind="start", run_short_id="abc", started_at=moment, not_as_asked=not_as_asked)
        assert journal.record("first", nonce, record)
        names = [tmp_path / "b", tmp_path / "a"]  # the second one is found first
        journal.directory.rename(names[not_as_asked is not None])
    known = RunJournal(tmp_path, {"attached": "abc"}).start_of("abc")
    assert known is not None
    assert known[1].target == "v1"


def test_of_two_targets_at_once_a_run_is_judged_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = QATechRunRecord(kind="attached", run_short_id="abc", started_at=datetime.now(timezone.utc))

    def attach(target: str) -> QATechRunRecord:
        return RunJournal(tmp_path, {"attached": "abc"}).attach(run, target)

    def while_another_command_writes(path: Path, text: str, **options: Any) -> None:
        if path.name == "first.json":
            monkeypatch.setattr("prefect_qatech.cli.disk.write_whole", write_whole)
            assert attach("v2").target == "v2"
        write_whole(path, text, **options)

    monkeypatch.setattr("prefect_qatech.cli.disk.write_whole", while_another_command_writes)
    assert attach("v1").target == "v2"


def test_a_test_that_has_vanished_since_the_start_is_missed(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = QATechClient.start_run

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def start(self: QATechClient, request: QATechRunRequest) -> QATechStartedRun:
        return (await real(self, request)).model_copy(update={"test_count": 3})

    with monkeypatch.context() as patch, Sandbox(one_plan(cases("passed")), speed=2000) as other:
        patch.setenv("QATECH_API_URL", other.url)
        patch.setattr(QATechClient, "start_run", start)
        assert command("run", "--plan", "pln_one") == 2
        [first] = run_ids(capsys.readouterr().out)
        assert command("wait", first) == 2
        assert command("wait", first, "--journal", "elsewhere") == 0
        patch.setattr("prefect_qatech.cli.disk.write_whole", fails)
        assert command("wait", first, "--target", "v1") == 2, (
            "nothing can be written, and the start is known all the same"
        )


def test_a_run_of_another_service_with_the_same_id_is_another_run(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same runs under another address stand for a service that gives the same ids."""
    other = sandbox.url.replace("127.0.0.1", "localhost")
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0", "--target", "v1") == 1
    [first] = run_ids(capsys.readouterr().out)
    with monkeypatch.context() as patch:
        patch.setenv("QATECH_API_URL", other)
        assert command("wait", first, "--rerun-failed", "1", "--target", "v2") == 0
    assert command("wait", first, "--rerun-failed", "1", "--target", "v1") == 3, "its rerun would be found"
    assert "--journal" in capsys.readouterr().err
    assert counted(sandbox) == (1, 1)


def test_a_status_is_read_once(command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    [first] = run_ids(capsys.readouterr().out)
    assert command("status", first) == 0
    assert "FAILED" in capsys.readouterr().out
    assert command("status", first, "--json") == 0
    assert json.loads(capsys.readouterr().out)["run_short_id"] == first


def started(sandbox: Sandbox, process: "subprocess.Popen[str]") -> None:
    """Wait until the sandbox has the process's POST."""
    while not any(request["method"] == "POST" for request in sandbox.requests()):
        assert process.poll() is None
        time.sleep(0.05)


@pytest.fixture
def slow() -> Iterator[Sandbox]:
    """A run that goes on until the clock is moved."""
    with Sandbox(one_plan(cases("passed", "passed")), speed=0) as sandbox:
        yield sandbox


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_a_command_that_was_ended_is_resumed_and_starts_nothing_twice(
    number: signal.Signals, slow: Sandbox, environment: dict[str, str], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QATECH_API_URL", slow.url)
    process = subprocess.Popen(
        [*COMMAND, "run", "--plan", "pln_one"],
        env={**environment, "QATECH_API_URL": slow.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started(slow, process)
    assert process.stderr is not None
    link = process.stderr.readline()
    process.send_signal(number)
    told = process.communicate(timeout=240)[1]
    assert re.match(LINK, link)
    if number is not signal.SIGKILL:
        assert process.returncode == 130
        assert "--resume" in told
    slow.advance(3600)
    assert command("run", "--plan", "pln_one") == 3
    assert command("run", "--plan", "pln_one", "--resume") == 0
    assert counted(slow) == (1, 0)


@pytest.mark.slow
def test_an_interruption_waits_for_the_answer_to_a_post(
    slow: Sandbox, environment: dict[str, str], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QATECH_API_URL", slow.url)
    slow.set_faults([{"on": {"path": "start"}, "kind": "latency", "seconds": 2}])
    process = subprocess.Popen(
        [*COMMAND, "run", "--plan", "pln_one"], env={**environment, "QATECH_API_URL": slow.url}, stderr=subprocess.PIPE
    )
    while not list(Path().glob(".qatech/*/first.intent")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=240)[1]
    assert process.returncode == 130
    assert b"--resume" in told
    slow.clear_faults()
    slow.advance(3600)
    assert command("run", "--plan", "pln_one", "--resume") == 0
    assert counted(slow) == (1, 0)


@pytest.mark.slow
def test_a_start_that_is_lost_after_an_interruption_is_told(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        process = subprocess.Popen(
            [*COMMAND, "run", "--plan", "pln_one"],
            env={**environment, "QATECH_API_URL": f"http://127.0.0.1:{service.getsockname()[1]}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        connection, _ = service.accept()
        with connection:
            assert connection.recv(4)
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            assert process.poll() is None, "it waits for the answer"
        told = process.communicate(timeout=240)[1]
    assert process.returncode == 130
    assert "It is not known whether POST /v1/run" in told
    assert "Traceback" not in told


def test_an_interruption_before_there_is_anything_to_tell_is_no_traceback(
    command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prefect_qatech.cli.app", interrupted)
    assert command("run", "--plan", "pln_one") == 130
    assert not capsys.readouterr().err


@pytest.mark.slow
def test_a_terminal_shows_what_is_running(slow: Sandbox, environment: dict[str, str]) -> None:
    main_end, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "run", "--plan", "pln_one"],
        env={**environment, "QATECH_API_URL": slow.url, "TERM": "xterm-256color"},
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    seen = bytearray()
    has_bar = threading.Event()

    def read() -> None:
        # To the end, what Linux gives as an error: a terminal that nobody reads holds the command up.
        with suppress(OSError):
            while True:
                seen.extend(os.read(main_end, 4096))
                if "░".encode() in seen:
                    has_bar.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert has_bar.wait(240)
        slow.advance(3600)
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
        reader.join(60)
        os.close(main_end)
    assert process.returncode == 0
    assert re.search(LINK, seen.decode())
    assert b"PASS" in out
    assert b"\x1b" not in out


def test_a_rerun_starts_no_more_than_it_is_told(
    command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Sandbox(one_plan(cases("passed", "failed")), speed=2000) as broken:
        monkeypatch.setenv("QATECH_API_URL", broken.url)
        assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
        [first] = run_ids(capsys.readouterr().out)
        assert command("rerun", first, "--failed-only") == 1
        assert counted(broken) == (1, 1)


def test_files_of_an_earlier_verdict_do_not_outlive_an_error(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["--report", "out", "--junit", "tests.xml"]
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", *files) == 0
    assert (tmp_path / "tests.xml").exists()
    monkeypatch.setenv("QATECH_API_TOKEN", "another-token-0123456789")
    assert command("run", "--plan", "pln_one", *files) == 3
    assert not (tmp_path / "tests.xml").exists()
    assert not (tmp_path / "out" / "verdict.json").exists()


def test_a_count_that_cannot_be_read_is_no_pass(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = QATechClient.start_run

    async def start(self: QATechClient, request: QATechRunRequest) -> QATechStartedRun:
        started = await real(self, request)
        return started.model_copy(update={"test_count": None, "test_count_is_unreadable": True})

    monkeypatch.setattr(QATechClient, "start_run", start)
    with Sandbox(one_plan(cases("passed")), speed=2000) as other:
        monkeypatch.setenv("QATECH_API_URL", other.url)
        assert command("run", "--plan", "pln_one") == 2


def test_a_run_of_another_start_is_not_taken_for_this_one(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", "--target", "v1") == 0
    green = run_ids(capsys.readouterr().out)[0]
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))
    assert command("run", "--plan", "pln_one", "--target", "v2") == 3
    make_older(Path())
    assert command("run", "--plan", "pln_one", "--target", "v2", "--resume", "--started", green) == 3
    assert counted(sandbox)[0] == 2


def test_a_request_that_is_on_record_elsewhere_is_not_started_again(
    command: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    monkeypatch.setenv("QATECH_API_URL", sandbox.url.replace("127.0.0.1", "localhost"))
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0", "--resume") == 3
    assert "127.0.0.1" in capsys.readouterr().err
    assert counted(sandbox) == (1, 0)
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0", "--anew") == 1


def test_a_rerun_says_that_a_part_was_judged(command: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    [first] = run_ids(capsys.readouterr().out)
    assert command("rerun", first, "--failed-only") == 0
    assert f"a part of the tests of run {first}" in capsys.readouterr().out


def test_a_start_that_was_settled_meanwhile_is_told(tmp_path: Path) -> None:
    journal = RunJournal(tmp_path, {"request": {}})
    nonce = journal.open_intent("first")
    assert nonce is not None
    assert journal.open_intent("first") is None
    journal.clear_intent("first")
    another = journal.open_intent("first")
    assert another is not None
    record = QATechRunRecord(kind="start", run_short_id="abc123", started_at=datetime.now(timezone.utc))
    assert not journal.record("first", nonce, record)
    assert journal.record("first", another, record)


def test_an_intent_that_could_not_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = RunJournal(tmp_path, {"request": {}})
    assert journal.open_intent("rerun-1") is not None  # the folder is there
    real = os.fdopen

    class FullDisk(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def full(descriptor: int, mode: str) -> io.StringIO:
        real(descriptor, mode).close()
        return FullDisk()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", full)
        with pytest.raises(LedgerUnavailable, match="No space left on device"):
            journal.open_intent("first")
    assert not journal.has_begun()
    assert journal.open_intent("first") is not None


def test_of_two_commands_after_a_verdict_one_begins_anew(tmp_path: Path) -> None:
    journals = [RunJournal(tmp_path, {"request": {}}) for _ in range(2)]
    assert journals[0].open_intent("first") is not None
    journals[0].end("fail")
    verdicts = [journal.verdict() for journal in journals]
    journals[0].set_aside(verdicts[0])
    assert journals[0].open_intent("first") is not None
    with pytest.raises(LedgerConflict, match="--resume"):
        journals[1].set_aside(verdicts[1])
    assert journals[1].open_intent("first") is None


def test_a_refusal_leaves_the_intent_of_another_command(tmp_path: Path) -> None:
    journal = RunJournal(tmp_path, {"request": {}})
    refused = journal.open_intent("first")
    assert refused is not None
    journal.clear_intent("first")  # by hand: nothing was started
    assert journal.open_intent("first") is not None
    journal.clear_intent("first", refused)
    assert journal.open_intent("first") is None


def test_a_run_is_kept_while_another_command_sets_its_own_aside(
    command: Run, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / ".qatech" / "gone"
    gone.mkdir(parents=True)
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == gone.name:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1") == 0
    assert counted(sandbox) == (1, 1)


def test_one_run_is_the_evidence_of_one_start(
    command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", "--target", "v1") == 0
    first = run_ids(capsys.readouterr().out)[0]
    real = QATechClient.start_run

    async def start(self: QATechClient, request: QATechRunRequest) -> QATechStartedRun:
        return (await real(self, request)).model_copy(update={"run_short_id": first})

    monkeypatch.setattr(QATechClient, "start_run", start)
    for mode in ([], ["--resume"]):
        assert command("run", "--plan", "pln_one", "--target", "v2", *mode) == 3
    assert first in capsys.readouterr().err
    assert counted(sandbox)[0] == 2


def test_what_nobody_foresaw_is_an_error_and_no_verdict(
    command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(QATechClient, "start_run", broken)
    assert command("run", "--plan", "pln_one") == 3
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["run"], ["rerun", "abc123"], ["wait", "abc123"]])
@pytest.mark.parametrize("target", ["", " ", "v1\nv2"])
def test_a_target_that_names_nothing_is_refused(
    arguments: list[str], target: str, command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable of the CI service that is not set would stand for every version."""
    assert command(*arguments, "--target", target) == 3
    assert "target must" in capsys.readouterr().err
    assert not sandbox.requests()


def test_letters_that_a_terminal_does_not_have_change_no_verdict(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with Sandbox(one_plan([{"name": "Zahlen – für alle", "outcomes": "failed"}]), speed=2000) as other:
        monkeypatch.setenv("QATECH_API_URL", other.url)
        assert command("run", "--plan", "pln_one", "--rerun-failed", "0", "--junit", "tests.xml") == 1
    assert b"Zahlen" in written.getvalue()
    assert (tmp_path / "tests.xml").exists()


@pytest.mark.slow
def test_a_reader_that_has_gone_changes_no_verdict(environment: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "run", "--plan", "pln_one", "--rerun-failed", "1", "--report", "out"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    told = process.communicate(timeout=240)[1]
    assert (process.returncode, b"Broken pipe" in told) == (0, False)
    assert json.loads((tmp_path / "out/verdict.json").read_text())["verdict"] == "pass"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "streams", "code"),
    [("pln_one", ">&- 2>&-", 0), ("pln_unknown", ">&- 2>/dev/full", 3)],
    ids=["a verdict", "an error"],
)
def test_where_nothing_can_be_printed_the_exit_code_tells_the_rest(
    plan: str, streams: str, code: int, environment: dict[str, str], tmp_path: Path
) -> None:
    arguments = ["run", "--plan", plan, "--rerun-failed", "1", "--junit", "tests.xml"]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams}', "sh", *COMMAND, *arguments], env=environment, timeout=240, check=False
    )
    assert done.returncode == code
    assert (tmp_path / "tests.xml").exists() is (code == 0)


def test_what_cannot_be_written_keeps_nothing_else_from_being_written(
    command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "file" / "outputs"))
    assert command("run", "--plan", "pln_one", "--rerun-failed", "1", "--junit", "tests.xml", "--report", "out") == 3
    assert "PASS" in capsys.readouterr().out
    assert (tmp_path / "tests.xml").exists()
    assert (tmp_path / "out/verdict.json").exists()


def test_a_disk_that_gets_full_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    report = report_of(attempt(0, {"Pay": "P"}))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            show(report, junit=tmp_path / "tests.xml", directory=None, as_json=False, environ={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("service", ["GITHUB_ACTIONS", "TF_BUILD"])
def test_a_ci_service_is_told_of_an_error(
    service: str, command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(service, "True" if service == "TF_BUILD" else "true")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "outputs"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert command("run", "--plan", "pln_unknown", "--json") == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"] == "NotFoundError"
    outputs = dict(line.split("=", 1) for line in (tmp_path / "outputs").read_text().splitlines())
    assert outputs == {"verdict": "error", "run_short_id": "", "run_url": "", "target": ""}
    assert "pln" in (tmp_path / "summary.md").read_text()
    begins = "::error title=" if service == "GITHUB_ACTIONS" else "##vso[task.logissue type=error]"
    assert [line for line in printed.err.splitlines() if line.startswith(begins) and "pln_unknown" in line]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["run", "pln_smoke"], "--plan pln_smoke"),
        (["run", "--target", "v1", "pln_smoke"], "--plan pln_smoke"),
        (["run", "app_shop"], "--url app_shop="),
        (["run", "https://shop.example.com"], "--url app_...=https://shop.example.com"),
        (["list", "plans"], "lists no plans"),
    ],
)
def test_a_word_that_has_another_place_gets_a_hint(
    arguments: list[str], hint: str, command: Run, sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*arguments) == 3
    assert [line for line in capsys.readouterr().err.splitlines() if hint in line]
    assert not sandbox.requests()


class Terminal(io.StringIO):
    """What is printed, in a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_colour", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_verdict_has_its_colour_in_a_terminal_only(
    no_colour: dict[str, str], command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    for name, value in {"TERM": "xterm-256color", **no_colour}.items():
        monkeypatch.setenv(name, value)
    assert command("run", "--plan", "pln_one", "--rerun-failed", "0") == 1
    assert "FAIL" in terminal.getvalue()
    assert ("\x1b[31m" in terminal.getvalue()) is (no_colour == {})
