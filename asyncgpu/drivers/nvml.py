"""The inventory of NVIDIA devices by NVML: needs no CUDA context, so the parent stays light.

NVML counts GPUs by PCI address, CUDA by default the fastest first; on a machine of equal GPUs both
are the same. On a mixed one, unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is set, CUDA itself is asked,
in a process that ends at once (``cuda/order.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import DeviceError, DeviceLost
from ..ports import DeviceInfo
from .cuda.order import ask_cuda_for_uuids
from .visibility import Gpu, MigInstance, visible_devices

__all__ = ["Nvml"]


class Nvml:
    """NVML, opened; zero devices where the machine has no NVIDIA driver. Thread-safe.

    Args:
        environ: where ``CUDA_VISIBLE_DEVICES`` and ``CUDA_DEVICE_ORDER`` are read, once.
        ask_for_uuids: returns the UUIDs of CUDA's own list, in its order, without a prefix.

    Raises:
        DeviceError: there is an NVIDIA driver, but NVML cannot be used.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        ask_for_uuids: Callable[[], Sequence[str]] = ask_cuda_for_uuids,
    ) -> None:
        import pynvml

        self._nvml: Any = pynvml
        self._visible = environ.get("CUDA_VISIBLE_DEVICES")
        self._by_address = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
        self._ask_for_uuids = ask_for_uuids
        self._lock = threading.Lock()
        self._devices: tuple[DeviceInfo, ...] | None = None
        self._handles: dict[str, Any] = {}
        self._open = self._initialise()

    def inventory(self) -> tuple[DeviceInfo, ...]:
        """Return the visible devices in logical order; the list is made once.

        Raises:
            DeviceError: NVML cannot answer.
        """
        with self._lock:
            if self._devices is None:
                self._devices = self._enumerate() if self._open else ()
            return self._devices

    def free_memory(self, uuid: str) -> int:
        """Return the bytes free on a device, whoever uses the rest.

        Raises:
            DeviceLost: the device has fallen off the bus.
            DeviceError: NVML cannot answer.
        """
        try:
            handle = self._handle(uuid)
            return int(self._memory(handle).free)
        except self._nvml.NVMLError as error:
            raise self._translated(uuid, error) from None

    def close(self) -> None:
        """Give NVML back; idempotent."""
        with self._lock:
            opened, self._open = self._open, False
        if opened:
            self._nvml.nvmlShutdown()

    def _initialise(self) -> bool:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
            return False
        except nvml.NVMLError as error:
            raise DeviceError(f"NVML cannot be used: {error}") from None
        return True

    def _enumerate(self) -> tuple[DeviceInfo, ...]:
        nvml = self._nvml
        try:
            handles = self._usable()
            gpus = [self._gpu(handle) for handle in handles]
            names = {nvml.nvmlDeviceGetName(handle) for handle in handles}
            if self._by_address or len(names) <= 1:
                uuids = visible_devices(self._visible, gpus)
            else:
                uuids = self._in_cuda_order(gpus)
            return tuple(self._info(index, uuid) for index, uuid in enumerate(uuids))
        except nvml.NVMLError as error:
            raise DeviceError(f"NVML cannot list the devices: {error}") from None

    def _usable(self) -> list[Any]:
        nvml = self._nvml
        handles: list[Any] = []
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handles.append(nvml.nvmlDeviceGetHandleByIndex(index))
            except (
                nvml.NVMLError_NoPermission,
                nvml.NVMLError_GpuIsLost,
                nvml.NVMLError_InsufficientPower,
            ):
                # Not handed to this container, or broken: no program can use it.
                continue
        return handles

    def _in_cuda_order(self, gpus: Sequence[Gpu]) -> tuple[str, ...]:
        whole = {gpu.uuid for gpu in gpus}
        bare = self._ask_for_uuids()
        return tuple(f"GPU-{u}" if f"GPU-{u}" in whole else f"MIG-{u}" for u in bare)

    def _gpu(self, handle: Any) -> Gpu:
        uuid = self._nvml.nvmlDeviceGetUUID(handle)
        if not self._in_mig_mode(handle):
            return Gpu(uuid)
        return Gpu(uuid, mig_mode=True, instances=tuple(self._instances(handle, uuid)))

    def _in_mig_mode(self, handle: Any) -> bool:
        nvml = self._nvml
        try:
            current, _pending = nvml.nvmlDeviceGetMigMode(handle)
        except nvml.NVMLError_NotSupported:
            return False
        return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)

    def _instances(self, gpu: Any, uuid: str) -> list[MigInstance]:
        nvml = self._nvml
        found: list[MigInstance] = []
        for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
            try:
                handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, place)
            except nvml.NVMLError_NotFound:
                # Places are numbered to the most a GPU can have; most are empty.
                continue
            gpu_instance = nvml.nvmlDeviceGetGpuInstanceId(handle)
            compute_instance = nvml.nvmlDeviceGetComputeInstanceId(handle)
            legacy_name = f"MIG-{uuid}/{gpu_instance}/{compute_instance}"
            found.append(MigInstance(nvml.nvmlDeviceGetUUID(handle), legacy_name))
        return found

    def _info(self, index: int, uuid: str) -> DeviceInfo:
        handle = self._handle(uuid)
        memory = self._memory(handle)
        return DeviceInfo(
            index=index,
            name=self._nvml.nvmlDeviceGetName(handle),
            uuid=uuid,
            # What the driver keeps for itself is in NVML's total and never in anybody's reach.
            total_memory=int(memory.total) - int(memory.reserved),
            exclusive_process=self._is_exclusive(handle),
        )

    def _is_exclusive(self, handle: Any) -> bool:
        nvml = self._nvml
        try:
            mode = nvml.nvmlDeviceGetComputeMode(handle)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_InvalidArgument):
            # A MIG instance has no mode of its own.
            return False
        return bool(mode == nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS)

    def _memory(self, handle: Any) -> Any:
        # The second version tells what is reserved from what is used; the first adds them up.
        return self._nvml.nvmlDeviceGetMemoryInfo(handle, version=self._nvml.nvmlMemory_v2)

    def _handle(self, uuid: str) -> Any:
        if uuid not in self._handles:
            self._handles[uuid] = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        return self._handles[uuid]

    def _translated(self, uuid: str, error: Exception) -> DeviceError:
        if isinstance(error, self._nvml.NVMLError_GpuIsLost):
            return DeviceLost(f"{uuid} is lost: {error}")
        return DeviceError(f"NVML cannot read the memory of {uuid}: {error}")
