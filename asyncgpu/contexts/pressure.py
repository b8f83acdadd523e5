"""Memory pressure: whom a runtime asks to make room, and when.

Handlers are asked at decision points only, where somebody can be awaited, and never in the middle
of an allocation: when `reserve` finds a context's budget full, when `run_sync` is about to run
again, when somebody waits for room on the device, and when a context passes a mark.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from .. import ambient
from ..errors import InvalidRequest
from ..home_loop import home_loop
from ..promise import Promise, new_promise, resolve

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["Handler", "Pressure", "Registration"]

log = logging.getLogger("asyncgpu.contexts")

Handler = Callable[["ExecutionContext", int, int], "bool | Awaitable[bool]"]
"""``handler(ctx, requested, available)``: whether `ctx` may have `requested` bytes more than its
own budget allows; `available` are left in it. At a mark `requested` is 0."""


Crossing = Callable[[], Coroutine[Any, Any, None]]
"""What is to be done about a mark that has been passed."""


class Registration:
    """A handler that is asked until it is unregistered. Calling it calls the handler."""

    def __init__(self, pressure: Pressure, handler: Handler) -> None:
        self._pressure = pressure
        self.handler = handler

    def unregister(self) -> None:
        """Ask it no more; idempotent."""
        self._pressure.forget(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.handler(*args, **kwargs)


class Pressure:
    """The handlers of one runtime. Made in its loop.

    Args:
        timeout: seconds an async handler may take; then it counts as False.
    """

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout
        self._registrations: list[Registration] = []
        self._loop = home_loop()
        self._passed: list[Crossing] = []
        self._wake: Promise[None] = new_promise()

    async def serve(self) -> None:
        """See to every context that passes a mark, side by side, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._wake
                self._wake = new_promise()
                passed, self._passed = self._passed, []
                for crossing in passed:
                    tasks.start_soon(_see_to, crossing)

    def passed(self, crossing: Crossing) -> None:
        """Await `crossing` soon, in a task of the runtime; from any thread."""
        self._loop.call(self._put, crossing)

    def _put(self, crossing: Crossing) -> None:
        self._passed.append(crossing)
        resolve(self._wake, None)

    def register(self, handler: Handler) -> Registration:
        """Ask `handler` from now on.

        Raises:
            InvalidRequest: it cannot be called.
        """
        if not callable(handler):
            raise InvalidRequest(f"on_memory_pressure: {handler!r} cannot be called")
        registration = Registration(self, handler)
        self._registrations.append(registration)
        return registration

    def forget(self, registration: Registration) -> None:
        """Ask it no more."""
        if registration in self._registrations:
            self._registrations.remove(registration)

    async def ask(
        self,
        ctx: ExecutionContext,
        requested: int,
        available: int,
        *,
        enough: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Ask one handler after the other; return whether one of them said True.

        A handler that asks for memory itself is not asked again because of that.

        Args:
            ctx: the context that needs memory, or could give some back.
            requested: bytes.
            available: bytes left in its budget.
            enough: whether there is room now, so that nobody else need be asked.
        """
        for registration in list(self._registrations):
            if id(registration) in ambient.pressure.get():
                continue
            with _being_asked(registration):
                if await self._answer(registration, ctx, requested, available):
                    return True
            if enough():
                break
        return False

    async def tell(self, ctx: ExecutionContext, available: int) -> None:
        """Tell every handler that `ctx` has passed a mark; what they answer does not matter."""
        for registration in list(self._registrations):
            with _being_asked(registration):
                await self._answer(registration, ctx, 0, available)

    async def _answer(
        self, registration: Registration, ctx: ExecutionContext, requested: int, available: int
    ) -> bool:
        try:
            answer = registration.handler(ctx, requested, available)
            if inspect.isawaitable(answer):
                with anyio.move_on_after(self._timeout) as scope:
                    return bool(await answer)
                if scope.cancelled_caught:
                    log.error(
                        "memory pressure handler %r: no answer within %g s, which counts as False",
                        registration.handler,
                        self._timeout,
                    )
                return False
            return bool(answer)
        except Exception:
            log.exception(
                "memory pressure handler %r raised, which counts as False", registration.handler
            )
            return False


async def _see_to(crossing: Crossing) -> None:
    try:
        await crossing()
    except Exception:
        # The next one must still be seen to.
        log.exception("a context has passed a memory mark, and it could not be seen to")


@contextmanager
def _being_asked(registration: Registration) -> Iterator[None]:
    token = ambient.pressure.set(ambient.pressure.get() | {id(registration)})
    try:
        yield
    finally:
        ambient.pressure.reset(token)
