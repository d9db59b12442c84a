"""Release checks against the sandbox over HTTP: started once, waited for, shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, strategies as st
from prefect import flow, task

from prefect_qatech import (
    BadRequestError,
    InvalidInputError,
    LedgerConflict,
    NotFoundError,
    QATechChange,
    QATechCredentials,
    QATechRegression,
    QATechReleaseCheck,
    QATechReleaseCheckRequest,
    QATechStartedReleaseCheck,
    StartOutcomeUnknown,
    UsageLimitError,
    WaitTimedOut,
    aattach_run,
    aread_ledger,
    astart_release_check,
    astart_test_run,
    await_for_release_check,
    release_checks,
    start_release_check,
    wait_for_release_check,
)
from prefect_qatech.report.markdown import render_release_check
from prefect_qatech.report.release_check import MAX_ITEMS, report_release_check
from prefect_qatech.sandbox import Sandbox
from tests.report.reading import HOSTILE, render
from tests.support import (
    POLLING,
    UNKNOWN_FAULTS,
    Failing,
    artifacts_of,
    credentials_for,
    fault,
    flow_run_id,
    one_plan,
    posts,
    when_it_is_over,
)

pytestmark = pytest.mark.usefixtures("prefect_server")

REQUEST = QATechReleaseCheckRequest(release_name="v9", changes=[QATechChange(summary="A new basket")])
BLOCKER = {"title": "Nobody can pay", "is_blocker": True, "severity": "critical", "recommendation": "Mend it"}
MINOR = {"title": "A typo", "severity": "low", "is_blocker": False}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps between attempts."""
    for name in ("astart_release_check", "start_release_check"):
        monkeypatch.setattr(release_checks, name, getattr(release_checks, name).with_options(retry_delay_seconds=0))


@contextmanager
def sandbox_of(*reviews: Mapping[str, Any], speed: float = 2000) -> Iterator[Sandbox]:
    scenario = {**one_plan([{"name": "Pay"}]), **({"release_checks": list(reviews)} if reviews else {})}
    with Sandbox(scenario, speed=speed) as sandbox:
        yield sandbox


async def start(sandbox: Sandbox, request: QATechReleaseCheckRequest = REQUEST, **more: Any) -> str:
    started: QATechStartedReleaseCheck = await release_checks.astart_release_check(
        credentials_for(sandbox), request, **more
    )
    return started.short_id


@pytest.mark.parametrize("version", ["sync", "async"])
async def test_a_check_is_started_waited_for_and_shown(version: str) -> None:
    review = {
        "overall_score": 20,
        "summary": "Do not release",
        "categories": [{"name": "payment", "score": 5, "summary": "broken"}],
        "findings": [MINOR, BLOCKER],
        "manual_follow_ups": ["Pay once by hand"],
    }
    with sandbox_of(review) as sandbox:
        credentials = credentials_for(sandbox)

        @flow
        def in_sync() -> QATechReleaseCheck:
            return wait_for_release_check(credentials, start_release_check(credentials, REQUEST), polling=POLLING)

        @flow
        async def in_async() -> QATechReleaseCheck:
            started = await astart_release_check(credentials, REQUEST)
            return await await_for_release_check(credentials, started, polling=POLLING)

        state = in_sync(return_state=True) if version == "sync" else await in_async(return_state=True)
        check = await state.aresult()
        [post] = posts(sandbox)
        assert post["path"] == "/v1/release-checks"
        assert post["body"] == REQUEST.to_json()
    assert (check.status, check.overall_score) == ("COMPLETED", 20)
    assert [finding.title for finding in check.blockers] == ["Nobody can pay"]
    assert state.state_details.flow_run_id is not None
    [text] = [str(a.data) for a in await artifacts_of([state.state_details.flow_run_id]) if "Findings" in str(a.data)]
    page = render(text).text
    order = ["score 20, 1 blocker among 2 findings", "Nobody can pay", "A typo", "payment: 5", "Pay once by hand"]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert "Recommendation: Mend it" in page


async def test_a_retry_finds_the_check_and_another_target_is_another_one() -> None:
    step, found = Failing(2), list[str]()
    targets = ["v1", "v1", "v2"]
    with sandbox_of() as sandbox:

        @flow(retries=2)
        async def release() -> None:
            found.append(await start(sandbox, target=targets[len(found)]))
            step()

        await release()
        assert len(posts(sandbox)) == 2
    assert found[0] == found[1] != found[2]


async def test_a_retry_returns_what_the_start_returned() -> None:
    step, found = Failing(), list[QATechStartedReleaseCheck]()
    with sandbox_of() as sandbox:

        @flow(retries=1)
        async def release() -> None:
            found.append(await astart_release_check(credentials_for(sandbox), REQUEST))
            step()

        await release()
        assert len(posts(sandbox)) == 1
    assert found[0] == found[1]
    assert found[1].url
    assert found[1].review_short_id


