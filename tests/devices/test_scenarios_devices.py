"""The acceptance scenarios that concern devices, named by their rows.

Rows whose behaviour a test beside this one already states are not repeated here.
"""

from __future__ import annotations

import subprocess
from functools import partial

import anyio
import pytest

from asyncgpu.errors import InvalidDevice
from asyncgpu.policy.offload import OffloadStrategy
from asyncgpu.units import GB

pytestmark = pytest.mark.anyio


async def leased(tasks, manager, device):
    """Let another task hold a lease until the event that this returns is set."""
    done = anyio.Event()

    async def hold(*, task_status):
        async with manager.lease(device):
            task_status.started()
            await done.wait()

    await tasks.start(hold)
    return done


async def test_s01_two_requests_stand_on_two_devices_and_show(manage, owner):
    async with manage(2) as manager:
        a, b = [await manager.acquire("cuda", owner=owner(name)) for name in "AB"]
        assert (a.device, b.device) == ("cuda:0", "cuda:1")
        status = manager.status()
        shown = [(d.device, h.owner, h.kind) for d in status.devices for h in d.holders]
        assert shown == [("cuda:0", "A", "resident"), ("cuda:1", "B", "resident")]
        assert all(h.since <= status.time for d in status.devices for h in d.holders)


async def test_s04_from_the_cpu_to_a_device(manage, owner):
    async with manage(2) as manager:
        on_cpu = await manager.acquire("cpu", owner=owner("A"))
        on_device = await manager.acquire("cuda", owner=owner("A"))
        on_cpu.release()
        assert on_device.device == "cuda:0"


