"""Hard VRAM budgets on real CUDA: the drivers' memory contract, and whole contexts."""

from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest
import torch

from asyncgpu import OutOfDeviceMemory, QoSPolicy, Runtime, VRAMBudgetExceeded, context_session
from asyncgpu.drivers.cuda.library import open_library
from asyncgpu.units import GB, MB

from ..drivers.memory_contract import MemoryContract
from .cuda_rig import opened_rig

pytestmark = pytest.mark.gpu

# CUDA itself takes a little for kernels that it loads while a test runs.
LITTLE = 64 * MB


@pytest.fixture
def rig():
    yield from opened_rig()


class TestCudaMemory(MemoryContract):
    def test_a_budget_is_enforced_where_the_package_was_compiled(self, bench):
        assert bench.context().memory.enforced is (open_library() is not None)

    def test_a_trim_makes_room_where_the_cache_stood_in_the_way(self, bench):
        context = bench.context(cap=100 * MB)
        self.needs_enforcement(context)
        with context.applied():
            small = [bench.make(20 * MB) for _ in range(5)]
            small.clear()
        context.refusal_of(100 * MB)
        context.memory.trim()
        with context.applied():
            assert bench.make(100 * MB).numel() == 100 * MB

    def test_what_is_freed_outside_goes_back_to_the_pool_it_came_from(self, bench):
        context = bench.context()
        with context.applied():
            block = bench.make(20 * MB)
        address = block.data_ptr()
        del block
        other = bench.make(20 * MB)
        assert other.data_ptr() != address
        with context.applied():
            assert bench.make(20 * MB).data_ptr() == address

    def test_memory_is_back_after_the_close(self, bench):
        for warm in (True, False):
            before = _free()
            context = bench.context()
            with context.applied():
                matrix = torch.ones(2048, 2048, device=bench.torch_device)
                assert float((matrix @ matrix)[0, 0]) == 2048
            del matrix
            context.memory.close()
            bench.ledger.close(context.account)
            assert bench.ledger.used == 0
            assert warm or _free() >= before - LITTLE

    def test_allocations_do_not_wait_for_python(self, bench):
        """A Python function in the allocator would deadlock here: it runs under torch's lock."""
        context, stop = bench.context(), threading.Event()

        def keep_the_gil() -> None:
            while not stop.is_set():
                torch.cuda.memory_stats(0)

        def allocate() -> None:
            for _ in range(50):
                with context.applied():
                    bench.make(20 * MB)
                context.memory.trim()

        threads = [threading.Thread(target=allocate, daemon=True) for _ in range(4)]
        busy = threading.Thread(target=keep_the_gil, daemon=True)
        for thread in (busy, *threads):
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        stop.set()
        busy.join(60)
        assert context.used == 0


# ------------------------------------------------------------------------------------ contexts


@pytest.fixture
async def runtime():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    async with Runtime(driver="cuda", total_vram_budget=4 * GB) as runtime:
        yield runtime


async def hard(runtime, name, **options):
    """A context, or a skipped test where its budget is soft."""
    ctx = await runtime.create_context(name, device="cuda:0", **options)
    if not ctx.budget_enforced:
        pytest.skip("the package was built without a C compiler")
    return ctx


def allocate(nbytes):
    return torch.empty(nbytes, dtype=torch.uint8, device="cuda:0")


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["run_sync", "session", "bind", "backward"])
async def test_whoever_allocates_until_refused_takes_nothing_of_a_neighbour(runtime, way):
    greedy = await hard(runtime, "greedy", qos=QoSPolicy.BEST_EFFORT)
    neighbour = await hard(runtime, "neighbour", max_vram=GB, qos=QoSPolicy.GUARANTEED)
    held = []

    def grow() -> None:
        while True:
            held.append(allocate(100 * MB))

    def grow_backward() -> None:
        leaf = torch.ones(25 * MB, device="cuda:0", requires_grad=True)
        while True:
            held.append(torch.autograd.grad((leaf * 2).sum(), leaf))

    async def in_a_session() -> None:
        async with context_session(greedy):
            grow()

    ways = {
        "run_sync": lambda: greedy.run_sync(grow),
        "session": in_a_session,
        "bind": lambda: anyio.to_thread.run_sync(greedy.bind(grow)),
        "backward": lambda: greedy.run_sync(grow_backward),
    }
    with pytest.raises(OutOfDeviceMemory) as caught:
        await ways[way]()
    assert isinstance(caught.value, torch.OutOfMemoryError)
    assert 2 * GB < greedy.usage().used <= 3 * GB
    assert (await neighbour.run_sync(allocate, GB)).numel() == GB
    held.clear()
    assert greedy.usage().used == 0


@pytest.mark.anyio
async def test_inside_it_is_torchs_error_and_outside_it_is_typed(runtime):
    ctx = await hard(runtime, "reader", max_vram=200 * MB)

    def too_much() -> None:
        with pytest.raises(torch.OutOfMemoryError):
            allocate(300 * MB)
        allocate(300 * MB)

    with pytest.raises(VRAMBudgetExceeded, match="reader") as caught:
        await ctx.run_sync(too_much)
    assert (caught.value.requested, caught.value.available) == (300 * MB, 200 * MB)
    assert (await ctx.run_sync(allocate, 200 * MB)).numel() == 200 * MB


@pytest.mark.anyio
async def test_a_retry_finds_the_room_that_the_cache_stood_in(runtime):
    ctx = await hard(runtime, "ctx", max_vram=200 * MB)

    def fragment() -> None:
        blocks = [allocate(20 * MB) for _ in range(10)]
        blocks.clear()

    await ctx.run_sync(fragment)
    assert (await ctx.run_sync(allocate, 200 * MB, retries=1)).numel() == 200 * MB


def _free() -> int:
    torch.cuda.synchronize(0)
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(0)[0]
