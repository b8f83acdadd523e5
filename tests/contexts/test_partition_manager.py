"""`PartitionManager` and contexts in partitions. K-rows: the scenario tables."""

from __future__ import annotations

import functools
import threading

import anyio
import pytest
import torch

from asyncgpu import (
    GB,
    MB,
    DuplicateName,
    InfeasibleRequest,
    InvalidDevice,
    InvalidRequest,
    NoRuntime,
    PartitionConfig,
    PartitionLimits,
    PartitionManager,
    QoSPolicy,
    RequestError,
    Runtime,
    VRAMBudgetExceeded,
    blocking_runtime,
)
from asyncgpu.drivers.virtual.driver import VirtualDriver

HALF = PartitionLimits().memory("4GiB").compute(0.5)


def device(total=8 * GB, **options):
    return PartitionManager(PartitionConfig(total_memory=total, **options))


def limits(memory=None, compute=None):
    return PartitionLimits(memory, compute)


# ----------------------------------------------------------------------------------- by itself


def test_k1_the_documented_sample():
    config = PartitionConfig(total_memory=8 * 1024**3)
    manager = PartitionManager(config)
    manager.create_partition(
        "inference",
        "Inference Partition",
        PartitionLimits().memory(4 * 1024**3).compute(0.5),
    )
    manager.create_partition(
        "training",
        "Training Partition",
        PartitionLimits().memory(4 * 1024**3).compute(0.5),
    )
    partition = manager.get_partition("inference")
    assert partition.memory_limit == 4 * 1024**3
    assert partition.compute_limit == 0.5
    stats = manager.stats()
    assert (stats.partitions, stats.memory_available, stats.compute_available) == (2, 0, 0)


def test_k4_shares_that_add_up_to_one_fit():
    manager = device()
    for number, share in enumerate((0.2, 0.2, 0.2, 0.4)):
        manager.create_partition(str(number), "p", limits(compute=share))
    assert manager.stats().compute_allocated == 1.0


def test_k5_overcommit():
    manager = device(overcommit_ratio=1.5)
    for name in "ab":
        manager.create_partition(name, "p", limits(6 * GB))
    with pytest.raises(InfeasibleRequest, match="1 GiB asked"):
        manager.create_partition("c", "p", limits(1 * GB))
    assert manager.get_partition("c") is None


def test_k11_stats():
    manager = device(10 * 10**9)
    manager.create_partition("a", "A", limits(10**9, 0.3))
    manager.create_partition("b", "B", limits(2 * 10**9, 0.4))
    stats = manager.stats()
    assert (stats.partitions, stats.memory_allocated) == (2, 3 * 10**9)
    assert (stats.compute_allocated, stats.memory_available) == (0.7, 7 * 10**9)


def test_without_hardware_a_share_is_a_label():
    partition = device().create_partition("a", "A", HALF)
    assert (partition.compute_granted, partition.compute_enforced) == (0.5, False)
    assert partition.sm_count is None
    assert (partition.usage.used, partition.usage.contexts) == (0, ())


def test_a_partition_without_limits_says_so():
    partition = device().create_partition("a", "A", PartitionLimits())
    assert (partition.memory_limit, partition.compute_limit) == (None, None)
    assert (partition.compute_granted, partition.compute_enforced) == (None, False)


def test_unknown_taken_and_deleted_ids():
    manager = device()
    assert manager.get_partition("a") is None
    with pytest.raises(InvalidRequest, match="no partition 'a'"):
        manager.delete_partition("a")
    first = manager.create_partition("a", "A", HALF)
    with pytest.raises(DuplicateName, match="'a'"):
        manager.create_partition("a", "A", limits(1))
    manager.delete_partition("a")
    assert first.closed
    assert manager.partitions() == []
    assert manager.create_partition("a", "A", limits("8GiB")) is manager.get_partition("a")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("", "A", HALF), "id"), ((1, "A", HALF), "id"), (("a", " ", HALF), "name")],
)
def test_a_partition_has_an_id_and_a_name(arguments, named):
    with pytest.raises(InvalidRequest, match=named):
        device().create_partition(*arguments)


