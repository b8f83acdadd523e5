"""CUDA as torch has it in this process: opened once, at the first use of a stream."""

from __future__ import annotations

import functools
from typing import Any

from ...errors import DeviceError, RequestError
from ...ports import ComputeShare
from ..label_share import LabelShare
from .blocks import CudaBlocks
from .current import CurrentCudaStreams
from .faults import translated
from .green import CudaShare, GreenContexts
from .memories import CudaMemories
from .native import NativeStreams
from .page_lock import PageLocks
from .pool_calls import bind_pool_calls
from .shelf import StreamShelf
from .stream import CudaStream

__all__ = ["CudaPlatform", "open_platform"]

_OLDEST_TORCH = (2, 8)


class CudaPlatform:
    """What the driver needs of torch and of cuda-python.

    Attributes:
        current: the current streams of every thread.
        memories: the memory of every context.
    """

    def __init__(self, torch: Any, native: NativeStreams) -> None:
        self._torch = torch
        self._native = native
        self._shelf = StreamShelf(self._create)
        self._green = GreenContexts(native)
        calls = bind_pool_calls(torch)
        self.current = CurrentCudaStreams(torch, calls)
        self.memories = CudaMemories(torch, calls)

    def open_stream(self, device: int, level: int, share: ComputeShare | None = None) -> CudaStream:
        """Lend a stream of our own until it is closed.

        Raises:
            DeviceLost: the device has had a fault.
            DeviceError: CUDA refused.
            InvalidRequest: `share` is of another device, or closed.
        """
        green = None
        if isinstance(share, CudaShare):
            share.check(device)
            green = share.green
        try:
            loan = self._shelf.lend(device, level, green)
        except RuntimeError as error:
            raise translated(device, error) from None
        return CudaStream(
            loan.stream,
            priority=loan.priority,
            new_event=self._new_event,
            give_back=functools.partial(self._shelf.take_back, loan),
        )

    def open_share(self, device: int, share: float) -> ComputeShare:
        """Take a share of the device's SMs; a label where nothing enforces one.

        Raises:
            DeviceLost: the device has had a fault.
            DeviceError: CUDA refused.
            InfeasibleRequest: so many SMs are not left.
        """
        return self._green.open(device, share) or LabelShare(share)

    def foreign_stream(self, device: int) -> CudaStream:
        """Wrap the stream that other code made current in this thread; closing it does nothing."""
        stream = self._torch.cuda.current_stream(device)
        return CudaStream(
            stream,
            priority=stream.priority,
            new_event=self._new_event,
            give_back=lambda: None,
        )

    def open_blocks(self, stream: CudaStream, spare: int) -> CudaBlocks:
        """Return blocks whose copies run on `stream`; see `ports.Driver.open_blocks`."""
        return CudaBlocks(
            self._torch,
            stream,
            here=functools.partial(self.foreign_stream, stream.device),
            locks=PageLocks(self._native, stream.device),
            spare=spare,
        )

    def _create(self, device: int, level: int, green: Any) -> tuple[Any, int]:
        handle, priority = self._native.create(device, level=level, green=green)
        return self._torch.cuda.ExternalStream(handle, device=device), priority

    def _new_event(self) -> Any:
        return self._torch.cuda.Event(blocking=True, enable_timing=True)


@functools.cache
def open_platform() -> CudaPlatform:
    """Import torch and initialise CUDA; takes seconds the first time.

    The process has one CUDA, which cannot be closed and opened again, so it has one of these.

    Raises:
        RequestError: torch is too old, or built without CUDA, or cuda-python is missing.
        DeviceError: CUDA cannot be initialised.
    """
    import torch

    _check(torch)
    native = NativeStreams()
    _initialise(torch)
    return CudaPlatform(torch, native)


def _check(torch: Any) -> None:
    version = str(torch.__version__)
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST_TORCH:
        wanted = ".".join(map(str, _OLDEST_TORCH))
        raise RequestError(f"asyncgpu needs torch {wanted} or later on CUDA; this is {version}")
    if torch.version.cuda is None:
        raise RequestError(f"torch {version} is built without CUDA: install a CUDA build of torch")


def _initialise(torch: Any) -> None:
    try:
        torch.cuda.init()
    except RuntimeError as error:
        raise DeviceError(f"CUDA cannot be initialised: {error}") from None
