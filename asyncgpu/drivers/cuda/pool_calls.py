"""`PoolCalls`: what torch can do with memory pools, bound once.

Only torch's own caching allocator has pools; ``backend:cudaMallocAsync`` and a replaced allocator
(``torch.cuda.memory.change_current_allocator``) have none.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Pool", "PoolCalls", "bind_pool_calls"]

PoolId = tuple[int, int]

_BEGIN = "_cuda_beginAllocateCurrentThreadToPool"
_END = "_cuda_endAllocateToPool"
_RELEASE = "_cuda_releasePool"


class Pool:
    """One ``torch.cuda.MemPool``.

    Attributes:
        torch_pool: the pool; None once it is dropped.
        id: its name in torch.
        stale: whether nobody is to enter it any more.
        entered: what `PoolCalls.leave` needs, where torch has only its context manager.
    """

    __slots__ = ("entered", "id", "stale", "torch_pool")

    def __init__(self, torch_pool: Any) -> None:
        self.torch_pool = torch_pool
        self.id: PoolId = torch_pool.id
        self.stale = False
        self.entered: Any = None


class PoolCalls:
    """The calls of one torch.

    Attributes:
        enter: ``(device, pool)``: what this thread allocates on the device comes from the pool. At
            most one thread is in a pool at a time.
        leave: ``(device, pool)``: end that.
    """

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.enter: Callable[[int, Pool], None]
        self.leave: Callable[[int, Pool], None]
        private = torch._C
        if all(hasattr(private, name) for name in (_BEGIN, _END, _RELEASE)):
            self.enter, self.leave = _private_calls(private)
        else:
            self.enter, self.leave = _public_calls(torch)
        # Later versions build no list of the allocator's history into every snapshot.
        self._snapshot: Callable[[PoolId], Sequence[Any]] = torch.cuda.memory_snapshot
        if "include_traces" in inspect.signature(self._snapshot).parameters:
            self._snapshot = functools.partial(self._snapshot, include_traces=False)

    def new(self, allocator: object | None) -> Pool:
        """Return a new pool of the current device.

        Args:
            allocator: of `new_allocator`; None: torch's own.
        """
        return Pool(self._torch.cuda.MemPool(allocator))

    def new_allocator(self, functions: tuple[int, int]) -> object | None:
        """Return an allocator for pools, made of two C functions; None: this torch has none.

        Args:
            functions: the addresses of ``void *(size_t, int, cudaStream_t)`` and
                ``void (void *, size_t, int, cudaStream_t)``. They run under torch's allocator lock,
                so they must never ask for the GIL.
        """
        make = getattr(self._torch._C, "_cuda_customAllocator", None)
        return None if make is None else make(*functions)

    def segments(self, pool: PoolId) -> Sequence[Any]:
        """Return the segments of device memory that a pool has; none when it is gone."""
        return self._snapshot(pool)

    def synchronize(self, device: int) -> None:
        """Wait, without the GIL, for all the work of a device."""
        self._torch.cuda.synchronize(device)

    def healthy(self, device: int) -> bool:
        """Whether the device has had no fault that CUDA cannot recover from."""
        try:
            self._torch.cuda.default_stream(device).query()
        except RuntimeError:
            return False
        return True

    def empty_cache(self) -> None:
        """Give back the free segments of dropped pools, and of torch's default one."""
        self._torch.cuda.empty_cache()

    def clear_workspaces(self) -> None:
        """Let cuBLAS' workspaces go; cuBLAS makes new ones where it needs them."""
        clear = getattr(self._torch._C, "_cuda_clearCublasWorkspaces", None)
        if clear is not None:
            clear()


def bind_pool_calls(torch: Any) -> PoolCalls | None:
    """Return the calls; None: the allocator that torch uses has no pools."""
    if torch.cuda.get_allocator_backend() != "native" or not hasattr(torch.cuda, "MemPool"):
        return None
    return PoolCalls(torch)


def _private_calls(private: Any) -> tuple[Callable[[int, Pool], None], Callable[[int, Pool], None]]:
    begin, end, release = (getattr(private, name) for name in (_BEGIN, _END, _RELEASE))

    def enter(device: int, pool: Pool) -> None:
        try:
            begin(device, pool.id)
        except RuntimeError:
            # `begin` counts its user before it refuses.
            release(device, pool.id)
            raise

    def leave(device: int, pool: Pool) -> None:
        end(device, pool.id)
        release(device, pool.id)

    return enter, leave


def _public_calls(torch: Any) -> tuple[Callable[[int, Pool], None], Callable[[int, Pool], None]]:
    def enter(device: int, pool: Pool) -> None:
        entered = torch.cuda.use_mem_pool(pool.torch_pool, device)
        entered.__enter__()
        pool.entered = entered

    def leave(device: int, pool: Pool) -> None:
        entered, pool.entered = pool.entered, None
        entered.__exit__(None, None, None)

    return enter, leave
