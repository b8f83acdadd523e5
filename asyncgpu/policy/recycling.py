"""Recycling: when a worker has served long enough, or grown too fat, to be replaced."""

from __future__ import annotations

from ..errors import InvalidRequest
from ..units import Size, parse_size

__all__ = ["Recycling"]


class Recycling:
    """The age of one worker, against what its tool allows."""

    def __init__(self, after: int | None, memory: Size | None) -> None:
        """Begin with a fresh worker.

        Args:
            after: calls of `run` that a worker may serve; None: any number.
            memory: bytes of host memory that it may grow by since it was loaded; None: any number.

        Raises:
            InvalidRequest: one of them means nothing.
        """
        if after is not None and (isinstance(after, bool) or not isinstance(after, int)):
            raise InvalidRequest(f"recycle_after: {after!r} is not an int")
        if after is not None and after < 1:
            raise InvalidRequest(f"recycle_after: {after!r} is not a number of calls")
        self._after = after
        self._memory = None if memory is None else parse_size(memory, what="recycle_memory")
        self._served = 0
        self._grown = 0
        self._loaded: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is anything to watch."""
        return self._after is not None or self._memory is not None

    @property
    def weighs(self) -> bool:
        """Whether its memory is to be measured."""
        return self._memory is not None

    @property
    def due(self) -> bool:
        """Whether the worker is to be replaced."""
        if self._after is not None and self._served >= self._after:
            return True
        return self._memory is not None and self._grown > self._memory

    def served(self) -> None:
        """Count a call."""
        self._served += 1

    def measured(self, resident: int) -> None:
        """Take in how many bytes of memory the worker has; the first time, it was just loaded."""
        if self._loaded is None:
            self._loaded = resident
        self._grown = resident - self._loaded

    def renew(self) -> None:
        """Begin again: with another worker, or because there is none to be had."""
        self._served = 0
        self._grown = 0
        self._loaded = None
