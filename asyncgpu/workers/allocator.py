"""First fit over one range of bytes; neighbours merge when they are released. Pure."""

from __future__ import annotations

from bisect import bisect_left

__all__ = ["Allocator"]

_PAGE = 4096  # whole pages, so that what is free can be given back to the kernel


class Allocator:
    """Hands out page-aligned pieces of ``range(capacity)``, the lowest that fit.

    Low addresses are reused first, so that few pages are ever touched and those stay warm: fresh
    pages cost five to nine times a copy.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._holes = [(0, capacity)]  # (offset, size), by offset, never adjacent
        self._taken: dict[int, int] = {}

    @property
    def used(self) -> int:
        """Bytes handed out, in whole pages."""
        return sum(self._taken.values())

    def allocate(self, nbytes: int) -> int | None:
        """Return the offset of `nbytes` (at least one), or None when no hole is large enough."""
        size = -(-nbytes // _PAGE) * _PAGE
        for index, (offset, room) in enumerate(self._holes):
            if room >= size:
                if room == size:
                    del self._holes[index]
                else:
                    self._holes[index] = (offset + size, room - size)
                self._taken[offset] = size
                return offset
        return None

    def release(self, offset: int) -> None:
        """Take back what `allocate` returned.

        Raises:
            KeyError: nothing is allocated at `offset`.
        """
        size = self._taken.pop(offset)
        index = bisect_left(self._holes, (offset, 0))
        if index < len(self._holes) and self._holes[index][0] == offset + size:
            size += self._holes.pop(index)[1]
        if index > 0:
            before, room = self._holes[index - 1]
            if before + room == offset:
                self._holes[index - 1] = (before, room + size)
                return
        self._holes.insert(index, (offset, size))
