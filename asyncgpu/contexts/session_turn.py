"""The turn of a session that is being entered: shared with one around it, or waited for."""

from __future__ import annotations

from ..errors import RequestError
from ..home_loop import in_event_loop
from .carried import CarriedSession, open_sessions
from .turn import Turn

__all__ = ["take_turn", "take_turn_for_call", "take_turn_now"]


async def take_turn(session: CarriedSession, timeout: float | None) -> Turn:
    """Wait for the turn that `session` needs; see `Turns.take`."""
    return _shared(session) or await _take(session, timeout, call=False)


async def take_turn_for_call(session: CarriedSession) -> Turn:
    """Wait for the turn of a call in the context's thread; see `Turns.take`."""
    return _shared(session) or await _take(session, None, call=True)


def take_turn_now(session: CarriedSession, timeout: float | None) -> Turn:
    """Return the turn that `session` needs; blocks for it unless an event loop runs here.

    Raises:
        ContextClosed: the context closed meanwhile.
        RequestError: it would have to be waited for, in an event loop.
        TimeoutError: it did not come in time.
    """
    if (shared := _shared(session)) is not None:
        return shared
    turns, around = session.home.turns, _shared_device(session)
    try:
        if not in_event_loop():
            return turns.take_blocking(timeout, around=around)
        if (turn := turns.take_now(around)) is not None:
            return turn
        raise RequestError(
            f"{session.home}: all turns are taken, and waiting for one here would block the "
            "event loop; use `async with`"
        )
    except BaseException:
        _drop(around)
        raise


async def _take(session: CarriedSession, timeout: float | None, *, call: bool) -> Turn:
    around = _shared_device(session)
    try:
        return await session.home.turns.take(timeout, around=around, call=call)
    except BaseException:
        _drop(around)
        raise


def _shared(session: CarriedSession) -> Turn | None:
    """Share the turn of a session of the same context around this task."""
    for around in open_sessions():
        if around.home is session.home and around.turn is not None and around.turn.share():
            return around.turn
    return None


def _shared_device(session: CarriedSession) -> Turn | None:
    """Share the device's turn of a session of another context of the device around this task."""
    for around in open_sessions():
        if around.turn is None or around.home.turns.device is not session.home.turns.device:
            continue
        device = around.turn.device
        if device is not None and device.share():
            return device
    return None


def _drop(turn: Turn | None) -> None:
    if turn is not None:
        turn.drop()
