"""The picture: every span in its place, and nothing that could break or bloat the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgpu.integrations.picture import render_picture, write_picture
from asyncgpu.tools.timeline import Span


def span(track="cuda:0 Embed", name="run", start=0.0, end=1.0, category="run", **args):
    return Span(track, name, start, end, category, args)


class Page(HTMLParser):
    """Collects what a browser would draw, and complains about tags that do not match."""

    VOID = frozenset({"meta", "line"})

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.rects = []
        self.titles = []
        self.words = []
        self.outside = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.outside += [name for name in ("src", "href") if name in attributes]
        if tag == "rect":
            self.rects.append(attributes)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag == "line"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-2:] == ["rect", "title"]:
            self.titles.append(data)
        elif data.strip():
            self.words.append(data.strip())


def percent(text):
    assert text.endswith("%")
    return float(text[:-1])


def test_picture_shows_every_span_in_its_place():
    spans = [
        span("cuda:0 Embed", "load", 10.0, 12.0, "load"),
        span("cuda:0 Embed", "run 8 items", 12.0, 18.0, "run", items=8),
        span("cuda:1 Embed", "wait for a device", 10.0, 20.0, "queue"),
    ]

    page = Page(render_picture(spans, title="A & B"))

    assert [(percent(r["x"]), percent(r["width"])) for r in page.rects] == [
        (0, 20),
        (20, 60),
        (0, 100),
    ]
    assert page.titles[1] == "run 8 items\n6 s, from 2 s\nitems: 8"
    assert "A & B" in page.words
    assert {"load", "queue", "run", "80%", "0%", "3 spans in 10 s"} <= set(page.words)
    assert page.outside == []


def test_picture_fetches_nothing_and_runs_no_script():
    text = render_picture([span()])

    assert not re.search(r"https?://|<script|@import|url\(", text)


def test_names_cannot_break_the_page():
    page = Page(render_picture([span("<b> & c", '"><script>', 0, 1, "<i>", note="</title>")]))

    assert page.titles == ['"><script>\n1 s, from 0\nnote: </title>']
    assert "<i>" in page.words


def test_neighbours_too_narrow_to_see_are_drawn_as_one():
    spans = [span(start=i * 1e-6, end=(i + 1) * 1e-6) for i in range(1000)]
    spans.append(span(start=1.0, end=10.0))

    page = Page(render_picture(spans))

    assert len(page.rects) == 2
    assert page.titles[0].startswith("1000 spans: run\n1 ms")


def test_thousands_of_spans_make_a_small_page():
    spans = [
        span(f"cuda:{i % 4} Embed", f"run {i} items", i * 0.01, i * 0.01 + 0.03, "run", items=i)
        for i in range(10_000)
    ]

    assert len(render_picture(spans)) < 2_000_000


def test_many_rows_of_a_lane_stay_on_the_screen():
    spans = [span(start=0, end=1) for _ in range(500)]

    assert 'height="192"' in render_picture(spans)


@pytest.mark.parametrize("spans", [[], [span(start=5.0, end=5.0)]])
def test_nothing_and_an_instant_can_be_drawn(spans):
    page = Page(render_picture(spans))

    assert len(page.rects) == len(spans)
    assert ("Nothing was recorded." in page.words) is (spans == [])


def test_any_object_with_a_spans_attributes_will_do(tmp_path):
    path = tmp_path / "timeline.html"
    lookalike = SimpleNamespace(
        track="gpu", name="step", start=0.0, end=2.0, category="run", args={}
    )

    write_picture(path, [lookalike])

    assert Page(path.read_text(encoding="utf-8")).titles == ["step\n2 s, from 0"]


@settings(deadline=None)
@given(st.floats(1e-7, 1e6))
def test_any_stretch_of_time_has_a_readable_axis(seconds):
    text = render_picture([span(start=3.0, end=3.0 + seconds)])

    assert 4 <= text.count('<span style="left:') <= 11


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (0.0042, ["0", "0.5 ms", "1 ms"]),
        (15.0, ["0", "2 s", "4 s"]),
        (300.0, ["0", "0.5 min", "1 min"]),
        (4 * 86400.0, ["0", "10 h", "20 h"]),
    ],
)
def test_the_axis_counts_in_one_unit(seconds, labels):
    page = Page(render_picture([span(start=0.0, end=seconds)]))

    assert page.words[page.words.index("0") :][:3] == labels
