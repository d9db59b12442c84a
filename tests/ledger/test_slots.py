"""Which slot a call means, and that no sequence of attempts starts too much."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any, Literal
from uuid import uuid4

import pytest
from hypothesis import given, settings, strategies as st
from prefect.client.schemas.objects import FlowRunInput

from prefect_qatech import (
    InvalidInputError,
    LedgerConflict,
    NotFoundError,
    QATechLedgerEntry,
    QATechRunRecord,
    StartOutcomeUnknown,
    ledger,
)
from prefect_qatech._sync import run_sync
from prefect_qatech.api.responses import QATechRun, QATechStartedRun
from prefect_qatech.ledger import Call, Chain, Ledger, attached_run, resolve, service_of
from prefect_qatech.ledger.slots import (
    conflict,
    done_row,
    entries_of,
    record_of,
    same_attempt,
    short_id_of,
    starts_not_repeated,
)
from tests.ledger.books import (
    FIRST,
    SECOND,
    Killed,
    Rows,
    a_run,
    call,
    entry,
)


@pytest.mark.parametrize("chain", [FIRST, SECOND], ids=["same attempt", "next attempt"])
@pytest.mark.parametrize("is_open", [False, True], ids=["with its run", "open"])
def test_the_same_place_is_the_same_slot(chain: Chain, is_open: bool) -> None:
    recorded = entry(call("0"), is_open=is_open)
    assert resolve(call("0", chain=chain), [entry(call("1")), recorded]) is recorded


def test_nothing_recorded_is_a_new_call() -> None:
    assert resolve(call(), []) is None


def test_a_slot_knows_kind_request_place_and_label_apart() -> None:
    calls = [call(), call("1"), call(asks="B"), call(label="one"), call(label="two")]
    rerun = Call(kind="rerun", what="", fingerprint="A", chain=FIRST)
    assert len({each.slot for each in [*calls, rerun]}) == 6
    assert call(label="one").slot == call("7", asks="B", label="one", chain=SECOND).slot


def test_a_label_finds_its_slot_at_any_place_and_conflicts_with_none() -> None:
    recorded = entry(call("0", label="one"))
    assert resolve(call("sub:sub-3/1", label="one", chain=SECOND), [recorded]) is recorded
    assert resolve(call(label="two", chain=SECOND), []) is None


def test_a_slot_has_the_name_that_earlier_versions_gave_it() -> None:
    """Else a retry after an upgrade would not find what is on record."""
    known = ledger.fingerprint("start", {"plan": "pln_smoke", "on": date(2026, 9, 1)})
    assert known == "8d0604bbbf5a397475c872bc6dc6144c"
    asked = Call(kind="start", what="a start", fingerprint=known, place="gate-0/1")
    slots = {
        "request": asked,
        "label": replace(asked, label="nightly"),
        "campaign": replace(asked, kind="rerun", campaign=("a-b", 2)),
        "check": replace(asked, makes="release check"),
    }
    assert {name: each.slot for name, each in slots.items()} == {
        "request": "e4b298a1f5b58729-f1b677091e88454f",
        "label": "5ef1e4ffd46986fa-label",
        "campaign": "d2f0372ad7aabdf6-campaign",
        "check": "58885a62b55d3de4-f1b677091e88454f",
    }


DEPLOYED = {"is_ordered_by_prefect": True}


@pytest.mark.parametrize("is_open", [False, True], ids=["with its run", "open"])
def test_a_deployment_that_is_run_in_another_order_by_the_next_attempt_is_a_conflict(is_open: bool) -> None:
    left = entry(call("check-0/0", **DEPLOYED), is_open=is_open)
    with pytest.raises(LedgerConflict, match="label") as caught:
        resolve(call("check-1/0", chain=SECOND, **DEPLOYED), [left])
    assert caught.value.slot == left.slot
    assert caught.value.run_short_id == (None if is_open else "abc123")
    assert caught.value.run_url == (None if is_open else "https://app.qa.tech/abc123")
    came_of_it = "outcome unknown" if is_open else "run abc123 (https://app.qa.tech/abc123)"
    assert caught.value.message == (
        f"An earlier attempt of this flow run has recorded POST /v1/run (A) ({came_of_it}) in another of the "
        "deployments that it runs, so it cannot be told whether this call means that one. Nothing was sent. "
        "Give each of the calls a label of its own, which settles it in any order."
    )


def test_only_the_deployments_around_a_call_tell_of_another_order() -> None:
    left = entry(call("all/check-0/0", **DEPLOYED))
    with pytest.raises(LedgerConflict):
        resolve(call("all/check-1/0", chain=SECOND, **DEPLOYED), [left])
    assert resolve(call("all/check-0/1", chain=SECOND, **DEPLOYED), [left]) is None
    # Where the calls number themselves, a sub-flow that the first attempt did not reach is a new one.
    assert resolve(call("all/check-1/0", chain=SECOND), [left]) is None


def test_deployments_in_the_order_of_the_first_attempt_are_no_conflict() -> None:
    first, second = entry(call("check-0/0", **DEPLOYED)), entry(call("check-1/0", **DEPLOYED))
    assert resolve(call("check-1/0", **DEPLOYED), [first]) is None
    assert resolve(call("check-1/0", chain=SECOND, **DEPLOYED), [first, second]) is second
    assert resolve(call("check-0/1", chain=SECOND, **DEPLOYED), [first]) is None, "a second call in the same one"
    assert resolve(call(label="one", chain=SECOND, **DEPLOYED), []) is None


def test_a_sub_flow_that_is_retried_alone_gets_its_own_slot_and_never_a_siblings() -> None:
    one, other = (("root", 1), ("one", 1)), (("root", 1), ("other", 1))
    mine, siblings = entry(call("sub:sub-0/0", chain=one)), entry(call("sub:sub-1/0", chain=other))
    again: Chain = (("root", 1), ("one", 2))
    assert resolve(call("sub:sub-0/0", chain=again), [siblings, mine]) is mine
    # A second call in it, which its first attempt had not reached: what the sibling has started is not its own.
    assert resolve(call("sub:sub-0/1", chain=again), [siblings, entry(call("sub:sub-0/0", chain=again))]) is None
    assert resolve(call("sub:sub-0/0", chain=again), [siblings]) is None


def test_a_sub_flow_that_is_made_anew_by_a_retried_parent_finds_its_slot() -> None:
    recorded = entry(call("sub:sub-0/0", chain=(("root", 1), ("old", 1))))
    anew: Chain = (("root", 2), ("new", 1))
    assert resolve(call("sub:sub-0/0", chain=anew), [recorded]) is recorded


def test_the_fingerprint_is_equal_for_equal_requests_and_tells_nothing() -> None:
    one = ledger.fingerprint("https://api.qa.tech", {"b": 1, "a": "hunter2"})
    assert one == ledger.fingerprint("https://api.qa.tech", {"a": "hunter2", "b": 1})
    assert one != ledger.fingerprint("https://api.qa.tech", {"a": "hunter3", "b": 1})
    assert "hunter2" not in one


# --- what was started, and not asked for again


EARLIER = entry(call(asks="B"))


def not_repeated(asked: Call, *entries: QATechLedgerEntry, families: frozenset[str] = frozenset()) -> list[str]:
    return [found.slot for found in starts_not_repeated(asked, entries or [EARLIER], families)]


def test_a_start_at_the_place_of_another_one_of_an_earlier_attempt_is_noticed() -> None:
    second = entry(call(asks="C"))
    assert not_repeated(call(chain=SECOND), EARLIER, second) == [EARLIER.slot, second.slot]


@pytest.mark.parametrize(
    "asked",
    [
        call("1", chain=SECOND),
        call(chain=SECOND, label="one"),
        call(chain=SECOND, campaign=("a", 1)),
        call(chain=SECOND, makes="release check"),
        call(chain=FIRST),
        replace(call(chain=SECOND), kind="rerun"),
    ],
    ids=["another place", "a label", "a gate's", "another thing", "the same attempt", "a rerun"],
)
def test_what_can_be_told_apart_is_no_start_in_its_place(asked: Call) -> None:
    assert not_repeated(asked) == []


@pytest.mark.parametrize(
    "recorded",
    [
        entry(call("1", asks="B")),
        entry(call(asks="B", label="one")),
        entry(call(asks="B", campaign=("a", 1))),
        entry(call(asks="B", makes="release check")),
        entry(call(asks="B", chain=SECOND)),
        entry(replace(call(asks="B"), kind="rerun")),
    ],
    ids=["another place", "a label", "a gate's", "another thing", "the same attempt", "a rerun"],
)
def test_nor_does_it_stand_in_the_place_of_what_can_be_told_apart(recorded: QATechLedgerEntry) -> None:
    assert not_repeated(call(chain=SECOND), recorded) == []


def test_a_start_that_this_attempt_has_asked_for_is_repeated() -> None:
    assert not_repeated(call(chain=SECOND), families=frozenset({EARLIER.family})) == []


def test_attempts_are_the_same_where_they_share_all_that_both_stand_in() -> None:
    assert same_attempt((("root", 1), ("one", 1)), (("root", 1), ("other", 2)))
    assert not same_attempt((("root", 1), ("one", 1)), (("root", 1), ("one", 2)))
    assert not same_attempt((("root", 2),), (("one", 1), ("root", 1)))


# --- what is kept of a run


def test_a_run_is_of_the_plan_that_the_answer_names() -> None:
    answer = {"shortId": "abc123", "url": "https://app.qa.tech/abc123", "testCount": 3}
    named = QATechStartedRun.model_validate({**answer, "testPlan": {"name": "Smoke", "shortId": "pln_smoke"}})
    before = datetime.now(timezone.utc)
    record = record_of("rerun", named, "pln_asked", rerun_of="abc122")
    assert before <= record.started_at <= datetime.now(timezone.utc)
    assert record.model_dump(exclude_defaults=True, exclude={"started_at"}) == {
        "kind": "rerun",
        "run_short_id": "abc123",
        "run_url": "https://app.qa.tech/abc123",
        "test_count": 3,
        "plan_short_id": "pln_smoke",
        "plan_name": "Smoke",
        "rerun_of": "abc122",
    }
    unnamed = record_of("start", QATechStartedRun.model_validate({**answer, "testCount": "many"}), "pln_asked")
    assert (unnamed.kind, unnamed.plan_short_id, unnamed.plan_name) == ("start", "pln_asked", None)
    assert (unnamed.test_count, unnamed.test_count_is_unreadable, unnamed.rerun_of) == (None, True, None)


def test_a_record_says_which_run_it_is() -> None:
    assert str(a_run()) == "run abc123 (https://app.qa.tech/abc123)"
    assert str(a_run().model_copy(update={"run_url": None})) == "run abc123 (address unknown)"
    assert a_run(makes="release check").identity == "release check abc123"


@pytest.mark.parametrize(("kind", "age"), [("start", 60.0), ("rerun", 60.0), ("attached", None)])
def test_the_age_of_a_run(kind: Literal["start", "rerun", "attached"], age: float | None) -> None:
    minute_ago = datetime.now(timezone.utc) - timedelta(minutes=1)
    run = a_run().model_copy(update={"kind": kind, "started_at": minute_ago})
    assert run.age_seconds == (age if age is None else pytest.approx(age, abs=30))
    later = run.model_copy(update={"started_at": minute_ago + timedelta(hours=1)})
    assert later.age_seconds == (None if kind == "attached" else 0), "by a clock that goes ahead"


def test_the_id_of_a_run_is_taken_from_its_record_or_as_it_is() -> None:
    assert short_id_of("abc123") == "abc123"
    assert short_id_of(a_run("an id that looks odd")) == "an id that looks odd"
    with pytest.raises(InvalidInputError):
        short_id_of("an id that looks odd")


def test_a_coroutine_in_the_place_of_a_run_is_named() -> None:
    async def start() -> None: ...

    started: Any = start()
    with pytest.raises(InvalidInputError) as caught:
        short_id_of(started)
    assert str(caught.value) == "the run is a coroutine: `await` is missing before the call that returns it"


# --- rows


def rows(*of: tuple[str, str, datetime | None]) -> dict[str, FlowRunInput]:
    return {key: FlowRunInput(flow_run_id=uuid4(), key=key, value=value, created=created) for key, value, created in of}


def intent(of: QATechLedgerEntry, created: datetime | None = None) -> tuple[str, str, datetime | None]:
    return f"{of.slot}-intent", json.dumps(of.row()), created


def done(of: QATechLedgerEntry) -> tuple[str, str, datetime | None]:
    assert of.run is not None
    return f"{of.slot}-done", done_row(of, of.run), None


def test_a_row_of_a_run_stands_for_its_slot_with_and_without_the_intent() -> None:
    asked = call(asks="B", label="one")
    kept = asked.entry(sent_at=datetime.now(timezone.utc), busy_seconds=7.5, nonce="mine")
    assert (kept.busy_seconds, kept.nonce) == (7.5, "mine")
    kept.run = a_run()
    [alone] = entries_of(rows(done(kept)))
    assert alone == kept
    now = datetime.now(timezone.utc)
    [both] = entries_of(rows(intent(kept, now), done(kept)))
    assert both == kept.model_copy(update={"created": now})
    assert json.loads(done(kept)[1])["nonce"] == "mine", "by which its writer knows it"
    [is_open] = entries_of(rows(intent(kept, now)))
    assert is_open.is_open
    assert not both.is_open


def test_a_row_holds_what_was_asked_for_and_nothing_that_came_later() -> None:
    kept = entry(call())
    kept.created = datetime.now(timezone.utc)
    assert set(kept.row()) == set(QATechLedgerEntry.model_fields) - {"run", "created"}
    assert json.dumps(kept.row())


def test_entries_are_in_the_order_in_which_they_were_written() -> None:
    now = datetime.now(timezone.utc)
    one, two, three = (
        call(asks=asks).entry(sent_at=now + timedelta(seconds=seconds), busy_seconds=0, nonce="")
        for asks, seconds in (("A", 2), ("B", 1), ("C", 3))
    )
    assert entries_of(rows(intent(one), intent(two), intent(three))) == [two, one, three]
    assert entries_of(rows(("another-thing", "", None), intent(one))) == [one]


@pytest.mark.parametrize("key", ["a-b-intent", "a-b-done"])
def test_a_row_that_cannot_be_read_is_a_conflict_that_names_it(key: str) -> None:
    with pytest.raises(LedgerConflict) as caught:
        entries_of(rows((key, '{"slot": 1}', None)))
    assert caught.value.message.startswith(f"The ledger's row {key} cannot be read (")
    assert caught.value.message.endswith(
        " errors); was it written by another version of prefect-qatech? Nothing was sent. Run the flow anew."
    )


def test_a_run_without_what_was_asked_for_cannot_be_read() -> None:
    with pytest.raises(LedgerConflict, match="row a-b-done cannot be read"):
        entries_of(rows(("a-b-done", a_run().model_dump_json(), None)))


def test_a_conflict_says_of_what() -> None:
    error = conflict(entry(call()), "no", "a-flow-run")
    fields = (error.message, error.slot, error.flow_run_id, error.run_short_id, error.run_url)
    assert fields == ("no", call().slot, "a-flow-run", "abc123", "https://app.qa.tech/abc123")
    assert conflict(entry(call(), is_open=True), "no").run_short_id is None


# --- any sequence of attempts, killed anywhere


GATES = st.lists(st.tuples(st.sampled_from("AAB"), st.booleans()), min_size=1, max_size=5)
ATTEMPTS = st.lists(
    st.tuples(
        st.randoms(use_true_random=False),
        st.booleans(),  # whether the order of the calls is another one in this attempt
        st.one_of(st.just(-1), st.integers(0, 14)),  # the step at which it is killed
        st.booleans(),  # whether that step took effect
        st.sampled_from(["accepted", "refused", "lost"]),  # what its first POST comes to
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100)
@given(gates=GATES, attempts=ATTEMPTS, where=st.sampled_from(["flow", "sub-flows", "deployments"]))
def test_no_sequence_of_attempts_starts_more_than_the_gates(
    gates: list[tuple[str, bool]], attempts: list[Any], where: str
) -> None:
    """The real ledger on rows in memory: gates with equal and other inputs, some with a label of their own."""
    rows, root = Rows(), uuid4()
    sent: list[tuple[str, str | None]] = []  # what QA.tech has carried out: input and label
    runs: dict[str, str] = {}  # run -> input

    async def attempt(number: int, order: list[int], first_post: str) -> None:
        held: dict[str, int] = {}
        equal: dict[tuple[str, str | None], int] = {}
        left_to_fail = [first_post]
        for position, gate in enumerate(order):
            asks, labelled = gates[gate]
            label = f"gate-{gate}" if labelled else None
            ordinal = equal[asks, label] = equal.get((asks, label), -1) + 1
            place = {"flow": str(ordinal), "sub-flows": f"gate:{ordinal}/0", "deployments": f"gate-{position}/0"}[where]
            chain: Chain = (("root", number), *([] if where == "flow" else [(str(uuid4()), 1)]))

            async def send(asks: str = asks, label: str | None = label) -> QATechRunRecord:
                what = left_to_fail.pop() if left_to_fail else "accepted"
                if what == "refused":
                    raise NotFoundError("no such plan", status=404)
                await rows.step(lambda: sent.append((asks, label)))
                if what == "lost":
                    raise StartOutcomeUnknown("the answer was lost")
                run = f"run{len(sent)}"
                runs[run] = asks
                return a_run(run)

            asked = call(place, asks=asks, chain=chain, label=label, is_ordered_by_prefect=where == "deployments")
            try:
                record = await Ledger(rows, root).once(asked, send, busy_seconds=0)  # type: ignore[arg-type]
            except LedgerConflict:
                assert where == "deployments", "whose order Prefect tells, whatever each asks for"
                continue
            except (StartOutcomeUnknown, NotFoundError):
                continue
            assert runs[record.run_short_id] == asks, "a gate got the run of another request"
            assert held.setdefault(record.run_short_id, gate) == gate, "two gates of one attempt share a run"

    for number, (random, reorder, kill_at, after_effect, first_post) in enumerate(attempts, 1):
        order = list(range(len(gates)))
        if reorder:
            random.shuffle(order)
        rows.steps, rows.kill_at, rows.after_effect = 0, kill_at, after_effect
        try:
            run_sync(lambda: attempt(number, order, first_post))  # noqa: B023
        except Killed:
            continue
    for asks, label in sent:
        allowed = sum(
            gate_asks == asks and (label is None) != labelled and label in (None, f"gate-{gate}")
            for gate, (gate_asks, labelled) in enumerate(gates)
        )
        assert sent.count((asks, label)) <= allowed, "more starts than gates"


@pytest.mark.parametrize("label", [None, "one"])
async def test_a_first_attempt_writes_without_reading_and_still_starts_once(label: str | None) -> None:
    rows, sent = Rows(), 0

    async def send() -> QATechRunRecord:
        nonlocal sent
        sent += 1
        return a_run()

    async def once(asked: Call) -> QATechRunRecord:
        return await Ledger(rows, uuid4(), connect=lambda: nullcontext(rows)).once(  # type: ignore[arg-type]
            asked, send, busy_seconds=0
        )

    first = call(label=label)
    assert not (await once(first)).is_resumed
    assert rows.reads == 0
    assert (await once(first)).is_resumed, "a second executor of the same attempt"
    assert (await once(call(label=label, chain=SECOND))).is_resumed
    assert sent == 1


@pytest.mark.parametrize("project", ["", ", project proj_shop", ", project a, project b"])
def test_a_service_is_told_from_its_projects(project: str) -> None:
    assert service_of(f"https://api.example.com/v1{project}") == "https://api.example.com/v1"


def test_a_run_that_is_read_later_is_still_of_the_plan_and_the_run_that_its_start_told() -> None:
    attached = attached_run("abc123")
    assert (attached.kind, attached.run_short_id, attached.age_seconds) == ("attached", "abc123", None)
    read = QATechRun(run_short_id="abc123", plan_short_id="pln_other", rerun_of="other")
    assert attached.describe(read) == read
    told = attached.model_copy(update={"plan_short_id": "pln_one", "rerun_of": "first1"}).describe(read)
    assert (told.plan_short_id, told.rerun_of) == ("pln_one", "first1")
