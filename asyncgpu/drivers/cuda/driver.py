"""The CUDA driver: NVIDIA devices through torch, cuda-python and NVML."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import InvalidDevice, InvalidRequest
from ...ports import DeviceInfo, DriverStream
from ..nvml import Nvml
from .faults import translated
from .platform import CudaPlatform, open_platform
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
        return self._nvml.free_memory(self._info(device).uuid)

    def torch_device(self, device: int) -> str:
        return f"cuda:{self._info(device).index}"

    def create_stream(self, device: int, *, level: int) -> CudaStream:
        self._info(device)
        with self._lock:
            if self._closed:
                raise InvalidRequest(f"cuda:{device}: the CUDA driver is closed")
            if self._platform is None:
                self._platform = self._open_platform()
            stream = self._platform.open_stream(device, level)
            self._streams[device, stream.id] = stream
            return stream

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

    def apply(self, stream: DriverStream, *, inference: bool = False) -> object:
        if not isinstance(stream, CudaStream):
            raise InvalidRequest(f"{stream!r} is not a stream of the CUDA driver")
        if stream.closed:
            raise InvalidRequest(f"{stream!r} is closed")
        try:
            return self._opened().current.apply(stream.key, inference=inference)
        except RuntimeError as error:
            raise translated(stream.device, error) from None

    def undo(self, token: Any) -> None:
        self._opened().current.undo(token)

    def worker_environment(self, devices: Sequence[int]) -> Mapping[str, str]:
        # UUIDs mean the same whatever this process's own variables are.
        uuids = [self._info(device).uuid for device in devices]
        return {"CUDA_VISIBLE_DEVICES": ",".join(uuids), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    def close(self) -> None:
        with self._lock:
            self._closed = True
            streams = list(self._streams.values())
        for stream in streams:
            stream.close()
        self._nvml.close()

    def _opened(self) -> CudaPlatform:
        if self._platform is None:
            raise InvalidRequest("this CUDA driver has made no stream yet")
        return self._platform

    def _info(self, device: int) -> DeviceInfo:
        devices = self._nvml.inventory()
        if not 0 <= device < len(devices):
            raise InvalidDevice(f"cuda:{device}: this program sees {len(devices)} CUDA device(s)")
        return devices[device]
