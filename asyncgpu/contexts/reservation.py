"""`Reservation`: memory set aside for a block of a context's work."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import InvalidRequest, SessionMisuse
from ..units import Size, parse_size, parse_timeout

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["Reservation"]


class Reservation:
    """Entering waits for the room, leaving gives it back; see `ExecutionContext.reserve`."""

    def __init__(self, ctx: ExecutionContext, nbytes: Size, *, timeout: float | None) -> None:
        self._context = ctx
        self._nbytes = parse_size(nbytes, what="reserve")
        self._timeout = parse_timeout(timeout)
        self._entered = False
        if self._nbytes < 1:
            raise InvalidRequest("reserve: 0 bytes; ask for 1 or more")

    async def __aenter__(self) -> None:
        if self._entered:
            raise SessionMisuse(f"{self}: a reservation is entered once; make a new one")
        self._entered = True
        self._context._core.check_accepts()
        await self._context._core.memory.set_aside(self, self._nbytes, self._timeout)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._context._core.memory.give_back(self)

    def __repr__(self) -> str:
        return f"<Reservation of {self._nbytes} bytes in context {self._context.name!r}>"
