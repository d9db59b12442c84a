"""Pure: holds what the gates say against what the sandbox counted and what the ledgers on the Prefect server hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.soak.scenario import MAX_RERUNS, Kind

# A start that QA.tech surely did not take, until the task's retries were used up.
_REFUSED = ("RateLimitedError", "ServerError")


@dataclass(frozen=True)
class Gate:
    """A gate of the soak: the flow run's tag and the gate's label name it."""

    tag: str
    label: str
    kind: Kind
    deadline_seconds: float

    @property
    def name(self) -> str:
        return f"{self.tag}-{self.label}"


@dataclass
class Books:
    """What was found out. `wrongs` are sentences; each makes one of the zeros something else."""

    starts: int = 0
    reruns: int = 0
    double_starts: int = 0
    double_reruns: int = 0
    unrecorded: int = 0
    wrong_pass: int = 0
    unexplained: int = 0
    not_ended: int = 0
    unheard: int = 0
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)

    @property
    def ended(self) -> int:
        return sum(self.verdicts.values())


def reckon(
    gates: Iterable[Gate],
    answers: Mapping[str, Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
    ledgers: Mapping[str, Mapping[str, str]],
) -> Books:
    """Settle the accounts.

    Args:
        gates: All gates.
        answers: Gate name to what the gate says came of it.
        runs: The sandbox's list of runs, which it accepted, whoever got to know of it.
        ledgers: Tag to the rows of its flow run's ledger.

    Returns:
        The books.
    """
    books = Books()
    by_gate: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_gate.setdefault(gate_of(run["applications"]), []).append(run)
    gates = list(gates)
    for gate in gates:
        accepted = by_gate.pop(gate.name, [])
        _count(books, gate, accepted, ledgers.get(gate.tag, {}))
        _judge(books, gate, accepted, answers.get(gate.name))
    for name in by_gate:
        books.unrecorded += 1
        books.wrongs.append(f"{name}: a run that belongs to no gate")
    return books


def gate_of(applications: Sequence[Mapping[str, Any]]) -> str:
    """Name the gate that a run, or a request for one, belongs to."""
    return "".join(str(one["environment"]["url"]).rpartition("/")[2] for one in applications)


@dataclass(frozen=True)
class _Slots:
    """The slots of one kind that a gate has in its flow run's ledger, and the runs that they hold."""

    count: int
    runs: list[str]


def _slots(rows: Mapping[str, str], label: str) -> tuple[_Slots, _Slots]:
    """Give a gate's slots of starts and of reruns."""
    intents = [json.loads(value) for key, value in rows.items() if key.endswith("-intent")]
    starts = [one["slot"] for one in intents if one["kind"] == "start" and one["label"] == label]
    # A rerun's label is made of the slot of its gate's start.
    reruns = [one["slot"] for one in intents if one["kind"] == "rerun" and one["label"].rpartition("/")[0] in starts]

    def with_runs(slots: list[str]) -> _Slots:
        done = [rows[f"qatech-{slot}-done"] for slot in slots if f"qatech-{slot}-done" in rows]
        return _Slots(len(slots), [json.loads(row)["run_short_id"] for row in done])

    return with_runs(starts), with_runs(reruns)


def _count(books: Books, gate: Gate, accepted: Sequence[Mapping[str, Any]], rows: Mapping[str, str]) -> None:
    starts = [run["short_id"] for run in accepted if run["parent"] is None]
    reruns = [run["short_id"] for run in accepted if run["parent"] is not None]
    start_slots, rerun_slots = _slots(rows, gate.label)
    books.starts += len(starts)
    books.reruns += len(reruns)
    if len(starts) > 1:
        books.double_starts += len(starts) - 1
        books.wrongs.append(f"{gate.name}: started {len(starts)} times: {starts}")
    # A slot is one POST: reruns beyond the slots, and more than the budget, were sent twice.
    beyond = len(reruns) - min(rerun_slots.count, MAX_RERUNS)
    if beyond > 0:
        books.double_reruns += beyond
        books.wrongs.append(f"{gate.name}: {len(reruns)} reruns {reruns} for {rerun_slots.count} slots")
    for what, seen, slots in (("starts", starts, start_slots), ("reruns", reruns, rerun_slots)):
        recorded = set(slots.runs)
        unheard = set(seen) - recorded
        books.unheard += len(unheard)
        # A run that is not on record must be that of an open intent; a run on record must be one that was accepted.
        if len(unheard) > slots.count - len(slots.runs) or recorded - set(seen) or len(recorded) < len(slots.runs):
            books.unrecorded += 1
            books.wrongs.append(f"{gate.name}: {what} {seen}; the ledger has {slots.count} slots, with {slots.runs}")


def _judge(books: Books, gate: Gate, accepted: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None) -> None:
    kind, reruns = gate.kind, sum(run["parent"] is not None for run in accepted)
    if answer is None:
        books.not_ended += 1
        books.wrongs.append(f"{gate.name} ({kind.name}): did not end")
        return
    if "error" in answer:
        error = answer["error"]
        if error == "StartOutcomeUnknown" or (error in _REFUSED and not accepted):
            books.verdicts[kind.name, "outcome unknown" if error == "StartOutcomeUnknown" else "refused"] += 1
        else:
            books.not_ended += 1
            books.wrongs.append(f"{gate.name} ({kind.name}): ended with {error}: {answer['message'][:300]}")
        return
    verdict = answer["verdict"]
    books.verdicts[kind.name, verdict] += 1
    if verdict == "pass" and (kind.passes_after is None or reruns < kind.passes_after or not accepted):
        books.wrong_pass += 1
        books.wrongs.append(f"{gate.name} ({kind.name}): PASS with {len(accepted)} runs")
    elif verdict != kind.undisturbed and (verdict == "pass" or not answer["incidents"]):
        books.unexplained += 1
        books.wrongs.append(f"{gate.name} ({kind.name}): {verdict} and no incident: {' '.join(answer['reasons'])}")
