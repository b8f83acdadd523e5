"""What `status` and `watch` show."""

from __future__ import annotations

import dataclasses
import gc
from functools import partial

import anyio
import pytest

from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.units import GB

pytestmark = pytest.mark.anyio


async def test_status_shows_holders_reservations_and_the_queue(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        held = await manager.acquire("cuda", owner=owner("model"), vram=GB)
        held.mark_idle()
        held.pinned = True
        await manager.reserve(1, owner_name="service", vram=2 * GB, qos=QoSPolicy.GUARANTEED)
        ask = partial(manager.acquire, "cuda:0", owner=owner("next"))
        first, second = asking(tasks, ask), None
        await anyio.wait_all_tasks_blocked()
        second = asking(tasks, ask)
        await anyio.wait_all_tasks_blocked()

        status = manager.status()
        first_device, second_device = status.devices
        assert (first_device.device, first_device.name) == ("cuda:0", "GPU 0")
        assert (first_device.uuid, first_device.total_memory) == ("uuid-0", 8 * GB)
        assert (first_device.reserved, first_device.managed) == (GB, True)
        [holder] = first_device.holders
        assert (holder.owner, holder.kind, holder.state) == ("model", "resident", "idle")
        assert (holder.reserved, holder.pinned, holder.id) == (GB, True, held.id)
        assert holder.since <= status.time
        [context] = second_device.holders
        assert (context.kind, context.state, context.reserved) == ("context", "held", 2 * GB)
        assert [each.position for each in status.queue] == [1, 2]
        assert status.queue[0].device == "cuda:0"
        assert "'model'" in status.queue[0].reason
        assert "behind" in status.queue[1].reason
        with pytest.raises(dataclasses.FrozenInstanceError):
            status.time = 0
        for request in (first, second):
            request.scope.cancel()
            await request()


async def test_status_tells_what_a_request_waits_for_while_somebody_leaves(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        gate = anyio.Event()
        slow = owner("slow", gate=gate)
        (await manager.acquire("cuda", owner=slow)).mark_idle()
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await slow.begun.wait()
        [queued] = manager.status().queue
        assert queued.reason.startswith("waits for resident")
        assert queued.reason.endswith("'slow' (evicting) to leave")
        gate.set()
        await waiter()


async def test_watch_tells_every_change_with_its_reason(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        watch = manager.watch()
        first = await manager.acquire("cuda", owner=owner("first"))
        first.mark_busy()
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner("second")))
        await anyio.wait_all_tasks_blocked()
        first.mark_idle()
        second = await waiter()
        second.pinned = True
        second.pinned = False
        second.release()
        async with manager.lease("cuda"):
            await manager.acquire("cpu", owner=owner("on the cpu"))
        manager.configure(managed_devices="auto")
        with pytest.raises(Exception, match="asked"):
            await manager.acquire("cudax2", owner=owner("greedy"))
        manager.close()

        seen = [(change.kind, change.owner, change.devices) async for change in watch]
        lease = seen[10][1]
        assert (
            seen
            == [
                ("granted", "first", ("cuda:0",)),
                ("busy", "first", ("cuda:0",)),
                ("queued", "second", ()),
                ("idle", "first", ("cuda:0",)),
                ("evicting", "first", ("cuda:0",)),
                ("evicted", "first", ("cuda:0",)),
                ("granted", "second", ("cuda:0",)),
                ("pinned", "second", ("cuda:0",)),
                ("unpinned", "second", ("cuda:0",)),
                ("released", "second", ("cuda:0",)),
                ("granted", lease, ("cuda:0",)),
                ("granted", "on the cpu", ("cpu",)),
                ("released", lease, ("cuda:0",)),
                ("configured", "", ()),
                ("rejected", "greedy", ()),
            ]
            or seen
        )
        assert watch.dropped == 0


async def test_a_cancelled_request_is_told(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        await manager.acquire("cuda", owner=owner())
        watch = manager.watch()
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner("gone")))
        await anyio.wait_all_tasks_blocked()
        waiter.scope.cancel()
        await waiter()
        assert [(await anext(watch)).kind for _ in range(2)] == ["queued", "cancelled"]


async def test_a_watcher_waits_for_the_next_change_and_can_be_cancelled(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        watch = manager.watch()
        change = asking(tasks, partial(anext, watch))
        await anyio.wait_all_tasks_blocked()
        change.scope.cancel()
        await change()
        change = asking(tasks, partial(anext, watch))
        await anyio.wait_all_tasks_blocked()
        await manager.acquire("cuda", owner=owner("new"))
        assert (await change()).owner == "new"


async def test_a_slow_watcher_loses_the_oldest_changes_and_holds_nobody_up(manage, owner):
    async with manage(1) as manager:
        watch = manager.watch()
        allocation = await manager.acquire("cuda", owner=owner())
        for _ in range(700):
            allocation.mark_busy()
            allocation.mark_idle()
        assert watch.dropped == 1 + 1400 - 1024
        manager.close()
        assert len([change async for change in watch]) == 1024


async def test_a_watch_that_nobody_holds_is_forgotten(manage, owner):
    async with manage(1) as manager:
        watch = manager.watch()
        assert manager._performer._watchers
        del watch
        gc.collect()
        assert not manager._performer._watchers
        await manager.acquire("cuda", owner=owner())


async def test_a_watch_of_a_closed_manager_ends(manage):
    async with manage(1) as manager:
        manager.close()
        assert [change async for change in manager.watch()] == []
