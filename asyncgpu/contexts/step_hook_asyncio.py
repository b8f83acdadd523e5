"""The step hook for asyncio and uvloop: ``call_soon``, overridden on the running loop instance.

Every step of a task is a callback given to ``loop.call_soon``, and the C implementations of tasks
and futures look that name up on the loop at each call. A callback whose Context carries no session
is passed on as it is. Callbacks that come another way (``call_later``, ``call_soon_threadsafe``,
readers) run unhooked, on the default stream; tasks never do.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

from .. import ambient
from ..errors import RequestError
from ..home_loop import home_loop
from .step_stack import StepStack

__all__ = ["AsyncioGuard", "AsyncioHook", "asyncio_hook"]

# Kept on the loop itself, beside the override: a registry of ours would have to be told when a
# loop goes, and the loop's own attributes go with it.
_ATTRIBUTE = "_asyncgpu_step_hook"
_CANCEL_MESSAGE = "asyncgpu: the session's stream could not be made current"


class AsyncioHook:
    """See `StepHook`. Created in the loop that it hooks."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = home_loop()
        self.stack = StepStack()
        self._asyncio_loop = loop
        self._users = 0
        self._call_soon = _hooked_call_soon(loop.call_soon, self.stack)
        try:
            loop.call_soon = self._call_soon  # type: ignore[method-assign,assignment]
            setattr(loop, _ATTRIBUTE, self)
        except AttributeError as error:
            raise RequestError(
                f"{type(loop).__name__} does not let call_soon be overridden, so a session cannot "
                "follow its task on it: use `await ctx.run(...)` or `await ctx.run_sync(...)`"
            ) from error

    def retain(self) -> None:
        self._users += 1

    def release(self) -> None:
        self._users -= 1
        # Somebody who has overridden it after us still calls ours, which then stays.
        if not self._users and vars(self._asyncio_loop).get("call_soon") is self._call_soon:
            del self._asyncio_loop.call_soon
            delattr(self._asyncio_loop, _ATTRIBUTE)

    def task_name(self) -> str:
        task = asyncio.current_task()
        return "no task" if task is None else task.get_name()

    def guard(self) -> AsyncioGuard:
        return AsyncioGuard()

    async def end_step(self) -> None:
        await _bare_yield()

    def watch(self) -> None:
        # The step that opened a sync session need not be a hooked one, so that nothing of ours
        # runs at its end. This bounds the harm of an await to the callbacks of the same turn.
        self.loop.soon(self.stack.unwind)


class AsyncioGuard:
    """See `TaskGuard`; works as `asyncio.timeout` does."""

    __slots__ = ("_cancelled", "_requests_before", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._requests_before = self._task.cancelling() if self._task is not None else 0
        self._cancelled = False

    def cancel(self) -> None:
        if not self._cancelled and self._task is not None:
            self._cancelled = True
            self._task.cancel(_CANCEL_MESSAGE)

    async def settle(self, error: BaseException | None) -> bool:
        task = self._task
        if not self._cancelled or task is None or task is not asyncio.current_task():
            return False
        by_others = task.uncancel() > self._requests_before
        if not isinstance(error, asyncio.CancelledError):
            # Asked for but not delivered yet: it would come out of some later await, and before
            # Python 3.13 taking the request back does not stop it.
            try:
                await _bare_yield()
            except asyncio.CancelledError:
                if by_others:
                    raise
        return by_others


def asyncio_hook(loop: asyncio.AbstractEventLoop, *, install: bool) -> AsyncioHook | None:
    """Return the hook of the running `loop`; without `install`, None if it has none.

    Raises:
        RequestError: the loop cannot be hooked.
    """
    hook: AsyncioHook | None = getattr(loop, _ATTRIBUTE, None)
    return AsyncioHook(loop) if hook is None and install else hook


def _hooked_call_soon(
    call_soon: Callable[..., asyncio.Handle], stack: StepStack
) -> Callable[..., asyncio.Handle]:
    # Closures, not methods: this runs for every callback of the loop.
    carried, session_of = ambient.session, ambient.session.get
    push, unwind = stack.push_step, stack.unwind

    def step(callback: Callable[..., object], *args: Any) -> object:
        session = session_of()
        if session is None:
            return callback(*args)
        depth = push(session)
        if session.fault is not None:
            _cancel_stepping(callback)
        try:
            return callback(*args)
        finally:
            unwind(depth)

    def hooked_call_soon(
        callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        if (session_of() if context is None else context.get(carried)) is None:
            return call_soon(callback, *args, context=context)
        return call_soon(step, callback, *args, context=context)

    return hooked_call_soon


def _cancel_stepping(callback: Callable[..., object]) -> None:
    """Cancel the task that `callback` steps, once: its work would go to another stream."""
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task) and not task.cancelling():
        task.cancel(_CANCEL_MESSAGE)


@types.coroutine
def _bare_yield() -> Generator[None, None, None]:
    yield
