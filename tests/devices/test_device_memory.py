"""`DeviceMemory`: waiting for room on one device."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from asyncgpu.devices.ledger import LockedLedger
from asyncgpu.devices.memory import DeviceMemory
from asyncgpu.errors import InfeasibleRequest
from asyncgpu.home_loop import home_loop
from asyncgpu.policy.qos import QoSPolicy

pytestmark = pytest.mark.anyio

BEST, BURST, GUARANTEED = QoSPolicy.BEST_EFFORT, QoSPolicy.BURSTABLE, QoSPolicy.GUARANTEED
BUDGET = 1000


class DriverMemory:
    """What the driver reports free: everything but what we use and what others have taken."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.taken = 0
        self.takes = []

    def free(self):
        if self.takes:
            self.taken = self.takes.pop()
        return BUDGET - self.ledger.used - self.taken


@pytest.fixture
async def ledger():
    return LockedLedger(BUDGET)


@pytest.fixture
async def driver(ledger):
    return DriverMemory(ledger)


@pytest.fixture
async def memory(ledger, driver):
    opened = DeviceMemory(
        0,
        BUDGET,
        ledger=ledger,
        free_memory=driver.free,
        ageing_seconds=10.0,
        clock=anyio.current_time,
        loop=home_loop(),
    )
    yield opened
    assert opened.waiting == 0
    ledger.check_invariants()


@pytest.fixture
async def hog(ledger):
    """Uses everything, without a reservation."""
    account = ledger.open()
    ledger.charge(account, BUDGET)
    return account


async def blocked():
    """Every task has come as far as it can, those that look at the driver in a thread too."""
    for _ in range(20):
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(lambda: None)


async def test_room_that_is_there_is_had_at_once(memory, ledger):
    account = ledger.open()
    with anyio.fail_after(5):
        await memory.secure(account, 600, BURST)
    assert ledger.read(account).reserved == 600
    assert memory.available == 400


async def test_more_than_the_budget_fails_at_once(memory, ledger):
    with pytest.raises(InfeasibleRequest, match=r"1001 B.* asked, .*1000 B"):
        await memory.secure(ledger.open(), 1001, BURST)


async def test_a_credit_in_another_thread_wakes_the_waiter(memory, ledger, hog):
    account = ledger.open()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(memory.secure, account, 600, BURST)
            await blocked()
            assert memory.waiting == 1
            await anyio.to_thread.run_sync(ledger.credit, hog, 600)
    assert ledger.read(account).reserved == 600


async def test_waiters_are_served_by_class(memory, ledger, hog):
    order = []

    async def wait(qos):
        account = ledger.open()
        await memory.secure(account, 400, qos)
        order.append(qos)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for qos in (BEST, BURST, GUARANTEED):
                tasks.start_soon(wait, qos)
                await blocked()
            ledger.credit(hog, 400)
            await blocked()
            assert order == [GUARANTEED]
            ledger.credit(hog, 400)
            await blocked()
            assert order == [GUARANTEED, BURST]
            tasks.cancel_scope.cancel()


async def test_a_timeout_names_the_device_and_the_size(memory, ledger, hog):
    account = ledger.open()
    with pytest.raises(TimeoutError, match=r"cuda:0: 600 B.* within 0.01 s"):
        await memory.secure(account, 600, BURST, timeout=0.01)


async def test_a_cancelled_waiter_makes_way(memory, ledger, hog):
    large, small = ledger.open(), ledger.open()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            first = anyio.CancelScope()

            async def wait_first():
                with first:
                    try:
                        await memory.secure(large, 900, BURST)
                    finally:
                        ledger.reserve(large, 0)

            tasks.start_soon(wait_first)
            await blocked()
            tasks.start_soon(memory.secure, small, 100, BURST)
            ledger.credit(hog, 300)
            await blocked()
            assert ledger.read(small).reserved == 0
            first.cancel()
    assert ledger.read(small).reserved == 100


async def test_caches_and_handlers_are_asked_before_anybody_waits(memory, ledger, hog):
    asked = []

    async def relief(device, lacking, *, ask):
        asked.append((lacking(), ask))
        ledger.credit(hog, 600)

    memory.relief = relief
    account = ledger.open()
    with anyio.fail_after(5):
        await memory.secure(account, 600, BURST)
    assert asked == [(600, True)]


async def test_memory_of_other_programs_is_not_there(memory, ledger, driver):
    driver.taken = 700
    assert memory.available == 300
    account = ledger.open()
    with pytest.raises(TimeoutError):
        await memory.secure(account, 400, BURST, timeout=0.01)
    ledger.close(account)
    driver.taken = 0
    assert memory.available == BUDGET


async def test_it_looks_again_for_what_other_programs_give_back(memory, ledger, driver):
    driver.takes = [0, 700, 700, 700]
    account = ledger.open()
    with anyio.fail_after(20):
        await memory.secure(account, 400, BURST)
    assert ledger.read(account).reserved == 400
    assert driver.takes == [], "it has looked until they were gone"


async def test_contexts_share_what_leases_and_residents_leave(memory, ledger):
    memory.keep_from_contexts(700)
    assert memory.available == 300
    memory.keep_from_contexts(0)
    assert memory.available == BUDGET


async def test_a_lease_waits_for_what_contexts_use_above_their_reservations(memory, ledger):
    burst = ledger.open()
    ledger.charge(burst, 600)
    memory.keep_from_contexts(500)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(memory.until_whole)
            await blocked()
            assert memory.waiting == 1
            ledger.credit(burst, 100)
