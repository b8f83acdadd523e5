"""`ContextPools`: the torch memory pools of one context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import InvalidRequest
from .pool_calls import Pool, PoolCalls, PoolId
from .pool_gate import PoolGate

__all__ = ["ContextPools"]


class ContextPools:
    """As many pools as threads were in the context at once, all over one allocator.

    torch lets one thread into a pool at a time. Which one a thread gets does not matter, because
    torch keeps the memory in a pool apart by stream, and all of them have the context's. The pool
    that was left last is lent first, so that a new thread finds the cache of an old one.

    Args:
        device: logical index.
        calls: torch's.
        gate: the device's.
        allocator: what the pools take memory with; None: torch's own way.
        on_end: called once it is closed and its last pool is gone; quick, and does not raise.

    Attributes:
        on_swept: called when dropped pools may have given something back.
    """

    def __init__(
        self,
        device: int,
        calls: PoolCalls,
        gate: PoolGate,
        *,
        allocator: object | None,
        on_end: Callable[[], None] | None,
    ) -> None:
        self.device = device
        self._calls = calls
        self._gate = gate
        self._allocator = allocator
        self._on_end = on_end
        self.on_swept: Callable[[], None] | None = None
        self._closed = False
        # All changed with the gate's lock held.
        self._idle: list[Pool] = []
        self._pools: list[Pool] = []
        self._dropped: list[PoolId] = []

    # ------------------------------------------------------------------------------- lending

    def lend(self) -> Pool:
        """Lend a pool that nobody is in. The device must be current in this thread.

        Raises:
            InvalidRequest: the pools are closed.
        """
        gate = self._gate
        with gate.lock:
            if self._closed:
                raise InvalidRequest(f"the memory of a context on cuda:{self.device} is closed")
            gate.inside += 1
            if self._idle:
                return self._idle.pop()
        try:
            pool = self._calls.new(self._allocator)
        except BaseException:
            with gate.lock:
                gate.left()
            raise
        with gate.lock:
            self._pools.append(pool)
        return pool

    def take_back(self, pool: Pool) -> None:
        """End a loan. Where this leaves nobody in any pool, retired ones are dropped."""
        gate = self._gate
        with gate.lock:
            if pool.stale or self._closed:
                gate.retire(self, pool)
            else:
                self._idle.append(pool)
            gate.left()

    # ------------------------------------------------------------------------------- reading

    def sizes(self) -> tuple[int, int]:
        """Return the bytes of live allocations, and those of all segments."""
        with self._gate.lock:
            ids = [pool.id for pool in self._pools] + self._dropped
        segments = [segment for name in ids for segment in self._calls.segments(name)]
        live = sum(segment["allocated_size"] for segment in segments)
        return live, sum(segment["total_size"] for segment in segments)

    # -------------------------------------------------------------------------------- giving back

    def rotate(self) -> None:
        """Retire the pools that have free segments; the next to need one gets a new one.

        A pool without is left alone: nothing would come back, and what is free inside its segments
        could not be used any more.
        """
        with self._gate.lock:
            pools = list(self._pools)
        wasteful = [pool for pool in pools if self._has_free_segment(pool.id)]
        with self._gate.lock:
            self._retire(wasteful)
        self._gate.drop_if_quiet()
        self._gate.sweep()

    def close(self) -> None:
        """Lend no more, and retire all. What is alive stays where it is. Idempotent."""
        # cuBLAS keeps a workspace for each stream it has seen, in the pool it first ran in.
        workspaces = self.sizes()[0] > 0
        with self._gate.lock:
            if self._closed:
                return
            self._closed = True
            if workspaces:
                self._gate.clear_workspaces()
            self._retire(list(self._pools))
            self._end_if_gone()
        self._gate.drop_if_quiet()

    def _retire(self, pools: list[Pool]) -> None:
        for pool in pools:
            # One that is lent is retired when it comes back.
            pool.stale = True
        for pool in [pool for pool in self._idle if pool.stale]:
            self._idle.remove(pool)
            self._gate.retire(self, pool)

    # -------------------------------------------------------------------------- for the gate

    def dropped(self, pool: Pool) -> None:
        self._pools.remove(pool)
        self._dropped.append(pool.id)
        self._end_if_gone()

    def wasted(self) -> bool:
        return any(self._has_free_segment(name) for name in tuple(self._dropped))

    def swept(self) -> bool:
        if self.on_swept is not None:
            self.on_swept()
        gone = [name for name in tuple(self._dropped) if not self._calls.segments(name)]
        with self._gate.lock:
            self._dropped = [name for name in self._dropped if name not in gone]
            return bool(self._dropped)

    def _has_free_segment(self, pool: PoolId) -> bool:
        return any(_is_free(segment) for segment in self._calls.segments(pool))

    def _end_if_gone(self) -> None:
        if self._closed and not self._pools and self._on_end is not None:
            self._on_end()
            self._on_end = None


def _is_free(segment: Any) -> bool:
    # Active is what is allocated, or was and waits for another stream to be done with it.
    return bool(segment["active_size"] == 0)
