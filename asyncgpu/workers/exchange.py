"""Values in frames: one process's end of the two arenas, the same on both sides."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .arena import ReceiveArena, SendArena
from .pickling import Pickling
from .wire import Block, Frame, Kind, encode, encode_bulk

if TYPE_CHECKING:  # a worker starts without asyncio, which the ports need
    from ..ports import Codec

__all__ = ["Exchange", "Parcel"]

# A bigger body fills the socket's buffer, and the writer would have to wait for the reader.
_SPILL = 128 << 10


class Parcel:
    """A packed value with bulk memory. Once `copy` has run, its `pieces` may be sent."""

    def __init__(self, arena: SendArena) -> None:
        self.pieces: list[bytes | memoryview] = []
        self.bulk = 0
        """Bytes that `copy` will copy."""
        self._arena = arena
        self._copies: list[tuple[Block, memoryview]] = []

    def place(self, data: memoryview) -> Block | memoryview:
        """Find room in the arena; `data` itself is to go inline where there is none."""
        block = self._arena.place(data.nbytes)
        if block is None:
            return data
        self._copies.append((block, data))
        self.bulk += data.nbytes
        return block

    def copy(self) -> None:
        """Fill the arena's blocks, and let go of the memory they are copied from."""
        for block, data in self._copies:
            self._arena.copy(block, data)
        self._copies.clear()


class Exchange:
    """Packs values into frames and unpacks them: pickle, arenas and releases together."""

    def __init__(self, outbound: int, inbound: int, codecs: Iterable[Codec]) -> None:
        self.outbound = SendArena(outbound)
        self.inbound = ReceiveArena(inbound)
        self.pickling = Pickling(codecs)

    def pack(self, kind: int, request: int, value: object) -> bytes | Parcel:
        """Return `value` as a frame, or as a parcel if there is bulk memory in it.

        Quick in both cases: bulk memory is only pointed at.

        Raises:
            Exception: `value` cannot be pickled.
        """
        body, buffers = self.pickling.dumps(value)
        if not buffers and len(body) < _SPILL:
            return encode(kind, request, body)
        parcel = Parcel(self.outbound)
        spilled = parcel.place(memoryview(body)) if len(body) >= _SPILL else None
        attachments = [parcel.place(buffer) for buffer in buffers]
        parcel.pieces = encode_bulk(
            kind, request, spilled if isinstance(spilled, Block) else body, attachments
        )
        return parcel

    def unpack(self, frame: Frame) -> Any:
        """Return the frame's value. Large buffers of it stay where they are, in the arena.

        Raises:
            Exception: it cannot be unpickled here.
        """
        body, attachments = frame.body, frame.attachments
        if not attachments and not isinstance(body, Block):
            return pickle.loads(body)
        buffers = [
            self.inbound.take(memory) if isinstance(memory, Block) else memory
            for memory in attachments
        ]
        if not isinstance(body, Block):
            return pickle.loads(body, buffers=buffers)
        try:
            return pickle.loads(self.inbound.peek(body), buffers=buffers)
        finally:
            self.inbound.drop(body)

    def weigh(self, frame: Frame) -> int:
        """Return how many bytes `unpack` would have to copy or to unpickle."""
        size = frame.body.size if isinstance(frame.body, Block) else len(frame.body)
        return size + self.inbound.to_copy(frame.attachments)

    def discard(self, frame: Frame) -> None:
        """Be done with a frame whose value nobody wants."""
        for memory in (frame.body, *frame.attachments):
            if isinstance(memory, Block):
                self.inbound.drop(memory)

    def releases(self) -> list[bytes | memoryview]:
        """Return the frame, if one is due, that releases all blocks nobody here uses any more."""
        offsets = self.inbound.done()
        if not offsets:
            return []
        return [encode(Kind.RELEASE, 0, struct.pack(f"<{len(offsets)}Q", *offsets))]

    def close(self) -> None:
        """Unmap both arenas; what others still use in place stays valid."""
        self.outbound.close()
        self.inbound.close()

    def on_release(self, frame: Frame) -> None:
        """Take blocks back. Callable from any thread."""
        for offset in memoryview(frame.body).cast("Q"):  # type: ignore[arg-type]
            self.outbound.release(offset)
