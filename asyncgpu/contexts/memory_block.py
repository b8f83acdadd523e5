"""`MemoryBlock`: bytes of a memory pool, on the device while they are in use."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import SessionMisuse
from ..policy.pool_block import BlockState, PoolBlock, Want
from ..units import parse_timeout

if TYPE_CHECKING:
    from .memory_pool import MemoryPool

__all__ = ["BlockUse", "MemoryBlock"]


class MemoryBlock:
    """A block of a `MemoryPool`. Made by `MemoryPool.allocate`.

    Its bytes are on the device, or on the host if they had to make room; `use` brings them back.
    """

    __slots__ = ("_block", "_nbytes", "_pool")

    def __init__(self, pool: MemoryPool, block: PoolBlock, nbytes: int) -> None:
        self._pool = pool
        self._block = block
        self._nbytes = nbytes

    @property
    def nbytes(self) -> int:
        """Its size as it was asked for."""
        return self._nbytes

    @property
    def resident(self) -> bool:
        """Whether its bytes are on the device now."""
        return self._block.state in (BlockState.RESIDENT, BlockState.LEAVING)

    def use(self, *, priority: int | None = None, timeout: float | None = None) -> BlockUse:
        """Return an ``async with`` block in which the bytes are on the device, and stay there.

        It yields a tensor: one-dimensional, ``uint8``, of exactly `nbytes`; ``.view`` gives it
        another type. Do not keep it, nor views of it: after the block the memory may be somebody
        else's. Work on it may go on after the block if it is on the stream that is current at its
        end, as in a session with ``synchronize=False``; any other must be waited for inside.

        Args:
            priority: of waiting for room, the higher first; None: as for `MemoryPool.allocate`.
            timeout: seconds to wait; None: no limit.

        Raises:
            InvalidRequest: `timeout` means nothing. Entering the block raises:
            ContextClosed: the context of the pool is closed.
            DeviceLost: the device has had a fault.
            InfeasibleRequest: this task itself uses what it would wait for.
            InvalidRequest: the block has been freed.
            RequestError: the pool is closed.
            TimeoutError: the bytes were not there in time.
        """
        return BlockUse(self, priority, parse_timeout(timeout))

    def __repr__(self) -> str:
        return f"<MemoryBlock of {self._nbytes} bytes, {self._block.state.value}>"


class BlockUse:
    """One use of a block; see `MemoryBlock.use`."""

    __slots__ = ("_block", "_entered", "_priority", "_task", "_timeout", "_want")

    def __init__(self, block: MemoryBlock, priority: int | None, timeout: float | None) -> None:
        self._block = block
        self._priority = priority
        self._timeout = timeout
        self._entered = False
        self._task = 0
        self._want: Want | None = None

    async def __aenter__(self) -> Any:
        if self._entered:
            raise SessionMisuse(f"{self._block!r}: a use is entered once; call use() again")
        self._entered = True
        block, pool = self._block, self._block._pool
        self._want, tensor = await pool._lock(block, self._priority, self._timeout)
        self._task = pool._holders.add(block._block)
        return tensor[: block.nbytes]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave.

        Raises:
            DeviceLost: the device has had a fault; nothing that it was doing will be done.
        """
        want, self._want = self._want, None
        if want is None:
            raise SessionMisuse(f"{self._block!r}: this use is not open")
        pool = self._block._pool
        pool._holders.remove(self._task, self._block._block)
        pool._unlock(want, error)
