"""Lanes: spans grouped by track, and stacked in rows where they overlap.

Both exporters need this. A viewer draws one row per lane and row, and trace viewers accept only
spans that do not overlap on one row.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, Protocol

__all__ = ["Lane", "SpanLike", "lay_out"]


class SpanLike(Protocol):
    """What an exporter reads of a span: ``asyncgpu.tools.timeline.Span`` or any lookalike."""

    @property
    def track(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def category(self) -> str: ...
    @property
    def args(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Lane:
    """One track: rows of spans that do not overlap, each sorted by start."""

    track: str
    rows: tuple[tuple[SpanLike, ...], ...]

    @property
    def device(self) -> str:
        """The track's first word: ``"cuda:0"`` of ``"cuda:0 Embed"``."""
        return self.track.partition(" ")[0]

    @property
    def label(self) -> str:
        """The rest of the track's name, or all of it where it is one word."""
        return self.track.partition(" ")[2] or self.track

    def __iter__(self) -> Iterator[SpanLike]:
        """Every span, row by row."""
        return (span for row in self.rows for span in row)

    def covered(self, *, without: Collection[str] = ()) -> float:
        """Return the seconds in which at least one span ran, leaving out some categories."""
        total, reached = 0.0, float("-inf")
        for span in sorted(self, key=_by_start):
            if span.category not in without and span.end > reached:
                total += span.end - max(span.start, reached)
                reached = span.end
        return total


def lay_out(spans: Iterable[SpanLike]) -> list[Lane]:
    """Group spans into lanes, sorted by name as people count: ``cuda:2`` before ``cuda:10``."""
    tracks: defaultdict[str, list[SpanLike]] = defaultdict(list)
    for span in spans:
        tracks[span.track].append(span)
    return [Lane(track, _stack(tracks[track])) for track in sorted(tracks, key=_natural)]


def _stack(spans: list[SpanLike]) -> tuple[tuple[SpanLike, ...], ...]:
    """Give each span the first row that is free at its start."""
    rows: list[list[SpanLike]] = []
    busy: list[tuple[float, int, int]] = []
    free: list[int] = []
    arrival = count()
    for span in sorted(spans, key=_by_start):
        while busy and busy[0][0] <= span.start:
            heappush(free, heappop(busy)[2])
        if not free:
            rows.append([])
            heappush(free, len(rows) - 1)
        row = heappop(free)
        rows[row].append(span)
        heappush(busy, (span.end, next(arrival), row))
    return tuple(tuple(row) for row in rows)


def _by_start(span: SpanLike) -> tuple[float, float]:
    return span.start, -span.end


def _natural(text: str) -> list[tuple[int, str]]:
    # A split by a group alternates: text, digits, text, ...
    parts = enumerate(re.split(r"(\d+)", text))
    return [(int(part), "") if index % 2 else (0, part) for index, part in parts]
