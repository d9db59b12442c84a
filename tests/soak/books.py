"""Pure: holds what the gates say against what the sandbox counted and what the ledgers on the Prefect server hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.soak.scenario import MAX_RERUNS, Kind

# A start that QA.tech surely did not take, until the task's retries were used up.
_REFUSED = ("RateLimitedError", "ServerError")


@dataclass(frozen=True)
class Gate:
    """A gate of the soak: the flow run's tag and the gate's label name it; half of them say what they test."""

    tag: str
    label: str
    kind: Kind
    deadline_seconds: float
    target: str | None = None

    @property
    def name(self) -> str:
        return f"{self.tag}-{self.label}"


@dataclass(frozen=True)
class Told:
    """What a flow run wrote down.

    Attributes:
        answers: For each attempt that came to its end, in order: its run count, and gate name to what came of it.
        passes: Each time a gate passed, written at once: the gate, the run count, the campaign's first run.
    """

    answers: list[tuple[int, dict[str, dict[str, Any]]]] = field(default_factory=list)
    passes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def last(self) -> dict[str, dict[str, Any]]:
        return self.answers[-1][1] if self.answers else {}

    @property
    def last_attempt(self) -> int:
        return self.answers[-1][0] if self.answers else 0


@dataclass
class Books:
    """What was found out. `wrongs` are sentences; each makes one of the zeros something else."""

    starts: int = 0
    starts_after_a_pass: int = 0
    reruns: int = 0
    double_starts: int = 0
    double_reruns: int = 0
    unrecorded: int = 0
    wrong_pass: int = 0
    old_pass: int = 0
    bare_errors: int = 0
    unexplained: int = 0
    not_ended: int = 0
    unheard: int = 0
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    incidents: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)

    @property
    def ended(self) -> int:
        return sum(self.verdicts.values())


def reckon(
    gates: Iterable[Gate],
    told: Mapping[str, Told],
    runs: Sequence[Mapping[str, Any]],
    ledgers: Mapping[str, Mapping[str, str]],
    repeated: Collection[str],
) -> Books:
    """Settle the accounts.

    Args:
        gates: All gates.
        told: Tag to what its flow run wrote down.
        runs: The sandbox's list of runs, which it accepted, whoever got to know of it; the oldest first.
        ledgers: Tag to the rows of its flow run's ledger.
        repeated: Short ids of the runs that somebody asked the sandbox to repeat, accepted or not.

    Returns:
        The books.
    """
    books = Books()
    by_gate: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_gate.setdefault(gate_of(run["applications"]), []).append(run)
    for gate in gates:
        accepted, rows = by_gate.pop(gate.name, []), ledgers.get(gate.tag, {})
        _count(books, gate, accepted, rows)
        _judge(books, gate, accepted, told.get(gate.tag, Told()))
        _look_for_bare_errors(books, gate, accepted, told.get(gate.tag, Told()), repeated)
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


def _slots(rows: Mapping[str, str], gate: Gate) -> tuple[_Slots, _Slots]:
    """Give a gate's slots of starts and of reruns."""
    intents = [json.loads(value) for key, value in rows.items() if key.endswith("-intent")]
    label = gate.label if gate.target is None else f"{gate.label} of {gate.target}"
    first = [one["slot"] for one in intents if one["kind"] == "start" and one["label"] == label]
    later = [one for one in intents if one["campaign"] is not None]
    again = [one["slot"] for one in later if one["kind"] == "start" and one["campaign"][0] in first]
    starts = [*first, *again]
    reruns = [one["slot"] for one in later if one["kind"] == "rerun" and one["campaign"][0] in starts]

    def with_runs(slots: list[str]) -> _Slots:
        done = [rows[f"qatech-{slot}-done"] for slot in slots if f"qatech-{slot}-done" in rows]
        return _Slots(len(slots), [json.loads(row)["run_short_id"] for row in done])

    return with_runs(starts), with_runs(reruns)


