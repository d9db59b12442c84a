"""The release flow on the sample storefront: real commands, real pages, counted by the sandbox."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import prefect
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, LogFilter, LogFilterFlowRunId
from prefect.exceptions import ParameterTypeError
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_API_URL
from prefect.states import Scheduled

from flows.release import CommandFailed, ReleaseRolledBack, release
from flows.storefront import deploy
from flows.storefront.local import LocalStorefront, version_served_at
from prefect_qatech import GateFailed, QATechCredentials, StartOutcomeUnknown, UnauthorizedError, release_gate
from prefect_qatech.sandbox import Sandbox
from tests.flows.conftest import Arguments
from tests.support import Failing, StepFailed, counted, fault, posts

pytestmark = pytest.mark.usefixtures("prefect_server")

ROOT = Path(__file__).parents[2]
judge = release_gate.fn
FAILING = [sys.executable, "-c", "print('the disk is full'); raise SystemExit(7)"]


def served(shop: LocalStorefront) -> tuple[str | None, str | None]:
    """What staging and production serve."""
    return version_served_at(shop.staging_url), version_served_at(shop.production_url)


def deployments(shop: LocalStorefront) -> list[str]:
    """What was deployed so far."""
    return sorted(path.name.rpartition("-")[0] for path in shop.site.glob("releases/*"))


def retry(flow_run_id: UUID, parameters: dict[str, Any]) -> None:
    """What "Retry" in the UI does, without a worker."""
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run_id, Scheduled(), force=True)
        flow_run = client.read_flow_run(flow_run_id)
    run_flow(release, flow_run=flow_run, parameters=parameters)


@pytest.fixture
def v1_in_production(shop: LocalStorefront) -> None:
    """An earlier release."""
    deploy.deploy(shop.site, "v1-good")
    deploy.promote(shop.site, "v1-good")


def test_a_good_version_is_promoted_and_the_output_of_the_commands_is_in_the_log_of_the_flow_run(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments
) -> None:
    state = release(**arguments("v1-good"), return_state=True)
    assert state.name == "Passed"
    assert served(shop) == ("v1-good", "v1-good")
    assert counted(sandbox) == (1, 0)
    assert [post["body"] for post in posts(sandbox)] == [
        {
            "trigger": "API",
            "testPlanShortId": "pln_storefront",
            "applications": [{"applicationShortId": "app_shop", "environment": {"url": shop.staging_url}}],
        }
    ]
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    wanted = {"Staging serves v1-good (before: nothing)", "Production serves v1-good (before: nothing)"}
    deadline = time.monotonic() + 120
    missing = wanted
    # Prefect sends logs in batches.
    while missing and time.monotonic() < deadline:
        time.sleep(0.2)
        with get_client(sync_client=True) as client:
            logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
        missing = wanted - {log.message for log in logs}
    assert missing == set()


def test_a_version_that_stumbles_is_promoted_and_reported_flaky(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments
) -> None:
    report = release(**arguments("v2-stumbles"))
    assert report.passed
    assert [(test.name, test.verdict) for test in report.tests if test.verdict != "passed"] == [
        ("Checkout takes an order", "flaky")
    ]
    assert served(shop) == ("v2-stumbles", "v2-stumbles")
    assert counted(sandbox) == (1, 1)
    assert posts(sandbox)[1]["body"] == {"failedOnly": True}


@pytest.mark.usefixtures("v1_in_production")
def test_a_broken_version_is_rolled_back(sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments) -> None:
    state = release(**arguments("v3-broken"), return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "Gate failed")
    error = state.result(raise_on_failure=False)
    assert isinstance(error, GateFailed)
    assert "Checkout takes an order" in (state.message or "")
    assert error.report.run_url is not None
    assert error.report.run_url in (state.message or "")
    assert served(shop) == ("v1-good", "v1-good")
    assert deployments(shop) == ["v1-good", "v3-broken"]
    assert counted(sandbox) == (1, 2)


@pytest.mark.usefixtures("v1_in_production")
def test_a_deployment_that_fails_starts_no_gate(sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments) -> None:
    with pytest.raises(CommandFailed, match=r"deploy: .* ended with exit code 7\. Its last lines:\nthe disk is full"):
        release(**arguments("v2-stumbles", deploy_command=FAILING))
    assert counted(sandbox) == (0, 0)
    assert served(shop) == ("v1-good", "v1-good")


def test_promoting_and_rolling_back_are_optional(shop: LocalStorefront, arguments: Arguments) -> None:
    without = {"promote_command": None, "rollback_command": None}
    assert release(**arguments("v1-good", **without)).passed
    assert served(shop) == ("v1-good", None)
    with pytest.raises(GateFailed):
        release(**arguments("v3-broken", **without))
    assert served(shop) == ("v3-broken", None)


@pytest.mark.parametrize(
    "wrong", [{"deploy_command": ""}, {"promote_command": "'open quote"}, {"rollback_command": []}]
)
def test_a_command_that_cannot_be_read_is_refused_before_anything_happens(
    shop: LocalStorefront, arguments: Arguments, wrong: dict[str, Any]
) -> None:
    with pytest.raises(ParameterTypeError):
        release(**arguments("v1-good", **wrong))
    assert deployments(shop) == []


def test_without_a_token_nothing_is_deployed(
    shop: LocalStorefront, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QATECH_API_TOKEN", "QATECH_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="No API token"):
        release(**arguments("v1-good", credentials=None))
    assert deployments(shop) == []


def test_the_credentials_can_come_from_the_environment_and_a_command_can_be_one_text(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = f"{sys.executable} {deploy.__file__} --site '{shop.site}' deploy v1-good"
    monkeypatch.setenv("QATECH_API_TOKEN", sandbox.token)
    monkeypatch.setenv("QATECH_API_URL", sandbox.url)
    assert release(**arguments("v1-good", credentials=None, deploy_command=command)).passed
    assert served(shop) == ("v1-good", "v1-good")


def test_the_real_service_is_not_sent_to_this_machine(shop: LocalStorefront, arguments: Arguments) -> None:
    real = QATechCredentials.model_validate({"api_token": "a-token"})
    with pytest.raises(ValueError, match=r"which is this machine\. Nothing was deployed"):
        release(**arguments("v1-good", credentials=real))
    assert deployments(shop) == []


def test_a_gate_that_cannot_be_evaluated_rolls_back(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments
) -> None:
    stranger = QATechCredentials.model_validate({"api_token": "wrong", "api_url": sandbox.url})
    with pytest.raises(UnauthorizedError):
        release(**arguments("v1-good", credentials=stranger))
    assert deployments(shop) == ["v1-good"]
    assert served(shop) == (None, None)


def test_a_start_of_unknown_outcome_rolls_back_and_is_not_sent_again(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments
) -> None:
    sandbox.set_faults(fault({"kind": "drop_after"}, "start"))
    with pytest.raises(StartOutcomeUnknown):
        release(**arguments("v1-good"))
    assert counted(sandbox) == (1, 0)
    assert served(shop) == (None, None)


def test_a_roll_back_that_fails_says_so_and_why_it_was_needed(shop: LocalStorefront, arguments: Arguments) -> None:
    with pytest.raises(ReleaseRolledBack) as caught:
        release(**arguments("v3-broken", rollback_command=FAILING))
    assert "The roll-back failed. roll back: the command" in str(caught.value)
    assert "the disk is full" in str(caught.value)
    assert "failed: Checkout takes an order." in str(caught.value)
    assert served(shop) == ("v3-broken", None)


@pytest.mark.usefixtures("v1_in_production")
def test_a_retry_after_a_roll_back_neither_deploys_nor_promotes(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments
) -> None:
    # The run goes on after the roll-back, and what it tests then is v1-good: its pass is not one of v3-broken.
    sandbox.set_faults([{"on": {"method": "GET", "path": "status"}, "kind": "status", "status": 401, "times": 2}])
    with pytest.raises(ReleaseRolledBack) as caught:
        release.with_options(retries=2, retry_delay_seconds=0)(**arguments("v3-broken"))
    assert "This release was rolled back. A retry does not deploy again" in str(caught.value)
    assert "UnauthorizedError" in str(caught.value)
    assert deployments(shop) == ["v1-good", "v3-broken"]
    assert served(shop) == ("v1-good", "v1-good")
    assert counted(sandbox) == (1, 0)


def test_a_retry_after_a_roll_back_that_did_not_end_says_so(shop: LocalStorefront, arguments: Arguments) -> None:
    with pytest.raises(ReleaseRolledBack, match="the end of that is not on record"):
        release.with_options(retries=1)(**arguments("v3-broken", rollback_command=FAILING))
    assert deployments(shop) == ["v3-broken"]


@pytest.mark.usefixtures("v1_in_production")
def test_without_prefects_api_the_roll_back_comes_first(
    shop: LocalStorefront, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.release.NOTE_SECONDS", 1.0)
    asked: list[tuple[str | None, str | None]] = []

    def gate(*args: Any, **options: Any) -> Any:
        try:
            return judge(*args, **options)
        finally:
            monkeypatch.setattr("flows.release.get_client", no_api)

    def no_api(**_: Any) -> Any:
        asked.append(served(shop))
        raise httpx.ConnectError("All connection attempts failed")

    monkeypatch.setattr(release_gate, "fn", gate)
    with pytest.raises(
        ReleaseRolledBack, match=r"took no note of that .*: do not retry this flow run, release anew"
    ) as told:
        release(**arguments("v3-broken"))
    assert "failed: Checkout takes an order." in str(told.value)
    assert served(shop) == ("v1-good", "v1-good")
    assert len(asked) > 1


def test_a_note_is_written_once_the_api_answers_again(
    shop: LocalStorefront, arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Failing(2)

    def away_at_first(**options: Any) -> Any:
        try:
            out()
        except StepFailed:
            raise httpx.ConnectError("All connection attempts failed") from None
        return get_client(**options)

    def gate(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr("flows.release.get_client", away_at_first)
        return judge(*args, **options)

    monkeypatch.setattr(release_gate, "fn", gate)
    state = release(**arguments("v3-broken"), return_state=True)
    assert isinstance(state.result(raise_on_failure=False), GateFailed)
    assert state.state_details.flow_run_id is not None
    with pytest.raises(ReleaseRolledBack, match=r"This release was rolled back\."):
        retry(state.state_details.flow_run_id, arguments("v3-broken"))


def test_a_roll_back_is_on_record_while_it_runs(arguments: Arguments, tmp_path: Path) -> None:
    name = f"killed-{uuid4()}"
    seen: list[str] = []

    def look() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        deadline = time.monotonic() + 120
        while "release-roll-back" not in seen and time.monotonic() < deadline:
            with get_client(sync_client=True) as client:
                [running] = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
                rows = client.filter_flow_run_input(running.id, "release-", limit=10, exclude_keys=set())
            seen[:] = [row.key for row in rows]
        (tmp_path / "go").touch()

    command = ["sh", "-c", f"touch {tmp_path}/begun; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; exit 1"]
    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    with pytest.raises(ReleaseRolledBack):
        release.with_options(flow_run_name=name)(**arguments("v3-broken", rollback_command=command))
    looker.join(180)
    assert sorted(seen) == ["release-deployed", "release-roll-back"]


def test_a_promotion_that_failed_is_retried_for_the_same_deployment(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments, tmp_path: Path
) -> None:
    promote = " ".join(shop.commands("v1-good")["promote_command"])
    once = f"[ -e {tmp_path}/tried ] || {{ touch {tmp_path}/tried; exit 1; }}; {promote}"
    report = release.with_options(retries=1)(**arguments("v1-good", promote_command=["sh", "-c", once]))
    assert report.passed
    assert served(shop) == ("v1-good", "v1-good")
    assert deployments(shop) == ["v1-good"]
    assert counted(sandbox) == (1, 0)


def test_a_retry_after_the_promotion_changes_nothing(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments, tmp_path: Path
) -> None:
    given = arguments("v1-good", promote_command=["sh", "-c", f"echo promoted >> {tmp_path}/promoted"])
    state = release(**given, return_state=True)
    flow_run_id = state.state_details.flow_run_id
    assert flow_run_id is not None
    retry(flow_run_id, given)
    sandbox.set_faults([{"on": {"method": "GET"}, "kind": "status", "status": 401, "times": 2}])
    with pytest.raises(UnauthorizedError):
        retry(flow_run_id, given)
    assert (tmp_path / "promoted").read_text() == "promoted\n"
    assert deployments(shop) == ["v1-good"]
    assert served(shop) == ("v1-good", None)
    assert counted(sandbox) == (1, 0)


def test_a_retried_parent_deploys_anew_and_has_that_deployment_tested(
    sandbox: Sandbox, shop: LocalStorefront, arguments: Arguments, tmp_path: Path
) -> None:
    # The first deployment is good, the second is broken: the verdict on the first must not let the second through.
    good = " ".join(shop.commands("v1-good")["deploy_command"])
    changing = f"if mkdir {tmp_path}/first; then {good}; else {good[: -len('v1-good')]}v3-broken; fi"
    commands = {
        "deploy_command": ["sh", "-c", changing],
        "promote_command": ["sh", "-c", f"touch {tmp_path}/promoted-$$; [ -e {tmp_path}/second ]"],
        "rollback_command": None,
    }

    @flow(retries=1)
    def parent() -> None:
        release(**arguments("v1-good", **commands))

    with pytest.raises(GateFailed):
        parent()
    assert deployments(shop) == ["v1-good", "v3-broken"]
    assert counted(sandbox)[0] == 2
    assert len(list(tmp_path.glob("promoted-*"))) == 1


def test_cancellation_neither_promotes_nor_rolls_back_and_a_retry_goes_on(
    shop: LocalStorefront, arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, json\nfrom flows.release import release\n"
        "release.with_options(flow_run_name=sys.argv[1])(**json.loads(sys.argv[2]))\n"
    )
    with Sandbox(speed=0) as slow:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
        monkeypatch.setenv("QATECH_API_TOKEN", slow.token)
        monkeypatch.setenv("QATECH_API_URL", slow.url)
        name = f"cancelled-{uuid4()}"
        passed = arguments("v1-good", credentials=None, polling={"first_seconds": 0.2, "max_seconds": 0.5})
        process = subprocess.Popen(
            [sys.executable, str(program), name, json.dumps(passed)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            deadline = time.monotonic() + 120
            while slow.counts()["gets"] == 0:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
        assert "neither promoted nor rolled back" in output
        assert served(shop) == ("v1-good", None)

        with get_client(sync_client=True) as client:
            named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
            [cancelled] = client.read_flow_runs(flow_run_filter=named)
            # Prefect 3.7 leaves any flow run RUNNING whose own process is terminated.
            assert cancelled.state_name == ("Running" if prefect.__version__.startswith("3.7.") else "Crashed")
        slow.advance(10_000)
        retry(cancelled.id, cancelled.parameters)
        assert counted(slow) == (1, 0)
    assert deployments(shop) == ["v1-good"]
    assert served(shop) == ("v1-good", "v1-good")
