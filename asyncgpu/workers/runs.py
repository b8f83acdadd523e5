"""What a worker is doing now, and what it need not do any more. Thread-safe.

The main thread runs requests; the control thread cancels them and asks how things are; the tool,
in whichever thread it likes, asks whether it was cancelled and reports how far it has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Runs", "process_runs"]

# A tool may report every item; a person or a dashboard sees no more than this.
_PROGRESS_INTERVAL = 0.05


class Runs:
    """The requests of one worker, by their ids, which rise."""

    def __init__(self, send_progress: Callable[[int, float, float], None]) -> None:
        self._send_progress = send_progress
        self._lock = threading.Lock()
        self._current: int | None = None
        self._began = 0.0
        self._latest = 0
        self._cancelled: set[int] = set()
        self._stopping = False
        self._reported = 0.0
        self.served = 0

    def begin(self, request: int) -> bool:
        """Start `request`; False: nobody wants it any more, leave it out."""
        with self._lock:
            self._latest = request
            if self._stopping or request in self._cancelled:
                self._cancelled.discard(request)
                return False
            self._current = request
            self._began = time.monotonic()
            self._reported = 0.0
            return True

    def end(self) -> None:
        """The current request has its answer."""
        with self._lock:
            self._cancelled.discard(self._latest)
            self._current = None
            self.served += 1

    def cancel(self, request: int) -> None:
        """Nobody wants `request` any more; late for one that has ended."""
        with self._lock:
            if request > self._latest or request == self._current:
                self._cancelled.add(request)

    def stop(self) -> None:
        """Cancel the current request and every later one."""
        with self._lock:
            self._stopping = True

    def cancelled(self) -> bool:
        """Whether the current request was cancelled."""
        with self._lock:
            running = self._current is not None
            return running and (self._stopping or self._current in self._cancelled)

    def progress(self, done: float, total: float) -> None:
        """Report the current request's progress, unless the last report is very recent."""
        with self._lock:
            request, now = self._current, time.monotonic()
            if request is None or (done < total and now - self._reported < _PROGRESS_INTERVAL):
                return
            self._reported = now
        self._send_progress(request, done, total)

    def busy_seconds(self) -> float | None:
        """How long the current request has been running; None: idle."""
        with self._lock:
            return None if self._current is None else time.monotonic() - self._began


_this_process: Runs | None = None


def process_runs() -> Runs | None:
    """Return the runs of the worker that this process is; None: it is none."""
    return _this_process


def become_worker(runs: Runs) -> None:
    """Make `runs` those of this process. A worker does it once, when it starts."""
    global _this_process
    _this_process = runs
