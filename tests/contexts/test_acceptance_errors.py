"""No error that contexts raise keeps the caller's tensors alive, or reaches into other tasks."""

from __future__ import annotations

import contextlib
import gc
import threading

import anyio
import anyio.to_thread
import pytest
import torch

from asyncgpu import MB, MemoryPool, QoSPolicy, Runtime, Settings
from asyncgpu.errors import ContextClosed, DeviceLost, InfeasibleRequest, VRAMBudgetExceeded

pytestmark = pytest.mark.anyio


def take(megabytes, *others):
    return torch.empty(megabytes * MB, dtype=torch.uint8)


async def in_a_thread(fn, *args):
    """As anyio does it, whose own frames refer to what they raise."""
    raised = []

    def call():
        try:
            fn(*args)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    await anyio.to_thread.run_sync(thread.join)
    raise raised.pop()


@pytest.fixture
async def runtime():
    settings = Settings(virtual_devices="2x1GiB", allow_multiple_per_device=False)
    async with Runtime(settings=settings) as opened:
        yield opened


@pytest.fixture
async def other(runtime):
    """Whose tensors the failing program has."""
    return await runtime.create_context("other")


@pytest.fixture
async def small(runtime):
    return await runtime.create_context("small", max_vram=100 * MB)


@pytest.fixture
def no_collector():
    """What only the collector would find is there still."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Failing:
    """Programs that hold a large tensor while something is refused to them."""

    def __init__(self, runtime, small):
        self.runtime = runtime
        self.small = small

    async def run_sync(self, mine):
        await self.small.run_sync(take, 200, mine)

    async def retries(self, mine):
        await self.small.run_sync(take, 200, mine, retries=2)

    async def run(self, mine):
        async def work(tensor):
            local = take(80)
            await anyio.sleep(0)
            take(80)
            del local

        await self.small.run(work, mine)

    async def session(self, mine):
        async with self.small.session():
            local = take(80)
            await anyio.sleep(0)
            take(80)
            del local

    async def bound(self, mine):
        await in_a_thread(self.small.bind(take), 200, mine)

    async def sync_form(self, mine):
        def work(tensor):
            with self.small.session():
                take(200)

        await in_a_thread(work, mine)

    async def backward(self, mine):
        def train(tensor):
            weights = torch.ones(10 * MB, requires_grad=True)
            weights.sin().sin().sum().backward()

        await self.small.run_sync(train, mine)

    async def reserve(self, mine):
        async with self.small.reserve(200 * MB):
            pass

    async def pool(self, mine):
        async with MemoryPool(2 * MB) as pool:
            await pool.allocate(3 * MB)

    async def pool_within(self, mine):
        async with MemoryPool(200 * MB, context=self.small):
            pass

    async def create(self, mine):
        await self.runtime.create_context("x", max_vram="2GiB", qos=QoSPolicy.GUARANTEED)

    async def create_in_time(self, mine):
        await self.runtime.create_context("x", base_vram="1GiB", timeout=0.01)

    async def reserve_in_time(self, mine):
        ctx = await self.runtime.create_context("x")
        async with ctx, ctx.reserve("1GiB", timeout=0.01):
            pass

    async def closed(self, mine):
        ctx = await self.runtime.create_context("x")
        await ctx.aclose()
        await ctx.run_sync(take, 1, mine)

    async def lost(self, mine):
        async with await self.runtime.create_context("x", device="cuda:1") as ctx:
            await ctx.run_sync(ctx.stream.driver_stream.enqueue, lambda: 1 / 0)


EXPECTED = {
    **dict.fromkeys(("pool", "create"), InfeasibleRequest),
    **dict.fromkeys(("create_in_time", "reserve_in_time"), TimeoutError),
    "closed": ContextClosed,
    "lost": DeviceLost,
}
PROGRAMS = [name for name in vars(Failing) if not name.startswith("_")]


@pytest.mark.parametrize("program", PROGRAMS)
async def test_an_error_that_is_gone_keeps_nothing(runtime, other, small, no_collector, program):
    async def fail():
        mine = await other.run_sync(take, 40)
        await getattr(Failing(runtime, small), program)(mine)

    with anyio.fail_after(20):
        with contextlib.suppress(EXPECTED.get(program, VRAMBudgetExceeded)):
            await fail()
            pytest.fail("nothing was refused")
        # Threads of others let go of their last call when they get to it.
        while other.usage().used or small.usage().used:
            await anyio.sleep(0)


async def test_an_error_that_came_by_two_tasks_ends_neither(small):
    """One has caught it and waits in its handler; the other leaves a session with it.

    What a session's error lets go of must be nobody's who still runs.
    """
    go_on, seen = anyio.Event(), []

    async def first(error):
        local = "still here"
        try:
            raise error
        except torch.OutOfMemoryError as caught:
            seen.append(caught)
            await go_on.wait()
            seen.append(local)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first, torch.OutOfMemoryError("CUDA out of memory"))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(torch.OutOfMemoryError):
            async with small.session():
                raise seen[0]
        go_on.set()
    assert seen[1:] == ["still here"]
