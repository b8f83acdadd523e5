"""A context's own thread: where `run_sync` calls real models, one call after the other.

A call that blocks in the driver (a first matrix product, ``.item()``, a JIT compilation) must not
hold up an event loop. All calls of a context share one thread, so that torch's thread-local state
is set up once and calls of one model never overlap.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

from ..errors import ContextClosed
from ..home_loop import home_loop
from ..promise import new_promise, resolve
from .activity import Work
from .carried import CarriedSession
from .core import ContextCore
from .current import applied
from .own_thread import OwnThread
from .step_hook import current_stack
from .waiter import Marker

__all__ = ["ContextThread"]


class ContextThread:
    """Calls functions in a thread of its own, on the stream of its context."""

    def __init__(self, core: ContextCore) -> None:
        self._core = core
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        # Of all loops; sets are safe to change from several threads.
        self._unreturned: set[_Call] = set()
        self._thread = OwnThread(f"asyncgpu {core.name}", self._run)

    async def call(self, session: CarriedSession, what: str, fn: Callable[[], Any]) -> Any:
        """Call `fn` in the thread and return its result once its device work is done.

        Cancelling returns at once: a call that has not begun never does, and one that runs cannot
        be stopped, so that the context's work, and the turn of `session`, last until it has ended.

        Args:
            session: what the call runs in; its turn is given back at the end.
            what: what to call it when somebody asks what still runs.
            fn: the function.

        Raises:
            ContextClosed: the context is closed, or closing and no session of it is around.
            DeviceLost: the stream could not be made current, or the work has failed.
        """
        assert session.turn is not None
        self._core.memory.changed()
        try:
            work = self._core.begin(what, category="run")
        except BaseException:
            session.turn.drop()
            raise
        call = _Call(self._core, session, work, fn)
        try:
            self._thread.start()
        except BaseException:
            call.end()
            raise
        self._unreturned.add(call)
        self._calls.put(call)
        try:
            return await call.outcome()
        finally:
            self._unreturned.discard(call)

    def abandon(self) -> None:
        """Fail the calls that have not returned, and let the thread end after the one it is in."""
        self._calls.put(None)
        for call in list(self._unreturned):
            call.abandon()

    async def stop(self) -> None:
        """End the thread, which has no more calls."""
        self._calls.put(None)
        await self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call.perform()
            # An idle thread must not keep the arguments of its last call alive.
            del call


class _Call:
    """One call on its way through the thread.

    `perform` runs in the thread; everything else in the caller's loop, hence without a lock.
    """

    __slots__ = (
        "_context",
        "_core",
        "_error",
        "_fn",
        "_given_up",
        "_loop",
        "_marker",
        "_promise",
        "_returned",
        "_session",
        "_value",
        "_work",
    )

    def __init__(
        self, core: ContextCore, session: CarriedSession, work: Work, fn: Callable[[], Any]
    ) -> None:
        self._core = core
        self._session = session
        self._work = work
        self._fn: Callable[[], Any] | None = fn
        self._context: Context = copy_context()
        self._loop = home_loop()
        self._promise = new_promise()
        self._given_up = False
        self._returned = False
        self._marker: Marker | None = None
        self._value: Any = None
        self._error: BaseException | None = None

    def perform(self) -> None:
        """Call the function, put a marker behind its device work, and tell the loop."""
        fn, self._fn = self._fn, None
        assert fn is not None
        if self._given_up:
            self.end()
            return
        try:
            self._core.check_open()
            self._value = self._context.run(_apply_and_call, self._session, fn)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's task
            self._error = error
        try:
            self._marker = self._core.record()
        except Exception as error:  # noqa: BLE001 - raised again in the caller's task
            self._error = self._error or error
        if not self._loop.call(self._return):
            self.end()

    def abandon(self) -> None:
        """Let `outcome` raise `ContextClosed`, unless it has something to return already."""
        self._loop.call(resolve, self._promise, None)

    async def outcome(self) -> Any:
        """Wait for the result and the device work behind it."""
        try:
            await self._promise
            if not self._returned:
                raise ContextClosed(f"{self._core} was closed while this call ran")
        except BaseException:
            if self._returned:
                self._drain_later()
            else:
                self._given_up = True
            raise
        value, self._value = self._value, None
        error, self._error = self._error, None
        try:
            if self._marker is None:
                self.end()
            else:
                await self._core.drain(self._marker, self.end)
            if error is not None:
                raise error
            return value
        finally:
            # The exception's traceback refers to this frame, and must not find itself here.
            del error

    def _return(self) -> None:
        self._returned = True
        if self._given_up:
            self._drain_later()
        else:
            resolve(self._promise, None)

    def _drain_later(self) -> None:
        if self._marker is None:
            self.end()
        else:
            self._core.drain_later(self._marker, self.end)

    def end(self) -> None:
        """Give the turn back and end the work; from any thread, once."""
        # Taken by the caller, or wanted by nobody; the error would refer to itself through this.
        self._value = self._error = None
        assert self._session.turn is not None
        self._session.turn.drop()
        self._core.activity.end(self._work)


def _apply_and_call(session: CarriedSession, fn: Callable[[], Any]) -> Any:
    try:
        with applied(session):
            return fn()
    finally:
        # Sync sessions that the function has entered and not left end with it.
        current_stack().unwind()
