"""The sandbox's virtual time."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone

__all__ = ["Clock"]


class Clock:
    """Virtual seconds since the start; `speed` of them pass in a real second. With 0 it is a manual clock."""

    def __init__(self, speed: float = 60.0) -> None:
        if not (math.isfinite(speed) and speed >= 0):
            raise ValueError(f"speed is virtual seconds per real second, 0 for a clock that is advanced: not {speed}")
        self.speed = speed
        self._epoch = datetime.now(timezone.utc)
        self._start = time.monotonic()
        self._advanced = 0.0

    def now(self) -> float:
        """Return the virtual time."""
        return self._advanced + (time.monotonic() - self._start) * self.speed

    def advance(self, seconds: float) -> None:
        """Move a manual clock on."""
        if self.speed:
            raise ValueError("only a manual clock (speed 0) can be advanced")
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"the clock goes forward only: not by {seconds}")
        self._advanced += seconds

    def text(self, moment: float | None) -> str | None:
        """Return a virtual time as ISO 8601; None for None, and for a time beyond all calendars."""
        if moment is None:
            return None
        try:
            return (self._epoch + timedelta(seconds=moment)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        except OverflowError:
            return None
