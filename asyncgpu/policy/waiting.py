"""The waiting room: one line for each shape of request, the first to be served first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from .device_inputs import Shape

__all__ = ["Line", "WaitQueue", "WaitingRoom"]


class _Ordered(Protocol):
    order: tuple[float, int]
    """A key, and a number that is unique; the smaller is served first."""


W = TypeVar("W", bound=_Ordered)


class WaitQueue(Generic[W]):
    """Waiters in their order.

    Every operation costs O(log n), amortised. A discarded waiter leaves its entry behind in the
    heap; entries without a waiter are dropped when they come to the top, and all at once when they
    are the majority, so that waiters that give up behind a stuck head do not pile up.
    """

    __slots__ = ("_heap", "_waiters", "head")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._waiters: dict[tuple[float, int], W] = {}
        self.head: W | None = None
        """The first waiter; None: nobody waits."""

    def push(self, waiter: W) -> None:
        """Add a waiter."""
        self._waiters[waiter.order] = waiter
        heapq.heappush(self._heap, waiter.order)
        if self.head is None or waiter.order < self.head.order:
            self.head = waiter

    def discard(self, waiter: W) -> None:
        """Take out a waiter, which must be in."""
        heap, waiters = self._heap, self._waiters
        del waiters[waiter.order]
        if waiter is self.head:
            while heap and heap[0] not in waiters:
                heapq.heappop(heap)
            self.head = waiters[heap[0]] if heap else None
        elif len(heap) > 2 * len(waiters) + 16:
            self._heap = list(waiters)
            heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, waiter: W) -> bool:
        return waiter.order in self._waiters

    def __iter__(self) -> Iterator[W]:
        return (self._waiters[order] for order in sorted(self._waiters))


class Line(Generic[W]):
    """The waiters of one shape. Only the head of each queue matters.

    What one waiter of a shape cannot have, the next one cannot have either.
    """

    __slots__ = ("promised", "queues", "shape", "waiting")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.waiting: WaitQueue[W] = WaitQueue()
        self.promised: WaitQueue[W] = WaitQueue()
        """Those whose devices are being vacated; other free devices would serve them sooner."""
        self.queues = (self.promised, self.waiting)


class WaitingRoom(Generic[W]):
    """All lines, found by shape or by a device that the shape might use."""

    def __init__(self) -> None:
        self._lines: dict[Shape, Line[W]] = {}
        self._any: dict[Shape, Line[W]] = {}
        self._exact: dict[int, dict[Shape, Line[W]]] = {}

    def find(self, shape: Shape) -> Line[W] | None:
        """Return the line of `shape`; None: nobody of that shape waits."""
        return self._lines.get(shape)

    def line(self, shape: Shape) -> Line[W]:
        """Return the line of `shape`, which is opened if need be."""
        line = self._lines.get(shape)
        if line is None:
            line = self._lines[shape] = Line(shape)
            if not shape.spec.indices:
                self._any[shape] = line
            for index in shape.spec.indices:
                self._exact.setdefault(index, {})[shape] = line
        return line

    def close(self, line: Line[W]) -> None:
        """Forget a line that nobody stands in."""
        shape = line.shape
        del self._lines[shape]
        if not shape.spec.indices:
            del self._any[shape]
        for index in shape.spec.indices:
            del self._exact[index][shape]
            if not self._exact[index]:
                del self._exact[index]

    def interested(self, index: int) -> Sequence[Line[W]]:
        """Return the lines that might use device `index`."""
        lines = [
            line for shape, line in self._any.items() if shape.among is None or index in shape.among
        ]
        exact = self._exact.get(index)
        if exact is not None:
            lines += exact.values()
        return lines

    def lines(self) -> Sequence[Line[W]]:
        """Return all lines."""
        return list(self._lines.values())

    def in_order(self) -> Sequence[W]:
        """Return everybody, the first to be served first."""
        everybody = [
            waiter for line in self._lines.values() for queue in line.queues for waiter in queue
        ]
        return sorted(everybody, key=lambda waiter: waiter.order)