async def test_a_post_of_unknown_outcome_is_not_sent_again() -> None:
    """One flow with a call for each way to lose an answer, each with a label; then all of it once more."""
    step = Failing()
    errors: dict[str, list[StartOutcomeUnknown]] = {kind: [] for kind in UNKNOWN_FAULTS}
    with sandbox_of() as sandbox:
        credentials = credentials_for(sandbox, timeout_seconds=2)

        @flow(retries=1)
        async def release() -> None:
            for number, (kind, lost) in enumerate(UNKNOWN_FAULTS.items(), 1):
                sandbox.set_faults(fault(lost, "start_release_check"))
                with pytest.raises(StartOutcomeUnknown) as caught:
                    await astart_release_check(credentials, REQUEST, label=kind)
                errors[kind].append(caught.value)
                assert len(posts(sandbox)) == (number if step.calls == 0 else len(UNKNOWN_FAULTS)), kind
            step()

        await release()
    for kind, of_each_attempt in errors.items():
        assert len(of_each_attempt) == 2, kind
        assert all("release check" in error.message for error in of_each_attempt), kind
        assert "Look in QA.tech for a run" not in of_each_attempt[1].message, kind


async def test_what_was_surely_refused_is_sent_again_and_leaves_no_trace() -> None:
    with sandbox_of() as sandbox:
        sandbox.set_faults(fault({"kind": "status", "status": 429}, "start_release_check"))

        @flow
        async def release() -> int:
            await start(sandbox)
            return len(await aread_ledger(flow_run_id()))

        assert await release() == 1
        assert len(posts(sandbox)) == 2


@pytest.mark.parametrize(("status", "error"), [(400, BadRequestError), (402, UsageLimitError)])
async def test_a_refusal_is_told(status: int, error: type[Exception]) -> None:
    with sandbox_of() as sandbox:
        sandbox.set_faults(fault({"kind": "status", "status": status}, "start_release_check"))

        @flow
        async def release() -> None:
            with pytest.raises(error):
                await start(sandbox)
            assert await aread_ledger(flow_run_id()) == []

        await release()


async def test_a_check_and_a_run_of_one_label_and_one_id_are_two_things(monkeypatch: pytest.MonkeyPatch) -> None:
    with sandbox_of() as sandbox:

        @flow
        async def release() -> list[str]:
            run = await astart_test_run(credentials_for(sandbox), "pln_one", label="it")
            real = release_checks._accepted

            def of_the_same_id(started: QATechStartedReleaseCheck) -> Any:
                return real(started.model_copy(update={"short_id": run.run_short_id}))

            monkeypatch.setattr(release_checks, "_accepted", of_the_same_id)
            check = await start(sandbox, label="it")
            assert check == run.run_short_id
            return [str(entry.run) for entry in await aread_ledger(flow_run_id())]

        run, check = await release()
    assert run.startswith("run ")
    assert check.startswith("release check ")


async def test_one_id_for_two_starts_is_no_answer_to_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with sandbox_of() as sandbox:

        @flow
        async def release() -> None:
            first = await start(sandbox)
            real = release_checks._accepted
            monkeypatch.setattr(
                release_checks,
                "_accepted",
                lambda started: real(started.model_copy(update={"short_id": first})),
            )
            with pytest.raises(StartOutcomeUnknown, match="release check"):
                await start(sandbox)

        await release()


async def test_a_person_attaches_the_check_that_was_found() -> None:
    step, found = Failing(), list[str]()
    with sandbox_of() as sandbox:
        sandbox.set_faults(fault({"kind": "drop_after"}, "start_release_check"))

        @flow(retries=1)
        async def release() -> None:
            if step.left:
                with pytest.raises(StartOutcomeUnknown) as caught:
                    await start(sandbox)
                slot = str(caught.value.slot)
                await when_it_is_over(lambda: aattach_run(flow_run_id(), slot, "chk123"))
                step()
            found.append(await start(sandbox))

        await release()
        assert len(posts(sandbox)) == 1
    assert found == ["chk123"]


async def test_inside_a_task_a_label_is_needed_and_one_label_is_one_check() -> None:
    with sandbox_of() as sandbox:

        @task
        async def step(**more: Any) -> str:
            return await start(sandbox, **more)

        @flow
        async def release() -> None:
            with pytest.raises(InvalidInputError, match="name this release check: label"):
                await step()
            assert posts(sandbox) == []
            assert await step(label="a") == await step(label="a")
            other = QATechReleaseCheckRequest(pr_url="https://example.com/pr/7")
            with pytest.raises(LedgerConflict, match="stands for POST /v1/release-checks"):
                await step(request=other, label="a")

        await release()
        assert len(posts(sandbox)) == 1


async def test_a_check_that_goes_on_at_the_deadline_is_told_with_its_link() -> None:
    with sandbox_of({"duration_seconds": 10_000}, speed=1) as sandbox:
        credentials = credentials_for(sandbox)

        @flow
        async def release() -> None:
            started = await astart_release_check(credentials, REQUEST)
            with pytest.raises(WaitTimedOut, match=r"^Release check .* RUNNING\. Release check .* goes on") as caught:
                await await_for_release_check(credentials, started, 0.3, polling=POLLING)
            assert started.url
            assert started.url in caught.value.message
            assert caught.value.run is None

        await release()


