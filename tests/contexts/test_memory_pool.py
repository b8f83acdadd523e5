"""Blocks of a memory pool: sizes, reuse, eviction and what comes back.

The names in brackets are the rows of the table of scenarios that the pool was designed with.
"""

from __future__ import annotations

import anyio
import pytest
import torch

from asyncgpu import InfeasibleRequest, InvalidRequest, MemoryPool, RequestError

pytestmark = pytest.mark.anyio

KIB = 1024
# Quantized tensors have a scale beside their bytes, and no view of bytes is one.
DTYPES = [
    dtype
    for dtype in {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    if not str(dtype).startswith(("torch.quint", "torch.qint"))
]


async def touch(block):
    async with block.use():
        pass


async def fill(pool, count, nbytes=256):
    """Allocate blocks; the bytes of each are its number."""
    blocks = []
    for number in range(count):
        blocks.append(await pool.allocate(nbytes))
        async with blocks[-1].use() as tensor:
            tensor.fill_(number)
    return blocks


def numbers(sizes):
    return {field: getattr(sizes, field) for field in sizes.__slots__}


# --------------------------------------------------------------------------------- accounting


async def test_sizes_are_rounded_up_to_256_bytes(new_pool):
    """[H2]"""
    pool = await new_pool("1MiB")
    block = await pool.allocate(100)
    assert block.nbytes == 100
    stats = pool.stats()
    assert (stats.allocated_bytes, stats.active_blocks, stats.cached_bytes) == (256, 1, 0)


async def test_a_freed_block_leaves_cached_memory(new_pool):
    """[H3]"""
    pool = await new_pool("1MiB")
    pool.free(await pool.allocate(100))
    stats = pool.stats()
    assert (stats.allocated_bytes, stats.cached_bytes, stats.free_blocks) == (0, 256, 1)
    assert stats.active_blocks == 0


async def test_cached_memory_goes_to_the_next_block_of_its_size(new_pool):
    """[G28] It is the same memory, and none is taken beside it."""
    pool = await new_pool("1MiB")
    first = await pool.allocate(100)
    async with first.use() as tensor:
        address = tensor.data_ptr()
    pool.free(first)
    second = await pool.allocate(200)
    async with second.use() as tensor:
        assert tensor.data_ptr() == address
    stats = pool.stats()
    assert (stats.reuses, stats.allocated_bytes, stats.cached_bytes) == (1, 256, 0)


async def test_cached_memory_of_another_size_is_given_up_before_anybody_is_evicted(new_pool):
    """[G30] And what is cached counts: together never more than the quota."""
    pool = await new_pool(1024)
    kept = await pool.allocate(256)
    pool.free(await pool.allocate(512))
    await pool.allocate(768)
    stats = pool.stats()
    assert (stats.allocated_bytes, stats.cached_bytes, stats.evictions) == (1024, 0, 0)
    assert kept.resident


async def test_four_tasks_at_once(new_pool):
    """[H18]"""
    pool = await new_pool("100MiB")
    blocks = []

    async def allocate():
        blocks.extend([await pool.allocate("100KiB") for _ in range(10)])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(allocate)
    stats = pool.stats()
    assert (len(blocks), stats.active_blocks) == (40, 40)
    assert stats.allocated_bytes == 40 * 100 * KIB


async def test_clearing_frees_everything_and_counters_go_on(new_pool):
    """[H17]"""
    pool = await new_pool(512)
    blocks = await fill(pool, 3)
    pool.free(blocks[2])
    before = pool.stats()
    assert (before.evictions, before.cached_bytes) == (1, 256)
    await pool.clear()
    assert numbers(pool.stats()) == {
        "quota": 512,
        "allocated_bytes": 0,
        "cached_bytes": 0,
        "active_blocks": 0,
        "evicted_blocks": 0,
        "free_blocks": 0,
        "waiting": 0,
        "evictions": 1,
        "reloads": 0,
        "reuses": 0,
    }
    with pytest.raises(InvalidRequest, match="freed"):
        await touch(blocks[0])
    await pool.allocate(512)


# ----------------------------------------------------------------------------------- eviction


async def test_the_least_recently_used_block_makes_room(new_pool):
    """[H6]"""
    pool = await new_pool(256)
    first, second = await fill(pool, 2, nbytes=100)
    assert (first.resident, second.resident) == (False, True)
    stats = pool.stats()
    assert (stats.evictions, stats.active_blocks, stats.evicted_blocks) == (1, 2, 1)
    assert stats.reuses == 0


async def test_a_use_makes_a_block_the_most_recent(new_pool):
    """[H7, G29]"""
    pool = await new_pool(3 * 256)
    blocks = await fill(pool, 3)
    await touch(blocks[0])
    await pool.allocate(256)
    assert [block.resident for block in blocks] == [True, False, True]


async def test_freeing_a_block_does_not_change_the_order_of_the_others(new_pool):
    """[H8, G29]"""
    pool = await new_pool(4 * 256)
    blocks = await fill(pool, 4)
    pool.free(blocks[0])
    await pool.allocate(256)
    assert pool.stats().evictions == 0
    await pool.allocate(256)
    assert [block.resident for block in blocks[1:]] == [False, True, True]


async def test_bringing_a_block_back_evicts_another_and_never_exceeds_the_quota(new_pool):
    """[H12, G30]"""
    pool = await new_pool(2 * 256)
    blocks = await fill(pool, 3)
    async with blocks[0].use() as tensor:
        assert tensor.tolist() == [0] * 256
        assert pool.stats().allocated_bytes == 512
    stats = pool.stats()
    assert (stats.evictions, stats.reloads) == (2, 1)
    assert [block.resident for block in blocks] == [True, False, True]


async def test_bytes_are_the_same_after_eviction_whatever_they_mean(new_pool):
    """[G26, G27] Also when other blocks have had their memory meanwhile."""
    pool = await new_pool(4096)
    block = await pool.allocate(4000)
    written = torch.arange(4000).remainder(251).to(torch.uint8)
    async with block.use() as tensor:
        tensor.copy_(written)
    for dtype in DTYPES:
        other = await pool.allocate(4096)
        async with other.use() as tensor:
            tensor.zero_()
        assert not block.resident
        async with block.use() as tensor:
            assert (tensor.dtype, tensor.shape) == (torch.uint8, (4000,))
            typed = tensor.view(dtype)
            assert typed.dtype is dtype
            assert torch.equal(typed.view(torch.uint8), written)
        pool.free(other)
    assert pool.stats().reloads == len(DTYPES) > 20


async def test_an_evicted_block_that_is_freed_never_comes_back(new_pool):
    """[G31] Nor does its memory count for less than nothing."""
    pool = await new_pool(256)
    first, second = await fill(pool, 2)
    pool.free(first)
    stats = pool.stats()
    assert (stats.allocated_bytes, stats.active_blocks, stats.evicted_blocks) == (256, 1, 0)
    with pytest.raises(InvalidRequest, match="freed"):
        await touch(first)
    pool.free(second)
    third = await pool.allocate(256)
    assert third.resident
    assert pool.stats().allocated_bytes == 256


async def test_without_eviction_nothing_leaves_the_device(new_pool):
    pool = await new_pool(256, enable_eviction=False)
    block = await pool.allocate(256)
    with pytest.raises(TimeoutError):
        await pool.allocate(256, timeout=0.01)
    assert block.resident
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.allocate, 256)
        await anyio.wait_all_tasks_blocked()
        assert pool.stats().waiting == 1
        pool.free(block)
    assert pool.stats().active_blocks == 1


