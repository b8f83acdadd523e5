"""A session as its tasks carry it: the value of `ambient.session`.

Child tasks inherit it with the ContextVar, so it may outlive the block that opened it. It knows how
to be applied to a thread for one step and undone again. Neither ever raises: an exception out of a
loop's hook would kill the step and hang the task (trio would drop the hook altogether). A fault is
kept here instead, the owner is cancelled, and leaving the session raises `DeviceLost`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Protocol

from .. import ambient
from ..errors import DeviceLost
from ..ports import Driver, DriverMemory, DriverStream
from .activity import Activity
from .device_lost import device_lost
from .task_guard import TaskGuard
from .turn import Turn
from .turns import Turns

__all__ = ["CarriedSession", "SessionHome", "carried_session", "open_sessions"]

_log = logging.getLogger("asyncgpu.contexts")

# What `apply` returns when it has applied nothing; a driver's token may be any object, None too.
_NOTHING = object()


class SessionHome(Protocol):
    """What a session needs of its context."""

    @property
    def driver(self) -> Driver: ...
    @property
    def stream(self) -> DriverStream: ...
    @property
    def activity(self) -> Activity: ...
    @property
    def turns(self) -> Turns: ...
    @property
    def memory(self) -> SessionMemory: ...


class SessionMemory(Protocol):
    """What a session needs of its context's memory."""

    @property
    def driver(self) -> DriverMemory: ...
    @property
    def moved(self) -> bool:
        """Whether its use has passed a mark since it was last looked at. Cheap."""
        ...

    def look(self) -> None:
        """See to the mark."""
        ...


class CarriedSession:
    """One session's state.

    Attributes:
        home: the parts of its context.
        context: the `ExecutionContext` itself, for `current_context`.
        outer: the session that was current where this one was entered.
        inference: whether torch's inference mode is on in it.
        fault: the first failure to apply or undo it.
        left: whether its block has ended; children may go on carrying it.
        awaited: whether a step ended inside its sync block.
        guard: cancels the task that entered it; None for sync sessions.
        turn: the turn it uses; None: it needs none.
    """

    __slots__ = (
        "_activity",
        "_apply",
        "_memory",
        "_stream",
        "_undo",
        "awaited",
        "context",
        "fault",
        "guard",
        "home",
        "inference",
        "left",
        "outer",
        "turn",
    )

    outer: CarriedSession | None
    inference: bool
    left: bool

    def __init__(self, home: SessionHome, context: Any, *, inference: bool) -> None:
        outer = carried_session()
        if outer is not None and outer.left:
            # Whoever entered it has restored what was before it, so only the sessions that are
            # still open matter: without this, generations of tasks would form an endless chain.
            outer.outer = next(open_sessions(), None)
        self.home = home
        self.context = context
        self.outer = outer
        self.inference = inference or (outer is not None and outer.inference)
        self.fault: Exception | None = None
        self.left = False
        self.awaited = False
        self.guard: TaskGuard | None = None
        self.turn: Turn | None = None
        self._apply = home.driver.apply
        self._undo = home.driver.undo
        self._stream = home.stream
        self._memory = home.memory
        self._activity = home.activity

    def apply(self) -> object:
        """Make the session's stream current for this thread; return the token for `undo`.

        After its context has closed this applies nothing: the step runs on the default stream.
        """
        if self._activity.closed:
            return _NOTHING
        try:
            return self._apply(self._stream, inference=self.inference, memory=self._memory.driver)
        except Exception as error:  # noqa: BLE001 - see the module: nothing may leave the hook
            self._fail(error)
            return _NOTHING

    def undo(self, token: object) -> None:
        """Restore what was current before `apply`."""
        if token is _NOTHING:
            return
        try:
            self._undo(token)
            if self._memory.moved:
                self._memory.look()
        except Exception as error:  # noqa: BLE001 - see the module: nothing may leave the hook
            self._fail(error)

    def leave(self) -> bool:
        """End the block: what was around it is carried again.

        Return False if a session entered inside this one is still open in this task; that one
        then stays current, and is followed by what was around both.
        """
        self.left = True
        current = carried_session()
        if current is self:
            ambient.session.set(self.outer)
            return True
        # In a foreign Context, such as that of the task which finalises an abandoned async
        # generator, there is nothing of ours to restore.
        return not _unlink(self, current)

    def lost(self) -> DeviceLost:
        """Return the error to raise for `fault`."""
        assert self.fault is not None
        return device_lost(self.fault, f"{self.home}: its stream could not be made current")

    def _fail(self, error: Exception) -> None:
        first = self.fault is None
        if first:
            # Without its frames, which refer to this session and to the arguments of the step.
            self.fault = error.with_traceback(None)
        if not self.left:
            if self.guard is not None:
                self.guard.cancel()
        elif first:
            # Its exit, which would have raised, is over.
            _log.error("%s: a task that outlived its session: %s", self.home, error)


def carried_session() -> CarriedSession | None:
    """Return the session that the current task carries, left or not."""
    session: CarriedSession | None = ambient.session.get()
    return session


def open_sessions() -> Iterator[CarriedSession]:
    """Yield the sessions around the current task, innermost first, that have not been left."""
    session = carried_session()
    while session is not None:
        if not session.left:
            yield session
        session = session.outer


def _unlink(session: CarriedSession, inner: CarriedSession | None) -> bool:
    """Take `session` out of the chain that begins at `inner`; return whether it was there."""
    while inner is not None:
        if inner.outer is session:
            inner.outer = session.outer
            return True
        inner = inner.outer
    return False
