"""`PoolGate`: no pool of a device is dropped while somebody is in one.

torch's pool gives its free memory back when it is dropped, and only then: ``empty_cache`` leaves a
pool that lives alone. But while any pool of the device is entered, torch takes it that a CUDA graph
is being captured (until 2.12), and its destructor ends the process with a failed assertion. So it
does when it waits for an event of a device that is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from .pool_calls import Pool, PoolCalls

__all__ = ["PoolGate", "PoolOwner"]


class PoolOwner(Protocol):
    """Whose pools are dropped."""

    def dropped(self, pool: Pool) -> None:
        """Learn that a retired pool is gone, except for what is alive in it."""
        ...

    def wasted(self) -> bool:
        """Whether dropped pools still have memory that nothing lives in."""
        ...

    def swept(self) -> bool:
        """Look again at what dropped pools still have; return whether that is something."""
        ...


class PoolGate:
    """Counts who is in a pool of one device. Thread-safe.

    Attributes:
        lock: held to go in or out, and while pools are dropped: for as long as CUDA takes to free
            memory, nobody can go in.
        inside: how many are in a pool.
    """

    def __init__(self, device: int, calls: PoolCalls) -> None:
        self._device = device
        self._calls = calls
        # Reentrant: a garbage collection may leave a session, and so a pool, in the middle of it.
        self.lock = threading.RLock()
        self.inside = 0
        self._retired: list[tuple[PoolOwner, Pool]] = []
        self._clear_workspaces = False
        # Owners of dropped pools that tensors still live in, or did when last seen.
        self._lingering: list[PoolOwner] = []

    def retire(self, owner: PoolOwner, pool: Pool) -> None:
        """Drop `pool`, which nobody is in, when nobody is in any. With the lock held."""
        self._retired.append((owner, pool))

    def clear_workspaces(self) -> None:
        """Clear cuBLAS' workspaces when nobody is in any pool. With the lock held."""
        self._clear_workspaces = True

    def left(self) -> None:
        """Count one who has gone out; the last one drops what is retired. With the lock held."""
        self.inside -= 1
        if self._retired and not self.inside and self._calls.healthy(self._device):
            self._drop()

    def drop_if_quiet(self) -> None:
        """Drop what is retired, unless somebody is in a pool: then the last one does it."""
        if self.inside or not (self._retired or self._clear_workspaces):
            return
        # A destructor holds the GIL while CUDA frees memory, and that waits for the device's work.
        # A lost device gives nothing back; whoever waits for its work is told of that.
        with suppress(RuntimeError):
            self._calls.synchronize(self._device)
            self._when_quiet(self._drop)

    def sweep(self) -> None:
        """Give back what tensors left in dropped pools when they died. May block as `trim`."""
        with self.lock:
            owners = list(self._lingering)
        if any(owner.wasted() for owner in owners):
            with suppress(RuntimeError):
                self._when_quiet(self._calls.empty_cache)
        gone = [owner for owner in owners if not owner.swept()]
        with self.lock:
            self._lingering = [owner for owner in self._lingering if owner not in gone]

    def _when_quiet(self, act: Callable[[], None]) -> None:
        with self.lock:
            if not self.inside:
                act()

    def _drop(self) -> None:
        if self._clear_workspaces:
            # First, so that their memory goes back with the pools they are in.
            self._clear_workspaces = False
            with suppress(RuntimeError):
                self._calls.clear_workspaces()
        retired, self._retired = self._retired, []
        for owner, pool in retired:
            pool.torch_pool = None
            owner.dropped(pool)
            if owner not in self._lingering:
                self._lingering.append(owner)
