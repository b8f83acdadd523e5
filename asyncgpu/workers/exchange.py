"""Values in frames: one process's end of the two arenas, the same on both sides."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .arena import ReceiveArena, SendArena
from .pickling import Pickling
from .wire import Block, Frame, Kind, encode

if TYPE_CHECKING:  # a worker starts without asyncio, which the ports need
    from ..ports import Codec

__all__ = ["Exchange", "Parcel"]

# A bigger body fills the socket's buffer, and the writer would have to wait for the reader.
_SPILL = 128 << 10


class Parcel:
    """A packed value. Once `copy` has run, its `parts` may be sent."""

    __slots__ = ("_arena", "_copies", "bulk", "parts")

    def __init__(self, arena: SendArena, parts: list[bytes | memoryview]) -> None:
        self._arena = arena
        self._copies: list[tuple[Block, memoryview]] = []
        self.parts = parts
        self.bulk = 0
        """Bytes that `copy` will copy."""

    def place(self, data: memoryview) -> Block | memoryview:
        """Find room in the arena; `data` itself is to go inline where there is none."""
        block = self._arena.place(data.nbytes)
        if block is None:
            return data
        self._copies.append((block, data))
        self.bulk += data.nbytes
        return block

    def copy(self) -> None:
        """Fill the arena's blocks, and let go of the memory they were copied from."""
        for block, data in self._copies:
            self._arena.copy(block, data)
        self._copies.clear()


class Exchange:
    """Packs values into frames and unpacks them: pickle, arenas and releases together."""

    def __init__(self, outbound: int, inbound: int, codecs: Iterable[Codec]) -> None:
        self.outbound = SendArena(outbound)
        self.inbound = ReceiveArena(inbound)
        self.pickling = Pickling(codecs)

    def pack(self, kind: Kind, request: int, value: object) -> Parcel:
        """Return `value` as a parcel. Quick: bulk memory is only pointed at.

        Raises:
            Exception: `value` cannot be pickled.
        """
        body, buffers = self.pickling.dumps(value)
        if not buffers and len(body) < _SPILL:
            return Parcel(self.outbound, encode(kind, request, body))
        parcel = Parcel(self.outbound, [])
        spilled = parcel.place(memoryview(body)) if len(body) >= _SPILL else body
        attachments = [parcel.place(buffer) for buffer in buffers]
        parcel.parts = encode(
            kind, request, spilled if isinstance(spilled, Block) else body, attachments
        )
        return parcel

    def unpack(self, frame: Frame) -> Any:
        """Return the frame's value. Large buffers of it stay where they are, in the arena.

        Raises:
            Exception: it cannot be unpickled here.
        """
        body = frame.body
        buffers = [
            self.inbound.take(memory) if isinstance(memory, Block) else memory
            for memory in frame.attachments
        ]
        if not isinstance(body, Block):
            return self.pickling.loads(body, buffers)
        try:
            return self.pickling.loads(self.inbound.peek(body), buffers)
        finally:
            self.inbound.drop(body)

    def discard(self, frame: Frame) -> None:
        """Be done with a frame whose value nobody wants."""
        for memory in (frame.body, *frame.attachments):
            if isinstance(memory, Block):
                self.inbound.drop(memory)

    def release_parts(self) -> list[bytes | memoryview]:
        """Return a RELEASE frame for the blocks nobody here uses any more, if there are any."""
        if not self.inbound.any_done:
            return []
        offsets = self.inbound.done()
        return encode(Kind.RELEASE, 0, struct.pack(f"<{len(offsets)}Q", *offsets))

    def close(self) -> None:
        """Unmap both arenas; what others still use in place stays valid."""
        self.outbound.close()
        self.inbound.close()

    def on_release(self, frame: Frame) -> None:
        """Take blocks back. Callable from any thread."""
        for offset in memoryview(frame.body).cast("Q"):  # type: ignore[arg-type]
            self.outbound.release(offset)
