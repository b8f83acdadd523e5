"""Evictions: who leaves for whom, and that nobody else has to wait for it."""

from __future__ import annotations

import logging
from functools import partial

import anyio
import pytest

from asyncgpu.policy.offload import OffloadStrategy
from asyncgpu.policy.qos import QoSPolicy

pytestmark = pytest.mark.anyio


async def idle(manager, owner, device="cuda", **wants):
    allocation = await manager.acquire(device, owner=owner, **wants)
    allocation.mark_idle()
    return allocation


async def test_the_least_recently_used_idle_resident_leaves(manage, owner):
    async with manage(2) as manager:
        first, second = owner("first"), owner("second")
        allocations = [await idle(manager, each) for each in (first, second)]
        assert allocations[0].mark_busy()
        allocations[0].mark_idle()

        third = await manager.acquire("cuda", owner=owner("third"))

        assert third.device == "cuda:1"
        assert second.strategies == [OffloadStrategy.RESTART]
        assert first.strategies == []
        assert allocations[1].released
        assert not allocations[0].released


async def test_busy_and_starting_residents_stay(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        starting, busy = owner("starting"), owner("busy")
        await manager.acquire("cuda", owner=starting)
        working = await manager.acquire("cuda", owner=busy)
        assert working.mark_busy()
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        assert not waiter.done.is_set()
        working.mark_idle()
        assert (await waiter()).device == "cuda:1"
        assert (starting.strategies, busy.strategies) == ([], [OffloadStrategy.RESTART])


async def test_a_pinned_resident_stays_until_it_is_unpinned(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        pinned = await idle(manager, owner())
        pinned.pinned = True
        assert pinned.pinned
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        assert not waiter.done.is_set()
        pinned.pinned = False
        assert (await waiter()).device == "cuda:0"


async def test_a_named_device_evicts_although_another_is_free(manage, owner):
    async with manage(2) as manager:
        there = owner()
        await idle(manager, there, "cuda:0")
        named = await manager.acquire("cuda:0", owner=owner())
        assert named.device == "cuda:0"
        assert len(there.strategies) == 1


async def test_nobody_is_evicted_unless_all_that_is_asked_can_be_had(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        there = owner()
        await idle(manager, there, "cuda:0")
        other = await manager.acquire("cuda:1", owner=owner())
        pair = asking(tasks, partial(manager.acquire, "cudax2", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        assert there.strategies == []
        other.release()
        assert (await pair()).devices == ("cuda:0", "cuda:1")
        assert len(there.strategies) == 1


async def test_a_free_device_is_not_waited_for_because_another_is_vacated(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        gate = anyio.Event()
        slow = owner("slow", gate=gate)
        await idle(manager, slow, "cuda:0")
        evictor = asking(tasks, partial(manager.acquire, "cuda:0", owner=owner()))
        await slow.begun.wait()
        other = await manager.acquire("cuda", owner=owner(), timeout=0)
        assert other.device == "cuda:1"
        assert not evictor.done.is_set()
        gate.set()
        assert (await evictor()).device == "cuda:0"


async def test_who_waits_for_an_eviction_takes_what_is_free_before_it_is_over(
    manage, owner, asking
):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        gate = anyio.Event()
        slow = owner("slow", gate=gate)
        await idle(manager, slow, "cuda:0")
        held = await manager.acquire("cuda:1", owner=owner())
        first = asking(tasks, partial(manager.acquire, "cuda", owner=owner("first")))
        await slow.begun.wait()
        second = asking(tasks, partial(manager.acquire, "cuda", owner=owner("second")))
        await anyio.wait_all_tasks_blocked()
        held.release()
        assert (await first()).device == "cuda:1"
        assert not second.done.is_set()
        gate.set()
        assert (await second()).device == "cuda:0"


async def test_a_victim_is_kept_from_new_calls_and_holds_its_device_to_the_end(
    manage, owner, asking
):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        gate = anyio.Event()
        slow = owner("slow", gate=gate)
        victim = await idle(manager, slow)
        evictor = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await slow.begun.wait()
        assert victim.evicting
        assert not victim.released
        assert not victim.mark_busy()
        victim.mark_idle()
        victim.pinned = True
        assert not victim.pinned
        [device] = manager.status().devices
        assert [(h.owner, h.state) for h in device.holders] == [("slow", "evicting")]
        assert not evictor.done.is_set()
        gate.set()
        await evictor()
        assert victim.released
        assert not victim.evicting


async def test_devices_vacated_for_a_request_that_was_cancelled_are_for_anybody(
    manage, owner, asking
):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        gate = anyio.Event()
        slow = owner("slow", gate=gate)
        await idle(manager, slow)
        first = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await slow.begun.wait()
        second = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        first.scope.cancel()
        await first()
        gate.set()
        assert (await second()).device == "cuda:0"
        assert len(slow.strategies) == 1


async def test_an_eviction_that_raises_counts_as_over_and_is_logged(manage, owner, caplog):
    async with manage(1) as manager:
        await idle(manager, owner("clumsy", error=ValueError("no")))
        with caplog.at_level(logging.ERROR, logger="asyncgpu.devices"):
            assert (await manager.acquire("cuda", owner=owner())).device == "cuda:0"
        assert "clumsy" in caplog.text
        assert "ValueError: no" in caplog.text


async def test_an_eviction_that_does_not_end_counts_as_over_after_its_time(manage, owner, caplog):
    async with manage(1, eviction_timeout=0.01) as manager:
        stuck = owner("stuck", gate=anyio.Event())
        victim = await idle(manager, stuck)
        with caplog.at_level(logging.ERROR, logger="asyncgpu.devices"):
            assert (await manager.acquire("cuda", owner=owner())).device == "cuda:0"
        assert victim.released
        assert "not evicted in time" in caplog.text


async def test_an_owner_may_release_in_its_eviction(manage, owner):
    async with manage(1) as manager:
        clean = owner("clean")
        victim = await idle(manager, clean)
        clean.then = victim.release
        assert (await manager.acquire("cuda", owner=owner())).device == "cuda:0"
        assert victim.released


async def test_an_owner_that_ends_during_its_eviction_frees_the_device_at_once(
    manage, owner, asking
):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        gate = anyio.Event()
        slow = owner("slow", gate=gate)
        victim = await idle(manager, slow)
        evictor = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await slow.begun.wait()
        victim.release()
        assert (await evictor()).device == "cuda:0"
        gate.set()


async def test_the_strategy_is_the_one_configured(manage, owner):
    async with manage(1, offload_strategy="cpu") as manager:
        there = owner()
        await idle(manager, there)
        await manager.acquire("cuda", owner=owner())
        assert there.strategies == [OffloadStrategy.CPU]


async def test_a_preempting_lease_stops_a_running_resident_of_no_higher_class(manage, owner):
    async with manage(2) as manager:
        above, equal = owner("above"), owner("equal")
        for each, qos in ((above, QoSPolicy.GUARANTEED), (equal, QoSPolicy.BURSTABLE)):
            allocation = await manager.acquire("cuda", owner=each, qos=qos)
            assert allocation.mark_busy()
        async with manager.lease("cuda", preempt=True) as lease:
            assert lease.device == "cuda:1"
        assert (above.strategies, len(equal.strategies)) == ([], 1)
        with pytest.raises(TimeoutError):
            async with manager.lease("cuda:0", preempt=True, timeout=0.01):
                pass
        assert above.strategies == []


async def test_four_tools_on_two_devices_all_succeed_and_never_share(manage, resident):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        done = []

        def check():
            manager.check_invariants()
            for device in manager.status().devices:
                assert len(device.holders) <= 1

        async def use(tool):
            for _ in range(3):

                async def work():
                    check()
                    await anyio.lowlevel.checkpoint()
                    check()

                await tool.call(work)
            done.append(tool.name)

        tools = [resident(manager, name) for name in "abcd"]
        for tool in tools:
            tasks.start_soon(use, tool)
    assert sorted(done) == ["a", "b", "c", "d"]
    assert sum(tool.evictions for tool in tools) >= 2


async def test_four_equal_residents_on_two_packed_devices_stand_two_and_two(manage, owner):
    async with manage(2, allow_multiple_per_device=True) as manager:
        for vram in (None, "1GiB"):
            placed = [await manager.acquire("cuda", owner=owner(), vram=vram) for _ in range(4)]
            assert sorted(each.device for each in placed) == ["cuda:0"] * 2 + ["cuda:1"] * 2
            for each in placed:
                each.release()


async def test_declared_memory_is_reserved_and_evicted_for(manage, owner, asking):
    async with (
        manage(1, allow_multiple_per_device=True) as manager,
        anyio.create_task_group() as tasks,
    ):
        old, new = owner("old"), owner("new")
        await idle(manager, old, vram="3GiB")
        await idle(manager, new, vram="3GiB")
        big = await manager.acquire("cuda", owner=owner("big"), vram="5GiB")
        assert (len(old.strategies), len(new.strategies)) == (1, 0)
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner(), vram="4GiB"))
        await anyio.wait_all_tasks_blocked()
        assert not waiter.done.is_set()
        big.release()
        await waiter()
