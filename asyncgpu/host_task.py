"""`HostTask`: the one task that owns whatever a runtime runs beside its callers.

A task group belongs to the task that entered it. A runtime's belongs to a task of its own, so that
callers may come, go and be cancelled, and the runtime may be closed from another task than the one
that opened it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from . import ambient

__all__ = ["HostTask"]

log = logging.getLogger("asyncgpu.runtime")


class HostTask:
    """A task group that anybody on the loop may start tasks in."""

    def __init__(self, teardown: Callable[[], Awaitable[None]]) -> None:
        """Prepare; `teardown` runs in the task, shielded, when the loop ends before `stop`."""
        self._teardown = teardown
        self._ready = anyio.Event()
        self._closing = anyio.Event()
        self._ended = anyio.Event()
        self._called_for: deque[Callable[[], object]] = deque()
        self._wake = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._task: object = None  # asyncio keeps only weak references to its tasks

    async def start(self) -> None:
        """Start the task on the running loop."""
        context = contextvars.copy_context()
        context.run(_forget_caller)
        loop = asyncio._get_running_loop()
        if loop is not None:
            self._task = loop.create_task(self._main(), name="asyncgpu host", context=context)
        else:
            import trio

            self._task = trio.lowlevel.spawn_system_task(
                self._main, name="asyncgpu host", context=context
            )
        await self._ready.wait()

    def start_soon(
        self, fn: Callable[..., Awaitable[Any]], *args: Any, name: object = None
    ) -> None:
        """Run ``fn(*args)`` beside the callers; what it raises is logged and ends only itself.

        Called by a task, it runs in a copy of that task's context; by a callback of the event
        loop, in one of the host's own.
        """
        if self._tasks is None or self._closing.is_set():
            return
        start = partial(self._tasks.start_soon, self._guard, fn, *args, name=name or fn)
        if asyncio._get_running_loop() is None or asyncio.current_task() is not None:
            start()
        else:
            # anyio starts tasks only from tasks: without one it cannot tell which loop this is.
            self._called_for.append(start)
            self._wake.set()

    async def stop(self) -> None:
        """Cancel what still runs and wait for its end."""
        self._closing.set()
        self._wake.set()
        await self._ended.wait()

    async def _main(self) -> None:
        try:
            async with anyio.create_task_group() as self._tasks:
                self._ready.set()
                while not self._closing.is_set():
                    await self._wake.wait()
                    self._wake = anyio.Event()
                    while self._called_for:
                        self._called_for.popleft()()
                self._tasks.cancel_scope.cancel()
        finally:
            if not self._closing.is_set():
                # The loop is ending with the runtime still open.
                with anyio.CancelScope(shield=True):
                    await self._teardown()
            self._ended.set()

    async def _guard(self, fn: Callable[..., Awaitable[Any]], *args: Any) -> None:
        try:
            await fn(*args)
        except Exception:
            log.exception("a task of the runtime failed: %r", fn)


def _forget_caller() -> None:
    """The host serves everybody: nothing that belongs to the opening task is its own."""
    ambient.runtime.set(None)
    ambient.session.set(None)
    ambient.pool.set(None)
    ambient.persistence.set(None)
    ambient.claims.set(frozenset())
