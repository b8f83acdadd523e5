"""`MemoryPool`: blocks of device memory under a quota, moved to the host when room is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from ..errors import DeviceError, DeviceLost, InvalidRequest, RequestError
from ..policy.pool_block import Want
from ..policy.residency import Residency
from ..units import Size, format_size, parse_size, parse_timeout
from .holders import Holders
from .memory_block import MemoryBlock
from .memory_pools import MemoryPools, OpenPool, pools_of_task

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["MemoryPool", "MemoryPoolStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPoolStats:
    """A snapshot of a `MemoryPool`. Sizes are bytes; blocks are rounded up to 256."""

    quota: int
    """Allocated and cached bytes together are never more."""
    allocated_bytes: int
    """What blocks take on the device."""
    cached_bytes: int
    """What freed blocks have left there, for the next ones of their size."""
    active_blocks: int
    """Blocks that have not been freed, wherever their bytes are."""
    evicted_blocks: int
    """Those of them whose bytes are on the host."""
    free_blocks: int
    """Pieces of cached memory."""
    waiting: int
    """Requests that wait for room."""
    evictions: int
    """How often a block has been moved to the host."""
    reloads: int
    """How often one has been brought back."""
    reuses: int
    """How often the memory of a freed block was used again."""


class MemoryPool:
    """Blocks of device memory, together never more than a quota.

    ::

        async with MemoryPool("2GiB") as pool:
            block = await pool.allocate("512MiB")
            async with block.use() as tensor:
                ...
            pool.free(block)

    When a request does not fit, the least recently used blocks are moved to page-locked host
    memory, unless they are in use; `MemoryBlock.use` brings them back with the same bytes. When
    only blocks in use are in the way, the request waits: the higher priority first, then the
    earlier one. Nothing is evicted for a request that could not be met even so.

    The quota is reserved when the pool is entered, or else by the first `allocate`, and given back
    when it is closed. A pool belongs to one event loop.
    """

    def __init__(
        self,
        quota: Size,
        *,
        enable_eviction: bool = True,
        device: str | None = None,
        context: ExecutionContext | None = None,
    ) -> None:
        """Describe a pool of the current runtime; nothing is touched yet.

        Args:
            quota: bytes, or a size such as ``"2GiB"``; above 0.
            enable_eviction: whether blocks may be moved to the host; if not, a full pool waits.
            device: ``"cuda:1"``; None: the runtime's device, or that of `context`.
            context: whose budget the quota is set aside in; None: the pool has one of its own.

        Raises:
            InvalidRequest: a parameter that means nothing.
        """
        self._quota = parse_size(quota, what="quota")
        if self._quota < 1:
            raise InvalidRequest("quota: 0 bytes; ask for 1 or more")
        if context is not None and device not in (None, context.device):
            raise InvalidRequest(f"device: {device!r}, and the context is on {context.device}")
        self._device = device
        self._context = context
        self._residency = Residency(self._quota, eviction=enable_eviction)
        # Of opening and of closing: one at a time, whoever asks.
        self._changing = anyio.Lock()
        self._holders = Holders()
        self._pools: MemoryPools | None = None
        self._opened: OpenPool | None = None
        self._closed = False

    @property
    def quota(self) -> int:
        """Bytes."""
        return self._quota

    async def allocate(
        self, nbytes: Size, *, priority: int = 0, timeout: float | None = None
    ) -> MemoryBlock:
        """Return a new block; its bytes are not initialised. Cancelling leaves no trace.

        Args:
            nbytes: bytes, or a size such as ``"64MiB"``; above 0.
            priority: of waiting for room, the higher first.
            timeout: seconds to wait; None: no limit.

        Raises:
            InvalidRequest: a parameter that means nothing.
            ContextClosed: the context of the pool is closed.
            DeviceLost: the device has had a fault.
            InfeasibleRequest: more than the quota, or more than the blocks that this task itself
                uses leave of it; nothing was evicted.
            NoRuntime: there is no runtime.
            OutOfDeviceMemory: the device has no such piece of memory, in spite of the quota.
            RequestError: the pool is closed.
            TimeoutError: there was no room in time.
        """
        size = parse_size(nbytes, what="nbytes")
        if size < 1:
            raise InvalidRequest("nbytes: 0 bytes; ask for 1 or more")
        _check_priority(priority)
        held = self._holders.here()
        self._residency.check(size, held)
        with _within(parse_timeout(timeout), f"{size} bytes of", self):
            performer = (await self._ready()).performer
            want = await performer.obtain(lambda: self._residency.allocate(size, priority, held))
        return MemoryBlock(self, want.block, size)

    def free(self, block: MemoryBlock) -> None:
        """Give a block back, on the device or on the host; who waits to use it is refused.

        Its memory stays cached for the next block of its size. Work on it may still be going on,
        as at the end of `MemoryBlock.use`.

        Raises:
            InvalidRequest: it was freed before, or is no block of this pool.
            RequestError: it is in use.
        """
        if not isinstance(block, MemoryBlock) or block._pool is not self:
            raise InvalidRequest(f"{block!r} is not a block of {self!r}")
        actions = self._residency.free(block._block)
        assert self._opened is not None
        self._opened.performer.perform(actions)

    async def clear(self) -> None:
        """Free all blocks, and give their memory and all cached memory back.

        Requests that wait for new blocks go on. Counters go on, too.

        Raises:
            RequestError: some blocks are in use; nothing has changed.
        """
        opened = self._opened
        if opened is None:
            return
        residency = self._residency
        opened.performer.perform(residency.clear())
        await opened.performer.until(lambda: not any(b.ended for b in residency.blocks))
        if not self._closed:
            await opened.place.mover.trim()

    def stats(self) -> MemoryPoolStats:
        """Return a snapshot."""
        residency, memory = self._residency, self._residency.memory
        blocks = [block for block in residency.blocks if block.given and not block.ended]
        return MemoryPoolStats(
            quota=self._quota,
            allocated_bytes=memory.allocated,
            cached_bytes=memory.cached,
            active_blocks=len(blocks),
            evicted_blocks=sum(block.buffer is None for block in blocks),
            free_blocks=memory.cached_buffers,
            waiting=len(residency.wants),
            evictions=residency.evictions,
            reloads=residency.reloads,
            reuses=residency.reuses,
        )

    async def aclose(self, *, timeout: float | None = None) -> None:
        """Refuse whoever waits, free all blocks, and give everything back; idempotent.

        Blocks in use, and work that uses their memory, are waited for. After a timeout the pool
        still refuses new requests, and `aclose` may be called again.

        Args:
            timeout: seconds to wait for them; None: no limit.

        Raises:
            RequestError: this task itself uses a block, for which it would wait for ever.
            TimeoutError: something is still in use.
        """
        if self._holders.here():
            raise RequestError(f"{self!r}: closing it inside `use()` would wait for itself")
        self._closed = True
        self._dismiss()
        with _within(parse_timeout(timeout), "the end of all work on", self):
            async with self._changing:
                # Opened meanwhile, perhaps.
                self._dismiss()
                opened = self._opened
                if opened is None:
                    return
                await opened.performer.until(lambda: not self._residency.blocks)
                await opened.place.mover.drain()
                self._opened = None
                with anyio.CancelScope(shield=True):
                    await opened.close()

    async def __aenter__(self) -> Self:
        await self._ready()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; a cancelled task does not wait, and the runtime closes the pool for it."""
        try:
            await self.aclose()
        except Exception:
            raise
        except BaseException:
            if self._pools is not None:
                self._pools.close_later(self)
            raise

    # ------------------------------------------------------------------------ for its blocks

    async def _lock(
        self, block: MemoryBlock, priority: int | None, timeout: float | None
    ) -> tuple[Want, Any]:
        _check_priority(priority or 0)
        held = self._holders.here()
        with _within(timeout, "the use of", block):
            performer = (await self._ready()).performer
            want = await performer.obtain(lambda: self._residency.use(block._block, priority, held))
            buffer = performer.buffer(block._block)
            try:
                await performer.mover.until_usable(buffer)
            except BaseException:
                performer.perform(self._residency.withdraw(want))
                raise
        return want, buffer.tensor

    def _unlock(self, want: Want, error: BaseException | None) -> None:
        assert self._opened is not None
        performer = self._opened.performer
        try:
            performer.mover.mark_used(performer.buffer(want.block))
        except DeviceError as fault:
            if isinstance(fault, DeviceLost):
                performer.perform(self._residency.refuse_all(fault))
            # What the block was left with says it already, or matters more.
            if error is None:
                raise
        finally:
            performer.perform(self._residency.leave(want))

    # ------------------------------------------------------------------------------ details

    async def _ready(self) -> OpenPool:
        """Return the pool's place and performer, opened now if this is the first use."""
        self._check_open()
        if self._opened is None:
            async with self._changing:
                self._check_open()
                if self._opened is None:
                    self._pools = pools_of_task()
                    self._opened = await self._pools.open(
                        self, self._residency, self._device, self._context
                    )
        self._opened.place.check_open()
        return self._opened

    def _dismiss(self) -> None:
        """Refuse everybody who waits, and free what is not in use."""
        if self._opened is not None:
            closed = RequestError(f"{self!r} is closed")
            self._opened.performer.perform(self._residency.close(closed))

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError(f"{self!r} is closed")

    def __repr__(self) -> str:
        return f"<MemoryPool of {format_size(self._quota)}>"


@contextmanager
def _within(timeout: float | None, what: str, of: MemoryPool | MemoryBlock) -> Iterator[None]:
    with anyio.move_on_after(timeout) as scope:
        yield
    if scope.cancelled_caught:
        raise TimeoutError(f"{what} {of!r}: not within {timeout} s")


def _check_priority(priority: int) -> None:
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidRequest(f"priority: {priority!r} is not a whole number")
