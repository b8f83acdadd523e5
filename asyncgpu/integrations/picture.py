"""Draw a timeline as one HTML page: lanes, colours per kind of time, an axis and tooltips.

The page is a single file without scripts or outside resources. It fits any width, because
everything along the time axis is placed in per cent, and follows the reader's light or dark theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path

from .lanes import Lane, SpanLike, lay_out
from .picture_style import STYLE, colour_rules

__all__ = ["render_picture", "write_picture"]

# Waiting is drawn, but is not work: it does not count as busy.
_WAITING = frozenset({"queue"})
_ROW = 26
_STACKED_ROW = 16
_TALLEST_LANE = 192
# Neighbours that fit together into this share of the page are drawn as one: about half a pixel.
_FINEST = 1 / 2500
# Every rectangle is at least this wide, so that it can be seen, and pointed at.
_THINNEST = 1 / 900
# Below this share of the page, or this height in pixels, a caption has no room.
_CAPTION = 0.05
_CAPTION_HEIGHT = 14

# From how many seconds on, a unit's seconds, its name.
_UNITS = ((7200, 3600, "h"), (120, 60, "min"), (1, 1, "s"), (1e-3, 1e-3, "ms"), (0, 1e-6, "µs"))


def write_picture(
    path: str | PathLike[str], spans: Iterable[SpanLike], *, title: str = "asyncgpu timeline"
) -> None:
    """Write `spans` as an HTML page.

    Blocks for the time of formatting and writing, about 20 ms for a thousand spans: from async
    code call ``await anyio.to_thread.run_sync(write_picture, path, runtime.timeline.spans)``.

    Args:
        path: the file to write; one that exists is replaced.
        spans: in any order; times in seconds of one clock. The earliest start becomes zero.
        title: the heading.

    Raises:
        OSError: the file cannot be written.
    """
    Path(path).write_text(render_picture(spans, title=title), encoding="utf-8")


def render_picture(spans: Iterable[SpanLike], *, title: str = "asyncgpu timeline") -> str:
    """Return the page as text, for a web handler that shows it."""
    lanes = lay_out(spans)
    frame = _Frame.around(lanes)
    categories = sorted({span.category for lane in lanes for span in lane})
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            _subtitle(lanes, frame),
            _legend(categories),
            '<div class="chart">',
            _axis(frame),
            *(_lane(lane, frame, categories) for lane in lanes),
            "</div>",
            _numbers(lanes, categories),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}{colour_rules(categories)}</style>\n"
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """The stretch of time that the page shows."""

    start: float
    seconds: float

    @classmethod
    def around(cls, lanes: Sequence[Lane]) -> _Frame:
        spans = [span for lane in lanes for span in lane]
        start = min((span.start for span in spans), default=0.0)
        end = max((span.end for span in spans), default=0.0)
        # A single instant still needs an axis to stand on.
        return cls(start, max(end - start, 1e-6))

    def place(self, time: float) -> str:
        """Where on the axis a clock time lies."""
        return _percent((time - self.start) / self.seconds)

    def ticks(self) -> list[float]:
        """Return four to ten round times, in seconds from the start."""
        unit, _ = _unit(self.seconds)
        length = self.seconds / unit
        scale = 10.0 ** math.floor(math.log10(length / 10))
        step = next(s for s in (scale, 2 * scale, 5 * scale, 10 * scale) if length / s <= 10)
        return [number * step * unit for number in range(int(length / step) + 1)]

    def label(self, tick: float) -> str:
        """Say a tick in the unit of the whole axis."""
        unit, name = _unit(self.seconds)
        return f"{tick / unit:.6g} {name}" if tick else "0"


@dataclass(frozen=True, slots=True)
class _Block:
    """One or more neighbours of a row and category, drawn as one rectangle."""

    spans: list[SpanLike]

    @property
    def start(self) -> float:
        return self.spans[0].start

    @property
    def end(self) -> float:
        return self.spans[-1].end

    def draw(self, frame: _Frame, kind: int, *, top: float, height: float) -> str:
        width = max(0.0, self.end - self.start) / frame.seconds
        place = f'x="{frame.place(self.start)}" y="{top:g}" height="{height:g}"'
        # A gap is drawn around what is wide enough to lose it.
        shape = f"k{kind}" if width < 3 * _THINNEST else f"k{kind} wide"
        drawn = (
            f'<rect class="{shape}" {place} width="{_percent(max(width, _THINNEST))}">'
            f"<title>{escape(self._tooltip(frame))}</title></rect>"
        )
        if width < _CAPTION or height < _CAPTION_HEIGHT:
            return drawn
        first = self.spans[0]
        tone = ' class="waiting"' if first.category in _WAITING else ""
        return (
            f'{drawn}<svg {place} width="{_percent(width)}">'
            f'<text x="7" y="50%"{tone}>{escape(first.name)}</text></svg>'
        )

    def _tooltip(self, frame: _Frame) -> str:
        first = self.spans[0]
        when = f"{_time(self.end - self.start)}, from {_time(self.start - frame.start)}"
        if len(self.spans) > 1:
            return f"{len(self.spans)} spans: {first.category}\n{when}"
        return "\n".join(
            [first.name, when, *(f"{name}: {value}" for name, value in first.args.items())]
        )


def _blocks(row: Iterable[SpanLike], frame: _Frame) -> Iterator[_Block]:
    """Join what would be too narrow to see, so that a page of many spans stays small."""
    block: _Block | None = None
    for span in row:
        if (
            block is not None
            and block.spans[0].category == span.category
            and span.end - block.start <= _FINEST * frame.seconds
        ):
            block.spans.append(span)
            continue
        if block is not None:
            yield block
        block = _Block([span])
    if block is not None:
        yield block


def _subtitle(lanes: Sequence[Lane], frame: _Frame) -> str:
    number = sum(len(row) for lane in lanes for row in lane.rows)
    if not number:
        return '<p class="note">Nothing was recorded.</p>'
    return f'<p class="note">{number:,} spans in {_time(frame.seconds)}</p>'


def _legend(categories: Sequence[str]) -> str:
    entries = "".join(
        f'<li><i class="k{kind}"></i>{escape(category)}</li>'
        for kind, category in enumerate(categories)
    )
    return f'<ul class="legend">{entries}</ul>'


def _axis(frame: _Frame) -> str:
    labels = "".join(
        f'<span style="left:{_percent(tick / frame.seconds)}">{frame.label(tick)}</span>'
        for tick in frame.ticks()
        # A label needs room to its right.
        if tick < 0.96 * frame.seconds
    )
    return f'<div></div><div class="axis">{labels}</div><div class="axis">busy</div>'


def _lane(lane: Lane, frame: _Frame, categories: Sequence[str]) -> str:
    height = _ROW if len(lane.rows) == 1 else min(_STACKED_ROW * len(lane.rows), _TALLEST_LANE)
    step = height / len(lane.rows)
    places = (_percent(tick / frame.seconds) for tick in frame.ticks())
    grid = "".join(f'<line x1="{x}" x2="{x}" y2="{height}"/>' for x in places)
    marks = "".join(
        block.draw(frame, categories.index(block.spans[0].category), top=step * number, height=step)
        for number, row in enumerate(lane.rows)
        for block in _blocks(row, frame)
    )
    device = f"<small>{escape(lane.device)}</small>" if lane.label != lane.track else ""
    track = escape(lane.track)
    return (
        f'<div class="name" title="{track}">{device}{escape(lane.label)}</div>'
        f'<svg height="{height}" role="img" aria-label="{track}">{grid}{marks}</svg>'
        f'<div class="busy">{lane.covered(without=_WAITING) / frame.seconds:.0%}</div>'
    )


def _numbers(lanes: Sequence[Lane], categories: Sequence[str]) -> str:
    """Say the same as the picture in a table, for readers who cannot see it."""
    head = "".join(f"<th>{escape(name)}</th>" for name in ["track", "spans", *categories])
    rows = "".join(
        f"<tr><td>{escape(lane.track)}</td><td>{sum(map(len, lane.rows)):,}</td>"
        + "".join(f"<td>{_time(_seconds_of(lane, category))}</td>" for category in categories)
        + "</tr>"
        for lane in lanes
    )
    return (
        "<details><summary>The same in numbers</summary>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _seconds_of(lane: Lane, category: str) -> float:
    return sum(span.end - span.start for span in lane if span.category == category)


def _percent(share: float) -> str:
    return f"{100 * share:.5g}%"


def _time(seconds: float) -> str:
    unit, name = _unit(seconds)
    return f"{seconds / unit:.3g} {name}" if seconds else "0"


def _unit(seconds: float) -> tuple[float, str]:
    """Return the unit that a person would choose for so long a time."""
    return next((unit, name) for least, unit, name in _UNITS if seconds >= least)
