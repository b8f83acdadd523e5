"""For the inside of `Tool.run`: has anybody cancelled me, and how far have I come.

Outside a worker nobody cancels and nobody listens, so a tool's code runs there unchanged.
"""

from __future__ import annotations

from .workers.runs import process_runs

__all__ = ["cancelled", "progress"]


def cancelled() -> bool:
    """Whether nobody wants the answer to the items being run any more.

    Cooperative: a long `run` asks now and then, and returns or raises early. Callable from any
    thread of the tool.
    """
    runs = process_runs()
    return runs is not None and runs.cancelled()


def progress(done: float, total: float) -> None:
    """Report that `done` of `total`, in any unit, is done. Cheap enough for an inner loop.

    Reports that follow each other within 50 ms are dropped, except for the last one
    (``done >= total``). Callable from any thread of the tool.
    """
    runs = process_runs()
    if runs is not None:
        runs.progress(done, total)
