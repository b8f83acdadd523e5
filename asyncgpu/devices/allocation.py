"""`Allocation`: devices held by a resident or a context until it releases them."""

from __future__ import annotations

from typing import Protocol

from ..policy.claims import ClaimState
from ..policy.device_inputs import BecameBusy, BecameIdle, DeviceInput, Pinned, Released
from ..policy.device_spec import device_names
from ..policy.offload import OffloadStrategy

__all__ = ["Allocation", "Evictable"]


class Evictable(Protocol):
    """Whoever holds devices as a resident and can be made to leave them."""

    @property
    def name(self) -> str:
        """What the queue, logs and errors call it."""
        ...

    async def evict(self, strategy: OffloadStrategy) -> None:
        """Give the devices up; returning means that nothing of it is on them any more."""
        ...


class Teller(Protocol):
    """The device manager, as its allocations see it."""

    def tell(self, input: DeviceInput) -> None:
        """Report to the device table and carry out what it answers."""
        ...

    def state_of(self, claim: int) -> ClaimState:
        """Return where a claim stands; GONE if the table has forgotten it."""
        ...


class Allocation:
    """Devices of one holder. A resident says when it is busy, and is evictable while idle."""

    def __init__(self, manager: Teller, claim: int, indices: tuple[int, ...]) -> None:
        self._manager = manager
        self._pinned = False
        self.id = claim
        self.indices = indices
        """Logical indices; empty on the CPU."""

    @property
    def devices(self) -> tuple[str, ...]:
        """Their names: ``("cuda:0", "cuda:1")``, or ``("cpu",)``."""
        return tuple(f"cuda:{index}" for index in self.indices) or ("cpu",)

    @property
    def device(self) -> str:
        """The first of them."""
        return self.devices[0]

    @property
    def released(self) -> bool:
        """Whether it holds nothing any more."""
        return self._manager.state_of(self.id) is ClaimState.GONE

    @property
    def evicting(self) -> bool:
        """Whether it has been chosen to leave and must take no new work."""
        return self._manager.state_of(self.id) is ClaimState.EVICTING

    @property
    def pinned(self) -> bool:
        """Whether it may not be evicted even while idle."""
        return self._pinned

    @pinned.setter
    def pinned(self, pinned: bool) -> None:
        if pinned != self._pinned:
            self._manager.tell(Pinned(self.id, pinned))
            self._pinned = pinned

    def mark_busy(self) -> None:
        """A call begins: it is no victim until `mark_idle`."""
        self._manager.tell(BecameBusy(self.id))

    def mark_idle(self) -> None:
        """A call has ended: from now on it may be evicted, the least recently used first."""
        self._manager.tell(BecameIdle(self.id))

    def release(self) -> None:
        """Give the devices back; idempotent."""
        if not self.released:
            self._manager.tell(Released(self.id))

    def __repr__(self) -> str:
        state = self._manager.state_of(self.id).value
        return f"<Allocation {self.id} of {device_names(self.indices)}, {state}>"
