"""`context_session`: a block whose GPU work goes to one context's stream."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING

from .. import ambient
from ..errors import InvalidRequest, SessionMisuse
from ..home_loop import in_event_loop
from ..units import parse_timeout
from .activity import Work
from .carried import CarriedSession
from .current import apply_here, leave
from .out_of_memory import in_our_words, raise_from
from .session_turn import take_turn, take_turn_now
from .step_hook import StepHook
from .turn import Turn
from .waiter import Marker

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["context_session"]


class context_session:  # noqa: N801 - reads as a statement, like contextlib's managers
    """Make `ctx` current for this task and its children, across every ``await``.

    ``async with`` in tasks; ``with`` in worker threads and sync programs. Leaving waits for the
    work that this task has put on the stream, not for everybody's, and raises a fault of it. A
    cancelled task does not wait: the context finishes the drain. On a thread that runs an event
    loop ``with`` needs ``synchronize=False`` and a free turn, and must not be awaited in.

    Args:
        ctx: the context; entering its own session again shares the turn.
        synchronize: whether leaving waits.
        inference: whether torch's inference mode is on inside; sessions within inherit it.
        timeout: seconds to wait for a turn where `max_concurrent_sessions` is set, for the context
            or in the `Settings` for its whole device; None: no limit.

    Raises:
        InvalidRequest: a bad `timeout`.
    """

    __slots__ = ("_context", "_inference", "_session", "_synchronize", "_timeout", "_work")

    def __init__(
        self,
        ctx: ExecutionContext,
        *,
        synchronize: bool = True,
        inference: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._context = ctx
        self._synchronize = synchronize
        self._inference = inference
        self._timeout = parse_timeout(timeout)
        self._session: CarriedSession | None = None
        self._work: Work | None = None

    async def __aenter__(self) -> ExecutionContext:
        """Wait for a turn, then enter.

        Raises:
            ContextClosed: the context is closed, or closed while this waited.
            DeviceLost: the stream could not be made current.
            RequestError: this loop cannot be hooked; use `ExecutionContext.run`.
            SessionMisuse: it has been entered before.
            TimeoutError: no turn came in time.
        """
        core = self._context._core
        core.check_open()
        await core.memory.device.capacity.refresh()
        hook = self._hook()
        session = self._new_session()
        turn = await take_turn(session, self._timeout)
        self._begin(session, turn, "run" if hook is None else f"session of {hook.task_name()}")
        ambient.session.set(session)
        if hook is not None:
            session.guard = hook.guard()
            try:
                await _end_entering_step(session, hook)
            except BaseException:
                self._finish()
                raise
        return self._context

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave, and wait for the work.

        Raises:
            DeviceLost: the work has failed, or a step could not be given the stream.
            OutOfDeviceMemory: the block was left because the device was full.
            SessionMisuse: a session entered inside is still open.
            VRAMBudgetExceeded: the block was left because the context's budget was.
        """
        session = self._entered()
        in_order = leave(session)
        try:
            await _take_guard_down(session, error)
        except BaseException:
            self._finish()
            raise
        await self._drain(error)
        _check_order(session, in_order)
        self._check_memory(error)

    def __enter__(self) -> ExecutionContext:
        """Enter for a synchronous block; blocks for a turn where no event loop runs.

        Raises:
            ContextClosed: the context is closed, or closed while this waited.
            DeviceLost: the stream could not be made current.
            InvalidRequest: leaving would block an event loop.
            RequestError: a turn would have to be waited for in an event loop.
            SessionMisuse: it has been entered before.
            TimeoutError: no turn came in time.
        """
        core = self._context._core
        core.check_open()
        hook = None
        if in_event_loop():
            if self._synchronize:
                raise InvalidRequest(
                    f"{core}: leaving this session would block the event loop; "
                    "use `async with`, or synchronize=False"
                )
            hook = core.hook()
        else:
            core.memory.device.capacity.refresh_blocking()
        session = self._new_session()
        thread = threading.current_thread().name
        self._begin(session, take_turn_now(session, self._timeout), f"session of thread {thread}")
        try:
            apply_here(session)
        except BaseException:
            self._finish()
            raise
        if hook is not None:
            hook.watch()
        return self._context

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave; blocks for the work unless ``synchronize=False``.

        Raises:
            DeviceLost: the work has failed.
            SessionMisuse: a session entered inside is still open, or there was an ``await`` inside.
        """
        session = self._entered()
        in_order = leave(session)
        if session.fault is not None:
            self._finish()
            raise session.lost()
        self._drain_blocking(error)
        _check_order(session, in_order)
        self._check_memory(error)
        if session.awaited:
            raise SessionMisuse(
                f"{session.home}: there was an await inside `with`; use `async with` around it"
            )

    def _hook(self) -> StepHook | None:
        return self._context._core.hook()

    async def _drain(self, error: BaseException | None) -> None:
        core = self._context._core
        if isinstance(error, GeneratorExit):
            core.loop.later(self._drain_later)
            return
        marker = self._mark(error)
        if marker is None:
            self._finish()
        elif _may_wait(error):
            await core.drain(marker, self._finish)
        else:
            core.drain_later(marker, self._finish)

    def _drain_later(self) -> None:
        """Drain for a coroutine or generator that is being closed.

        It may be a garbage collection that does so, in a thread that is in the middle of anything
        and holds our locks. So this is called in the loop.
        """
        marker = self._mark(GeneratorExit())
        if marker is None:
            self._finish()
        else:
            self._context._core.drain_later(marker, self._finish)

    def _drain_blocking(self, error: BaseException | None) -> None:
        core = self._context._core
        if isinstance(error, GeneratorExit):
            core.loop.later(self._drain_later)
            return
        marker = self._mark(error)
        if marker is not None and not _may_wait(error):
            core.drain_later(marker, self._finish)
            return
        try:
            if marker is not None:
                marker.event.synchronize()
        finally:
            self._finish()

    def _mark(self, error: BaseException | None) -> Marker | None:
        """Put a marker behind this session's work; None: there is nothing to wait for."""
        if not self._synchronize:
            return None
        try:
            return self._context._core.record()
        except Exception:
            if _may_wait(error):
                self._finish()
                raise
            # A fault of the device must not take the place of a cancellation.
            return None

    def _new_session(self) -> CarriedSession:
        if self._session is not None:
            raise SessionMisuse(f"{self._context._core}: a session is entered once; make a new one")
        self._session = CarriedSession(
            self._context._core, self._context, inference=self._inference
        )
        return self._session

    def _entered(self) -> CarriedSession:
        session = self._session
        if session is None or self._work is None or session.left:
            raise SessionMisuse(f"{self._context._core}: this session is not open")
        return session

    def _begin(self, session: CarriedSession, turn: Turn, what: str) -> None:
        self._context._core.memory.changed()
        try:
            self._work = self._context._core.begin(what)
        except BaseException:
            turn.drop()
            raise
        session.turn = turn

    def _check_memory(self, error: BaseException | None) -> None:
        """Raise our error if the block was left with torch's, or has taken too much unnoticed."""
        memory = self._context._core.memory
        if isinstance(error, Exception):
            raise_from(in_our_words(memory, error), error)
        elif error is None:
            raise_from(memory.overdrawn(), None)

    def _finish(self) -> None:
        """Give the turn back and end the work; from any thread, once."""
        assert self._session is not None
        assert self._session.turn is not None
        assert self._work is not None
        self._session.turn.drop()
        self._context._core.memory.changed()
        self._context._core.activity.end(self._work)


async def _end_entering_step(session: CarriedSession, hook: StepHook) -> None:
    try:
        await hook.end_step()
    except BaseException as error:
        leave(session)
        await _take_guard_down(session, error)
        raise
    if session.fault is not None:
        leave(session)
        await _take_guard_down(session, None)


async def _take_guard_down(session: CarriedSession, error: BaseException | None) -> None:
    """End the guard; raise the session's fault, unless somebody else's cancellation goes first."""
    passes = session.guard is not None and await session.guard.settle(error)
    if session.fault is not None and not passes:
        raise session.lost()


def _may_wait(error: BaseException | None) -> bool:
    """Whether a block left with `error` may wait; one that was cancelled or interrupted may not."""
    return error is None or isinstance(error, Exception)


def _check_order(session: CarriedSession, in_order: bool) -> None:
    if not in_order:
        raise SessionMisuse(
            f"{session.home}: left while a session entered inside it is still open; "
            "leave the inner one first"
        )
