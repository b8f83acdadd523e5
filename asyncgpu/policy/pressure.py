"""Memory pressure: the marks of one context, each reported once whenever it is crossed upwards."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["PressureLevel", "PressureMarks"]


class PressureLevel(IntEnum):
    """How full a context's budget is."""

    NONE = 0
    SOFT = 1
    HARD = 2


class PressureMarks:
    """Where the marks are, and which was passed last.

    Args:
        limit: bytes, what the marks are shares of.
        soft: share at which caches are dropped and handlers told.
        hard: share at which handlers are told again.
    """

    __slots__ = ("_bounds", "_level", "high", "low")

    low: int
    """Below so many bytes the level falls."""
    high: int
    """From so many bytes on the level rises."""

    def __init__(self, limit: int, *, soft: float, hard: float) -> None:
        self._bounds = (0, int(limit * soft), int(limit * hard), 1 << 62)
        self._settle(PressureLevel.NONE)

    @property
    def level(self) -> PressureLevel:
        return self._level

    def moved(self, used: int) -> bool:
        """Take in the bytes used now; return whether a mark has been crossed upwards.

        Two marks crossed at once are one crossing.
        """
        level = PressureLevel(sum(used >= bound for bound in self._bounds[1:3]))
        rises = level > self._level
        self._settle(level)
        return rises

    def _settle(self, level: PressureLevel) -> None:
        self._level = level
        self.low, self.high = self._bounds[level], self._bounds[level + 1]
