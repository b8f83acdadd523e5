"""VRAM budgets of contexts, on virtual devices: refused where torch allocates, typed outside."""

from __future__ import annotations

import gc
import threading
import weakref

import anyio
import anyio.to_thread
import pytest
import torch

from asyncgpu import QoSPolicy, context_session
from asyncgpu.errors import (
    ContextClosed,
    InfeasibleRequest,
    InvalidRequest,
    OutOfDeviceMemory,
    SessionMisuse,
    VRAMBudgetExceeded,
)
from asyncgpu.units import GB, MB

pytestmark = pytest.mark.anyio


def allocate(megabytes):
    return torch.empty(megabytes * MB, dtype=torch.uint8)


def allocate_and_drop(*sizes):
    return [len(allocate(size)) for size in sizes]


@pytest.fixture
async def small(registry):
    return await registry.create("small", max_vram=1000 * MB)


# ------------------------------------------------------------------------------ refusing


async def test_e1_what_fits_is_given_and_what_does_not_is_refused(small):
    held = [await small.run_sync(allocate, 400), await small.run_sync(allocate, 400)]
    with pytest.raises(VRAMBudgetExceeded) as caught:
        await small.run_sync(allocate, 300)
    assert (caught.value.context, caught.value.requested, caught.value.available) == (
        "small",
        300 * MB,
        200 * MB,
    )
    assert isinstance(caught.value, torch.OutOfMemoryError)
    assert small.usage().used == 800 * MB
    assert len(held) == 2


async def test_e11_inside_a_session_torch_fails_and_the_exit_raises_ours(small):
    with pytest.raises(VRAMBudgetExceeded, match="small"):
        async with context_session(small):
            allocate(1200)
    assert small.usage().used == 0
    async with context_session(small):
        allocate(900)


async def test_inside_the_block_it_is_torchs_error(small):
    async with context_session(small):
        with pytest.raises(torch.OutOfMemoryError):
            allocate(1200)
        await anyio.sleep(0)
        with pytest.raises(torch.OutOfMemoryError):
            allocate(1200)


async def test_run_raises_ours(small):
    async def work():
        await anyio.sleep(0)
        return allocate(1200)

    with pytest.raises(VRAMBudgetExceeded):
        await small.run(work)


async def test_a_bound_function_in_a_foreign_thread_stays_in_the_budget(small):
    with pytest.raises(VRAMBudgetExceeded):
        await anyio.to_thread.run_sync(small.bind(allocate), 1200)
    held = await anyio.to_thread.run_sync(small.bind(allocate), 100)
    assert small.usage().used == len(held)


