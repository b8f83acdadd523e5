"""`Intake`: draws a source into a flow, as fast as the flow has room.

It runs in a task of the runtime, with the variables of the caller's. So a source is drawn, and in
the end closed, in one and the same task, whoever iterates over the results, and may use task
groups and cancel scopes as it likes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import Any

import anyio
import anyio.lowlevel

from ..errors import RequestError
from .flow import Flow
from .launcher import Launcher
from .tool import Items

__all__ = ["Intake"]

log = logging.getLogger("asyncgpu.tools")

# A source that has many items at hand is drawn in slices; between them the loop runs others.
_SLICE_SECONDS = 0.005
# How long a source may take to close, and to end once it was cancelled.
_CLOSE_SECONDS = 2.0


class Intake:
    """One source on its way into one flow."""

    def __init__(
        self, items: Items, flow: Flow, launcher: Launcher, pump: Callable[[], None]
    ) -> None:
        """Prepare; `start` begins to draw. `pump` has the crew look for new work."""
        self._waits = isinstance(items, AsyncIterable)
        self._source = aiter(items) if isinstance(items, AsyncIterable) else _step_by_step(items)
        self._flow = flow
        self._launcher = launcher
        self._pump = pump
        self._started = False
        self._drawing = False
        self._interrupted = False
        # The only scope here. A source may hold scopes of its own open from one item to the next,
        # and ours must not open or close between them.
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()

    def start(self) -> None:
        """Draw, in a task of the runtime."""
        self._started = True
        self._launcher.start_soon(self._run)

    async def aclose(self) -> None:
        """Stop drawing, close the source, and wait for both. Idempotent."""
        self._flow.stop_drawing()
        if not self._started:
            await self._close_source()
            return
        if self._drawing:
            self._interrupted = True
            self._scope.cancel()
        with anyio.move_on_after(2 * _CLOSE_SECONDS, shield=True):
            await self._ended.wait()
        if not self._ended.is_set():
            log.warning("a source of items does not end, although it was cancelled")

    async def _run(self) -> None:
        try:
            with self._scope:
                try:
                    await self._draw_all()
                finally:
                    await self._close_source()
            if self._scope.cancelled_caught and not self._interrupted:
                log.warning("a source of items was not closed within %g s", _CLOSE_SECONDS)
        finally:
            # Only if somebody else has cancelled the source: nobody may wait for it for ever.
            self._flow.break_off(RequestError("the source of items was cancelled"))
            self._ended.set()

    async def _draw_all(self) -> None:
        try:
            while room := await self._flow.room():
                await self._draw_slice(room)
                await anyio.lowlevel.checkpoint()
        except StopAsyncIteration:
            self._flow.complete()
        except Exception as error:  # noqa: BLE001 - the source's own; the caller gets it
            self._flow.complete(error)
        self._pump()

    async def _draw_slice(self, room: int) -> None:
        until = self._launcher.clock() + _SLICE_SECONDS
        for _ in range(room):
            self._drawing = True
            item = await anext(self._source)
            self._drawing = False
            self._flow.admit(item)
            # The next item may take its time, so nobody may idle for it. Of the items that are at
            # hand, the costliest is to go first.
            if self._waits and self._flow.scarce:
                self._pump()
            if self._launcher.clock() >= until:
                break
        self._pump()

    async def _close_source(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is None:
            return
        try:
            if self._interrupted:
                # A generator has unwound already; what else there is may need to wait.
                with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                    await close()
            else:
                self._scope.deadline = anyio.current_time() + _CLOSE_SECONDS
                await close()
        except Exception:
            log.exception("a source of items could not be closed")


async def _step_by_step(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Give a plain iterator the form of an async one."""
    try:
        for item in items:
            yield item
    finally:
        if isinstance(items, Generator):
            items.close()
