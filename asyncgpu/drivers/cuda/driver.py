"""The CUDA driver: NVIDIA devices through torch, cuda-python and NVML."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import InvalidDevice, InvalidRequest
from ...ports import (
    ComputeShare,
    DeviceInfo,
    DriverMemory,
    DriverStream,
    Leaf,
    MemoryLedger,
    Preparation,
)
from ..adoption import aliases
from ..nvml import Nvml
from .blocks import CudaBlocks
from .context_pools import ContextPools
from .faults import translated
from .ledger import NativeLedger
from .library import open_library
from .memory import CudaMemory, UncountedMemory
from .platform import CudaPlatform, open_platform
from .share import LIMIT_MEMORY
from .stream import CudaStream

__all__ = ["CudaDriver"]


class CudaDriver:
    """The `Driver` for NVIDIA devices.

    The inventory and free memory come from NVML, so a program whose GPUs are used by its workers
    alone never makes a CUDA context in its own process. torch is imported, and CUDA initialised,
    by the first `create_stream`.
    """

    def __init__(
        self, nvml: Nvml, *, open_platform: Callable[[], CudaPlatform] = open_platform
    ) -> None:
        self._nvml = nvml
        self._open_platform = open_platform
        self._lock = threading.Lock()
        self._platform: CudaPlatform | None = None
        self._streams: weakref.WeakValueDictionary[tuple[int, int], CudaStream]
        self._streams = weakref.WeakValueDictionary()
        self._closed = False

    @classmethod
    def open(cls) -> CudaDriver:
        """Open the driver on the devices that this process's environment shows.

        Raises:
            DeviceError: there is an NVIDIA driver, but it cannot be used.
        """
        return cls(Nvml(os.environ))

    @property
    def name(self) -> str:
        return "cuda"

    def inventory(self) -> Sequence[DeviceInfo]:
        return self._nvml.inventory()

    def free_memory(self, device: int) -> int:
        if self._platform is not None:
            self._platform.memories.sweep(device)
        return self._nvml.free_memory(self._info(device).uuid)

    def torch_device(self, device: int) -> str:
        return f"cuda:{self._info(device).index}"

    def create_stream(
        self, device: int, *, level: int, share: ComputeShare | None = None
    ) -> CudaStream:
        self._info(device)
        with self._lock:
            stream = self._open(device).open_stream(device, level, share)
            self._streams[device, stream.id] = stream
            return stream

    def open_share(self, device: int, share: float) -> ComputeShare:
        self._info(device)
        with self._lock:
            return self._open(device).open_share(device, share)

    def current_stream(self, device: int) -> CudaStream | None:
        # Before the first stream of ours nothing of ours can be current, and to ask torch would
        # initialise CUDA.
        if self._platform is None:
            return None
        stream_id = self._platform.current.get(device)[0]
        if stream_id == 0:
            return None
        ours = self._streams.get((device, stream_id))
        return self._platform.foreign_stream(device) if ours is None else ours

    def native_ledger(self, device: int, capacity: int) -> NativeLedger | None:
        self._info(device)
        library = open_library()
        return None if library is None else NativeLedger(library, capacity)

    def open_memory(self, device: int, ledger: MemoryLedger, account: int) -> DriverMemory:
        self._info(device)
        with self._lock:
            return self._open(device).memories.open(device, ledger, account)

    def apply(
        self,
        stream: DriverStream,
        *,
        inference: bool = False,
        memory: DriverMemory | None = None,
    ) -> object:
        if not isinstance(stream, CudaStream):
            raise InvalidRequest(f"{stream!r} is not a stream of the CUDA driver")
        if stream.closed:
            raise InvalidRequest(f"{stream!r} is closed")
        pools = None if memory is None else _pools(memory, stream)
        try:
            return self._opened().current.apply(stream.key, inference=inference, pools=pools)
        except RuntimeError as error:
            raise translated(stream.device, error) from None

    def undo(self, token: Any) -> None:
        self._opened().current.undo(token)

    def alias(
        self, leaves: Sequence[Leaf], device: int, let_go: Callable[[object], object]
    ) -> list[object]:
        return aliases(leaves, self.torch_device(device), let_go)

    def open_blocks(self, stream: DriverStream, *, spare: int) -> CudaBlocks:
        if not isinstance(stream, CudaStream):
            raise InvalidRequest(f"{stream!r} is not a stream of the CUDA driver")
        return self._opened().open_blocks(stream, spare)

    def worker_environment(self, devices: Sequence[int]) -> Mapping[str, str]:
        # UUIDs mean the same whatever this process's own variables are.
        uuids = [self._info(device).uuid for device in devices]
        return {"CUDA_VISIBLE_DEVICES": ",".join(uuids), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def worker_preparation(self, devices: Sequence[str], vram: int) -> Preparation | None:
        return Preparation(LIMIT_MEMORY, (tuple(devices), vram))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            streams = list(self._streams.values())
        for stream in streams:
            stream.close()
        self._nvml.close()

    def _open(self, device: int) -> CudaPlatform:
        """Return the platform, opened now if this is the first use; call it under the lock."""
        if self._closed:
            raise InvalidRequest(f"cuda:{device}: the CUDA driver is closed")
        if self._platform is None:
            self._platform = self._open_platform()
        return self._platform

    def _opened(self) -> CudaPlatform:
        if self._platform is None:
            raise InvalidRequest("this CUDA driver has made no stream yet")
        return self._platform

    def _info(self, device: int) -> DeviceInfo:
        devices = self._nvml.inventory()
        if not 0 <= device < len(devices):
            raise InvalidDevice(f"cuda:{device}: this program sees {len(devices)} CUDA device(s)")
        return devices[device]


def _pools(memory: DriverMemory, stream: CudaStream) -> ContextPools | None:
    """Return where allocations are to come from; None: from where they come anyway."""
    if not isinstance(memory, (CudaMemory, UncountedMemory)):
        raise InvalidRequest(f"{memory!r} is not memory of the CUDA driver")
    if memory.device != stream.device:
        raise InvalidRequest(f"{stream!r} is applied with memory of cuda:{memory.device}")
    return memory.pools if isinstance(memory, CudaMemory) else None
