"""Memory pools on real CUDA: the drivers' contract for blocks, memory that comes back, speed."""

from __future__ import annotations

import time

import pytest
import torch

from asyncgpu import MB, MemoryPool, Runtime, context_session
from asyncgpu.drivers.nvml import Nvml

from ..drivers.blocks_contract import BlocksContract
from .cuda_rig import opened_rig

pytestmark = [pytest.mark.gpu, pytest.mark.anyio]

# CUDA itself takes a little for kernels that it loads while a test runs.
LITTLE = 64 * MB


@pytest.fixture
def rig():
    yield from opened_rig()


@pytest.fixture
async def runtime():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    async with Runtime(driver="cuda") as opened:
        yield opened


class TestCudaBlocks(BlocksContract):
    @pytest.mark.parametrize("nbytes", [64 << 10, 100_000, 5 * MB])
    def test_host_copies_are_page_locked(self, stream, blocks, nbytes):
        host = blocks.to_host(blocks.empty(nbytes))
        stream.record().synchronize()
        assert host.is_pinned()


def free_memory():
    nvml = Nvml({})
    try:
        return nvml.free_memory(nvml.inventory()[0].uuid)
    finally:
        nvml.close()


async def test_device_memory_is_back_after_clear(runtime):
    """[H20]"""
    async with MemoryPool("1GiB") as pool:
        for warm in (True, False):
            before = free_memory()
            for _ in range(3):
                await pool.allocate("300MiB")
            assert free_memory() < before - 800 * MB
            await pool.clear()
            assert warm or free_memory() >= before - LITTLE


async def test_bytes_are_the_same_after_eviction(runtime):
    ctx = await runtime.create_context("a")
    async with MemoryPool("256MiB") as pool:
        blocks = [await pool.allocate("100MiB") for _ in range(6)]
        for number, block in enumerate(blocks):
            async with context_session(ctx, synchronize=False), block.use() as tensor:
                # Still running when the block is left.
                tensor.view(torch.int32).copy_(torch.arange(25 * MB, device="cuda")).add_(number)
        for number, block in enumerate(blocks):
            async with block.use() as tensor:
                expected = torch.arange(25 * MB, device="cuda", dtype=torch.int32) + number
                assert torch.equal(tensor.view(torch.int32), expected)
        assert pool.stats().evictions > 6


async def test_copies_reach_the_machine_s_page_locked_bandwidth(runtime):
    """At least 85 % of one large page-locked copy in a loop, once host memory is there."""
    nbytes = 512 * MB
    async with MemoryPool(nbytes) as pool:
        blocks = [await pool.allocate(nbytes) for _ in range(2)]

        async def swap():
            for block in blocks:
                async with block.use():
                    pass

        await swap()
        began = time.perf_counter()
        for _ in range(4):
            await swap()
        ours = 2 * 8 * nbytes / (time.perf_counter() - began)
    assert ours >= 0.85 * page_locked_bandwidth(nbytes)


def page_locked_bandwidth(nbytes):
    """Bytes per second, out and in by turns, as the pool does them."""
    device = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
    host = torch.empty(nbytes, dtype=torch.uint8).pin_memory()
    best = 0.0
    for _ in range(4):
        torch.cuda.synchronize()
        began = time.perf_counter()
        host.copy_(device, non_blocking=True)
        device.copy_(host, non_blocking=True)
        torch.cuda.synchronize()
        best = max(best, 2 * nbytes / (time.perf_counter() - began))
    return best
