"""The client: what it sends, what it makes of every answer, and what it never does."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from pydantic import SecretStr

import prefect_qatech
from prefect_qatech.api import answers
from prefect_qatech.api.client import QATechClient
from prefect_qatech.api.requests import QATechApplication, QATechEnvironment, QATechRerunRequest, QATechRunRequest
from prefect_qatech.api.responses import QATechRun
from prefect_qatech.exceptions import (
    BadRequestError,
    ForbiddenError,
    InvalidInputError,
    InvalidResponseError,
    NotFoundError,
    NothingToRerunError,
    OtherPlanStarted,
    QATechAPIError,
    QATechConnectionError,
    QATechError,
    QATechTimeoutError,
    RateLimitedError,
    ServerError,
    StartOutcomeUnknown,
    UnauthorizedError,
    UsageLimitError,
)
from tests.wire import TOKEN, URL, Body, Service, accepted, answer, assert_holds_no_secret, chain, listening, seen

OTHER = "00000000-0000-4000-8000-000000000002"
CASE = "a1b2c3d4-e5f6-4789-a012-3456789abcde"

Call = Callable[[QATechClient], Awaitable[Any]]
GETS: dict[str, Call] = {
    "look": lambda client: client.get_run("abc123", test_cases="all"),
    "details": lambda client: client.get_run_test_case("tc1"),
}
POSTS: dict[str, Call] = {
    "start": lambda client: client.start_run(QATechRunRequest(test_plan_short_id="pln_smoke")),
    "rerun": lambda client: client.rerun("abc123", QATechRerunRequest(failed_only=True)),
}
CALLS = {**GETS, **POSTS}
REQUESTS = {
    "look": "GET /v1/run/abc123",
    "details": "GET /v1/run-test-case/tc1",
    "start": "POST /v1/run",
    "rerun": "POST /v1/run/abc123",
}


async def failure(client: QATechClient, call: str | Call) -> QATechError:
    """The error of a call, looked through for secrets."""
    async with client:
        with pytest.raises(QATechError) as caught:
            await (CALLS[call] if isinstance(call, str) else call)(client)
    error = caught.value
    assert chain(error) == [error], "no error of another library, which could hold the request, hangs on it"
    assert_holds_no_secret(error)
    return error


def assert_unknown(error: QATechError, call: str) -> None:
    """Check that it is an error that nothing retries, and that tells where to look."""
    assert type(error) is StartOutcomeUnknown
    assert (error.retryable, error.retry_after_seconds) == (False, None)
    assert error.request == REQUESTS[call]
    assert error.sent_at is not None
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(error.sent_at)) < timedelta(minutes=5)
    assert error.sent_at in str(error)
    assert "Look in QA.tech" in str(error)


# --- What is sent


@pytest.mark.parametrize(
    ("call", "method", "target"),
    [
        (lambda client: client.get_run("abc123"), "GET", "/v1/run/abc123"),
        (lambda client: client.get_run("abc123", test_cases="all"), "GET", "/v1/run/abc123?testCases=all"),
        (lambda client: client.get_run("abc123", test_cases="failed"), "GET", "/v1/run/abc123?testCases=failed"),
        (lambda client: client.get_run_test_case("tc1"), "GET", "/v1/run-test-case/tc1"),
        (lambda client: client.start_run(QATechRunRequest()), "POST", "/v1/run"),
        (lambda client: client.rerun("abc123", QATechRerunRequest()), "POST", "/v1/run/abc123"),
    ],
)
async def test_each_endpoint(call: Call, method: str, target: str) -> None:
    service = Service(lambda request: answer({**seen(request.url.path.split("/")[-1]), **accepted()}))
    async with service.client() as client:
        await call(client)
    request = service.only
    assert (request.method, str(request.url)) == (method, URL + target)
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["user-agent"] == f"prefect-qatech/{prefect_qatech.__version__}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["accept"] == "application/json"
    assert ("content-type" in request.headers) == (method == "POST")


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (QATechRunRequest(), {"trigger": "API"}),
        (QATechRunRequest(test_case_ids=[CASE]), {"trigger": "API", "testCaseIds": [CASE]}),
        (QATechRerunRequest(), {}),
        (QATechRerunRequest(failed_only=True), {"failedOnly": True}),
        (QATechRerunRequest(test_case_ids=[CASE]), {"projectTestCaseIds": [CASE]}),
    ],
    ids=str,
)
async def test_what_a_post_says(request_: Any, body: Any) -> None:
    service = Service(accepted())
    async with service.client() as client:
        if isinstance(request_, QATechRunRequest):
            await client.start_run(request_)
        else:
            await client.rerun("abc123", request_)
    assert service.body == body
    assert service.only.headers["content-type"] == "application/json"


async def test_the_project_is_named_in_every_call() -> None:
    for name, call in CALLS.items():
        service = Service(lambda request: answer({**seen(request.url.path.split("/")[-1]), **accepted()}))
        async with service.client(project_short_id="proj-shop_s1") as client:
            await call(client)
        if name in GETS:
            assert service.only.url.params["projectShortId"] == "proj-shop_s1"
        else:
            assert service.body["projectShortId"] == "proj-shop_s1"
            assert service.only.url.query == b""


async def test_a_requests_own_project_counts_more() -> None:
    service = Service(accepted())
    async with service.client(project_short_id="proj_1") as client:
        await client.start_run(QATechRunRequest(project_short_id="proj_2"))
    assert service.body["projectShortId"] == "proj_2"


@pytest.mark.parametrize("api_url", [URL, URL + "/", URL + "/v1", URL + "/v1/"])
async def test_the_address_may_end_in_the_version(api_url: str) -> None:
    service = Service(accepted())
    async with service.client(api_url=api_url) as client:
        await POSTS["start"](client)
    assert str(service.only.url) == f"{URL}/v1/run"


@pytest.mark.parametrize(
    "run_short_id", ["", "../run", "a/b", "a%2Fb", "..", ".", "abc?x=1", "abc#x", "abc\n", "a b", "a" * 201]
)
@pytest.mark.parametrize(
    "call",
    [
        lambda client, short_id: client.get_run(short_id),
        lambda client, short_id: client.rerun(short_id, QATechRerunRequest()),
        lambda client, short_id: client.get_run_test_case(short_id),
    ],
    ids=["look", "rerun", "details"],
)
async def test_what_is_no_short_id_is_never_sent(call: Any, run_short_id: str) -> None:
    service = Service(seen())
    async with service.client() as client:
        with pytest.raises(InvalidInputError, match="id"):
            await call(client, run_short_id)
    assert service.requests == []


@pytest.mark.parametrize("short_id", ["8B-", "-abc", "_abc", "app_x1", "a.b", "a;b=c&d", "é:@\\", "[x](y)"])
async def test_an_id_that_the_service_has_given_leads_back_to_it(short_id: str) -> None:
    service = Service(lambda request: answer(accepted(short_id) if request.method == "POST" else seen(short_id)))
    async with service.client() as client:
        started = await client.start_run(QATechRunRequest())
        assert started.run_short_id == short_id
        assert (await client.get_run(started.run_short_id)).run_short_id == short_id
        await client.get_run_test_case(started.run_short_id)
        path, query = service.requests[-2].url.path, service.requests[-2].url.query
        assert (path, query) == (f"/v1/run/{short_id}", b"")
        assert (await client.rerun("abc123", QATechRerunRequest())).run_short_id == short_id


# --- What is answered


async def test_a_look() -> None:
    case = {"id": CASE, "shortId": "tc1", "name": "Pay", "status": "COMPLETED", "result": "FAILED", "new": 1}
    service = Service(seen(status="COMPLETED", result="FAILED", runTestCases=[case], weather=[]))
    async with service.client() as client:
        run = await client.get_run("abc123", test_cases="all")
    assert (run.run_short_id, run.status, run.result, run.model_extra) == (
        "abc123",
        "COMPLETED",
        "FAILED",
        {"weather": []},
    )
    assert [(item.id, item.short_id, item.name, item.model_extra) for item in run.test_cases] == [
        (CASE, "tc1", "Pay", {"new": 1})
    ]


@pytest.mark.parametrize("with_issues", [True, False])
async def test_issues_are_listed_where_they_are_asked_for(with_issues: bool) -> None:
    service = Service(seen(issues=[{"title": "Slow", "severity": 3, "runTestCaseShortId": "tc1"}]))
    async with service.client() as client:
        [issue] = (await client.get_run("abc123", with_issues=with_issues)).issues
    assert (issue.title, issue.run_test_case_short_id) == ("Slow", "tc1")
    assert dict(service.only.url.params) == ({"issues": "all"} if with_issues else {})


@pytest.mark.parametrize("call", POSTS)
async def test_a_start_and_a_rerun(call: str) -> None:
    service = Service(accepted("new123"))
    async with service.client() as client:
        run = await POSTS[call](client)
    assert (run.run_short_id, run.url, run.test_count) == ("new123", "https://app.qa.tech/p/shop/results/new123", 3)
    assert (run.test_plan.name, run.test_plan.short_id) == ("Smoke", "pln-all-of-it_smoke")


async def test_the_details_of_a_test_case() -> None:
    service = Service({"shortId": "tc1", "errorCode": "AGENT_STUCK", "durationMs": 1500})
    async with service.client() as client:
        details = await client.get_run_test_case("tc1")
    assert (details.error_code, details.duration_ms) == ("AGENT_STUCK", 1500)


MESSAGES = {"message": "No <b>way</b>\n\tof %s {doing} it\x00\u202e"}
CLEANED = "No <b>way</b> of %s {doing} it"
BODIES: dict[str, tuple[bytes, str | None]] = {
    "message": (json.dumps(MESSAGES).encode(), CLEANED),
    "statusText": (b'{"statusText": "Unauthorized"}', "Unauthorized"),
    "object": (b'{"message": {"code": 7}}', '{"code": 7}'),
    "number": (b'{"message": 7}', "7"),
    "html": (b"<html><body>502 Bad Gateway</body></html>", None),
    "empty": (b"", None),
    "broken": (b'{"message": "half', None),
    "list": (b'["message"]', None),
    "null": (b"null", None),
    "deep": (b"[" * 100_000, None),
    "deep object": (b'{"message":' * 100_000, None),
    "not utf-8": (b'{"message": "caf\xe9"}', None),
    "null message": (b'{"message": null}', None),
}
STATUSES: dict[int, tuple[type[QATechAPIError], bool]] = {
    # status: (class, whether a GET may be sent again)
    400: (BadRequestError, False),
    401: (UnauthorizedError, False),
    402: (UsageLimitError, False),
    403: (ForbiddenError, False),
    404: (NotFoundError, False),
    408: (QATechAPIError, True),
    409: (QATechAPIError, False),
    418: (QATechAPIError, False),
    425: (QATechAPIError, True),
    429: (RateLimitedError, True),
    500: (ServerError, True),
    502: (ServerError, True),
    503: (ServerError, True),
    504: (ServerError, True),
}
POST_UNKNOWN = {408, 409, 425, 500, 502, 503, 504}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("call", CALLS)
async def test_each_status_with_each_body(call: str, status: int) -> None:
    for content, words in BODIES.values():
        service = Service(lambda request, content=content: answer(content, status))
        error = await failure(service.client(), call)
        assert len(service.requests) == 1, "the client sends once"
        assert str(status) in str(error)
        assert "\n" not in str(error)
        assert (words or "") in str(error)
        if call in POSTS and status in POST_UNKNOWN:
            assert_unknown(error, call)
            continue
        kind, again = STATUSES[status]
        assert isinstance(error, QATechAPIError)
        assert type(error) is kind
        assert error.retryable is (again if call in GETS else status == 429)
        assert (error.status, error.service_message, error.request) == (status, words, REQUESTS[call])
        assert error.retry_after_seconds is None
        assert error.run_short_id == ("abc123" if call in ("look", "rerun") else None)


@pytest.mark.parametrize(("header", "seconds"), [("30", 30), ("99999", 3600), ("0", 0)])
@pytest.mark.parametrize(("status", "kind"), [(429, RateLimitedError), (503, ServerError)])
@pytest.mark.parametrize("call", CALLS)
async def test_retry_after_is_told(
    call: str, status: int, kind: type[QATechAPIError], header: str, seconds: int
) -> None:
    service = Service(lambda request: answer(b"", status, {"Retry-After": header}))
    error = await failure(service.client(), call)
    assert type(error) is kind
    assert (error.retryable, error.retry_after_seconds) == (True, seconds)


async def test_retry_after_as_a_date() -> None:
    date = (datetime.now(timezone.utc) + timedelta(minutes=10)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    error = await failure(Service(lambda request: answer(b"", 429, {"Retry-After": date})).client(), "start")
    assert error.retry_after_seconds is not None
    assert 500 < error.retry_after_seconds <= 600


async def test_a_retry_after_without_sense_does_not_make_a_503_a_refusal() -> None:
    error = await failure(Service(lambda request: answer(b"", 503, {"Retry-After": "soon"})).client(), "start")
    assert_unknown(error, "start")


NOTHING = ["No tests to rerun", "Nothing to rerun", "There are no failed test cases in this run.", "no failed tests"]
OTHER_REASONS = [
    "failedOnly and projectTestCaseIds exclude each other",
    "Provide either failedOnly or projectTestCaseIds, not both",
    "projectTestCaseIds must be UUIDs",
    "projectTestCaseIds: no such test case",
    "Slack is not set up",
]


@pytest.mark.parametrize(
    ("call", "status", "words", "kind"),
    [
        *(("rerun", 400, words, NothingToRerunError) for words in NOTHING),
        *(("rerun", 400, words, BadRequestError) for words in OTHER_REASONS),
        *((call, 400, words, BadRequestError) for call in ("start", *GETS) for words in NOTHING),
        ("rerun", 404, NOTHING[0], NotFoundError),
        ("rerun", 422, NOTHING[0], QATechAPIError),
    ],
)
async def test_only_a_400_of_a_rerun_that_says_so_means_that_nothing_is_left(
    call: str, status: int, words: str, kind: type[QATechAPIError]
) -> None:
    error = await failure(Service(lambda request: answer({"message": words}, status)).client(), call)
    assert isinstance(error, QATechAPIError)
    assert type(error) is kind
    assert (error.status, error.service_message, error.retryable) == (status, words, False)


async def test_a_long_message_is_cut() -> None:
    error = await failure(Service(lambda request: answer({"message": "x" * 100_000}, 400)).client(), "start")
    assert isinstance(error, QATechAPIError)
    assert error.service_message is not None
    assert len(error.service_message) == 500
    assert len(str(error)) < 800


UNREADABLE = [body for body in BODIES if body not in ("message", "statusText", "object", "number", "null message")]


@pytest.mark.parametrize("status", [200, 202, 204])
@pytest.mark.parametrize("call", CALLS)
async def test_a_2xx_that_cannot_be_read(call: str, status: int) -> None:
    for body in UNREADABLE:
        error = await failure(Service(lambda request, body=body: answer(BODIES[body][0], status)).client(), call)
        if call in POSTS:
            assert_unknown(error, call)
        else:
            assert type(error) is InvalidResponseError
            assert error.retryable
            assert error.request == REQUESTS[call]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"success": True},
        {"run": None},
        {"run": []},
        {"run": "abc123"},
        {"run": {}},
        {"run": {"id": "abc123"}},
        "run",
        7,
        *(accepted(short_id) for short_id in ("../x", "a/b", "", None, 5, [], "abc\n", "a b", "a" * 201, "..", ".")),
    ],
    ids=lambda body: ascii(body)[:60],
)
@pytest.mark.parametrize("call", POSTS)
async def test_an_accepted_post_that_names_no_run(call: str, body: Any) -> None:
    assert_unknown(await failure(Service(body).client(), call), call)


# --- An answer is held against what was asked

ASKED = QATechRunRequest(test_plan_short_id="pln_broken")


async def test_a_run_of_another_plan_is_told_with_its_id_and_address() -> None:
    service = Service(accepted("new123", testPlan={"name": "Green", "shortId": "pln-all\n_green"}))
    error = await failure(service.client(), lambda client: client.start_run(ASKED))
    assert type(error) is OtherPlanStarted
    assert isinstance(error, StartOutcomeUnknown), "nothing that is careful with an unknown outcome overlooks it"
    assert (error.run_short_id, error.run_url) == ("new123", "https://app.qa.tech/p/shop/results/new123")
    assert (error.asked_plan, error.started_plan) == ("pln_broken", "pln-all\n_green")
    assert (error.retryable, error.request) == (False, "POST /v1/run")
    assert datetime.now(timezone.utc) - datetime.fromisoformat(error.sent_at or "") < timedelta(minutes=5)
    for part in ("new123", "https://app.qa.tech/p/shop/results/new123", "pln_broken", "green", "paid for"):
        assert part in str(error)
    assert "\n" not in str(error)


async def test_a_rerun_is_held_against_the_plan_of_the_run_that_it_repeats() -> None:
    client = Service(accepted("new123", testPlan={"name": "Green", "shortId": "pln_green"})).client
    again = QATechRerunRequest()
    error = await failure(client(), lambda opened: opened.rerun("abc123", again, plan_short_id="pln_broken"))
    assert type(error) is OtherPlanStarted
    assert (error.run_short_id, error.asked_plan, error.started_plan) == ("new123", "pln_broken", "pln_green")
    assert (error.retryable, error.request) == (False, "POST /v1/run/abc123")
    for plan in ("pln_green", None):
        async with client() as opened:
            assert (await opened.rerun("abc123", again, plan_short_id=plan)).run_short_id == "new123"


async def test_an_address_that_leads_astray_is_none_of_a_run() -> None:
    body = accepted("new123", testPlan={"shortId": "pln_green"}, url="javascript:alert(1)")
    error = await failure(Service(body).client(), lambda client: client.start_run(ASKED))
    assert (error.run_short_id, error.run_url) == ("new123", None)
    assert "javascript" not in str(error)


@pytest.mark.parametrize(
    "plan",
    [None, {}, {"name": "Broken"}, {"shortId": "pln_broken"}, {"shortId": "pln-since-may_broken"}, "pln_green", 5],
    ids=str,
)
async def test_a_run_of_the_plan_that_was_asked_for(plan: Any) -> None:
    async with Service(accepted("new123", testPlan=plan)).client() as client:
        assert (await client.start_run(ASKED)).run_short_id == "new123"


@pytest.mark.parametrize("request_", [QATechRunRequest(), QATechRunRequest(test_case_ids=[CASE])], ids=str)
async def test_where_no_plan_was_asked_for_any_will_do(request_: QATechRunRequest) -> None:
    async with Service(accepted("new123", testPlan={"shortId": "pln_green"})).client() as client:
        assert (await client.start_run(request_)).run_short_id == "new123"


@pytest.mark.parametrize(("told", "expected"), [(0, 2), (1, 2), (2, 2), (5, 5), (None, 2)])
async def test_test_cases_that_were_asked_for_one_by_one_are_all_expected(told: int | None, expected: int) -> None:
    request = QATechRunRequest(test_case_ids=[CASE, OTHER, CASE])
    async with Service(accepted("new123", testCount=told)).client() as client:
        assert (await client.start_run(request)).test_count == expected


@pytest.mark.parametrize("success", [False, None, 0, "", []], ids=repr)
@pytest.mark.parametrize("call", POSTS)
async def test_an_answer_that_says_no_success_starts_nothing_for_sure(call: str, success: Any) -> None:
    body = {**accepted("new123"), "success": success, "message": f"Busy\n{TOKEN}"}
    error = await failure(Service(body).client(), call)
    assert_unknown(error, call)
    assert (error.run_short_id, error.run_url) == ("new123", "https://app.qa.tech/p/shop/results/new123")
    assert 'and run new123, and says: "Busy **********"' in str(error)
    error = await failure(Service({"success": success}).client(), call)
    assert_unknown(error, call)
    assert (error.run_short_id, error.run_url) == (None, None)


@pytest.mark.parametrize("call", POSTS)
async def test_an_answer_need_not_say_success(call: str) -> None:
    body = accepted("new123")
    del body["success"]
    async with Service(body).client() as client:
        assert (await POSTS[call](client)).run_short_id == "new123"


async def test_a_rerun_that_is_answered_with_the_run_itself_is_unknown() -> None:
    # Its results would be taken for those of the rerun.
    assert_unknown(await failure(Service(accepted("abc123")).client(), "rerun"), "rerun")


TWICE = [
    b'{"shortId": "abc123", "status": "COMPLETED", "result": "FAILED", "result": "PASSED"}',
    b'{"shortId": "abc123", "runTestCases": [{"name": "a"}, {"name": "b", "result": null, "result": "PASSED"}]}',
    b'{"shortId": "abc123", "unknown": [[{"a": {"b": 1, "\\u0062": 2}}]]}',
    b'{"shortId": "abc123", "a\\u0000": 1, "a\\u0001": 2}',
]


@pytest.mark.parametrize("content", TWICE)
async def test_a_look_whose_answer_has_a_name_twice_is_repeated(content: bytes) -> None:
    error = await failure(Service(lambda request: answer(content)).client(), "look")
    assert type(error) is InvalidResponseError
    assert (error.retryable, error.status) == (True, 200)
    assert "a name stands twice in one object" in str(error)


@pytest.mark.parametrize("call", POSTS)
async def test_a_start_whose_answer_has_a_name_twice_is_unknown(call: str) -> None:
    content = b'{"success": true, "run": {"shortId": "one123", "testCount": 1, "shortId": "two123"}}'
    error = await failure(Service(lambda request: answer(content)).client(), call)
    assert_unknown(error, call)
    assert "a name stands twice in one object" in str(error)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
async def test_what_is_no_number_in_json_leaves_the_client_as_none(number: str) -> None:
    body = b'{"shortId": "abc123", "durationMs": %s, "deep": [{"in": %s}]}' % (number.encode(), number.encode())
    async with Service(lambda request: answer(body)).client() as client:
        details = await client.get_run_test_case("abc123")
        run = await client.get_run("abc123")
    assert details.duration_ms is None
    json.dumps([details.model_dump(), run.model_dump()], allow_nan=False)
    started = b'{"success": true, "run": {"shortId": "new123", "testCount": %s}}' % number.encode()
    async with Service(lambda request: answer(started)).client() as client:
        new = await client.start_run(QATechRunRequest())
    assert (new.run_short_id, new.test_count, new.test_count_is_unreadable) == ("new123", None, True)


@pytest.mark.parametrize("status", [400, 404])
async def test_the_ids_that_were_asked_for_are_told_where_one_is_not_known(status: int) -> None:
    request = QATechRunRequest(
        test_plan_short_id="app_shop",
        applications=[
            QATechApplication(application_short_id="app_x1", environment=QATechEnvironment(short_id="pln_2")),
            QATechApplication(application_short_id="x2"),
        ],
    )
    service = Service(lambda request: answer({"message": "Not found"}, status))
    error = await failure(service.client(), lambda client: client.start_run(request))
    assert (
        "(test_plan_short_id 'app_shop', which looks like an application's, "
        "applications.0.application_short_id 'app_x1', "
        "applications.0.environment.short_id 'pln_2', which looks like a test plan's, "
        "applications.1.application_short_id 'x2')" in str(error)
    )
    error = await failure(service.client(), lambda client: client.get_run("pln_smoke"))
    assert "(run 'pln_smoke', which looks like a test plan's)" in str(error)
    error = await failure(
        service.client(), lambda client: client.rerun("abc123", QATechRerunRequest(test_case_ids=["a"] * 90))
    )
    assert "(run 'abc123', test_case_ids.0 'a'," in str(error)
    assert "and 85 more)" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        seen("abc124"),
        seen("ABC123"),
        seen("../x"),
        {},
        {"status": "COMPLETED", "result": "PASSED"},
        seen(runTestCases="none"),
        seen(runTestCases=[None]),
    ],
    ids=lambda body: ascii(body)[:60],
)
async def test_an_answer_about_another_run_or_none(body: Any) -> None:
    error = await failure(Service(body).client(), "look")
    assert type(error) is InvalidResponseError
    assert error.retryable
    assert (error.run_short_id, error.request, error.status) == ("abc123", "GET /v1/run/abc123", 200)


# --- Nobody else gets the token


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", CALLS)
async def test_redirects_are_not_followed(call: str, status: int) -> None:
    for location in ("https://evil.example/steal", "//evil.example", "/v1/elsewhere", "http://qatech.example/"):
        service = Service(lambda request, to=location: answer(b"", status, {"Location": to}))
        error = await failure(service.client(), call)
        assert [request.url.host for request in service.requests] == ["qatech.example"]
        if call in POSTS and status in (302, 303):
            assert_unknown(error, call)
            continue
        assert type(error) is InvalidResponseError
        assert (error.status, error.retryable) == (status, False)
        if "evil" in location:
            assert "evil.example" in str(error), "the way to find a wrong api_url"


LOCATIONS = [
    "mailto:nobody",
    "//[",
    "http://[::1",
    "https://[v1.x]/",
    "https://h:99999999/",
    "https://℀@evil.example/",
    "https://ex℀mple.com",
    "https://user:password@evil.example",
    "\x7f",
    "",
]


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("call", CALLS)
async def test_a_redirect_to_nonsense_is_no_crash_and_no_refusal(call: str, status: int) -> None:
    for location in LOCATIONS:
        headers = [(b"Location", location.encode())]
        service = Service(lambda request, headers=headers: answer(b"", status, headers))
        error = await failure(service.client(), call)
        assert "password" not in str(error), location
        if call in GETS:
            assert isinstance(error, QATechAPIError), location
        elif status == 302:
            assert_unknown(error, call)  # the POST was sent and answered; what httpx thinks of it changes nothing
        else:
            assert isinstance(error, (InvalidResponseError, StartOutcomeUnknown)), location
            assert not error.retryable, location


def echoes() -> Iterator[tuple[str, Any]]:
    """Ways in which the token could come back."""
    for status in (200, 201, 302, 307, 400, 401, 402, 403, 404, 409, 418, 429, 500, 503):
        yield f"message {status}", lambda r, s=status: answer({"message": f"Bad token Bearer {TOKEN}!"}, s)
        yield f"key {status}", lambda r, s=status: answer({TOKEN: TOKEN, "message": {TOKEN: [TOKEN]}}, s)
        yield f"text {status}", lambda r, s=status: answer(TOKEN.encode(), s, {"Content-Type": f"x/{TOKEN}"})
        yield f"headers {status}", lambda r, s=status: answer(b"", s, {"Location": f"https://{TOKEN}/", "X-T": TOKEN})
    yield "short id", {"run": {"shortId": TOKEN}, "shortId": TOKEN}
    yield "texts", {**accepted(), **seen(), "title": TOKEN, "shortId": "abc123"}
    yield "url", {"run": {"url": TOKEN}, "runTestCases": [TOKEN], TOKEN: 1}
    yield "cut", lambda r: answer({"message": "x" * 480 + TOKEN}, 400)
    yield "location that is none", lambda r: answer(b"", 307, {"Location": f"http://[{TOKEN}"})
    for kind in (httpx.ReadError, httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.InvalidURL):
        yield kind.__name__, kind(f"while sending {TOKEN}")


ECHOES = dict(echoes())


@pytest.mark.parametrize("call", CALLS)
async def test_nothing_that_comes_back_holds_the_token(call: str) -> None:
    for way, respond in ECHOES.items():
        async with Service(respond).client() as client:
            try:
                answered = await CALLS[call](client)
            except QATechError as error:
                assert_holds_no_secret(error)
            else:
                assert TOKEN not in answered.model_dump_json() + repr(answered), way


@pytest.mark.parametrize("wrap", [str, lambda text: {"why": text}, lambda text: [text]], ids=["text", "object", "list"])
async def test_no_error_holds_a_part_of_the_token(wrap: Any) -> None:
    for length in range(440, 500):
        body = {"message": wrap("x" * length + TOKEN)}
        error = await failure(Service(lambda request, body=body: answer(body, 400)).client(), "start")
        assert_holds_no_secret(error, TOKEN[:6])


async def test_no_error_holds_the_token_as_json_writes_it() -> None:
    token = 'qat"5ecret\\Tok3n'
    service = Service(lambda request: answer({"message": {"why": token}}, 400))
    async with service.client(api_token=SecretStr(token)) as client:
        with pytest.raises(BadRequestError) as caught:
            await POSTS["start"](client)
    assert caught.value.service_message == '{"why": "**********"}'
    assert_holds_no_secret(caught.value, "5ecret", "Tok3n")


_SIGNS = "qat/5ecret+Tok3n=0123"
_ENCODED = base64.b64encode(_SIGNS.encode()).decode()
_AFTER_BEARER = base64.b64encode(f"Bearer {_SIGNS}!".encode()).decode()


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    ("written", "not_left"),
    [
        (_SIGNS.replace("/", "\\/"), "5ecret"),
        (_SIGNS.replace("+", "\\u002B"), "5ecret"),
        ("".join(f"\\u{ord(character):04x}" for character in _SIGNS), "5ecret"),
        (json.dumps(json.dumps(_SIGNS.replace("/", "\\/")))[1:-1], "5ecret"),
        (quote(_SIGNS, safe=""), "5ecret"),
        (quote(quote(_SIGNS, safe=""), safe=""), "5ecret"),
        (quote(_SIGNS, safe="").replace("%", "\\u0025"), "5ecret"),
        (_SIGNS.replace("/", "&#47;").replace("+", "&plus;").replace("=", "&#x003D;"), "5ecret"),
        ("".join(f"&#{ord(character)}" for character in _SIGNS), "&#53"),
        (_SIGNS.replace("/", "\\u0026amp;sol;"), "5ecret"),
        (_ENCODED, _ENCODED[4:12]),
        (_AFTER_BEARER, _AFTER_BEARER[12:20]),
        (quote(_AFTER_BEARER, safe=""), _AFTER_BEARER[12:20]),
    ],
    ids=[
        "slash",
        "plus",
        "all",
        "JSON in JSON",
        "percent",
        "twice",
        "percent in JSON",
        "HTML",
        "all in HTML",
        "HTML in JSON",
        "base64",
        "Bearer",
        "both",
    ],
)
async def test_the_token_is_masked_in_each_way_in_which_a_service_writes_it(
    written: str, not_left: str, status: int
) -> None:
    case = {"id": "1", "name": "Login HERE", "status": "COMPLETED"}
    told = {"shortId": "abc123", "status": "RUNNING", "message": "HERE", "runTestCases": [case]}
    body = json.dumps(told).replace("HERE", written)
    service = Service(lambda request: answer(body.encode(), status))
    async with service.client(api_token=SecretStr(_SIGNS)) as client:
        try:
            shown = (await client.get_run("abc123", test_cases="all")).model_dump_json()
            assert "Login" in shown
        except BadRequestError as error:
            shown = str(error)
            assert_holds_no_secret(error, not_left)
    assert "*****" in shown
    assert not_left not in shown


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
async def test_the_token_is_masked_in_each_encoding(encoding: str) -> None:
    body = json.dumps({**seen(), "url": f"https://app.qa.tech/{_SIGNS}"}).encode(encoding)
    async with Service(lambda request: answer(body)).client(api_token=SecretStr(_SIGNS)) as client:
        assert (await client.get_run("abc123")).url == "https://app.qa.tech/**********"
    refusal = json.dumps({"message": f"Not {_SIGNS}"}).encode(encoding)
    error = await failure(Service(lambda request: answer(refusal, 400)).client(api_token=SecretStr(_SIGNS)), "start")
    assert '"Not **********"' in str(error)


async def test_an_answer_that_was_compressed_all_the_same_is_called_so() -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    service = Service(lambda request: answer(gzip.compress(json.dumps(seen()).encode()), 200, headers))
    error = await failure(service.client(), "look")
    assert "(application/json, gzip)" in str(error)


async def test_an_answer_full_of_backslashes_is_read_at_once() -> None:
    body = json.dumps({**seen(), "title": "\\" * 500_000 + "/"}).encode()
    began = time.process_time()
    async with Service(lambda request: answer(body)).client() as client:
        await client.get_run("abc123")
    assert time.process_time() - began < 60, "it would be hours"


async def test_a_client_does_not_show_the_token() -> None:
    async with Service(seen()).client() as client:
        for text in (repr(client), str(client), repr(vars(client)), repr(client._connections.http.headers)):
            assert TOKEN not in text


@pytest.mark.parametrize("status", [200, 500])
async def test_no_log_holds_the_token(status: int, caplog: pytest.LogCaptureFixture) -> None:
    received: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        body = json.dumps(seen()).encode()
        writer.write(b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()

    caplog.set_level(logging.DEBUG)
    async with listening(handler) as url, QATechClient(api_token=SecretStr(TOKEN), api_url=url) as client:
        try:
            await client.get_run("abc123")
        except ServerError:
            assert status == 500
    assert TOKEN.encode() in received[0], "it was sent"
    loggers = {record.name.split(".")[0] for record in caplog.records}
    assert {"httpx", "httpcore"} <= loggers, "the libraries did log"
    for record in caplog.records:
        assert TOKEN not in record.getMessage()
        assert TOKEN not in repr(vars(record))


# --- Size and time


def endless() -> Body:
    return Body(b" " * 100, times=10_000)


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_is_read_up_to_a_limit(call: str, status: int) -> None:
    body = endless()
    service = Service(lambda request: answer(body, status, {"Transfer-Encoding": "chunked"}))
    error = await failure(service.client(max_response_bytes=1000), call)
    assert body.pulled <= 1100, "no more is read than is needed to see that it is too much"
    assert body.closed
    if call in POSTS and status != 400:
        assert_unknown(error, call)
    else:
        assert type(error) is {200: InvalidResponseError, 400: BadRequestError, 500: ServerError}[status]
        assert (error.status, error.retryable) == (status, status != 400)
    assert "more than 1,000 bytes" in str(error)


@pytest.mark.parametrize("call", CALLS)
async def test_a_refusal_that_is_too_long_still_says_when_to_come_again(call: str) -> None:
    headers = {"Transfer-Encoding": "chunked", "Retry-After": "7"}
    error = await failure(
        Service(lambda request: answer(endless(), 429, headers)).client(max_response_bytes=1000), call
    )
    assert type(error) is RateLimitedError
    assert (error.retryable, error.retry_after_seconds) == (True, 7)


@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-32-be"])
async def test_half_a_character_is_replaced_wherever_it_stands(encoding: str, escaped: bool) -> None:
    body = {**seen(), "title": "\ud800", "unknown": [{"text \udfff": "a \ud83d b \U0001f600"}]}
    content = json.dumps(body, ensure_ascii=escaped).encode(encoding, "surrogatepass")
    async with Service(lambda request: answer(content)).client() as client:
        run = await client.get_run("abc123")
    kept = run.model_dump_json()
    assert "a \ufffd b \U0001f600" in kept
    assert QATechRun.model_validate_json(kept) == run


@pytest.mark.parametrize(("size", "fits"), [(999, True), (1000, True), (1001, False)])
async def test_the_limit_is_exact(size: int, fits: bool) -> None:
    content = json.dumps(seen()).encode().ljust(size)
    async with Service(lambda request: answer(content)).client(max_response_bytes=1000) as client:
        if fits:
            assert (await client.get_run("abc123")).run_short_id == "abc123"
        else:
            with pytest.raises(InvalidResponseError, match="1,000 bytes"):
                await client.get_run("abc123")


async def test_a_compressed_answer_is_not_unpacked() -> None:
    # It was not asked for, and one of some kilobytes could unpack to any size before its length is known.
    content = gzip.compress(json.dumps(seen()).encode())
    service = Service(lambda request: answer(content, headers={"Content-Encoding": "gzip"}))
    error = await failure(service.client(), "look")
    assert type(error) is InvalidResponseError
    assert "not JSON" in str(error)


@pytest.mark.parametrize("call", CALLS)
async def test_a_slow_drip_ends_at_the_time_limit(call: str) -> None:
    content = json.dumps({**seen(), **accepted()}).encode()
    drip = Body(*(content[i : i + 1] for i in range(len(content))), pause=lambda: anyio.sleep(0.02))
    error = await failure(Service(lambda request: answer(drip)).client(timeout_seconds=0.2), call)
    assert drip.pulled < len(content)
    assert drip.closed
    if call in POSTS:
        assert_unknown(error, call)
    else:
        assert type(error) is QATechTimeoutError
        assert (error.retryable, error.status) == (True, None)
    assert "0.2 s" in str(error)


@pytest.mark.parametrize("call", CALLS)
async def test_a_slow_drip_from_a_real_server(call: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        while not writer.is_closing():
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with listening(handler) as url:
        client = QATechClient(api_token=SecretStr(TOKEN), api_url=url, timeout_seconds=0.2)
        error = await failure(client, call)
    assert isinstance(error, StartOutcomeUnknown if call in POSTS else QATechTimeoutError)


# --- Broken connections


@pytest.mark.parametrize("call", CALLS)
async def test_a_refused_connection(call: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        # Bound, nobody else can listen on it.
        client = QATechClient(api_token=SecretStr(TOKEN), api_url=f"http://127.0.0.1:{port}")
        error = await failure(client, call)
    assert type(error) is QATechConnectionError
    assert (error.retryable, error.status, error.request) == (True, None, REQUESTS[call])


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", b'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{"run":'])
@pytest.mark.parametrize("call", CALLS)
async def test_a_connection_that_is_dropped_after_the_request(call: str, sent: bytes) -> None:
    received: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(sent)

    async with listening(handler) as url:
        error = await failure(QATechClient(api_token=SecretStr(TOKEN), api_url=url), call)
    assert len(received) == 1, "the client sends once"
    if call in POSTS:
        assert_unknown(error, call)
    else:
        assert type(error) is QATechConnectionError
        assert error.retryable


@pytest.mark.parametrize(
    ("raised", "kind", "may_have_arrived"),
    [
        (httpx.ConnectError("refused"), QATechConnectionError, False),
        (httpx.ConnectTimeout("slow"), QATechTimeoutError, False),
        (httpx.PoolTimeout("busy"), QATechTimeoutError, False),
        (httpx.ReadTimeout("slow"), QATechTimeoutError, True),
        (httpx.WriteTimeout("slow"), QATechTimeoutError, True),
        (httpx.ReadError("reset"), QATechConnectionError, True),
        (httpx.WriteError("reset"), QATechConnectionError, True),
        (httpx.RemoteProtocolError("half"), QATechConnectionError, True),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("call", CALLS)
async def test_what_was_not_sent_may_be_sent_again_and_a_post_that_may_have_arrived_may_not(
    call: str, raised: Exception, kind: type[QATechAPIError], may_have_arrived: bool
) -> None:
    error = await failure(Service(raised).client(), call)
    if call in POSTS and may_have_arrived:
        assert_unknown(error, call)
    else:
        assert type(error) is kind
        assert error.retryable


async def test_a_cancelled_call_is_cancelled() -> None:
    scope = anyio.CancelScope()

    async def pause() -> None:
        scope.cancel()
        await anyio.sleep(0.01)

    drip = Body(b" ", times=1000, pause=pause)
    async with Service(lambda request: answer(drip)).client() as client:
        with scope:
            await POSTS["start"](client)
    assert scope.cancelled_caught
    assert drip.closed


def test_the_sentences_of_the_hints_are_whole() -> None:
    for _, hint in answers._HINTS.values():
        assert re.fullmatch(r"[A-Z].*\.", hint)


async def test_details_of_another_execution_are_not_taken() -> None:
    async with Service({"shortId": "tc2", "errorCode": "TEST_FAILED"}).client() as client:
        with pytest.raises(InvalidResponseError, match="another execution"):
            await client.get_run_test_case("tc1")


@pytest.mark.parametrize(("status", "may"), [(400, True), (404, True), (403, False)])
async def test_whether_a_token_may_start_runs_is_asked_without_a_start(status: int, may: bool) -> None:
    service = Service(lambda _: answer({"message": "no"}, status))
    async with service.client(project_short_id="proj_one") as client:
        assert await client.may_start_runs() is may
    # Refused twice over: by the run, which there cannot be, and by both filters.
    assert re.fullmatch(r"/v1/run/no-such-run-\w{32}", service.only.url.path)
    assert {"failedOnly", "projectTestCaseIds", "projectShortId"} == set(service.body)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, StartOutcomeUnknown), (500, StartOutcomeUnknown), (401, UnauthorizedError), (402, UsageLimitError)],
)
async def test_another_answer_tells_nothing_about_starts(status: int, kind: type[QATechError]) -> None:
    service = Service(lambda _: answer(accepted(), status))
    async with service.client() as client:
        with pytest.raises(kind):
            await client.may_start_runs()