# -------------------------------------------------------------------------------- bad requests


async def test_a_request_over_the_quota_evicts_nothing(new_pool):
    pool = await new_pool(512)
    blocks = await fill(pool, 2)
    with pytest.raises(InfeasibleRequest, match="768 bytes asked of a memory pool of 512"):
        await pool.allocate(513)
    assert all(block.resident for block in blocks)


@pytest.mark.parametrize("quota", [0, -1, "0MiB", "a lot", 1.5, True])
def test_a_quota_must_be_a_size(quota):
    with pytest.raises(InvalidRequest):
        MemoryPool(quota)


@pytest.mark.parametrize(
    "request_",
    [
        {"nbytes": 0},
        {"nbytes": -1},
        {"nbytes": 1, "priority": "high"},
        {"nbytes": 1, "timeout": -1},
    ],
)
async def test_a_request_must_mean_something(new_pool, request_):
    pool = await new_pool(512)
    with pytest.raises(InvalidRequest):
        await pool.allocate(**request_)
    assert pool.stats().active_blocks == 0


async def test_a_block_is_freed_once_and_by_its_own_pool(new_pool):
    pool, other = await new_pool(512), await new_pool(512)
    block = await pool.allocate(1)
    with pytest.raises(InvalidRequest, match="not a block of"):
        other.free(block)
    with pytest.raises(InvalidRequest, match="not a block of"):
        pool.free("block")
    pool.free(block)
    with pytest.raises(InvalidRequest, match="freed"):
        pool.free(block)
    assert pool.stats().cached_bytes == 256


async def test_a_block_in_use_is_neither_freed_nor_cleared(new_pool):
    pool = await new_pool(512)
    block, other = await fill(pool, 2)
    async with block.use() as tensor:
        with pytest.raises(RequestError, match="in use"):
            pool.free(block)
        with pytest.raises(RequestError, match="in use"):
            await pool.clear()
        assert tensor.tolist() == [0] * 256
    assert other.resident
    pool.free(block)


async def test_a_task_does_not_wait_for_the_blocks_that_it_uses_itself(new_pool):
    pool = await new_pool(512)
    blocks = await fill(pool, 2)
    evicted = await pool.allocate(512)
    async with blocks[0].use(), blocks[1].use():
        with pytest.raises(InfeasibleRequest, match="wait for itself"):
            await pool.allocate(1)
        with pytest.raises(InfeasibleRequest, match="wait for itself"):
            await touch(evicted)
        async with blocks[0].use():
            pass
    await touch(evicted)


async def test_what_a_pool_is_asked_after_its_end_is_refused(new_pool):
    pool = await new_pool(512)
    block = await pool.allocate(1)
    await pool.aclose()
    await pool.aclose()
    with pytest.raises(RequestError, match="closed"):
        await pool.allocate(1)
    with pytest.raises(RequestError):
        await touch(block)
    with pytest.raises(InvalidRequest, match="freed"):
        pool.free(block)
    await pool.clear()
    assert pool.stats().allocated_bytes == 0
