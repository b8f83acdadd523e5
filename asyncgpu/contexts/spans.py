"""What a context did and when: one span for each piece of its work, for the runtime's timeline."""

from __future__ import annotations

from typing import Protocol

__all__ = ["SpanSink", "Spans"]


class SpanSink(Protocol):
    """The timeline, as contexts see it. Thread-safe: work may end in any thread."""

    def now(self) -> float:
        """Return the time on its clock, in seconds."""
        ...

    def add(self, *, track: str, name: str, start: float, end: float, category: str) -> None:
        """Keep one finished stretch of time."""
        ...


class Spans:
    """The spans of one context.

    Args:
        sink: where they go; None: nowhere.
        track: the lane that they are drawn in.
    """

    __slots__ = ("_sink", "_track")

    def __init__(self, sink: SpanSink | None, track: str) -> None:
        self._sink = sink
        self._track = track

    def begin(self) -> float:
        """Return the moment that `end` wants to be given."""
        return 0.0 if self._sink is None else self._sink.now()

    def end(self, name: str, start: float, category: str) -> None:
        """Add what began at `start`, and ends now."""
        sink = self._sink
        if sink is not None:
            sink.add(track=self._track, name=name, start=start, end=sink.now(), category=category)
