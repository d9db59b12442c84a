"""What a project has at QA.tech: lists, pages, builds, traces, release checks."""

from __future__ import annotations

import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given, strategies as st

from prefect_qatech import (
    InvalidInputError,
    InvalidResponseError,
    NotFoundError,
    QATechAPIError,
    QATechChange,
    QATechNewTestCase,
    QATechRegression,
    QATechReleaseCheckRequest,
    QATechRunRequest,
    StartOutcomeUnknown,
)
from prefect_qatech.api import lists as module
from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.uploads import BuildFile, UploadedFile, put_file
from prefect_qatech.sandbox import Sandbox
from tests.support import credentials_for
from tests.wire import TOKEN, Service, answer

SCENARIO: dict[str, Any] = {
    "outbound_ips": ["192.0.2.1"],
    "applications": [
        {
            "short_id": "app_shop",
            "name": "Shop",
            "environments": [
                {"short_id": "env_staging", "name": "Staging", "url": "https://staging.example.com"},
                {"short_id": "env_device", "name": "Device"},
            ],
        },
        {"short_id": "app_droid", "name": "Droid", "kind": "android"},
    ],
    "plans": [
        {
            "short_id": "pln_one",
            "name": "One",
            "test_cases": [
                {"name": "Sign in", "labels": ["smoke", "login"], "application": "app_shop"},
                {"name": "Pay", "labels": ["smoke"], "application": "app_shop", "outcomes": "failed"},
                {"name": "Old", "labels": ["smoke"], "is_enabled": False, "application": "app_droid"},
            ],
        }
    ],
}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(SCENARIO, speed=0) as sandbox:
        yield sandbox


async def test_what_a_project_has(sandbox: Sandbox) -> None:
    async with credentials_for(sandbox).get_client() as client:
        assert [project.name for project in await client.list_projects()] == ["Sandbox"]
        applications = await client.list_applications()
        assert [(app.short_id, app.name, app.kind) for app in applications] == [
            ("app_shop", "Shop", "web"),
            ("app_droid", "Droid", "android"),
        ]
        environments = await client.list_environments("app_shop")
        assert [(env.name, env.url) for env in environments] == [
            ("Staging", "https://staging.example.com"),
            ("Device", None),
        ]
        with pytest.raises(NotFoundError, match="app_nowhere"):
            await client.list_environments("app_nowhere")


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["Sign in", "Pay", "Old"]),
        ({"application_short_id": "app_shop"}, ["Sign in", "Pay"]),
        ({"labels": ["smoke"]}, ["Sign in", "Pay", "Old"]),
        ({"labels": ["smoke", "login"]}, ["Sign in"]),
        ({"is_enabled": True}, ["Sign in", "Pay"]),
        ({"is_enabled": False}, ["Old"]),
    ],
)
async def test_cases_are_listed_by_filters(filters: dict[str, Any], names: list[str], sandbox: Sandbox) -> None:
    async with credentials_for(sandbox).get_client() as client:
        assert [case.name for case in await client.list_test_cases(**filters)] == names


async def test_a_test_case_is_created_with_what_it_waits_for(sandbox: Sandbox) -> None:
    async with credentials_for(sandbox).get_client() as client:
        [sign_in, *_] = await client.list_test_cases()
        created = await client.create_test_case(
            QATechNewTestCase(
                name="Pay by card",
                goal="Buy a book and pay by card.",
                application_short_id="app_shop",
                wait_for_dependencies_project_test_case_ids=[sign_in.id],
            )
        )
        [new] = [case for case in await client.list_test_cases() if case.id == created.id]
    assert (new.name, new.is_enabled) == ("Pay by card", False)


async def test_a_trace_tells_what_the_agent_did(sandbox: Sandbox) -> None:
    async with credentials_for(sandbox).get_client() as client:
        started = await client.start_run(QATechRunRequest(test_plan_short_id="pln_one"))
        sandbox.advance(3600)
        run = await client.get_run(started.run_short_id, test_cases="all")
        assert run.test_cases[1].short_id is not None
        steps = await client.get_test_case_trace(run.test_cases[1].short_id)
    assert steps
    assert all(step.reasoning for step in steps)
    assert [step.index for step in steps] == sorted(step.index for step in steps if step.index is not None)


async def test_steps_without_a_number_are_all_there() -> None:
    steps = [{"reasoning": "I look."}, {"reasoning": "I click."}, {"index": "first", "reasoning": "I give up."}]
    async with Service({"steps": steps, "total": 3}).client() as client:
        found = await client.get_test_case_trace("rtc_1")
    assert [step.reasoning for step in found] == ["I look.", "I click.", "I give up."]


