"""A token of its own goes through every scenario, and stands in nothing that is left behind.

What is looked for would be found: another word, the target, goes the same way, and is in each of the places.
"""

from __future__ import annotations

import pickle
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from prefect_qatech import (
    GatePolicy,
    QATechChange,
    QATechCredentials,
    QATechError,
    QATechPolling,
    QATechReleaseCheckRequest,
    QATechTestPlan,
    gather_gates,
    get_test_run,
    release_gate,
    rerun_test_run,
    start_release_check,
    start_test_run,
    wait_for_test_run,
)
from prefect_qatech.cli import main
from prefect_qatech.sandbox import Sandbox
from prefect_qatech.sandbox.loading import load_scenario
from tests.support import fault
from tests.wire import Everything, forms_of

pytestmark = pytest.mark.usefixtures("prefect_server")

TOKEN = "tok-9b1e-only-for-this-test"
TARGET = "v9-goes-everywhere"
SHORT = GatePolicy(max_reruns=1, deadline_seconds=3)
# Where Prefect keeps what a flow has made: parameters, logs, artifacts, events, the ledger. All tables are searched.
TABLES = {"artifact", "events", "flow_run", "flow_run_input", "log"}


@pytest.fixture
def guarded() -> Iterator[Sandbox]:
    """A sandbox with the default scenario that knows this token alone."""
    scenario = load_scenario().model_dump(mode="json", exclude_defaults=True)
    with Sandbox({**scenario, "tokens": [TOKEN]}, speed=2000) as sandbox:
        yield sandbox


def everywhere(credentials: QATechCredentials, sandbox: Sandbox, polling: QATechPolling, to: Path) -> list[Any]:
    """Run every plan of the scenario, each task, and what goes wrong; return what comes of it, errors as well."""
    plans = {plan.name: plan.short_id for plan in sandbox.scenario.plans}
    wrong = QATechCredentials(api_token=f"{TOKEN}-2", api_url=credentials.api_url)
    nobody = QATechCredentials(api_token=TOKEN, api_url="http://127.0.0.1:1", timeout_seconds=1)
    review = QATechReleaseCheckRequest(release_name=TARGET, changes=[QATechChange(summary="A new basket")])
    plan = QATechTestPlan(credentials=credentials, test_plan_short_id="pln_green", polling=polling)
    gate = {"policy": SHORT, "polling": polling, "target": TARGET}
    echo = {"kind": "status", "status": 400, "body": f'{{"message": "Bearer {TOKEN} is not welcome"}}'}
    calls: list[Callable[[], Any]] = [
        # Two at once: with all logs, more of them have Prefect's SQLite stand still for a minute.
        lambda: gather_gates(credentials, plans, gates_at_once=2, report_directory=str(to / "gates"), **gate),  # type: ignore[arg-type]
        lambda: release_gate(credentials, "pln_broken", report_directory=str(to / "one"), release_check=review, **gate),  # type: ignore[arg-type]
        lambda: release_gate(nobody, "pln_green", **gate),  # type: ignore[arg-type]
        lambda: start_test_run(wrong, "pln_green"),
        lambda: get_test_run(credentials, "nosuchrun"),
        lambda: start_test_run(credentials, "pln_nobody"),
        lambda: start_test_run(credentials, "check out"),
        lambda: wait_for_test_run(credentials, start_test_run(credentials, "pln_never"), 1, polling=polling),
        lambda: rerun_test_run(credentials, start_test_run(credentials, "pln_green"), failed_only=True),
        lambda: start_release_check(credentials, review, target=TARGET),
        lambda: plan.save("no-leak", overwrite=True),
        lambda: plan.trigger().wait_for_completion(),
    ]
    faulty = {
        "echoed": fault(echo, "start"),
        "lost": fault({"kind": "drop_after"}, "start"),
        # In the body: httpcore logs the headers that come, and tests/test_tasks.py has those.
        "html": fault({"kind": "html", "body": f"<p>{TOKEN}</p>"}, "start"),
    }
    came: list[Any] = [credentials, nobody]
    for call in calls:
        try:
            came.append(call())
        except (QATechError, ValueError) as error:
            came.append(error)
    for label, faults in faulty.items():
        sandbox.set_faults(faults)
        try:
            came.append(start_test_run(credentials, "pln_green", label=label))
        except QATechError as error:
            came.append(error)
        sandbox.clear_faults()
    return came


def written(came: object) -> Iterator[str]:
    """Everything that people and programs see of a result or an error."""
    yield repr(came)
    yield str(came)
    if not isinstance(came, QATechCredentials):  # which refuses to be pickled with its token, or leaves it out
        yield pickle.dumps(came).decode("latin-1")
    if isinstance(came, BaseException):
        yield repr(vars(came))
        yield "".join(traceback.format_exception(came))
    elif hasattr(came, "model_dump_json"):
        yield came.model_dump_json()


def files_of(*folders: Path) -> dict[str, str]:
    return {
        str(path): path.read_bytes().decode("latin-1")
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def rows_of(database: Path) -> dict[str, str]:
    """All rows of each table: in the file itself a text may be in parts."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: repr(opened.execute(f'SELECT * FROM "{name}"').fetchall()) for name in tables}


def test_the_token_is_in_nothing_that_is_left(
    everything: Everything,
    guarded: Sandbox,
    polling: QATechPolling,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    credentials = QATechCredentials(api_token=TOKEN, api_url=guarded.url)
    credentials.save("no-leak", overwrite=True)
    folder = tmp_path / "at-a-terminal"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QATECH_API_URL", guarded.url)
    monkeypatch.setenv("QATECH_API_TOKEN", TOKEN)

    @flow(persist_result=True, result_serializer="pickle")
    def user(given: QATechCredentials, version: str) -> list[Any]:
        return [
            str(text) for came in everywhere(given, guarded, polling, tmp_path / "reports") for text in written(came)
        ]

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        came = user(credentials, version=TARGET)
    for command in (
        ["run", "--plan", "pln_flaky", "--target", TARGET, "--report", "report", "--junit", "out.xml"],
        ["doctor"],
        ["list", "test-cases"],
    ):
        monkeypatch.setattr(sys, "argv", ["prefect-qatech", *command])
        with pytest.raises(SystemExit):
            main()

    database = Path((PREFECT_API_DATABASE_CONNECTION_URL.value() or "").partition(":///")[2])
    assert database.is_file()
    places = {
        "the logs": "\n".join(everything.texts),
        "results and errors": "\n".join(came),
        "the terminal": "".join(capsys.readouterr()),
        **{f"table {name}": text for name, text in rows_of(database).items()},
        **files_of(tmp_path, database.parent),
    }
    forms = forms_of(TOKEN)
    assert [place for place, text in places.items() if any(form in text for form in forms)] == []

    # Prefect writes results in base64.
    has_target = {place for place, text in places.items() if any(form in text for form in forms_of(TARGET))}
    assert {"the logs", "results and errors", "the terminal"} <= has_target
    assert {f"table {name}" for name in TABLES} <= has_target
    for name in ("verdict.json", "junit.xml", ".qatech", "results", database.name):
        assert any(name in Path(place).parts[-4:] or name in place for place in has_target if "/" in place), name
    assert {"prefect", "httpcore", "httpx"} <= everything.names
    assert {"UnauthorizedError", "NotFoundError", "StartOutcomeUnknown", "WaitTimedOut"} <= {
        text.split("(")[0] for text in came
    }
