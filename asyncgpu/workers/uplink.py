"""A worker's calls for other tools, out of the middle of its own: up the control lane and back.

The tool's thread waits here. The control thread goes on answering questions meanwhile, and hands
an answer over as it came: whoever waits for it unpacks it, however long that takes.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from typing import Any

from ..errors import RequestError, WorkerError
from .blocking_lane import BlockingLane
from .exchange import Exchange, Parcel
from .failure import to_exception
from .hosting import ToolHost
from .runs import Runs
from .wire import Frame, Kind

__all__ = ["OWN_TOOL", "Uplink", "not_wanted"]

OWN_TOOL = 0
"""The number of the worker's own tool, which is loaded here and must not be sent."""


class Uplink:
    """Nested calls of one worker. `call` may come from any thread of the tool."""

    def __init__(self, lane: BlockingLane, exchange: Exchange, runs: Runs, host: ToolHost) -> None:
        self._lane = lane
        self._exchange = exchange
        self._runs = runs
        self._host = host
        self._calls = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        # By their pickle: tools of one configuration are sent once, and are one tool up there.
        self._tools: dict[tuple[bytes, ...], int] = {}
        self._telling = threading.Lock()

    def call(self, tool: Any, items: Iterable[Any]) -> list[Any]:
        """Have the program answer `items` with `tool`; wait for it.

        Raises:
            RequestError: no `run` is under way, or the call can never be served.
            WorkerError: nobody wants the answer to the call this is part of any more.
            Exception: as from ``await tool(items)``.
        """
        within = self._runs.current
        if within is None:
            raise RequestError("asyncgpu.worker.call: no run() is under way in this worker")
        number = next(self._calls)
        waiting = self._waiting[number] = _Waiting()
        try:
            # Looked at after it is known as waiting: so either this or `abandon` sees the other.
            if self._runs.cancelled():
                raise not_wanted(tool)
            self._send(Kind.CALL, number, (within, self._number_of(tool), list(items)))
            waiting.over.wait()
        finally:
            del self._waiting[number]
        if waiting.answer is None:
            raise not_wanted(tool)
        well, value = self._exchange.unpack(waiting.answer)
        if not well:
            raise to_exception(_name(tool), value)
        answers: list[Any] = value
        return answers

    def on_answer(self, frame: Frame) -> None:
        """Hand an answer to the thread that waits for it. For the control thread."""
        waiting = self._waiting.get(frame.request)
        if waiting is None:
            self._exchange.discard(frame)
        else:
            waiting.answer = frame
            waiting.over.set()

    def abandon(self) -> None:
        """Let everybody who waits go on: nobody wants anything any more."""
        for waiting in tuple(self._waiting.values()):
            waiting.over.set()

    def _number_of(self, tool: Any) -> int:
        if tool is self._host.tool:
            return OWN_TOOL
        body, buffers = self._exchange.pickling.dumps(tool)
        key = (body, *map(bytes, buffers))
        with self._telling:
            number = self._tools.get(key)
            if number is None:
                number = len(self._tools) + 1
                self._send(Kind.TOOL, number, tool)
                self._tools[key] = number
        return number

    def _send(self, kind: int, number: int, value: object) -> None:
        packed = self._exchange.pack(kind, number, value)
        if isinstance(packed, Parcel):
            packed.copy()
        pieces = packed.pieces if isinstance(packed, Parcel) else [packed]
        self._lane.write_pieces([*self._exchange.releases(), *pieces])


class _Waiting:
    """A thread that waits for an answer."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.answer: Frame | None = None


def _name(tool: Any) -> str:
    return getattr(tool, "name", None) or type(tool).__qualname__


def not_wanted(tool: Any) -> WorkerError:
    """Return the error of a nested call whose outer call has been cancelled."""
    return WorkerError(f"{_name(tool)}: the call that it was called from was cancelled")
