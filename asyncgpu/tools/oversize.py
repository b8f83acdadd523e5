"""`Oversize`: items that no worker had the memory for, until one more worker has come."""

from __future__ import annotations

from collections.abc import Callable

from ..ports import Reply
from .assignment import Assignment
from .station import Station

__all__ = ["Oversize"]


class Oversize:
    """Holds back the bad news of single items, so that their works do not give them up too early.

    When the station that may stand on a larger device is open, or will not open, each is judged
    again: there may be somebody now who can try the item, or there is nobody.
    """

    def __init__(self, judge: Callable[[Station, Assignment, Reply], None]) -> None:
        """Hold nothing; `judge` is given what was kept back, once there is news."""
        self._judge = judge
        self._kept: list[tuple[Station, Assignment, Reply]] = []
        self.awaited: Station | None = None
        """The station that is waited for; None: nothing is held back."""

    def keep(
        self, station: Station, assignment: Assignment, reply: Reply, awaited: Station
    ) -> None:
        """Hold back how `assignment` ended on `station` until `awaited` opens, or will not."""
        self._kept.append((station, assignment, reply))
        self.awaited = awaited

    def settle(self) -> None:
        """Judge what is held back, if there is nothing to wait for any more."""
        if self.awaited is None or (self.awaited.opening and self._anybody_waits()):
            return
        kept, self._kept, self.awaited = self._kept, [], None
        for station, assignment, reply in kept:
            self._judge(station, assignment, reply)

    def drop(self) -> None:
        """Tell the works, whatever comes."""
        kept, self._kept, self.awaited = self._kept, [], None
        for _, assignment, reply in kept:
            assignment.work.settle(assignment, reply)

    def _anybody_waits(self) -> bool:
        return not all(assignment.cancelled for _, assignment, _ in self._kept)
