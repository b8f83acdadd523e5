"""The four things a channel asks of an event loop, on asyncio, uvloop and trio alike.

Callbacks, not tasks: a task switch for each message costs more than reading it. On asyncio and
uvloop the loop calls back by itself. trio has only tasks, so there one system task for each watched
descriptor plays that part.

Everything runs in a context of its own, an empty one: a worker may outlive the task that started
it, and must neither keep that task's session alive nor act in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import trio

__all__ = ["Reactor", "running_reactor"]

log = logging.getLogger("asyncgpu.workers")

Callback = Callable[[], object]


class Reactor(Protocol):
    """An event loop, as a channel sees it. All but `from_thread` belong to the loop's thread."""

    def watch(self, descriptor: int, callback: Callback, *, writable: bool = False) -> None:
        """Call `callback` whenever `descriptor` is readable (or writable)."""
        ...

    def unwatch(self, descriptor: int, *, writable: bool = False) -> None:
        """Stop; before the descriptor is closed. Harmless if it is not watched."""
        ...

    def soon(self, callback: Callback) -> None:
        """Call `callback` once, after the steps that are already due."""
        ...

    def from_thread(self, callback: Callback) -> None:
        """As `soon`, from any thread; silent when the loop is already gone."""
        ...


def running_reactor() -> Reactor:
    """Return that of the running event loop."""
    loop = asyncio._get_running_loop()
    return _TrioReactor() if loop is None else _AsyncioReactor(loop)


class _AsyncioReactor:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._context = Context()

    def watch(self, descriptor: int, callback: Callback, *, writable: bool = False) -> None:
        add = self._loop.add_writer if writable else self._loop.add_reader
        # The loop copies the context it is called in.
        Context().run(add, descriptor, callback)

    def unwatch(self, descriptor: int, *, writable: bool = False) -> None:
        if self._loop.is_closed():
            return
        remove = self._loop.remove_writer if writable else self._loop.remove_reader
        remove(descriptor)

    def soon(self, callback: Callback) -> None:
        self._loop.call_soon(callback, context=self._context)

    def from_thread(self, callback: Callback) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, context=self._context)
        except RuntimeError:
            log.debug("the event loop closed before its workers")


class _TrioReactor:
    def __init__(self) -> None:
        import trio

        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._watches: dict[tuple[int, bool], trio.CancelScope] = {}

    def watch(self, descriptor: int, callback: Callback, *, writable: bool = False) -> None:
        # Shielded, because trio cancels its system tasks together: whoever ends the workers of a
        # program that leaves with them still needs to see them end. `unwatch` ends it.
        scope = self._trio.CancelScope(shield=True)
        self._watches[descriptor, writable] = scope
        lowlevel = self._trio.lowlevel
        wait = lowlevel.wait_writable if writable else lowlevel.wait_readable
        lowlevel.spawn_system_task(self._call_back, scope, wait, descriptor, callback)

    def unwatch(self, descriptor: int, *, writable: bool = False) -> None:
        scope = self._watches.pop((descriptor, writable), None)
        if scope is not None:
            # A waiting task leaves the poller inside this call, so the descriptor may be closed.
            scope.cancel()

    def soon(self, callback: Callback) -> None:
        self._token.run_sync_soon(callback)

    def from_thread(self, callback: Callback) -> None:
        try:
            self._token.run_sync_soon(callback)
        except self._trio.RunFinishedError:
            log.debug("the event loop closed before its workers")

    async def _call_back(
        self, scope: trio.CancelScope, wait: Any, descriptor: int, callback: Callback
    ) -> None:
        with scope:
            while not scope.cancel_called:
                await wait(descriptor)
                try:
                    callback()
                except Exception:  # a system task that raises would take the whole program along
                    log.exception("a worker's callback failed")
