"""`Launcher`: from a tool and its granted devices to a worker with the tool loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from ..devices.manager import DeviceManager
from ..errors import RequestError
from ..policy.crash_loop import CrashLoops
from ..policy.device_spec import parse_device
from ..ports import Codec, Driver, Preparation, WorkerChannel, WorkerSpec, WorkerTransport
from ..settings import Settings
from ..units import parse_size
from .timeline import Timeline
from .tool import Tool
from .waits import Waits

__all__ = ["Launcher"]

# The libraries behind numpy and torch size their thread pools from these before they are imported.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True, slots=True)
class Launcher:
    """What the tools layer needs from its runtime."""

    devices: DeviceManager
    driver: Driver
    transport: WorkerTransport
    settings: Settings
    timeline: Timeline
    clock: Callable[[], float]
    start_soon: Callable[..., None]
    """Start a task that the runtime owns and cancels when it closes."""
    waits: Waits = field(default_factory=Waits)
    """Who waits for workers while it holds devices."""
    crashes: CrashLoops = field(default_factory=CrashLoops)
    """Which tools' workers die as they start."""
    codecs: tuple[Codec, ...] = ()
    """How values of other libraries are pickled with their memory beside them."""
    threads: bool = False
    """Its workers are threads of this process."""

    def check(self, tool: Tool) -> None:
        """Refuse what a worker in a thread cannot do.

        Raises:
            RequestError: the tool needs a process of its own.
        """
        if not self.threads:
            return
        several = parse_device(tool.device).count > 1
        needs = {
            f"device={tool.device!r}, and a context lives on one GPU": several,
            f"python={tool.python!r}": tool.python is not None,
            "an environment of its own (env)": bool(tool.env),
            "pin_visible_devices": tool.pin_visible_devices,
        }
        for what, needed in needs.items():
            if needed:
                raise RequestError(
                    f"{tool.name} cannot run in a thread: it wants {what}; "
                    "give it to a pool with worker='process'"
                )

    async def launch(self, tool: Tool, indices: tuple[int, ...], name: str) -> WorkerChannel:
        """Start a worker on the devices `indices` (none: the CPU) and load `tool` in it.

        Raises:
            WorkerStartTimeout: it did not get ready in time.
            WorkerDied: it ended before the tool was loaded.
            ToolFailed: the tool's `load` raised.
        """
        channel = await self.transport.start(self._spec(tool, indices, name))
        try:
            placed = copy.copy(tool)
            placed.indices = indices
            devices = self.device_names(tool, indices)
            reply = await channel.load(placed, devices, self._preparation(tool, indices, devices))
            if reply.error is not None:
                raise reply.error
        except BaseException:
            with anyio.CancelScope(shield=True):
                await channel.stop(grace=0)
            raise
        return channel

    def device_names(self, tool: Tool, indices: tuple[int, ...]) -> list[str]:
        """Return what torch calls these devices inside the worker."""
        if not indices:
            return ["cpu"]
        names = [self.driver.torch_device(index) for index in indices]
        if tool.pin_visible_devices and names != ["cpu"] * len(names):
            return [f"cuda:{place}" for place in range(len(names))]
        return names

    def _preparation(
        self, tool: Tool, indices: tuple[int, ...], devices: list[str]
    ) -> Preparation | None:
        """Return what holds the worker to the tool's declared memory, where something can."""
        if not indices or tool.vram is None or self.threads:
            return None
        return self.driver.worker_preparation(devices, parse_size(tool.vram, what="vram"))

    def _spec(self, tool: Tool, indices: tuple[int, ...], name: str) -> WorkerSpec:
        # A runtime that a tool opens works on devices that this program has locked already.
        env = {"ASYNCGPU_DEVICE_LOCKS": "false"}
        if not indices:
            env |= dict.fromkeys(_THREAD_VARIABLES, str(tool.cpus_per_worker))
        if indices and tool.pin_visible_devices:
            env |= self.driver.worker_environment(indices)
        env |= tool.env or {}
        return WorkerSpec(
            name=name,
            python=tool.python,
            env=env,
            start_timeout=self.settings.worker_start_timeout,
            stop_grace=self.settings.worker_stop_grace,
        )


def describe_place(indices: tuple[int, ...]) -> str:
    """Return how logs and timelines call the place of a worker: ``"cuda:0,1"`` or ``"cpu"``."""
    return f"cuda:{','.join(map(str, indices))}" if indices else "cpu"