async def test_s16_nobody_evicts_a_lease(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        held = await leased(tasks, manager, "cuda")
        resident = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        lease = asking(tasks, manager.lease("cuda:0", preempt=True).__aenter__)
        await anyio.wait_all_tasks_blocked()
        assert not resident.done.is_set()
        assert not lease.done.is_set()
        held.set()
        (await resident()).release()
        await lease()


async def test_s21_a_resident_waits_for_a_lease(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        held = await leased(tasks, manager, "cuda")
        resident = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        assert len(manager.status().queue) == 1
        held.set()
        assert (await resident()).device == "cuda:0"


async def test_s23_nobody_is_evicted_for_two_before_the_second_is_there(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        idle = await manager.acquire("cuda:0", owner=owner("A"))
        idle.mark_idle()
        held = await leased(tasks, manager, "cuda:1")
        both = asking(tasks, partial(manager.acquire, "cudax2", owner=owner("both")))
        await anyio.wait_all_tasks_blocked()
        assert not idle.evicting
        held.set()
        assert (await both()).devices == ("cuda:0", "cuda:1")
        assert idle.released


async def test_s27_the_idle_one_leaves_although_the_busy_one_is_older(manage, owner):
    async with manage(2) as manager:
        older, idle = [await manager.acquire("cuda", owner=owner(name)) for name in "AB"]
        idle.mark_idle()
        older.mark_busy()
        newcomer = await manager.acquire("cuda", owner=owner("C"))
        assert newcomer.device == "cuda:1"
        assert idle.released
        assert not older.evicting


async def test_s37_a_stop_that_fails_holds_nobody_up(manage, owner, caplog):
    async with manage(1) as manager:
        old = owner("A", error=OSError("its process is gone"))
        (await manager.acquire("cuda", owner=old)).mark_idle()
        assert (await manager.acquire("cuda", owner=owner("B"))).device == "cuda:0"
        assert old.strategies == [OffloadStrategy.RESTART]
        assert "its process is gone" in caplog.text


async def test_s39_the_third_of_three_goes_where_least_is(manage, owner):
    async with manage(2, allow_multiple_per_device=True) as manager:
        sizes = (4 * GB, GB, GB)
        placed = [await manager.acquire("cuda", owner=owner(), vram=size) for size in sizes]
        assert [each.device for each in placed] == ["cuda:0", "cuda:1", "cuda:1"]


async def test_s44_asking_for_what_one_has_moves_nobody(manage, owner):
    async with manage(1) as manager:
        held = await manager.acquire("cuda", owner=owner("A"))
        assert held.mark_busy()
        assert held.device == "cuda:0"
        assert not held.evicting


async def test_s46_releasing_again_is_nothing(manage, owner):
    async with manage(1) as manager:
        held = await manager.acquire("cuda", owner=owner())
        for _ in range(2):
            held.release()
        assert not held.mark_busy()
        held.mark_idle()
        assert manager.status().devices[0].holders == ()


async def test_s47_a_shrunk_machine_lets_the_busy_one_finish(manage, owner):
    async with manage(2, managed_devices="cuda:1") as manager:
        busy = await manager.acquire("cuda", owner=owner("A"))
        busy.mark_busy()
        assert busy.device == "cuda:1"
        manager.configure(managed_devices=[0])
        assert not busy.evicting
        busy.mark_idle()
        assert (await manager.acquire("cuda", owner=owner("A"))).device == "cuda:0"
        assert busy.evicting or busy.released


@pytest.mark.parametrize("bad", ["", "cuda:0,", "CUDA:0", "-1", "cuda:-1"])
async def test_s48_a_list_that_cannot_be_read_changes_nothing(manage, bad):
    async with manage(2, managed_devices="0, 1") as manager:
        with pytest.raises(InvalidDevice):
            manager.configure(managed_devices=bad)
        assert manager.managed == (0, 1)
        with pytest.raises(InvalidDevice):
            async with manage(2, managed_devices=bad):
                pass


async def test_s49_more_than_ten_devices_go_by_number(manage, owner):
    async with manage(12) as manager:
        for index in range(8):
            await manager.acquire(f"cuda:{index}", owner=owner())
        four = await manager.acquire("cudax4", owner=owner())
        assert four.devices == ("cuda:8", "cuda:9", "cuda:10", "cuda:11")


async def test_sx02_ten_thousand_leases_start_no_process_and_ask_the_driver_rarely(
    manage, monkeypatch
):
    asked = []

    def free(index):
        asked.append(index)
        return 8 * GB

    def refuse(*args, **kwargs):
        raise AssertionError("a process was started for an allocation")

    async def many(manager):
        for _ in range(500):
            async with manager.lease("cuda", vram=GB):
                pass

    monkeypatch.setattr(subprocess, "Popen", refuse)
    async with manage(4, free=free) as manager:
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(many, manager)
        readings = 4 * (2 + (anyio.current_time() - began) / 0.1)
    assert len(asked) <= readings, "they are asked by the clock, not by the request"


async def test_sx03_waits_holders_and_evictions_can_be_observed(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        async with manager.lease("cuda"):
            pass
        (await manager.acquire("cuda", owner=owner("first"))).mark_idle()
        second = await manager.acquire("cuda", owner=owner("second"))
        third = asking(tasks, partial(manager.acquire, "cuda", owner=owner("third")))
        await anyio.wait_all_tasks_blocked()

        status = manager.status()
        [eviction] = status.evictions
        assert (eviction.owner, eviction.devices, eviction.running) == (
            "first",
            ("cuda:0",),
            False,
        )
        assert "least recently used" in eviction.reason
        assert "'second'" in eviction.reason
        [queued] = status.queue
        assert (queued.owner, queued.position, queued.estimated_wait) == ("third", 1, None)
        second.mark_busy()
        second.mark_idle()
        assert (await third()).granted
        assert [each.owner for each in manager.status().evictions] == ["first", "second"]


async def test_the_history_of_evictions_is_bounded(manage, owner):
    async with manage(1) as manager:
        for number in range(120):
            (await manager.acquire("cuda", owner=owner(f"tool {number}"))).mark_idle()
        kept = manager.status().evictions
        assert (len(kept), kept[-1].owner) == (100, "tool 118")
