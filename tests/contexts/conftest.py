"""A registry of contexts on virtual devices, and gates that hold their streams."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager

import anyio
import pytest

from asyncgpu import MemoryPool, Runtime
from asyncgpu.contexts.opening import Opening
from asyncgpu.contexts.pressure import Pressure
from asyncgpu.contexts.registry import ContextRegistry
from asyncgpu.contexts.relief import Relief
from asyncgpu.devices.memories import DeviceMemories
from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.home_loop import home_loop


class Shares:
    """Stands for the device manager: grants every share, unless told to wait."""

    def __init__(self):
        self.requests = []
        self.held = []
        self.granting = anyio.Event()
        self.granting.set()

    async def reserve(self, device, *, owner_name, vram, qos, timeout):
        self.requests.append((device, owner_name, vram, qos))
        with anyio.fail_after(timeout):
            await self.granting.wait()
        share = Share(self, owner_name)
        self.held.append(share)
        return share


class Share:
    def __init__(self, shares, owner_name):
        self.shares = shares
        self.owner_name = owner_name

    def release(self):
        self.shares.held.remove(self)


def new_registry(driver, shares, host, **options):
    """A registry as the runtime makes it, with shares of devices that are granted as told."""
    memories = DeviceMemories(
        driver,
        {info.index: info.total_memory for info in driver.inventory()},
        ageing_seconds=10,
        clock=anyio.current_time,
        loop=home_loop(),
    )
    pressure = Pressure(timeout=5)
    opening = Opening(
        driver, memories, pressure, soft_mark=0.8, hard_mark=0.95, start_soon=host.start_soon
    )
    registry = ContextRegistry(
        driver=driver, devices=shares, opening=opening, start_soon=host.start_soon, **options
    )
    memories.relief = Relief(registry.contexts, pressure)
    return registry


class Gate:
    """Holds streams until it is opened; tells when a stream has come to it."""

    def __init__(self):
        self.reached = threading.Event()
        self._open = threading.Event()

    def hold(self, ctx):
        ctx.stream.driver_stream.enqueue(self._wait, interrupt=self.open)

    def open(self):
        self._open.set()

    def _wait(self):
        self.reached.set()
        self._open.wait()


@pytest.fixture
def driver():
    opened = VirtualDriver.from_spec("2x8GiB")
    yield opened
    opened.close()


@pytest.fixture
async def shares():
    return Shares()


@pytest.fixture
def registry_options():
    """What the registry is made with; a test file may say more."""
    return {}


@pytest.fixture
async def registry(driver, shares, registry_options):
    """Closes every context at the end, whatever the test left open."""
    async with anyio.create_task_group() as host:
        opened = new_registry(driver, shares, host, **registry_options)
        yield opened
        await opened.aclose(timeout=10)
        host.cancel_scope.cancel()
    assert shares.held == []


@pytest.fixture
def new_gate(registry):
    """Make gates; they are opened at the end, before the registry closes."""
    gates = []

    def new():
        gates.append(Gate())
        return gates[-1]

    yield new
    for gate in gates:
        gate.open()


@pytest.fixture
def open_context(driver):
    """Open one context, closed at the end of its block, on whatever loop the test has made."""

    @asynccontextmanager
    async def opened(**options):
        async with anyio.create_task_group() as host:
            registry = new_registry(driver, Shares(), host)
            try:
                yield await registry.create("a", **options)
            finally:
                await registry.aclose(timeout=10)
                host.cancel_scope.cancel()

    return opened


@pytest.fixture
async def ctx(registry):
    return await registry.create("a")


@pytest.fixture
def where(driver):
    """The name by which a test knows the stream that this thread's work goes to now."""

    def stream_here():
        stream = driver.current_stream(0)
        return None if stream is None else stream.id

    return stream_here


@pytest.fixture
async def pool_runtime(virtual_gpus):
    """A runtime with two devices, for memory pools."""
    virtual_gpus("2x256MiB")
    async with Runtime() as opened:
        yield opened


@pytest.fixture
async def new_pool(pool_runtime):
    """Open memory pools; those that the test has not closed are closed at its end."""
    pools = []

    async def opened(quota, **options):
        pools.append(MemoryPool(quota, **options))
        await pools[-1].__aenter__()
        return pools[-1]

    yield opened
    for pool in pools:
        await pool.aclose(timeout=10)
