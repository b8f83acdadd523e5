"""Which session is current here: making one so, leaving it, and asking."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import ambient
from ..errors import ContextClosed
from .carried import CarriedSession, carried_session
from .step_hook import current_stack

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["applied", "apply_here", "current_context", "leave"]


def current_context() -> ExecutionContext | None:
    """Return the context of the innermost session around this task or call; None: there is none.

    A child task keeps the context of the session it was started in, also after that session.

    Raises:
        ContextClosed: that context has been closed.
    """
    session = carried_session()
    if session is None:
        return None
    if session.home.activity.closed:
        raise ContextClosed(f"{session.home} is closed, and this task outlived it")
    context: ExecutionContext = session.context
    return context


def apply_here(session: CarriedSession) -> None:
    """Make `session` current for the rest of a synchronous block in this thread.

    Raises:
        DeviceLost: its stream could not be made current; nothing has changed.
    """
    ambient.session.set(session)
    current_stack().push_sync(session)
    if session.fault is not None:
        leave(session)
        raise session.lost()


@contextmanager
def applied(session: CarriedSession) -> Iterator[None]:
    """Make `session` current for a block in this thread.

    Raises:
        DeviceLost: its stream could not be made current, or what was before not restored.
    """
    apply_here(session)
    try:
        yield
    finally:
        leave(session)
        if session.fault is not None:
            raise session.lost()


def leave(session: CarriedSession) -> bool:
    """Make what was around `session` current again, for the rest of this step too.

    Return False if a session entered inside it was still open.
    """
    current_stack().leave(session, session.outer)
    return session.leave()