def test_wrong_types_are_refused():
    with pytest.raises(InvalidRequest, match="PartitionLimits"):
        device().create_partition("a", "A", 4 * GB)
    with pytest.raises(InvalidRequest, match="PartitionConfig"):
        PartitionManager(8 * GB)


def test_a_share_that_cannot_be_opened_leaves_nothing_behind():
    answers = [InfeasibleRequest("no SMs left"), None]

    def open_share(share):
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    manager = PartitionManager(PartitionConfig(GB), open_share=open_share)
    with pytest.raises(InfeasibleRequest, match="SMs"):
        manager.create_partition("a", "A", limits(GB, 1.0))
    assert manager.stats().partitions == 0
    manager.create_partition("a", "A", limits(GB, 1.0))


def test_many_threads_share_one_device_out():
    manager = device(1000)
    made, refused = [], []

    def create(worker):
        for number in range(10):
            try:
                made.append(manager.create_partition(f"{worker}.{number}", "p", limits(50)))
            except InfeasibleRequest:
                refused.append(number)

    threads = [threading.Thread(target=create, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (20, 20)
    assert manager.stats().memory_available == 0


# -------------------------------------------------------------------------------- in a runtime


@pytest.fixture
async def rt():
    async with Runtime(driver=VirtualDriver.from_spec("2x8GiB")) as rt:
        yield rt


def empty(size):
    return functools.partial(torch.empty, size, dtype=torch.uint8)


@pytest.mark.anyio
async def test_each_device_has_one_manager(rt):
    assert rt.partitions() is rt.partitions("cuda:0") is rt.partitions("cuda")
    assert rt.partitions("cuda:1") is not rt.partitions()
    assert rt.partitions().config.total_memory == 8 * GB
    with pytest.raises(InvalidDevice, match="cuda:7"):
        rt.partitions("cuda:7")


@pytest.mark.anyio
async def test_a_virtual_device_labels_shares(rt):
    for name in ("a", "b"):
        partition = rt.partitions().create_partition(name, "p", HALF)
        assert (partition.compute_granted, partition.compute_enforced) == (0.5, False)


@pytest.mark.anyio
async def test_a_budget_is_what_is_shared_out():
    driver = VirtualDriver.from_spec("8GiB")
    async with Runtime(driver=driver, total_vram_budget="2GiB") as rt:
        with pytest.raises(InfeasibleRequest, match="2 GiB are left"):
            rt.partitions().create_partition("a", "A", HALF)


@pytest.mark.anyio
async def test_k6_the_contexts_of_a_partition_obey_its_limit_together(rt):
    partition = rt.partitions().create_partition("p", "P", limits("1000MiB"))
    one = await rt.create_context("one", partition=partition)
    other = await rt.create_context("other", partition="p")
    outside = await rt.create_context("outside")
    first = await one.run_sync(empty(500 * MB))
    second = await other.run_sync(empty(400 * MB))
    with pytest.raises(VRAMBudgetExceeded, match="'one'"):
        await one.run_sync(empty(200 * MB))
    third = await outside.run_sync(empty(2 * GB))
    assert partition.usage.used == 900 * MB
    assert partition.usage.contexts == ("one", "other")
    del first
    fourth = await one.run_sync(empty(200 * MB))
    assert partition.usage.used == 600 * MB
    del second, third, fourth
    assert partition.usage.used == 0


@pytest.mark.anyio
async def test_k8_a_context_is_in_the_partition_it_names_and_in_no_other(rt):
    p1, p2 = (rt.partitions().create_partition(name, name, limits(GB)) for name in ("p1", "p2"))
    ctx = await rt.create_context("a", partition=p1)
    assert (p1.usage.contexts, p2.usage.contexts) == (("a",), ())
    await ctx.aclose()
    await rt.create_context("a", partition=p2)
    assert (p1.usage.contexts, p2.usage.contexts) == ((), ("a",))


@pytest.mark.anyio
async def test_a_context_may_use_all_of_its_partition_and_no_more(rt):
    rt.partitions().create_partition("p", "P", limits("1GiB"))
    ctx = await rt.create_context("a", partition="p")
    assert ctx.max_vram == ctx.usage().max == GB
    assert (await rt.create_context("b", partition="p", max_vram="1MiB")).max_vram == MB
    for sizes in ({"max_vram": "2GiB"}, {"base_vram": "2GiB"}):
        with pytest.raises(InvalidRequest, match=r"2147483648 bytes .* 'p' .* 1073741824 bytes"):
            await rt.create_context("c", partition="p", **sizes)
    assert rt.get_context("c") is None
    assert rt.partitions().get_partition("p").usage.contexts == ("a", "b")


@pytest.mark.anyio
async def test_no_handler_lifts_a_context_over_its_partition(rt):
    rt.partitions().create_partition("p", "P", limits("1GiB"))
    ctx = await rt.create_context("a", partition="p", max_vram="512MiB")
    rt.on_memory_pressure(lambda ctx, requested, available: True)
    async with ctx.reserve("800MiB"):
        pass
    with anyio.fail_after(10), pytest.raises(VRAMBudgetExceeded):
        async with ctx.reserve("2GiB"):
            pass


@pytest.mark.anyio
async def test_waiting_for_room_in_a_partition_holds_up_nobody_outside(rt):
    rt.partitions().create_partition("p", "P", limits("1GiB"))
    holder = await rt.create_context("holder", partition="p", base_vram="1GiB")
    created = []

    async def create():
        created.append(await rt.create_context("late", partition="p", base_vram="1GiB"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create)
        await anyio.wait_all_tasks_blocked()
        outside = await rt.create_context("outside", base_vram="2GiB", timeout=10)
        assert created == []
        await holder.aclose()
    assert [ctx.name for ctx in created] == ["late"]
    await outside.aclose()


@pytest.mark.anyio
async def test_a_wait_that_is_given_up_leaves_no_trace(rt):
    partition = rt.partitions().create_partition("p", "P", limits("1GiB"))
    holder = await rt.create_context("holder", partition="p", base_vram="1GiB")
    with pytest.raises(TimeoutError):
        await rt.create_context("late", partition="p", base_vram="1MiB", timeout=0.01)
    assert partition.usage.contexts == ("holder",)
    await holder.aclose()
    rt.partitions().delete_partition("p")


@pytest.mark.anyio
async def test_an_occupied_partition_is_not_deleted(rt):
    manager = rt.partitions()
    partition = manager.create_partition("p", "P", HALF)
    contexts = [await rt.create_context(name, partition="p") for name in ("a", "b")]
    with pytest.raises(RequestError, match=r"'p' of cuda:0 is occupied.*'a', 'b'"):
        manager.delete_partition("p")
    assert manager.get_partition("p") is partition
    for ctx in contexts:
        await ctx.aclose()
    manager.delete_partition("p")
    assert manager.stats().memory_allocated == 0
    for gone in (partition, "p"):
        with pytest.raises(RequestError, match=r"deleted|no partition"):
            await rt.create_context("c", partition=gone)


@pytest.mark.anyio
async def test_what_outlives_its_context_stays_charged_to_the_partition(rt):
    partition = rt.partitions().create_partition("p", "P", limits("1GiB"))
    ctx = await rt.create_context("a", partition="p")
    kept = await ctx.run_sync(empty(700 * MB))
    await ctx.aclose()
    assert (partition.usage.used, partition.usage.contexts) == (700 * MB, ())
    other = await rt.create_context("b", partition="p")
    with pytest.raises(VRAMBudgetExceeded):
        await other.run_sync(empty(700 * MB))
    del kept
    assert partition.usage.used == 0


@pytest.mark.anyio
async def test_a_partition_decides_the_device(rt):
    there = rt.partitions("cuda:1").create_partition("p", "P", HALF)
    for name, meant in (("a", there), ("b", "p")):
        ctx = await rt.create_context(name, partition=meant)
        assert ctx.device == "cuda:1"
    for meant in (there, "p"):
        with pytest.raises(RequestError, match="cuda:0"):
            await rt.create_context("c", partition=meant, device="cuda:0")
    rt.partitions("cuda:0").create_partition("p", "P", HALF)
    with pytest.raises(InvalidRequest, match="cuda:0, cuda:1"):
        await rt.create_context("c", partition="p")
    assert (await rt.create_context("c", partition="p", device="cuda:0")).device == "cuda:0"


@pytest.mark.anyio
async def test_partitions_of_others_are_refused(rt):
    foreign = device().create_partition("p", "P", HALF)
    same_place = PartitionManager(PartitionConfig(GB), device=0)
    for meant in (foreign, same_place.create_partition("p", "P", limits(1))):
        with pytest.raises(InvalidRequest, match="not of this runtime"):
            await rt.create_context("a", partition=meant)
    with pytest.raises(InvalidRequest, match="neither"):
        await rt.create_context("a", partition=7)
    assert rt.contexts() == []


@pytest.mark.anyio
async def test_a_guaranteed_context_reserves_within_its_partition(rt):
    rt.partitions().create_partition("p", "P", limits("1GiB"))
    sure = await rt.create_context(
        "sure", partition="p", qos=QoSPolicy.GUARANTEED, max_vram="600MiB"
    )
    greedy = await rt.create_context("greedy", partition="p")
    with pytest.raises(VRAMBudgetExceeded):
        await greedy.run_sync(empty(500 * MB))
    kept = await sure.run_sync(empty(600 * MB))
    assert kept.numel() == 600 * MB


class Share:
    """What hardware with 132 SMs would give for a half."""

    granted, sm_count, enforced = 64 / 132, 64, True
    closed = False

    def close(self):
        self.closed = True


class SharingDriver(VirtualDriver):
    """Notes with which share each stream is created."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.shares = []

    def open_share(self, device, share):
        assert (device, share) == (0, 0.5)
        return Share()

    def create_stream(self, device, *, level, share=None):
        self.shares.append(share)
        return super().create_stream(device, level=level)


@pytest.mark.anyio
async def test_contexts_get_streams_of_their_partition_s_share():
    driver = SharingDriver([8 * GB])
    async with Runtime(driver=driver) as rt:
        kept = rt.partitions().create_partition("kept", "P", HALF)
        assert (kept.compute_granted, kept.sm_count, kept.compute_enforced) == (64 / 132, 64, True)
        await rt.create_context("inside", partition=kept)
        await rt.create_context("outside")
        assert driver.shares == [kept.share, None]
        deleted = rt.partitions().create_partition("deleted", "P", HALF)
        rt.partitions().delete_partition("deleted")
        assert (deleted.share.closed, kept.share.closed) == (True, False)
    assert kept.share.closed


@pytest.mark.anyio
async def test_a_closed_runtime_makes_no_partitions():
    async with Runtime(driver=VirtualDriver.from_spec("8GiB")) as rt:
        manager = rt.partitions()
    with pytest.raises(NoRuntime):
        rt.partitions()
    with pytest.raises(NoRuntime):
        manager.create_partition("a", "A", HALF)


def test_the_blocking_runtime_has_partitions_too():
    with blocking_runtime(driver=VirtualDriver.from_spec("8GiB")) as rt:
        rt.partitions().create_partition("p", "P", HALF)
        ctx = rt.create_context("a", partition="p")
        assert ctx.max_vram == 4 * GB
