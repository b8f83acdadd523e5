"""No devices: what a program without a GPU runs on, until it asks for ``cuda``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from ..errors import InfeasibleRequest
from ..ports import (
    ComputeShare,
    DeviceInfo,
    DriverBlocks,
    DriverMemory,
    DriverStream,
    Leaf,
    MemoryLedger,
    Preparation,
)
from .virtual.spec import VARIABLE

__all__ = ["AbsentDriver", "no_device"]


class AbsentDriver:
    """A `Driver` with zero devices; CPU tools need no more.

    The virtual driver never takes its place by itself: an answer computed on the CPU where a GPU
    was asked for would be a silent lie about speed and memory.
    """

    @property
    def name(self) -> str:
        return "none"

    def inventory(self) -> Sequence[DeviceInfo]:
        return ()

    def free_memory(self, device: int) -> int:
        self._refuse(device)

    def torch_device(self, device: int) -> str:
        self._refuse(device)

    def create_stream(
        self, device: int, *, level: int, share: ComputeShare | None = None
    ) -> DriverStream:
        self._refuse(device)

    def open_share(self, device: int, share: float) -> ComputeShare:
        self._refuse(device)

    def current_stream(self, device: int) -> DriverStream | None:
        self._refuse(device)

    def native_ledger(self, device: int, capacity: int) -> MemoryLedger | None:
        self._refuse(device)

    def open_memory(self, device: int, ledger: MemoryLedger, account: int) -> DriverMemory:
        self._refuse(device)

    def apply(
        self,
        stream: DriverStream,
        *,
        inference: bool = False,
        memory: DriverMemory | None = None,
    ) -> object:
        self._refuse(stream.device)

    def undo(self, token: object) -> None:
        """Do nothing: `apply` never succeeds."""

    def alias(
        self, leaves: Sequence[Leaf], device: int, let_go: Callable[[object], object]
    ) -> list[object]:
        self._refuse(device)

    def open_blocks(self, stream: DriverStream, *, spare: int) -> DriverBlocks:
        self._refuse(stream.device)

    def worker_environment(self, devices: Sequence[int]) -> Mapping[str, str]:
        for device in devices:
            self._refuse(device)
        return {}

    def worker_preparation(self, devices: Sequence[str], vram: int) -> Preparation | None:
        return None

    def close(self) -> None:
        """Do nothing: nothing was opened."""

    def _refuse(self, device: int) -> NoReturn:
        raise no_device(f"cuda:{device}")


def no_device(asked: str) -> InfeasibleRequest:
    """Return the error for asking for `asked` on a machine without a GPU."""
    return InfeasibleRequest(
        f"{asked}: this program sees no CUDA device (nvidia-smi lists what the machine has, "
        f"CUDA_VISIBLE_DEVICES what is shown); {VARIABLE}=2x8GiB makes two virtual "
        "ones out of the CPU"
    )
