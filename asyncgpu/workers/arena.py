"""Shared memory for bulk data: one arena for each direction between a program and a worker.

Theory of operation. An arena is one file without a name, mapped by both sides. It is as large as it
may ever become from the start; the kernel gives it pages only where they are first touched, so an
unused arena costs nothing. The sender allocates blocks and copies into them; a block belongs to the
receiver from the moment its frame is sent until the receiver's RELEASE. The receiver copies small
blocks out. Large ones it uses in place: the memory an array is built on is an object that
announces its own death, and that releases the block. Two copies fewer, no fresh pages, and nobody
can see the memory change under him, because nobody else may write to it until then.

A receiver that holds on to much (half the arena) is given copies from there on, so that what it
keeps for long cannot starve the traffic.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property, lru_cache
from typing import Any

from .allocator import Allocator
from .wire import Block, WireError

__all__ = ["ReceiveArena", "SendArena", "create_arena_file"]

# A slice assignment is the fastest copy but keeps the GIL; above this, others would notice.
_QUICK_COPY = 1 << 20
# Below this a copy is as cheap as the bookkeeping of a block used in place.
_IN_PLACE = 256 << 10


def create_arena_file(capacity: int) -> int:
    """Return the descriptor of a sparse, nameless file of `capacity` bytes."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("asyncgpu", os.MFD_CLOEXEC)
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, capacity)
    return descriptor


