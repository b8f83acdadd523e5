"""`Assignment`: one micro-batch on its way through a worker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from ..ports import Reply, WorkerChannel
from ..promise import Promise

if TYPE_CHECKING:
    from .work import Work

__all__ = ["Assignment"]


@dataclass(slots=True, eq=False)
class Assignment:
    """What one piece of work gave to one worker."""

    work: Work
    batch: Any
    """The work's own handle for it."""
    items: list[Any]
    seeds: list[int] | None = None
    limit: float | None = None
    """Seconds it may run; None: as long as it takes."""

    started: float = 0.0
    """When it was sent, on the loop's clock."""
    timed_out: bool = False
    """It outlasted `limit`, and its worker was killed for it."""
    preempted: bool = False
    """Its worker was ended for somebody else; that is not its items' doing."""
    cancelled: bool = False
    """Nobody wants its reply any more."""
    sought_larger: bool = False
    """A worker on a larger device has been looked for."""
    unfit: frozenset[int] = frozenset()
    """It was out of memory: the slots that have no more of it than its own."""
    _channel: WorkerChannel | None = None
    _promise: Promise[Reply] | None = None
    _watchers: list[anyio.CancelScope] = field(default_factory=list)
    _nested: set[anyio.CancelScope] | None = None

    def send(self, channel: WorkerChannel, now: float) -> Promise[Reply]:
        """Hand it to a worker; the promise is its reply."""
        self._channel = channel
        self.started = now
        self._promise = channel.submit(self.items, seeds=self.seeds)
        return self._promise

    def awaits(self, promise: Promise[Reply]) -> bool:
        """Return whether `promise` is its reply, still to come."""
        return self._channel is not None and self._promise is promise

    @contextmanager
    def nesting(self) -> Iterator[None]:
        """Make a nested call inside the block: cancelled with this, and when this is over."""
        with anyio.CancelScope() as scope:
            if self.cancelled or self._channel is None:
                scope.cancel()
            self._nested = self._nested or set()
            self._nested.add(scope)
            try:
                yield
            finally:
                self._nested.discard(scope)

    def close(self) -> None:
        """It has its reply: nobody may kill the worker for it any more."""
        self._channel = None
        for scope in self._watchers:
            scope.deadline = math.inf
            scope.cancel()
        if self._nested:
            self._cancel_nested()

    def cancel(self) -> None:
        """Tell the worker that nobody wants the reply; it still comes."""
        self.cancelled = True
        self._cancel_nested()
        if self._channel is not None and self._promise is not None:
            self._channel.cancel(self._promise)

    def _cancel_nested(self) -> None:
        for scope in tuple(self._nested or ()):
            scope.cancel()

    async def kill_after(self, seconds: float, *, timed_out: bool = False) -> None:
        """End the worker unless the reply comes in time: nothing else stops a tool."""
        if self._channel is None:
            return
        with anyio.move_on_after(seconds) as scope:
            self._watchers.append(scope)
            await anyio.sleep_forever()
        if self._channel is not None:
            self.timed_out = timed_out
            self._channel.kill()
