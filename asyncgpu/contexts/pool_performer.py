"""`PoolPerformer`: tells a pool's `Residency` what happens, and carries out what it answers.

Nothing is awaited between an input and its actions, so no lock is needed; what takes time, a load
or a copy to the host, runs in a task of the runtime and is reported back as one more input.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import ambient
from ..errors import DeviceLost, OutOfDeviceMemory, RequestError, VRAMBudgetExceeded
from ..policy.pool_actions import (
    CopyOut,
    ForgetHostCopy,
    Grant,
    Load,
    PoolAction,
    Refuse,
    Release,
)
from ..policy.pool_block import PoolBlock, Want
from ..policy.residency import Residency
from ..promise import Promise, new_promise, resolve
from .closing import StartSoon
from .pool_buffer import PoolBuffer
from .pool_mover import PoolMover

__all__ = ["PoolPerformer"]

Request = Callable[[], tuple[Want, list[PoolAction]]]


class PoolPerformer:
    """The tasks and the memory behind the blocks of one pool. Used in the runtime's loop.

    Args:
        residency: decides.
        mover: moves.
        start_soon: starts a task under the runtime's supervision.
    """

    def __init__(self, residency: Residency, mover: PoolMover, start_soon: StartSoon) -> None:
        self.residency = residency
        self.mover = mover
        self._start_soon = start_soon
        self._asking: dict[int, _Asker] = {}
        self._buffers: dict[int, PoolBuffer] = {}
        self._hosts: dict[int, Any] = {}
        self._when_changed: list[Promise[None]] = []

    def buffer(self, block: PoolBlock) -> PoolBuffer:
        """Return the memory of a block that is on the device."""
        assert block.buffer is not None
        return self._buffers[block.buffer]

    # ------------------------------------------------------------------------------ waiting

    async def obtain(self, request: Request) -> Want:
        """Make a request and wait until it is granted; cancelled at any point, nothing is left.

        Raises:
            DeviceLost: the device has had a fault.
            InvalidRequest: the block was freed meanwhile.
            RequestError: the pool was closed meanwhile.
        """
        want, actions = request()
        asker = self._asking[want.number] = _Asker(new_promise())
        try:
            self.perform(actions)
            if not asker.promise.done():
                await asker.promise
            if asker.error is not None:
                # A copy: one object raised in many tasks would collect the frames of all of them.
                raise copy.copy(asker.error)
        except BaseException:
            self.perform(self.residency.withdraw(want))
            raise
        finally:
            del self._asking[want.number]
        return want

    async def until(self, settled: Callable[[], bool]) -> None:
        """Wait until `settled` holds; it is looked at after every input."""
        while not settled():
            promise = new_promise()
            self._when_changed.append(promise)
            await promise

    # --------------------------------------------------------------------------- performing

    def perform(self, actions: list[PoolAction]) -> None:
        """Carry actions out, in their order."""
        for action in actions:
            self._perform(action)
        waiting, self._when_changed = self._when_changed, []
        for promise in waiting:
            resolve(promise, None)

    def _perform(self, action: PoolAction) -> None:
        match action:
            case Grant(want):
                resolve(self._asking[want.number].promise, None)
            case Refuse(want, error):
                asker = self._asking[want.number]
                asker.error = error
                resolve(asker.promise, None)
            case Load():
                self._start(partial(self._load, action))
            case CopyOut():
                self._start(partial(self._copy_out, action))
            case ForgetHostCopy(block):
                self.mover.forget(self._hosts.pop(block.number))
            case Release(number):
                self.mover.release(self._buffers.pop(number))

    def _start(self, task: Callable[[], Awaitable[None]]) -> None:
        # Tasks inherit the ContextVars of whoever starts them; this one works for everybody.
        context = copy_context()
        context.run(ambient.session.set, None)
        context.run(self._start_soon, task)

    async def _load(self, load: Load) -> None:
        block, residency = load.block, self.residency
        buffer = self._buffers.setdefault(load.buffer, PoolBuffer())
        move = partial(
            self.mover.load,
            buffer,
            new=block.size if load.new else None,
            host=self._hosts[block.number] if load.reload else None,
        )
        try:
            try:
                await move()
            except (OutOfDeviceMemory, VRAMBudgetExceeded) as error:
                # There is room by the quota; cached blocks of other sizes may be in the way.
                self.perform(residency.flush())
                await self.mover.drain()
                await self.mover.make_room(error)
                await move()
        except Exception as error:  # noqa: BLE001 - raised again in the tasks that wait
            self._load_failed(load, buffer, error)
        except BaseException:
            self._load_failed(load, buffer, _closing())
            raise
        else:
            self.perform(residency.loaded(block))

    async def _copy_out(self, copy_out: CopyOut) -> None:
        block, residency = copy_out.block, self.residency
        try:
            host = await self.mover.copy_out(self._buffers[copy_out.buffer])
        except Exception as error:  # noqa: BLE001 - raised again in the tasks that wait
            self._failed(residency.copy_out_failed(block, error), error)
        except BaseException:
            self.perform(residency.copy_out_failed(block, _closing()))
            raise
        else:
            self._hosts[block.number] = host
            self.perform(residency.copied_out(block))

    def _load_failed(self, load: Load, buffer: PoolBuffer, error: Exception) -> None:
        del self._buffers[load.buffer]
        self.mover.release(buffer)
        self._failed(self.residency.load_failed(load.block, error), error)

    def _failed(self, actions: list[PoolAction], error: Exception) -> None:
        self.perform(actions)
        if isinstance(error, DeviceLost):
            # Nobody who waits will ever be served.
            self.perform(self.residency.refuse_all(error))


@dataclass(slots=True)
class _Asker:
    """One call that waits: woken by its promise, it looks what became of its request."""

    promise: Promise[None]
    error: Exception | None = None


def _closing() -> RequestError:
    return RequestError("the runtime of this memory pool is closing")
