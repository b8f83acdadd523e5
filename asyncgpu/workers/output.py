"""What a worker prints: line by line into the log, the last lines kept for its errors.

Tools and the native libraries below them write what they like: without newlines, in carriage
returns, by the megabyte, or in lines that look like somebody's protocol. Nothing of it is ever
interpreted, and no more than a few kilobytes are ever kept.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from functools import partial

from .reactor import Reactor

__all__ = ["LineSplitter", "Output"]

log = logging.getLogger("asyncgpu.worker")

_LONGEST_LINE = 8 << 10
_TAIL = 50
# Little for each turn of the loop: a line's way through `logging` takes microseconds.
_CHUNK = 8 << 10
# After the worker's end: a descendant that left the process group could write for ever.
_LAST_CHUNKS = 64


class LineSplitter:
    """Bytes in, lines out. Sans I/O."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes."""
        *whole, rest = (self._rest + data).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            # Of a progress bar only the newest state counts; of other noise, all of it.
            rest = rest[rest.rfind(b"\r", 0, -1) + 1 :]
        while len(rest) > _LONGEST_LINE:
            whole.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._rest = rest
        return [line for raw in whole if (line := _text(raw))]

    def flush(self) -> list[str]:
        """Return the line that never got its newline, if there is one."""
        rest, self._rest = self._rest, b""
        line = _text(rest)
        return [line] if line else []


class Output:
    """The two pipes of one worker.

    Lines of stdout are logged as INFO and lines of stderr as WARNING, by the logger
    ``asyncgpu.worker``; the records have the fields `worker` and `output` (``"stdout"``,
    ``"stderr"``).
    """

    def __init__(self, reactor: Reactor, worker: str, stdout: int, stderr: int) -> None:
        self._reactor = reactor
        self._worker = worker
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._pipes = {stdout: ("stdout", logging.INFO), stderr: ("stderr", logging.WARNING)}
        self._splitters = {stdout: LineSplitter(), stderr: LineSplitter()}
        for descriptor in self._pipes:
            os.set_blocking(descriptor, False)
            reactor.watch(descriptor, partial(self._read, descriptor))

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines of stderr, oldest first."""
        return tuple(self._tail)

    def note(self, line: str) -> None:
        """Add a line of our own to the tail."""
        self._tail.append(line)

    def close(self) -> None:
        """Take in what is left in the pipes and let go of them; idempotent."""
        for descriptor in tuple(self._pipes):
            for _ in range(_LAST_CHUNKS):
                if not self._read(descriptor):
                    break
            self._close(descriptor)

    def _read(self, descriptor: int) -> bool:
        """Read once; return whether there may be more."""
        if descriptor not in self._pipes:
            return False
        try:
            data = os.read(descriptor, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self._close(descriptor)
            return False
        self._log(descriptor, self._splitters[descriptor].feed(data))
        return True

    def _close(self, descriptor: int) -> None:
        if descriptor in self._pipes:
            self._log(descriptor, self._splitters[descriptor].flush())
            self._reactor.unwatch(descriptor)
            os.close(descriptor)
            del self._pipes[descriptor]

    def _log(self, descriptor: int, lines: list[str]) -> None:
        output, level = self._pipes[descriptor]
        if output == "stderr":
            self._tail.extend(lines)
        for line in lines:
            fields = {"worker": self._worker, "output": output}
            log.log(level, "[%s] %s", self._worker, line, extra=fields)


def _text(raw: bytes) -> str:
    line = raw.rstrip(b"\r")
    return line[line.rfind(b"\r") + 1 :].decode(errors="replace").rstrip()
