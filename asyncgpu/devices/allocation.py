"""`Allocation`: devices that a resident or a context has until it gives them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..policy.device_inputs import BecameBusy, BecameIdle, DeviceInput, Pinned, Released
from ..policy.device_spec import device_names
from ..policy.offload import OffloadStrategy

__all__ = ["Allocation", "Evictable"]


class Evictable(Protocol):
    """Somebody who can be asked to leave a device."""

    @property
    def name(self) -> str:
        """Who it is, for logs, errors and the status."""
        ...

    async def evict(self, strategy: OffloadStrategy) -> None:
        """Free the devices; called at most once for an allocation, in a task of the runtime.

        On return the devices are free and the allocation is over. Raising ends it too, and is
        logged. If the request that needs the devices preempts, this may come in the middle of a
        start or of a call, which then has to run again elsewhere.

        Args:
            strategy: CPU: move to host memory if you can; else, or if you cannot, end.
        """
        ...


class Allocation:
    """Devices held by an owner. `DeviceManager.acquire` and `DeviceManager.reserve` make them.

    A resident's allocation starts out as busy: it loads. It becomes a possible victim with
    `mark_idle`, and is none from `mark_busy` until the next `mark_idle`. A worker that loaded for
    a call goes straight to `mark_busy`; idle even for a moment, it might be evicted unused.
    """

    def __init__(
        self, id: int, owner: Evictable | None, name: str, tell: Callable[[DeviceInput], None]
    ) -> None:
        self._id = id
        self._owner = owner
        self._name = name
        self._tell = tell
        self._granted = False
        self._indices: tuple[int, ...] = ()
        self._idle = False
        self._started = False
        self._pinned = False
        self._evicting = False
        self._released = False
        self._lost: str | None = None

    @property
    def id(self) -> int:
        """The number of its claim, as in the status and in `asyncgpu.ambient.claims`."""
        return self._id

    @property
    def name(self) -> str:
        """Whose it is, for logs, errors and the status."""
        return self._name

    @property
    def owner(self) -> Evictable | None:
        """Who is asked to leave; None: never asked."""
        return self._owner

    @property
    def indices(self) -> tuple[int, ...]:
        """Logical indices of the GPUs; empty: the CPU."""
        return self._indices

    @property
    def devices(self) -> tuple[str, ...]:
        """``("cuda:0", "cuda:1")``, or ``("cpu",)``."""
        return tuple(device_names(self._indices).split(","))

    @property
    def device(self) -> str:
        """The first of them."""
        return self.devices[0]

    @property
    def granted(self) -> bool:
        """Whether the devices are, or were, its own."""
        return self._granted

    @property
    def evicting(self) -> bool:
        """Whether the owner is being asked to leave; nothing new may begin here."""
        return self._evicting

    @property
    def released(self) -> bool:
        """Whether it is over: given back, or evicted."""
        return self._released

    @property
    def lost(self) -> str | None:
        """Why a device of it is gone for good; it holds the others until it is given back."""
        return self._lost

    @property
    def pinned(self) -> bool:
        """Whether the owner must not be evicted, idle or not."""
        return self._pinned

    @pinned.setter
    def pinned(self, pinned: bool) -> None:
        if pinned != self._pinned and not self._evicting and not self._released:
            self._tell(Pinned(self._id, pinned))
            self._pinned = pinned

    def mark_busy(self) -> bool:
        """Begin a call; False: too late, the owner is being evicted or the allocation is over."""
        if self._evicting or self._released:
            return False
        if self._idle or not self._started:
            self._tell(BecameBusy(self._id))
            self._idle, self._started = False, True
        return True

    def mark_idle(self) -> None:
        """End a call, or the start: from now on the owner may be evicted, unless pinned."""
        if not (self._idle or self._evicting or self._released):
            # Marked first: the answer may be to evict it at once.
            self._idle = self._started = True
            self._tell(BecameIdle(self._id))

    def release(self) -> None:
        """Give the devices back; idempotent. They are free for others at once."""
        if not self._released:
            self._released = True
            self._evicting = False
            self._tell(Released(self._id))

    def __repr__(self) -> str:
        state = "released" if self._released else "evicting" if self._evicting else "held"
        return (
            f"<Allocation {self._id} of {self._name!r} on {device_names(self._indices)} ({state})>"
        )

    # ------------------------------------------------------------- called by the manager

    def _grant(self, indices: tuple[int, ...]) -> None:
        self._granted = True
        self._indices = indices

    def _lose(self, reason: str) -> None:
        self._lost = reason

    def _begin_eviction(self) -> None:
        self._evicting = True

    def _end_eviction(self) -> None:
        self._evicting = False
        self._released = True
