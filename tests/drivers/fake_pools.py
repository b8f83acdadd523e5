"""torch's caching allocator as far as memory pools go, by the rules of torch 2.8 to 2.12.

Every allocation has segments of its own, in whole MiB pairs, and a free segment is used again if
it is large enough. What ends the real process with a failed assertion is noted in `violations`.
"""

from __future__ import annotations

import ctypes
import threading

import torch

from .native_budget import ALLOCATE, RELEASE

SEGMENT = 2 << 20


class FakeSegment:
    def __init__(self, address: int, size: int) -> None:
        self.address = address
        self.size = size
        self.used = 0


class FakePrivatePool:
    def __init__(self, device: int, allocator) -> None:
        self.device = device
        self.allocator = allocator
        self.use_count = 1
        self.segments: list[FakeSegment] = []

    def release_free(self) -> None:
        for segment in [segment for segment in self.segments if not segment.used]:
            self.segments.remove(segment)
            self.allocator.release(segment.address, segment.size)


class FakeAllocator:
    """`torch._C._cuda_customAllocator`: two addresses of C functions."""

    def __init__(self, allocate: int, release: int) -> None:
        self.addresses = (allocate, release)
        self._allocate, self._release = ALLOCATE(allocate), RELEASE(release)

    def allocate(self, nbytes: int) -> int | None:
        return self._allocate(nbytes, 0, None)

    def release(self, address: int, nbytes: int) -> None:
        self._release(address, nbytes, 0, None)


class OwnAllocator:
    """torch's own, on a device without end."""

    def allocate(self, nbytes: int) -> int | None:
        return ctypes.addressof(ctypes.create_string_buffer(1))

    def release(self, address: int, nbytes: int) -> None:
        pass


class FakeTensor:
    def __init__(self, pool, segment: FakeSegment, nbytes: int) -> None:
        self.pool = pool
        self._segment = segment
        segment.used = nbytes

    def __del__(self) -> None:
        self._segment.used = 0


class FakeCachingAllocator:
    """The part of `torch.cuda` and of `torch._C` that is about pools.

    Args:
        newest_first: whether the pool entered last is searched first; older versions do not.
    """

    def __init__(self, current_device, *, newest_first: bool) -> None:
        self.violations: list[str] = []
        self.recordings: list[tuple[int, tuple[int, int], int]] = []
        self.pools: dict[tuple[int, int], FakePrivatePool] = {}
        self.default = FakePrivatePool(0, OwnAllocator())
        self.lost = False
        self.refuses_begin = False
        self.emptied = 0
        self.synchronized = 0
        self.cleared = 0
        self.workspaces: list[FakeTensor] = []
        self._newest_first = newest_first
        self._made = 0
        allocator = self

        class MemPool:
            def __init__(self, custom=None) -> None:
                allocator._made += 1
                self.id = (0, allocator._made)
                self.device = current_device()
                pool = FakePrivatePool(self.device, custom or OwnAllocator())
                allocator.pools[self.id] = pool

            def __del__(self) -> None:
                allocator.drop(self.id)

        self.MemPool = MemPool

    # ------------------------------------------------------------------------------- torch's

    def begin(self, device: int, pool_id: tuple[int, int]) -> None:
        if self.refuses_begin:
            self.pools[pool_id].use_count += 1
            raise RuntimeError("refused")
        pool = self.pools[pool_id]
        if pool.device != device:
            raise RuntimeError("the pool is of another device")
        pool.use_count += 1
        if any(recording[1] == pool_id for recording in self.recordings):
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.recordings.append((device, pool_id, threading.get_ident()))

    def end(self, device: int, pool_id: tuple[int, int]) -> None:
        for recording in self.recordings:
            if recording[1] == pool_id:
                self.recordings.remove(recording)
                return
        raise RuntimeError("endAllocatePool: not currently recording to mempool_id")

    def release(self, device: int, pool_id: tuple[int, int]) -> None:
        self.pools[pool_id].use_count -= 1

    def drop(self, pool_id: tuple[int, int]) -> None:
        pool = self.pools[pool_id]
        if any(recording[0] == pool.device for recording in self.recordings):
            self.violations.append(f"{pool_id} dropped while a pool of its device is entered")
        if pool.use_count != 1:
            self.violations.append(f"{pool_id} dropped with {pool.use_count} users")
        if self.lost:
            self.violations.append(f"{pool_id} dropped on a lost device")
        pool.use_count = 0
        self._release_dropped(pool_id)

    def snapshot(self, pool_id: tuple[int, int]) -> list[dict[str, int]]:
        segments = self.pools[pool_id].segments if pool_id in self.pools else []
        return [
            {"total_size": s.size, "allocated_size": s.used, "active_size": s.used}
            for s in segments
        ]

    def empty_cache(self) -> None:
        if self.recordings:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")
        self.emptied += 1
        self.default.release_free()
        for pool_id in [key for key, pool in self.pools.items() if pool.use_count == 0]:
            self._release_dropped(pool_id)

    def synchronize(self, device: int) -> None:
        self.synchronized += 1
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def clear_workspaces(self) -> None:
        self.cleared += 1
        self.workspaces.clear()

    def query(self) -> bool:
        self.synchronize(0)
        return True

    def _release_dropped(self, pool_id: tuple[int, int]) -> None:
        pool = self.pools[pool_id]
        pool.release_free()
        if not pool.segments:
            del self.pools[pool_id]

    # ------------------------------------------------------------------------- for the tests

    def current(self, device: int = 0) -> tuple[int, int] | None:
        """The pool that this thread allocates from."""
        order = reversed(self.recordings) if self._newest_first else self.recordings
        here = threading.get_ident()
        return next((key for d, key, thread in order if (d, thread) == (device, here)), None)

    def empty(self, nbytes: int, device: int = 0) -> FakeTensor:
        """`torch.empty`."""
        pool_id = self.current(device)
        pool = self.default if pool_id is None else self.pools[pool_id]
        size = -(-nbytes // SEGMENT) * SEGMENT
        fitting = [s for s in pool.segments if not s.used and s.size >= size]
        if not fitting:
            address = pool.allocator.allocate(size)
            if address is None:
                raise torch.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size >> 20}.00 MiB."
                )
            fitting = [FakeSegment(address, size)]
            pool.segments += fitting
        return FakeTensor(pool_id, fitting[0], nbytes)
