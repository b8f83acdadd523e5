"""One piece of a memory pool's device memory, and the work that may still be using it."""

from __future__ import annotations

from typing import Any

from ..ports import DriverEvent

__all__ = ["DEFAULT_STREAM", "PoolBuffer"]

DEFAULT_STREAM = 0
"""The id under which drivers know what is on no stream of its own."""


class PoolBuffer:
    """A tensor of bytes.

    Attributes:
        tensor: on the device; None: not there yet, or no more.
    """

    def __init__(self) -> None:
        self.tensor: Any = None
        self._fences: dict[int, DriverEvent] = {}

    def used(self, stream: int, fence: DriverEvent) -> None:
        """Take note that work on the stream of that id uses it up to `fence`."""
        self._fences[stream] = fence

    def unfinished(self, stream: int | None = None) -> list[DriverEvent]:
        """Return the fences that are not reached, but for those that `stream` is behind anyway.

        Args:
            stream: the id of a stream that will use it; None: the host will, or a stream that is
                made to wait.

        Raises:
            DeviceLost: the device has had a fault.
        """
        self._fences = {key: fence for key, fence in self._fences.items() if not fence.done()}
        # What runs on the default stream may go on elsewhere: only a stream of one's own is safe.
        own = None if stream == DEFAULT_STREAM else stream
        return [fence for key, fence in self._fences.items() if key != own]
