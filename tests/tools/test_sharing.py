"""Several tools, pools and leases on the same devices."""

from __future__ import annotations

import anyio
import pytest
import sample_tools

import asyncgpu
from asyncgpu import Settings, ToolPool

pytestmark = pytest.mark.anyio


async def test_four_tools_on_two_gpus_all_succeed_and_never_two_on_one(rt):
    """The runtime fixture checks after each test that no device has two holders."""
    kinds = (sample_tools.Square, sample_tools.OtherSquare, sample_tools.Third, sample_tools.Fourth)
    answers = {}
    most = []

    async def call(kind):
        answers[kind] = await kind()([2, 3])

    async def watch():
        async for _ in rt.devices.watch():
            most.append(max(len(d.holders) for d in rt.devices.status().devices))

    async with anyio.create_task_group() as watching:
        watching.start_soon(watch)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as tasks:
            for kind in kinds:
                tasks.start_soon(call, kind)
        watching.cancel_scope.cancel()
    assert answers == {key: [4, 9] for key in kinds}
    assert max(most) == 1


async def test_an_idle_tool_makes_room_for_another(rt):
    async with ToolPool() as pool:
        assert await pool.run(sample_tools.Square(), range(20)) == [i * i for i in range(20)]
        assert await pool.run(sample_tools.OtherSquare(), range(20)) == [i * i for i in range(20)]
        by_tool = {slot.tool for slot in pool.stats().slots if slot.state != "absent"}
        assert "OtherSquare" in by_tool


async def test_two_tools_at_once_in_one_pool_share_by_waiting(rt):
    results = {}

    async def run(pool, tool):
        results[tool.name] = await pool.run(tool, range(30))

    async with ToolPool() as pool, anyio.create_task_group() as tasks:
        for tool in (sample_tools.Square(), sample_tools.OtherSquare(), sample_tools.Third()):
            tasks.start_soon(run, pool, tool)
    assert set(results) == {"Square", "OtherSquare", "Third"}


async def test_two_pools_may_use_the_same_gpus(rt):
    async with ToolPool() as one, ToolPool() as two:
        assert await one.run(sample_tools.Square(), [2]) == [4]
        assert await two.run(sample_tools.Square(), [3]) == [9]


async def test_a_pool_waits_for_a_leased_gpu_and_uses_the_others(rt):
    async with ToolPool() as pool:
        async with rt.lease("cuda:0"):
            devices = {d for _, d, _ in await pool.run(sample_tools.Where(), range(20))}
        assert devices == {(1,)}


async def test_a_tool_called_inside_a_lease_uses_the_leased_gpu(rt):
    async with rt.lease("cuda:0,1"):
        [(_, devices, _)] = await sample_tools.Where()([1])
    assert devices in {(0,), (1,)}


async def test_a_tool_that_wants_what_its_own_task_holds_is_refused_or_reuses_never_hangs(rt):
    with anyio.fail_after(20):
        async with rt.lease("cuda:0"):
            with pytest.raises(asyncgpu.InfeasibleRequest, match="wait for itself"):
                await sample_tools.TwoDevices()([1])


async def test_a_tool_of_two_gpus_takes_both(rt):
    async with ToolPool() as pool:
        [(_, devices, _)] = await pool.run(sample_tools.TwoDevices(), [1])
    assert sorted(devices) == [0, 1]


async def test_a_pool_of_one_gpu_has_no_place_for_a_tool_of_two(rt):
    async with ToolPool(1) as pool:
        with pytest.raises(asyncgpu.InfeasibleRequest, match="needs 2 GPUs; this pool has 1"):
            await pool.run(sample_tools.TwoDevices(), [1])


async def test_a_pool_without_gpus_runs_tools_of_the_cpu(rt):
    async with ToolPool(0, cpus=2) as pool:
        answers = await pool.run(sample_tools.OnCpu(), range(20))
        assert {devices for _, devices, _ in answers} == {()}
        with pytest.raises(asyncgpu.InfeasibleRequest, match="no GPUs"):
            await pool.run(sample_tools.Square(), [1])


async def test_a_device_outside_the_pool_is_refused(rt):
    async with ToolPool(["cuda:1"]) as pool:
        with pytest.raises(asyncgpu.RequestError, match="cuda:0"):
            await pool.run(sample_tools.Square().on("cuda:0"), [1])
        answers = await pool.run(sample_tools.Where(), range(10))
        assert {devices for _, devices, _ in answers} == {(1,)}


@pytest.mark.parametrize("gpus", [True, -1, 1.5, "cuda", None, ["cuda"], ["cpu"], ["cuda:0"] * 2])
def test_what_is_not_a_set_of_gpus_is_refused_before_anything_starts(gpus):
    with pytest.raises(asyncgpu.InvalidRequest, match="gpus"):
        ToolPool(gpus)


