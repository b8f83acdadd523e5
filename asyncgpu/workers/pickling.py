"""Values to bytes and back: pickle protocol 5, bulk memory beside it, codecs for foreign types.

Nearly everything goes through the plain C pickler. Two things need more. Objects of a registered
codec's library are reduced by the codec, through a dispatch table that the C pickler reads by
itself, so other objects pay nothing for it. And what has no name that the other process could
import (lambdas, local classes, everything of ``__main__``) goes by value, through cloudpickle,
which is imported when that first happens.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a worker starts without asyncio, which the ports need
    from ..ports import Codec

__all__ = ["Pickling", "find_codecs"]

# Below this a buffer is cheaper inside the pickle than beside it (measured: tens of kilobytes).
_OUT_OF_BAND = 32 << 10


class Pickling:
    """One process's way to write values. Any process reads them with `pickle.loads`."""

    def __init__(self, codecs: Iterable[Codec] = ()) -> None:
        self._dormant = list(codecs)  # their libraries are not imported yet
        self._reducers: dict[type, Callable[[Any], Any]] = {}

    def dumps(self, value: object) -> tuple[bytes, list[memoryview]]:
        """Return the pickle and the bulk buffers that belong to it.

        Raises:
            Exception: `value` cannot be pickled, not even by value; picklers raise anything.
        """
        if self._dormant:
            self._wake_codecs()
        buffers: list[memoryview] = []

        def keep_apart(buffer: pickle.PickleBuffer) -> bool:
            return not _take_out(buffer, buffers)

        try:
            if self._reducers:
                body = self._dump_with_codecs(value, keep_apart)
            else:
                body = pickle.dumps(value, 5, buffer_callback=keep_apart)
        except Exception:  # noqa: BLE001 - cloudpickle is the judge; its error is the better one
            return self._dump_by_value(value)
        # The other process has a `__main__` too, but another one. (`find`, because `in` first tries
        # the needle as a number and takes as long as the pickling itself.)
        if body.find(b"__main__") >= 0:
            return self._dump_by_value(value)
        return body, buffers

    def _dump_with_codecs(self, value: object, keep_apart: Callable[[Any], bool]) -> bytes:
        file = io.BytesIO()
        pickler = pickle.Pickler(file, 5, buffer_callback=keep_apart)
        # The pickler asks this table instead of copyreg's, so it must hold both.
        pickler.dispatch_table = copyreg.dispatch_table | self._reducers
        pickler.dump(value)
        return file.getvalue()

    def _dump_by_value(self, value: object) -> tuple[bytes, list[memoryview]]:
        import cloudpickle

        buffers: list[memoryview] = []

        def keep_apart(buffer: pickle.PickleBuffer) -> bool:
            return not _take_out(buffer, buffers)

        class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
            dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(self._reducers)

        file = io.BytesIO()
        Pickler(file, 5, buffer_callback=keep_apart).dump(value)
        return file.getvalue(), buffers

    def _wake_codecs(self) -> None:
        asleep = []
        for codec in self._dormant:
            module = sys.modules.get(codec.module)
            # Another thread may be half-way through the import; the next value will see it whole.
            if module is None or getattr(module.__spec__, "_initializing", False):
                asleep.append(codec)
            else:
                self._reducers |= codec.reducers()
        # In this order, and as a whole: threads of a tool may be here at once.
        self._dormant = asleep


def find_codecs(paths: Iterable[str]) -> list[Codec]:
    """Return the codecs that `paths` name: ``"package.module:Class"``."""
    codecs = []
    for path in paths:
        module, _, name = path.partition(":")
        codecs.append(getattr(import_module(module), name)())
    return codecs


def _take_out(buffer: pickle.PickleBuffer, buffers: list[memoryview]) -> bool:
    try:
        memory = buffer.raw()
    except BufferError:  # not contiguous
        return False
    if memory.nbytes < _OUT_OF_BAND:
        return False
    buffers.append(memory)
    return True
