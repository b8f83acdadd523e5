"""How the picture looks: its style sheet, and a colour for each kind of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["STYLE", "colour_rules"]

# Fill on a light page, fill on a dark page. Blue, amber and teal stay apart for readers who see
# red and green alike; waiting is grey, because nothing happens in it.
_KNOWN = {
    "queue": ("#c9ced8", "#454c59"),
    "load": ("#e9a63a", "#c98a22"),
    "run": ("#3f7ad6", "#4f8ae6"),
    "session": ("#1f9e89", "#2aa893"),
}
_OTHERS = (
    ("#8e63ce", "#9d76da"),
    ("#cf5c8a", "#d66f99"),
    ("#6c8f2b", "#84a844"),
    ("#b0643c", "#c47a53"),
    ("#3a9cc0", "#4caccf"),
)

STYLE = """\
:root { color-scheme: light dark; --page: #ffffff; --lane: #f4f6f9; --line: #dfe3ea;
  --text: #1d2430; --faint: #667085; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --lane: #1c2027; --line: #2c323c; --text: #e6e9ef; --faint: #98a2b3; }
}
body { margin: 0 auto; padding: 28px 32px 40px; max-width: 1800px; background: var(--page);
  color: var(--text); font: 14px/1.45 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { margin: 0; font-size: 21px; font-weight: 650; letter-spacing: -.01em; }
.note { margin: 2px 0 0; color: var(--faint); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 18px; padding: 0;
  list-style: none; }
.legend i { display: inline-block; width: 11px; height: 11px; margin-right: 7px;
  border-radius: 3px; }
.chart { display: grid; grid-template-columns: max-content minmax(0, 1fr) max-content;
  gap: 6px 14px; align-items: center; }
.axis { position: relative; height: 20px; color: var(--faint); font-size: 12px;
  font-variant-numeric: tabular-nums; }
.axis span { position: absolute; white-space: nowrap; padding-left: 4px;
  border-left: 1px solid var(--line); }
.name { max-width: 260px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  font-weight: 550; }
.name small { display: block; color: var(--faint); font-size: 11px; font-weight: 400;
  line-height: 1.1; }
.busy { text-align: right; font-variant-numeric: tabular-nums; }
.chart svg { display: block; width: 100%; background: var(--lane); border-radius: 5px; }
.chart line { stroke: var(--line); }
.chart .wide { rx: 2px; stroke: var(--lane); stroke-width: .5px; }
.chart rect:hover { opacity: .75; }
.chart svg svg { background: none; pointer-events: none; }
.chart text { fill: #ffffff; font-size: 11.5px; dominant-baseline: central; }
.chart .waiting { fill: var(--text); }
details { margin-top: 22px; }
summary { cursor: pointer; color: var(--faint); }
table { margin-top: 10px; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); text-align: right; }
th { color: var(--faint); font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
"""


def colour_rules(categories: Sequence[str]) -> str:
    """Return one CSS class per category, ``k0``, ``k1``, ..., for light and dark pages."""
    light, dark = zip(*_colours(categories), strict=True) if categories else ((), ())
    return f"{_rules(light)}@media (prefers-color-scheme: dark) {{\n{_rules(dark)}}}\n"


def _colours(categories: Sequence[str]) -> Iterator[tuple[str, str]]:
    unknown = 0
    for category in categories:
        if category in _KNOWN:
            yield _KNOWN[category]
        else:
            yield _OTHERS[unknown % len(_OTHERS)]
            unknown += 1


def _rules(colours: Sequence[str]) -> str:
    return "".join(
        f".k{index} {{ fill: {colour}; background: {colour}; }}\n"
        for index, colour in enumerate(colours)
    )
