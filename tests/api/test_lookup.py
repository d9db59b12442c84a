"""The catalogue is asked what names mean: against documented bodies, on the wire as httpx has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest
import respx
from hypothesis import given, strategies as st
from pydantic import SecretStr

from prefect_qatech import (
    InvalidInputError,
    QATechApplication,
    QATechClient,
    QATechEnvironment,
    QATechRerunRequest,
    QATechRunRequest,
    QATechTimeoutError,
    ServerError,
)
from prefect_qatech.api import lists, lookup
from prefect_qatech.api.lookup import Remembered, remembered_in, resolve
from tests.api.test_catalogue import Shelf
from tests.wire import TOKEN, URL, Service, accepted, seen

CASE = "11111111-0000-4000-8000-000000000000"
DOCUMENTED: dict[str, Any] = {
    "/v1/projects": {"projects": [{"shortId": "proj_1", "name": "Web shop"}]},
    "/v1/applications": {"applications": [{"shortId": "app-shop_x1", "name": "Shop", "kind": "web"}]},
    "/v1/applications/app-shop_x1/environments": {
        "environments": [{"shortId": "env_1", "name": "Staging", "url": None, "isProduction": False}]
    },
    "/v1/test-cases": {
        "testCases": [
            {
                "id": CASE,
                "name": "Pay by card",
                "isEnabled": True,
                "labels": ["smoke"],
                "classification": "functional",
                "applicationShortId": "app-shop_x1",
                "applicationName": "Shop",
                "goal": "Pay",
                "createdAt": "2026-03-01T00:00:00Z",
                "lastRun": None,
            }
        ],
        "total": 1,
        "limit": 100,
        "offset": 0,
    },
}
REQUEST = QATechRunRequest(
    test_case_ids=["Pay by card"],
    applications=[QATechApplication(application_short_id="Shop", environment=QATechEnvironment(short_id="Staging"))],
)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[respx.MockRouter]:
    monkeypatch.setattr(lists, "_projects", {})
    with respx.mock(base_url=URL, assert_all_called=False) as router:
        for path, body in DOCUMENTED.items():
            router.get(path, name=path).respond(json=body)
        router.post("/v1/run", name="start").respond(json=accepted())
        router.post("/v1/run/abc123", name="rerun").respond(json=accepted())
        router.get("/v1/run/abc123", name="look").respond(json=seen("abc123"))
        yield router


def a_client(**options: Any) -> QATechClient:
    return QATechClient(**{"api_token": SecretStr(TOKEN), "api_url": URL, **options})


def asked(service: respx.MockRouter) -> list[str]:
    return [call.request.url.path for call in service.calls]


async def test_names_are_sent_as_ids(service: respx.MockRouter) -> None:
    async with a_client() as client:
        await client.start_run(await resolve(client, REQUEST))
        await client.rerun("abc123", await resolve(client, QATechRerunRequest(test_case_ids=["Pay by card"])))
        await client.start_run(await resolve(client, QATechRunRequest(labels=["smoke"])))
    bodies = [json.loads(call.request.content) for call in service.calls if call.request.method == "POST"]
    assert bodies == [
        {
            "trigger": "API",
            "testCaseIds": [CASE],
            "applications": [{"applicationShortId": "app-shop_x1", "environment": {"shortId": "env_1"}}],
        },
        {"projectTestCaseIds": [CASE]},
        {"trigger": "API", "testCaseIds": [CASE]},
    ]


async def test_what_is_remembered_is_not_asked_for_again_but_for_what_is_run(service: respx.MockRouter) -> None:
    memory = Remembered()
    async with a_client() as client:
        for _ in range(2):
            await resolve(client, REQUEST, memory)
            await resolve(client, QATechRunRequest(labels=["smoke"]), memory)
    assert sorted(asked(service)) == sorted([*DOCUMENTED][1:3] + ["/v1/test-cases"] * 3), (
        "names once; labels each time, as what they select may have changed"
    )


async def test_what_is_not_remembered_may_have_been_made_since(service: respx.MockRouter) -> None:
    memory = Remembered()
    async with a_client() as client:
        await resolve(client, QATechRunRequest(test_case_ids=["Pay by card"]), memory)
        later = {"testCases": [{"id": CASE.replace("1", "2"), "name": "New"}], "total": 1}
        service["/v1/test-cases"].respond(json=later)
        found = await resolve(client, QATechRunRequest(test_case_ids=["New"]), memory)
        assert found.test_case_ids == [CASE.replace("1", "2")]
        with pytest.raises(InvalidInputError, match="no test case 'Pay by card'"):
            await resolve(client, QATechRunRequest(test_case_ids=["Pay by card"]), memory)


async def test_what_one_token_sees_is_not_what_another_sees(service: respx.MockRouter) -> None:
    async with a_client() as one, a_client(api_token=SecretStr(f"{TOKEN}-2")) as other:
        assert remembered_in("flow run", one) is remembered_in("flow run", one)
        assert remembered_in("flow run", one) is not remembered_in("flow run", other)
        assert remembered_in("flow run", one) is not remembered_in("another", one)
        assert remembered_in(None, one) is not remembered_in(None, one)


async def test_labels_never_reach_the_service(service: respx.MockRouter) -> None:
    async with a_client() as client:
        for request in (QATechRunRequest(labels=["smoke"]), QATechRunRequest(application_short_id="app_1")):
            with pytest.raises(InvalidInputError, match="resolved to test cases"):
                await client.start_run(request)
    assert asked(service) == []


async def test_a_catalogue_that_fails_can_be_asked_again(service: respx.MockRouter) -> None:
    service["/v1/applications"].respond(502)
    async with a_client() as client:
        with pytest.raises(ServerError) as caught:
            await resolve(client, REQUEST)
    assert caught.value.retryable


async def test_a_catalogue_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MAX_SECONDS", 0.05)
    shelf = Shelf([str(number) for number in range(30)], {number: lambda names: names for number in range(30)}, True)
    monkeypatch.setattr(lists, "PAGE_SIZE", 2)
    async with Service(shelf).client() as client:
        real = client.list_test_cases

        async def slowly(**options: Any) -> Any:
            await anyio.sleep(60)
            return await real(**options)

        monkeypatch.setattr(client, "list_test_cases", slowly)
        with pytest.raises(QATechTimeoutError) as caught:
            await resolve(client, QATechRunRequest(labels=["smoke"]))
    assert caught.value.retryable


async def test_a_project_is_given_by_its_name(service: respx.MockRouter) -> None:
    for _ in range(2):
        async with a_client(project_short_id="Web shop") as client:
            await client.get_run("abc123")
            await client.start_run(QATechRunRequest())
    assert asked(service).count("/v1/projects") == 1
    first, *others = [call.request for call in service.calls]
    assert (first.url.path, first.url.query) == ("/v1/projects", b"")
    for request in others:
        named = dict(request.url.params) if request.method == "GET" else json.loads(request.content)
        assert named["projectShortId"] == "proj_1"


async def test_a_project_that_is_not_there_is_never_named(service: respx.MockRouter) -> None:
    async with a_client(project_short_id="Web") as client:
        with pytest.raises(InvalidInputError, match="no project 'Web'; there is 'Web shop'"):
            await client.start_run(QATechRunRequest())
        with pytest.raises(InvalidInputError):
            await resolve(client, QATechRunRequest())
    assert {*asked(service)} == {"/v1/projects"}


async def test_a_look_whose_project_could_not_be_found_out_may_be_repeated(service: respx.MockRouter) -> None:
    service["/v1/projects"].side_effect = [httpx.Response(503), httpx.Response(200, json=DOCUMENTED["/v1/projects"])]
    async with a_client(project_short_id="Web shop") as client:
        with pytest.raises(ServerError) as caught:
            await client.get_run("abc123")
        assert caught.value.retryable
        await client.get_run("abc123")


@given(
    count=st.integers(1, 23),
    page_size=st.integers(2, 7),
    wanted=st.integers(0, 22),
    removed=st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(0, 22))),
)
async def test_a_name_is_found_on_whatever_page_also_where_they_shift(
    count: int, page_size: int, wanted: int, removed: tuple[int, int] | None
) -> None:
    names = [f"case-{number}" for number in range(count)]
    changes = {} if removed is None else {removed[0]: lambda left: left[: removed[1]] + left[removed[1] + 1 :]}
    shelf = Shelf(names, changes, with_total=True)
    request = QATechRunRequest(test_case_ids=[f"case-{wanted}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "PAGE_SIZE", page_size)
        async with Service(shelf).client() as client:
            try:
                found = await resolve(client, request)
            except InvalidInputError:
                assert f"case-{wanted}" not in shelf.names
            else:
                assert found.test_case_ids == [f"case-{wanted}"]
