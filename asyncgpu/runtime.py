"""`Runtime`: the composition root. It wires drivers, workers and everything above together.

The only module that names a driver or a transport.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import anyio
import anyio.to_thread

from . import ambient
from .clock import clock_for_threads, loop_clock
from .contexts.context import ExecutionContext
from .contexts.memory_pools import MemoryPools
from .contexts.partition import Partition
from .contexts.partitions import PartitionManager
from .contexts.pressure import Handler, Registration
from .contexts.services import ContextServices
from .contexts.worker_rooms import ContextRooms
from .devices.lease import Lease
from .devices.locks import device_locks
from .devices.manager import DeviceManager
from .devices.memories import DeviceMemories
from .devices.planned_memory import planned
from .devices.readings import Readings
from .devices.status import DeviceStatus
from .drivers.select import open_driver
from .errors import InfeasibleRequest, InvalidDevice, NoRuntime, RequestError
from .home_loop import home_loop
from .host_task import HostTask
from .policy.device_spec import parse_device
from .policy.qos import QoSPolicy
from .ports import DeviceInfo, Driver
from .settings import Settings
from .tools.host import ToolHost
from .tools.launcher import Launcher
from .tools.stats import PoolStats
from .tools.timeline import Timeline
from .units import Size, parse_size
from .workers.pickling import find_codecs
from .workers.process import ProcessTransport
from .workers.thread import ThreadTransport

__all__ = ["Runtime", "RuntimeStatus"]

log = logging.getLogger("asyncgpu.runtime")

# Named, not imported: a process that has no torch must not get one from us.
_CODECS = ("asyncgpu.drivers.codec:TorchCodec",)


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """A snapshot of everything a runtime owns."""

    devices: DeviceStatus
    """Who holds what, since when, and who waits for it."""
    contexts: tuple[str, ...]
    workers: tuple[PoolStats, ...]
    """One for each pool, ``persist()`` block and the runtime's own workers."""