@pytest.mark.parametrize("suffix", [".apk", ".aab"])
async def test_a_build_is_uploaded_and_registered(suffix: str, sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / f"shop{suffix}"
    file.write_bytes(b"x" * 600_000)
    sent: list[tuple[int, int]] = []

    async def on_progress(done: int, total: int) -> None:
        sent.append((done, total))

    async with credentials_for(sandbox).get_client() as client:
        build = await client.upload_build("app_droid", file, on_progress=on_progress)
        builds = await client.list_builds("app_droid")
    assert (build.platform, build.file_name, build.file_size_bytes) == ("android", file.name, 600_000)
    assert [other.application_build_short_id for other in builds] == [build.application_build_short_id]
    assert sent[-1] == (600_000, 600_000)
    assert len(sent) > 2


async def test_the_store_for_files_gets_the_file_and_not_the_token(tmp_path: Path) -> None:
    (tmp_path / "shop.apk").write_bytes(b"the build")
    address = "https://store.example.com/x?sig=1"
    service = Service({"uploadUrl": address, "buildToken": "t"})
    with respx.mock() as store:
        put = store.put(address).respond(200)
        async with service.client() as client:
            await client.upload_file("app_droid", BuildFile.of(tmp_path / "shop.apk"))
        [sent] = [call.request for call in put.calls]
    assert TOKEN in str(service.only.headers.raw), "QA.tech's API gets it"
    assert sent.content == b"the build"
    assert TOKEN not in f"{sent.url} {sent.headers.raw}"


@pytest.mark.parametrize(("name", "content"), [("shop.zip", b"x"), ("shop.apk", b""), ("nothing.apk", None)])
async def test_what_is_no_build_is_not_sent(name: str, content: bytes | None, sandbox: Sandbox, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    async with credentials_for(sandbox).get_client() as client:
        with pytest.raises(InvalidInputError):
            await client.upload_build("app_droid", tmp_path / name)
    assert not sandbox.requests()


@pytest.mark.parametrize("address", ["http://store.example.com/x?sig=1", "ftp://store.example.com/x", "store"])
async def test_a_file_goes_to_https_only(address: str, tmp_path: Path) -> None:
    (tmp_path / "shop.apk").write_bytes(b"x")
    service = Service({"uploadUrl": address, "buildToken": "t"})
    async with service.client() as client:
        with pytest.raises(InvalidResponseError) as caught:
            await client.upload_build("app_droid", tmp_path / "shop.apk")
    assert "sig=1" not in str(caught.value)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "address",
    ["https://[store/x?sig=1", "https://store.example.com:99999999/x?sig=1", "https:///x?sig=1", "https://s\tx/?sig=1"],
)
async def test_an_address_that_is_none_is_an_error_that_does_not_show_it(address: str, tmp_path: Path) -> None:
    (tmp_path / "shop.apk").write_bytes(b"x")
    async with Service({"uploadUrl": address, "buildToken": "t"}).client() as client:
        with pytest.raises(InvalidResponseError, match="nothing was uploaded") as caught:
            await client.upload_build("app_droid", tmp_path / "shop.apk")
    assert "sig=1" not in "".join(traceback.format_exception(caught.value))


async def test_a_file_that_has_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.apk").write_bytes(b"x")
    file = BuildFile.of(tmp_path / "shop.apk")
    file.path.unlink()
    with respx.mock(assert_all_called=False) as store:
        store.put("https://store.example.com/x").respond(200)
        with pytest.raises(InvalidInputError, match=r"shop\.apk cannot be read: No such file.* No build was made"):
            await put_file(file, "https://store.example.com/x", timeout_seconds=60)


async def test_what_the_store_for_files_answers_is_not_read(tmp_path: Path) -> None:
    """It could be of any size."""
    (tmp_path / "shop.apk").write_bytes(b"x")
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 50:
            read += 1
            yield b"x" * 1024

    with respx.mock() as store:
        store.put("https://store.example.com/x").mock(return_value=httpx.Response(200, content=endless()))
        await put_file(BuildFile.of(tmp_path / "shop.apk"), "https://store.example.com/x", timeout_seconds=60)
    assert read == 0


@pytest.mark.parametrize("status", [None, 403, 503])
async def test_no_error_of_an_upload_shows_its_address(status: int | None, tmp_path: Path) -> None:
    """Whoever has it may write there."""
    (tmp_path / "shop.apk").write_bytes(b"x")
    address = "https://store.example.com/x?sig=1"
    with respx.mock() as store:
        broken = httpx.ConnectError(f"no way to {address}")
        store.put(address).mock(side_effect=broken if status is None else [httpx.Response(status)])
        with pytest.raises(QATechAPIError, match=r"store\.example\.com") as caught:
            await put_file(BuildFile.of(tmp_path / "shop.apk"), address, timeout_seconds=60)
    assert caught.value.retryable
    whole = "".join(traceback.format_exception(caught.value))
    assert "sig=1" not in whole + repr(vars(caught.value))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_an_upload_that_is_sent_elsewhere_was_not_taken(status: int, tmp_path: Path) -> None:
    """Where it is sent need not be trusted; and by a 303 the page there would be read, and pass for an upload."""
    (tmp_path / "shop.apk").write_bytes(b"x")
    with respx.mock(assert_all_called=False) as store:
        store.put("https://store.example.com/x").respond(status, headers={"Location": "https://else.example.com/"})
        elsewhere = store.route(host="else.example.com").respond(200)
        with pytest.raises(QATechAPIError, match="refused the upload"):
            await put_file(BuildFile.of(tmp_path / "shop.apk"), "https://store.example.com/x", timeout_seconds=60)
        assert not elsewhere.called


async def test_a_release_check_is_started_and_read(sandbox: Sandbox) -> None:
    request = QATechReleaseCheckRequest(release_name="v1", regression=QATechRegression(test_plan_short_id="pln_one"))
    async with credentials_for(sandbox).get_client() as client:
        started = await client.start_release_check(request)
        sandbox.advance(36_000)
        check = await client.get_release_check(started.short_id)
    assert (check.short_id, check.release_name) == (started.short_id, "v1")
    assert check.overall_score is not None
    assert check.categories[0].name


def test_a_release_check_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="changes, regression or pr_url"):
        QATechReleaseCheckRequest(release_name="v1")


