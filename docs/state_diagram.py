"""Draws the states of an execution context from their table: ``python docs/state_diagram.py``.

States stand in a row in the order in which they are declared; a transition to the right passes
above, one to the left below, and the further it goes the higher it arches.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from enum import Enum
from html import escape
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
TARGET = DOCS / "guide" / "context-states.svg"

Table = Mapping[tuple[Any, Any], Any]
"""From a state and an input, members of two enumerations, to the next state."""

STEP = 260  # from the middle of one state to that of the next
WIDTH, HEIGHT = 120, 44  # of a state
ARCH = 62  # by which an arrow rises for each state it passes
MIDDLE = 160  # of the row, from the top
SHEET = 270  # from top to bottom

STYLE = """\
.sheet{fill:#fff;stroke:#ccc}
.state{fill:#f0f4f8;stroke:#8899aa}
.final{stroke-width:3}
.name{font-weight:600;text-anchor:middle;fill:#1b1f24}
.step{fill:none;stroke:#1b4f8f}
.text{text-anchor:middle;fill:#1b1f24;font-size:12px}"""


def draw(title: str, table: Table) -> str:
    """Return an SVG picture of `table`."""
    kind: type[Enum] = type(next(iter(table))[0])
    states = list(kind)
    width, height = STEP * len(states), SHEET
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="13">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(_in_words(table))}</desc>',
        f"<style>\n{STYLE}\n</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="9" '
        'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#1b4f8f"/></marker></defs>',
        f'<rect class="sheet" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6"/>',
        *(line for step in table.items() for line in _arrow(states, *step)),
        *(line for place in range(len(states)) for line in _state(states, place, table)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _in_words(table: Table) -> str:
    return " ".join(
        f"{state.name} goes to {after.name} on {given.value}."
        for (state, given), after in table.items()
    )


def _state(states: list[Enum], place: int, table: Table) -> Iterator[str]:
    state, x = states[place], _x(place)
    final = "" if any(state is before for before, _ in table) else " final"
    yield (
        f'<rect class="state{final}" x="{x - WIDTH // 2}" y="{MIDDLE - HEIGHT // 2}" '
        f'width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
    )
    yield f'<text class="name" x="{x}" y="{MIDDLE + 5}">{escape(state.name)}</text>'


def _arrow(states: list[Enum], step: tuple[Enum, Enum], after: Enum) -> Iterator[str]:
    start, end = states.index(step[0]), states.index(after)
    far, forward = abs(end - start), end > start
    up = -1 if forward else 1
    edge, top = MIDDLE + up * HEIGHT // 2, MIDDLE + up * (HEIGHT // 2 + ARCH * far)
    # The wider arch stands outside the narrower one, at both of its feet.
    aside = (48 // far - 12) * (1 if forward else -1)
    x, y = _x(start) + aside, _x(end) - aside
    yield (
        f'<path class="step" d="M{x} {edge}C{x} {top} {y} {top} {y} {edge}" '
        'marker-end="url(#tip)"/>'
    )
    # The curve reaches three quarters of the way to its control points.
    label = edge + (top - edge) * 3 // 4 + up * 8 + 4
    yield f'<text class="text" x="{(x + y) // 2}" y="{label}">{escape(step[1].value)}</text>'


def _x(place: int) -> int:
    return STEP // 2 + STEP * place


def context_states() -> str:
    """Return the picture for the guide."""
    from asyncgpu.policy.context_state import TRANSITIONS

    return draw("The states of an execution context", TRANSITIONS)


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    TARGET.write_text(context_states(), encoding="utf-8")
