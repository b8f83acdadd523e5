"""What other programs use of the devices counts, as the driver reports it."""

from __future__ import annotations

import logging
import threading
from functools import partial

import anyio
import pytest

from asyncgpu.errors import DeviceError
from asyncgpu.policy.qos import QoSPolicy
from asyncgpu.units import GB

pytestmark = pytest.mark.anyio

LIMIT = 10


class Machine:
    """Devices of 8 GiB: what is used there, and how often the driver was asked."""

    def __init__(self):
        self.used = {}
        self.asked = 0
        self.gate = None
        self.error = None

    def __call__(self, index):
        self.asked += 1
        if self.gate is not None:
            assert self.gate.wait(LIMIT)
        if self.error is not None:
            raise self.error
        return 8 * GB - self.used.get(index, 0)


@pytest.fixture
def machine():
    """``machine.used[0] = 7 * GB``: so much is in use there, by whomever."""
    return Machine()


async def queued(watch):
    """Wait until a request waits; the lookout is never blocked for as long as anyio wants it."""
    async for change in watch:
        if change.kind == "queued":
            return


async def test_s41_a_request_goes_where_another_program_leaves_room(manage, owner, machine):
    machine.used[0] = 7 * GB
    async with manage(2, free=machine) as manager:
        placed = await manager.acquire("cuda", owner=owner(), vram=3 * GB)
        assert placed.device == "cuda:1"
        assert manager.status().devices[0].used_by_others == 7 * GB


async def test_s41_with_no_room_anywhere_a_request_waits_and_says_so(
    manage, owner, asking, machine
):
    machine.used[0] = 7 * GB
    async with manage(1, free=machine) as manager, anyio.create_task_group() as tasks:
        with pytest.raises(TimeoutError, match="of which other programs use 7 GiB"):
            await manager.acquire("cuda", owner=owner(), vram=3 * GB, timeout=0.02)
        watch = manager.watch()
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner(), vram=3 * GB))
        await queued(watch)
        machine.used[0] = GB
        with anyio.fail_after(LIMIT):
            assert (await waiter()).device == "cuda:0"


async def test_who_waits_for_other_programs_is_in_nobodys_way(manage, owner, asking, machine):
    machine.used[0] = 5 * GB
    async with (
        manage(1, free=machine, allow_multiple_per_device=True) as manager,
        anyio.create_task_group() as tasks,
    ):
        watch = manager.watch()
        large = asking(tasks, partial(manager.acquire, "cuda", owner=owner(), vram=4 * GB))
        await queued(watch)
        small = await manager.acquire("cuda", owner=owner(), vram=GB, timeout=LIMIT)
        assert small.device == "cuda:0"
        machine.used[0] = 0
        await large()


async def test_packing_spreads_by_what_is_really_free(manage, machine):
    machine.used[0] = 2 * GB
    async with (
        manage(2, free=machine, allow_multiple_per_device=True) as manager,
        manager.lease(vram=GB) as one,
        manager.lease(vram=GB) as two,
    ):
        assert (one.device, two.device) == ("cuda:1", "cuda:1")
        async with manager.lease(vram=GB) as three:
            # Each has 6 GiB left now, and nobody stands on the first yet.
            assert three.device == "cuda:0"


async def test_what_loaded_workers_have_declared_is_not_counted_twice(manage, owner, machine):
    async with manage(1, free=machine, allow_multiple_per_device=True) as manager:
        loaded = await manager.acquire("cuda", owner=owner(), vram=5 * GB)
        loaded.mark_idle()
        machine.used[0] = 5 * GB
        async with manager.lease(vram=3 * GB, timeout=LIMIT):
            assert not loaded.evicting
            assert manager.status().devices[0].used_by_others == 0


async def test_nobody_is_evicted_for_room_that_other_programs_have(manage, owner, asking, machine):
    machine.used[0] = 6 * GB
    async with manage(1, free=machine) as manager, anyio.create_task_group() as tasks:
        idle = await manager.acquire("cuda", owner=owner(), vram=GB)
        idle.mark_idle()
        watch = manager.watch()
        waiter = asking(tasks, partial(manager.acquire, "cuda", owner=owner(), vram=4 * GB))
        await queued(watch)
        assert not idle.evicting
        machine.used[0] = GB
        await waiter()
        assert idle.released


async def test_what_the_budget_leaves_to_others_is_theirs(manage, machine):
    machine.used[0] = 3 * GB
    async with (
        manage(1, free=machine, budget=6 * GB) as manager,
        manager.lease(vram=5 * GB, timeout=LIMIT),
    ):
        assert manager.status().devices[0].used_by_others == GB


async def test_contexts_look_after_their_memory_where_it_is_used(manage, machine):
    machine.used[0] = 7 * GB
    async with manage(1, free=machine) as manager:
        context = await manager.reserve(
            0, owner_name="context", vram=4 * GB, qos=QoSPolicy.GUARANTEED, timeout=LIMIT
        )
        assert context.granted


async def test_who_declares_nothing_does_not_wait_for_the_driver(manage, asking, machine):
    machine.gate = threading.Event()
    async with manage(1, free=machine) as manager, anyio.create_task_group() as tasks:
        async with manager.lease("cuda", timeout=LIMIT):
            pass
        declared = asking(tasks, manager.lease("cuda", vram=GB).__aenter__)
        await anyio.wait_all_tasks_blocked()
        assert not declared.done.is_set()
        machine.gate.set()
        await declared()


async def test_a_request_that_gives_up_while_the_driver_is_asked_leaves_nothing(manage, machine):
    machine.gate = threading.Event()
    async with manage(1, free=machine) as manager:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(manager.lease("cuda", vram=GB).__aenter__)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            machine.gate.set()
        async with manager.lease("cuda", vram=8 * GB, timeout=LIMIT):
            pass


async def test_many_requests_share_a_reading(manage, machine):
    async with (
        manage(2, free=machine, allow_multiple_per_device=True) as manager,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(200):
            tasks.start_soon(use, manager)
    assert machine.asked <= 20, "one call for each device and reading, not for each request"


async def use(manager):
    async with manager.lease("cuda", vram=GB):
        pass


async def test_a_driver_that_cannot_answer_hinders_nobody(manage, machine, caplog):
    machine.error = DeviceError("NVML cannot answer")
    with caplog.at_level(logging.WARNING, "asyncgpu.devices"):
        async with (
            manage(1, free=machine) as manager,
            manager.lease("cuda", vram=8 * GB, timeout=LIMIT),
        ):
            pass
    assert "cuda:0" in caplog.text
