"""`PoolMover`: gets, fills, copies out and gives back the device memory of one pool.

Copies run on a stream of the pool's own. What blocks (allocating, page-locking, enqueueing a copy
from memory that is not page-locked) is done in a worker thread, one thing after the other; what
the device has to finish first is waited for as everywhere else, by events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from ..errors import DeviceError, OutOfDeviceMemory, VRAMBudgetExceeded
from ..ports import Driver, DriverBlocks, DriverEvent, DriverMemory, DriverStream
from .pool_buffer import DEFAULT_STREAM, PoolBuffer
from .waiter import Marker, Waiter

__all__ = ["PoolMover"]

T = TypeVar("T")

OutOfMemory = OutOfDeviceMemory | VRAMBudgetExceeded

# Threads that wait for work of others, which may take any time. More of it is waited for in turn.
_FENCES_AT_ONCE = 8


class PoolMover:
    """Moves the memory of one pool. Used in the runtime's loop.

    Args:
        name: of the pool, for errors.
        driver: the driver of its device.
        stream: for its copies; closed with it.
        blocks: what `driver` has opened on `stream`.
        memory: where allocations come from; closed by its owner.
        translated: turns torch's out-of-memory error into ours.
        make_room: does what can be done so that an allocation that failed with such an error
            succeeds next time.
    """

    def __init__(
        self,
        name: str,
        *,
        driver: Driver,
        stream: DriverStream,
        blocks: DriverBlocks,
        memory: DriverMemory,
        translated: Callable[[Exception], Exception],
        make_room: Callable[[OutOfMemory], Awaitable[object]],
    ) -> None:
        self._driver = driver
        self._stream = stream
        self._blocks = blocks
        self._memory = memory
        self._translated = translated
        self.make_room = make_room
        self._waiter = Waiter(name, stream)
        self._one_at_a_time = anyio.CapacityLimiter(1)
        self._fence_threads = anyio.CapacityLimiter(_FENCES_AT_ONCE)

    # ----------------------------------------------------------------------------- the users

    def mark_used(self, buffer: PoolBuffer) -> None:
        """Note the work that this thread has put on its current stream as using `buffer`.

        Raises:
            DeviceLost: the device has had a fault.
        """
        fence = self._blocks.fence()
        if fence is not None:
            buffer.used(self._stream_here(), fence)

    async def until_usable(self, buffer: PoolBuffer) -> None:
        """Wait for the work of others on `buffer`, unless this task's stream comes after it anyway.

        Raises:
            DeviceLost: the device has had a fault.
        """
        for fence in buffer.unfinished(self._stream_here()):
            await self._reached(fence)

    # ----------------------------------------------------------------------------- the moves

    async def load(self, buffer: PoolBuffer, *, new: int | None, host: Any) -> None:
        """Get `buffer` from the device, or fill it, or both.

        Args:
            buffer: not in use.
            new: the bytes to get; None: it has its memory.
            host: what to fill it with; None: nothing.

        Raises:
            DeviceLost: the device has had a fault.
            OutOfDeviceMemory: there was no memory for it on the device.
            VRAMBudgetExceeded: there was none in the context whose memory this is.
        """
        await self._until_idle(buffer)

        def load() -> Marker:
            if new is not None:
                buffer.tensor = self._empty(new)
            if host is not None:
                self._blocks.to_device(host, buffer.tensor)
            return self._waiter.record()

        await self._waiter.wait(await self._in_thread(load))

    async def copy_out(self, buffer: PoolBuffer) -> Any:
        """Return a copy of `buffer` on the host; `forget` gives it back.

        Raises:
            DeviceLost: the device has had a fault.
        """
        await self._until_idle(buffer)

        def copy() -> tuple[Any, Marker]:
            host = self._blocks.to_host(buffer.tensor)
            return host, self._waiter.record()

        host, marker = await self._in_thread(copy)
        await self._waiter.wait(marker)
        return host

    def release(self, buffer: PoolBuffer) -> None:
        """Give `buffer` back to the device, behind whatever work still uses it."""
        # After a fault there is no work, and nothing is allocated any more.
        with suppress(DeviceError):
            for fence in buffer.unfinished():
                self._stream.wait_event(fence)
        buffer.tensor = None

    def forget(self, host: Any) -> None:
        """Give a copy on the host back."""
        self._blocks.forget(host)

    async def drain(self) -> None:
        """Wait until the device is past every copy, and past the work on what was released."""
        # After a fault there is nothing to wait for.
        with suppress(DeviceError):
            await self._waiter.wait(self._waiter.record())

    async def trim(self) -> None:
        """Give back what is cached for the pool on both sides."""

        def trim() -> None:
            self._blocks.trim()
            self._memory.trim()

        await self.drain()
        await self._in_thread(trim)

    async def close(self) -> None:
        """Give everything on the host back, and the stream, which is drained."""
        try:
            await self._in_thread(self._blocks.close)
        finally:
            try:
                await self._waiter.stop()
            finally:
                self._stream.close()

    # ------------------------------------------------------------------------------- details

    def _empty(self, nbytes: int) -> Any:
        token = self._driver.apply(self._stream, memory=self._memory)
        try:
            return self._blocks.empty(nbytes)
        except Exception as error:  # noqa: BLE001 - torch's, in our words
            raise self._translated(error) from None
        finally:
            self._driver.undo(token)

    async def _until_idle(self, buffer: PoolBuffer) -> None:
        for fence in buffer.unfinished():
            await self._reached(fence)

    async def _reached(self, fence: DriverEvent) -> None:
        if not fence.done():
            await anyio.to_thread.run_sync(
                fence.synchronize, abandon_on_cancel=True, limiter=self._fence_threads
            )

    async def _in_thread(self, fn: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(fn, limiter=self._one_at_a_time)

    def _stream_here(self) -> int:
        stream = self._driver.current_stream(self._stream.device)
        return DEFAULT_STREAM if stream is None else stream.id
