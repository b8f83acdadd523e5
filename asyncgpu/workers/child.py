"""The worker process: says hello, learns what to import, then serves its tool until it is told.

Two lanes reach it. The work lane is read by the main thread, which runs the tool; the control lane
by `ControlThread`. The end of the work lane means: close the tool and go. The descriptors of stdout
and stderr belong to the tool; nothing here ever speaks on them.

Little is imported before the hello, and with care: every millisecond here delays every worker.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import sys
from typing import Any

from .blocking_lane import BlockingLane
from .child_control import ControlThread, die_with_program
from .exchange import Exchange, Parcel
from .failure import describe_failure
from .handshake import GREETING, Descriptors, Setup
from .hosting import ToolHost
from .inside import Inside, become_worker
from .pickling import find_codecs
from .runs import Runs
from .uplink import Uplink
from .wire import Frame, Kind, encode

__all__ = ["main"]


def main(*descriptors: int) -> None:
    """Run this process as a worker, to its end."""
    ours = Descriptors(*descriptors)
    die_with_program(ours.lifeline)
    work, control = BlockingLane(ours.work), BlockingLane(ours.control)
    work.write(encode(Kind.HELLO, 0, GREETING))
    frames = work.frames()
    first = next(frames, None)
    if first is None:
        return
    setup: Setup = pickle.loads(first.body)  # type: ignore[arg-type]
    _prepare(setup)
    exchange = Exchange(ours.outbound, ours.inbound, find_codecs(setup.codecs))
    runs = Runs(
        lambda request, done, total: control.write(
            encode(Kind.PROGRESS, request, pickle.dumps((done, total)))
        )
    )
    host = ToolHost()
    uplink = Uplink(control, exchange, runs, host)
    become_worker(Inside(runs, uplink))
    ControlThread(control, exchange, runs, uplink).start()
    server = _Server(exchange, runs, host)
    for frame in frames:
        if frame.kind == Kind.RELEASE:
            exchange.on_release(frame)
            continue
        answer = server.answer(frame)
        # The request's own values are dead by now, so their blocks go back with its reply.
        if exchange.inbound.any_done or isinstance(answer, Parcel):
            pieces = answer.pieces if isinstance(answer, Parcel) else [answer]
            work.write_pieces([*exchange.releases(), *pieces])
        else:
            work.write(answer)
    server.close()


class _Server:
    """Turns requests into replies; no request can end it."""

    def __init__(self, exchange: Exchange, runs: Runs, host: ToolHost) -> None:
        self._exchange = exchange
        self._runs = runs
        self._host = host

    def answer(self, frame: Frame) -> bytes | Parcel:
        """Carry out one request and return its reply, ready to be sent."""
        if not self._runs.begin(frame.request):
            self._exchange.discard(frame)
            return encode(Kind.SKIPPED, frame.request)
        reply = self._carry_out(frame)
        if isinstance(reply, Parcel):
            reply.copy()
        self._runs.end()
        return reply

    def close(self) -> None:
        """Close the tool and end the process, without the interpreter's slow tidying up."""
        try:
            self._host.close()
        except BaseException:  # noqa: BLE001 - nobody is left to tell but the log
            sys.excepthook(*sys.exc_info())
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(0)

    def _carry_out(self, frame: Frame) -> bytes | Parcel:
        try:
            value = self._call_tool(frame.kind, self._exchange.unpack(frame))
        except BaseException as error:  # noqa: BLE001 - SystemExit too must not end the worker
            return self._failed(frame, self._runs.elapsed(), error)
        seconds = self._runs.elapsed()
        try:
            return self._exchange.pack(Kind.DONE, frame.request, (seconds, value))
        except Exception as error:  # noqa: BLE001 - picklers raise anything
            return self._failed(frame, seconds, _cannot_be_sent(value, error, self._exchange))

    def _call_tool(self, kind: int, value: Any) -> list[Any] | None:
        if kind == Kind.RUN:
            return self._host.run(*value)
        if kind == Kind.LOAD:
            self._host.load(*value)
        else:
            self._host.move(*value)
        return None

    def _failed(self, frame: Frame, seconds: float, error: BaseException) -> bytes | Parcel:
        failure = describe_failure(error, self._exchange.pickling.dumps)
        return self._exchange.pack(Kind.FAILED, frame.request, (seconds, failure))


def _prepare(setup: Setup) -> None:
    setup.imports.adopt(same_interpreter=setup.same_interpreter)
    # What the tool prints should reach the log line by line, and a crash leave its stack there.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    try:
        with open("/proc/self/comm", "w") as file:  # noqa: PTH123 - pathlib is not imported here
            file.write(setup.name[:15])
    except OSError:
        pass


def _cannot_be_sent(value: Any, error: Exception, exchange: Exchange) -> TypeError:
    """Name the result that is to blame: the whole list's error seldom does."""
    culprit = value
    for result in value or ():
        try:
            exchange.pickling.dumps(result)
        except Exception as own:  # noqa: BLE001
            culprit, error = result, own
            break
    complaint = TypeError(f"a result of type {type(culprit).__qualname__} cannot be sent: {error}")
    complaint.__cause__ = error.with_traceback(None)
    return complaint
