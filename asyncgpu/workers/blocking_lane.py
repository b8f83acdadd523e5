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
        try:
            while data := os.read(self._descriptor, _CHUNK):
                yield from self._decoder.feed(data)
        except ConnectionError:
            return

    def write(self, frame: bytes) -> None:
        """Write a frame, all of it.

        Raises:
            OSError: the program is gone.
        """
        with self._writing:
            written = os.write(self._descriptor, frame)
            if written < len(frame):
                self._write_all([memoryview(frame)[written:]])

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write a frame, or several, in pieces; otherwise as `write`."""
        with self._writing:
            self._write_all([memoryview(piece) for piece in pieces])

    def _write_all(self, pieces: list[memoryview]) -> None:
        while pieces:
            written = os.writev(self._descriptor, pieces[:_MAX_PIECES])
            while pieces and written >= pieces[0].nbytes:
                written -= pieces.pop(0).nbytes
            if written:
                pieces[0] = pieces[0][written:]
