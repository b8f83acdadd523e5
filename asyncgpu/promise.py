"""One value, promised by the callback side of a channel to one awaiting task.

On asyncio and uvloop this is `asyncio.Future` itself: created, resolved and awaited in C, which is
what the hot path of a worker call needs (a task group and a timeout for each call cost more than
the call). trio has no futures, so there a small class does the same over a `trio.Event`.

A promise must be resolved in the event loop's own thread, at most once, and only while
``not promise.done()``: a task that is cancelled while it awaits leaves its promise done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

__all__ = ["Promise", "new_promise", "resolve"]

T = TypeVar("T")


class Promise(Protocol[T]):
    """What both forms offer; `asyncio.Future` fits as it is."""

    def done(self) -> bool: ...
    def set_result(self, result: T, /) -> None: ...
    def add_done_callback(self, fn: Callable[[Any], object], /) -> None: ...
    def result(self) -> T: ...
    def __await__(self) -> Generator[Any, None, T]: ...


def new_promise() -> Promise[Any]:
    """Return an unresolved promise of the running event loop."""
    loop = asyncio._get_running_loop()
    return _TrioPromise() if loop is None else loop.create_future()


def resolve(promise: Promise[T], value: T) -> None:
    """Set the result, unless the awaiting task is already gone."""
    if not promise.done():
        promise.set_result(value)


class _TrioPromise:
    """`asyncio.Future`'s few needed methods, for trio."""

    __slots__ = ("_callbacks", "_event", "_state", "_value")

    def __init__(self) -> None:
        # trio is optional and this runs only inside it, so it is already imported.
        import trio

        self._event = trio.Event()
        self._callbacks: list[Callable[[Any], object]] = []
        self._state = "pending"
        self._value: Any = None

    def done(self) -> bool:
        return self._state != "pending"

    def set_result(self, result: Any) -> None:
        if self._state != "pending":
            raise asyncio.InvalidStateError("promise is already resolved")
        self._value = result
        self._finish("resolved")

    def result(self) -> Any:
        if self._state != "resolved":
            raise asyncio.InvalidStateError(f"promise is {self._state}")
        return self._value

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        if self.done():
            fn(self)
        else:
            self._callbacks.append(fn)

    def _finish(self, state: str) -> None:
        self._state = state
        self._event.set()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    async def _wait(self) -> Any:
        try:
            await self._event.wait()
        except BaseException:
            if not self.done():
                self._finish("abandoned")
            raise
        return self._value

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()