@pytest.mark.parametrize("status", ["ERROR", "CANCELLED", "FAILED"])
async def test_a_wait_lives_through_faults_and_ends_with_an_error_of_the_check(status: str) -> None:
    get = {"method": "GET", "path": "release_check"}
    with sandbox_of({"status": status}) as sandbox:
        sandbox.set_faults([{"on": get, "kind": "status", "status": 503, "times": 2}, {"on": get, "kind": "html"}])
        credentials = credentials_for(sandbox)

        @flow
        async def release() -> str:
            started = await astart_release_check(credentials, REQUEST)
            return (await await_for_release_check(credentials, started, 60, polling=POLLING)).status

        assert await release() == status


async def test_a_mistyped_id_is_believed_at_once(credentials: QATechCredentials) -> None:
    @flow
    async def release() -> None:
        with pytest.raises(NotFoundError):
            await await_for_release_check(credentials, "nowhere", polling=POLLING)

    await release()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"check": "a/b"}, "a/b"),
        ({"check": "abc", "timeout_seconds": -1}, "timeout_seconds"),
        ({"check": "abc", "timeout_seconds": "1"}, "timeout_seconds"),
    ],
)
async def test_what_is_wrong_with_a_wait_is_told_before_anything_is_sent(
    sandbox: Sandbox, credentials: QATechCredentials, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        await await_for_release_check.fn(credentials, **arguments)
    assert sandbox.requests() == []


async def test_what_is_no_request_starts_nothing(sandbox: Sandbox, credentials: QATechCredentials) -> None:
    with pytest.raises(InvalidInputError, match="QATechReleaseCheckRequest"):
        await astart_release_check.fn(credentials, "pln_green")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="needs changes, regression or pr_url"):
        QATechReleaseCheckRequest(release_name="v9")
    assert posts(sandbox) == []


async def test_the_projects_place_is_no_part_of_what_is_asked(sandbox: Sandbox) -> None:
    request = QATechReleaseCheckRequest(regression=QATechRegression(test_plan_short_id="pln_green"))

    @flow
    async def release() -> None:
        await start(sandbox, request, label="a")
        with pytest.raises(LedgerConflict, match="is on record at"):
            await start(sandbox, request.model_copy(update={"project_short_id": "proj_other"}), label="a")

    await release()
    assert len(posts(sandbox)) == 1


# --- what is shown of it


@pytest.mark.parametrize("told", [None, "none", {"title": "x"}, ["x"], [{"title": "x"}, 7]])
def test_findings_that_cannot_be_read_leave_the_check_incomplete(told: Any) -> None:
    check = QATechReleaseCheck.model_validate({"shortId": "c", "status": "COMPLETED", "findings": told})
    assert check.findings_are_unreadable
    assert not report_release_check(check).is_complete
    again = QATechReleaseCheck.model_validate(check.model_dump(mode="json"))
    assert again.findings_are_unreadable


@pytest.mark.parametrize(("flag", "blockers"), [(True, 1), (False, 0), (None, 1), ("no", 1)])
def test_a_finding_that_may_be_a_blocker_counts_as_one(flag: Any, blockers: int) -> None:
    check = QATechReleaseCheck.model_validate({"status": "COMPLETED", "findings": [{"title": "x", "isBlocker": flag}]})
    assert report_release_check(check).blocker_count == len(check.blockers) == blockers


def a_check(text: str, count: int = 1) -> QATechReleaseCheck:
    item = {"title": text, "category": text, "severity": text, "description": text, "recommendation": text}
    return QATechReleaseCheck.model_validate(
        {
            "shortId": text or "x",
            "url": text,
            "status": text,
            "summary": text,
            "categories": [{"name": text, "score": 1, "summary": text}] * count,
            "findings": [{**item, "isBlocker": number == count - 1} for number in range(count)],
            "manualFollowUps": [text] * count,
        }
    )


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_of_a_check_show_as_text(kind: str) -> None:
    page = render(render_release_check(report_release_check(a_check(HOSTILE[kind]))))
    assert page.tags <= {"h2", "h3", "p", "ul", "li", "strong", "wbr"}
    assert page.links == []
    assert page.images == []


@given(text=st.text(max_size=3_000), count=st.integers(0, 200), max_bytes=st.integers(500, 20_000))
def test_a_check_of_any_size_fits(text: str, count: int, max_bytes: int) -> None:
    check = report_release_check(a_check(text, count))
    assert len(check.model_dump_json().encode()) < 400_000
    assert len(render_release_check(check, max_bytes=max_bytes).encode()) <= max_bytes
    assert len(check.findings) == min(count, MAX_ITEMS)
    assert check.finding_count == count
    if count:
        assert check.findings[0].is_blocker
        assert check.blocker_count == 1
