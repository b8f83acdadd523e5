"""The waiting room: one line for each shape of request, the first to be served first."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

from .device_inputs import Shape

__all__ = ["Line", "WaitQueue", "WaitingRoom"]


class _Waiter(Protocol):
    order: tuple[float, int]
    """A key, and a number that is unique; the smaller is served first."""
    queue: WaitQueue[Any] | None
    """The queue it stands in; kept by the queue."""


W = TypeVar("W", bound=_Waiter)

# One for each QoS class, and one for those that come back to an old place.
_MOST_RUNS = 4


class WaitQueue(Generic[W]):
    """Waiters in their order.

    They mostly come in the order of a few classes: within one, whoever comes later is served later.
    So a few sorted runs hold nearly all of them, and coming and being served cost the same however
    many wait. Whoever fits on the end of no run goes into a heap, at O(log n).

    A discarded waiter leaves its entry behind; such entries are dropped when they come to the front,
    and all at once when they are the majority, so that waiters that give up behind a stuck head do
    not pile up.
    """

    __slots__ = ("_entries", "_heap", "_length", "_runs", "head")

    def __init__(self) -> None:
        self._runs: list[deque[W]] = []
        self._heap: list[tuple[tuple[float, int], W]] = []
        self._length = 0
        self._entries = 0
        self.head: W | None = None
        """The first waiter; None: nobody waits."""

    def push(self, waiter: W) -> None:
        """Add a waiter that stands in no queue."""
        waiter.queue = self
        self._length += 1
        self._entries += 1
        order = waiter.order
        for run in self._runs:
            if not run or run[-1].order <= order:
                run.append(waiter)
                break
        else:
            self._start(waiter)
        if self.head is None or order < self.head.order:
            self.head = waiter

    def discard(self, waiter: W) -> None:
        """Take out a waiter that stands in this queue."""
        waiter.queue = None
        self._length -= 1
        if waiter is self.head:
            self.head = self._first()
        elif self._entries > 2 * self._length + 16:
            self._runs = [deque(self)]
            self._heap = []
            self._entries = self._length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[W]:
        everybody = chain(*self._runs, (waiter for _, waiter in self._heap))
        # Who left and came back has two entries.
        waiters = {waiter.order: waiter for waiter in everybody if waiter.queue is self}
        return (waiters[order] for order in sorted(waiters))

    def _start(self, waiter: W) -> None:
        if len(self._runs) < _MOST_RUNS:
            self._runs.append(deque((waiter,)))
        else:
            heapq.heappush(self._heap, (waiter.order, waiter))

    def _first(self) -> W | None:
        """Drop the entries at the front of those that have left; return the first waiter."""
        first: W | None = None
        for run in self._runs:
            while run and run[0].queue is not self:
                run.popleft()
                self._entries -= 1
            if run and (first is None or run[0].order < first.order):
                first = run[0]
        heap = self._heap
        while heap and heap[0][1].queue is not self:
            heapq.heappop(heap)
            self._entries -= 1
        if heap and (first is None or heap[0][0] < first.order):
            first = heap[0][1]
        return first


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
