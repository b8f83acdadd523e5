"""A CUDA event, recorded on a stream of one device."""

from __future__ import annotations

from typing import Any

from ...errors import InvalidRequest
from ...ports import DriverEvent
from .faults import translated

__all__ = ["CudaEvent"]


class CudaEvent:
    """A `DriverEvent` over a `torch.cuda.Event` made with ``blocking=True, enable_timing=True``.

    Blocking, so that a thread in `synchronize` sleeps until the interrupt instead of spinning on a
    core; torch releases the GIL around it.
    """

    __slots__ = ("_device", "torch_event")

    def __init__(self, torch_event: Any, device: int) -> None:
        self.torch_event = torch_event
        self._device = device

    def done(self) -> bool:
        try:
            return bool(self.torch_event.query())
        except RuntimeError as error:
            raise translated(self._device, error) from None

    def synchronize(self) -> None:
        try:
            self.torch_event.synchronize()
        except RuntimeError as error:
            raise translated(self._device, error) from None

    def elapsed_since(self, earlier: DriverEvent) -> float:
        if not isinstance(earlier, CudaEvent):
            raise InvalidRequest(f"{earlier!r} is not an event of the CUDA driver")
        if not (earlier.done() and self.done()):
            raise InvalidRequest("elapsed time needs two events that have been reached")
        try:
            milliseconds = earlier.torch_event.elapsed_time(self.torch_event)
        except RuntimeError as error:
            raise translated(self._device, error) from None
        return float(milliseconds) / 1000.0
