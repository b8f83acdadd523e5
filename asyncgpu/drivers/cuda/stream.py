"""A CUDA stream of our own, or one that torch code made current."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import InvalidRequest
from ...ports import DriverEvent
from .event import CudaEvent
from .faults import translated

__all__ = ["CudaStream", "StreamKey"]

StreamKey = tuple[int, int, int]
"""``(stream_id, device_index, device_type)``: what torch names a stream by."""


class CudaStream:
    """A `DriverStream` over a `torch.cuda.Stream`.

    Attributes:
        id: the ``cudaStream_t`` as a number.
        device: logical index.
        priority: the hardware's, lower is more urgent.
        key: what `torch._C._cuda_setStream` takes, made once because every step needs it.
        torch_stream: the stream as torch knows it.
        closed: whether `close` was called.
    """

    def __init__(
        self,
        torch_stream: Any,
        *,
        priority: int,
        new_event: Callable[[], Any],
        give_back: Callable[[], None],
    ) -> None:
        self.torch_stream = torch_stream
        self.id = int(torch_stream.cuda_stream)
        self.device = int(torch_stream.device_index)
        self.priority = priority
        self.key: StreamKey = (
            torch_stream.stream_id,
            torch_stream.device_index,
            torch_stream.device_type,
        )
        self.closed = False
        self._new_event = new_event
        self._give_back = give_back

    def record(self) -> CudaEvent:
        self._check_open()
        event = self._new_event()
        try:
            event.record(self.torch_stream)
        except RuntimeError as error:
            raise translated(self.device, error) from None
        return CudaEvent(event, self.device)

    def wait_event(self, event: DriverEvent) -> None:
        self._check_open()
        if not isinstance(event, CudaEvent):
            raise InvalidRequest(f"{event!r} is not an event of the CUDA driver")
        try:
            self.torch_stream.wait_event(event.torch_event)
        except RuntimeError as error:
            raise translated(self.device, error) from None

    def close(self) -> None:
        self.closed = True
        self._give_back()

    def _check_open(self) -> None:
        if self.closed:
            raise InvalidRequest(f"{self!r} is closed")

    def __repr__(self) -> str:
        return f"<CudaStream {self.id:#x} of cuda:{self.device}>"
