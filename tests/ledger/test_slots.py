"""Which slot a call means, and that no sequence of attempts starts too much."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_qatech import (
    LedgerConflict,
    NotFoundError,
    QATechRunRecord,
    StartOutcomeUnknown,
    ledger,
)
from prefect_qatech._sync import run_sync
from prefect_qatech.ledger import Call, Chain, Ledger, resolve
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


DEPLOYED = {"is_ordered_by_prefect": True}


@pytest.mark.parametrize("is_open", [False, True], ids=["with its run", "open"])
def test_a_deployment_that_is_run_in_another_order_by_the_next_attempt_is_a_conflict(is_open: bool) -> None:
    left = entry(call("check-0/0", **DEPLOYED), is_open=is_open)
    with pytest.raises(LedgerConflict, match="label") as caught:
        resolve(call("check-1/0", chain=SECOND, **DEPLOYED), [left])
    assert caught.value.slot == left.slot
    assert caught.value.run_short_id == (None if is_open else "abc123")


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
