"""Waiting for a memory pool: in which order, for whom, and what is left when somebody gives up."""

from __future__ import annotations

import random

import anyio
import pytest

from asyncgpu import DeviceLost, InvalidRequest, OutOfDeviceMemory, context_session

pytestmark = pytest.mark.anyio


def hold_copies(pool, gate):
    """Hold the stream that the pool copies on."""
    pool._opened.place.mover._stream.enqueue(gate.wait_sync, interrupt=gate.open)


async def fill(pool, count, nbytes=256):
    """Allocate blocks; the bytes of each are its number."""
    blocks = []
    for number in range(count):
        blocks.append(await pool.allocate(nbytes))
        async with blocks[-1].use() as tensor:
            tensor.fill_(number)
    return blocks


async def first_byte(block):
    async with block.use() as tensor:
        return int(tensor[0])


async def touch(block):
    await first_byte(block)


def is_settled(pool):
    return not pool.stats().waiting and not any(
        block.moving or block.locks for block in pool._residency.blocks
    )


async def until(condition):
    with anyio.fail_after(10):
        while not condition():
            await anyio.wait_all_tasks_blocked()


# -------------------------------------------------------------------------------------- order


async def test_the_higher_priority_goes_first_then_the_earlier(new_pool):
    """[H19]"""
    pool = await new_pool(256, enable_eviction=False)
    block = await pool.allocate(256)
    order = []

    async def wait(name, priority):
        mine = await pool.allocate(256, priority=priority)
        order.append(name)
        pool.free(mine)

    async with anyio.create_task_group() as tasks:
        for name, priority in [("first", 0), ("second", 0), ("urgent", 1), ("late", -1)]:
            tasks.start_soon(wait, name, priority)
            await anyio.wait_all_tasks_blocked()
        assert pool.stats().waiting == 4
        pool.free(block)
    assert order == ["urgent", "first", "second", "late"]


async def test_nobody_overtakes(new_pool):
    """A small request waits behind a large one, although there is room for it."""
    pool = await new_pool(512, enable_eviction=False)
    block = await pool.allocate(256)
    granted = []

    async def wait(nbytes):
        granted.append(await pool.allocate(nbytes))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, 512)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(wait, 256)
        await anyio.wait_all_tasks_blocked()
        assert not granted
        pool.free(block)
        await until(lambda: granted)
        assert [each.nbytes for each in granted] == [512]
        pool.free(granted[0])
    assert [each.nbytes for each in granted] == [512, 256]


async def test_who_gives_up_makes_way_for_the_next(new_pool):
    """[H19]"""
    pool = await new_pool(512, enable_eviction=False)
    block = await pool.allocate(256)
    async with anyio.create_task_group() as tasks, anyio.create_task_group() as given_up:
        given_up.start_soon(pool.allocate, 512)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(pool.allocate, 256)
        await anyio.wait_all_tasks_blocked()
        assert pool.stats().waiting == 2
        given_up.cancel_scope.cancel()
    assert pool.stats().active_blocks == 2
    assert block.resident


async def test_a_timeout_says_what_was_asked(new_pool):
    pool = await new_pool(256, enable_eviction=False)
    await pool.allocate(256)
    with pytest.raises(TimeoutError, match=r"100 bytes of <MemoryPool of 256 B>: not within 0\.01"):
        await pool.allocate(100, timeout=0.01)
    assert pool.stats().waiting == 0


# -------------------------------------------------------------------------------- locked blocks


async def test_nothing_is_evicted_unless_the_request_can_then_be_met(new_pool):
    """Only when the locked block is left, both are evicted."""
    pool = await new_pool(512)
    locked, idle = await fill(pool, 2)
    async with anyio.create_task_group() as tasks, locked.use():
        tasks.start_soon(pool.allocate, 512)
        await anyio.wait_all_tasks_blocked()
        assert idle.resident
        assert pool.stats().evictions == 0
    assert pool.stats().evictions == 2
    assert [await first_byte(block) for block in (locked, idle)] == [0, 1]


