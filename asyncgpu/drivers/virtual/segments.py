"""How many bytes of a device so many allocations take, by the rounding of CUDA's allocator.

torch's allocator takes memory from CUDA in segments and cuts them up; the numbers stand in its
``c10/core/AllocatorConfig.h``. Here every allocation finds a segment with room, as if the others
could be moved: the rounding is real and the fragmentation left out, so that what is charged depends
on what is alive and on nothing else.
"""

from __future__ import annotations

from ...units import MB

__all__ = ["Segments", "rounded"]

_BLOCK = 512
# Up to 1 MiB allocations share small segments, below 10 MiB larger ones.
_SMALL, _SMALL_SEGMENT = 1 * MB, 2 * MB
_MEDIUM, _MEDIUM_SEGMENT = 10 * MB, 20 * MB
_LARGE_STEP = 2 * MB


class Segments:
    """The allocations of one memory, and the segments that they fill.

    Attributes:
        live: the sum of the allocations, each rounded to whole blocks.
        total: the bytes of all segments: at least `live`, and 0 when nothing is.
    """

    __slots__ = ("_medium", "_small", "live", "total")

    def __init__(self) -> None:
        self.live = 0
        self.total = 0
        self._small = 0
        self._medium = 0

    def add(self, nbytes: int) -> int:
        """Enter an allocation; return by how much `total` grows."""
        return self._change(rounded(nbytes))

    def remove(self, nbytes: int) -> int:
        """Take out an allocation that was entered as `nbytes`; return by how much it shrinks."""
        return -self._change(-rounded(nbytes))

    def _change(self, size: int) -> int:
        self.live += size
        if abs(size) <= _SMALL:
            before = self._small
            self._small = after = before + size
            change = _up(after, _SMALL_SEGMENT) - _up(before, _SMALL_SEGMENT)
        elif abs(size) < _MEDIUM:
            before = self._medium
            self._medium = after = before + size
            change = _up(after, _MEDIUM_SEGMENT) - _up(before, _MEDIUM_SEGMENT)
        else:
            change = _up(size, _LARGE_STEP) if size > 0 else -_up(-size, _LARGE_STEP)
        self.total += change
        return change


def rounded(nbytes: int) -> int:
    """Return what an allocation of `nbytes` takes of a segment."""
    return _up(nbytes, _BLOCK)


def _up(nbytes: int, step: int) -> int:
    return -(-nbytes // step) * step
