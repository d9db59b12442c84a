"""What the soak's sandbox serves: plans of which it is known what may come of them, and faults from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

APPLICATION = "app_soak"
SPEED = 10.0
"""Virtual seconds of the sandbox in a real one: a run takes 3 to 10 real seconds."""
LONG_SECONDS = 300.0
REQUEST_SECONDS = 6.0
"""The clients' time limit for a request; one of the faults takes longer."""
MAX_RERUNS = 2


@dataclass(frozen=True)
class Kind:
    """A plan and the truth about it.

    Attributes:
        name: Its name; `plan` is its short id.
        weight: How often it is chosen.
        undisturbed: The verdict where nothing stood in the way of a gate.
        passes_after: The reruns without which it cannot pass; None is never.
        run: How its runs behave.
        outcomes: What comes of its one peculiar test case, per attempt; none for a plan without test cases.
        deadlines: One of these is the gate's.
        test_count_offset: How far the promised number of test cases is off.
    """

    name: str
    weight: int
    undisturbed: str
    passes_after: int | None = None
    run: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    outcomes: tuple[str | Mapping[str, Any], ...] = ("passed",)
    deadlines: tuple[float, ...] = (LONG_SECONDS,)
    test_count_offset: int = 0

    @property
    def plan(self) -> str:
        return f"pln_{self.name}"

    def can_pass_after(self, reruns: int) -> bool:
        """Whether a campaign of so many reruns can have passed."""
        return self.passes_after is not None and reruns >= self.passes_after

    def to_plan(self) -> dict[str, Any]:
        peculiar = {"name": f"The {self.name} one", "duration_seconds": 40, "outcomes": list(self.outcomes)}
        usual = [] if self.outcomes in ((), ("skipped",)) else ["Sign in", "Search"]
        return {
            "short_id": self.plan,
            "name": self.name,
            "run": self.run,
            "test_count_offset": self.test_count_offset,
            "test_cases": [*usual, *([peculiar] if self.outcomes else [])],
        }


KINDS = (
    Kind("green", 5, "pass", 0),
    Kind("flaky", 6, "pass", 1, outcomes=("failed", "passed")),
    Kind("stubborn", 4, "pass", 2, outcomes=("failed", "failed", "passed")),
    Kind("error_once", 2, "pass", 1, run=[{"status": "ERROR", "after_seconds": 30}, {}]),
    # The deadline is in the middle of its rerun, as often as not.
    Kind("hurried", 3, "pass", 1, outcomes=("failed", "passed"), deadlines=(5.0, 7.0, 9.0, 14.0)),
    # What it came to is in the details alone: without them it failed.
    Kind("platform", 3, "inconclusive", outcomes=("platform_error",)),
    Kind("late", 2, "pass", 0, run=[{"result_delay_seconds": 50}]),
    Kind("broken", 3, "fail", outcomes=("failed",)),
    Kind("skipped", 2, "inconclusive", outcomes=("skipped",)),
    Kind("empty", 1, "inconclusive", outcomes=()),
    Kind("never", 2, "inconclusive", run=[{"never_ends": True}], deadlines=(15.0,)),
    Kind("error", 2, "inconclusive", run=[{"status": "ERROR", "after_seconds": 30}]),
    # The settle window of a wait is a minute: with the longer deadline it is the window that ends it.
    Kind("null", 2, "inconclusive", run=[{"result": None}], outcomes=({"result": None},), deadlines=(20.0, 20.0, 90.0)),
    # All its tests passed, and yet it never says what the run came to.
    Kind("unsaid", 1, "inconclusive", run=[{"result": None}]),
    Kind("short", 2, "inconclusive", test_count_offset=1),
    Kind("cancelled", 1, "inconclusive", run=[{"status": "CANCELLED", "after_seconds": 30}]),
)


def scenario() -> dict[str, Any]:
    """Give the sandbox's scenario."""
    return {
        "applications": [{"short_id": APPLICATION, "name": "Soak"}],
        "test_cases": [{"name": "Sign in", "duration_seconds": 20}, {"name": "Search", "duration_seconds": 30}],
        "plans": [kind.to_plan() for kind in KINDS],
    }


# Per request; the probabilities of all that happens to a request add up to about 0.2 for a start, 0.3 for a
# rerun, 0.15 for a poll and 0.35 for the details of a test.
_OF_ANY: tuple[Mapping[str, Any], ...] = (
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 502},
    {"kind": "status", "status": 503},
    {"kind": "status", "status": 503, "retry_after": 2, "probability": 0.02},
    {"kind": "status", "status": 429, "retry_after": 1, "probability": 0.02},
    {"kind": "drop_before"},
    {"kind": "drop_before", "reset": True},
    {"kind": "drop_after"},
    {"kind": "half"},
    {"kind": "broken_json"},
    {"kind": "html"},
)
# Each of them is the end of a rerun, and not of the gate.
_OF_A_RERUN: tuple[Mapping[str, Any], ...] = tuple(
    {"kind": "status", "probability": 0.015, **refusal}
    for refusal in (
        {"status": 400},
        {"status": 401},
        {"status": 402},
        {"status": 403},
        {"status": 404},
        {"status": 429, "retry_after": 600},
    )
)
# Lost for good, when it comes again and again.
_OF_DETAILS: tuple[Mapping[str, Any], ...] = (
    {"kind": "status", "status": 404, "probability": 0.1},
    {"kind": "status", "status": 500, "probability": 0.1},
)
# What a proxy says now and then among good polls.
_OF_A_POLL: tuple[Mapping[str, Any], ...] = tuple(
    {"kind": "status", "status": status, "probability": 0.002} for status in (401, 403, 404, 409, 451)
)
_OF_A_GET: tuple[Mapping[str, Any], ...] = ({"kind": "latency", "seconds": 1.5, "probability": 0.03},)
_OF_A_POST: tuple[Mapping[str, Any], ...] = (
    {"kind": "latency", "seconds": 2.5, "accepted": True, "probability": 0.06},
    {"kind": "latency", "seconds": 2.5, "accepted": False, "probability": 0.03},
    {"kind": "latency", "seconds": REQUEST_SECONDS + 2, "accepted": True},
    {"kind": "status", "status": 502, "accepted": True},
)


def faults(rng: random.Random) -> list[dict[str, Any]]:
    """Give the sandbox's faults, each with a seed of its own."""
    own = {
        "start": _OF_A_POST,
        "rerun": (*_OF_A_RERUN, *_OF_A_POST),
        "status": (*_OF_A_POLL, *_OF_A_GET),
        "test_case": (*_OF_DETAILS, *_OF_A_GET),
    }
    return [
        {"probability": 0.008, **fault, "on": {"path": path}, "times": -1, "seed": rng.randrange(2**32)}
        for path, more in own.items()
        for fault in (*more, *_OF_ANY)
    ]
