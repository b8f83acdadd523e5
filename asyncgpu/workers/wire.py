"""Frames: how messages are cut out of a byte stream. Sans I/O: bytes in, frames out.

Between a program and a worker run two byte streams, and each carries these frames, little endian::

    magic u8 | kind u8 | spilled u16 | attachments u32 | request u64 | length u64     24 bytes
    { offset u64 | size u64 }  for each attachment
    the body
    the attachments whose offset is INLINE, one after the other

`length` counts everything after the header. An attachment is a piece of bulk memory: it lies in the
sender's arena, at `offset`, or inline where the arena had no room. `spilled` is 1 when the body is
itself too big for the stream; it is then the first attachment.

The header and the HELLO frame never change shape, so that any two versions can tell each other
apart; everything else may change with `VERSION`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import WorkerError

__all__ = [
    "VERSION",
    "Block",
    "Frame",
    "FrameDecoder",
    "Kind",
    "WireError",
    "encode",
    "encode_bulk",
]

VERSION = 2
"""Raised whenever the meaning of a frame changes."""

_MAGIC = 0xA6
_HEADER = struct.Struct("<BBHIQQ")
_HEADER_SIZE = _HEADER.size
_ENTRY = struct.Struct("<QQ")
_INLINE = 2**64 - 1
# Far above any machine's memory: a length beyond it can only be garbage.
_LONGEST = 2**48


class Kind:
    """What a frame says. P: sent by the program, W: by the worker.

    Plain ints: in Python 3.11 a look at an enum's member costs half of what unpacking a frame does.
    """

    # On the work lane.
    HELLO = 1  # W: `handshake.GREETING`, before anything else
    SETUP = 2  # P: `handshake.Setup`
    LOAD = 3  # P: (tool, devices, Preparation's fields or None)
    MOVE = 4  # P: devices
    RUN = 5  # P: (items, seeds)
    DONE = 6  # W: (seconds, value)
    FAILED = 7  # W: (seconds, Failure)
    SKIPPED = 8  # W: cancelled before it started
    # On the control lane.
    PING = 9  # P
    PONG = 10  # W: the fields of WorkerStatistics
    CANCEL = 11  # P: nobody wants the answer to `request`
    PROGRESS = 12  # W: (done, total) of `request`
    STOP = 13  # P: cancel everything; the end of the work lane follows
    TOOL = 14  # W: a tool to be called, known as `request` from now on
    CALL = 15  # W: (request it is part of, number of its tool, items); `request` counts calls
    ANSWER = 16  # P: (whether it went well, value or Failure) of call `request`
    # On both.
    RELEASE = 17  # offsets of blocks that the receiver has no more use for


_KINDS = range(Kind.HELLO, Kind.RELEASE + 1)


class WireError(WorkerError):
    """What arrived is not a frame: the other side is not ours, or its stream is damaged."""


class Block(NamedTuple):
    """A piece of the sender's arena."""

    offset: int
    size: int


class Frame(NamedTuple):
    """One message as it crossed."""

    kind: int
    request: int
    body: memoryview | Block = memoryview(b"")
    attachments: Sequence[Block | bytearray] = ()


def encode(kind: int, request: int, body: bytes = b"") -> bytes:
    """Return a frame without attachments."""
    return _HEADER.pack(_MAGIC, kind, 0, 0, request, len(body)) + body


def encode_bulk(
    kind: int, request: int, body: bytes | Block, attachments: Sequence[Block | memoryview]
) -> list[bytes | memoryview]:
    """Return a frame with attachments, in pieces: those that go inline are not copied for it."""
    in_band = b"" if isinstance(body, Block) else body
    spilled = isinstance(body, Block)
    if isinstance(body, Block):
        attachments = [body, *attachments]
    inline = [memory for memory in attachments if not isinstance(memory, Block)]
    table = b"".join(
        _ENTRY.pack(*memory) if isinstance(memory, Block) else _ENTRY.pack(_INLINE, memory.nbytes)
        for memory in attachments
    )
    length = len(table) + len(in_band) + sum(memory.nbytes for memory in inline)
    header = _HEADER.pack(_MAGIC, kind, spilled, len(attachments), request, length)
    return [b"".join((header, table, in_band)), *inline]


class FrameDecoder:
    """Cuts one direction of a byte stream into frames, however the bytes are chunked."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0

    def feed(self, data: bytes | bytearray) -> Iterator[Frame]:
        """Take the next bytes and yield the frames they complete. Consume it to its end.

        Raises:
            WireError: the bytes are no frame. The frames before them have been yielded.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data, self._rest = self._rest, bytearray()
        view, position, available = memoryview(data), 0, len(data)
        self._needed = _HEADER_SIZE
        while (start := position + _HEADER_SIZE) <= available:
            magic, kind, spilled, count, request, length = _HEADER.unpack_from(data, position)
            if (
                magic != _MAGIC
                or kind not in _KINDS
                or not count * _ENTRY.size <= length < _LONGEST
            ):
                raise WireError(
                    f"not a frame: magic {magic:#x}, kind {kind}, {count} attachments, "
                    f"request {request}, length {length}"
                )
            end = start + length
            if end > available:
                self._needed = end - position
                break
            content = view[start:end]
            if count:
                yield _with_attachments(kind, request, content, count, spilled)
            else:
                yield Frame(kind, request, content)
            position = end
        if position < available:
            self._rest += view[position:]


def _with_attachments(
    kind: int, request: int, content: memoryview, count: int, spilled: int
) -> Frame:
    table_size = count * _ENTRY.size
    entries = [Block(*entry) for entry in _ENTRY.iter_unpack(content[:table_size])]
    inline_size = sum(size for offset, size in entries if offset == _INLINE)
    body_end = len(content) - inline_size
    if body_end < table_size or (spilled and entries[0].offset == _INLINE):
        raise WireError(f"attachments of request {request} do not fit into their frame")
    attachments: list[Block | bytearray] = []
    position = body_end
    for entry in entries:
        if entry.offset == _INLINE:
            attachments.append(bytearray(content[position : position + entry.size]))
            position += entry.size
        else:
            attachments.append(entry)
    if spilled:
        return Frame(kind, request, entries[0], attachments[1:])
    return Frame(kind, request, content[table_size:body_end], attachments)
