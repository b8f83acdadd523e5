"""The agenda: who must be looked at again after a change, the first in the queue first."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from .claims import Claim
from .occupancy import Occupancy
from .waiting import Line, WaitingRoom

__all__ = ["Agenda"]


class Agenda:
    """Claims without devices that a change may concern.

    Whatever happens to a device concerns the heads of the lines that might use it. They are taken
    in the order of the queue, so that an earlier waiter always decides before a later one.
    """

    def __init__(self, room: WaitingRoom[Claim], occupancy: Occupancy) -> None:
        self._room = room
        self._occupancy = occupancy
        self.entries: list[tuple[tuple[float, int], Claim, Line[Claim]]] = []
        """A heap in the order of the queue: the order, the claim, and the line it stands in."""

    def add(self, claim: Claim, line: Line[Claim]) -> None:
        """Look again at `claim`, which stands in `line`."""
        if not claim.on_agenda:
            claim.on_agenda = True
            heapq.heappush(self.entries, (claim.order, claim, line))

    def add_heads(self, line: Line[Claim]) -> None:
        """Look again at the heads of `line`."""
        if line.promised.head is not None:
            self.add(line.promised.head, line)
        if line.waiting.head is not None:
            self.add(line.waiting.head, line)

    def touch(self, indices: Iterable[int]) -> None:
        """Look again at everybody who could use these devices."""
        for index in indices:
            for line in self._room.interested(index):
                self.add_heads(line)

    def fill(self, indices: Iterable[int]) -> None:
        """Look again at whoever has a hand on these devices: they offer less than before."""
        for index in indices:
            first = self._occupancy.devices[index].earmark
            if first is not None:
                self.add(first, self._room.line(first.shape))
