"""The device table: the one state machine behind every lease, resident and context.

It is told what happened and answers what is to be done; it does nothing itself and reads no clock,
so that a recorded run replays to the same decisions. How it decides is spread over its parts:

* `claims`: the life of one request, as a table
* `occupancy`: who stands on which device
* `placement`: who may stand beside whom
* `feasibility`: what could never be met, and no waiting for oneself
* `eviction`: who leaves for whom
* `waiting`, `serving`: who is next, and what that keeps from others
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ..errors import InvalidRequest
from .claims import Claim, ClaimState, Journal, JournalEntry, Step
from .device_actions import DeviceAction, Reject, Tell
from .device_inputs import (
    BecameBusy,
    BecameIdle,
    Cancelled,
    ClaimKind,
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
from .feasibility import lost_for, why_infeasible, without_waiting_for_oneself
from .occupancy import Device, Occupancy
from .offload import OffloadStrategy
from .placement import declared, kept_from_contexts
from .qos import waiting_key
from .reasons import why_waiting
from .serving import Serving

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
        self._ageing_seconds = ageing_seconds
        self._claims: dict[int, Claim] = {}
        self._journal = Journal()
        self._serving = Serving(self.occupancy, self._journal)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Requested: self._requested,
            Cancelled: self._cancelled,
            Released: self._ended,
            BecameIdle: self._became_idle,
            BecameBusy: self._became_busy,
            Pinned: self._pinned,
            Evicted: self._ended,
            Configured: self._configured,
            LocksTried: self._locks_tried,
            Measured: self._measured,
            Lost: self._lost,
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
        """Return what an asker with these claims holds, the innermost last.

        Who lives in a lease waits for that lease's holder, so that one's claims count too.
        """
        held = [self._claims[id_] for id_ in ids if id_ in self._claims]
        around = {id_ for each in held for id_ in each.nested_in}
        everything = {*held, *(self._claims[id_] for id_ in around if id_ in self._claims)}
        return sorted((c for c in everything if c.state.granted), key=lambda c: c.number)

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

    # --------------------------------------------------------------------------- requests

    def _requested(self, input: Requested, now: float) -> None:
        if input.claim in self._claims:
            known = self._claims[input.claim]
            raise self._journal.impossible(known.id, known.state.value, "request")
        key = waiting_key(now, input.qos, self._ageing_seconds)
        self._serving.arrivals += 1
        claim = Claim(input, self._serving.arrivals, key, now)
        self._claims[claim.id] = claim
        if not claim.shape.spec.count:
            self._serving.grant(claim, (), "needs no device")
            return
        room = self._serving.room
        line = room.find(claim.shape)
        # If somebody of this shape waits, it is feasible.
        reason = None if line is not None else why_infeasible(claim.shape, self.occupancy)
        if (reason is None and not input.held) or not self._decided_at_once(claim, reason, now):
            self._serving.enqueue(claim, line or room.line(claim.shape))

    def _decided_at_once(self, claim: Claim, reason: str | None, now: float) -> bool:
        """Reject what could never be met, for `reason` or because its asker is in the way.

        An asker whose own lease is all that is in the way may reuse that lease.
        """
        if reason is None:
            own = self.held_by(claim.request.held)
            way = without_waiting_for_oneself(claim.shape, self.occupancy, own)
            if isinstance(way, Mapping):
                self._reuse(claim, way)
                return True
            reason = way
        if reason is None:
            return False
        self._journal.advance(claim, Step.REJECT, now, reason)
        del self._claims[claim.id]
        lost = why_infeasible(claim.shape, self.occupancy) is not None and bool(
            lost_for(claim.shape, self.occupancy)
        )
        self._serving.actions.append(Reject(claim.id, reason, lost))
        return True

    def _reuse(self, claim: Claim, leases: Mapping[int, Claim]) -> None:
        for lease in leases.values():
            claim.nested_in |= lease.nested_in | {lease.id}
        # A lease that declares nothing has nothing set aside to live out of.
        claim.covers = {i: lease for i, lease in leases.items() if lease.shape.vram is not None}
        self._serving.grant(claim, tuple(leases), "reuses its asker's lease")

    def _cancelled(self, input: Cancelled, now: float) -> None:
        claim = self._known(input.claim, Step.CANCEL)
        self._journal.advance(claim, Step.CANCEL, now)
        del self._claims[claim.id]
        self._serving.withdraw(claim)

    # ---------------------------------------------------------------------------- holders

    def _ended(self, input: Released | Evicted, now: float) -> None:
        step = Step.RELEASE if type(input) is Released else Step.EVICTED
        claim = self._claims.get(input.claim) or self._known(input.claim, step)
        self._journal.advance(claim, step, now)
        del self._claims[claim.id]
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
        if claim.evictable and self._is_cordoned(claim):
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

    # ------------------------------------------------------------------- the world outside

    def _locks_tried(self, input: LocksTried, now: float) -> None:
        for index in input.ours:
            self.occupancy.lock(self.occupancy.devices[index])
        for index, by in input.taken.items():
            self.occupancy.take(self.occupancy.devices[index], by)
        touched = (*input.ours, *input.taken)
        # Whoever laid a hand on what is taken now looks elsewhere.
        self._serving.agenda.fill(touched)
        self._serving.agenda.touch(touched)

    def _measured(self, input: Measured, now: float) -> None:
        device = self.occupancy.devices[input.device]
        if device.others != input.others:
            self.occupancy.squeeze(device, input.others)
            self._serving.agenda.fill((device.index,))
            self._serving.agenda.touch((device.index,))

    def _lost(self, input: Lost, now: float) -> None:
        device = self.occupancy.devices[input.device]
        if device.lost is not None:
            return
        waiting = self._unsettled()
        self.occupancy.lose(device, input.reason)
        self._settle_anew(waiting, now)
        why = f"cuda:{device.index} is lost: {input.reason}"
        for claim in list(device.claims.values()):
            if claim.shape.kind is not ClaimKind.RESIDENT:
                self._serving.actions.append(Tell(claim.id, why))
            elif claim.state is not ClaimState.EVICTING:
                # Nothing can be moved off a device that is gone.
                self._serving.evict(claim, None, why, OffloadStrategy.RESTART)

    # ----------------------------------------------------------------------- configuration

    def _configured(self, input: Configured, now: float) -> None:
        self._check_managed(input.managed)
        waiting = self._unsettled()
        self.occupancy.configure(input.managed, packing=input.packing)
        self._serving.strategy = input.strategy
        self._settle_anew(waiting, now)
        for resident in self._serving.victims.idle:
            if self._is_cordoned(resident):
                self._serving.evict(resident, None, "its device is no longer managed")

    def _unsettled(self) -> list[Claim]:
        """Return everybody who waits; promises and hands follow from what no longer holds."""
        waiting = self.waiting()
        for claim in waiting:
            if claim.state is ClaimState.PROMISED:
                self._serving.recall(claim)
            self._serving.hands.let_go(claim)
        return waiting

    def _settle_anew(self, waiting: list[Claim], now: float) -> None:
        """Let everybody queue anew, in place; those that can never be served any more go."""
        for claim in waiting:
            reason = why_infeasible(claim.shape, self.occupancy)
            if self._decided_at_once(claim, reason, now):
                self._serving.withdraw(claim)
            else:
                self._serving.agenda.add(claim, self._serving.room.line(claim.shape))

    def _check_managed(self, managed: tuple[int, ...]) -> None:
        known = self.occupancy.devices
        unknown = tuple(index for index in managed if index not in known)
        if unknown:
            have = device_names(tuple(known)) if known else "none"
            raise InvalidRequest(f"cannot manage {device_names(unknown)}; this machine has {have}")
        if len(set(managed)) != len(managed):
            raise InvalidRequest(f"managed devices: {device_names(managed)} names one twice")
        if known and not managed:
            raise InvalidRequest("managed devices: name at least one")

    def _is_cordoned(self, claim: Claim) -> bool:
        return not all(self.occupancy.devices[index].managed for index in claim.devices)
