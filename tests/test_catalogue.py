"""The tasks for what a project has, in real flows, against the sandbox, which counts what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task

from prefect_qatech import (
    InvalidInputError,
    InvalidResponseError,
    NotFoundError,
    QATechApplication,
    QATechBuild,
    QATechCreatedTestCase,
    QATechCredentials,
    QATechEnvironment,
    QATechError,
    QATechNewTestCase,
    QATechRunRequest,
    StartOutcomeUnknown,
    aattach_run,
    aclear_intent,
    acreate_test_case,
    aget_test_case_trace,
    alist_applications,
    alist_builds,
    alist_environments,
    alist_outbound_ips,
    alist_projects,
    alist_test_cases,
    aread_ledger,
    astart_test_run,
    aupload_build,
    create_test_case,
    get_test_case_trace,
    list_applications,
    list_builds,
    list_environments,
    list_outbound_ips,
    list_projects,
    list_test_cases,
    task_options,
    upload_build,
)
from prefect_qatech.api import lists, uploads
from prefect_qatech.sandbox import Sandbox
from tests.api.test_catalogue import SCENARIO
from tests.support import (
    UNKNOWN_FAULTS,
    Failing,
    StepFailed,
    artifacts_of,
    counted,
    credentials_for,
    fault,
    flow_run_id,
    posts,
    when_it_is_over,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

CONTENT = bytes(range(256)) * 4000
NEW = QATechNewTestCase(name="Pay by card", goal="Buy a book and pay by card.", application_short_id="app_shop")

LISTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "projects": (list_projects, alist_projects, {}),
    "applications": (list_applications, alist_applications, {}),
    "environments": (list_environments, alist_environments, {"application_short_id": "app_shop"}),
    "test_cases": (list_test_cases, alist_test_cases, {"labels": ["smoke"], "is_enabled": True}),
    "builds": (list_builds, alist_builds, {"application_short_id": "app_droid"}),
    "outbound_ips": (list_outbound_ips, alist_outbound_ips, {}),
}
NAMES = {
    "projects": ["Sandbox"],
    "applications": ["Shop", "Droid"],
    "environments": ["Staging", "Device"],
    "test_cases": ["Sign in", "Pay"],
    "builds": ["shop.apk"],
    "outbound_ips": ["192.0.2.1"],
}
versions = pytest.mark.parametrize("version", ["sync", "async"])


@pytest.fixture(scope="module")
def _serving() -> Iterator[Sandbox]:
    shop, droid = SCENARIO["applications"]
    build = {"short_id": "bld_old", "file_name": "shop.apk", "platform": "android"}
    with Sandbox({**SCENARIO, "applications": [shop, {**droid, "builds": [build]}]}, speed=2000) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(_serving: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    _serving.reset()
    monkeypatch.setattr(task_options, "RETRY_DELAYS_SECONDS", [0.0])
    return _serving


@pytest.fixture
def apk(tmp_path: Path) -> Path:
    path = tmp_path / "shop.apk"
    path.write_bytes(CONTENT)
    return path


def _impatient(work: Any) -> Any:
    return work.with_options(retry_delay_seconds=0)


async def _either(version: str, sync: Any, asynchronous: Any, *args: Any, **kwargs: Any) -> Any:
    if version == "sync":
        return _impatient(sync)(*args, **kwargs)
    return await _impatient(asynchronous)(*args, **kwargs)


def _made(sandbox: Sandbox) -> tuple[int, int]:
    """Files that were uploaded, and builds that were made of them."""
    counts: Any = sandbox.counts()
    return counts["uploads"], counts["builds"]


def _created(sandbox: Sandbox) -> int:
    sent = [request for request in posts(sandbox) if request["path"] == "/v1/test-cases"]
    return len([request for request in sent if request["status"] == 200])


def _name_of(item: Any) -> str:
    return item if isinstance(item, str) else getattr(item, "name", "") or item.file_name


# --- lists


async def test_what_a_project_has_is_listed_and_a_list_that_failed_is_asked_for_again(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    @flow
    async def user() -> None:
        for what, (sync, asynchronous, arguments) in LISTS.items():
            sandbox.reset()
            sandbox.set_faults([{"on": {"method": "GET", "path": what}, "kind": "status", "status": 502, "times": 2}])
            for version in ("async", "sync"):
                found = await _either(version, sync, asynchronous, credentials, **arguments)
                names = [
                    item if isinstance(item, str) else getattr(item, "name", "") or item.file_name for item in found
                ]
                assert names == NAMES[what]
            assert [request["status"] for request in sandbox.requests()] == [502, 502, 200, 200], what

    await user()


async def test_a_list_of_what_is_not_there_is_asked_for_once(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    @flow
    async def user() -> None:
        await _impatient(alist_environments)(credentials, "app_nowhere")

    with pytest.raises(NotFoundError, match="app_nowhere"):
        await user()
    assert len(sandbox.requests()) == 1


@pytest.mark.parametrize("labels", ["smoke", ["smoke,login"]])
async def test_one_label_is_no_list_of_letters(labels: Any, sandbox: Sandbox, credentials: QATechCredentials) -> None:
    with pytest.raises(InvalidInputError, match="labels must be a list"):
        await alist_test_cases(credentials, labels=labels)
    assert sandbox.requests() == []


# --- traces


@pytest.fixture
def stopped() -> Iterator[Sandbox]:
    """A sandbox with a clock of its own."""
    with Sandbox(SCENARIO, speed=0) as sandbox:
        yield sandbox


async def _a_failed_test(sandbox: Sandbox) -> str:
    async with credentials_for(sandbox).get_client() as client:
        started = await client.start_run(QATechRunRequest(test_plan_short_id="pln_one"))
        sandbox.advance(3600)
        [failed] = (await client.get_run(started.run_short_id, test_cases="failed")).test_cases
    return failed.short_id or ""


@versions
async def test_a_trace_is_read_to_its_end_also_where_a_page_of_it_failed(
    version: str, stopped: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = await _a_failed_test(stopped)
    monkeypatch.setattr(lists, "PAGE_SIZE", 2)
    stopped.set_faults([{"on": {"method": "GET", "path": "trace"}, "kind": "status", "status": 502, "times": 2}])
    before = len(stopped.requests())
    steps = await _either(version, get_test_case_trace, aget_test_case_trace, credentials_for(stopped), test)
    assert [step.index for step in steps] == [0, 1, 2]
    assert [call.name for step in steps for call in step.tool_calls] == ["navigate", "act", "finish"]
    assert all(step.reasoning and step.screenshot_url for step in steps)
    assert [request["status"] for request in stopped.requests()[before:]] == [502, 502, 200, 200]


@versions
async def test_a_trace_that_is_too_long_or_not_there_is_an_error(version: str, stopped: Sandbox) -> None:
    test = await _a_failed_test(stopped)

    async def read(short_id: str, **limit: int) -> None:
        await _either(version, get_test_case_trace, aget_test_case_trace, credentials_for(stopped), short_id, **limit)

    with pytest.raises(InvalidResponseError, match="more than 2"):
        await read(test, max_steps=2)
    with pytest.raises(NotFoundError):
        await read("nowhere")
    before = len(stopped.requests())
    with pytest.raises(InvalidInputError):
        await read("a/b")
    assert len(stopped.requests()) == before


# --- test cases


@versions
async def test_a_test_case_is_created_once_whatever_is_retried(
    version: str, sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    step, made = Failing(1), []

    @flow(retries=1)
    async def user() -> None:
        made.append(await _either(version, create_test_case, acreate_test_case, credentials, NEW))
        step()

    await user()
    assert step.calls == 2
    assert _created(sandbox) == 1
    assert made[0] == made[1]
    assert (made[0].name, made[0].url is None) == ("Pay by card", False)
    async with credentials.get_client() as client:
        assert made[0].id in [case.id for case in await client.list_test_cases(is_enabled=False)]


async def test_equal_test_cases_in_the_body_of_a_flow_are_two(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    step = Failing(1)

    @flow(retries=1)
    async def user() -> list[str]:
        made = [await acreate_test_case(credentials, NEW) for _ in range(2)]
        run = await astart_test_run(credentials, "pln_one")
        step()
        return [case.id for case in made] + [run.run_short_id]

    assert len(set(await user())) == 3
    assert (_created(sandbox), counted(sandbox)) == (2, (1, 0))


async def test_the_label_of_a_start_is_not_that_of_a_test_case(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    @flow
    async def user() -> None:
        await acreate_test_case(credentials, NEW, label="checkout")
        await astart_test_run(credentials, "pln_one", label="checkout")

    await user()
    assert (_created(sandbox), counted(sandbox)) == (1, (1, 0))


async def test_a_test_case_is_sent_again_only_where_it_was_surely_not_accepted(
    sandbox: Sandbox, credentials: QATechCredentials
) -> None:
    sandbox.set_faults(fault({"kind": "status", "status": 429}, "create_test_case", times=2))

    @flow
    async def user() -> QATechCreatedTestCase:
        created: QATechCreatedTestCase = await _impatient(acreate_test_case)(credentials, NEW)
        return created

    await user()
    assert [request["status"] for request in posts(sandbox)] == [429, 429, 200]


async def test_a_test_case_that_may_have_been_created_is_not_created_again(sandbox: Sandbox) -> None:
    """One flow with a call for each way to lose the answer; then all of it once more."""
    credentials = credentials_for(sandbox, timeout_seconds=3)
    ways = ["no answer", "502", "an answer without a run"]
    ids: list[UUID] = []
    caught: list[StartOutcomeUnknown] = []
    step = Failing()

    @flow(retries=1)
    async def user() -> None:
        ids.append(flow_run_id())
        for what in ways:
            sandbox.set_faults(fault(UNKNOWN_FAULTS[what], "create_test_case"))
            with pytest.raises(StartOutcomeUnknown, match="test case") as unknown:
                await _impatient(acreate_test_case)(credentials, NEW, label=what)
            caught.append(unknown.value)
        step()

    await user()
    assert len(posts(sandbox)) == len(ways)
    assert len(caught) == 2 * len(ways)
    assert all(f"ledger attach {ids[0]} {error.slot} <test case>" in str(error) for error in caught)
    assert not any("run started" in str(error) for error in caught)


@pytest.mark.parametrize("settled", ["attached", "cleared"])
async def test_a_person_settles_what_became_of_a_test_case(settled: str, sandbox: Sandbox) -> None:
    credentials = credentials_for(sandbox, timeout_seconds=0.5)
    sandbox.set_faults(fault({"kind": "drop_after"}, "create_test_case"))

    @flow(retries=1)
    async def user() -> QATechCreatedTestCase:
        try:
            return await acreate_test_case(credentials, NEW)
        except StartOutcomeUnknown as error:
            found, slot = flow_run_id(), str(error.slot)
            if settled == "cleared":
                await when_it_is_over(lambda: aclear_intent(found, slot))
            else:
                await when_it_is_over(lambda: aattach_run(found, slot, "11111111-2222-4333-8444-555555555555"))
            raise

    created = await user()
    assert len(posts(sandbox)) == (1 if settled == "attached" else 2)
    assert (created.id == "11111111-2222-4333-8444-555555555555") is (settled == "attached")


async def test_a_test_case_inside_a_task_needs_a_label(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    @task
    async def mine(label: str | None) -> None:
        await acreate_test_case(credentials, NEW, label=label)

    @flow
    async def user(label: str | None) -> None:
        await mine(label)

    with pytest.raises(InvalidInputError, match="label="):
        await user(None)
    assert sandbox.requests() == []
    await user("pay")
    assert _created(sandbox) == 1


# --- builds


@versions
async def test_a_build_is_uploaded_once_in_a_flow_run(
    version: str, sandbox: Sandbox, credentials: QATechCredentials, apk: Path, tmp_path: Path
) -> None:
    step = Failing(1)
    same, other = tmp_path / "copy.apk", tmp_path / "other.apk"
    same.write_bytes(CONTENT)
    other.write_bytes(b"another one")
    ids: list[UUID] = []

    @flow(retries=1)
    async def user() -> list[QATechBuild]:
        ids.append(flow_run_id())
        builds = [
            await _either(version, upload_build, aupload_build, credentials, "app_droid", path)
            for path in (apk, apk, same, str(other))
        ]
        step()
        return builds

    first, again, copy, different = [build.application_build_short_id for build in await user()]
    assert step.calls == 2
    assert first == again == copy != different
    assert _made(sandbox) == (2, 2)
    assert [artifact.type for artifact in await artifacts_of(ids[:1])] == ["progress"]


async def test_a_build_says_where_it_is_tested(sandbox: Sandbox, credentials: QATechCredentials, apk: Path) -> None:
    @flow
    async def user() -> None:
        build = await aupload_build(credentials, "app_droid", apk)
        assert build.as_environment() == QATechEnvironment(application_build_short_id=build.application_build_short_id)
        where = QATechApplication(application_short_id="app_droid", environment=build.as_environment())
        await astart_test_run(credentials, QATechRunRequest(test_plan_short_id="pln_one", applications=[where]))
        assert (build.platform, build.file_name, build.file_size_bytes) == ("android", "shop.apk", len(CONTENT))

    await user()
    [start] = [request for request in posts(sandbox) if request["path"] == "/v1/run"]
    [listed, _] = await alist_builds(credentials, "app_droid")
    assert start["body"]["applications"][0]["environment"] == {
        "applicationBuildShortId": listed.application_build_short_id
    }


async def test_an_upload_that_made_no_build_is_tried_again(
    sandbox: Sandbox, credentials: QATechCredentials, tmp_path: Path
) -> None:
    refused = {"kind": "status", "status": 503, "retry_after": 0}
    wrong: list[dict[str, Any]] = [
        {"on": {"path": path}, **refused} for path in ("upload_url", "upload", "register_build")
    ]
    # Another address makes nothing, so one whose answer was lost is asked for again.
    wrong += fault({"kind": "drop_after"}, "upload_url")

    @flow
    async def user() -> None:
        for number, each in enumerate(wrong):
            file = tmp_path / f"{number}.apk"
            file.write_text(file.name)
            sandbox.set_faults([each])
            await _impatient(aupload_build)(credentials, "app_droid", file)
            assert _made(sandbox)[1] == number + 1, each

    await user()


async def test_a_build_that_may_have_been_registered_is_not_registered_again(
    sandbox: Sandbox, credentials: QATechCredentials, apk: Path
) -> None:
    sandbox.set_faults(fault({"kind": "drop_after"}, "register_build"))

    @flow(retries=1)
    async def user() -> None:
        await _impatient(aupload_build)(credentials, "app_droid", apk)

    with pytest.raises(StartOutcomeUnknown, match="a build"):
        await user()
    assert _made(sandbox) == (1, 1)


async def test_a_kill_during_the_upload_leaves_nothing_to_settle(
    sandbox: Sandbox, credentials: QATechCredentials, apk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ids = uploads.put_file, []

    async def killed(*args: Any, **kwargs: Any) -> str:
        monkeypatch.setattr("prefect_qatech.api.client.put_file", real)
        raise asyncio.CancelledError

    monkeypatch.setattr("prefect_qatech.api.client.put_file", killed)

    @flow(retries=1)
    async def user() -> None:
        ids.append(flow_run_id())
        try:
            await aupload_build(credentials, "app_droid", apk)
        except BaseException:
            assert await aread_ledger(ids[0]) == []
            raise StepFailed from None

    await user()
    assert _made(sandbox) == (1, 1)


async def test_a_file_that_changes_while_it_is_uploaded_makes_no_build(
    sandbox: Sandbox, credentials: QATechCredentials, apk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        apk.write_bytes(CONTENT[::-1])

    async def hashed_before(file: Any) -> str:
        found = await uploads.sha256_of(file)
        change()
        return found

    monkeypatch.setattr("prefect_qatech.catalogue.sha256_of", hashed_before)

    @flow
    async def user() -> None:
        await aupload_build(credentials, "app_droid", apk)

    with pytest.raises(InvalidInputError, match="has changed"):
        await user()
    assert _made(sandbox) == (1, 0)


async def test_an_upload_has_a_limit(sandbox: Sandbox, credentials: QATechCredentials, apk: Path) -> None:
    sandbox.set_faults([{"on": {"path": "upload"}, "kind": "latency", "seconds": 60, "times": -1}])

    @flow
    async def user() -> None:
        await aupload_build.with_options(retries=0)(credentials, "app_droid", apk, timeout_seconds=0.3)

    with pytest.raises(QATechError, match=r"took longer than 0.3 s. No build was made"):
        await user()
    assert _made(sandbox)[1] == 0
    sandbox.clear_faults()


async def test_the_tasks_refuse_what_makes_no_sense(
    sandbox: Sandbox, credentials: QATechCredentials, tmp_path: Path
) -> None:
    (tmp_path / "shop.zip").write_bytes(b"x")
    calls: list[Any] = [
        lambda: alist_projects("prod"),  # type: ignore[arg-type]
        lambda: acreate_test_case(credentials, {"name": "x"}),  # type: ignore[arg-type]
        lambda: acreate_test_case(credentials, NEW, label=" "),
        lambda: aupload_build(credentials, "app_droid", tmp_path / "shop.zip"),
        lambda: aupload_build(credentials, "app_droid", tmp_path / "nothing.apk"),
        lambda: aupload_build(credentials, "app/droid", tmp_path / "nothing.apk"),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError):
            await call()
    assert sandbox.requests() == []
