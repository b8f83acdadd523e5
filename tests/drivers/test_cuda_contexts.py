"""Contexts over the CUDA driver: from `run_sync` to the native budget, on a fake torch."""

from __future__ import annotations

from dataclasses import replace

import anyio
import anyio.to_thread
import pytest
import torch

from asyncgpu import (
    QoSPolicy,
    Runtime,
    VRAMBudgetExceeded,
    context_session,
    get_available_vram,
)
from asyncgpu.drivers.cuda.driver import CudaDriver
from asyncgpu.drivers.cuda.platform import CudaPlatform

from .fake_torch import FakeNative, FakeNvml, FakeTorch

pytestmark = pytest.mark.anyio

MB = 1 << 20


class Nvml(FakeNvml):
    """One device of 100 MiB, all free but what the fake runtime has given away."""

    def __init__(self, device):
        self._device = device
        self._before = device.free

    def inventory(self):
        return (replace(super().inventory()[0], total_memory=100 * MB),)

    def free_memory(self, uuid):
        return 100 * MB - (self._before - self._device.free)


@pytest.fixture
async def fakes(native, monkeypatch):
    library, device = native
    monkeypatch.setattr("asyncgpu.drivers.cuda.driver.open_library", lambda: library)
    fake = FakeTorch()
    driver = CudaDriver(Nvml(device), open_platform=lambda: CudaPlatform(fake, FakeNative()))
    before = device.free
    async with Runtime(driver=driver) as runtime:
        yield runtime, fake.pools
    assert fake.pools.violations == []
    assert device.free == before


async def test_a_context_that_allocates_until_refused_takes_nothing_of_its_neighbour(fakes):
    runtime, pools = fakes
    greedy = await runtime.create_context("greedy", qos=QoSPolicy.BEST_EFFORT)
    neighbour = await runtime.create_context(
        "neighbour", max_vram=40 * MB, qos=QoSPolicy.GUARANTEED
    )
    assert greedy.budget_enforced
    held = []

    def grow():
        while True:
            held.append(pools.empty(2 * MB))

    for way in (greedy.run_sync, lambda fn: anyio.to_thread.run_sync(greedy.bind(fn))):
        with pytest.raises(torch.OutOfMemoryError):
            await way(grow)
        assert await neighbour.run_sync(lambda: bool(pools.empty(40 * MB)))
    assert greedy.usage().used == 60 * MB
    held.clear()
    assert greedy.usage().used == 0


async def test_a_retry_finds_the_room_that_the_cache_stood_in(fakes):
    runtime, pools = fakes
    ctx = await runtime.create_context("ctx", max_vram=10 * MB)

    def many_small_then_one_large():
        small = [pools.empty(2 * MB) for _ in range(5)]
        small.clear()
        pools.empty(10 * MB)
        return True

    with pytest.raises(VRAMBudgetExceeded, match="ctx"):
        await ctx.run_sync(many_small_then_one_large)
    assert await ctx.run_sync(lambda: bool(pools.empty(10 * MB)), retries=1)


async def test_the_tasks_of_sessions_are_each_in_their_own_pool(fakes):
    runtime, pools = fakes
    contexts = {await runtime.create_context(f"ctx{i}"): anyio.Lock() for i in range(3)}

    async def work(ctx):
        async with contexts[ctx], context_session(ctx):
            held = []
            for _ in range(5):
                held.append(pools.empty(2 * MB))
                await anyio.sleep(0)
                assert held[0].pool == pools.current()
            assert ctx.usage().used == 10 * MB
        assert pools.current() is None

    async with anyio.create_task_group() as tasks:
        for ctx in [*contexts, *contexts]:
            tasks.start_soon(work, ctx)
        for _ in range(20):
            await anyio.sleep(0)
            assert pools.current() is None


async def test_what_outlives_its_context_makes_room_when_it_dies(fakes):
    runtime, pools = fakes
    ctx = await runtime.create_context("ctx")
    held = [await ctx.run_sync(lambda: pools.empty(80 * MB))]
    await ctx.aclose()
    assert get_available_vram() == 20 * MB
    made = []

    async def reserve():
        made.append(
            await runtime.create_context("next", max_vram=90 * MB, qos=QoSPolicy.GUARANTEED)
        )

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reserve)
            await anyio.sleep(0)
            assert made == []
            held.clear()
    assert made[0].usage().reserved == 90 * MB
