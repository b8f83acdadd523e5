"""What is applied to one thread at this moment: sessions, innermost last, strictly nested.

At the bottom of a hooked step lies the session that the step's task carries; sync sessions opened
in the step lie above it. Whatever the order in which user code leaves them, the driver sees every
`undo` in the reverse order of its `apply`.
"""

from __future__ import annotations

from .carried import CarriedSession

__all__ = ["StepStack"]


class StepStack:
    """The sessions applied to one thread. Belongs to that thread; none of its methods raises."""

    __slots__ = ("_applied",)

    def __init__(self) -> None:
        # Plain tuples (session, the driver's token, whether a step rests on it): the two hot
        # methods run at every step of every task inside a session.
        self._applied: list[tuple[CarriedSession, object, bool]] = []

    def push_step(self, session: CarriedSession) -> int:
        """Apply `session` for a step; return the depth that `unwind` takes at the step's end."""
        applied = self._applied
        depth = len(applied)
        applied.append((session, session.apply(), True))
        return depth

    def unwind(self, depth: int = 0) -> None:
        """Undo down to `depth`. A sync session still open above a step has been awaited in."""
        applied = self._applied
        while len(applied) > depth:
            session, token, of_step = applied.pop()
            session.undo(token)
            if not of_step:
                session.awaited = True

    def push_sync(self, session: CarriedSession) -> None:
        """Apply `session` for a sync block."""
        self._applied.append((session, session.apply(), False))

    def leave(self, session: CarriedSession, outer: CarriedSession | None) -> None:
        """Undo `session` if it is applied; a step that rested on it goes on resting on `outer`."""
        place = self._find(session)
        if place is None:
            return
        above = [(entry[0], entry[2]) for entry in self._applied[place + 1 :]]
        while len(self._applied) > place:
            left, token, of_step = self._applied.pop()
            left.undo(token)
        if of_step and outer is not None:
            self._push(outer, of_step)
        for inner, inner_of_step in above:
            self._push(inner, inner_of_step)

    def _push(self, session: CarriedSession, of_step: bool) -> None:
        self._applied.append((session, session.apply(), of_step))

    def _find(self, session: CarriedSession) -> int | None:
        for place in range(len(self._applied) - 1, -1, -1):
            if self._applied[place][0] is session:
                return place
        return None
