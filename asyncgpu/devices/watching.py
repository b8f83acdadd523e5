"""Watching: changes as they happen, without ever holding anybody up."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator

import anyio.lowlevel

from ..promise import Promise, new_promise, resolve
from .status import DeviceChange

__all__ = ["Watch", "Watchers"]

# Enough for a burst of some hundred requests; a watcher that is further behind loses the oldest.
_LENGTH = 1024


class Watch(AsyncIterator[DeviceChange]):
    """The changes since it was made, for one task. It ends when the manager closes.

    A watcher that does not keep up loses the oldest changes, and `dropped` counts them. Nothing
    has to be closed: a watch that nobody holds any more is forgotten.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._changes: deque[DeviceChange] = deque(maxlen=_LENGTH)
        self._wake: Promise[None] | None = None
        self._ended = False

    async def __anext__(self) -> DeviceChange:
        await anyio.lowlevel.checkpoint()
        while not self._changes:
            if self._ended:
                raise StopAsyncIteration
            self._wake = new_promise()
            await self._wake
        return self._changes.popleft()

    def put(self, change: DeviceChange) -> None:
        """Add a change; never waits."""
        self.dropped += len(self._changes) == _LENGTH
        self._changes.append(change)
        self._notify()

    def end(self) -> None:
        """Let the iteration end after the changes that are there."""
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None:
            resolve(self._wake, None)


class Watchers:
    """All watches of a manager, as long as somebody holds them."""

    def __init__(self) -> None:
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()

    def __bool__(self) -> bool:
        return bool(self._watches)

    def add(self) -> Watch:
        """Return a new watch."""
        watch = Watch()
        self._watches.add(watch)
        return watch

    def tell(self, change: DeviceChange) -> None:
        """Hand `change` to everybody."""
        for watch in self._watches:
            watch.put(change)

    def end(self) -> None:
        """End every watch."""
        for watch in self._watches:
            watch.end()