class SendArena:
    """The sending side: owns the allocations."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._allocator = Allocator(os.fstat(descriptor).st_size)
        # Releases may arrive on another thread than the one that sends: a deque needs no lock.
        self._returned: deque[int] = deque()
        # In a worker, threads of the tool may send at once: replies, and calls for other tools.
        self._placing = threading.Lock()

    @cached_property
    def _map(self) -> mmap.mmap:
        return mmap.mmap(self._descriptor, self._allocator.capacity)

    @cached_property
    def _view(self) -> memoryview:
        return memoryview(self._map)

    @property
    def used(self) -> int:
        """Bytes in flight or held by the receiver."""
        with self._placing:
            self._take_back()
            return self._allocator.used

    def place(self, nbytes: int) -> Block | None:
        """Allocate a block, or return None when there is no room."""
        with self._placing:
            self._take_back()
            offset = self._allocator.allocate(nbytes)
        return None if offset is None else Block(offset, nbytes)

    def copy(self, block: Block, data: memoryview) -> None:
        """Fill a block. Large copies leave the GIL to others."""
        start, size = block
        if size < _QUICK_COPY:
            self._view[start : start + size] = data
        elif data.readonly:
            _write_at(self._descriptor, data, start)
        else:
            import ctypes

            source = _bytes_type(size).from_buffer(data)
            target = _bytes_type(size).from_buffer(self._map, start)
            ctypes.memmove(target, source, size)

    def release(self, offset: int) -> None:
        """The receiver is done with the block at `offset`. Callable from any thread."""
        self._returned.append(offset)

    def close(self) -> None:
        """Unmap the arena; nothing may be copied afterwards."""
        self._returned.clear()
        _unmap(self)

    def _take_back(self) -> None:
        while self._returned:
            offset = self._returned.popleft()
            try:
                self._allocator.release(offset)
            except KeyError:
                raise WireError(f"release of offset {offset}, which is not allocated") from None


class ReceiveArena:
    """The receiving side: reads blocks and says when it is done with them."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._capacity = os.fstat(descriptor).st_size
        self._leases: dict[int, _Lease] = {}
        self._held = 0
        self._taking = threading.Lock()
        # Objects may die in any thread and at any moment: what that changes, changes atomically.
        self._ended: deque[int] = deque()
        self._done: deque[int] = deque()

    @cached_property
    def _map(self) -> mmap.mmap:
        return mmap.mmap(self._descriptor, self._capacity)

    @cached_property
    def _view(self) -> memoryview:
        return memoryview(self._map)

    @property
    def held(self) -> int:
        """Bytes used in place by objects that are still alive."""
        with self._taking:
            return self._count_held()

    def take(self, block: Block) -> bytearray | memoryview:
        """Return the block's content as writable memory that stays valid while it is referenced."""
        self._check(block)
        with self._taking:
            copied = self._is_copied(block, self._count_held())
            if not copied:
                self._held += block.size
        if copied:
            try:
                return bytearray(self.peek(block))
            finally:
                self.drop(block)
        # Not a memoryview: one made from another shares its memory without keeping it alive.
        memory = _bytes_type(block.size).from_buffer(self._map, block.offset)
        self._leases[block.offset] = _Lease(memory, self, block)
        return memoryview(memory).cast("B")

    def to_copy(self, memories: Iterable[Block | bytearray]) -> int:
        """Return how many bytes `take` would copy, if it were asked for all of these."""
        held, copied = self.held, 0
        for block in memories:
            if isinstance(block, Block):
                if self._is_copied(block, held):
                    copied += block.size
                else:
                    held += block.size
        return copied

    def peek(self, block: Block) -> memoryview:
        """Return the block itself, valid until `drop`."""
        self._check(block)
        return self._view[block.offset : block.offset + block.size]

    def drop(self, block: Block) -> None:
        """Be done with a block."""
        self._done.append(block.offset)

    @property
    def any_done(self) -> bool:
        """Whether `done` has anything to return."""
        return bool(self._done)

    def done(self) -> list[int]:
        """Return, once, the offsets of the blocks that the sender may have back."""
        offsets = []
        while self._done:
            offsets.append(self._done.popleft())
        return offsets

    def close(self) -> None:
        """Unmap the arena, once the sender is gone.

        What is still used in place keeps the mapping, but only its own pages of memory.
        """
        if self._leases and hasattr(mmap, "MADV_REMOVE"):
            self._keep_only_held()
        _unmap(self)

    def _count_held(self) -> int:
        while self._ended:
            self._held -= self._ended.popleft()
        return self._held

    def _keep_only_held(self) -> None:
        position = 0
        for block in sorted(lease.block for lease in list(self._leases.values())):
            self._punch(position, block.offset)
            position = -(-(block.offset + block.size) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._punch(position, self._capacity)

    def _punch(self, start: int, end: int) -> None:
        if end > start:
            self._map.madvise(mmap.MADV_REMOVE, start, end - start)

    def _is_copied(self, block: Block, held: int) -> bool:
        return block.size < _IN_PLACE or held + block.size > self._capacity // 2

    def _check(self, block: Block) -> None:
        if block.offset + block.size > self._capacity:
            raise WireError(f"{block} lies outside the arena of {self._capacity} bytes")


class _Lease(weakref.ref[Any]):
    """Watches the memory of one block used in place; its death ends the use."""

    __slots__ = ("arena", "block")

    arena: weakref.ref[ReceiveArena]
    block: Block

    def __new__(cls, memory: Any, arena: ReceiveArena, block: Block) -> _Lease:
        self = super().__new__(cls, memory, _end_lease)
        self.arena = weakref.ref(arena)
        self.block = block
        return self

    def __init__(self, memory: Any, *_: object) -> None:
        super().__init__(memory, _end_lease)  # type: ignore[call-arg]


def _end_lease(lease: Any) -> None:
    # Runs wherever the last reference happens to die, in any thread: only atomic steps here.
    arena = lease.arena()
    if arena is not None:
        arena._leases.pop(lease.block.offset, None)
        arena._ended.append(lease.block.size)
        arena._done.append(lease.block.offset)


def _unmap(arena: SendArena | ReceiveArena) -> None:
    parts = vars(arena)
    view, memory = parts.pop("_view", None), parts.pop("_map", None)
    if view is not None:
        view.release()
    if memory is not None:
        # Refused while objects use it in place; the last of them unmaps it.
        with suppress(BufferError):
            memory.close()


@lru_cache(maxsize=256)
def _bytes_type(size: int) -> Any:
    # Imported here because a worker that never sees bulk data never needs it.
    import ctypes

    return ctypes.c_ubyte * size


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Copy read-only memory, which ctypes cannot address; the kernel does it without the GIL."""
    written = 0
    while written < data.nbytes:
        written += os.pwrite(descriptor, data[written:], offset + written)
