"""Lanes and the trace file: what Perfetto is given to read."""

from __future__ import annotations

import itertools
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgpu.integrations.lanes import lay_out
from asyncgpu.integrations.perfetto import trace_events, write_trace
from asyncgpu.tools.timeline import Span


def span(track="cuda:0 Embed", name="run", start=0.0, end=1.0, category="run", **args):
    return Span(track, name, start, end, category, args)


# ------------------------------------------------------------------------------ lanes


def test_lanes_are_sorted_as_people_count():
    lanes = lay_out([span("cuda:10 A"), span("cuda:2 B"), span("cuda:2 A"), span("loop")])

    assert [lane.track for lane in lanes] == ["cuda:2 A", "cuda:2 B", "cuda:10 A", "loop"]
    assert (lanes[0].device, lanes[0].label) == ("cuda:2", "A")
    assert (lanes[3].device, lanes[3].label) == ("loop", "loop")


def test_a_span_takes_the_first_row_that_is_free():
    spans = [span(start=0, end=4), span(start=1, end=2), span(start=2, end=3), span(start=4, end=5)]

    (lane,) = lay_out(spans)

    assert [[(s.start, s.end) for s in row] for row in lane.rows] == [
        [(0, 4), (4, 5)],
        [(1, 2), (2, 3)],
    ]


def test_time_covered_counts_overlaps_once_and_gaps_not():
    spans = [
        span(start=0, end=4),
        span(start=1, end=5),
        span(start=7, end=8),
        span(start=8, end=20, category="queue"),
    ]

    (lane,) = lay_out(spans)

    assert lane.covered(without={"queue"}) == 6
    assert lane.covered() == 18


intervals = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10)), max_size=40)


@settings(deadline=None)
@given(intervals)
def test_no_row_overlaps_and_nothing_is_lost(pairs):
    spans = [span(start=start, end=start + length, name=str(i)) for i, (start, length) in
             enumerate(pairs)]  # fmt: skip

    lanes = lay_out(spans)

    assert sorted(s.name for lane in lanes for s in lane) == sorted(s.name for s in spans)
    for lane in lanes:
        for row in lane.rows:
            assert all(a.end <= b.start for a, b in itertools.pairwise(row))


# ----------------------------------------------------------------------------- perfetto


def test_trace_file_is_what_perfetto_reads(tmp_path):
    path = tmp_path / "trace.json"
    spans = [
        span("cuda:1 Embed", "load", 100.0, 101.5, "load", pid=7),
        span("cuda:1 Embed", "run 3 items", 101.5, 101.75, "run", items=3),
        span("cuda:0 questions", "what?", 100.5, 100.6, "session"),
    ]

    write_trace(path, spans)

    trace = json.loads(path.read_text())
    assert trace["displayTimeUnit"] == "ms"
    named = {
        (event["name"], event["args"]["name"])
        for event in trace["traceEvents"]
        if event["ph"] == "M"
    }
    assert named == {
        ("process_name", "cuda:0"),
        ("process_name", "cuda:1"),
        ("thread_name", "Embed"),
        ("thread_name", "questions"),
    }
    complete = {event["name"]: event for event in trace["traceEvents"] if event["ph"] == "X"}
    load, run = complete["load"], complete["run 3 items"]
    assert (load["ts"], load["dur"], load["cat"]) == (0, 1_500_000, "load")
    assert (run["ts"], run["dur"], run["args"]) == (1_500_000, 250_000, {"items": 3})
    assert (load["pid"], load["tid"]) == (run["pid"], run["tid"])
    assert complete["what?"]["pid"] != load["pid"]
    assert all(isinstance(event["pid"], int) for event in trace["traceEvents"])


def test_overlapping_spans_of_a_track_get_threads_of_their_own():
    events = trace_events([span(start=0, end=2), span(start=1, end=3)])

    assert [e["args"]["name"] for e in events if e["name"] == "thread_name"] == [
        "Embed",
        "Embed (2)",
    ]
    assert len({e["tid"] for e in events if e["ph"] == "X"}) == 2


def test_details_that_json_cannot_say_become_text(tmp_path):
    path = tmp_path / "trace.json"

    write_trace(path, [span(rate=float("nan"), where=tmp_path, ok=True, none=None, share=0.5)])

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (event,) = (
        e
        for e in json.loads(path.read_text(), parse_constant=refuse)["traceEvents"]
        if e["ph"] == "X"
    )
    assert event["args"] == {
        "rate": "nan", "where": str(tmp_path), "ok": True, "none": None, "share": 0.5
    }  # fmt: skip


def test_no_spans_make_an_empty_trace():
    assert trace_events([]) == []