def _campaigns(accepted: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Give the short ids of each start with those of its reruns, in the order of the starts."""
    campaigns: list[list[str]] = []
    for run in accepted:
        of = next((one for one in campaigns if run["parent"] in one), None)
        if of is None:
            campaigns.append([run["short_id"]])
        else:
            of.append(run["short_id"])
    return campaigns


def _count(books: Books, gate: Gate, accepted: Sequence[Mapping[str, Any]], rows: Mapping[str, str]) -> None:
    starts = [run["short_id"] for run in accepted if run["parent"] is None]
    reruns = [run["short_id"] for run in accepted if run["parent"] is not None]
    start_slots, rerun_slots = _slots(rows, gate)
    campaigns = _campaigns(accepted)
    books.starts += len(starts)
    books.reruns += len(reruns)
    for before in campaigns[: len(starts) - 1]:
        # Without a target a pass is good for its attempt of the flow run only, so a later one tests again.
        if gate.target is None and gate.kind.can_pass_after(len(before) - 1):
            books.starts_after_a_pass += 1
        else:
            books.double_starts += 1
            books.wrongs.append(f"{gate.name} (target {gate.target}): started {len(starts)} times: {campaigns}")
    # A slot is one POST: reruns beyond the slots, and more than the budget, were sent twice.
    over_budget = sum(max(0, len(campaign) - 1 - MAX_RERUNS) for campaign in campaigns)
    beyond = max(len(reruns) - rerun_slots.count, over_budget)
    if beyond > 0:
        books.double_reruns += beyond
        books.wrongs.append(f"{gate.name}: reruns in {campaigns} for {rerun_slots.count} slots")
    for what, seen, slots in (("starts", starts, start_slots), ("reruns", reruns, rerun_slots)):
        recorded = set(slots.runs)
        unheard = set(seen) - recorded
        books.unheard += len(unheard)
        # A run that is not on record must be that of an open intent; a run on record must be one that was accepted.
        if len(unheard) > slots.count - len(slots.runs) or recorded - set(seen) or len(recorded) < len(slots.runs):
            books.unrecorded += 1
            books.wrongs.append(f"{gate.name}: {what} {seen}; the ledger has {slots.count} slots, with {slots.runs}")


def _judge(books: Books, gate: Gate, accepted: Sequence[Mapping[str, Any]], told: Told) -> None:
    kind, answer = gate.kind, told.last.get(gate.name)
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
    verdict, found = answer["verdict"], answer["runs"]
    books.verdicts[kind.name, verdict] += 1
    books.incidents.update(answer["incidents"] + ["details lost"] * answer["causes_unknown"])
    is_explained = bool(answer["incidents"] or answer["causes_unknown"])
    if verdict == "pass" and not (kind.can_pass_after(len(found) - 1) and found in _campaigns(accepted)):
        books.wrong_pass += 1
        books.wrongs.append(f"{gate.name} ({kind.name}): PASS with {found} of {_campaigns(accepted)}")
    elif verdict != kind.undisturbed and (verdict == "pass" or not is_explained):
        books.unexplained += 1
        books.wrongs.append(f"{gate.name} ({kind.name}): {verdict} and no incident: {' '.join(answer['reasons'])}")
    earlier = [one for one in told.passes if one["gate"] == gate.name and one["attempt"] < told.last_attempt]
    if verdict == "pass" and gate.target is None and any(one["first"] == found[0] for one in earlier):
        books.old_pass += 1
        books.wrongs.append(f"{gate.name}: attempt {told.last_attempt} passes on {found[0]}, as {earlier} did")


def _look_for_bare_errors(
    books: Books, gate: Gate, accepted: Sequence[Mapping[str, Any]], told: Told, repeated: Collection[str]
) -> None:
    """Count the errors, in any attempt, that a gate whose first run had been judged ended with instead of a report."""
    campaigns = _campaigns(accepted)
    if not campaigns or not any(run in repeated for run in campaigns[-1]):
        return
    for attempt, answers in told.answers:
        answer = answers.get(gate.name, {})
        passed_before = any(one["gate"] == gate.name and one["attempt"] < attempt for one in told.passes)
        # What Prefect's own flow run came to grief with is not the gate's, and nor is the start of the next campaign.
        if "error" in answer and answer["is_in_gate"] and not passed_before:
            books.bare_errors += 1
            books.wrongs.append(
                f"{gate.name}: a bare {answer['error']} after {campaigns[-1]}: {answer['message'][:300]}"
            )