async def test_a_block_in_use_is_not_evicted_under_pressure(new_pool):
    pool = await new_pool(4 * 256)
    blocks = await fill(pool, 4)
    async with blocks[0].use() as tensor:
        more = await fill(pool, 8)
        assert tensor.tolist() == [0] * 256
        assert blocks[0].resident
    assert [await first_byte(block) for block in blocks] == [0, 1, 2, 3]
    assert [await first_byte(block) for block in more] == list(range(8))


async def test_several_use_a_block_at_once_and_it_comes_back_once(new_pool):
    pool = await new_pool(256)
    block, _ = await fill(pool, 2)
    inside, leaving = [], anyio.Event()

    async def use():
        async with block.use() as tensor:
            inside.append(int(tensor[0]))
            await leaving.wait()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(use)
        await until(lambda: len(inside) == 3)
        leaving.set()
    assert inside == [0, 0, 0]
    assert pool.stats().reloads == 1


async def test_who_waits_for_a_block_that_is_freed_is_told(new_pool):
    pool = await new_pool(256)
    block, other = await fill(pool, 2)
    errors = []

    async def wait():
        try:
            await touch(block)
        except InvalidRequest as error:
            errors.append(error)

    async with other.use(), anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        pool.free(block)
    assert len(errors) == 2
    assert errors[0] is not errors[1]


# --------------------------------------------------------------------- what the device still does


async def test_a_block_is_copied_out_behind_the_work_that_uses_it(new_pool, pool_runtime, gate):
    """Its user has left, and the stream has not come to it yet; the loop runs on meanwhile."""
    ctx = await pool_runtime.create_context("a")
    pool = await new_pool(256)
    held = gate()
    async with context_session(ctx, synchronize=False):
        block = await pool.allocate(256)
        async with block.use() as tensor:
            held.hold(ctx)
            ctx.stream.driver_stream.enqueue(lambda: tensor.fill_(9))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.allocate, 256)
        await anyio.wait_all_tasks_blocked()
        assert block.resident
        held.open()
    assert not block.resident
    assert await first_byte(block) == 9


async def test_memory_goes_on_to_the_next_block_behind_the_work_that_uses_it(
    new_pool, pool_runtime, gate
):
    ctx = await pool_runtime.create_context("a")
    pool = await new_pool(256)
    held = gate()
    async with context_session(ctx, synchronize=False):
        block = await pool.allocate(256)
        async with block.use() as tensor:
            held.hold(ctx)
            ctx.stream.driver_stream.enqueue(lambda: tensor.fill_(9))
        pool.free(block)
        after = await pool.allocate(256)
        # On the same stream there is nothing to wait for.
        async with after.use():
            assert not held.is_open()
    async with anyio.create_task_group() as tasks:

        async def use():
            async with after.use() as tensor:
                assert held.is_open()
                assert tensor.tolist() == [9] * 256

        tasks.start_soon(use)
        await anyio.wait_all_tasks_blocked()
        held.open()


async def test_a_block_comes_back_behind_the_work_on_the_memory_it_gets(
    new_pool, pool_runtime, gate
):
    ctx = await pool_runtime.create_context("a")
    pool = await new_pool(512)
    blocks = await fill(pool, 3)
    held, seen = gate(), []
    async with context_session(ctx, synchronize=False), blocks[1].use() as tensor:
        held.hold(ctx)
        ctx.stream.driver_stream.enqueue(lambda: tensor.fill_(9))
    pool.free(blocks[1])

    async def use():
        seen.append(await first_byte(blocks[0]))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(use)
        await anyio.wait_all_tasks_blocked()
        assert not seen
        held.open()
    assert seen == [0]


@pytest.mark.parametrize("end", ["clear", "aclose"])
async def test_memory_is_given_back_behind_the_work_that_uses_it(new_pool, pool_runtime, gate, end):
    ctx = await pool_runtime.create_context("a")
    pool = await new_pool(512)
    block = await pool.allocate(256)
    held, ended = gate(), []
    async with context_session(ctx, synchronize=False), block.use():
        held.hold(ctx)

    async def give_back():
        await getattr(pool, end)()
        ended.append(end)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_back)
        await anyio.wait_all_tasks_blocked()
        assert not ended
        assert not block.resident
        held.open()
    assert ended == [end]