async def test_a_backward_pass_stays_in_the_budget(registry):
    tiny = await registry.create("tiny", max_vram=100 * MB)
    reached = []

    def train(megabytes):
        weights = torch.ones(megabytes * MB // 4, requires_grad=True)
        loss = weights.sin().sum()
        reached.append(megabytes)
        # The derivative takes two more of its size beside the weights.
        loss.backward()

    await tiny.run_sync(train, 10)
    with pytest.raises(VRAMBudgetExceeded):
        await tiny.run_sync(train, 34)
    assert reached == [10, 34]
    assert tiny.usage().used == 0


async def test_the_sync_form_raises_ours_too(small):
    def work():
        with context_session(small):
            allocate(1200)

    with pytest.raises(VRAMBudgetExceeded):
        await anyio.to_thread.run_sync(work)


async def test_the_inner_context_of_nested_sessions_is_the_one_that_pays(registry, small):
    inner = await registry.create("inner", max_vram=100 * MB)
    async with context_session(small):
        async with context_session(inner):
            held = allocate(60)
            with pytest.raises(torch.OutOfMemoryError):
                allocate(60)
        more = allocate(200)
        assert (inner.usage().used, small.usage().used) == (len(held), len(more))
    with pytest.raises(VRAMBudgetExceeded) as caught:
        async with context_session(small), context_session(inner):
            allocate(200)
    assert caught.value.context == "inner"


async def test_a_neighbour_notices_nothing(registry, small):
    neighbour = await registry.create("neighbour", max_vram=500 * MB, qos=QoSPolicy.GUARANTEED)
    greedy = await registry.create("greedy")

    def take_all():
        held = []
        try:
            while True:
                held.append(allocate(64))
        except torch.OutOfMemoryError:
            return held

    held = await greedy.run_sync(take_all)
    assert len(held) > 50
    assert len(await neighbour.run_sync(allocate, 500)) == 500 * MB


async def test_a_full_device_is_the_devices_error(registry):
    greedy = await registry.create("greedy")
    await registry.create("guaranteed", max_vram="7GiB", qos=QoSPolicy.GUARANTEED)
    with pytest.raises(OutOfDeviceMemory) as caught:
        await greedy.run_sync(allocate, 1500)
    assert (caught.value.device, caught.value.requested) == ("cuda:0", 1500 * MB)
    assert caught.value.available == GB
    assert isinstance(caught.value, torch.OutOfMemoryError)


# ---------------------------------------------------------------------------- accounting


async def test_e13_memory_is_credited_to_who_allocated_it_wherever_it_is_freed(registry, small):
    other = await registry.create("other")
    held = [await small.run_sync(allocate, 100)]
    async with context_session(other):
        held.pop()
    assert (small.usage().used, other.usage().used) == (0, 0)
    held.append(await small.run_sync(allocate, 100))
    thread = threading.Thread(target=held.pop)
    thread.start()
    thread.join()
    assert small.usage().used == 0


async def test_e15_live_tensors_of_a_closed_context_stay_charged_until_they_are_dead(registry):
    ctx = await registry.create("a", max_vram="7GiB", qos=QoSPolicy.GUARANTEED)
    held = [await ctx.run_sync(allocate, 2048)]
    await ctx.aclose()
    held[0][-1] = 7
    assert ctx.usage().used == 2 * GB
    greedy = await registry.create("greedy")
    with pytest.raises(OutOfDeviceMemory):
        await greedy.run_sync(allocate, 7 * 1024)
    held.clear()
    assert ctx.usage().used == 0
    assert len(await greedy.run_sync(allocate, 7 * 1024)) == 7 * GB


async def test_usage_says_what_is_used_set_aside_and_possible(registry):
    ctx = await registry.create("a", max_vram="2GiB", base_vram="1GiB")
    held = await ctx.run_sync(allocate, 100)
    usage = ctx.usage()
    assert (usage.used, usage.max, usage.base, usage.reserved) == (len(held), 2 * GB, GB, GB)
    del held
    assert (ctx.usage().used, ctx.usage().peak) == (0, 100 * MB)


async def test_an_error_keeps_no_tensor_of_the_failed_call_alive(small):
    alive = []

    def work():
        first = allocate(600)
        alive.append(weakref.ref(first.untyped_storage()))
        return first, allocate(600)

    gc.disable()
    try:
        with pytest.raises(VRAMBudgetExceeded) as caught:
            await small.run_sync(work)
        assert alive[0]() is None, "the frames of the error hold it"
        assert small.usage().used == 0
        assert caught.value.__cause__ is not None, "where it happened can still be read"
    finally:
        gc.enable()


async def test_trying_again_in_the_except_block_finds_room(small):
    def work(megabytes):
        first = allocate(600)
        return len(first) + len(allocate(megabytes))

    try:
        await small.run_sync(work, 600)
    except VRAMBudgetExceeded:
        assert await small.run_sync(work, 300) == 900 * MB


# ----------------------------------------------------------------------------- retrying


async def test_run_sync_calls_again_as_often_as_it_is_told(small):
    calls = []

    def work():
        calls.append(None)
        return len(allocate(2000 if len(calls) < 3 else 500))

    with pytest.raises(VRAMBudgetExceeded):
        await small.run_sync(work, retries=1)
    assert len(calls) == 2
    assert await small.run_sync(work, retries=1) == 500 * MB


async def test_out_of_device_memory_makes_the_others_make_room(registry, faults):
    ctx = await registry.create("a")
    other = await registry.create("other", qos=QoSPolicy.BEST_EFFORT)
    held = [await other.run_sync(allocate, 6 * 1024)]
    asked = []

    def handler(context, requested, available):
        asked.append((context.name, requested))
        held.clear()
        return False

    registration = ctx._core.memory._pressure.register(handler)
    assert len(await ctx.run_sync(allocate, 4 * 1024, retries=1)) == 4 * GB
    registration.unregister()
    assert asked[-1][0] == "other"


# ------------------------------------------------------------------------------ reserving


async def test_reserve_sets_room_aside_for_a_block(registry, small):
    greedy = await registry.create("greedy")
    async with small.reserve("900MiB"):
        assert small.usage().reserved == 900 * MB
        with pytest.raises(OutOfDeviceMemory):
            await greedy.run_sync(allocate, 7500)
        assert len(await small.run_sync(allocate, 900)) == 900 * MB
    assert small.usage().reserved == 0
    assert len(await greedy.run_sync(allocate, 7500)) == 7500 * MB


async def test_reserve_asks_for_more_than_what_is_used(small):
    held = await small.run_sync(allocate, 500)
    async with small.reserve(400 * MB):
        assert small.usage().reserved == len(held) + 400 * MB
        with pytest.raises(VRAMBudgetExceeded) as caught:
            async with small.reserve(200 * MB):
                pass
    assert (caught.value.requested, caught.value.available) == (200 * MB, 100 * MB)
    assert isinstance(caught.value, torch.OutOfMemoryError)


async def test_reserve_waits_for_room_on_the_device(registry, small):
    greedy = await registry.create("greedy")
    held = [await greedy.run_sync(allocate, 8000)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            reserved = anyio.Event()

            async def reserve():
                async with small.reserve(900 * MB):
                    reserved.set()

            tasks.start_soon(reserve)
            await anyio.wait_all_tasks_blocked()
            assert not reserved.is_set()
            held.clear()
            await reserved.wait()
    held.append(await greedy.run_sync(allocate, 8000))
    with pytest.raises(TimeoutError):
        async with small.reserve(900 * MB, timeout=0.01):
            pass
    assert small.usage().reserved == 0


async def test_a_cancelled_reserve_leaves_nothing(registry, small):
    greedy = await registry.create("greedy")
    held = await greedy.run_sync(allocate, 8000)
    with anyio.move_on_after(0.01):
        async with small.reserve(900 * MB):
            pass
    assert small.usage().reserved == 0
    assert len(held) == 8000 * MB


async def test_impossible_reservations_fail_before_anything(registry, small):
    uncapped = await registry.create("uncapped")
    for bad in (0, -1, "much"):
        with pytest.raises(InvalidRequest):
            small.reserve(bad)
    with pytest.raises(InfeasibleRequest):
        async with uncapped.reserve("9GiB"):
            pass
    block = small.reserve(MB)
    async with block:
        with pytest.raises(SessionMisuse):
            await block.__aenter__()
    await small.aclose()
    with pytest.raises(ContextClosed):
        async with small.reserve(MB):
            pass


# -------------------------------------------------------------------- creating and waiting


async def test_d4_a_new_reservation_waits_for_burst_and_never_takes_a_base(registry):
    burst = await registry.create("burst", base_vram="1GiB")
    held = [await burst.run_sync(allocate, 1024), await burst.run_sync(allocate, 6 * 1024)]
    asked = []

    def handler(ctx, requested, available):
        if requested:
            asked.append((ctx.name, requested))
            del held[1:]
        return True

    registration = burst._core.memory._pressure.register(handler)
    with anyio.fail_after(10):
        await registry.create("new", max_vram="6GiB", qos=QoSPolicy.GUARANTEED)
    registration.unregister()
    assert asked == [("burst", 5 * GB)]
    assert len(held) == 1
    with pytest.raises(TimeoutError):
        await registry.create("one more", base_vram="2GiB", timeout=0.05)
    assert "one more" not in registry.names()


async def test_a_closed_context_gives_its_reservation_to_the_next(registry, shares):
    first = await registry.create("first", max_vram="6GiB", qos=QoSPolicy.GUARANTEED)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: registry.create("second", base_vram="6GiB"))
            await anyio.wait_all_tasks_blocked()
            assert registry.get("second") is None
            await first.aclose()
    assert registry.get("second") is not None
