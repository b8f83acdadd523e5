"""Requests: how a claim begins, and how it ends without ever having had a device."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .claims import Claim, ClaimState, Journal, Step
from .device_actions import Reject
from .device_inputs import Cancelled, Requested
from .feasibility import lost_for, why_infeasible, without_waiting_for_oneself
from .qos import waiting_key
from .serving import Serving

__all__ = ["Requests"]


class Requests:
    """Lets requests into the queue, or answers them at once.

    Args:
        claims: every claim by id; shared with the device table.
        serving: serves those that wait.
        journal: takes down every step.
        ageing_seconds: the wait that raises a waiter by one QoS class.
    """

    def __init__(
        self,
        claims: dict[int, Claim],
        serving: Serving,
        journal: Journal,
        *,
        ageing_seconds: float,
    ) -> None:
        self._claims = claims
        self._serving = serving
        self._journal = journal
        self._ageing_seconds = ageing_seconds

    def requested(self, input: Requested, now: float) -> None:
        """Somebody asks."""
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
        reason = None if line is not None else why_infeasible(claim.shape, self._serving.occupancy)
        if (reason is None and not input.held) or not self._decided_at_once(claim, reason, now):
            self._serving.enqueue(claim, line or room.line(claim.shape))

    def cancelled(self, input: Cancelled, now: float) -> None:
        """Somebody who waited has gone away."""
        claim = self._claims.get(input.claim)
        if claim is None:
            raise self._journal.impossible(input.claim, "unknown", Step.CANCEL.value)
        self._journal.advance(claim, Step.CANCEL, now)
        del self._claims[claim.id]
        self._serving.withdraw(claim)

    def held_by(self, ids: Collection[int]) -> list[Claim]:
        """Return what an asker with these claims holds, the innermost last.

        Who lives in a lease waits for that lease's holder, so that one's claims count too.
        """
        held = [self._claims[id_] for id_ in ids if id_ in self._claims]
        around = {id_ for each in held for id_ in each.nested_in}
        everything = {*held, *(self._claims[id_] for id_ in around if id_ in self._claims)}
        return sorted((c for c in everything if c.state.granted), key=lambda c: c.number)

    def unsettle(self) -> list[Claim]:
        """Return everybody who waits; promises and hands follow from what no longer holds."""
        waiting = list(self._serving.room.in_order())
        for claim in waiting:
            if claim.state is ClaimState.PROMISED:
                self._serving.recall(claim)
            self._serving.hands.let_go(claim)
        return waiting

    def settle_anew(self, waiting: list[Claim], now: float) -> None:
        """Let everybody queue anew, in place; those that can never be served any more go."""
        for claim in waiting:
            reason = why_infeasible(claim.shape, self._serving.occupancy)
            if self._decided_at_once(claim, reason, now):
                self._serving.withdraw(claim)
            else:
                self._serving.agenda.add(claim, self._serving.room.line(claim.shape))

    def _decided_at_once(self, claim: Claim, reason: str | None, now: float) -> bool:
        """Reject what could never be met, for `reason` or because its asker is in the way.

        An asker whose own lease is all that is in the way may reuse that lease.
        """
        if reason is None:
            own = self.held_by(claim.request.held)
            way = without_waiting_for_oneself(claim.shape, self._serving.occupancy, own)
            if isinstance(way, Mapping):
                self._reuse(claim, way)
                return True
            reason = way
        if reason is None:
            return False
        self._journal.advance(claim, Step.REJECT, now, reason)
        del self._claims[claim.id]
        lost = bool(lost_for(claim.shape, self._serving.occupancy))
        self._serving.actions.append(Reject(claim.id, reason, lost))
        return True

    def _reuse(self, claim: Claim, leases: Mapping[int, Claim]) -> None:
        for lease in leases.values():
            claim.nested_in |= lease.nested_in | {lease.id}
        # A lease that declares nothing has nothing set aside to live out of.
        claim.covers = {i: lease for i, lease in leases.items() if lease.shape.vram is not None}
        self._serving.grant(claim, tuple(leases), "reuses its asker's lease")
