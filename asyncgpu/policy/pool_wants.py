"""Who wants which block of a pool, and in which order they are served."""

from __future__ import annotations

from .pool_actions import Grant, PoolAction, Refuse
from .pool_block import PoolBlock, Want, WantState
from .waiting import WaitQueue

__all__ = ["PoolWants"]


class PoolWants:
    """The requests of one pool: the higher priority first, then the earlier one.

    All who wait stand with their block; those whose block has no memory also stand in the queue.
    """

    def __init__(self) -> None:
        self._queue: WaitQueue[Want] = WaitQueue()
        self._next = 0

    @property
    def head(self) -> Want | None:
        """Who is served next."""
        return self._queue.head

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, block: PoolBlock, priority: int, *, locks: bool, queued: bool) -> Want:
        """Enter a request; it waits for nothing but its block unless it is `queued`."""
        self._next += 1
        want = Want(self._next, block, priority, locks=locks)
        block.wants[want.number] = want
        if queued:
            self._queue.push(want)
        return want

    def leave_queue(self, block: PoolBlock) -> None:
        """Let those who want `block` wait for nothing but the block: it has memory now."""
        for want in block.wants.values():
            self._unqueue(want)

    def grant(self, block: PoolBlock, actions: list[PoolAction]) -> None:
        """Grant all requests for a block that is on the device."""
        self.leave_queue(block)
        for want in block.wants.values():
            want.state = WantState.GRANTED
            block.given = True
            block.locks += want.locks
            actions.append(Grant(want))
        block.wants.clear()

    def refuse(self, want: Want, error: Exception, actions: list[PoolAction]) -> None:
        """Refuse one request."""
        self.withdraw(want)
        actions.append(Refuse(want, error))

    def refuse_all(self, block: PoolBlock, error: Exception, actions: list[PoolAction]) -> None:
        """Refuse all requests for `block`."""
        for want in list(block.wants.values()):
            self.refuse(want, error, actions)

    def withdraw(self, want: Want) -> None:
        """Forget a request that waits."""
        self._unqueue(want)
        want.state = WantState.OVER
        del want.block.wants[want.number]

    def _unqueue(self, want: Want) -> None:
        if want.queue is not None:
            self._queue.discard(want)
