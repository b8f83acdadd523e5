"""`DeviceMemory`: waiting for room on one device."""

from __future__ import annotations

import threading

import anyio
import anyio.from_thread
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


async def test_memory_freed_while_the_driver_is_asked_is_not_lost(memory, ledger, driver, hog):
    """What it said then must not become a limit that nobody ever lifts."""
    free = driver.free

    def ask_slowly():
        answer = free()
        ledger.credit(hog, 600)
        return answer

    memory.capacity._free_memory = ask_slowly
    assert memory.available == 600
    memory.capacity._free_memory = free
    assert ledger.charge(ledger.open(), 600)


async def test_a_wake_up_that_is_seen_to_at_once_does_not_stop_the_next_one(memory, ledger, hog):
    """The loop may serve before the thread that has called for it goes on."""

    class Quick:
        def later(self, fn, *args):
            fn(*args)
            return True

    memory._loop = Quick()
    accounts = [ledger.open(), ledger.open()]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for account in accounts:
                tasks.start_soon(memory.secure, account, 300, BURST)
                await blocked()
            for _ in accounts:
                await anyio.to_thread.run_sync(ledger.credit, hog, 300)


async def test_the_waiters_of_an_account_can_be_dismissed(memory, ledger, hog):
    closing, other = ledger.open(), ledger.open()
    open_, ended = [True], []

    def check():
        if not open_[0]:
            raise ValueError("closing")

    async def wait():
        with pytest.raises(ValueError, match="closing"):
            await memory.secure(closing, 900, GUARANTEED, check=check)
        ended.append(closing)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            await blocked()
            tasks.start_soon(memory.secure, other, 300, BURST)
            ledger.credit(hog, 300)
            await blocked()
            open_[0] = False
            memory.dismiss(closing)
            memory.close(closing)
    assert ended == [closing, closing]
    assert ledger.read(other).reserved == 300


async def test_who_waits_in_another_event_loop_is_woken_there(memory, ledger, hog):
    account, done = ledger.open(), threading.Event()

    def other_loop():
        with anyio.from_thread.start_blocking_portal() as portal:
            portal.call(memory.secure, account, 600, BURST)
        done.set()

    thread = threading.Thread(target=other_loop, daemon=True)
    thread.start()
    with anyio.fail_after(10):
        while not memory.waiting:
            await anyio.to_thread.run_sync(lambda: None)
        ledger.credit(hog, 600)
        await anyio.to_thread.run_sync(done.wait, 10)
    assert ledger.read(account).reserved == 600