async def test_the_addresses_of_the_agents_are_asked_for_without_the_token() -> None:
    service = Service({"ipAddresses": ["192.0.2.1", "2001:db8::1"]})
    async with service.client() as client:
        assert await client.list_outbound_ips() == ["192.0.2.1", "2001:db8::1"]
    assert "authorization" not in service.only.headers
    assert TOKEN not in str(service.only.headers)


@pytest.mark.parametrize("body", [[], {}, {"applications": {}}, {"applications": [5]}, {"applications": None}])
async def test_a_list_that_cannot_be_read_is_an_error_and_no_empty_list(body: Any) -> None:
    async with Service(body).client() as client:
        with pytest.raises(InvalidResponseError):
            await client.list_applications()


@pytest.mark.parametrize(
    "body", [{"success": False}, {"success": True}, {"success": True, "testCase": {"name": "x"}}, []]
)
async def test_a_test_case_that_may_have_been_created_is_not_created_again(body: Any) -> None:
    service = Service(body)
    async with service.client() as client:
        with pytest.raises(StartOutcomeUnknown, match="test case") as caught:
            await client.create_test_case(QATechNewTestCase(name="x", goal="y", application_short_id="app_shop"))
    assert not caught.value.retryable
    assert "paid" not in str(caught.value)


@pytest.mark.parametrize("success", [False, None, 0], ids=repr)
@pytest.mark.parametrize(
    ("made", "call"),
    [
        (
            {"testCase": {"id": "1", "name": "x"}},
            lambda client: client.create_test_case(
                QATechNewTestCase(name="x", goal="y", application_short_id="app_shop")
            ),
        ),
        (
            {"shortId": "rc_1"},
            lambda client: client.start_release_check(
                QATechReleaseCheckRequest(changes=[QATechChange(summary="A new basket")])
            ),
        ),
        (
            {"applicationBuildShortId": "bld_1"},
            lambda client: client.register_build("app_droid", UploadedFile("token", "android", "0" * 64)),
        ),
    ],
    ids=["test case", "release check", "build"],
)
async def test_what_an_answer_names_but_does_not_confirm_may_or_may_not_be_there(
    made: dict[str, Any], call: Callable[[QATechClient], Awaitable[Any]], success: Any
) -> None:
    async with Service(made).client() as client:
        await call(client)
    async with Service({**made, "success": success}).client() as client:
        with pytest.raises(StartOutcomeUnknown, match="success: false"):
            await call(client)