async def test_an_eviction_is_called_off_when_nobody_needs_it_any_more(new_pool, gate):
    """The victim never leaves; who asked for it meanwhile gets it at once."""
    pool = await new_pool(256)
    (block,) = await fill(pool, 1)
    held, seen = gate(), []
    hold_copies(pool, held)

    async def use():
        seen.append(await first_byte(block))

    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as given_up:
            given_up.start_soon(pool.allocate, 256)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(use)
            await anyio.wait_all_tasks_blocked()
            assert not seen
            given_up.cancel_scope.cancel()
        held.open()
    stats = pool.stats()
    assert seen == [0]
    assert (stats.evictions, stats.reloads, stats.active_blocks) == (0, 0, 1)


async def test_a_block_that_is_coming_back_is_no_victim(new_pool, gate):
    pool = await new_pool(256)
    block, _ = await fill(pool, 2)
    held = gate()
    hold_copies(pool, held)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(touch, block)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(pool.allocate, 256)
        await anyio.wait_all_tasks_blocked()
        held.open()
    assert pool.stats().reloads == 1
    assert await first_byte(block) == 0


# -------------------------------------------------------------------------------- cancellation


async def allocate_with_an_eviction(pool, blocks):
    await pool.allocate(256)


async def allocate_new_memory(pool, blocks):
    for block in blocks:
        pool.free(block)
    await pool.allocate(100 * 256)


async def use_an_evicted_block(pool, blocks):
    await touch(blocks[0])


async def use_twice_at_once(pool, blocks):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(touch, blocks[0])
        tasks.start_soon(touch, blocks[0])


@pytest.mark.parametrize(
    "wait",
    [
        allocate_with_an_eviction,
        allocate_new_memory,
        use_an_evicted_block,
        use_twice_at_once,
    ],
)
async def test_cancelled_while_the_device_copies_nothing_is_left(new_pool, gate, wait):
    quota = 256 if wait is not allocate_new_memory else 100 * 256
    pool = await new_pool(quota)
    blocks = await fill(pool, 2)
    held = gate()
    hold_copies(pool, held)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, pool, blocks)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    held.open()
    await until(lambda: is_settled(pool))
    stats = pool.stats()
    assert stats.waiting == 0
    if wait is not allocate_new_memory:
        assert stats.active_blocks == 2
        assert [await first_byte(block) for block in blocks] == [0, 1]
    else:
        assert (stats.active_blocks, stats.allocated_bytes) == (0, 0)
    await pool.allocate(quota, timeout=10)


async def test_cancelled_behind_the_work_of_others_the_block_is_unlocked(
    new_pool, pool_runtime, gate
):
    ctx = await pool_runtime.create_context("a")
    pool = await new_pool(256)
    block = await pool.allocate(256)
    held = gate()
    async with context_session(ctx, synchronize=False), block.use():
        held.hold(ctx)
    with pytest.raises(TimeoutError):
        async with block.use(timeout=0.01):
            pass
    held.open()
    pool.free(block)


# ---------------------------------------------------------------------------------------- load


async def test_fifty_tasks_share_a_pool_that_holds_a_third_of_their_blocks(new_pool):
    """Each block counts the uses of it; nothing is lost, and the quota is never exceeded."""
    pool = await new_pool(8 * 1024)
    blocks = [await pool.allocate(1024) for _ in range(24)]
    for block in blocks:
        async with block.use() as tensor:
            tensor.zero_()
    uses = [0] * 24

    async def work(seed):
        random_ = random.Random(seed)
        for _ in range(6):
            index = random_.randrange(24)
            async with blocks[index].use() as tensor:
                before = int(tensor[0])
                await anyio.lowlevel.checkpoint()
                # Another task may have been here at the same time.
                assert before <= int(tensor[0])
                tensor.add_(1)
                uses[index] += 1
            stats = pool.stats()
            assert stats.allocated_bytes + stats.cached_bytes <= stats.quota
            if random_.random() < 0.3:
                pool.free(await pool.allocate(random_.randrange(1, 3000)))

    async with anyio.create_task_group() as tasks:
        for seed in range(50):
            tasks.start_soon(work, seed)
    for block, count in zip(blocks, uses, strict=True):
        async with block.use() as tensor:
            assert tensor.tolist() == [count] * 1024
    assert pool.stats().evictions > 24


