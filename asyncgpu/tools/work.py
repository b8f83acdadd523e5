"""`Work`: what stations take micro-batches from. A batch run is one, the queue of calls another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..ports import Reply
from .assignment import Assignment

__all__ = ["Work", "slots_wanted"]


class Work(Protocol):
    """Items that wait for the stations of one crew. All calls come from the loop's thread."""

    @property
    def priority(self) -> int:
        """Higher goes first."""
        ...

    @property
    def claims(self) -> frozenset[int]:
        """Device claims of the task that submitted it, so that it never waits for itself."""
        ...

    @property
    def finished(self) -> bool:
        """Every item has its outcome."""
        ...

    @property
    def demand(self) -> int:
        """How many stations could be at work on it right now, busy ones included."""
        ...

    def join(self, slot: int) -> None:
        """A station became ready to serve."""
        ...

    def leave(self, slot: int) -> None:
        """A station is no longer there."""
        ...

    def take(self, slot: int) -> Assignment | None:
        """Return the next micro-batch for this station, or None when there is none for it."""
        ...

    def settle(self, assignment: Assignment, reply: Reply) -> None:
        """Report how a micro-batch ended."""
        ...

    def fail(self, error: Exception) -> None:
        """No station can ever serve it: give every item without an outcome this error."""
        ...

    def notice_loading(self, stations: int) -> None:
        """Tell whoever watches the progress how many stations are starting or loading."""
        ...


def slots_wanted(works: Sequence[Work], seats: int) -> int:
    """Return how many stations are worth having for `works`, at most `seats`."""
    return min(seats, sum(work.demand for work in works))
