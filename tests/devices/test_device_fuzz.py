"""Many tasks ask, use, give up and are evicted at random; nothing is lost, and it replays."""

from __future__ import annotations

import fcntl
import os
import random
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from asyncgpu.errors import DeviceLost, InfeasibleRequest
from asyncgpu.policy.device_table import DeviceTable
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.units import GB

pytestmark = pytest.mark.anyio

DEVICES = 4
ACTORS = 12
# For the long run: ASYNCGPU_FUZZ_SEEDS=100 pytest tests/devices/test_device_fuzz.py
SEEDS = int(os.environ.get("ASYNCGPU_FUZZ_SEEDS", "6"))


class Outside:
    """Another program, and a device that may be lost."""

    def __init__(self, folder):
        folder.chmod(0o700)
        self.used = {}
        self.gone = set()
        self.files = [
            os.open(folder / f"uuid-{i}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            for i in range(DEVICES)
        ]

    def free(self, index):
        if index in self.gone:
            raise DeviceLost("fallen off the bus")
        return 8 * GB - self.used.get(index, 0)

    def disturb(self, manager, choice):
        index = choice(range(DEVICES))
        self.used[index] = choice([0, 0, GB, 6 * GB])
        if choice([False, True]):
            fcntl.flock(self.files[index], fcntl.LOCK_UN)
        else:
            with suppress(BlockingIOError):
                fcntl.flock(self.files[index], fcntl.LOCK_EX | fcntl.LOCK_NB)
        if choice(range(10)) == 0:
            self.gone.add(DEVICES - 1)
        manager.suspect()

    def leave(self):
        for file in self.files:
            os.close(file)
        self.used.clear()


class Recorder:
    """A device table that notes what it is told and what it answers."""

    def __init__(self, table):
        self.table = table
        self.inputs = []
        self.actions = []

    def __getattr__(self, name):
        return getattr(self.table, name)

    def handle(self, told, now):
        actions = self.table.handle(told, now)
        self.inputs.append((told, now))
        self.actions.append(actions)
        self.table.check_invariants()
        return actions


class Crowd:
    """Tasks that do random things, and one that cancels them at random."""

    def __init__(self, manager, resident, outside, seed):
        self.manager = manager
        self.outside = outside
        self.random = random.Random(seed)
        self.tools = [resident(manager, f"tool {n}", **self.wants()) for n in range(ACTORS)]
        self.scopes = {}
        self.busy = True
        for tool in self.tools:
            tool.evict = self.evict

    def wants(self):
        index = self.random.randrange(DEVICES)
        return {
            "device": self.random.choice(["cuda", "cuda", "cudax2", f"cuda:{index}"]),
            "vram": self.random.choice([None, GB, 3 * GB]),
            "qos": self.random.choice(list(QoSPolicy)),
        }

    async def pause(self):
        for _ in range(self.random.randrange(4)):
            await anyio.lowlevel.checkpoint()

    async def evict(self, strategy):
        await self.pause()

    async def act(self, number):
        for _ in range(10):
            # The managed devices may have become too few for it.
            with (
                suppress(InfeasibleRequest, DeviceLost),
                anyio.CancelScope() as self.scopes[number],
            ):
                acts = [self.lease, self.call, self.call, self.move, self.crash, self.reserve]
                await self.random.choice(acts)(number)
            await self.pause()

    async def lease(self, number):
        wants = self.wants()
        timeout = self.random.choice([None, 0, 0.001])
        preempt = self.random.random() < 0.2
        with suppress(TimeoutError):
            async with self.manager.lease(**wants, timeout=timeout, preempt=preempt) as lease:
                await self.pause()
                async with self.manager.lease(lease.device):
                    await self.pause()

    async def call(self, number):
        tool = self.tools[number]
        try:
            await tool.call(self.pause)
        finally:
            if tool.allocation is not None:
                tool.allocation.mark_idle()

    async def move(self, number):
        """Leave the devices for other ones."""
        tool = self.tools[number]
        if tool.allocation is not None:
            tool.allocation.release()
        await self.call(number)

    async def crash(self, number):
        """End in the middle of a call."""
        tool = self.tools[number]
        if tool.allocation is not None and tool.allocation.mark_busy():
            await self.pause()
            tool.allocation.release()

    async def reserve(self, number):
        vram = self.random.choice([0, GB])
        allocation = await self.manager.reserve(
            number % DEVICES, owner_name="context", vram=vram, qos=QoSPolicy.BURSTABLE
        )
        try:
            await self.pause()
        finally:
            allocation.release()

    async def disturb(self):
        while self.busy:
            await self.pause()
            await anyio.lowlevel.checkpoint()
            if self.scopes and self.random.random() < 0.3:
                self.scopes[self.random.choice(sorted(self.scopes))].cancel()
            if self.random.random() < 0.02:
                self.reconfigure()
            if self.random.random() < 0.02:
                self.outside.disturb(self.manager, self.random.choice)
        self.outside.leave()

    def reconfigure(self):
        count = self.random.randint(1, DEVICES)
        self.manager.configure(
            managed_devices=self.random.sample(range(DEVICES), count),
            allow_multiple_per_device=self.random.random() < 0.5,
        )


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_nothing_is_lost_and_it_replays(manage, resident, tmp_path, seed):
    outside = Outside(tmp_path)
    async with manage(DEVICES, locks=tmp_path, free=outside.free) as manager:
        performer = manager._performer
        recorder = performer.table = Recorder(performer.table)
        crowd = Crowd(manager, resident, outside, seed)
        async with anyio.create_task_group() as disturbing:
            disturbing.start_soon(crowd.disturb)
            async with anyio.create_task_group() as tasks:
                for number in range(ACTORS):
                    tasks.start_soon(crowd.act, number)
            crowd.busy = False
        for tool in crowd.tools:
            if tool.allocation is not None:
                tool.allocation.release()
        assert manager.status().queue == ()
        assert all(not device.holders for device in manager.status().devices)
        assert not performer._allocations
        assert not performer._asking

    again = DeviceTable(dict.fromkeys(range(DEVICES), 8 * GB), locks=True)
    assert [again.handle(told, now) for told, now in recorder.inputs] == recorder.actions
