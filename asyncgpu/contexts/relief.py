"""Making room on a device that several contexts share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..devices.memory import DeviceMemory
from .pressure import Pressure

if TYPE_CHECKING:
    from .context import ExecutionContext

__all__ = ["Relief"]


class Relief:
    """Drops caches, then asks handlers; the least important contexts first.

    Args:
        contexts: returns the open contexts.
        pressure: the handlers.
    """

    def __init__(
        self, contexts: Callable[[], Sequence[ExecutionContext]], pressure: Pressure
    ) -> None:
        self._contexts = contexts
        self._pressure = pressure

    async def __call__(
        self, device: DeviceMemory, lacking: Callable[[], int], *, ask: bool
    ) -> None:
        """Make room on `device` until nothing is lacking, or nothing more can be done.

        Args:
            device: where.
            lacking: the bytes that are still lacking.
            ask: whether handlers are asked about the contexts that use more than their reservation.
        """
        here = [ctx for ctx in self._contexts() if ctx._core.memory.device is device]
        here.sort(key=lambda ctx: ctx.qos.priority)
        for ctx in here:
            if lacking() > 0:
                await ctx._core.memory.trim()
        for ctx in here:
            memory = ctx._core.memory
            if ask and lacking() > 0 and memory.bursting:
                await self._pressure.ask(ctx, lacking(), memory.left, enough=lambda: lacking() <= 0)
