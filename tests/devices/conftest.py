"""A device manager on made-up devices, with owners that a test can hold up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest

from asyncgpu.devices.locks import DeviceLocks
from asyncgpu.devices.manager import DeviceManager
from asyncgpu.devices.readings import Readings
from asyncgpu.ports import DeviceInfo
from asyncgpu.settings import Settings
from asyncgpu.units import GB


class Owner:
    """An evictable owner; with a gate, its eviction waits there."""

    def __init__(self, name="owner", *, gate=None, error=None, then=None):
        self.name = name
        self.gate = gate
        self.error = error
        self.then = then
        self.begun = anyio.Event()
        self.strategies = []

    async def evict(self, strategy):
        self.strategies.append(strategy)
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.then is not None:
            self.then()
        if self.error is not None:
            raise self.error


class Resident:
    """A tool as its layer would play it: acquire, load, serve calls, leave when told to."""

    def __init__(self, manager, name, device="cuda", **wants):
        self.manager = manager
        self.name = name
        self.ask = partial(manager.acquire, device, owner=self, **wants)
        self.allocation = None
        self.evictions = 0

    async def call(self, work=None):
        """Run one call, on a device of its own."""
        while self.allocation is None or not self.allocation.mark_busy():
            self.allocation = await self.ask()
        if work is not None:
            await work()
        self.allocation.mark_idle()
        return self.allocation.devices

    async def evict(self, strategy):
        self.evictions += 1


@pytest.fixture
def owner():
    """Make owners: ``owner("name", gate=event)``."""
    return Owner


@pytest.fixture
def resident():
    """Make tools: ``resident(manager, "name", "cuda")``."""
    return Resident


@pytest.fixture
def manage():
    """``async with manage(2) as manager``: two devices of 8 GiB; settings as keywords.

    With `locks`, a folder, devices are locked there; with `free`, a function, the driver is asked.
    """

    @asynccontextmanager
    async def manage(
        count=2,
        *,
        total=8 * GB,
        exclusive=(),
        eviction_timeout=10.0,
        locks=None,
        free=None,
        budget=None,
        **settings,
    ):
        inventory = [
            DeviceInfo(
                i, f"GPU {i}", f"uuid-{i}", budget or total, exclusive_process=i in exclusive
            )
            for i in range(count)
        ]
        totals = dict.fromkeys(range(count), total)
        uuids = {info.index: info.uuid for info in inventory}
        held = None if locks is None else DeviceLocks(uuids, locks)
        manager = DeviceManager(
            inventory,
            settings=Settings(**settings),
            clock=anyio.current_time,
            start_soon=lambda fn, *args: host.start_soon(fn, *args),
            eviction_timeout=eviction_timeout,
            locks=held,
            readings=None if free is None else Readings(free, totals, clock=anyio.current_time),
        )
        async with anyio.create_task_group() as host:
            host.start_soon(manager.look_out)
            yield manager
            manager.check_invariants()
            assert manager.status().queue == ()
            manager.close()
        if held is not None:
            held.close()

    return manage


class Asking:
    """A request in a task of its own, to look at while it waits."""

    def __init__(self, tasks, ask):
        self.result = None
        self.error = None
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()
        tasks.start_soon(self._run, ask)

    async def _run(self, ask):
        try:
            with self.scope:
                self.result = await ask()
        except Exception as error:
            self.error = error
        finally:
            self.done.set()

    async def __call__(self):
        """Wait for the answer."""
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def asking():
    """``request = asking(tasks, fn)``: start a request; ``await request()`` for its answer."""
    return Asking
