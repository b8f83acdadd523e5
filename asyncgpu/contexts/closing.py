"""Closing a context: refuse, drain, give back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Protocol

import anyio

from ..errors import DeviceError, RequestError
from ..units import parse_timeout
from .core import ContextCore
from .thread import ContextThread

__all__ = ["Claim", "Closing", "StartSoon"]

_log = logging.getLogger("asyncgpu.contexts")


StartSoon = Callable[[Callable[[], Awaitable[None]]], object]
"""Starts a task that outlives the caller, under the supervision of whoever gave it."""


class Claim(Protocol):
    """A share of a device."""

    def release(self) -> object:
        """Give it back."""
        ...


class Closing:
    """How one context ends, once, whoever asks and however often.

    Args:
        core: the context.
        thread: its own thread.
        claim: its share of the device.
        start_soon: starts a task under the runtime's supervision.
        on_closed: called once it is closed.
    """

    def __init__(
        self,
        core: ContextCore,
        thread: ContextThread,
        claim: Claim,
        start_soon: StartSoon,
        on_closed: Callable[[], object] | None,
    ) -> None:
        self._core = core
        self._thread = thread
        self._claim = claim
        self._start_soon = start_soon
        self._on_closed = on_closed
        self._given_back: anyio.Event | None = None

    async def aclose(self, timeout: float | None) -> None:
        """See `ExecutionContext.aclose`."""
        timeout = parse_timeout(timeout)
        core = self._core
        if core.is_around():
            raise RequestError(f"{core}: closing it inside its own session would wait for itself")
        core.activity.refuse()
        core.turns.close()
        core.memory.refuse()
        with anyio.move_on_after(timeout) as scope:
            await self._drain()
        if scope.cancelled_caught:
            still = ", ".join(core.activity.under_way()) or "work on its stream"
            raise TimeoutError(f"{core} still runs after {timeout} s: {still}")
        with anyio.CancelScope(shield=True):
            await self._give_back()

    def abandon(self) -> None:
        """Close it without waiting for what still runs; its driver is about to close.

        Sessions that are open raise `ContextClosed` at their exits, and their steps run on the
        default stream from now on. Threads end when what runs in them ends.
        """
        if self._given_back is not None:
            return
        self._given_back = anyio.Event()
        self._core.activity.abandon()
        self._core.memory.refuse()
        with ExitStack() as last_first:
            self._last_acts(last_first)
            last_first.callback(self._core.waiter.end)
            last_first.callback(self._thread.abandon)

    async def leave(self, error: BaseException | None) -> None:
        """Close at the end of an ``async with`` block that is left with `error`."""
        try:
            if error is None or isinstance(error, Exception):
                await self.aclose(None)
                return
            with anyio.CancelScope(shield=True):
                await self.aclose(0)
        except TimeoutError:
            self._start_soon(self._close_quietly)
        except Exception:
            raise
        except BaseException:
            self._start_soon(self._close_quietly)
            raise

    async def _drain(self) -> None:
        await self._core.activity.wait_idle()
        if self._core.activity.closed:
            return
        try:
            await self._core.waiter.wait(self._core.waiter.record())
        except DeviceError as error:
            # Lost work is no reason to keep the rest; whoever waited for it has been told.
            # As text: a log that keeps its records would keep what the error knows.
            _log.warning("%s: closed with lost work: %s", self._core, str(error))

    async def _give_back(self) -> None:
        if self._given_back is not None:
            await self._given_back.wait()
            return
        self._given_back = anyio.Event()
        with ExitStack() as last_first:
            self._last_acts(last_first)
            self._core.activity.close()
            try:
                await self._thread.stop()
                await self._core.waiter.stop()
                await self._core.memory.aclose()
            except BaseException:
                # asyncio's own cancellation goes through every shield.
                self._core.waiter.end()
                self._core.memory.close()
                raise

    def _last_acts(self, last_first: ExitStack) -> None:
        """Put on the stack what ends a closing: each is done, even if one before it raises."""
        assert self._given_back is not None
        last_first.callback(self._given_back.set)
        if self._on_closed is not None:
            last_first.callback(self._on_closed)
        last_first.callback(self._claim.release)
        last_first.callback(self._core.stream.close)
        last_first.callback(self._core.release_hooks)

    async def _close_quietly(self) -> None:
        try:
            await self.aclose(None)
        except Exception as error:  # noqa: BLE001 - nobody waits for it: the log is the last reader
            _log.error("%s could not be closed", self._core, exc_info=error)
