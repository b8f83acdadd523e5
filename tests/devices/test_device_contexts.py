"""Contexts, leases and residents on one ledger."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from asyncgpu.errors import InfeasibleRequest, InvalidTransition
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.units import GB

pytestmark = pytest.mark.anyio

BURSTABLE = QoSPolicy.BURSTABLE


def reserve(manager, vram, *, name="context", qos=BURSTABLE, device=0, **options):
    return partial(manager.reserve, device, owner_name=name, vram=vram, qos=qos, **options)


async def test_contexts_share_a_device_up_to_its_memory(manage, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        first = await reserve(manager, 5 * GB)()
        second = await reserve(manager, "3GiB")()
        nothing = await reserve(manager, 0)()
        assert manager.status().devices[0].reserved == 8 * GB
        third = asking(tasks, reserve(manager, GB))
        await anyio.wait_all_tasks_blocked()
        assert not third.done.is_set()
        second.release()
        for each in (first, nothing, await third()):
            assert each.indices == (0,)
            each.release()


async def test_reservations_are_served_in_order_and_not_overtaken_by_smaller_ones(manage, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        held = await reserve(manager, 6 * GB)()
        large = asking(tasks, reserve(manager, 6 * GB, name="large"))
        await anyio.wait_all_tasks_blocked()
        small = asking(tasks, reserve(manager, GB, name="small"))
        await anyio.wait_all_tasks_blocked()
        assert [each.owner for each in manager.status().queue] == ["large", "small"]
        # One that reserves nothing takes nothing from them.
        (await reserve(manager, 0)()).release()
        held.release()
        for each in (await large(), await small()):
            each.release()


async def test_a_context_larger_than_its_device_fails_at_once(manage):
    async with manage(1) as manager:
        with pytest.raises(InfeasibleRequest, match="9 GiB"):
            await reserve(manager, 9 * GB)()
        with pytest.raises(InfeasibleRequest, match="cuda:4"):
            await reserve(manager, 0, device=4)()


async def test_a_lease_waits_for_the_contexts_and_they_for_it(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        context = await reserve(manager, GB)()
        resident = asking(tasks, partial(manager.acquire, "cuda", owner=owner(), vram=GB))
        await anyio.wait_all_tasks_blocked()
        assert not resident.done.is_set()
        later = asking(tasks, reserve(manager, GB, name="later"))
        await anyio.wait_all_tasks_blocked()
        assert not later.done.is_set(), "the device is kept for who came first"
        context.release()
        (await resident()).mark_idle()
        (await later()).release()


async def test_with_packing_a_worker_that_declares_its_memory_stands_beside_contexts(
    manage, owner, asking
):
    async with (
        manage(1, allow_multiple_per_device=True) as manager,
        anyio.create_task_group() as tasks,
    ):
        context = await reserve(manager, GB)()
        beside = await manager.acquire("cuda", owner=owner(), vram="2GiB", timeout=0)
        undeclared = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        assert not undeclared.done.is_set()
        context.release()
        await undeclared()
        beside.release()


async def test_a_context_is_never_evicted_and_has_no_calls(manage):
    async with manage(1) as manager:
        context = await reserve(manager, 0)()
        with pytest.raises(InvalidTransition):
            context.mark_busy()
        with pytest.raises(TimeoutError, match="context"):
            async with manager.lease("cuda", preempt=True, timeout=0.01):
                pass
        context.release()
