"""`Work`: what stations take micro-batches from. A batch run is one, the queue of calls another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio

from ..ports import Reply

__all__ = ["Assignment", "Work"]


@dataclass(slots=True, eq=False)
class Assignment:
    """One micro-batch on its way through a worker."""

    work: Work
    batch: Any
    """The work's own handle for it."""
    items: list[Any]
    seeds: list[int] | None = None
    limit: float | None = None
    """Seconds this micro-batch may run; None: as long as it takes."""
    started: float = 0.0
    """When it was sent, on the loop's clock."""
    timed_out: bool = False
    """It outlasted `limit`, and its worker was killed for it."""
    preempted: bool = False
    """Its worker was ended for somebody else; that is not its items' doing."""
    watchers: list[anyio.CancelScope] = field(default_factory=list)
    """Tasks that wait to kill its worker; cancelled when it is answered."""


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
