"""The program's end of one byte stream to a worker: non-blocking, driven by callbacks.

What does not fit into the socket waits in a queue and goes out when there is room, so a worker that
does not read costs memory here and nothing else. Frames that need not go at once are collected
until the end of the loop's turn: ten thousand requests in one turn are then a few writes.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from .reactor import Reactor
from .wire import Frame, FrameDecoder, WireError

__all__ = ["Lane"]

log = logging.getLogger("asyncgpu.workers")

# Larger reads would be taken from the kernel's page pool anew each time (malloc's mmap threshold).
_CHUNK = 1 << 16
# The kernel takes at most this many pieces in one call (IOV_MAX).
_MAX_PIECES = 1024


class Lane:
    """Frames in, through `on_frame`; frames out, through `write`.

    `on_end` is called once, when the stream ends or turns out not to be ours (`WireError`).
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_frame: Callable[[Frame], None],
        on_end: Callable[[WireError | None], None],
    ) -> None:
        sock.setblocking(False)
        self._reactor = reactor
        self._sock = sock
        self._descriptor = sock.fileno()
        self._on_frame = on_frame
        self._on_end = on_end
        self._decoder = FrameDecoder()
        self._queue: deque[bytes | memoryview] = deque()
        self._flush_due = False  # by a callback of this turn, or by the socket's having room
        self._open = True
        self._writing = True
        reactor.watch(self._descriptor, self._on_readable)

    def write(self, frame: bytes, *, soon: bool = False) -> None:
        """Send a frame now, or with the others of this turn of the loop."""
        if self._queue or soon or not self._writing:
            self.write_pieces((frame,), soon=soon)
            return
        try:
            sent = self._sock.send(frame)
        except OSError:  # no room, or nobody there; the queue's way knows which
            sent = 0
        if sent < len(frame):
            self.write_pieces((memoryview(frame)[sent:],))

    def write_pieces(self, pieces: Iterable[bytes | memoryview], *, soon: bool = False) -> None:
        """Send a frame, or several, in pieces; otherwise as `write`."""
        if not self._writing:
            return
        self._queue.extend(pieces)
        if self._flush_due:
            return
        if soon:
            self._flush_due = True
            self._reactor.soon(self._flush)
        else:
            self._flush()

    def end_writing(self) -> None:
        """Close our direction: the other side reads what was sent, then the end."""
        if self._writing:
            self._queue.clear()
            self._writing = False
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def drain(self) -> None:
        """Take in what the other side, which has ended, still had sent."""
        while self._open and self._on_readable():
            pass

    def close(self) -> None:
        """Let go of the socket; idempotent."""
        self._writing = False
        self._queue.clear()
        self._end_reading()
        self._reactor.unwatch(self._descriptor, writable=True)
        self._sock.close()

    def _on_readable(self) -> bool:
        """Read once; return whether there may be more."""
        try:
            data = self._sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        problem = None
        try:
            for frame in self._decoder.feed(data):
                try:
                    self._on_frame(frame)
                except Exception:
                    # Somebody's callback; the frames behind this one are not to blame.
                    log.exception("frame of kind %d, request %d", frame.kind, frame.request)
        except WireError as error:
            problem = error
        if problem is None and data:
            return True
        self._end_reading()
        self._on_end(problem)
        return False

    def _end_reading(self) -> None:
        if self._open:
            self._open = False
            self._reactor.unwatch(self._descriptor)

    def _flush(self) -> None:
        self._flush_due = False
        try:
            while self._queue:
                self._send()
        except (BlockingIOError, InterruptedError):
            self._flush_due = True
            self._reactor.watch(self._descriptor, self._on_writable, writable=True)
        except OSError:
            # The reading side finds out why, and tells.
            self._writing = False
            self._queue.clear()

    def _on_writable(self) -> None:
        self._reactor.unwatch(self._descriptor, writable=True)
        self._flush()

    def _send(self) -> None:
        queue = self._queue
        if len(queue) == 1:
            sent = self._sock.send(queue[0])
        else:
            sent = self._sock.sendmsg(list(islice(queue, _MAX_PIECES)))
        while queue and sent >= len(queue[0]):
            sent -= len(queue.popleft())
        if sent:
            queue[0] = memoryview(queue[0])[sent:]
