"""The timeline: what each device was doing and when, kept in memory and bounded.

A pool adds a span for everything it waited for or did: a request in the queue, a model that
loads, a micro-batch that runs. ``asyncgpu.integrations.perfetto`` and ``.picture`` turn the spans
into files that a person can open.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidRequest

__all__ = ["Span", "Timeline"]


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of time on one track."""

    track: str
    """The lane it is drawn in: ``"cuda:0 Embed"``."""
    name: str
    """What happened: ``"run 32 items"``."""
    start: float
    """Seconds on the event loop's clock."""
    end: float
    """Seconds on the same clock, never before `start`; equal to it for an instant."""
    category: str
    """What kind of time it was: ``"queue"``, ``"load"``, ``"run"``, ``"session"``, ..."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Details for the reader: numbers and short strings."""

    @property
    def seconds(self) -> float:
        return self.end - self.start


_Row = tuple[str, str, float, float, str, dict[str, Any]]


class Timeline:
    """The latest spans, at most `capacity` of them; older ones are dropped and counted.

    Spans are added from any thread and hold no caller's objects beyond what is given as details.
    Adding one costs less than a microsecond, so that it may stay on in a service.
    """

    def __init__(
        self, *, capacity: int = 16_384, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open an empty timeline.

        Args:
            capacity: how many spans are kept.
            clock: seconds, asked in any thread. The default is asyncio's clock; trio's has another
                zero.

        Raises:
            InvalidRequest: a capacity below one.
        """
        if capacity < 1:
            raise InvalidRequest(f"capacity: {capacity} < 1")
        # Plain tuples, because building a frozen Span costs several times an append; reading is
        # rare and may pay for it.
        self._rows: deque[_Row] = deque(maxlen=capacity)
        self._added = 0
        self._lock = threading.Lock()
        self._clock = clock

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def spans(self) -> tuple[Span, ...]:
        """What is kept, in the order in which it was added: by end, not by start."""
        with self._lock:
            rows = tuple(self._rows)
        return tuple(Span(*row) for row in rows)

    @property
    def dropped(self) -> int:
        """How many spans had to make room since the last `clear`."""
        return self._added - len(self._rows)

    def add(
        self, *, track: str, name: str, start: float, end: float, category: str, **args: Any
    ) -> None:
        """Keep one finished stretch of time.

        Args:
            track: the lane it belongs to.
            name: what happened.
            start: seconds on the loop's clock.
            end: seconds on the loop's clock, not before `start`.
            category: the kind of time: queue, load, run, session.
            args: details for the reader.
        """
        self._keep((track, name, start, end, category, args))

    def now(self) -> float:
        """Return the time on its clock, in seconds; from any thread."""
        return self._clock()

    @contextmanager
    def measure(
        self, track: str, name: str, *, category: str, **args: Any
    ) -> Iterator[dict[str, Any]]:
        """Time the block and add it, also when it raises; the yielded details may be filled in."""
        start = self._clock()
        try:
            yield args
        finally:
            self._keep((track, name, start, self._clock(), category, args))

    def clear(self) -> None:
        """Forget every span and the count of the dropped ones."""
        with self._lock:
            self._rows.clear()
            self._added = 0

    def _keep(self, row: _Row) -> None:
        with self._lock:
            self._rows.append(row)
            self._added += 1
