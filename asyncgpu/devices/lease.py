"""`Lease`: devices held for a block, never taken away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from .. import ambient
from ..errors import DeviceLost, RequestError
from .allocation import Allocation

__all__ = ["Lease", "LeaseBlock"]


class Lease:
    """Devices that are this block's until it ends. ``async with manager.lease(...)`` makes it."""

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation

    @property
    def id(self) -> int:
        """The number of its claim, as in the status."""
        return self._allocation.id

    @property
    def indices(self) -> tuple[int, ...]:
        """Logical indices of the GPUs; empty: the CPU."""
        return self._allocation.indices

    @property
    def devices(self) -> tuple[str, ...]:
        """``("cuda:0", "cuda:1")``, or ``("cpu",)``."""
        return self._allocation.devices

    @property
    def device(self) -> str:
        """The first of them."""
        return self._allocation.device

    @property
    def lost(self) -> str | None:
        """Why a device of it is gone for good; leaving the block then raises `DeviceLost`."""
        return self._allocation.lost

    def __repr__(self) -> str:
        return f"<Lease {self.id} on {','.join(self.devices)}>"


class LeaseBlock:
    """Waits for the devices on entering, gives them back on leaving. Entered once.

    The task inside, and its children, carry the claim with them, so that what they ask for does
    not wait for this very lease.
    """

    def __init__(self, obtain: Callable[[], Awaitable[Allocation]]) -> None:
        self._obtain = obtain
        self._entered = False
        self._allocation: Allocation | None = None

    async def __aenter__(self) -> Lease:
        if self._entered:
            raise RequestError("a lease is entered once; ask for another one")
        self._entered = True
        allocation = self._allocation = await self._obtain()
        ambient.claims.set(ambient.claims.get() | {allocation.id})
        return Lease(allocation)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._allocation is not None
        self._allocation.release()
        # Not a token: the block may be left in another task than it was entered in.
        ambient.claims.set(ambient.claims.get() - {self._allocation.id})
        # What was raised inside is most likely how the block has learned of it.
        if self._allocation.lost is not None and exc is None:
            raise DeviceLost(self._allocation.lost)