# -------------------------------------------------------------------------------------- faults


async def test_an_error_inside_a_use_leaves_the_block_as_any_other(new_pool):
    pool = await new_pool(256)
    (block,) = await fill(pool, 1)

    async def fail():
        async with block.use() as tensor:
            tensor.fill_(5)
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await fail()
    await pool.allocate(256)
    assert await first_byte(block) == 5


async def test_a_use_that_is_left_after_a_fault_says_so(new_pool, pool_runtime):
    """Who waits is told too, and the pool can be closed."""
    ctx = await pool_runtime.create_context("a")
    pool = await new_pool(256)
    block = await pool.allocate(256)
    told = []

    async def wait():
        try:
            await pool.allocate(256)
        except DeviceLost as error:
            told.append(str(error))

    async def use():
        async with context_session(ctx), block.use():
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            pool_runtime.driver.script.lose_device("cuda:0", "it fell off the bus")

    async with anyio.create_task_group() as tasks:
        with pytest.raises(DeviceLost):
            await use()
    assert len(told) == 1
    assert "it fell off the bus" in told[0]
    with pytest.raises(DeviceLost):
        await pool.allocate(256, timeout=10)
    await pool.aclose(timeout=10)


async def test_a_fault_while_copying_is_told_to_everybody_who_waits(new_pool, pool_runtime):
    """Also to who waits for a block in use, and would go on waiting for it."""
    pool = await new_pool(512)
    used, _ = await fill(pool, 2)
    told = []

    async def wait(nbytes, priority):
        try:
            await pool.allocate(nbytes, priority=priority)
        except DeviceLost as error:
            told.append((nbytes, error))

    async def fail():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, 512, 0)
            await anyio.wait_all_tasks_blocked()
            pool_runtime.driver.script.fail_next_work("cuda:0")
            tasks.start_soon(wait, 256, 1)

    with anyio.fail_after(10):
        async with used.use():
            await fail()
    assert sorted(nbytes for nbytes, _ in told) == [256, 512]
    assert told[0][1] is not told[1][1]


async def test_what_a_use_was_left_with_goes_before_the_fault(new_pool, pool_runtime):
    ctx = await pool_runtime.create_context("a")
    pool = await new_pool(256)
    block = await pool.allocate(256)

    async def use():
        async with context_session(ctx, synchronize=False), block.use():
            pool_runtime.driver.script.lose_device("cuda:0")
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await use()
    pool.free(block)


async def test_an_eviction_that_fails_is_told_to_who_needs_it_and_harms_nobody(
    new_pool, monkeypatch
):
    pool = await new_pool(256)
    (block,) = await fill(pool, 1)

    def no_memory(tensor):
        raise MemoryError("the host is full")

    blocks = pool._opened.place.mover._blocks
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "to_host", no_memory)
        with pytest.raises(MemoryError, match="the host is full"):
            await pool.allocate(256)
    assert block.resident
    assert pool.stats().evictions == 0
    await pool.allocate(256)
    assert await first_byte(block) == 0


async def test_a_device_without_room_is_asked_again_and_then_believed(new_pool, pool_runtime):
    pool = await new_pool("1MiB")
    script = pool_runtime.driver.script
    script.refuse_next_allocation("cuda:0")
    await pool.allocate(256)
    script.refuse_next_allocation("cuda:0", times=2)
    with pytest.raises(OutOfDeviceMemory):
        await pool.allocate(512)
    stats = pool.stats()
    assert (stats.allocated_bytes, stats.active_blocks) == (256, 1)
    await pool.allocate(512)


async def test_a_block_that_cannot_come_back_now_can_later(new_pool, pool_runtime, monkeypatch):
    pool = await new_pool(256)
    block, _ = await fill(pool, 2)

    def refuse(host, tensor):
        raise MemoryError("no")

    with monkeypatch.context() as patch:
        patch.setattr(pool._opened.place.mover._blocks, "to_device", refuse)
        with pytest.raises(MemoryError):
            await touch(block)
    assert await first_byte(block) == 0
