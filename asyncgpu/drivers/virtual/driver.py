"""The virtual driver: devices made out of the CPU."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence

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
from ..label_share import LabelShare
from .blocks import VirtualBlocks
from .claims import Claims
from .current import CurrentStreams
from .device import VirtualDevice
from .faults import FaultScript, active_script
from .memory import VirtualMemory
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

    The storages that torch makes while a memory is applied are counted, and refused over budget:
    `metering` says how, and what it cannot see. `free_memory` is what these memories, and what the
    fault script says of other programs, leave of the device.
    """

    def __init__(self, sizes: Sequence[int], *, script: FaultScript | None = None) -> None:
        self.script = active_script() if script is None else script
        """The faults that this driver plays."""
        self._sizes = tuple(sizes)
        self._devices = [
            VirtualDevice(index, size, self.script) for index, size in enumerate(self._sizes)
        ]
        self._current = CurrentStreams()
        self._claims = Claims()
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

    def create_stream(
        self, device: int, *, level: int, share: ComputeShare | None = None
    ) -> VirtualStream:
        return self._device(device).create_stream(level)

    def open_share(self, device: int, share: float) -> ComputeShare:
        """Return a label: a virtual device has no multiprocessors to share out."""
        self._device(device)
        return LabelShare(share)

    def current_stream(self, device: int) -> VirtualStream | None:
        return self._current.get(device)

    def native_ledger(self, device: int, capacity: int) -> MemoryLedger | None:
        return None

    def open_memory(self, device: int, ledger: MemoryLedger, account: int) -> DriverMemory:
        return self._device(device).open_memory(ledger, account, self._claims)

    def apply(
        self,
        stream: DriverStream,
        *,
        inference: bool = False,
        memory: DriverMemory | None = None,
    ) -> object:
        self.script.before_apply()
        if not isinstance(stream, VirtualStream):
            raise InvalidRequest(f"{stream!r} is not a stream of the virtual driver")
        if memory is not None and not isinstance(memory, VirtualMemory):
            raise InvalidRequest(f"{memory!r} is not a memory of the virtual driver")
        return self._current.apply(stream, inference=inference, memory=memory)

    def undo(self, token: object) -> None:
        self._current.undo(token)

    def alias(
        self, leaves: Sequence[Leaf], device: int, let_go: Callable[[object], object]
    ) -> list[object]:
        def elsewhere(storage: object) -> str | None:
            # torch knows one CPU; who is charged for the storage knows which device it stands for.
            index = self._claims.device_of(storage)
            return None if index in (None, device) else f"cuda:{index}"

        return aliases(leaves, self.torch_device(device), let_go, elsewhere=elsewhere)

    def open_blocks(self, stream: DriverStream, *, spare: int) -> VirtualBlocks:
        if not isinstance(stream, VirtualStream):
            raise InvalidRequest(f"{stream!r} is not a stream of the virtual driver")
        return VirtualBlocks(stream, current=self._current.get, spare=spare)

    def worker_environment(self, devices: Sequence[int]) -> Mapping[str, str]:
        sizes = tuple(self._device(device).total_memory for device in devices)
        return {VARIABLE: format_spec(sizes)}

    def worker_preparation(self, devices: Sequence[str], vram: int) -> Preparation | None:
        # A worker's tensors are host memory that nothing counts in its process.
        return None

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
