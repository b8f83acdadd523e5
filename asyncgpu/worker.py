"""For the inside of `Tool.run`: has anybody cancelled me, how far have I come, call another tool.

Outside a worker nobody cancels and nobody listens, so `cancelled` and `progress` do nothing there
and a tool's code runs unchanged; only `call` needs a program above it.

In a worker that is a thread of the program, a helper thread of the tool has to carry its
ContextVars for this, as those of ``asyncio.to_thread`` and ``Context.run`` do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .errors import RequestError
from .workers.inside import inside

__all__ = ["call", "cancelled", "progress"]


def call(tool: Any, items: Iterable[Any]) -> list[Any]:
    """Have another tool answer `items`, from inside `run`, and wait for the answers.

    The program answers as if it had called the tool itself: with the pool or ``persist()`` block
    that this worker belongs to, else with the runtime's. The answers come in order; large arrays
    come through shared memory. The call ends with the one it is part of: when that is cancelled,
    or its worker killed, so is this. Callable from any thread of the tool while `run` is under way.

    Args:
        tool: what shall answer. Pass the running tool itself (``self``) to have another worker of
            it answer.
        items: what it shall answer.

    Raises:
        RequestError: this is no worker, or none that runs anything now.
        InfeasibleRequest: it would wait for itself: it needs what this very worker, or one that
            waits for it, holds.
        WorkerError: nobody wants the answer any more.
        PartialFailure: some items failed; it holds the answers of the others.
    """
    worker = inside()
    if worker is None:
        raise RequestError(
            "asyncgpu.worker.call works inside Tool.run, in a worker; elsewhere `await tool(items)`"
        )
    return worker.caller.call(tool, items)


def cancelled() -> bool:
    """Whether nobody wants the answer to the items being run any more.

    Cooperative: a long `run` asks now and then, and returns or raises early. Callable from any
    thread of the tool.
    """
    worker = inside()
    return worker is not None and worker.runs.cancelled()


def progress(done: float, total: float) -> None:
    """Report that `done` of `total`, in any unit, is done. Cheap enough for an inner loop.

    Reports that follow each other within 50 ms are dropped, except for the last one
    (``done >= total``). Callable from any thread of the tool.
    """
    worker = inside()
    if worker is not None:
        worker.runs.progress(done, total)
