"""Looks at pending device events once per turn of the event loop, for a short while.

Most inference kernels end within the window, and then a task resumes in a few microseconds; handing
the event to a thread costs five to ten times that. One poller serves all contexts of a loop, so
that waiting costs one look per event and turn, however many tasks wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from anyio.lowlevel import RunVar

from ..home_loop import HomeLoop
from ..ports import DriverEvent
from ..promise import Promise, resolve

__all__ = ["PendingWait", "Poller", "running_poller"]

# Bounds the burnt CPU. Measured against a waiting thread: 7 us to resume instead of 60 to 75.
WINDOW_SECONDS = 150e-6


class PendingWait:
    """One task that waits for one event.

    Args:
        event: what it waits for.
        promise: resolved with None, or with the exception the driver raised.
        loop: the loop of `promise`.
        hand_over: called when the window has passed; takes the wait on.
    """

    __slots__ = ("_until", "event", "hand_over", "loop", "promise")

    def __init__(
        self,
        event: DriverEvent,
        promise: Promise[Exception | None],
        loop: HomeLoop,
        hand_over: Callable[[PendingWait], None],
    ) -> None:
        self.event = event
        self.promise = promise
        self.loop = loop
        self.hand_over = hand_over
        self._until = time.perf_counter() + WINDOW_SECONDS

    def look(self) -> bool:
        """Return whether the poller is rid of it: reached, failed, given up, or handed over."""
        if self.promise.done():
            return True
        try:
            if self.event.done():
                resolve(self.promise, None)
            elif time.perf_counter() < self._until:
                return False
            else:
                self.hand_over(self)
        except Exception as error:  # noqa: BLE001 - it is the waiting task's, not the loop's
            resolve(self.promise, error)
        return True


class Poller:
    """The pending waits of one loop. Used in the loop's thread only.

    It knows its loop through its waits only: a reference of its own would keep a closed loop alive.
    """

    def __init__(self) -> None:
        self._waits: list[PendingWait] = []

    def add(self, wait: PendingWait) -> None:
        """Look at `wait` once per turn from the next turn on."""
        self._waits.append(wait)
        if len(self._waits) == 1:
            wait.loop.soon(self._turn)

    def _turn(self) -> None:
        self._waits = [wait for wait in self._waits if not wait.look()]
        if self._waits:
            self._waits[0].loop.soon(self._turn)


def running_poller() -> Poller:
    """Return the poller of the loop that runs in this thread."""
    poller = _poller.get(None)
    if poller is None:
        poller = Poller()
        _poller.set(poller)
    return poller


_poller: RunVar[Poller] = RunVar("asyncgpu_poller")
