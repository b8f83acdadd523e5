"""The virtual driver: devices made out of the CPU."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Mapping, Sequence

from ...errors import InvalidDevice, InvalidRequest
from ...ports import DeviceInfo, DriverStream
from .current import CurrentStreams
from .device import VirtualDevice
from .faults import FaultScript, active_script
from .spec import VARIABLE, format_spec, parse_spec
from .stream import VirtualStream

__all__ = ["VirtualDriver"]

# How long `close` waits for work that is running and cannot be interrupted.
_CLOSE_SECONDS = 5.0


class VirtualDriver:
    """The `Driver` for machines without a GPU, and the test bed of everything above the port.

    Streams are in order and really asynchronous, events and waits behave as CUDA's do, and faults
    can be scripted. Tools are handed ``device("cpu")``, so torch itself runs their operators in
    the calling thread: what a virtual stream carries is what was put on it with `enqueue`.

    `free_memory` knows the device's size and what the fault script says other programs use. Torch
    storages are not counted here: that belongs to the budget, which meters them where they are
    made and does not need this number.
    """

    def __init__(self, sizes: Sequence[int], *, script: FaultScript | None = None) -> None:
        self.script = active_script() if script is None else script
        """The faults that this driver plays."""
        self._sizes = tuple(sizes)
        self._devices = [
            VirtualDevice(index, size, self.script) for index, size in enumerate(self._sizes)
        ]
        self._current = CurrentStreams()
        self._closing = threading.Lock()
        self._closed = False
        for device in self._devices:
            self.script.attach(device)

    @classmethod
    def from_spec(cls, spec: str, *, script: FaultScript | None = None) -> VirtualDriver:
        """Open the devices that `spec` describes: ``"2x8GiB"`` or ``"8GiB,4GiB"``.

        Raises:
            InvalidRequest: `spec` cannot be read; the message names ``ASYNCGPU_VIRTUAL_DEVICES``.
        """
        return cls(parse_spec(spec), script=script)

    @property
    def name(self) -> str:
        return "virtual"

    def inventory(self) -> Sequence[DeviceInfo]:
        return tuple(device.info() for device in self._devices)

    def free_memory(self, device: int) -> int:
        return self._device(device).free_memory()

    def torch_device(self, device: int) -> str:
        self._device(device)
        return "cpu"

    def create_stream(self, device: int, *, level: int) -> VirtualStream:
        return self._device(device).create_stream(level)

    def current_stream(self, device: int) -> VirtualStream | None:
        return self._current.get(device)

    def apply(self, stream: DriverStream, *, inference: bool = False) -> object:
        self.script.before_apply()
        if not isinstance(stream, VirtualStream):
            raise InvalidRequest(f"{stream!r} is not a stream of the virtual driver")
        return self._current.apply(stream, inference=inference)

    def undo(self, token: object) -> None:
        self._current.undo(token)

    def worker_environment(self, devices: Sequence[int]) -> Mapping[str, str]:
        sizes = tuple(self._device(device).total_memory for device in devices)
        return {VARIABLE: format_spec(sizes)}

    def close(self) -> None:
        """Drop the work that has not begun, interrupt what runs, and end every thread.

        Events that were not reached raise `DeviceLost` from then on. Work that cannot be
        interrupted is given five seconds; what still runs then is named in a `RuntimeWarning`.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
        deadline = time.monotonic() + _CLOSE_SECONDS
        stuck = [stream for device in self._devices for stream in device.close(deadline)]
        for device in self._devices:
            self.script.detach(device)
        if stuck:
            warnings.warn(
                f"work still runs on {', '.join(map(repr, stuck))}: give it an `interrupt`",
                RuntimeWarning,
                stacklevel=2,
            )

    def _device(self, index: int) -> VirtualDevice:
        if not 0 <= index < len(self._devices):
            raise InvalidDevice(
                f"cuda:{index}: {VARIABLE} makes {len(self._devices)} device(s), "
                f"cuda:0 to cuda:{len(self._devices) - 1}"
            )
        return self._devices[index]
