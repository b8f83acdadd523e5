"""One event loop, as other threads and callbacks reach it.

A driver's event, a context's own thread and a turn given back in a worker thread all end in "tell
that task, in its loop". asyncio and uvloop take a callback from any thread; trio takes it through
its token. A loop that is gone takes nothing, and saying so must not raise in the thread that asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from . import ambient
from .errors import RequestError

__all__ = ["HomeLoop", "home_loop", "in_event_loop"]


class HomeLoop(Protocol):
    """The loop that something belongs to; equal for equal loops."""

    def here(self) -> bool:
        """Whether the calling code runs in this loop."""
        ...

    def soon(self, fn: Callable[..., object], *args: Any) -> None:
        """Call `fn` in the next turn of the loop. Only from within the loop."""
        ...

    def call(self, fn: Callable[..., object], *args: Any) -> bool:
        """Call `fn` in the loop: at once if this is it, else soon, from any thread.

        `fn` must be quick and must not raise. Return False if the loop is gone.
        """
        ...

    def later(self, fn: Callable[..., object], *args: Any) -> bool:
        """Call `fn` in the loop, never at once; from any thread, a finaliser included.

        `fn` must be quick and must not raise. Return False if the loop is gone.
        """
        ...


def home_loop() -> HomeLoop:
    """Return the loop that runs in this thread.

    Raises:
        RequestError: none does.
    """
    loop = ambient.running_loop()
    if loop is None:
        raise RequestError("no event loop runs in this thread")
    return _AsyncioLoop(loop) if isinstance(loop, asyncio.AbstractEventLoop) else _TrioLoop(loop)


def in_event_loop() -> bool:
    """Whether an event loop runs in this thread, so that blocking here would stop it."""
    return ambient.running_loop() is not None


class _AsyncioLoop:
    """asyncio's or uvloop's. Callbacks get an empty Context, hence nobody's session."""

    __slots__ = ("_loop",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def here(self) -> bool:
        return asyncio._get_running_loop() is self._loop

    def soon(self, fn: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon(fn, *args, context=Context())

    def call(self, fn: Callable[..., object], *args: Any) -> bool:
        if self.here():
            fn(*args)
            return True
        return self.later(fn, *args)

    def later(self, fn: Callable[..., object], *args: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(fn, *args, context=Context())
        except RuntimeError:  # the loop is closed
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _AsyncioLoop) and other._loop is self._loop

    def __hash__(self) -> int:
        return id(self._loop)


class _TrioLoop:
    """trio's, through its token."""

    __slots__ = ("_token",)

    def __init__(self, token: Any) -> None:
        self._token = token

    def here(self) -> bool:
        import trio

        return bool(
            trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._token
        )

    def soon(self, fn: Callable[..., object], *args: Any) -> None:
        self._token.run_sync_soon(fn, *args)

    def call(self, fn: Callable[..., object], *args: Any) -> bool:
        if self.here():
            fn(*args)
            return True
        return self.later(fn, *args)

    def later(self, fn: Callable[..., object], *args: Any) -> bool:
        import trio

        try:
            self._token.run_sync_soon(fn, *args)
        except trio.RunFinishedError:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _TrioLoop) and other._token is self._token

    def __hash__(self) -> int:
        return id(self._token)
