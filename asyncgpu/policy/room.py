"""Room in a device's memory: who waits for it, and in what order they get it. Sizes are bytes.

Whoever waits has an account already. The first in line takes what becomes free, piece by piece, as
a reservation of its own, so that allocations above reservations cannot keep it waiting for ever;
the others take nothing, so that no two of them hold what the other needs. Whoever is no longer the
first gives back what he has taken so.
"""

from __future__ import annotations

from typing import Protocol

from .qos import QoSPolicy, waiting_key
from .waiting import WaitQueue

__all__ = ["Demand", "RoomQueue", "Shares"]


class Shares(Protocol):
    """What is asked of a ledger of memory; `asyncgpu.policy.budget` has the rule behind it."""

    @property
    def available(self) -> int: ...
    def reserve(self, account: int, nbytes: int) -> bool: ...
    def commitment(self, account: int) -> int:
        """Return what the account uses or has reserved, whichever is more."""
        ...


class Demand:
    """One account that waits until `target` bytes are reserved for it."""

    __slots__ = ("account", "met", "order", "queue", "target")

    def __init__(self, account: int, target: int, order: tuple[float, int]) -> None:
        self.account = account
        self.target = target
        self.order = order
        self.queue: WaitQueue[Demand] | None = None
        self.met = False


class RoomQueue:
    """Serves demands in the order of their QoS class, with ageing.

    Args:
        shares: the device's memory.
        ageing_seconds: the wait that makes up for one class.
    """

    def __init__(self, shares: Shares, *, ageing_seconds: float) -> None:
        self._shares = shares
        self._ageing_seconds = ageing_seconds
        self._queue: WaitQueue[Demand] = WaitQueue()
        self._arrivals = 0
        # What accounts have been given for good, waiting for more or not.
        self._given: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def head(self) -> Demand | None:
        """The first in line."""
        return self._queue.head

    def add(self, account: int, target: int, qos: QoSPolicy, now: float) -> Demand:
        """Put a demand in line; `serve` looks whether it can be met.

        Args:
            account: a number that `shares` knows.
            target: what is to be reserved for it.
            qos: its class.
            now: seconds on a clock that never goes back.
        """
        self._arrivals += 1
        order = (waiting_key(now, qos, self._ageing_seconds), self._arrivals)
        demand = Demand(account, target, order)
        first = self.head
        self._queue.push(demand)
        if first is not None and self.head is demand:
            self._give_back(first)
        return demand

    def withdraw(self, demand: Demand) -> None:
        """Take a demand out of the line, if it stands there, and give back what it has taken."""
        if demand.queue is not None:
            self._queue.discard(demand)
            self._give_back(demand)

    def withdraw_all(self, account: int) -> None:
        """Take all demands of an account out of the line."""
        for demand in self._queue:
            if demand.account == account:
                self.withdraw(demand)

    def lower(self, account: int, nbytes: int) -> None:
        """Reserve no more than `nbytes` for an account from now on."""
        self._given[account] = nbytes
        self._shares.reserve(account, nbytes)

    def forget(self, account: int) -> None:
        """An account is about to be closed; nobody waits for it."""
        self._given.pop(account, None)

    def serve(self) -> list[Demand]:
        """Return the demands that are met now, which leave the line.

        One that waits while there is room is kept out by the limit of its own group. That is no
        reason to keep those behind it waiting, who may be in others.
        """
        met: list[Demand] = []
        while (head := self._queue.head) is not None and self._take(head):
            met.append(self._served(head))
        for demand in self._queue if self._shares.available else ():
            if self._take(demand):
                met.append(self._served(demand))
            elif not self._shares.available:
                break
        return met

    def shortfall(self) -> int:
        """Return how much the first in line still lacks."""
        head = self._queue.head
        return 0 if head is None else max(0, head.target - self._shares.commitment(head.account))

    def _served(self, demand: Demand) -> Demand:
        self._queue.discard(demand)
        demand.met = True
        self._given[demand.account] = demand.target
        return demand

    def _give_back(self, demand: Demand) -> None:
        self._shares.reserve(demand.account, self._given.get(demand.account, 0))

    def _take(self, demand: Demand) -> bool:
        shares = self._shares
        if shares.reserve(demand.account, demand.target):
            return True
        # Everything there is, as long as it is there: an allocation may come in between.
        so_far = shares.commitment(demand.account)
        shares.reserve(demand.account, min(demand.target, so_far + shares.available))
        return False
