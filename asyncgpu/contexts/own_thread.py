"""A thread that belongs to one context: started when first needed, ended with the context."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..home_loop import home_loop
from ..promise import new_promise, resolve

__all__ = ["OwnThread"]


class OwnThread:
    """A lazily started daemon thread that can be joined without blocking an event loop.

    It is a daemon so that a program which ends without closing its contexts still ends.

    Args:
        name: for debuggers and logs.
        body: runs in the thread; it must return soon after its owner tells it to.
    """

    def __init__(self, name: str, body: Callable[[], None]) -> None:
        self._name = name
        self._body = body
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._when_ended: list[Callable[[], object]] = []

    def start(self) -> None:
        """Start it unless it runs."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    async def join(self) -> None:
        """Wait until the body has returned and the thread is gone."""
        loop, promise = home_loop(), new_promise()
        with self._lock:
            thread = self._thread
            if thread is None:
                return
            ended = self._ended
            self._when_ended.append(lambda: loop.call(resolve, promise, None))
        if not ended:
            await promise
        # Its last act was to call us: only the interpreter's own tidying is left to wait for. A
        # worker thread to join it from would itself stay behind for seconds.
        thread.join()

    def _run(self) -> None:
        try:
            self._body()
        finally:
            with self._lock:
                self._ended = True
                callbacks, self._when_ended = self._when_ended, []
            for callback in callbacks:
                callback()
