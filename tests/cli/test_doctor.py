"""`prefect-qatech doctor`: it sees what is wrong, says what to do, starts nothing, and ends."""

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import prefect
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.states import Suspended

from prefect_qatech import QATechCredentials, QATechTestPlan
from prefect_qatech.cli import main
from prefect_qatech.cli.doctor_checks import Finding, Where, check_clock, check_network, check_watcher, examine
from prefect_qatech.sandbox import Sandbox
from tests.support import cases, counted, new_flow_run, one_plan

SCENARIO: dict[str, Any] = {
    **one_plan(cases("passed")),
    "tokens": ["sandbox-token", {"token": "sandbox-reads", "access": "read"}],
}
WATCHER = "watch-suspended-gates"

Doctor = Callable[..., tuple[int, dict[str, dict[str, str]]]]


@contextmanager
def answering(answers: Mapping[str, tuple[int, Any]], date: datetime | None = None) -> Iterator[str]:
    """A service that gives one answer for each path, and 404 for the rest."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path.partition("?")[0], (404, {"message": "not found"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_POST = do_GET

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(date, usegmt=True) if date else super().date_time_string(timestamp)

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SCENARIO, speed=0) as sandbox:
        yield sandbox


@pytest.fixture
def doctor(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run the command without a Prefect server; what comes back are its exit code and what it has found."""
    for name in ("QATECH_API_KEY", "QATECH_PROJECT_SHORT_ID", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QATECH_API_URL", sandbox.url)
    monkeypatch.setenv("QATECH_API_TOKEN", sandbox.token)

    def run(*arguments: str, prefect_url: str | None = None) -> tuple[int, dict[str, dict[str, str]]]:
        monkeypatch.setattr(sys, "argv", ["prefect-qatech", "doctor", "--json", *arguments])
        with temporary_settings({PREFECT_API_URL: prefect_url}), pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        found = json.loads(printed.out)
        assert found["ok"] is (ended.value.code == 0)
        return int(ended.value.code or 0), {item["check"]: item for item in found["checks"]}

    return run


def states(found: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {name: item["state"] for name, item in found.items()}


def test_nothing_is_wrong_where_nothing_is(
    prefect_server: None, sandbox: Sandbox, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    QATechCredentials.register_type_and_schema()
    QATechTestPlan.register_type_and_schema()
    code, found = doctor(prefect_url=PREFECT_API_URL.value())
    assert [item for item in found.values() if item["state"] != "ok"] == []
    assert code == 0
    assert prefect.__version__ in found["Prefect"]["message"]
    assert counted(sandbox) == (0, 0)


def test_without_a_prefect_server_the_rest_is_looked_at(sandbox: Sandbox, doctor: Doctor) -> None:
    code, found = doctor()
    assert code == 0
    assert states(found)["Prefect"] == "note"
    assert states(found)["results"] == "skipped"
    assert states(found)["access"] == "ok"
    assert counted(sandbox) == (0, 0)


@pytest.mark.parametrize(
    ("environ", "arguments", "check", "words"),
    [
        ({"QATECH_API_TOKEN": ""}, [], "token", "QATECH_API_TOKEN"),
        ({"QATECH_API_TOKEN": "Bearer abcdef0123456789"}, [], "token", "Bearer"),
        ({"QATECH_API_TOKEN": "another-token-0123456789"}, [], "access", "refuses the token (401)"),
        ({"QATECH_API_TOKEN": "sandbox-reads"}, [], "access", "may start no runs"),
        ({"QATECH_API_URL": "http://127.0.0.1:1"}, [], "QA.tech", "got no answer"),
        ({"QATECH_PROJECT_SHORT_ID": "proj_other"}, [], "project", "proj_sandbox"),
        ({"QATECH_PROJECT_SHORT_ID": "Sandpit"}, [], "project", "proj_sandbox"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, [], "network", "/nowhere.pem"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    environ: dict[str, str],
    arguments: list[str],
    check: str,
    words: str,
    doctor: Doctor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    code, found = doctor(*arguments)
    assert code == 1
    assert [name for name, state in states(found).items() if state == "wrong"] == [check]
    assert words in found[check]["message"] + found[check]["advice"]
    assert found[check]["advice"]
    assert not [token for token in environ.values() if "0123456789" in token and token in json.dumps(found)]


def test_a_token_that_only_reads_is_enough_where_that_is_said(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QATECH_API_TOKEN", "sandbox-reads")
    assert doctor("--read-only")[0] == 0


def test_a_token_of_many_projects_needs_one_named(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    projects = [{"shortId": "proj_one", "name": "One"}, {"shortId": "proj_two", "name": "Two"}]
    with answering(
        {"/v1/outbound-ips": (200, {"ipAddresses": []}), "/v1/projects": (200, {"projects": projects})}
    ) as url:
        monkeypatch.setenv("QATECH_API_URL", url)
        code, found = doctor()
        assert (code, states(found)["project"]) == (1, "wrong")
        assert "QATECH_PROJECT_SHORT_ID" in found["project"]["advice"]
        for named in ("proj_two", "Two"):
            monkeypatch.setenv("QATECH_PROJECT_SHORT_ID", named)
            assert doctor()[0] == 0


def test_a_service_that_hangs_is_given_up(sandbox: Sandbox, doctor: Doctor) -> None:
    sandbox.set_faults([{"on": {}, "kind": "latency", "seconds": 120}])
    code, found = doctor("--timeout-seconds", "0.5")
    assert (code, states(found)["QA.tech"]) == (1, "wrong")
    assert "0.5 s" in found["QA.tech"]["message"]


def test_a_terminal_gets_lines_that_fit_and_no_token(
    sandbox: Sandbox, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prefect-qatech", "doctor"])
    monkeypatch.setenv("COLUMNS", "80")
    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    assert max(map(len, printed.out.splitlines())) <= 80
    assert "\x1b" not in printed.out
    assert sandbox.token not in printed.out + printed.err


@pytest.mark.parametrize(("minutes", "state"), [(0, "ok"), (-20, "wrong"), (20, "wrong")])
def test_the_clock_of_the_service_is_compared(
    minutes: int, state: str, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    date = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    with answering({"/v1/outbound-ips": (200, {"ipAddresses": []})}, date) as url:
        monkeypatch.setenv("QATECH_API_URL", url)
        assert states(doctor()[1])["clock"] == state


async def test_a_clock_is_wrong_by_half_a_minute() -> None:
    assert (await check_clock(Where(skews={"QA.tech": 29, "Prefect": -29})))[0] == "ok"
    assert (await check_clock(Where(skews={"QA.tech": 0, "Prefect": -31})))[0] == "wrong"


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_a_proxy_is_told_without_its_password(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}ada:s3cret@proxy.example.com:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    where = Where(credentials=QATechCredentials.from_env({"QATECH_API_TOKEN": "abcdef0123456789"}))
    found = " ".join(await check_network(where))
    assert "http://proxy.example.com:3128" in found
    assert "s3cret" not in found
    monkeypatch.setenv("NO_PROXY", "qa.tech")
    assert "without a proxy" in (await check_network(where))[1]


def prefect_of(version: str, status: int = 200, **more: tuple[int, Any]) -> dict[str, tuple[int, Any]]:
    return {"/api/hello": (status, "hi"), "/api/admin/version": (200, version), **more}


@pytest.mark.parametrize(
    ("answers", "state", "words"),
    [
        (prefect_of("2.20.0"), "wrong", "major versions"),
        (prefect_of("3.0.0"), "note", "Upgrade the server"),
        (prefect_of("99.0.0"), "wrong", "major versions"),
        (prefect_of(prefect.__version__), "ok", ""),
        (prefect_of(prefect.__version__, status=401), "wrong", "PREFECT_API_KEY"),
        ({}, "wrong", "/api"),
    ],
)
def test_prefects_server_and_its_version(
    answers: dict[str, tuple[int, Any]], state: str, words: str, doctor: Doctor
) -> None:
    with answering(answers) as url:
        found = doctor(prefect_url=f"{url}/api")[1]
    assert found["Prefect"]["state"] == state
    assert words in found["Prefect"]["advice"]
    # That server has no blocks.
    assert states(found)["block types"] == ("skipped" if words in ("PREFECT_API_KEY", "/api") else "wrong")


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:1/api"])
def test_a_prefect_that_cannot_be_asked_is_wrong(url: str, doctor: Doctor) -> None:
    code, found = doctor(prefect_url=url)
    assert (code, states(found)["Prefect"]) == (1, "wrong")


async def found_in_prefect(check: str) -> Finding:
    where = Where(environ={"QATECH_API_TOKEN": "abcdef0123456789", "QATECH_API_URL": "http://127.0.0.1:1"})
    [found] = [finding async for finding in examine(where, 60) if finding.check == check]
    return found


async def test_suspended_gates_need_a_watcher(prefect_server: None) -> None:
    @flow(name=WATCHER)
    def watch() -> None:
        """Stands for flows/watcher.py."""

    @flow(name="doctors-gate")
    def gate(waiting: str) -> None:
        """Stands for flows/check.py."""

    made = []
    async with get_client() as client:
        try:
            gate_id = await client.create_flow(gate)
            made.append(
                await client.create_deployment(flow_id=gate_id, name="doctor", parameters={"waiting": "suspend"})
            )
            assert (await found_in_prefect("watcher")).state == "wrong"
            watch_id = await client.create_flow(watch)
            made.append(await client.create_deployment(flow_id=watch_id, name="doctor"))
            assert (await found_in_prefect("watcher")).state == "wrong", "nothing starts it"
            every_minute = IntervalSchedule(interval=timedelta(minutes=1))
            await client.create_deployment_schedules(made[-1], [(every_minute, True)])
            assert (await found_in_prefect("watcher")).state == "ok"
            await client.pause_deployment(made[-1])
            assert (await found_in_prefect("watcher")).state == "wrong", "its schedule is off"
        finally:
            for deployment in made:
                await client.delete_deployment(deployment)


async def test_a_gate_that_nobody_woke_is_seen(prefect_server: None) -> None:
    async with get_client() as client:
        flow_run = await new_flow_run(client)
        try:
            suspended = Suspended(timeout_seconds=1, pause_key="qatech-abc")
            await client.set_flow_run_state(flow_run, suspended, force=True)
            found = await found_in_prefect("watcher")
        finally:
            await client.delete_flow_run(flow_run)
    assert found.state == "wrong"
    assert "should have been woken" in found.message


async def test_results_that_cannot_be_stored_are_told(prefect_server: None, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("no directory")
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "there"}):
        assert (await found_in_prefect("results")).state == "ok"
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "file" / "storage"}):
        assert (await found_in_prefect("results")).state == "wrong"


async def test_no_watcher_is_asked_for_where_prefect_is_down() -> None:
    assert (await check_watcher(Where()))[0] == "skipped"
