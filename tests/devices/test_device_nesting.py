"""Nobody waits for himself: what a task holds travels with it."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from asyncgpu import ambient
from asyncgpu.errors import InfeasibleRequest, RequestError

pytestmark = pytest.mark.anyio


async def test_a_lease_inside_a_lease_reuses_its_device(manage):
    async with manage(1) as manager:
        async with manager.lease("cuda") as outer:
            async with manager.lease("cuda:0") as inner:
                assert (inner.device, inner.id != outer.id) == (outer.device, True)
            async with manager.lease("cuda") as inner:
                assert ambient.claims.get() == {outer.id, inner.id}
            assert ambient.claims.get() == {outer.id}
        assert ambient.claims.get() == frozenset()


async def test_a_reused_device_is_free_only_when_both_have_ended(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        async with manager.lease("cuda"):
            inner = await manager.acquire("cuda", owner=owner("inner"))
            waiter = asking(tasks, partial(_from_outside, manager, owner("outside")))
            await anyio.wait_all_tasks_blocked()
        await anyio.wait_all_tasks_blocked()
        assert not waiter.done.is_set()
        inner.release()
        assert (await waiter()).device == "cuda:0"


async def _from_outside(manager, owner):
    ambient.claims.set(frozenset())
    return await manager.acquire("cuda", owner=owner)


async def test_a_free_device_is_taken_before_a_held_one_is_reused(manage):
    async with manage(2) as manager, manager.lease("cuda"), manager.lease("cuda") as other:
        assert other.device == "cuda:1"
        # Both are its own now, and together they are what is asked for.
        async with manager.lease("cudax2") as both:
            assert both.devices == ("cuda:0", "cuda:1")


async def test_others_are_waited_for_as_usual(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        other = await manager.acquire("cuda:1", owner=owner())
        async with manager.lease("cuda:0"):
            waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
            await anyio.wait_all_tasks_blocked()
            assert not waiter.done.is_set()
            other.release()
            assert (await waiter()).device == "cuda:1"


async def test_more_than_a_lease_covers_would_wait_for_itself(manage):
    async with manage(2) as manager, manager.lease("cuda:0"):
        with pytest.raises(InfeasibleRequest, match=r"would wait for itself.*lease on cuda:0"):
            async with manager.lease("cudax2"):
                pass
    async with (
        manage(1, allow_multiple_per_device=True) as manager,
        manager.lease("cuda", vram="6GiB"),
    ):
        with pytest.raises(InfeasibleRequest, match="would wait for itself"):
            async with manager.lease("cuda", vram="7GiB"):
                pass
        async with manager.lease("cuda", vram="2GiB"):
            assert manager.status().devices[0].reserved == 8 << 30
            # Beside the two there is no room, but within the first there is.
            async with manager.lease("cuda", vram="3GiB"):
                assert manager.status().devices[0].reserved == 8 << 30


async def test_a_call_from_a_busy_resident_does_not_wait_for_that_resident(manage, owner):
    async with manage(1) as manager:
        caller = await manager.acquire("cuda", owner=owner())
        assert caller.mark_busy()
        ambient.claims.set(frozenset({caller.id}))
        with pytest.raises(InfeasibleRequest, match="would wait for itself"):
            await manager.acquire("cuda", owner=owner())
        caller.mark_idle()
        assert (await manager.acquire("cuda", owner=owner())).device == "cuda:0"


async def test_claims_of_one_manager_mean_nothing_to_another(manage, owner):
    async with manage(1) as one, manage(1) as two:
        held = await two.acquire("cuda", owner=owner())
        async with one.lease("cuda"):
            with pytest.raises(TimeoutError):
                await two.acquire("cuda", owner=owner(), timeout=0.01)
        held.release()


async def test_a_lease_may_be_left_in_another_task_and_is_entered_once(manage):
    async with manage(1) as manager:
        block = manager.lease("cuda")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(block.__aenter__)
        assert len(manager.status().devices[0].holders) == 1
        with pytest.raises(RequestError, match="once"):
            await block.__aenter__()
        await block.__aexit__(None, None, None)
        assert manager.status().devices[0].holders == ()
