"""Serving: gives devices to waiters in order, after each change only to those it concerns.

The rule is simple to say for everybody at once. Go through all waiters in the order of the queue.
One that can have all its devices now gets them. One that can have them after evicting idle
residents is promised them, and the evictions begin. Any other lays its hand on up to as many
devices as it needs: those it could have, then those that others could still enter; nobody behind
it in the queue may use these. So nobody is overtaken on the way to a device, and a waiter for
``cuda:0`` is not in the way of one for ``cuda:1``.

Going through everybody for each change would cost too much, so this keeps the outcome of that rule
up to date instead. Requests of one shape form a line, and only its head is looked at and has
hands, for what it cannot have the next one cannot have either. A change of a device puts the heads
of the lines that might use it on the agenda.
"""

from __future__ import annotations

import heapq

from .agenda import Agenda
from .claims import NOBODY, Claim, ClaimState, Journal, Step
from .device_actions import DeviceAction, Evict, Grant, Lock, Unlock
from .device_inputs import ClaimKind
from .eviction import EvictionPlan, Victims, plan_eviction
from .hand_over import HandOver
from .hands import Hands
from .occupancy import Device, Occupancy
from .offload import OffloadStrategy
from .placement import free_devices
from .waiting import Line, WaitingRoom

__all__ = ["Serving"]


