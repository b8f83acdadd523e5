"""`blocking_runtime`: a runtime for programs without an event loop, through anyio's portal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from .contexts.context import ExecutionContext
from .contexts.partitions import PartitionManager
from .contexts.pressure import Handler, Registration
from .devices.lease import Lease
from .runtime import Runtime, RuntimeStatus

__all__ = ["BlockingRuntime", "blocking_runtime"]

T = TypeVar("T")


class BlockingRuntime:
    """`Runtime`'s methods, each of which blocks the calling thread until it is done.

    Contexts are used with the sync form of `context_session`; anything else that is a coroutine is
    run by `call`: ``rt.call(pool.run, tool, items)``.
    """

    def __init__(self, runtime: Runtime, portal: BlockingPortal) -> None:
        self._runtime = runtime
        self._portal = portal

    def call(self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """Run ``await fn(*args, **kwargs)`` in the runtime's loop and return its result."""
        return self._portal.call(partial(fn, *args, **kwargs))

    def enter(self, block: Any) -> AbstractContextManager[Any]:
        """Return the blocking form of an ``async with`` block: ``with rt.enter(ToolPool())``."""
        return self._portal.wrap_async_context_manager(block)

    def create_context(self, name: str, **options: Any) -> ExecutionContext:
        """Open an execution context; see `Runtime.create_context`."""
        return self.call(self._runtime.create_context, name, **options)

    def destroy_context(self, name: str) -> bool:
        """Close the context of that name; False: there is none."""
        return self.call(self._runtime.destroy_context, name)

    def get_context(self, name: str) -> ExecutionContext | None:
        """Return the open context of that name, or None."""
        return self._portal.call(self._runtime.get_context, name)

    def contexts(self) -> list[ExecutionContext]:
        """Return the open contexts, in order of their creation."""
        return self._portal.call(self._runtime.contexts)

    def partitions(self, device: str | None = None) -> PartitionManager:
        """Return the manager of a device's partitions; see `Runtime.partitions`."""
        return self._portal.call(self._runtime.partitions, device)

    def available_vram(self, device: str | None = None) -> int:
        """Return the bytes that a new context could reserve; see `Runtime.available_vram`."""
        return self._portal.call(self._runtime.available_vram, device)

    def on_memory_pressure(self, handler: Handler) -> Registration:
        """Ask `handler`, in the runtime's thread, when memory runs short; see the function."""
        return self._portal.call(self._runtime.on_memory_pressure, handler)

    def lease(self, device: str = "cuda", **options: Any) -> AbstractContextManager[Lease]:
        """Wait for a lease; ``with`` holds it. See `DeviceManager.lease`."""
        return self.enter(self._runtime.lease(device, **options))

    def status(self) -> RuntimeStatus:
        """Return a snapshot of everything the runtime owns."""
        return self._portal.call(self._runtime.status)


@contextmanager
def blocking_runtime(**options: Any) -> Iterator[BlockingRuntime]:
    """Open a runtime in an event loop of its own, in a thread of its own.

    Args:
        **options: `Runtime`'s parameters.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(Runtime(**options)) as runtime,
    ):
        yield BlockingRuntime(runtime, portal)