class Runtime:
    """Owns devices, contexts and workers for one program.

    ::

        async with Runtime() as rt:
            ...

    Inside, and in every task of the same event loop while it is the only one open there, the
    module-level functions act on it.
    """

    devices: DeviceManager
    """Leases, residents, configuration and status of the devices."""
    driver: Driver
    timeline: Timeline
    """What pools and contexts did, for `asyncgpu.integrations.perfetto` and ``.picture``."""
    tools: ToolHost

    def __init__(
        self,
        *,
        driver: str | Driver = "auto",
        device: str | None = None,
        total_vram_budget: Size | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Describe a runtime; ``async with`` opens it. Nothing is touched before.

        Args:
            driver: ``"auto"``, ``"cuda"``, ``"virtual"``, or a `Driver` of one's own. ``"auto"``:
                virtual devices if ``ASYNCGPU_VIRTUAL_DEVICES`` describes some, else CUDA.
            device: where contexts go that name no device; None: the first managed one.
            total_vram_budget: bytes of each device that this program may plan with; None: all.
                More than a device has is clamped to what it has, with a warning.
            settings: None: the ``ASYNCGPU_*`` environment variables, read when it opens.

        Raises:
            InvalidDevice: `device` does not name one device.
            InvalidRequest: another parameter means nothing.
        """
        self._driver_choice = driver
        self._default_device = None if device is None else _one_device(device)
        self._budget = (
            None
            if total_vram_budget is None
            else parse_size(total_vram_budget, what="total_vram_budget")
        )
        self._settings = settings
        self._host: HostTask | None = None
        self._services: ContextServices | None = None
        self._transport: ProcessTransport | None = None
        self._token: Token[Any] | None = None
        self.is_open = False
        self.pid = os.getpid()
        self.loop: object = None

    # ------------------------------------------------------------------- opening, closing

    async def __aenter__(self) -> Runtime:
        await self.open()
        self._token = ambient.runtime.set(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self._token is not None:
            token, self._token = self._token, None
            ambient.runtime.reset(token)
        await self.aclose()

    async def open(self) -> None:
        """Open it without making it the current task's; `aclose` ends it.

        Raises:
            RequestError: it is open already, or was.
            InvalidRequest: a setting means nothing.
            DeviceError: the driver cannot be used.
        """
        if self._host is not None:
            raise RequestError("a Runtime is opened once; make a new one")
        settings = self._settings or Settings.from_environ(os.environ)
        self._host = HostTask(self._teardown)
        self.driver, inventory = await anyio.to_thread.run_sync(self._open_driver, settings)
        try:
            planned_with = planned(inventory, self._budget)
            self._memories = DeviceMemories(
                self.driver,
                {info.index: info.total_memory for info in planned_with},
                ageing_seconds=settings.ageing_seconds,
                clock=loop_clock(),
                loop=home_loop(),
            )
            self._locks = device_locks(inventory) if settings.device_locks else None
            self.devices = DeviceManager(
                planned_with,
                settings=settings,
                clock=loop_clock(),
                start_soon=self._host.start_soon,
                memories=self._memories,
                locks=self._locks,
                readings=Readings(
                    self.driver.free_memory,
                    {info.index: info.total_memory for info in inventory},
                    clock=loop_clock(),
                ),
            )
            self._check_default_device(len(inventory))
        except BaseException:
            self.driver.close()
            raise
        self._compose(settings)
        self.loop, self.pid = ambient.running_loop(), os.getpid()
        await self._host.start()
        self._host.start_soon(self.devices.look_out)
        self.is_open = True
        ambient.register_runtime(self)

    async def aclose(self) -> None:
        """Close everything it owns; waiting calls fail, workers end. Idempotent."""
        if not self.is_open:
            return
        self.is_open = False
        ambient.unregister_runtime(self)
        assert self._host is not None
        with anyio.CancelScope(shield=True):
            try:
                await self._teardown()
            finally:
                await self._host.stop()

    async def _teardown(self) -> None:
        self.is_open = False
        ambient.unregister_runtime(self)
        if self.pid != os.getpid():
            return  # In the child of a fork: workers and devices are the parent's.
        assert self._services is not None
        assert self._transport is not None
        self.devices.close()
        # A stack, so that each is closed whatever became of those before it.
        async with AsyncExitStack() as parts:
            if self._locks is not None:
                parts.callback(self._locks.close)
            parts.push_async_callback(anyio.to_thread.run_sync, self.driver.close)
            parts.push_async_callback(self._transport.aclose)
            parts.push_async_callback(self._services.aclose)
            parts.push_async_callback(self._threads.aclose)
            parts.push_async_callback(self.tools.aclose)

    def _check_default_device(self, count: int) -> None:
        index = self._default_device
        if index is not None and count and not 0 <= index < count:
            raise InfeasibleRequest(f"device: cuda:{index}, and there are {count} devices")

    def _open_driver(self, settings: Settings) -> tuple[Driver, list[DeviceInfo]]:
        choice = self._driver_choice
        if isinstance(choice, str):
            choice = open_driver(choice, virtual_devices=settings.virtual_devices)
        return choice, list(choice.inventory())

    def _compose(self, settings: Settings) -> None:
        assert self._host is not None
        clock = loop_clock()
        self.timeline = Timeline(clock=clock_for_threads())
        self._services = ContextServices(
            driver=self.driver,
            devices=self.devices,
            memories=self._memories,
            settings=settings,
            timeline=self.timeline,
            start_soon=self._host.start_soon,
            default_device=self._default_index(),
        )
        self._transport = ProcessTransport(codecs=_CODECS)
        self._threads = ThreadTransport(
            ContextRooms(self._services.registry), self._host.start_soon
        )
        self.tools = ToolHost(
            Launcher(
                devices=self.devices,
                driver=self.driver,
                transport=self._transport,
                settings=settings,
                timeline=self.timeline,
                clock=clock,
                start_soon=self._host.start_soon,
                codecs=tuple(find_codecs(_CODECS)),
            ),
            self._threads,
        )

    def _default_index(self) -> int:
        if self._default_device is not None:
            return self._default_device
        return self.devices.managed[0] if self.devices.managed else 0

    # ------------------------------------------------------------------- contexts, leases

    async def create_context(
        self,
        name: str,
        *,
        max_vram: Size | None = None,
        base_vram: Size | None = None,
        qos: QoSPolicy = QoSPolicy.BURSTABLE,
        device: str | None = None,
        partition: Partition | str | None = None,
        max_concurrent_sessions: int | None = None,
        timeout: float | None = None,
    ) -> ExecutionContext:
        """Open an execution context, waiting for its reservation in the order of QoS classes.

        Args:
            name: unique among the open contexts of this runtime.
            max_vram: bytes it may use at most; None: no cap of its own. GUARANTEED needs one.
            base_vram: bytes reserved for it; None: `max_vram` for GUARANTEED, else 0.
            qos: how much it can rely on.
            device: ``"cuda:1"``; None: the partition's, else the runtime's device.
            partition: the part of the device it belongs to, or the id of that; its `max_vram` is
                at most the memory limit there, and just that by default. None: the whole device.
            max_concurrent_sessions: sessions that may run at once; None: any number.
            timeout: seconds to wait for the reservation; None: as long as it takes.

        Raises:
            DuplicateName: a context of that name is open.
            InfeasibleRequest: the reservation could never be met.
            InvalidRequest: sizes that contradict each other, or mean nothing, or are more than the
                partition has; a partition of another device.
            RequestError: there is no such partition, or it was deleted.
            TimeoutError: the reservation was not met in time.
        """
        return await self._open_services().registry.create(
            name,
            max_vram=max_vram,
            base_vram=base_vram,
            qos=qos,
            device=device,
            partition=partition,
            max_concurrent_sessions=max_concurrent_sessions,
            timeout=timeout,
        )

    def get_context(self, name: str) -> ExecutionContext | None:
        """Return the open context of that name, or None."""
        return self._open_services().registry.get(name)

    def contexts(self) -> list[ExecutionContext]:
        """Return the open contexts, oldest first."""
        return self._open_services().registry.contexts()

    async def destroy_context(self, name: str) -> bool:
        """Close the context of that name, its work drained; False: there is none."""
        return await self._open_services().registry.destroy(name)

    def partitions(self, device: str | None = None) -> PartitionManager:
        """Return the manager of a device's partitions; None: the runtime's device.

        Raises:
            InvalidDevice: `device` does not name one device that is there.
        """
        index = None if device is None else _one_device(device)
        return self._open_services().partitions.manager(
            self._default_index() if index is None else index
        )

    def available_vram(self, device: str | None = None) -> int:
        """Return the bytes that a new context could reserve on a device now.

        That is the device's budget, minus what is reserved and what is used above reservations,
        and never more than the driver reports free. It asks the driver, which may take a
        millisecond.

        Args:
            device: ``"cuda:1"``; None: the runtime's device.

        Raises:
            InvalidDevice: `device` does not name one device that is there.
        """
        index = self._default_index() if device is None else _one_device(device)
        return self._memories.available(self._default_index() if index is None else index)

    def on_memory_pressure(self, handler: Handler) -> Registration:
        """Ask `handler` when memory runs short; see the function of the same name."""
        return self._open_services().pressure.register(handler)

    def lease(
        self,
        device: str = "cuda",
        *,
        vram: Size | None = None,
        qos: QoSPolicy = QoSPolicy.BURSTABLE,
        preempt: bool = False,
        timeout: float | None = None,
    ) -> AbstractAsyncContextManager[Lease]:
        """Hold devices for a block; see `DeviceManager.lease`."""
        return self.devices.lease(device, vram=vram, qos=qos, preempt=preempt, timeout=timeout)

    def status(self) -> RuntimeStatus:
        """Return a snapshot of everything this runtime owns."""
        return RuntimeStatus(
            devices=self.devices.status(),
            contexts=tuple(context.name for context in self.contexts()),
            workers=self.tools.stats(),
        )

    @property
    def memory_pools(self) -> MemoryPools:
        """What opens a `MemoryPool`; see there."""
        return self._open_services().memory_pools

    def _open_services(self) -> ContextServices:
        if self._services is None or not self.is_open:
            raise NoRuntime("this Runtime is not open; open it with `async with`")
        if self.pid != os.getpid():
            raise NoRuntime(f"this Runtime was opened in process {self.pid}, before a fork")
        return self._services


def _one_device(text: str) -> int | None:
    """Read the device of a runtime; ``"cuda"`` leaves the choice to it."""
    spec = parse_device(text)
    if spec.count != 1:
        raise InvalidDevice(f"device: {text!r} is not one GPU; write 'cuda:0'")
    return spec.indices[0] if spec.indices else None
