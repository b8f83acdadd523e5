"""The worker's control thread: answers while the main thread is inside the tool.

It also watches the program's life. When the control lane ends, the program is gone, and the worker
ends its whole process group, busy or not. A thread can be kept waiting by native code that does not
let go of the GIL, so on Linux the kernel is asked to do the same by itself.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading

from .blocking_lane import BlockingLane
from .exchange import Exchange
from .runs import Runs
from .uplink import Uplink
from .wire import Kind, encode

__all__ = ["ControlThread", "die_with_program"]


class ControlThread(threading.Thread):
    """Serves the control lane."""

    def __init__(self, lane: BlockingLane, exchange: Exchange, runs: Runs, uplink: Uplink) -> None:
        super().__init__(name="asyncgpu-control", daemon=True)
        self._lane = lane
        self._exchange = exchange
        self._runs = runs
        self._uplink = uplink

    def run(self) -> None:
        try:
            for frame in self._lane.frames():
                if frame.kind == Kind.PING:
                    body = pickle.dumps(self._statistics())
                    self._lane.write(encode(Kind.PONG, frame.request, body))
                elif frame.kind == Kind.CANCEL:
                    self._runs.cancel(frame.request)
                elif frame.kind == Kind.RELEASE:
                    self._exchange.on_release(frame)
                elif frame.kind == Kind.ANSWER:
                    self._uplink.on_answer(frame)
                elif frame.kind == Kind.STOP:
                    self._runs.stop()
                    self._uplink.abandon()
        finally:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    def _statistics(self) -> tuple[int, float | None, int]:
        return self._runs.served, self._runs.busy_seconds(), _resident_memory()


def die_with_program(lifeline: int) -> None:
    """Have the kernel kill this process group when the program's end of `lifeline` closes.

    `lifeline` is a pipe on which nothing is ever sent, so the only signal it can raise
    (``F_SETSIG`` in fcntl(2)) is that of its end. Not PR_SET_PDEATHSIG: that follows the life of
    the thread that started the worker, and threads come and go.
    """
    import fcntl

    os.set_inheritable(lifeline, False)
    if not hasattr(fcntl, "F_SETSIG"):
        return
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def _resident_memory() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - pathlib is not imported here
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
