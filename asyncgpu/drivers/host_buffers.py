"""Host memory for the copies of device blocks: got once, and used again by exact size.

To page-lock memory takes far longer than to copy into it, and torch's own cache of page-locked
memory rounds every size up to a power of two.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

__all__ = ["HostBuffers"]


class HostBuffers:
    """Lends host buffers, one for each copy. Thread-safe.

    Args:
        new: makes a buffer of a number of bytes; may block for long.
        discard: gives one back to the system.
        spare: bytes in buffers that nobody has; more are discarded, oldest first.
    """

    def __init__(
        self, new: Callable[[int], Any], discard: Callable[[Any], object], *, spare: int
    ) -> None:
        self._new = new
        self._discard = discard
        self._most_spare = spare
        # Held for moments only: buffers are made and discarded outside it.
        self._lock = threading.Lock()
        # Those lent are kept here too: the device may write to one whose borrower was cancelled.
        self._lent: dict[int, tuple[Any, int]] = {}
        self._spare: dict[int, tuple[Any, int]] = {}
        self._spare_bytes = 0

    def lend(self, nbytes: int) -> Any:
        """Return a buffer of exactly `nbytes`."""
        with self._lock:
            # The latest first: what lies longest is what is discarded.
            for key, (buffer, size) in reversed(self._spare.items()):
                if size == nbytes:
                    del self._spare[key]
                    self._spare_bytes -= size
                    self._lent[key] = (buffer, size)
                    return buffer
        buffer = self._new(nbytes)
        with self._lock:
            self._lent[id(buffer)] = (buffer, nbytes)
        return buffer

    def take_back(self, buffer: Any) -> None:
        """End a loan."""
        with self._lock:
            entry = self._lent.pop(id(buffer))
            self._spare[id(buffer)] = entry
            self._spare_bytes += entry[1]
            too_many = self._shed(self._most_spare)
        self._discard_all(too_many)

    def trim(self) -> None:
        """Discard all buffers that nobody has."""
        with self._lock:
            spare = self._shed(0)
        self._discard_all(spare)

    def close(self) -> None:
        """Discard all buffers; nobody uses any."""
        with self._lock:
            lent, self._lent = [buffer for buffer, _ in self._lent.values()], {}
            spare = self._shed(0)
        self._discard_all(lent + spare)

    def _shed(self, most: int) -> list[Any]:
        shed = []
        while self._spare_bytes > most:
            key = next(iter(self._spare))
            buffer, size = self._spare.pop(key)
            self._spare_bytes -= size
            shed.append(buffer)
        return shed

    def _discard_all(self, buffers: list[Any]) -> None:
        for buffer in buffers:
            self._discard(buffer)
