"""The errors that people meet first: one kind, in one line, before anything is sent, and never retried."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import ParameterTypeError
from prefect.tasks import Task

from prefect_qatech import (
    GatePolicy,
    InvalidInputError,
    QATechApplication,
    QATechCredentials,
    QATechPolling,
    QATechRunRequest,
    QATechTestPlan,
    agather_gates,
    aget_test_run,
    arelease_gate,
    arerun_test_run,
    astart_test_run,
    await_for_test_run,
    await_for_test_runs,
    get_test_run,
    rerun_test_run,
    start_test_run,
    task_options,
    wait_for_test_run,
    wait_for_test_runs,
)
from prefect_qatech.gate.flow import run_gate
from prefect_qatech.gate.settings import GateSettings
from prefect_qatech.sandbox import Sandbox
from tests.support import rows_of

CASE = "a1b2c3d4-e5f6-4789-a012-3456789abcde"
TOKEN = "a-token-that-nobody-may-see"

Call = Callable[[Any], Awaitable[Any]]
TASKS: dict[str, Call] = {
    "start": lambda given: astart_test_run(given, "pln_green"),
    "rerun": lambda given: arerun_test_run(given, "abc123"),
    "get": lambda given: aget_test_run(given, "abc123"),
    "wait": lambda given: await_for_test_run(given, "abc123"),
    "wait for many": lambda given: await_for_test_runs(given, ["abc123"]),
    "gate": lambda given: run_gate(given, "pln_green", None, GateSettings()),
}


async def _load() -> QATechCredentials:
    return QATechCredentials(api_token=TOKEN)


def assert_one_line(error: BaseException) -> None:
    assert type(error) is InvalidInputError
    assert error.retryable is False
    assert str(error)
    assert "\n" not in str(error)
    assert TOKEN not in str(error) + repr(error)


# --- What is no credentials

NO_CREDENTIALS: dict[str, tuple[Callable[[], Any], str]] = {
    "a block's name": (lambda: "prod", r'QATechCredentials\.load\("<name>"\)'),
    "the token itself": (lambda: TOKEN, r"credentials is a text"),
    "an await that was forgotten": (_load, r"an await is missing"),
    "a dict": (lambda: {"api_token": TOKEN}, r"credentials is a dict"),
    "None": (lambda: None, r"must be a block.*, not NoneType"),
    "another block": (lambda: QATechTestPlan(credentials=QATechCredentials(api_token=TOKEN)), "not QATechTestPlan"),
}


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("error::RuntimeWarning", "error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("what", NO_CREDENTIALS)
@pytest.mark.parametrize("call", TASKS)
async def test_what_is_no_credentials_is_refused_with_the_way_out(call: str, what: str) -> None:
    make, told = NO_CREDENTIALS[what]
    with pytest.raises(InvalidInputError, match=told) as caught:
        await TASKS[call](make())
    assert_one_line(caught.value)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("what", ["a block's name", "an await that was forgotten", "None"])
async def test_flows_whose_parameters_prefect_checks_say_the_same(what: str) -> None:
    make, told = NO_CREDENTIALS[what]
    with pytest.raises(ParameterTypeError, match=told):
        await arelease_gate(make(), "pln_green")
    with pytest.raises(ParameterTypeError, match=told):
        await agather_gates(make(), {"green": "pln_green"})


# --- A token in clear among the parameters of a flow run


@flow
async def starts(credentials: QATechCredentials) -> None:
    await astart_test_run(credentials, "pln_green")


@flow
async def hands_on(credentials: QATechCredentials) -> None:
    await arelease_gate(credentials, "pln_green")


@flow
async def hands_on_many(credentials: QATechCredentials) -> None:
    await agather_gates(credentials, {"green": "pln_green"})


@flow
async def triggers(plan: QATechTestPlan) -> None:
    await plan.atrigger()


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("user", [starts, hands_on, hands_on_many, arelease_gate, triggers], ids=lambda user: user.name)
async def test_credentials_that_are_a_dict_among_parameters_are_refused(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, user: Any
) -> None:
    given: Any = {"api_token": sandbox.token, "api_url": sandbox.url}
    parameters = {"plan": {"credentials": given}} if user is triggers else {"credentials": given}
    with pytest.raises(InvalidInputError) as caught:
        await user(**parameters)
    assert_one_line(caught.value)
    assert '{"$ref": {"block_document_id": "<id of the block>"}}' in str(caught.value)
    assert "now stands in clear in the parameters of that flow run" in str(caught.value)
    assert "revoke it" in str(caught.value)
    assert sandbox.token not in str(caught.value) + caplog.text, "Prefect logs parameters that it could not validate"
    assert sandbox.requests() == []


@pytest.mark.usefixtures("prefect_server")
async def test_a_reference_to_a_saved_block_is_taken(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    sandbox.reset()
    saved = await credentials.asave("first-errors", overwrite=True)
    plan = QATechTestPlan(credentials=await QATechCredentials.aload("first-errors"), test_plan_short_id="pln_green")
    await plan.asave("first-errors", overwrite=True)
    await starts({"$ref": {"block_document_id": str(saved)}})
    await starts(credentials)
    await triggers(await QATechTestPlan.aload("first-errors"))
    assert sandbox.counts()["starts"] == 3


def test_a_dict_in_code_is_no_parameter() -> None:
    for block in (
        QATechCredentials.model_validate({"api_token": TOKEN}),
        QATechTestPlan.model_validate({"credentials": {"api_token": TOKEN}}).credentials,
        QATechTestPlan(credentials={"api_token": TOKEN}).credentials,  # type: ignore[arg-type]
    ):
        block.api_url = "https://gateway.example"
        block.get_client()


# --- All else


def test_placeholders_of_examples_are_no_tokens() -> None:
    for token in ("...", "<token>", "$QATECH_API_TOKEN", "${QATECH_API_TOKEN}", "{{ token }}".replace(" ", "")):
        with pytest.raises(InvalidInputError, match=r"placeholder of an example.*Settings -> Integrations") as caught:
            QATechCredentials(api_token=token)
        assert_one_line(caught.value)
    for token in ("your-token", "YOUR_API_TOKEN", "my_qatech_api_key"):
        with pytest.raises(InvalidInputError, match="placeholder of an example"):
            QATechCredentials.from_env({"QATECH_API_TOKEN": token})


@pytest.mark.parametrize("token", ["x", "yours-4f2c", "token", "my-tokens-4f2c", "a.b.c", "4f2c<9e1>"])
def test_what_may_be_a_token_is_none(token: str) -> None:
    assert QATechCredentials(api_token=token).api_token.get_secret_value() == token


MADE: dict[str, tuple[Callable[[], Any], str]] = {
    "a field of a policy that is none": (
        lambda: GatePolicy(max_rerun=1),  # type: ignore[call-arg]
        r"max_rerun: There is no such field; did you mean max_reruns\?",
    ),
    "a polling without a pause": (
        lambda: QATechPolling(first_seconds=0),
        r"first_seconds: Input should be greater than or equal to 0\.01, not 0",
    ),
    "a polling that is longer at first": (
        lambda: QATechPolling(first_seconds=9, max_seconds=1),
        "first_seconds must not be longer",
    ),
    "one application instead of a list": (
        lambda: QATechRunRequest(
            applications=QATechApplication(application_short_id="app_shop")  # type: ignore[arg-type]
        ),
        r"applications: .*put a single item into \[\.\.\.\]",
    ),
    "a plan and cases": (lambda: QATechRunRequest(test_plan_short_id="pln_a", test_case_ids=[CASE]), "not both"),
    "no token in the environment": (lambda: QATechCredentials.from_env({}), "set QATECH_API_TOKEN"),
}


@pytest.mark.parametrize("what", MADE)
def test_what_cannot_be_made_is_said_in_one_line(what: str) -> None:
    make, told = MADE[what]
    with pytest.raises(InvalidInputError, match=told) as caught:
        make()
    assert_one_line(caught.value)


CALLED: dict[str, tuple[Call, str]] = {
    "both filters": (lambda c: arerun_test_run(c, "abc123", True, [CASE]), "failed_only or test_case_ids, not both"),
    "an empty filter": (lambda c: arerun_test_run(c, "abc123", test_case_ids=[]), "test_case_ids: .*at least 1 item"),
    "a plan's name": (lambda c: astart_test_run(c, "smoke tests"), "'smoke tests' has blanks: a test plan's"),
    "an application for a request": (
        lambda c: astart_test_run(c, QATechApplication(application_short_id="app_shop")),  # type: ignore[arg-type]
        "request: a QATechRunRequest",
    ),
    "an address for a run": (lambda c: aget_test_run(c, "https://app.qa.tech/p/shop/results/abc123"), "last part"),
    "a run that was not awaited": (lambda c: aget_test_run(c, 5), "is not a text: a run's short id"),  # type: ignore[arg-type]
    "one run instead of a list": (lambda c: await_for_test_runs(c, "abc123"), r"put a single run into \[\.\.\.\]"),
    "no runs": (lambda c: await_for_test_runs(c, []), "at least one run"),
    "a time that is none": (lambda c: await_for_test_run(c, "abc123", "60"), "timeout_seconds must be a number"),  # type: ignore[arg-type]
    "a label that cannot be stored": (lambda c: astart_test_run(c, label="a\0b"), r"label has characters.*'a\\x00b'"),
    "a label that is empty": (lambda c: arerun_test_run(c, "abc123", label=" "), "label must be a text"),
    "a target that cannot be stored": (lambda c: astart_test_run(c, target="\ud800"), "target has characters"),
    "a gate's label": (
        lambda c: arelease_gate(c, run="abc123", label="a\0b"),
        "label has characters that cannot be stored",
    ),
    "a gate's name": (
        lambda c: agather_gates(c, {"a\0b": "pln_green"}),
        "A gate's name has characters that cannot be stored",
    ),
    "suspended without a deployment": (lambda c: arelease_gate(c, "pln_green", waiting="suspend"), "no deployment"),
}


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("what", CALLED)
async def test_what_is_wrong_with_a_call_is_said_before_anything_is_sent(
    sandbox: Sandbox, credentials: QATechCredentials, what: str
) -> None:
    call, told = CALLED[what]
    with pytest.raises(InvalidInputError, match=told) as caught:
        await call(credentials)
    assert_one_line(caught.value)
    assert sandbox.requests() == []


@pytest.mark.usefixtures("prefect_server")
def test_the_sync_versions_refuse_the_same() -> None:
    for call in (
        lambda: start_test_run("prod"),  # type: ignore[arg-type]
        lambda: rerun_test_run("prod", "abc123"),  # type: ignore[arg-type]
        lambda: get_test_run("prod", "abc123"),  # type: ignore[arg-type]
        lambda: wait_for_test_run("prod", "abc123"),  # type: ignore[arg-type]
        lambda: wait_for_test_runs("prod", ["abc123"]),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInputError, match="credentials is a text"):
            call()


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("extra", ["there", "missing"])
async def test_a_report_that_cannot_be_written_is_said_before_the_start(
    sandbox: Sandbox,
    credentials: QATechCredentials,
    polling: QATechPolling,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: str,
) -> None:
    if extra == "there":
        assert (await arelease_gate(credentials, "pln_green", polling=polling, report_directory=str(tmp_path))).passed
        return
    monkeypatch.setitem(sys.modules, "junitparser", None)
    with pytest.raises(InvalidInputError, match=r"prefect-qatech\[junit\]") as caught:
        await arelease_gate(credentials, "pln_green", report_directory=str(tmp_path))
    assert_one_line(caught.value)
    assert sandbox.requests() == []


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        (astart_test_run, ("prod", "pln_green")),
        (arerun_test_run, ("prod", "abc123")),
        (aget_test_run, ("prod", "abc123")),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_nothing_of_it_is_retried(task: Any, arguments: tuple[str, ...]) -> None:
    asked: list[bool] = []

    async def ask(task: Task[Any, Any], task_run: Any, state: State[Any]) -> bool:
        asked.append(await task_options.retry_if_safe(task, task_run, state))
        return asked[-1]

    with pytest.raises(InvalidInputError):
        await task.with_options(retry_condition_fn=ask)(*arguments)
    assert asked == [False]


@pytest.mark.usefixtures("prefect_server")
async def test_unusable_credentials_leave_no_trace_in_the_ledger(sandbox: Sandbox) -> None:
    given: Any = {"api_token": sandbox.token, "api_url": sandbox.url}
    for state in (
        await starts(given, return_state=True),
        await arelease_gate(given, run="abc123", return_state=True),
    ):
        assert state.is_failed()
        flow_run_id = state.state_details.flow_run_id
        assert flow_run_id is not None
        assert await rows_of(flow_run_id) == {}
