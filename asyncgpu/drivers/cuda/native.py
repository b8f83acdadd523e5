"""CUDA streams created by CUDA's driver API, because torch has no call for it.

``torch.cuda.Stream()`` hands out 32 streams of each priority in turn, to everybody, and knows four
priorities; a context needs a stream that nobody else has, with any priority of the hardware.
"""

from __future__ import annotations

from typing import Any

from ...errors import InvalidRequest, RequestError
from .faults import device_error

__all__ = ["NativeStreams", "hardware_priority"]


class NativeStreams:
    """Creates streams in the primary contexts, which torch uses too. Not thread-safe.

    Raises:
        RequestError: cuda-python is not installed.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError:
            raise RequestError(
                "contexts on CUDA need cuda-python: pip install 'asyncgpu[cuda]'"
            ) from None
        self.cuda: Any = driver
        """The module ``cuda.bindings.driver``."""
        self._contexts: dict[int, Any] = {}

    def create(self, device: int, *, level: int, green: Any = None) -> tuple[int, int]:
        """Create a stream; return its ``cudaStream_t`` as a number, and its priority.

        Args:
            device: logical index.
            level: 0 (most urgent), 1 or 2.
            green: the green context it runs in; None: all of the device.

        Raises:
            InvalidRequest: `level` is not 0, 1 or 2.
            DeviceLost: the device has had a fault.
            DeviceError: CUDA refused.
        """
        cuda = self.cuda
        # Pushed and popped: which device is current in this thread is torch's affair.
        self.call(device, cuda.cuCtxPushCurrent, self.cuda_context(device))
        try:
            least, greatest = self.call(device, cuda.cuCtxGetStreamPriorityRange)
            priority = hardware_priority(level, least=least, greatest=greatest)
            # Non-blocking, as torch's own: it does not wait for the legacy default stream.
            flags = int(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING)
            if green is None:
                made = self.call(device, cuda.cuStreamCreateWithPriority, flags, priority)
            else:
                made = self.call(device, cuda.cuGreenCtxStreamCreate, green, flags, priority)
        finally:
            self.call(device, cuda.cuCtxPopCurrent)
        return int(made[0]), priority

    def cuda_device(self, device: int) -> Any:
        """Return CUDA's handle of a device.

        Raises:
            DeviceError: CUDA refused.
        """
        cuda = self.cuda
        self.call(device, cuda.cuInit, 0)
        (handle,) = self.call(device, cuda.cuDeviceGet, device)
        return handle

    def cuda_context(self, device: int) -> Any:
        """Return the primary CUDA context of a device, which is torch's too.

        Raises:
            DeviceError: CUDA refused.
        """
        if device not in self._contexts:
            retain = self.cuda.cuDevicePrimaryCtxRetain
            # Kept for the life of the process: to release the last reference destroys its streams.
            (self._contexts[device],) = self.call(device, retain, self.cuda_device(device))
        return self._contexts[device]

    def call(self, device: int, function: Any, *arguments: object) -> tuple[Any, ...]:
        """Call CUDA and return what it gives beside the code.

        Raises:
            DeviceLost: the device has had a fault.
            DeviceError: CUDA refused.
        """
        code, *values = function(*arguments)
        if int(code) != 0:
            raise device_error(device, f"{function.__name__} returned {code!r}", int(code))
        return tuple(values)


def hardware_priority(level: int, *, least: int, greatest: int) -> int:
    """Return the priority for a level of the port: 0 is most urgent, 2 least.

    Args:
        level: 0, 1 or 2.
        least: the least urgent priority of the hardware, the larger number.
        greatest: the most urgent one.

    Raises:
        InvalidRequest: any other level.
    """
    priorities = {0: greatest, 1: (least + greatest) // 2, 2: least}
    if level not in priorities:
        raise InvalidRequest(f"stream level: {level!r} is not 0, 1 or 2")
    return priorities[level]
