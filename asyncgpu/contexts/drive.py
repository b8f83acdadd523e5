"""Runs one coroutine with a session applied around each of its steps, on any event loop.

For loops that cannot be hooked: what a hook does for every task, the coroutine's own driver does
here for one. Child tasks carry the session too, but nobody applies it to them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, TypeVar

from .carried import CarriedSession
from .session import context_session
from .step_hook import current_stack

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["run_driven"]

R = TypeVar("R")


async def run_driven(
    context: ExecutionContext,
    fn: Callable[..., Awaitable[R]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> R:
    """Await ``fn(*args, **kwargs)`` in a session of `context`; see `ExecutionContext.run`."""
    session = _UnhookedSession(context)
    async with session:
        result: R = await _Driven(session.carried, _as_coroutine(fn, args, kwargs))
        return result


class _UnhookedSession(context_session):
    """A session that nobody applies to its task's steps."""

    __slots__ = ()

    @property
    def carried(self) -> CarriedSession:
        return self._entered()

    def _hook(self) -> None:
        return None


class _Driven:
    """Awaits `coroutine` step by step under `session`.

    A step that cannot be given the stream gets `DeviceLost` at its ``await`` instead; the session's
    exit raises it again, should the coroutine swallow it.
    """

    __slots__ = ("_coroutine", "_session")

    def __init__(self, session: CarriedSession, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._session = session
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, session, stack = self._coroutine, self._session, current_stack()
        resume: Callable[[Any], Any] = coroutine.send
        value: Any = None
        told = False
        while True:
            depth = stack.push_step(session)
            try:
                if session.fault is not None and not told:
                    told = True
                    resume, value = coroutine.throw, session.lost()
                yielded = resume(value)
            except StopIteration as stop:
                return stop.value
            finally:
                stack.unwind(depth)
            try:
                resume, value = coroutine.send, (yield yielded)
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                resume, value = coroutine.throw, error


async def _as_coroutine(
    fn: Callable[..., Awaitable[R]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> R:
    """Call `fn` inside the first step already, and await any awaitable."""
    return await fn(*args, **kwargs)