class Serving:
    """Who gets which device, and who must leave for it.

    The device table sets `now` before each input, in seconds, and `arrivals` counts its requests.
    """

    def __init__(self, occupancy: Occupancy, journal: Journal) -> None:
        self.now = 0.0
        self.arrivals = 0
        self.strategy = OffloadStrategy.RESTART
        self.actions: list[DeviceAction] = []
        self.room: WaitingRoom[Claim] = WaitingRoom()
        self.agenda = Agenda(self.room, occupancy)
        self.hands = Hands(occupancy, self.agenda)
        self.victims = Victims(occupancy)
        self.occupancy = occupancy
        self._journal = journal
        self._hand_overs = HandOver(occupancy, self.room, self.victims)
        self._locking: set[int] = set()

    def settle(self) -> list[DeviceAction]:
        """Go through the agenda; return all that is to be done since the last time."""
        if entries := self.agenda.entries:
            self._go_through(entries)
        if self.occupancy.locks:
            self._unlock()
        actions, self.actions = self.actions, []
        return actions

    def _go_through(self, entries: list[tuple[tuple[float, int], Claim, Line[Claim]]]) -> None:
        while entries:
            _, claim, line = heapq.heappop(entries)
            claim.on_agenda = False
            if claim.state is ClaimState.WAITING:
                self._serve(claim, line)
            elif claim.state is ClaimState.PROMISED:
                self._hasten(claim, line)

    # ------------------------------------------------------------------ what has changed

    def enqueue(self, claim: Claim, line: Line[Claim]) -> None:
        """Put a waiting claim in its line."""
        before = line.waiting.head
        line.waiting.push(claim)
        if line.waiting.head is claim:
            if before is not None and before.hands:
                self.hands.let_go(before)
            if self._anything_for(line):
                self.agenda.add(claim, line)

    def withdraw(self, claim: Claim) -> None:
        """Take a claim without devices of its own out of its line, with all it kept from others."""
        line = self.room.line(claim.shape)
        if claim.queue is line.promised:
            line.promised.discard(claim)
            self._break_promise(claim)
        else:
            line.waiting.discard(claim)
            self.hands.let_go(claim)
        self._move_up(line)

    def recall(self, claim: Claim) -> None:
        """Make a promised claim a waiting one again, at its old place in the queue."""
        line = self.room.line(claim.shape)
        self._journal.advance(claim, Step.RECALL, self.now)
        line.promised.discard(claim)
        self._break_promise(claim)
        self.enqueue(claim, line)

    def grant(self, claim: Claim, indices: tuple[int, ...], why: str) -> None:
        """Give devices to a claim that stands in no line."""
        self._begin(claim, why)
        self.occupancy.place(claim, indices)
        self.hands.give_way(claim, indices)
        self.actions.append(Grant(claim.id, indices, why))

    def vacate(self, claim: Claim) -> None:
        """Take a claim that has ended off its devices; promises that waited for it are kept."""
        if self._hand_over(claim):
            return
        indices = claim.devices
        self.occupancy.lift(claim)
        if claim.shape.kind is ClaimKind.RESIDENT:
            self.victims.update(claim)
            for index in indices:
                for other in self.occupancy.devices[index].claims.values():
                    if claim.id in other.awaiting:
                        self._awaits_no_more(other, claim)
        self.agenda.touch(indices)

    def evict(
        self,
        victim: Claim,
        cause: int | None,
        why: str,
        strategy: OffloadStrategy | None = None,
    ) -> None:
        """Make a resident leave its devices; `strategy`: None: as configured."""
        running = victim.state is not ClaimState.IDLE
        self._journal.advance(victim, Step.PREEMPT if running else Step.EVICT, self.now, why)
        self.occupancy.changed(victim)
        self.victims.update(victim)
        self.actions.append(Evict(victim.id, strategy or self.strategy, cause, running, why))
        self.agenda.touch(victim.devices)

    # -------------------------------------------------------------------- the head of a line

    def _serve(self, claim: Claim, line: Line[Claim]) -> None:
        """Grant the claim, or promise it devices, or keep later waiters from what it needs."""
        if line.waiting.head is not claim:
            return
        if not (claim.hands or self.occupancy.open or self.victims.exist_for(claim.shape)):
            return
        count = claim.shape.spec.count
        free = free_devices(claim, self.occupancy)
        if len(free) == count:
            if self._to_be_locked(claim, free):
                return
            indices = _in_order(claim, free)
            self._leave(line, claim)
            self.grant(claim, indices, "free")
            self._move_up(line)
            return
        plan = self._plan(claim, free)
        if len(plan.devices) == count:
            if self._to_be_locked(claim, plan.devices):
                return
            indices = _in_order(claim, plan.devices)
            self._leave(line, claim)
            self._promise(line, claim, indices, plan.victims)
            self._move_up(line)
        else:
            self.hands.lay(claim, plan.devices)

    def _plan(self, claim: Claim, free: list[Device]) -> EvictionPlan:
        if not self.victims.exist_for(claim.shape):
            return EvictionPlan(free, [])
        candidates = self.victims.candidates(claim)
        return plan_eviction(claim, free, candidates, self.occupancy)

    def _to_be_locked(self, claim: Claim, devices: list[Device]) -> bool:
        """Have devices locked that another program might take; True: decide when that is known.

        Nothing is granted and nobody evicted before that. What is locked already is asked for too:
        unused, it would be given back meanwhile.
        """
        if all(device.locked for device in devices):
            return False
        indices = tuple(device.index for device in devices)
        if not self._locking.issuperset(indices):
            self._locking.update(indices)
            self.actions.append(Lock(indices))
        if claim.state is ClaimState.WAITING:
            self.hands.lay(claim, devices)
        return True

    def _unlock(self) -> None:
        """Let other programs have what nobody here uses or is about to use."""
        unused = tuple(sorted(self.occupancy.vacant - self._locking))
        self.occupancy.vacant.clear()
        self._locking.clear()
        if unused:
            for index in unused:
                self.occupancy.devices[index].locked = False
            # First, because what comes of locking others may need these again.
            self.actions.insert(0, Unlock(unused))

    def _leave(self, line: Line[Claim], claim: Claim) -> None:
        """Take the head out of the queue, on its way to its devices."""
        line.waiting.discard(claim)
        if claim.hands:
            self.hands.let_go(claim)

    def _move_up(self, line: Line[Claim]) -> None:
        """Look at the new heads of a line that somebody left."""
        if line.waiting.head is None and line.promised.head is None:
            self.room.close(line)
        elif self._anything_for(line):
            self.agenda.add_heads(line)

    def _anything_for(self, line: Line[Claim]) -> bool:
        """Return whether a new head of `line` could find anything: room, or somebody to evict."""
        return bool(self.occupancy.open or self.victims.exist_for(line.shape))

    def _hand_over(self, ended: Claim) -> bool:
        """Pass a device straight on to the first who wants it, where that is plain to see."""
        line = self._hand_overs.line_for(ended)
        if line is None or line.waiting.head is None:
            return False
        first = line.waiting.head
        line.waiting.discard(first)
        self._begin(first, "free")
        self.occupancy.replace(ended, first)
        if ended.shape.kind is ClaimKind.RESIDENT:
            self.victims.update(ended)
        self.actions.append(Grant(first.id, first.devices, "free"))
        # What was not there for the first is not there for the next: only the hands go on.
        if not line.waiting:
            self.hands.let_go(first)
            self._move_up(line)
        elif first.hands:
            self.hands.pass_on(first, line.waiting.head)
        return True

    # ------------------------------------------------------------------------- promises

    def _promise(
        self, line: Line[Claim], claim: Claim, indices: tuple[int, ...], victims: list[Claim]
    ) -> None:
        self._journal.advance(claim, Step.PROMISE, self.now)
        line.promised.push(claim)
        # Whoever leaves already is waited for too: the plan counts on all of them being gone.
        leaving = [
            other
            for index in indices
            for other in self.occupancy.devices[index].claims.values()
            if other.state is ClaimState.EVICTING
        ]
        claim.awaiting = {victim.id: victim for victim in (*leaving, *victims)}
        self.occupancy.place(claim, indices)
        self.hands.give_way(claim, indices)
        for victim in leaving:
            self.victims.update(victim)
        for victim in victims:
            self.evict(victim, claim.id, _why_evicted(victim, claim, self.now))

    def _awaits_no_more(self, claim: Claim, victim: Claim) -> None:
        rest = (other for other in claim.awaiting.values() if other is not victim)
        claim.awaiting = {other.id: other for other in rest}
        if not claim.awaiting:
            self._keep_promise(claim)

    def _keep_promise(self, claim: Claim) -> None:
        line = self.room.line(claim.shape)
        line.promised.discard(claim)
        self._begin(claim, "its evictions are over")
        self.occupancy.changed(claim)
        self.actions.append(Grant(claim.id, claim.devices, "its evictions are over"))
        self._move_up(line)

    def _break_promise(self, claim: Claim) -> None:
        indices, leaving = claim.devices, claim.awaiting
        claim.awaiting = NOBODY
        self.occupancy.lift(claim)
        for victim in leaving.values():
            self.victims.update(victim)
        self.agenda.touch(indices)

    def _hasten(self, claim: Claim, line: Line[Claim]) -> None:
        """Grant other devices to a promised claim if they are free before its own are."""
        if claim.shape.spec.indices or line.promised.head is not claim:
            return
        promised = claim.devices
        self.occupancy.lift(claim)
        free = free_devices(claim, self.occupancy)
        self.occupancy.place(claim, promised)
        if len(free) == claim.shape.spec.count and not self._to_be_locked(claim, free):
            indices = _in_order(claim, free)
            line.promised.discard(claim)
            self._break_promise(claim)
            self.grant(claim, indices, "free before its evictions are over")
            self._move_up(line)

    def _begin(self, claim: Claim, why: str) -> None:
        self._journal.advance(claim, Step.GRANT, self.now, why)
        claim.since = claim.last_used = self.now
        claim.turn = self._journal.steps
        claim.granted_after = self.arrivals


def _in_order(claim: Claim, devices: list[Device]) -> tuple[int, ...]:
    """Return the devices as the caller named them, else by number."""
    if len(devices) == 1:
        return (devices[0].index,)
    return claim.shape.spec.indices or tuple(sorted(device.index for device in devices))


def _why_evicted(victim: Claim, claim: Claim, now: float) -> str:
    if victim.state is ClaimState.IDLE:
        return f"least recently used, idle for {now - victim.last_used:.3g} s; for {claim!r}"
    return f"preempted while {victim.state.value}, for {claim!r}"
