"""`Readings`: what the driver says of the devices, asked off the loop and kept for a moment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import anyio
import anyio.to_thread

from ..errors import DeviceError, DeviceLost

__all__ = ["Readings"]

log = logging.getLogger("asyncgpu.devices")

# As long as a request may rely on what was read for an earlier one.
_FRESH_SECONDS = 0.5


class Readings:
    """How much memory of each device is in use, by whomever, and whether it is still there.

    Used in the runtime's loop. Several askers at once share one reading.
    """

    def __init__(
        self,
        free_memory: Callable[[int], int],
        totals: Mapping[int, int],
        *,
        clock: Callable[[], float],
    ) -> None:
        """Know whom to ask.

        Args:
            free_memory: bytes the driver reports free on a device; may block, and raises
                `DeviceLost` where the device has gone.
            totals: bytes of each device, by logical index.
            clock: seconds; never goes back.
        """
        self._free_memory = free_memory
        self.totals = totals
        self._clock = clock
        self._read_at = float("-inf")
        self._reading: anyio.Event | None = None
        self.used: dict[int, int] = {}
        """Bytes in use, by logical index, as last read."""
        self.lost: dict[int, str] = {}
        """Why devices are gone, by logical index."""

    @property
    def fresh(self) -> bool:
        """Whether a request may rely on what is known."""
        return self._clock() - self._read_at < _FRESH_SECONDS

    def forget(self) -> None:
        """Rely on nothing that was read before."""
        self._read_at = float("-inf")

    async def refresh(self) -> None:
        """Ask the driver about every device that is not lost."""
        while self._reading is not None:
            before = self._read_at
            await self._reading.wait()
            if self._read_at != before:
                return
        self._reading = anyio.Event()
        try:
            began = self._clock()
            indices = [index for index in self.totals if index not in self.lost]
            # Whoever gives up need not wait for a driver that hangs; what it says later is dropped.
            found = await anyio.to_thread.run_sync(self._read, indices, abandon_on_cancel=True)
            for index, result in found.items():
                if isinstance(result, DeviceLost):
                    # Whoever tells of it names the device.
                    self.lost[index] = str(result).removeprefix(f"cuda:{index} is lost: ")
                    self.used.pop(index, None)
                else:
                    self.used[index] = self.totals[index] - result
            self._read_at = began
        finally:
            self._reading.set()
            self._reading = None

    def _read(self, indices: list[int]) -> dict[int, int | DeviceLost]:
        found: dict[int, int | DeviceLost] = {}
        for index in indices:
            try:
                found[index] = self._free_memory(index)
            except DeviceLost as error:
                found[index] = error.with_traceback(None)
            except DeviceError:
                # What is not known hinders nobody.
                log.warning("cuda:%d: its memory cannot be read", index, exc_info=True)
        return found
