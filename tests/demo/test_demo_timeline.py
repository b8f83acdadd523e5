"""`Timeline`: bounded, cheap, and honest about what it dropped."""

from __future__ import annotations

import dataclasses

import pytest

from asyncgpu.errors import InvalidRequest
from asyncgpu.tools.timeline import Span, Timeline


def add(timeline, number):
    timeline.add(
        track="cuda:0 Embed", name=f"run {number}", start=number, end=number + 0.5, category="run"
    )


def test_spans_come_back_as_they_were_added():
    timeline = Timeline()

    timeline.add(
        track="cuda:0 Embed", name="run 2 items", start=1.0, end=3.0, category="run", items=2
    )

    (span,) = timeline.spans
    assert span == Span("cuda:0 Embed", "run 2 items", 1.0, 3.0, "run", {"items": 2})
    assert span.seconds == 2.0
    assert len(timeline) == 1
    assert timeline.dropped == 0


def test_the_oldest_make_room_and_are_counted():
    timeline = Timeline(capacity=3)

    for number in range(5):
        add(timeline, number)

    assert [span.name for span in timeline.spans] == ["run 2", "run 3", "run 4"]
    assert len(timeline) == 3
    assert timeline.dropped == 2


def test_clear_forgets_the_spans_and_the_count():
    timeline = Timeline(capacity=1)
    add(timeline, 1)
    add(timeline, 2)

    timeline.clear()

    assert timeline.spans == ()
    assert timeline.dropped == 0


def test_a_capacity_below_one_is_refused():
    with pytest.raises(InvalidRequest, match="capacity: 0"):
        Timeline(capacity=0)


def test_spans_are_frozen():
    span = Span("track", "name", 0.0, 1.0, "run")

    assert span.args == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        span.name = "other"


def test_measure_times_the_block_by_the_given_clock():
    times = iter([10.0, 12.5])
    timeline = Timeline(clock=lambda: next(times))

    with timeline.measure("cuda:1 search", "question", category="session", texts=7) as details:
        details["found"] = 3

    assert timeline.spans == (
        Span("cuda:1 search", "question", 10.0, 12.5, "session", {"texts": 7, "found": 3}),
    )


def test_measure_keeps_a_block_that_raised():
    timeline = Timeline(clock=iter([0.0, 1.0]).__next__)

    with pytest.raises(KeyError), timeline.measure("track", "name", category="run"):
        raise KeyError

    assert timeline.spans[0].end == 1.0
