"""Write a timeline as a trace file for Perfetto (https://ui.perfetto.dev) or ``chrome://tracing``.

The format is the Trace Event Format: complete events with microseconds, and metadata events that
name the lanes. A device is a process there, and each of its tracks a thread.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from .lanes import SpanLike, lay_out

__all__ = ["trace_events", "write_trace"]


def write_trace(path: str | PathLike[str], spans: Iterable[SpanLike]) -> None:
    """Write `spans` as a trace file.

    Blocks for the time of formatting and writing, about 10 ms for a thousand spans: from async
    code call ``await anyio.to_thread.run_sync(write_trace, path, runtime.timeline.spans)``.

    Args:
        path: the file to write; one that exists is replaced.
        spans: in any order; times in seconds of one clock. The earliest start becomes zero.

    Raises:
        OSError: the file cannot be written.
    """
    trace = {"traceEvents": trace_events(spans), "displayTimeUnit": "ms"}
    # Not `json.dump`: only `dumps` goes through the C encoder.
    Path(path).write_text(json.dumps(trace, separators=(",", ":")), encoding="utf-8")


def trace_events(spans: Iterable[SpanLike]) -> list[dict[str, Any]]:
    """Return what the file holds: one event per span, and the names of the lanes."""
    lanes = lay_out(spans)
    origin = min((span.start for lane in lanes for span in lane), default=0.0)
    processes = {lane.device: None for lane in lanes}
    pids = {device: pid for pid, device in enumerate(processes, start=1)}
    events = [_named("process_name", pid, 0, device) for device, pid in pids.items()]
    # A thread's number is unique over the whole trace, so that no viewer can mix up two.
    tid = 0
    for lane in lanes:
        for number, row in enumerate(lane.rows, start=1):
            tid += 1
            label = lane.label if number == 1 else f"{lane.label} ({number})"
            events.append(_named("thread_name", pids[lane.device], tid, label))
            events.extend(_complete(row, pids[lane.device], tid, origin))
    return events


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _complete(
    row: Iterable[SpanLike], pid: int, tid: int, origin: float
) -> Iterator[dict[str, Any]]:
    for span in row:
        yield {
            "ph": "X",
            "name": span.name,
            "cat": span.category,
            "pid": pid,
            "tid": tid,
            "ts": round((span.start - origin) * 1e6, 3),
            "dur": round(max(0.0, span.end - span.start) * 1e6, 3),
            "args": _plain(span.args),
        }


def _plain(args: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what JSON can say, and the text of everything else (JSON has no NaN)."""
    return {
        name: value
        if value is None
        or isinstance(value, (bool, int, str))
        or (isinstance(value, float) and math.isfinite(value))
        else str(value)
        for name, value in args.items()
    }
