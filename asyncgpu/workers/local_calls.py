"""A tool's calls for other tools, where its worker is a thread of the program itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import RequestError
from ..home_loop import HomeLoop
from ..ports import Reply
from .hosting import ToolHost
from .runs import Runs
from .uplink import not_wanted

__all__ = ["Ask", "LocalCalls"]

Ask = Callable[[int, Any, list[Any], Callable[[Reply], None]], None]
"""Takes, in the loop: the request that asks, a tool or None for its own, the items, the answer."""


class LocalCalls:
    """Nested calls of one worker. `call` may come from any thread of the tool."""

    def __init__(self, loop: HomeLoop, runs: Runs, host: ToolHost, ask: Ask) -> None:
        self._loop = loop
        self._runs = runs
        self._host = host
        self._ask = ask
        # Changed from several threads, in single operations.
        self._waiting: set[_Waiting] = set()

    def call(self, tool: Any, items: Iterable[Any]) -> list[Any]:
        """Have the program answer `items` with `tool`; block this thread until it has.

        Raises:
            RequestError: no `run` is under way, or the call can never be served.
            WorkerError: nobody wants the answer to the call this is part of any more.
            Exception: as from ``await tool(items)``.
        """
        within = self._runs.current
        if within is None:
            raise RequestError("asyncgpu.worker.call: no run() is under way in this worker")
        asked = None if tool is self._host.tool else tool
        waiting = _Waiting()
        self._waiting.add(waiting)
        try:
            # Looked at after it is known as waiting: so either this or `abandon` sees the other.
            if self._runs.cancelled():
                raise not_wanted(tool)
            if self._loop.call(self._ask, within, asked, list(items), waiting.take):
                waiting.over.wait()
        finally:
            self._waiting.discard(waiting)
        if waiting.reply is None:
            raise not_wanted(tool)
        if waiting.reply.error is not None:
            raise waiting.reply.error
        answers: list[Any] = waiting.reply.value
        return answers

    def abandon(self) -> None:
        """Let everybody who waits go on: nobody wants anything any more."""
        for waiting in tuple(self._waiting):
            waiting.over.set()


class _Waiting:
    """A thread that waits for an answer."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.reply: Reply | None = None

    def take(self, reply: Reply) -> None:
        self.reply = reply
        self.over.set()
