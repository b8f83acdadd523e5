"""A worker's end of one byte stream: plain blocking reads and writes on a descriptor.

Not the `socket` module: importing it takes a fresh worker longer than starting its interpreter's
other needs together, and a descriptor does all that is wanted here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

from .wire import Frame, FrameDecoder

__all__ = ["BlockingLane"]

_CHUNK = 1 << 16
# The kernel takes at most this many pieces in one call (IOV_MAX).
_MAX_PIECES = 1024


class BlockingLane:
    """Frames in, frames out, in the calling thread."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._decoder = FrameDecoder()
        # The control lane is written by the tool's thread too, when it reports progress.
        self._writing = threading.Lock()

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the program closes its end."""
        while data := self._read():
            yield from self._decoder.feed(data)

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write the pieces, all of them.

        Raises:
            OSError: the program is gone.
        """
        with self._writing:
            if not parts:
                return
            if len(parts) == 1:
                part = parts[0]
                written = os.write(self._descriptor, part)
                if written < len(part):
                    self._write_rest([memoryview(part)[written:]])
            else:
                self._write_rest([memoryview(part) for part in parts])

    def _write_rest(self, parts: list[memoryview]) -> None:
        while parts:
            written = os.writev(self._descriptor, parts[:_MAX_PIECES])
            while parts and written >= parts[0].nbytes:
                written -= parts.pop(0).nbytes
            if written:
                parts[0] = parts[0][written:]

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK)
        except ConnectionError:
            return b""
