"""Workers that are replaced: after so many calls, or when they have grown."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
import sample_tools

import asyncgpu
from asyncgpu import Settings, ToolPool
from asyncgpu.testing import gate

pytestmark = pytest.mark.anyio


async def pids(pool, tool, count):
    """The process of each of `count` calls, one after the other."""
    return [(await pool.call(tool, item))[0] for item in range(count)]


def runs_of(values):
    """How often each value came, in a row."""
    lengths = {}
    for value in values:
        lengths[value] = lengths.get(value, 0) + 1
    return list(lengths.values())


async def test_after_its_calls_a_worker_is_replaced_and_no_call_is_lost(rt):
    seen = set()
    async with ToolPool(0, cpus=1) as pool:
        with anyio.fail_after(30):
            while len(seen) < 3:
                answers = await pool.run(sample_tools.ShortLived(), range(10))
                assert [size for _, _, size in answers] == [1] * 10
                seen |= {pid for pid, _, _ in answers}


async def test_on_the_cpu_the_old_one_serves_until_the_new_one_is_there(rt):
    """It serves as many calls as come while the new one loads, which is held here."""
    with gate() as first, gate() as loading, gate() as leave:
        tool = sample_tools.LoadsBehindAGate(first, loading, leave)
        async with ToolPool(0, cpus=1) as pool:
            before = await pids(pool, tool, 2)
            await loading.wait()
            before += await pids(pool, tool, 5)
            assert len(set(before)) == 1
            leave.open()
            with anyio.fail_after(30):
                while (await pids(pool, tool, 1)) == before[:1]:
                    pass


async def test_without_room_for_both_the_old_one_goes_first(rt):
    async with ToolPool(["cuda:0"]) as pool:
        served = await pids(pool, sample_tools.ShortLivedOnGpu(), 6)
        assert runs_of(served) == [2, 2, 2]
        [slot] = pool.stats().slots
        assert slot.loads in (3, 4)


async def test_a_batch_goes_on_elsewhere_while_a_worker_is_replaced(rt):
    async with ToolPool() as pool:
        answers = await pool.run(sample_tools.ShortLivedOnGpu(), range(8))
    assert len(answers) == 8
    assert max(runs_of(pid for pid, _, _ in answers)) <= 2


async def test_a_worker_that_has_grown_is_replaced(rt):
    async with ToolPool(0, cpus=1) as pool:
        tool = sample_tools.Leaks()
        (first, _, _) = await pool.call(tool, 1)
        await pool.call(tool, 200 << 20)
        with anyio.fail_after(30):
            while (await pool.call(tool, 1))[0] == first:
                pass


async def test_a_worker_that_does_not_grow_stays(rt):
    async with ToolPool(0, cpus=1) as pool:
        assert len(set(await pids(pool, sample_tools.Leaks(), 20))) == 1


async def test_a_replacement_that_cannot_load_leaves_the_old_one_serving(rt, tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    tool = sample_tools.NeverStarts(str(mark))
    vars(tool).update(recycle_after=1, deterministic=False)
    async with ToolPool(0, cpus=1) as pool:
        assert await pool.call(tool, 1) == 2
        [before] = [slot.pid for slot in pool.stats().slots]
        mark.unlink()
        for item in range(5):
            assert await pool.call(tool, item) == item + 1
        assert [slot.pid for slot in pool.stats().slots] == [before]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
async def test_closing_in_the_middle_of_it_leaves_nothing(rt, device):
    """No process, thread or descriptor, as the fixture of the runtime checks."""
    with gate() as first, gate() as loading, gate() as leave:
        tool = sample_tools.LoadsBehindAGate(first, loading, leave).on(device)
        async with ToolPool(["cuda:0"], cpus=1) as pool:
            await pids(pool, tool, 2)
            await loading.wait()
        assert not rt.devices.status().devices[0].holders


@pytest.mark.parametrize("attributes", [{"recycle_after": 0}, {"recycle_memory": "lots"}])
async def test_limits_that_mean_nothing_are_refused_before_anything_starts(rt, attributes):
    tool = sample_tools.Square().on("cpu")
    vars(tool).update(attributes)
    async with ToolPool(0, cpus=1) as pool:
        with pytest.raises(asyncgpu.InvalidRequest, match=next(iter(attributes))):
            await pool.run(tool, [1])
        assert pool.stats().slots == ()


class TestPacking:
    """Declared memory for both beside each other."""

    @pytest.fixture
    def settings(self):
        return Settings(virtual_devices="1x8GiB", allow_multiple_per_device=True)

    @pytest.mark.parametrize(("vram", "serves_on"), [("2GiB", True), ("6GiB", False)])
    async def test_the_new_one_loads_beside_the_old_one_if_there_is_room(self, rt, vram, serves_on):
        with gate() as first, gate() as loading, gate() as leave:
            tool = sample_tools.LoadsBehindAGate(first, loading, leave).on("cuda", vram=vram)
            async with ToolPool() as pool:
                [before, _] = await pids(pool, tool, 2)
                await loading.wait()
                if serves_on:
                    assert await pids(pool, tool, 1) == [before]
                leave.open()
                with anyio.fail_after(30):
                    while (await pids(pool, tool, 1)) == [before]:
                        pass
                    while len(rt.devices.status().devices[0].holders) > 1:
                        await anyio.lowlevel.checkpoint()