async def test_a_project_is_named_in_each_call() -> None:
    service = Service({"testCase": {"id": "1", "name": "x"}, "success": True})
    async with service.client(project_short_id="proj_1") as client:
        await client.create_test_case(QATechNewTestCase(name="x", goal="y", application_short_id="app_shop"))
    assert service.body["projectShortId"] == "proj_1"
    listing = Service({"applications": []})
    async with listing.client(project_short_id="proj_1") as client:
        await client.list_applications()
    assert listing.only.url.params["projectShortId"] == "proj_1"


class Shelf:
    """Test cases by the page, some of which come and go between the pages."""

    def __init__(self, names: list[str], changes: dict[int, Any], with_total: bool) -> None:
        self.names, self.changes, self.with_total = names, changes, with_total
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.asked in self.changes:
            self.names = self.changes[self.asked](self.names)
        self.asked += 1
        query = request.url.params
        offset, limit = int(query["offset"]), int(query["limit"])
        page: dict[str, Any] = {
            "testCases": [{"id": name, "name": name} for name in self.names[offset : offset + limit]]
        }
        if self.with_total:
            page["total"] = len(self.names)
        return answer(page)


@given(
    count=st.integers(0, 23),
    page_size=st.integers(2, 7),
    removed=st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(0, 22))),
    with_total=st.booleans(),
)
async def test_pages_are_followed_to_the_end_also_where_they_shift(
    count: int, page_size: int, removed: tuple[int, int] | None, with_total: bool
) -> None:
    names = [f"case-{number}" for number in range(count)]
    changes = {} if removed is None else {removed[0]: lambda left: left[: removed[1]] + left[removed[1] + 1 :]}
    shelf = Shelf(names, changes, with_total)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE_SIZE", page_size)
        async with Service(shelf).client() as client:
            found = [case.id for case in await client.list_test_cases()]
    assert len(found) == len(set(found))
    # Nothing that was there all the time is missed.
    assert set(found) >= set(shelf.names)
    assert set(found) <= set(names)


async def test_more_than_can_be_read_is_an_error_and_no_part_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_SIZE", 4)
    shelf = Shelf([str(number) for number in range(30)], {}, True)
    async with Service(shelf).client() as client:
        with pytest.raises(InvalidResponseError, match="more than 10"):
            await client.list_test_cases(max_test_cases=10)


async def test_a_list_that_never_stands_still_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_SIZE", 3)
    shelf = Shelf([str(n) for n in range(30)], {number: lambda names: names[1:] for number in range(1, 30)}, True)
    async with Service(shelf).client() as client:
        with pytest.raises(QATechAPIError, match="changed each time"):
            await client.list_test_cases()


class ShortPages:
    """A list that is given in pages of two, whatever limit is asked for, and says its total in a way of its own."""

    def __init__(self, ids: list[str | None], total: Any) -> None:
        self.ids, self.total = ids, total

    def __call__(self, request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        page = [{"id": one, "name": "x"} for one in self.ids[offset : offset + 2]]
        return answer({"testCases": page, "total": self.total})


@pytest.mark.parametrize("total", ["5", 5.0, True, 1, -1, "five", [5], None], ids=repr)
async def test_no_total_cuts_a_list_short(total: Any) -> None:
    ids: list[str | None] = list("abcde")
    async with Service(ShortPages(ids, total)).client() as client:
        assert [case.id for case in await client.list_test_cases()] == ids


@pytest.mark.parametrize(("ids", "total"), [(["a", "b", "c"], 4), (["a", None, None], 3), (["a", "a"], 2)], ids=repr)
async def test_fewer_than_the_total_are_not_taken_for_the_whole(ids: list[str | None], total: int) -> None:
    async with Service(ShortPages(ids, total)).client() as client:
        with pytest.raises(InvalidResponseError, match="fewer entries than its total"):
            await client.list_test_cases()


async def test_a_request_is_one_that_the_api_documents() -> None:
    service = Service({"success": True, "testCase": {"id": "1", "name": "x"}})
    request = QATechNewTestCase(
        name="x", goal="y", application_short_id="app_shop", expected_result="z", config_short_ids=["cfg_a"]
    )
    async with service.client() as client:
        await client.create_test_case(request)
    assert (service.only.method, service.only.url.path) == ("POST", "/v1/test-cases")
    assert json.loads(service.only.content) == {
        "name": "x",
        "goal": "y",
        "applicationShortId": "app_shop",
        "expectedResult": "z",
        "configShortIds": ["cfg_a"],
    }
