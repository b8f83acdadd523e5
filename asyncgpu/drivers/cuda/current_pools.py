"""Which memory pool each thread's allocations come from."""

from __future__ import annotations

import threading

from .context_pools import ContextPools
from .pool_calls import Pool, PoolCalls

__all__ = ["CurrentPools", "PoolToken"]

_Entered = tuple[ContextPools, Pool]

PoolToken = tuple[_Entered, _Entered | None]
"""What was entered, and what was left for it."""


class CurrentPools:
    """Moves the calling thread between the pools of contexts.

    A thread is in one pool of a device at most: an inner context's is entered when the outer one's
    has been left. Where a thread is in two, older versions of torch search the outer one first.
    """

    def __init__(self, calls: PoolCalls) -> None:
        self._enter = calls.enter
        self._leave = calls.leave
        self._thread = _Thread()

    def enter(self, pools: ContextPools) -> PoolToken | None:
        """Let this thread allocate from `pools`; None: it does already.

        Raises:
            InvalidRequest: the pools are closed.
            RuntimeError: torch refused; nothing has changed.
        """
        entered = self._thread.entered
        device = pools.device
        outer = entered.get(device)
        if outer is not None and outer[0] is pools:
            return None
        pool = pools.lend()
        if outer is not None:
            self._leave(device, outer[1])
        try:
            self._enter(device, pool)
        except BaseException:
            if outer is not None:
                self._enter(device, outer[1])
            pools.take_back(pool)
            raise
        inner = entered[device] = (pools, pool)
        return inner, outer

    def leave(self, token: PoolToken) -> None:
        """Restore what was entered before; last entered, first left."""
        (pools, pool), outer = token
        device = pools.device
        entered = self._thread.entered
        self._leave(device, pool)
        if outer is None:
            del entered[device]
        else:
            self._enter(device, outer[1])
            entered[device] = outer
        pools.take_back(pool)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.entered: dict[int, _Entered] = {}
