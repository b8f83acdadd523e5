"""What belongs to the current task: the ContextVars, all of them.

A ContextVar is inherited by child tasks, ``gather``, task groups and ``to_thread``; that is what
makes "the stream follows the task" and "the pool around it" true without passing anything along.
Values are typed `Any` because the layers that own the types stand above this one; each owner offers
a typed reader (`current_runtime`, `current_context`, ...).
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextvars import ContextVar
from typing import Any

from .errors import NoRuntime

__all__ = [
    "claims",
    "find_runtime",
    "persistence",
    "pool",
    "pressure",
    "register_runtime",
    "running_loop",
    "runtime",
    "runtimes_here",
    "session",
    "unregister_runtime",
]

runtime: ContextVar[Any] = ContextVar("asyncgpu_runtime", default=None)
"""The `Runtime` opened by ``async with`` around this task."""

session: ContextVar[Any] = ContextVar("asyncgpu_session", default=None)
"""The innermost session; its stream is applied to the thread while a step of this task runs."""

pool: ContextVar[Any] = ContextVar("asyncgpu_pool", default=None)
"""The `ToolPool` around this task."""

persistence: ContextVar[Any] = ContextVar("asyncgpu_persistence", default=None)
"""The innermost ``persist()`` block."""

claims: ContextVar[frozenset[int]] = ContextVar("asyncgpu_claims", default=frozenset())
"""Ids of the device claims this task holds, so that it never waits for itself."""

pressure: ContextVar[frozenset[int]] = ContextVar("asyncgpu_pressure", default=frozenset())
"""Ids of the memory pressure handlers being asked around this task, so that none asks itself."""

# A FastAPI lifespan's ContextVars do not reach its endpoints, so a runtime is also found by the
# event loop it was opened on. Appended to and removed from by `Runtime` alone, in its own loop.
_open_runtimes: list[Any] = []


def register_runtime(opened: Any) -> None:
    """Make a runtime, an object with `loop` and `pid`, known to the other tasks of its loop."""
    _open_runtimes.append(opened)


def unregister_runtime(closed: Any) -> None:
    """Forget it; idempotent."""
    if closed in _open_runtimes:
        _open_runtimes.remove(closed)


def find_runtime() -> Any:
    """Return the runtime of the current task, else the single one open on this event loop.

    A thread without an event loop gets the single one open in this process.

    Raises:
        NoRuntime: there is none, more than one, or it was opened before a fork.
    """
    found = runtime.get()
    if found is None or not found.is_open:
        here = runtimes_here()
        if len(here) != 1:
            count = "none is" if not here else f"{len(here)} are"
            raise NoRuntime(
                f"{count} open here: open one with `async with asyncgpu.Runtime()`"
                " or `await asyncgpu.initialize()`"
            )
        found = here[0]
    if found.pid != os.getpid():
        raise NoRuntime(
            f"the runtime was opened in process {found.pid}, before a fork; its devices, workers"
            " and threads are not here. Open one in this process with `asyncgpu.Runtime`"
        )
    return found


def runtimes_here() -> list[Any]:
    """Return the runtimes open on this event loop; in a thread without one, in this process."""
    loop = running_loop()
    return [opened for opened in _open_runtimes if loop is None or opened.loop is loop]


def running_loop() -> object | None:
    """Return what identifies the event loop running in this thread; None: there is none."""
    loop = asyncio._get_running_loop()
    if loop is not None:
        return loop
    trio = sys.modules.get("trio")
    if trio is None or not trio.lowlevel.in_trio_run():
        return None
    token: object = trio.lowlevel.current_trio_token()
    return token
