"""Module-level functions: each acts on the runtime of the current task.

Which one that is: the ``async with Runtime()`` around the task, else the single runtime open on
this event loop, else `NoRuntime`. Nothing opens a runtime silently.
"""

from __future__ import annotations

from typing import Any

from . import ambient
from .contexts.context import ExecutionContext
from .contexts.partition import Partition
from .contexts.pressure import Handler, Registration
from .errors import RequestError
from .policy.qos import QoSPolicy
from .runtime import Runtime
from .units import Size

__all__ = [
    "create_context",
    "current_runtime",
    "destroy_context",
    "get_available_vram",
    "get_context",
    "initialize",
    "list_contexts",
    "on_memory_pressure",
    "shutdown",
]


def current_runtime() -> Runtime:
    """Return the runtime that calls from here act on.

    Raises:
        NoRuntime: none is open here; the message says how to open one.
    """
    runtime: Runtime = ambient.find_runtime()
    return runtime


async def initialize(
    device_id: int = 0, *, total_vram_budget: Size | None = None, **runtime_options: Any
) -> Runtime:
    """Open a runtime for every task of this event loop; `shutdown` closes it.

    Args:
        device_id: the logical index of the device for contexts that name none.
        total_vram_budget: as for `Runtime`.
        **runtime_options: further parameters of `Runtime`.

    Raises:
        RequestError: a runtime is open on this event loop already.
    """
    if ambient.runtimes_here():
        raise RequestError("a runtime is open on this event loop already; close it first")
    options = {"device": f"cuda:{device_id}"} | runtime_options
    runtime = Runtime(total_vram_budget=total_vram_budget, **options)
    await runtime.open()
    if ambient.runtimes_here() != [runtime]:
        await runtime.aclose()
        raise RequestError(
            "a runtime was opened on this event loop at the same time; close it first"
        )
    return runtime


async def shutdown() -> None:
    """Close the runtime that calls from here act on; nothing happens when there is none."""
    for runtime in ambient.runtimes_here():
        await runtime.aclose()


async def create_context(
    name: str,
    *,
    max_vram: Size | None = None,
    base_vram: Size | None = None,
    qos: QoSPolicy = QoSPolicy.BURSTABLE,
    device: str | None = None,
    partition: Partition | str | None = None,
    max_concurrent_sessions: int | None = None,
    timeout: float | None = None,
) -> ExecutionContext:
    """Open an execution context; see `Runtime.create_context`."""
    return await current_runtime().create_context(
        name,
        max_vram=max_vram,
        base_vram=base_vram,
        qos=qos,
        device=device,
        partition=partition,
        max_concurrent_sessions=max_concurrent_sessions,
        timeout=timeout,
    )


def get_available_vram(device: str | None = None) -> int:
    """Return the bytes that a new context could reserve on a device; None: the runtime's.

    See `Runtime.available_vram`.
    """
    return current_runtime().available_vram(device)


def on_memory_pressure(handler: Handler) -> Registration:
    """Ask ``handler(ctx, requested, available)`` whenever a context runs short of memory.

    A plain function is called in the event loop and must be quick; an async one is awaited. It may
    free memory, and it may answer True: then `ctx` may use `requested` bytes more than its
    `max_vram`, until its use is back under that. Nobody's reservation is ever taken for it. At a
    mark (`Settings.memory_soft_mark`, `memory_hard_mark`) `requested` is 0 and the answer does not
    matter. A handler that raises, or an async one that takes longer than
    `Settings.memory_handler_timeout`, is logged and counts as False.

    Handlers are asked in the order of registration until one answers True, and only where
    somebody can wait: never inside an allocation. Can be used as a decorator.

    Returns:
        The registration, whose `unregister` ends it.

    Raises:
        InvalidRequest: `handler` cannot be called.
    """
    return current_runtime().on_memory_pressure(handler)


def get_context(name: str) -> ExecutionContext | None:
    """Return the open context of that name, or None."""
    return current_runtime().get_context(name)


def list_contexts() -> list[str]:
    """Return the names of the open contexts, in order of their creation."""
    return [context.name for context in current_runtime().contexts()]


async def destroy_context(name: str) -> bool:
    """Close the context of that name, its work drained; False: there is none."""
    return await current_runtime().destroy_context(name)
