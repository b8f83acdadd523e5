"""The device memory of one pool: what its blocks have, and what freed blocks have left behind."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GRAIN", "PoolMemory", "Taken", "rounded"]

GRAIN = 256
"""Bytes. Sizes are multiples of it, as every address that CUDA hands out is."""


class Taken(NamedTuple):
    """Memory for a block."""

    buffer: int
    cached: bool
    """It was cached; else it must be got from the device."""
    freed: bool
    """A freed block has left it; else an evicted one has, or nobody."""
    released: tuple[int, ...]
    """Cached buffers that must be given back to the device first."""


class PoolMemory:
    """Accounts for buffers: pieces of device memory that one block has, or that are cached.

    A buffer is cached when its block needs it no more, and goes to the next block of its size.
    Cached memory of the wrong size is given back when it stands in the way, oldest first.

    Attributes:
        quota: bytes; allocated and cached memory together are never more.
        allocated: bytes that blocks have.
        cached: bytes that no block has.
    """

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self.allocated = 0
        self.cached = 0
        self._next = 0
        self._sizes: dict[int, int] = {}
        # Dicts keep their order: that in which buffers were cached. Whether a freed block has left
        # it is the value. Of one size the latest goes first: it may still be in a cache of the GPU.
        self._cached: dict[int, bool] = {}
        self._by_size: dict[int, dict[int, None]] = {}

    @property
    def room(self) -> int:
        """What is left of the quota beside allocated and cached memory."""
        return self.quota - self.allocated - self.cached

    @property
    def cached_buffers(self) -> int:
        """How many buffers are cached."""
        return len(self._cached)

    def take(self, size: int) -> Taken | None:
        """Take memory for a block of `size` bytes, rounded; None: blocks are in the way."""
        same = self._by_size.get(size)
        if same:
            buffer = next(reversed(same))
            self.allocated += size
            return Taken(buffer, True, self._uncache(buffer), ())
        if size > self.room + self.cached:
            return None
        released = []
        while size > self.room:
            released.append(next(iter(self._cached)))
            self._uncache(released[-1])
            del self._sizes[released[-1]]
        self._next += 1
        self._sizes[self._next] = size
        self.allocated += size
        return Taken(self._next, False, False, tuple(released))

    def cache(self, buffer: int, *, freed: bool) -> None:
        """Keep the memory of a block that no longer needs it: `freed`, or evicted."""
        size = self._sizes[buffer]
        self.allocated -= size
        self.cached += size
        self._cached[buffer] = freed
        self._by_size.setdefault(size, {})[buffer] = None

    def drop(self, buffer: int) -> None:
        """Forget the memory of a block; it goes back to the device."""
        self.allocated -= self._sizes.pop(buffer)

    def flush(self) -> tuple[int, ...]:
        """Forget everything that is cached, and return it: it goes back to the device."""
        buffers = tuple(self._cached)
        for buffer in buffers:
            self._uncache(buffer)
            del self._sizes[buffer]
        return buffers

    def _uncache(self, buffer: int) -> bool:
        size = self._sizes[buffer]
        freed = self._cached.pop(buffer)
        same = self._by_size[size]
        del same[buffer]
        if not same:
            del self._by_size[size]
        self.cached -= size
        return freed

    def check_invariants(self) -> None:
        """Raise `AssertionError` if a sum or the quota does not hold. For tests."""
        cached = sum(self._sizes[buffer] for buffer in self._cached)
        assert self.cached == cached
        assert self.allocated + cached == sum(self._sizes.values()) <= self.quota
        by_size = [(buffer, size) for size, buffers in self._by_size.items() for buffer in buffers]
        assert sorted(by_size) == sorted((buffer, self._sizes[buffer]) for buffer in self._cached)


def rounded(nbytes: int) -> int:
    """Return what a block of `nbytes` is accounted with."""
    return -(-nbytes // GRAIN) * GRAIN
