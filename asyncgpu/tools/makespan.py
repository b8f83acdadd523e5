"""`Makespan`: how long a run took, and what no schedule could have beaten."""

from __future__ import annotations

import math

__all__ = ["Makespan"]


class Makespan:
    """Adds micro-batches up as they come back, by the seconds measured in the workers."""

    def __init__(self) -> None:
        self._began = math.inf
        self._ended = 0.0
        self._spent = 0.0
        self._longest = 0.0
        self._slots: set[int] = set()

    def add(self, slot: int, started: float, seconds: float) -> None:
        """Count a micro-batch: its slot, its start on the loop's clock, its time in the tool."""
        self._began = min(self._began, started)
        self._ended = max(self._ended, started + seconds)
        self._spent += seconds
        self._longest = max(self._longest, seconds)
        self._slots.add(slot)

    @property
    def span(self) -> tuple[float, float] | None:
        """The makespan and its lower bound, max(sum / slots, longest), in seconds.

        None before the first answer.
        """
        if not self._slots:
            return None
        return self._ended - self._began, max(self._spent / len(self._slots), self._longest)
