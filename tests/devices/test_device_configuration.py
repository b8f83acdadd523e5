"""`configure`: checked whole, committed whole; shrinking drains, growing wakes."""

from __future__ import annotations

import warnings
from functools import partial

import anyio
import pytest

from asyncgpu.errors import InfeasibleRequest, InvalidRequest
from asyncgpu.policy.offload import OffloadStrategy

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "devices", ["1,0", "0, 1", "cuda:0,cuda:1", ["cuda:1", 0], [0, 1], ("1", "0"), "auto"]
)
async def test_managed_devices_may_be_written_in_several_ways(manage, devices):
    async with manage(2) as manager:
        manager.configure(managed_devices=devices)
        assert manager.managed == (0, 1)


@pytest.mark.parametrize(
    "devices", ["", "cuda:0,", "CUDA:0", "-1", "0,0", "7", [], [0, 0], [-1], [True], [2], [None]]
)
async def test_a_bad_list_changes_nothing(manage, devices):
    async with manage(2, managed_devices="1") as manager:
        with pytest.raises(InvalidRequest):
            manager.configure(
                managed_devices=devices, offload_strategy="cpu", allow_multiple_per_device=True
            )
        assert manager.managed == (1,)
        status = manager.status()
        assert status.offload_strategy is OffloadStrategy.RESTART
        assert not status.allow_multiple_per_device


async def test_other_bad_values_change_nothing(manage):
    async with manage(2) as manager:
        with pytest.raises(InvalidRequest, match="disk"):
            manager.configure(managed_devices="0", offload_strategy="disk")
        with pytest.raises(InvalidRequest, match="yes"):
            manager.configure(managed_devices="0", allow_multiple_per_device="yes")
        assert manager.managed == (0, 1)


async def test_auto_resets_to_the_settings(manage):
    async with manage(
        2, managed_devices="cuda:1", offload_strategy="cpu", allow_multiple_per_device=True
    ) as manager:
        manager.configure(
            managed_devices="0,1",
            offload_strategy=OffloadStrategy.RESTART,
            allow_multiple_per_device=False,
        )
        assert manager.managed == (0, 1)
        manager.configure(
            managed_devices="auto", offload_strategy="auto", allow_multiple_per_device="auto"
        )
        assert manager.managed == (1,)
        assert manager.status().offload_strategy is OffloadStrategy.CPU
        assert manager.status().allow_multiple_per_device
        manager.configure()
        assert manager.managed == (1,)


async def test_settings_that_name_no_device_here_are_refused(manage):
    for devices in ("2", "", "cuda:0,cuda:0"):
        with pytest.raises(InvalidRequest):
            async with manage(2, managed_devices=devices):
                pass


async def test_shrinking_drains(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        idle, busy = owner("idle"), owner("busy")
        (await manager.acquire("cuda:0", owner=idle)).mark_idle()
        working = await manager.acquire("cuda:1", owner=busy)
        assert working.mark_busy()
        waiter = asking(tasks, partial(manager.acquire, "cuda:1", owner=owner()))
        await anyio.wait_all_tasks_blocked()

        manager.configure(managed_devices="0")
        with pytest.raises(InfeasibleRequest, match="cuda:1"):
            await waiter()
        assert busy.strategies == []
        manager.configure(managed_devices="1")
        await anyio.wait_all_tasks_blocked()
        assert len(idle.strategies) == 1, "an idle resident leaves a device no longer managed"
        manager.configure(managed_devices="0")
        working.mark_idle()
        await anyio.wait_all_tasks_blocked()
        assert len(busy.strategies) == 1, "and so does a busy one, after its call"
        (await manager.acquire("cuda", owner=owner(), timeout=0)).release()


async def test_growing_wakes_who_waits(manage, owner, asking):
    async with manage(2, managed_devices="0") as manager, anyio.create_task_group() as tasks:
        await manager.acquire("cuda", owner=owner())
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        assert not waiter.done.is_set()
        manager.configure(managed_devices="0,1")
        assert (await waiter()).device == "cuda:1"


async def test_switching_packing_on_wakes_who_waits_and_off_throws_nobody_out(
    manage, owner, asking
):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        first = await manager.acquire("cuda", owner=owner())
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        manager.configure(allow_multiple_per_device=True)
        second = await waiter()
        manager.configure(allow_multiple_per_device=False)
        manager.check_invariants()
        third = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        first.release()
        await anyio.wait_all_tasks_blocked()
        assert not third.done.is_set()
        second.release()
        await third()


async def test_an_eviction_on_its_way_survives_a_change(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        gate = anyio.Event()
        slow = owner("slow", gate=gate)
        (await manager.acquire("cuda:0", owner=slow)).mark_idle()
        waiter = asking(tasks, partial(manager.acquire, "cuda:0", owner=owner()))
        await slow.begun.wait()
        manager.configure(offload_strategy="cpu")
        gate.set()
        assert (await waiter()).device == "cuda:0"
        assert slow.strategies == [OffloadStrategy.RESTART]


async def test_an_exclusive_process_device_forces_restart_and_one_holder(manage):
    settings = {"offload_strategy": "cpu", "allow_multiple_per_device": True}
    async with manage(2, exclusive=[1], managed_devices="0", **settings) as manager:
        # It counts only while it is managed.
        status = manager.status()
        assert status.offload_strategy is OffloadStrategy.CPU
        assert status.allow_multiple_per_device

        with pytest.warns(UserWarning, match="cuda:1 is in exclusive-process mode"):
            manager.configure(managed_devices="0,1")
        status = manager.status()
        assert status.offload_strategy is OffloadStrategy.RESTART
        assert not status.allow_multiple_per_device


async def test_an_exclusive_process_device_is_warned_of_from_the_start(manage):
    with pytest.warns(UserWarning, match="cuda:0"):
        async with manage(1, exclusive=[0], allow_multiple_per_device=True):
            pass


async def test_an_exclusive_process_device_as_configured_needs_no_warning(manage):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with manage(1, exclusive=[0]) as manager:
            assert manager.managed == (0,)
