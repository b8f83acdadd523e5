"""Waiting for devices: who gets what, in which order, and that nothing is left of who gave up."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from asyncgpu.errors import InfeasibleRequest, InvalidDevice, InvalidRequest, NoRuntime
from asyncgpu.policy.qos import QoSPolicy

pytestmark = pytest.mark.anyio


def holders(manager):
    return {d.device: [h.owner for h in d.holders] for d in manager.status().devices if d.holders}


async def test_a_free_device_is_granted_at_once(manage, owner):
    async with manage(2) as manager:
        first = await manager.acquire("cuda", owner=owner("first"))
        second = await manager.acquire("cuda", owner=owner("second"))

        assert (first.devices, first.device, first.indices) == (("cuda:0",), "cuda:0", (0,))
        assert second.devices == ("cuda:1",)
        assert holders(manager) == {"cuda:0": ["first"], "cuda:1": ["second"]}


async def test_several_devices_come_together_in_numeric_order(manage, owner):
    async with manage(12) as manager:
        for _ in range(8):
            await manager.acquire("cuda", owner=owner())
        four = await manager.acquire("cudax4", owner=owner())
        assert four.devices == ("cuda:8", "cuda:9", "cuda:10", "cuda:11")
        assert four.device == "cuda:8"


async def test_named_devices_come_in_the_order_they_were_named(manage, owner):
    async with manage(2) as manager:
        both = await manager.acquire("cuda:1,0", owner=owner())
        assert both.devices == ("cuda:1", "cuda:0")


async def test_the_cpu_is_never_waited_for_and_excludes_nobody(manage, owner):
    async with manage(0) as manager:
        allocations = [await manager.acquire("cpu", owner=owner()) for _ in range(3)]
        assert [a.devices for a in allocations] == [("cpu",)] * 3
        assert [a.indices for a in allocations] == [()] * 3
        assert all(a.mark_busy() for a in allocations * 2)
        for allocation in allocations:
            allocation.mark_idle()
            allocation.release()


async def test_a_lease_is_held_for_its_block_and_waited_for_fairly(manage, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        order = []

        async def hold(name, until=None):
            async with manager.lease("cuda") as lease:
                order.append((name, lease.device))
                if until is not None:
                    await until.wait()

        held = anyio.Event()
        first = asking(tasks, partial(hold, "first", held))
        await anyio.wait_all_tasks_blocked()
        waiting = []
        for name in "abc":
            waiting.append(asking(tasks, partial(hold, name)))
            await anyio.wait_all_tasks_blocked()
        assert order == [("first", "cuda:0")]
        assert [each.position for each in manager.status().queue] == [1, 2, 3]
        held.set()
        for each in (first, *waiting):
            await each()
        assert order == [(name, "cuda:0") for name in ("first", "a", "b", "c")]


async def test_leases_and_allocations_say_what_they_are(manage, owner):
    async with manage(2) as manager:
        async with manager.lease("cudax2") as lease:
            assert repr(lease) == f"<Lease {lease.id} on cuda:0,cuda:1>"
            assert (lease.device, lease.indices) == ("cuda:0", (0, 1))
        allocation = await manager.acquire("cuda:1", owner=owner("me"))
        name = f"Allocation {allocation.id} of 'me' on cuda:1"
        assert repr(allocation) == f"<{name} (held)>"
        assert (allocation.name, allocation.owner.name) == ("me", "me")
        allocation.release()
        assert repr(allocation) == f"<{name} (released)>"


async def test_a_lease_ends_with_an_exception_in_its_block(manage):
    async with manage(1) as manager:
        with pytest.raises(KeyError):
            async with manager.lease("cuda"):
                raise KeyError
        assert holders(manager) == {}


async def test_classes_are_served_in_order_and_age(manage, owner, asking):
    async with manage(1, ageing_seconds=3600.0) as manager, anyio.create_task_group() as tasks:
        held = await manager.acquire("cuda", owner=owner())
        requests = {}
        for qos in (QoSPolicy.BEST_EFFORT, QoSPolicy.BURSTABLE, QoSPolicy.GUARANTEED):
            ask = partial(manager.acquire, "cuda", owner=owner(qos.value), qos=qos)
            requests[qos] = asking(tasks, ask)
            await anyio.wait_all_tasks_blocked()
        queue = [each.owner for each in manager.status().queue]
        assert queue == ["guaranteed", "burstable", "best_effort"]
        for qos in QoSPolicy:
            held.release()
            held = await requests[qos]()
        held.release()


async def test_two_devices_are_not_starved_by_a_stream_of_requests_for_one(manage):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        served = []

        async def one(hold):
            async with manager.lease("cuda"):
                served.append(1)
                await hold.wait()

        async def two():
            async with manager.lease("cudax2") as lease:
                served.append(lease.devices)

        holds = [anyio.Event() for _ in range(8)]
        for hold in holds[:2]:
            tasks.start_soon(one, hold)
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(two)
        await anyio.wait_all_tasks_blocked()
        for hold in holds[2:]:
            tasks.start_soon(one, hold)
        await anyio.wait_all_tasks_blocked()
        holds[0].set()
        await anyio.wait_all_tasks_blocked()
        assert served == [1, 1], "the free device is kept for the request for two"
        holds[1].set()
        await anyio.wait_all_tasks_blocked()
        assert served[2] == ("cuda:0", "cuda:1")
        for hold in holds[2:]:
            hold.set()
    assert served[3:] == [1] * 6


async def test_a_waiter_for_one_device_does_not_block_another(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        first = await manager.acquire("cuda:0", owner=owner())
        waiter = asking(tasks, partial(manager.acquire, "cuda:0", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        other = await manager.acquire("cuda", owner=owner())
        assert other.device == "cuda:1"
        first.release()
        assert (await waiter()).device == "cuda:0"


@pytest.mark.parametrize("device", ["cudax3", "cuda:2", "cuda:0,5"])
async def test_what_can_never_be_met_fails_at_once_and_evicts_nobody(manage, owner, device):
    async with manage(2) as manager:
        owners = [owner(), owner()]
        for each in owners:
            (await manager.acquire("cuda", owner=each)).mark_idle()
        with pytest.raises(InfeasibleRequest, match="managed: cuda:0,cuda:1"):
            async with manager.lease(device):
                pass
        assert [each.strategies for each in owners] == [[], []]
        assert len(holders(manager)) == 2


async def test_more_memory_than_any_device_has_fails_at_once(manage, owner):
    async with manage(2) as manager:
        with pytest.raises(InfeasibleRequest, match=r"9 GiB .* has 8 GiB"):
            await manager.acquire("cuda", owner=owner(), vram="9GiB")
        with pytest.raises(InfeasibleRequest, match="usable by this request: cuda:1"):
            await manager.acquire("cudax2", owner=owner(), among=[1])


async def test_without_a_gpu_the_error_names_the_variable_that_makes_virtual_ones(manage):
    async with manage(0) as manager:
        with pytest.raises(InfeasibleRequest, match="ASYNCGPU_VIRTUAL_DEVICES"):
            async with manager.lease("cuda"):
                pass


async def test_bad_arguments_are_refused_before_anything_is_asked(manage, owner):
    async with manage(1) as manager, manager.lease("cuda"):
        with pytest.raises(InvalidDevice, match="cudax2"):
            manager.lease("CUDA")
        with pytest.raises(InvalidRequest, match="vram"):
            manager.lease("cuda", vram="lots")
        with pytest.raises(InvalidDevice):
            await manager.acquire("gpu", owner=owner())
        for timeout in (-1, float("nan"), "1", True):
            with pytest.raises(InvalidRequest, match="timeout"):
                await manager.acquire("cuda", owner=owner(), timeout=timeout)
        assert manager.status().queue == ()


async def test_a_timeout_names_the_device_the_wait_and_the_holder(manage, owner):
    async with manage(1) as manager:
        await manager.acquire("cuda", owner=owner("the holder"))
        with pytest.raises(TimeoutError, match=r"cuda not granted within .* s: .*'the holder'"):
            await manager.acquire("cuda", owner=owner(), timeout=0.01)
        with pytest.raises(TimeoutError, match="cuda:0 is held by resident"):
            async with manager.lease("cuda:0", timeout=0):
                pass
        assert manager.status().queue == ()
        assert holders(manager) == {"cuda:0": ["the holder"]}


async def test_no_timeout_strikes_what_is_granted_at_once(manage, owner):
    async with manage(1) as manager:
        assert (await manager.acquire("cuda", owner=owner(), timeout=0)).device == "cuda:0"


async def test_a_cancelled_waiter_leaves_no_trace(manage, owner, asking):
    async with manage(2) as manager, anyio.create_task_group() as tasks:
        held = [await manager.acquire("cuda", owner=owner()) for _ in range(2)]
        pair = asking(tasks, partial(manager.acquire, "cudax2", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        one = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        held[0].release()
        await anyio.wait_all_tasks_blocked()
        assert not one.done.is_set(), "the free device is kept for the pair"
        pair.scope.cancel()
        assert (await one()).device == "cuda:0"
        await pair()
        assert [each.owner for each in manager.status().queue] == []


async def test_a_grant_that_meets_a_cancel_is_given_back(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        for cancel_first in (True, False):
            held = await manager.acquire("cuda", owner=owner())
            waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
            await anyio.wait_all_tasks_blocked()
            if cancel_first:
                waiter.scope.cancel()
                held.release()
            else:
                held.release()
                waiter.scope.cancel()
            await waiter.done.wait()
            if waiter.result is not None:
                waiter.result.release()
            assert holders(manager) == {}
            manager.check_invariants()


async def test_a_cancelled_asker_asks_nothing(manage, owner):
    async with manage(1) as manager:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await manager.acquire("cuda", owner=owner())
        assert scope.cancelled_caught
        assert holders(manager) == {}


async def test_release_is_idempotent_and_frees_at_once(manage, owner):
    async with manage(1) as manager:
        allocation = await manager.acquire("cuda", owner=owner())
        assert not allocation.released
        allocation.release()
        allocation.release()
        assert allocation.released
        assert not allocation.mark_busy()
        allocation.mark_idle()
        allocation.pinned = True
        assert (await manager.acquire("cuda", owner=owner(), timeout=0)).device == "cuda:0"


async def test_one_of_a_group_stands_on_a_device(manage, owner, asking):
    async with (
        manage(2, allow_multiple_per_device=True) as manager,
        anyio.create_task_group() as tasks,
    ):
        ask = partial(manager.acquire, "cuda", group="pool")
        placed = [await ask(owner=owner()) for _ in range(2)]
        assert {each.device for each in placed} == {"cuda:0", "cuda:1"}
        third = asking(tasks, partial(ask, owner=owner()))
        await anyio.wait_all_tasks_blocked()
        assert not third.done.is_set()
        placed[1].release()
        assert (await third()).device == "cuda:1"


async def test_closing_ends_who_waits_and_refuses_who_comes(manage, owner, asking):
    async with manage(1) as manager, anyio.create_task_group() as tasks:
        held = await manager.acquire("cuda", owner=owner())
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner()))
        await anyio.wait_all_tasks_blocked()
        manager.close()
        with pytest.raises(NoRuntime):
            await waiter()
        with pytest.raises(NoRuntime):
            await manager.acquire("cuda", owner=owner())
        held.release()
        assert holders(manager) == {}
