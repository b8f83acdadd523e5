"""How long devices are kept, measured: leases and contexts as a whole, residents by the call."""

from __future__ import annotations

from .claims import Claim, ClaimState
from .device_inputs import BecameBusy, BecameIdle, ClaimKind, DeviceInput, Released

__all__ = ["HoldTimes"]

# The share that the latest one has in the mean, once there have been a few.
_WEIGHT = 0.125


class HoldTimes:
    """A running mean for each kind of claim, the latest ones counting most."""

    def __init__(self) -> None:
        self._means: dict[ClaimKind, tuple[int, float]] = {}
        self._called: dict[int, float] = {}

    def expected(self, kind: ClaimKind) -> float | None:
        """Return the seconds that one of `kind` takes; None: none has ended yet."""
        known = self._means.get(kind)
        return None if known is None else known[1]

    def remaining(self, claim: Claim, now: float) -> float | None:
        """Return the seconds after which `claim` might leave its devices, or be made to.

        None: unknown. One that takes longer than usual may end at any moment.
        """
        if claim.evictable:
            return 0.0
        if claim.state not in (ClaimState.HELD, ClaimState.BUSY) or claim.pinned:
            return None
        began = self._called.get(claim.id) if claim.state is ClaimState.BUSY else claim.since
        expected = self.expected(claim.shape.kind)
        return None if began is None or expected is None else max(0.0, began + expected - now)

    def observe(self, input: DeviceInput, claim: Claim | None, now: float) -> None:
        """Take note of what is about to happen to `claim`.

        Args:
            input: what the device table is told next.
            claim: the one it is about; None: none.
            now: seconds.
        """
        if claim is None:
            return
        match input:
            case BecameBusy():
                self._called[claim.id] = now
            case BecameIdle():
                self._note(claim, self._called.pop(claim.id, None), now)
            case Released():
                called = self._called.pop(claim.id, None)
                scoped = claim.state is ClaimState.HELD
                self._note(claim, claim.since if scoped else called, now)
            case _ if claim.state is ClaimState.EVICTING:
                # Its call did not end, it was ended.
                self._called.pop(claim.id, None)

    def _note(self, claim: Claim, began: float | None, now: float) -> None:
        if began is None:
            return
        kind, seconds = claim.shape.kind, now - began
        count, mean = self._means.get(kind, (0, 0.0))
        weight = max(_WEIGHT, 1 / (count + 1))
        self._means[kind] = count + 1, mean + weight * (seconds - mean)
