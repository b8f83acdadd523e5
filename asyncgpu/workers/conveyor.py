"""Jobs in order, without ever keeping the event loop: light ones at once, heavy ones in a thread.

A heavy job is a copy of megabytes, or the unpickling of them. Whatever is put on while one is under
way follows it through the thread, so order is kept without anybody waiting for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from .reactor import Reactor

__all__ = ["Conveyor"]

T = TypeVar("T")


class Conveyor:
    """One ordered sequence of jobs. All methods belong to the loop's thread.

    A job must not raise; what can go wrong is part of its result.
    """

    def __init__(self, reactor: Reactor, name: str) -> None:
        self._reactor = reactor
        self._name = name
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = (
            SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self.under_way = 0
        """Jobs that are not done yet; with none, the next light one runs at once."""

    def put(self, job: Callable[[], T], done: Callable[[T], None], *, heavy: bool) -> None:
        """Run `job`, and then `done` with its result in the loop's thread."""
        if not heavy and not self.under_way:
            done(job())
            return
        self.under_way += 1
        self._jobs.put((job, done))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; only when idle, so that this takes no time."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, done = entry
            self._deliver(done, job())
            del entry, job, done

    def _deliver(self, done: Callable[[Any], None], result: Any) -> None:
        def arrive() -> None:
            self.under_way -= 1
            done(result)

        self._reactor.from_thread(arrive)
