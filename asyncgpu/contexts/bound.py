"""Functions bound to a context: the same function, for a thread that is not ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from .carried import CarriedSession
from .current import applied
from .out_of_memory import translating

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["bound_to"]

P = ParamSpec("P")
R = TypeVar("R")


def bound_to(context: ExecutionContext, fn: Callable[P, R]) -> Callable[P, R]:
    """Return `fn`, called on `context`'s stream in whichever thread calls it."""
    core = context._core
    what = f"bound {getattr(fn, '__name__', type(fn).__name__)}"

    @functools.wraps(fn)
    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        core.memory.device.capacity.refresh_blocking()
        session = CarriedSession(core, context, inference=False)
        work = core.begin(what, category="run")
        try:
            with translating(core.memory), applied(session):
                return fn(*args, **kwargs)
        finally:
            core.activity.end(work)

    return bound
