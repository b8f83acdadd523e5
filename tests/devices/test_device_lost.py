"""A lost device takes down who needs it, with typed errors, and nobody else."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from asyncgpu.errors import DeviceLost
from asyncgpu.policy.offload import OffloadStrategy
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.units import GB

pytestmark = pytest.mark.anyio


class Machine:
    """Devices that may be lost."""

    def __init__(self):
        self.gone = set()

    def __call__(self, index):
        if index in self.gone:
            raise DeviceLost("fallen off the bus")
        return 8 * GB

    async def lose(self, manager, index):
        """Lose a device, and let somebody notice."""
        watch = manager.watch()
        self.gone.add(index)
        manager.suspect()
        async for change in watch:
            if change.kind == "device lost":
                assert change.devices == (f"cuda:{index}",)
                return


@pytest.fixture
def machine():
    """``await machine.lose(manager, 0)``."""
    return Machine()


async def test_waiters_that_need_it_are_told_and_the_others_are_served(
    manage, owner, asking, machine
):
    async with manage(2, free=machine) as manager, anyio.create_task_group() as tasks:
        held = [await manager.acquire(f"cuda:{i}", owner=owner()) for i in range(2)]
        this, both, any_one = (
            asking(tasks, partial(manager.acquire, device, owner=owner()))
            for device in ("cuda:0", "cudax2", "cuda")
        )
        await anyio.wait_all_tasks_blocked()
        await machine.lose(manager, 0)
        for request in (this, both):
            with pytest.raises(DeviceLost, match="cuda:0 is lost: fallen off the bus"):
                await request()
        held[1].release()
        assert (await any_one()).device == "cuda:1"


async def test_residents_are_ended_whatever_they_do(manage, owner, machine):
    async with manage(4, free=machine, offload_strategy="cpu") as manager:
        owners = [owner(name) for name in ("starting", "idle", "busy", "pinned", "elsewhere")]
        placed = [
            await manager.acquire("cuda:0" if index == 0 else f"cuda:{index}", owner=each)
            for index, each in enumerate(owners[:4])
        ]
        placed[1].mark_idle()
        placed[2].mark_busy()
        placed[3].mark_idle()
        placed[3].pinned = True
        for index in range(4):
            await machine.lose(manager, index)
            await owners[index].begun.wait()
            # There is nothing to move away any more.
            assert owners[index].strategies == [OffloadStrategy.RESTART]
        status = manager.status()
        assert [(e.owner, e.running) for e in status.evictions] == [
            ("starting", True),
            ("idle", False),
            ("busy", True),
            ("pinned", False),
        ]
        assert all("is lost: fallen off the bus" in e.reason for e in status.evictions)


async def test_a_lease_is_told_and_its_end_raises(manage, machine):
    async def hold(manager):
        async with manager.lease("cudax2") as lease:
            await machine.lose(manager, 1)
            assert "fallen off the bus" in lease.lost
            # What it has left is its own to the end.
            [holder] = manager.status().devices[0].holders
            assert holder.id == lease.id

    async with manage(2, free=machine) as manager:
        with pytest.raises(DeviceLost, match="cuda:1 is lost"):
            await hold(manager)
        async with manager.lease("cuda:0", timeout=0) as lease:
            assert lease.lost is None


async def test_what_the_block_of_a_lease_raised_is_not_hidden(manage, machine):
    async def fail(manager):
        async with manager.lease("cuda"):
            await machine.lose(manager, 0)
            raise ZeroDivisionError

    async with manage(1, free=machine) as manager:
        with pytest.raises(ZeroDivisionError):
            await fail(manager)


async def test_it_is_not_offered_again_and_shows_in_the_status(manage, machine):
    async with manage(2, free=machine) as manager:
        await machine.lose(manager, 0)
        for _ in range(2):
            async with manager.lease("cuda", timeout=0) as lease:
                assert lease.device == "cuda:1"
            with pytest.raises(DeviceLost, match="cuda:0"):
                await manager.lease("cuda:0").__aenter__()
            with pytest.raises(DeviceLost, match="cudax2"):
                await manager.lease("cudax2").__aenter__()
            lost, well = manager.status().devices
            assert (lost.managed, well.managed) == (False, True)
            assert lost.lost == "fallen off the bus"
            assert well.lost is None
            # Nor does configuring bring it back.
            manager.configure(managed_devices=[0, 1])
        assert manager.managed == (1,)


async def test_with_the_last_device_gone_everybody_is_told(manage, owner, machine):
    async with manage(1, free=machine) as manager:
        context = await manager.reserve(0, owner_name="c", vram=GB, qos=QoSPolicy.BURSTABLE)
        await machine.lose(manager, 0)
        assert "cuda:0 is lost" in context.lost
        with pytest.raises(DeviceLost, match="cuda:0"):
            await manager.acquire("cuda", owner=owner())
        async with manager.lease("cpu", timeout=0):
            pass
        context.release()


async def test_a_waiter_hears_of_it_without_anybody_asking(manage, owner, machine):
    async with manage(1, free=machine) as manager:
        await manager.acquire("cuda", owner=owner())
        machine.gone.add(0)
        with anyio.fail_after(5), pytest.raises(DeviceLost):
            await manager.acquire("cuda", owner=owner())


async def test_watchers_hear_of_it(manage, machine):
    async with manage(1, free=machine) as manager:
        context = await manager.reserve(0, owner_name="c", vram=GB, qos=QoSPolicy.BURSTABLE)
        watch = manager.watch()
        await machine.lose(manager, 0)
        changes = [await anext(watch) for _ in range(2)]
        assert [change.kind for change in changes] == ["device lost", "lost"]
        context.release()
