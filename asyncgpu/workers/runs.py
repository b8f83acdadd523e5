"""What a worker is doing now, and what it need not do any more.

The main thread runs requests; the control thread cancels them and asks how things are; the tool,
in whichever thread it likes, asks whether it was cancelled and reports how far it has come. No lock
is needed: each attribute has one writer, and the set of cancelled ids changes in single operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Runs"]

# A tool may report every item; a person or a dashboard sees no more than this.
_PROGRESS_INTERVAL = 0.05


class Runs:
    """The requests of one worker, by their ids, which rise."""

    def __init__(self, send_progress: Callable[[int, float, float], object]) -> None:
        self._send_progress = send_progress
        self._current: int | None = None
        self._began = 0.0
        self._cancelled: set[int] = set()
        self._stopping = False
        self._reported = 0.0
        self.served = 0

    @property
    def current(self) -> int | None:
        """The request that runs; None: idle."""
        return self._current

    def begin(self, request: int) -> bool:
        """Start `request`; False: nobody wants it any more, leave it out."""
        if self._stopping or request in self._cancelled:
            return False
        if self._cancelled:
            # Late ones, for requests that had ended.
            self._cancelled -= {old for old in tuple(self._cancelled) if old < request}
        self._reported = 0.0
        self._began = time.perf_counter()
        self._current = request
        return True

    def end(self) -> None:
        """The current request has its answer."""
        self._current = None
        self.served += 1

    def cancel(self, request: int) -> None:
        """Nobody wants `request` any more. Means nothing for one that has ended."""
        self._cancelled.add(request)

    def stop(self) -> None:
        """Cancel the current request and every later one."""
        self._stopping = True

    def cancelled(self) -> bool:
        """Whether the current request was cancelled."""
        request = self._current
        return request is not None and (self._stopping or request in self._cancelled)

    def progress(self, done: float, total: float) -> None:
        """Report the current request's progress, unless the last report is very recent."""
        request, now = self._current, time.perf_counter()
        if request is None or (done < total and now - self._reported < _PROGRESS_INTERVAL):
            return
        self._reported = now
        self._send_progress(request, done, total)

    def elapsed(self) -> float:
        """Seconds since the current request began."""
        return time.perf_counter() - self._began

    def busy_seconds(self) -> float | None:
        """How long the current request has been running; None: idle."""
        return None if self._current is None else self.elapsed()
