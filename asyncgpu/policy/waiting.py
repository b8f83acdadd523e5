"""The waiting room: one line for each shape of request, the first to be served first."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from .device_inputs import Shape

__all__ = ["Line", "WaitQueue", "WaitingRoom"]


class _Waiter(Protocol):
    order: tuple[float, int]
    """A key, and a number that is unique; the smaller is served first."""
    queue: WaitQueue[Any] | None
    """The queue it stands in; kept by the queue."""


W = TypeVar("W", bound=_Waiter)


class WaitQueue(Generic[W]):
    """Waiters in their order.

    Every operation costs O(log n), amortised. A discarded waiter leaves its entry behind in the
    heap; such entries are dropped when they come to the top, and all at once when they are the
    majority, so that waiters that give up behind a stuck head do not pile up.
    """

    __slots__ = ("_heap", "_length", "head")

    def __init__(self) -> None:
        # The order laid out flat: comparing nested tuples takes twice as long.
        self._heap: list[tuple[float, int, W]] = []
        self._length = 0
        self.head: W | None = None
        """The first waiter; None: nobody waits."""

    def push(self, waiter: W) -> None:
        """Add a waiter that stands in no queue."""
        waiter.queue = self
        heapq.heappush(self._heap, (*waiter.order, waiter))
        self._length += 1
        self.head = self._heap[0][2]

    def discard(self, waiter: W) -> None:
        """Take out a waiter that stands in this queue."""
        waiter.queue = None
        self._length -= 1
        heap = self._heap
        if waiter is self.head:
            while heap and heap[0][2].queue is not self:
                heapq.heappop(heap)
            self.head = heap[0][2] if heap else None
        elif len(heap) > 2 * self._length + 16:
            self._heap = [entry for entry in heap if entry[2].queue is self]
            heapq.heapify(self._heap)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[W]:
        # Who left and came back has two entries.
        waiters = {entry[1]: entry[2] for entry in sorted(self._heap) if entry[2].queue is self}
        return iter(waiters.values())


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
        self._choosy = 0
        self._exact: dict[int, dict[Shape, Line[W]]] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def sole(self) -> Line[W] | None:
        """The only line there is; None: there are several, or none."""
        return next(iter(self._lines.values())) if len(self._lines) == 1 else None

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
                self._choosy += shape.among is not None
            for index in shape.spec.indices:
                self._exact.setdefault(index, {})[shape] = line
        return line

    def close(self, line: Line[W]) -> None:
        """Forget a line that nobody stands in."""
        shape = line.shape
        del self._lines[shape]
        if not shape.spec.indices:
            del self._any[shape]
            self._choosy -= shape.among is not None
        for index in shape.spec.indices:
            del self._exact[index][shape]
            if not self._exact[index]:
                del self._exact[index]

    def interested(self, index: int) -> Collection[Line[W]]:
        """Return the lines that might use device `index`."""
        exact = self._exact.get(index)
        if exact is None and not self._choosy:
            return self._any.values()
        lines = [
            line for shape, line in self._any.items() if shape.among is None or index in shape.among
        ]
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
