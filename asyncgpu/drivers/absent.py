"""No devices: what a program without a GPU runs on, until it asks for ``cuda``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from ..errors import InfeasibleRequest
from ..ports import DeviceInfo, DriverStream
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

    def create_stream(self, device: int, *, level: int) -> DriverStream:
        self._refuse(device)

    def current_stream(self, device: int) -> DriverStream | None:
        self._refuse(device)

    def apply(self, stream: DriverStream, *, inference: bool = False) -> object:
        self._refuse(stream.device)

    def undo(self, token: object) -> None:
        """Do nothing: `apply` never succeeds."""

    def worker_environment(self, devices: Sequence[int]) -> Mapping[str, str]:
        for device in devices:
            self._refuse(device)
        return {}

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
