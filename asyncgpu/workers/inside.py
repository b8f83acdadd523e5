"""Which worker the calling code is inside of: this whole process, or a thread of the program.

A worker process says it once, for all its threads. A worker that is a thread says it anew for each
of its calls, in a ContextVar: so a helper thread of the tool sees it if it carries the ContextVars,
as those of ``asyncio.to_thread`` do.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

from .runs import Runs

__all__ = ["Caller", "Inside", "become_worker", "enter_worker", "inside"]


class Caller(Protocol):
    """Calls other tools out of the middle of a `run`."""

    def call(self, tool: Any, items: Iterable[Any]) -> list[Any]:
        """Have the program answer `items` with `tool`; wait for it."""
        ...


class Inside(NamedTuple):
    """What a worker offers to the code it runs."""

    runs: Runs
    caller: Caller


_this_process: Inside | None = None
# Not in `asyncgpu.ambient`, because that module imports asyncio, which a worker process has no use
# for and would wait for.
_this_call: ContextVar[Inside | None] = ContextVar("asyncgpu_worker", default=None)


def inside() -> Inside | None:
    """Return the worker around the calling code; None: there is none."""
    return _this_call.get() or _this_process


def become_worker(worker: Inside) -> None:
    """Make this whole process `worker`. Done once, when it starts."""
    global _this_process
    _this_process = worker


def enter_worker(worker: Inside) -> None:
    """Make what the current `contextvars.Context` still runs part of `worker`."""
    _this_call.set(worker)
