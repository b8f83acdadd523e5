"""`Watchers`: tells everybody who watches what happened to holders and waiters."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator

from ..promise import Promise, new_promise, resolve
from .status import DeviceChange

__all__ = ["Watchers"]

# A watcher that does not read keeps this many changes and loses the oldest.
_KEPT = 1024


class Watchers:
    """Any number of readers, each with a bounded queue of its own."""

    def __init__(self) -> None:
        self._readers: dict[int, _Reader] = {}
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._readers)

    def tell(self, change: DeviceChange) -> None:
        """Pass a change on to every reader."""
        for reader in self._readers.values():
            reader.put(change)

    async def watch(self) -> AsyncIterator[DeviceChange]:
        """Yield every change from now on; leaving the iteration ends it."""
        reader = _Reader()
        key, self._next = self._next, self._next + 1
        self._readers[key] = reader
        try:
            while True:
                yield await reader.get()
        finally:
            del self._readers[key]


class _Reader:
    def __init__(self) -> None:
        self._changes: deque[DeviceChange] = deque(maxlen=_KEPT)
        self._wake: Promise[None] | None = None

    def put(self, change: DeviceChange) -> None:
        self._changes.append(change)
        if self._wake is not None:
            resolve(self._wake, None)

    async def get(self) -> DeviceChange:
        while not self._changes:
            self._wake = new_promise()
            await self._wake
        return self._changes.popleft()
