"""`Parcel`: a value as bytes, so that everybody who opens it gets a copy of his own.

A value is packed with pickle, the memory of its arrays included: what a parcel weighs is what it
really holds. Small values are packed at once. A large one is packed and opened in a thread, in
pieces, between any two of which the event loop may run: pickle by itself would keep the
interpreter for as long as a gigabyte takes.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from ..ports import Codec

__all__ = ["SMALL", "Packer", "Parcel", "opened", "unpack"]

SMALL = 256 << 10
"""Bytes of a value that is packed or opened in the loop's own thread."""

# Copied in well under a millisecond; then another thread may have the interpreter.
_PIECE = 1 << 20

# Packed by themselves these are one opcode, whatever their value.
_ATOMS = frozenset({bool, float, int, type(None)})


@dataclass(frozen=True, slots=True)
class Parcel:
    """A pickle, in one piece or several."""

    pieces: Sequence[bytes]
    nbytes: int


class Packer:
    """Packs values, those of the codecs' libraries in the codecs' way. Thread-safe."""

    def __init__(self, codecs: Iterable[Codec] = ()) -> None:
        self._codecs = tuple(codecs)

    def pack_small(self, value: object) -> Parcel | None:
        """Return `value` as a parcel; None: it is not small, or cannot be packed."""
        if type(value) in _ATOMS:
            body = pickle.dumps(value, 5)
            return Parcel((body,), len(body))
        if isinstance(value, (str, bytes, bytearray)) and len(value) > SMALL:
            return None
        return self._pack(value, SMALL)

    def pack(self, value: object) -> Parcel | None:
        """Return `value` as a parcel; None: it cannot be packed. Blocks; for a thread."""
        return self._pack(value, None)

    def _pack(self, value: object, limit: int | None) -> Parcel | None:
        writer = _Writer(limit)
        try:
            _Pickler(writer, limit, self._reducers()).dump(value)
        except Exception:  # noqa: BLE001 - picklers raise anything; such a value is not packed
            return None
        return Parcel(tuple(writer.pieces), writer.nbytes)

    def _reducers(self) -> Mapping[type, Callable[[Any], Any]]:
        reducers: dict[type, Callable[[Any], Any]] = {}
        for codec in self._codecs:
            if codec.module in sys.modules:
                reducers |= codec.reducers()
        return reducers


def unpack(parcel: Parcel) -> Any:
    """Return a new copy of the value. Blocks as long as the parcel is large."""
    if parcel.nbytes <= SMALL:
        return pickle.loads(b"".join(parcel.pieces))
    return pickle.Unpickler(_Reader(parcel)).load()


async def opened(parcel: Parcel) -> Any:
    """Return a new copy of the value; of a large one, from a thread."""
    if parcel.nbytes <= SMALL:
        return unpack(parcel)
    return await anyio.to_thread.run_sync(unpack, parcel)


class _TooLargeError(Exception):
    """The value is larger than what the caller wants to spend time on."""


class _Pickler(pickle.Pickler):
    """Looks at arrays and tensors before it copies them."""

    def __init__(
        self, writer: _Writer, limit: int | None, reducers: Mapping[type, Callable[[Any], Any]]
    ) -> None:
        super().__init__(writer, 5)
        self._limit = limit
        self._reducers = reducers

    def reducer_override(self, value: Any) -> Any:
        """Be asked for whatever is not of a built-in type; stop at the first large one."""
        if self._limit is not None:
            nbytes = getattr(value, "nbytes", 0)
            if isinstance(nbytes, int) and nbytes > self._limit:
                raise _TooLargeError
        reduce = self._reducers.get(type(value))
        return NotImplemented if reduce is None else reduce(value)


class _Writer:
    """Gathers a pickle. The pickler hands it frames of 64 KiB, and anything larger as it is."""

    def __init__(self, limit: int | None) -> None:
        self.pieces: list[bytes] = []
        self.nbytes = 0
        self._limit = limit

    def write(self, data: Any) -> int:
        memory = memoryview(data).cast("B")
        size = memory.nbytes
        self.nbytes += size
        if self._limit is not None and self.nbytes > self._limit:
            raise _TooLargeError
        for start in range(0, size, _PIECE):
            self.pieces.append(bytes(memory[start : start + _PIECE]))
        return size


class _Reader:
    """Hands a parcel to the unpickler, in pieces."""

    def __init__(self, parcel: Parcel) -> None:
        self._pieces = iter(parcel.pieces)
        self._piece = memoryview(b"")

    def readinto(self, target: Any) -> int:
        room = memoryview(target).cast("B")
        done = 0
        while done < len(room):
            if not self._piece:
                self._piece = memoryview(next(self._pieces, b""))
                if not self._piece:
                    break
            count = min(len(room) - done, len(self._piece), _PIECE)
            room[done : done + count] = self._piece[:count]
            self._piece = self._piece[count:]
            done += count
        return done

    def read(self, size: int) -> bytes:
        target = bytearray(size)
        return bytes(memoryview(target)[: self.readinto(target)])

    def readline(self) -> bytes:
        """Protocol 5 has no lines."""
        raise pickle.UnpicklingError("not a pickle of protocol 5")
