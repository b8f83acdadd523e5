"""`Turn`: a turn in use, by as many sessions as are entered within each other."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Turn"]


class Turn:
    """One turn of a context or of a device. Thread-safe.

    Args:
        give_back: called once, when the last user has dropped it.
        device: the turn of the device that this one of a context goes with. It is used by this one,
            and maybe by turns of other contexts, and dropped after this one is given back.
    """

    __slots__ = ("_give_back", "_lock", "_users", "device")

    def __init__(self, give_back: Callable[[], object], device: Turn | None = None) -> None:
        self.device = device
        self._give_back = give_back
        self._lock = threading.Lock()
        self._users = 1

    def share(self) -> bool:
        """Use it once more; return False if it has been given back already."""
        with self._lock:
            if self._users == 0:
                return False
            self._users += 1
            return True

    def drop(self) -> None:
        """Use it once less; the last user gives it back."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        self._give_back()
        if self.device is not None:
            self.device.drop()
