"""Least recently used, bounded by bytes: what must go when something comes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["ByteLru"]

K = TypeVar("K", bound=Hashable)


class ByteLru(Generic[K]):
    """Keys and how many bytes stand behind each; the values are somebody else's.

    Attributes:
        capacity: bytes of all together, at most.
        used: bytes now.
        evictions: keys that had to go so far.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self.evictions = 0
        self._sizes: OrderedDict[K, int] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[K]:
        """Yield the keys, the least recently used first."""
        return iter(self._sizes)

    def touch(self, key: K) -> bool:
        """Count a use of `key`; return whether it is here."""
        if key not in self._sizes:
            return False
        self._sizes.move_to_end(key)
        return True

    def add(self, key: K, nbytes: int) -> list[K] | None:
        """Add or replace a key; return what must go for it. None: it is too large by itself."""
        self.remove(key)
        if nbytes > self.capacity:
            return None
        gone = []
        while self.used + nbytes > self.capacity:
            oldest, size = self._sizes.popitem(last=False)
            self.used -= size
            gone.append(oldest)
        self.evictions += len(gone)
        self._sizes[key] = nbytes
        self.used += nbytes
        return gone

    def remove(self, key: K) -> bool:
        """Forget a key; return whether it was here."""
        size = self._sizes.pop(key, None)
        if size is None:
            return False
        self.used -= size
        return True

    def remove_where(self, matches: Callable[[K], bool]) -> list[K]:
        """Forget every key that `matches`; return them."""
        gone = [key for key in self._sizes if matches(key)]
        for key in gone:
            self.remove(key)
        return gone
