"""A clock that only moves when somebody sleeps."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from prefect_qatech.polling.wait import Surroundings

T = TypeVar("T")


class _NoWaiting(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    now = 1000.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is not None:
            self.now += max(0.0, timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._no_waiting = _NoWaiting()
        super().__init__(self._no_waiting)

    def time(self) -> float:
        return self._no_waiting.now


def run_at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run what only sleeps, and asks nobody outside, in a loop whose time passes at once."""
    loop = _Loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class VirtualTime:
    """Time that passes at once; begins at 1000, so that nothing can take it for the time that has passed."""

    began = 1000.0

    def __init__(self) -> None:
        self.now = self.began
        self.sleeps: list[float] = []

    @property
    def elapsed(self) -> float:
        """How long ago it began."""
        return self.now - self.began

    def pass_by(self, seconds: float) -> None:
        """Let time go by without a sleep, as a slow answer does."""
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0, "a sleep of nothing is a busy loop"
        self.sleeps.append(seconds)
        assert len(self.sleeps) < 10_000, "this goes on for ever"
        self.now += seconds

    @property
    def surroundings(self) -> Surroundings:
        """What a wait is handed, without any chance in it."""
        return Surroundings(sleep=self.sleep, clock=lambda: self.now, random=lambda: 0.5)