@pytest.mark.parametrize(
    "options",
    [{"cpus": 0}, {"retries": -1}, {"max_queue": 0}, {"worker": "carrier pigeon"}],
)
def test_parameters_that_mean_nothing_are_named(options):
    with pytest.raises(asyncgpu.InvalidRequest, match=next(iter(options))):
        ToolPool(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"on_error": "ignore"},
        {"timeout": -1},
        {"item_timeout": float("nan")},
        {"priority": 1.5},
        {"seed": "seven"},
        {"progress": 3},
    ],
)
async def test_options_of_a_run_are_checked_before_anything_starts(rt, options):
    async with ToolPool() as pool:
        with pytest.raises(asyncgpu.InvalidRequest, match=next(iter(options))):
            await pool.run(sample_tools.Square(), [1], **options)
        assert pool.stats().slots == ()


async def test_a_closed_pool_says_so(rt):
    pool = ToolPool()
    with pytest.raises(asyncgpu.RequestError, match="closed"):
        await pool.run(sample_tools.Square(), [1])


async def test_closing_a_pool_fails_what_still_waits(rt, gates):
    entered, leave = gates
    failures = []

    async def run(pool):
        try:
            await pool.run(sample_tools.Gated(entered, leave), range(3))
        except asyncgpu.AsyncGPUError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks, ToolPool(1) as pool:
        tasks.start_soon(run, pool)
        await entered.wait()
    assert len(failures) == 1


async def test_a_lease_may_preempt_and_what_it_stopped_is_run_again(rt, gates):
    entered, leave = gates
    answers = []

    async def run(pool):
        answers.extend(await pool.run(sample_tools.Gated(entered, leave), range(3)))

    async with ToolPool(["cuda:0"]) as pool, anyio.create_task_group() as tasks:
        tasks.start_soon(run, pool)
        await entered.wait()
        [first] = [slot.pid for slot in pool.stats().slots]
        async with rt.lease("cuda:0", preempt=True):
            leave.open()
    assert [item for item, _ in answers] == [0, 1, 2]
    assert first not in {pid for _, pid in answers}


class TestPacking:
    """Several holders on a device."""

    @pytest.fixture
    def settings(self):
        return Settings(virtual_devices="2x8GiB", allow_multiple_per_device=True)

    async def test_two_tools_stay_warm_side_by_side(self, rt):
        async with ToolPool() as pool:
            for tool in (sample_tools.Where(), sample_tools.Square(), sample_tools.Where()):
                await pool.run(tool, range(20))
            slots = pool.stats().slots
            assert {slot.tool for slot in slots if slot.state == "idle"} == {"Where", "Square"}
            assert max(slot.loads for slot in slots) == 1

    async def test_a_context_and_a_worker_share_a_device_if_the_tool_says_how_much_it_needs(
        self, rt
    ):
        await rt.create_context("a", max_vram="2GiB", base_vram="2GiB", device="cuda:0")
        await rt.create_context("b", max_vram="2GiB", base_vram="2GiB", device="cuda:1")
        with anyio.fail_after(30):
            assert await sample_tools.Square().on("cuda", vram="1GiB")([3]) == [9]

    async def test_vram_that_no_device_has_left_is_waited_for(self, rt):
        for index in (0, 1):
            await rt.create_context(
                f"c{index}", max_vram="6GiB", base_vram="6GiB", device=f"cuda:{index}"
            )
        big = sample_tools.Square().on("cuda", vram="4GiB")
        async with ToolPool() as pool:
            with pytest.raises(TimeoutError):
                await pool.run(big, [1], timeout=0.3)
            await rt.destroy_context("c0")
            assert await pool.run(big, [1], timeout=30) == [1]


class TestOffload:
    """Eviction to host memory."""

    @pytest.fixture
    def settings(self):
        return Settings(virtual_devices="1x8GiB", offload_strategy="cpu")

    async def test_an_evicted_tool_keeps_its_process_and_comes_back(self, rt):
        async with ToolPool() as pool:
            [(first, _, _)] = await pool.run(sample_tools.Where(), [1])
            await pool.run(sample_tools.Square(), [1])
            [(again, devices, _)] = await pool.run(sample_tools.Where(), [1])
            assert (again, devices) == (first, (0,))
            assert [slot.loads for slot in pool.stats().slots if slot.tool == "Where"] == [1]

    async def test_a_tool_that_cannot_move_is_restarted(self, rt):
        async with ToolPool() as pool:
            [(first, _, _)] = await pool.run(sample_tools.Fixed(), [1])
            await pool.run(sample_tools.Square(), [1])
            [(again, _, _)] = await pool.run(sample_tools.Fixed(), [1])
            assert again != first
