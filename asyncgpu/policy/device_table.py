"""The device table: the one state machine behind every lease, resident and context.

It is told what happened and answers what is to be done; it does nothing itself and reads no clock,
so that a recorded run replays to the same decisions. How it decides is spread over its parts:

* `claims`: the life of one request, as a table
* `occupancy`: who stands on which device
* `placement`: who may stand beside whom
* `feasibility`: what could never be met, and no waiting for oneself
* `eviction`: who leaves for whom
* `waiting`, `serving`, `hand_over`: who is next, and what that keeps from others
* `requests`: how a claim begins, and how it ends without ever having had a device
* `surroundings`: what is managed, what other programs do, and what is lost
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from .claims import Claim, Journal, JournalEntry, Step
from .device_actions import DeviceAction
from .device_inputs import (
    BecameBusy,
    BecameIdle,
    Cancelled,
    Configured,
    DeviceInput,
    Evicted,
    LocksTried,
    Lost,
    Measured,
    Pinned,
    Released,
    Requested,
)
from .device_invariants import check_table
from .device_spec import device_names
from .occupancy import Device, Occupancy
from .offload import OffloadStrategy
from .placement import declared, kept_from_contexts
from .reasons import why_waiting
from .requests import Requests
from .serving import Serving
from .surroundings import Surroundings

__all__ = ["DeviceTable"]


class DeviceTable:
    """Decides who holds which device. `handle` is the only way to change it."""

    def __init__(
        self,
        capacities: Mapping[int, int],
        *,
        managed: tuple[int, ...] | None = None,
        packing: bool = False,
        strategy: OffloadStrategy = OffloadStrategy.RESTART,
        ageing_seconds: float = 10.0,
        locks: bool = False,
    ) -> None:
        """Know the devices; nothing is held yet.

        Args:
            capacities: bytes of each device, by logical index.
            managed: devices that take claims; None: all.
            packing: several leases and residents may share a device.
            strategy: what victims are told to do.
            ageing_seconds: the wait that raises a waiter by one QoS class.
            locks: a device is locked against other programs before anybody is placed on it.

        Raises:
            InvalidRequest: `managed` names an unknown device, one twice, or none at all.
        """
        self.occupancy = Occupancy(capacities, locks=locks)
        self._claims: dict[int, Claim] = {}
        self._journal = Journal()
        self._serving = Serving(self.occupancy, self._journal)
        self._requests = Requests(
            self._claims, self._serving, self._journal, ageing_seconds=ageing_seconds
        )
        self._surroundings = Surroundings(self._serving, self._requests)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Requested: self._requests.requested,
            Cancelled: self._requests.cancelled,
            Released: self._released,
            BecameIdle: self._became_idle,
            BecameBusy: self._became_busy,
            Pinned: self._pinned,
            Evicted: self._evicted,
            Configured: self._surroundings.configured,
            LocksTried: self._surroundings.locks_tried,
            Measured: self._surroundings.measured,
            Lost: self._surroundings.lost,
        }
        everything = tuple(self.occupancy.devices)
        self.handle(Configured(everything if managed is None else managed, packing, strategy), 0.0)

    def handle(self, input: DeviceInput, now: float) -> list[DeviceAction]:
        """Take one input and return what is to be done, in order.

        Args:
            input: what happened.
            now: seconds on a clock that never goes back.

        Raises:
            InvalidTransition: impossible where the claim stands; nothing has changed.
            InvalidRequest: devices that cannot be managed; nothing has changed.
        """
        self._serving.now = now
        self._handlers[type(input)](input, now)
        return self._serving.settle()

    # ---------------------------------------------------------------------------- reading

    @property
    def strategy(self) -> OffloadStrategy:
        """What victims are told to do."""
        return self._serving.strategy

    @property
    def packing(self) -> bool:
        """Whether several leases and residents may share a device."""
        return self.occupancy.packing

    def claim(self, id: int) -> Claim | None:
        """Return the claim of that number; None: there is none, or it is gone. Read only."""
        return self._claims.get(id)

    def devices(self) -> Iterator[Device]:
        """Yield every device by index. Read only."""
        return iter(self.occupancy.devices.values())

    @property
    def in_use(self) -> bool:
        """Whether there are any claims."""
        return bool(self._claims)

    @property
    def has_waiters(self) -> bool:
        """Whether anybody waits."""
        return bool(self._serving.room)

    def taken(self, *, wanted: bool) -> tuple[int, ...]:
        """Return the devices that other programs had when they were last tried.

        Args:
            wanted: only those that somebody waits for.
        """
        taken = sorted(self.occupancy.taken)
        interested = self._serving.room.interested
        return tuple(index for index in taken if not wanted or interested(index))

    def declared(self, index: int) -> int:
        """Return the bytes of a device that leases and loaded residents have declared."""
        return declared(self.occupancy.devices[index])

    def kept_from_contexts(self, index: int) -> int:
        """Return the bytes of a device that leases and residents have declared for themselves."""
        return kept_from_contexts(self.occupancy.devices[index])

    def held_by(self, ids: Collection[int]) -> list[Claim]:
        """Return what an asker with these claims holds, the innermost last."""
        return self._requests.held_by(ids)

    def waiting(self) -> list[Claim]:
        """Return the claims without devices in the order in which they are served."""
        return list(self._serving.room.in_order())

    def explain(self, id: int) -> str:
        """Return why claim `id` waits, or what it has, for people."""
        claim = self._claims.get(id)
        if claim is None:
            return "gone"
        if claim.state.granted:
            return f"{claim.state.value} on {device_names(claim.devices)}"
        return why_waiting(claim, self.occupancy)

    def history(self, id: int | None = None) -> list[JournalEntry]:
        """Return the latest steps, oldest first; of claim `id`, or of all."""
        return self._journal.entries(id)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if anything contradicts anything. For tests: it is slow."""
        check_table(self._claims, self.occupancy, self._serving)

    # ---------------------------------------------------------------------------- holders

    def _released(self, input: Released, now: float) -> None:
        self._end(input.claim, Step.RELEASE, now)

    def _evicted(self, input: Evicted, now: float) -> None:
        self._end(input.claim, Step.EVICTED, now)

    def _end(self, id: int, step: Step, now: float) -> None:
        claim = self._known(id, step)
        self._journal.advance(claim, step, now)
        del self._claims[id]
        self._serving.vacate(claim)

    def _became_idle(self, input: BecameIdle, now: float) -> None:
        claim = self._known(input.claim, Step.IDLE)
        self._journal.advance(claim, Step.IDLE, now)
        claim.last_used, claim.turn = now, self._journal.steps
        self._may_leave(claim)

    def _became_busy(self, input: BecameBusy, now: float) -> None:
        claim = self._known(input.claim, Step.BUSY)
        self._journal.advance(claim, Step.BUSY, now)
        self._stays(claim)

    def _pinned(self, input: Pinned, now: float) -> None:
        step = Step.PIN if input.pinned else Step.UNPIN
        claim = self._known(input.claim, step)
        self._journal.advance(claim, step, now)
        claim.pinned = input.pinned
        if input.pinned:
            self._stays(claim)
        else:
            self._may_leave(claim)

    def _may_leave(self, claim: Claim) -> None:
        """A resident may be a victim now: of a waiter, or because its device is not managed."""
        self._serving.victims.update(claim)
        if claim.evictable and not self.occupancy.manages(claim.devices):
            self._serving.evict(claim, None, "its device is no longer managed")
        else:
            self._serving.agenda.touch(claim.devices)

    def _stays(self, claim: Claim) -> None:
        """A resident cannot be a victim now: waiters that counted on it look elsewhere."""
        self._serving.victims.update(claim)
        self._serving.agenda.fill(claim.devices)

    def _known(self, id: int, step: Step) -> Claim:
        claim = self._claims.get(id)
        if claim is None:
            raise self._journal.impossible(id, "unknown", step.value)
        return claim
