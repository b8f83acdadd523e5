"""The turns of one context's sessions: its own `max_concurrent_sessions`, and its device's."""

from __future__ import annotations

import threading
from functools import partial

import anyio

from ..errors import ContextClosed
from ..home_loop import home_loop
from ..policy.qos import QoSPolicy
from ..policy.turns import TicketState, TurnLimit
from ..promise import new_promise, resolve
from .device_turns import DeviceTurns
from .turn import Turn

__all__ = ["Turns"]


class Turns:
    """Hands out turns to the sessions and calls of one context, in any thread and event loop.

    A session inside a session of another context of the device shares that one's turn of the
    device, `around`: it would wait for itself otherwise. So whoever has a turn of the device never
    waits for another one there.

    Args:
        name: of the context, for errors.
        device: the turns of its device.
        limit: sessions of this context at once; None: no limit.
        qos: the class of the context.
    """

    def __init__(
        self,
        name: str,
        device: DeviceTurns,
        *,
        limit: int | None = None,
        qos: QoSPolicy = QoSPolicy.BURSTABLE,
    ) -> None:
        self.device = device
        self._name = name
        self._qos = qos
        self._own = TurnLimit(limit)
        # Calls run one after the other in the context's thread, so more than one at a time would
        # keep turns from others without using them.
        self._calls = TurnLimit(1)
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many wait in line."""
        return self.device.waiting(self)

    def take_now(self, around: Turn | None = None) -> Turn | None:
        """Take a turn for a session if one is free."""
        needs = self._needs(around)
        if needs and not self.device.take_now(needs, self._qos):
            return None
        return self._turn(needs, around)

    async def take(
        self, timeout: float | None, *, around: Turn | None = None, call: bool = False
    ) -> Turn:
        """Wait for a turn.

        Args:
            timeout: seconds; None: no limit.
            around: the turn of the device to share; None: it needs one.
            call: it is for the context's thread, and not for a session.

        Raises:
            ContextClosed: the context closed meanwhile.
            TimeoutError: none came within `timeout` seconds.
        """
        needs = self._needs(around, call)
        if not needs:
            return self._turn(needs, around)
        loop, promise = home_loop(), new_promise()
        ticket = self.device.request(
            self, needs, self._qos, lambda granted: loop.call(resolve, promise, granted)
        )
        try:
            with anyio.move_on_after(timeout):
                self._check(ticket.state is TicketState.HELD or await promise)
                return self._turn(needs, around)
            raise self._too_late(timeout)
        except BaseException:
            self.device.end(ticket)
            raise

    def take_blocking(self, timeout: float | None, *, around: Turn | None = None) -> Turn:
        """Block the calling thread, which runs no event loop, until it has a turn for a session.

        Raises:
            ContextClosed: the context closed meanwhile.
            TimeoutError: none came within `timeout` seconds.
        """
        needs = self._needs(around)
        told = threading.Event()
        ticket = self.device.request(self, needs, self._qos, partial(_wake, told))
        try:
            if ticket.state is not TicketState.HELD and not told.wait(timeout):
                raise self._too_late(timeout)
            self._check(ticket.state is TicketState.HELD)
            return self._turn(needs, around)
        except BaseException:
            self.device.end(ticket)
            raise

    def close(self) -> None:
        """End every wait with `ContextClosed`; turns that are held stay so."""
        self._closed = True
        self.device.dismiss(self)

    def _needs(self, around: Turn | None, call: bool = False) -> tuple[TurnLimit, ...]:
        """Return what is limited. The device's comes last, and so is given back last.

        Otherwise the device's would go to another context while this one's next waiter, who may be
        the first in order, still lacks the context's.
        """
        needs = (self._own,) if around is not None else (self._own, self.device.limit)
        limited = tuple(need for need in needs if need.limit is not None)
        return (self._calls, *limited) if call and limited else limited

    def _turn(self, needs: tuple[TurnLimit, ...], around: Turn | None) -> Turn:
        own, device = needs, around
        if needs and needs[-1] is self.device.limit:
            own = needs[:-1]
            device = Turn(partial(self.device.give_back, needs[-1:]))
        return Turn(partial(self.device.give_back, own), device)

    def _check(self, granted: bool) -> None:
        # Or closed between the caller's look at it and the request.
        if not granted or self._closed:
            raise ContextClosed(f"context {self._name!r} gives out no more turns: it is closed")

    def _too_late(self, timeout: float | None) -> TimeoutError:
        limits = [(self._own.limit, "of it"), (self.device.limit.limit, "on its device")]
        taken = " and ".join(f"{limit} sessions {whose}" for limit, whose in limits if limit)
        return TimeoutError(
            f"context {self._name!r}: no turn within {timeout} s ({taken} at once, all taken)"
        )


def _wake(told: threading.Event, granted: bool) -> bool:
    told.set()
    return True
