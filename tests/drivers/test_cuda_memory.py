"""A context's memory on CUDA: pools that are entered with a step, and given back in time.

torch's allocator is a fake that keeps its rules; below it is the real native budget.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgpu.devices.ledger import LockedLedger
from asyncgpu.drivers.cuda import library as library_module
from asyncgpu.drivers.cuda.driver import CudaDriver
from asyncgpu.drivers.cuda.ledger import NativeLedger
from asyncgpu.drivers.cuda.platform import CudaPlatform
from asyncgpu.errors import InvalidRequest, OutOfDeviceMemory, VRAMBudgetExceeded

from .fake_torch import FakeNative, FakeNvml, FakeTorch

MB = 1 << 20


class Rig:
    """A driver on fakes, with a ledger of 100 MiB for device 0 and one for device 1."""

    def __init__(self, library, **torch_options):
        self.torch = FakeTorch(**torch_options)
        self.pools = self.torch.pools
        platform = CudaPlatform(self.torch, FakeNative())
        self.driver = CudaDriver(FakeNvml(), open_platform=lambda: platform)
        self.ledgers = [NativeLedger(library, 100 * MB) for _ in range(2)]
        self._contexts = []

    def context(self, cap=None, *, device=0, reserved=0):
        self._contexts.append(Context(self, cap, device, reserved))
        return self._contexts[-1]

    def close(self):
        # Now, and not at some garbage collection in the middle of another test.
        for ctx in self._contexts:
            ctx.close()
        self.driver.close()
        assert self.pools.violations == []


class Context:
    """What a context has of the driver."""

    def __init__(self, rig, cap, device, reserved):
        self.driver = rig.driver
        self.ledger = rig.ledgers[device]
        self.stream = rig.driver.create_stream(device, level=1)
        self.account = self.ledger.open(cap=cap, reserved=reserved)
        self.memory = rig.driver.open_memory(device, self.ledger, self.account)

    @property
    def used(self):
        reading = self.ledger.read(self.account)
        return None if reading is None else reading.used

    @contextmanager
    def applied(self):
        token = self.driver.apply(self.stream, memory=self.memory)
        try:
            yield
        finally:
            self.driver.undo(token)

    def close(self):
        self.memory.close()
        if self.ledger.read(self.account) is not None:
            self.ledger.close(self.account)


@pytest.fixture(params=[True, False], ids=["newest-first", "oldest-first"])
def rig(native, request):
    rig = Rig(native[0], newest_first=request.param)
    yield rig
    rig.close()


def elsewhere(work):
    """Run `work` in another thread, to its end."""
    raised = []

    def run():
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


@contextmanager
def inside_elsewhere(ctx):
    """Another thread stays in `ctx` for the length of the block."""
    entered, leave = threading.Event(), threading.Event()

    def stay():
        with ctx.applied():
            entered.set()
            assert leave.wait(10)

    thread = threading.Thread(target=stay)
    thread.start()
    assert entered.wait(10)
    yield
    leave.set()
    thread.join(10)


# ------------------------------------------------------------------------------------- budget


def test_allocations_of_a_step_are_charged_and_refused(rig):
    ctx = rig.context(cap=10 * MB)
    with ctx.applied():
        tensor = rig.pools.empty(6 * MB)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            rig.pools.empty(6 * MB)
    error = ctx.memory.translated(caught.value, "ocr")
    assert isinstance(error, VRAMBudgetExceeded)
    assert isinstance(error, torch.OutOfMemoryError)
    assert (error.context, error.requested, error.available) == ("ocr", 6 * MB, 4 * MB)
    assert ctx.memory.enforced
    assert ctx.memory.charged == ctx.used == 6 * MB
    assert ctx.memory.live() == 6 * MB
    del tensor


def test_a_neighbour_keeps_its_reservation(rig):
    greedy, neighbour = rig.context(), rig.context(reserved=40 * MB)
    held = []

    def grow():
        with greedy.applied():
            while True:
                held.append(rig.pools.empty(2 * MB))

    with pytest.raises(torch.OutOfMemoryError) as caught:
        grow()
    assert greedy.used == 60 * MB
    assert isinstance(greedy.memory.translated(caught.value, "x"), OutOfDeviceMemory)
    with neighbour.applied():
        assert rig.pools.empty(40 * MB)


def test_a_full_device_is_told_from_a_full_budget(rig, native):
    ctx = rig.context(cap=10 * MB)
    before = native[1].free
    native[1].set_free(3 * MB)
    try:
        with ctx.applied(), pytest.raises(torch.OutOfMemoryError) as caught:
            rig.pools.empty(6 * MB)
    finally:
        native[1].set_free(before)
    error = ctx.memory.translated(caught.value, "ocr")
    assert isinstance(error, OutOfDeviceMemory)
    assert (error.device, error.requested, error.available) == ("cuda:0", 6 * MB, 3 * MB)


def test_outside_a_step_nothing_is_charged(rig):
    ctx = rig.context(cap=10 * MB)
    tensor = rig.pools.empty(20 * MB)
    assert tensor.pool is None
    assert ctx.used == 0


def test_a_tensor_that_dies_in_another_thread_is_credited_by_the_trim(rig):
    ctx = rig.context()
    with ctx.applied():
        held = [rig.pools.empty(6 * MB)]
    elsewhere(held.clear)
    assert ctx.memory.live() == 0
    assert ctx.used == 6 * MB
    ctx.memory.trim()
    assert ctx.used == 0


def test_a_refusal_at_a_decision_point_is_worded_the_same(rig):
    from asyncgpu.ports import Refusal

    ctx = rig.context()
    error = ctx.memory.refused(Refusal(3, 2, by_device=False), "ocr")
    assert isinstance(error, VRAMBudgetExceeded)
    assert isinstance(error, torch.OutOfMemoryError)


def test_torch_is_given_functions_of_the_library(rig, native):
    """Python in their place would deadlock: it needs the GIL, and they run under torch's lock."""
    ctx = rig.context()
    with ctx.applied():
        pool = rig.pools.pools[rig.pools.current()]
    assert pool.allocator.addresses == native[0].functions(ctx.account)
    for address in pool.allocator.addresses:
        assert library_of(address).endswith("libasyncgpu_budget.so")


def library_of(address):
    """The file whose code is at `address`."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, mode, *_, path = line.split()
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            assert "x" in mode
            return path
    return ""


# ------------------------------------------------------------------------------- applying


def test_one_context_applied_again_stays_in_its_pool(rig):
    """torch refuses to enter a pool twice."""
    ctx = rig.context()
    with ctx.applied():
        pool = rig.pools.current()
        with ctx.applied():
            assert rig.pools.current() == pool
        assert rig.pools.current() == pool
    assert rig.pools.current() is None


def test_an_inner_context_has_its_own_pool_and_the_outer_one_its_own_again(rig):
    outer, inner = rig.context(), rig.context()
    with outer.applied():
        first = rig.pools.empty(MB)
        with inner.applied():
            assert rig.pools.empty(2 * MB).pool != first.pool
            with outer.applied():
                third = rig.pools.empty(MB)
        fourth = rig.pools.empty(MB)
        assert fourth.pool == first.pool
    assert inner.used == 2 * MB
    assert outer.used == 6 * MB
    del third


def test_threads_of_one_context_are_in_pools_of_their_own(rig):
    ctx = rig.context()
    with inside_elsewhere(ctx), ctx.applied():
        mine = rig.pools.current()
        assert len({recording[1] for recording in rig.pools.recordings}) == 2
    with ctx.applied():
        assert rig.pools.current() == mine or len(rig.pools.pools) == 2
    elsewhere(lambda: ctx.driver.undo(ctx.driver.apply(ctx.stream, memory=ctx.memory)))
    assert len(rig.pools.pools) == 2


def test_devices_are_apart(rig):
    first, second = rig.context(), rig.context(device=1)
    with first.applied():
        with second.applied():
            assert rig.pools.current(0) is not None
            rig.pools.empty(4 * MB, device=1)
        assert rig.pools.current(1) is None
    assert (first.used, second.used) == (0, 4 * MB)


def test_backward_passes_stay_in_this_thread(rig):
    ctx = rig.context()
    is_on = rig.torch._C._is_multithreading_enabled
    with ctx.applied():
        assert not is_on()
        with ctx.applied():
            assert not is_on()
        assert not is_on()
    assert is_on()
    ctx.driver.undo(ctx.driver.apply(ctx.stream))
    assert is_on()


def test_what_was_off_stays_off(rig):
    ctx = rig.context()
    rig.torch._C._set_multithreading_enabled(False)
    with ctx.applied():
        pass
    assert not rig.torch._C._is_multithreading_enabled()


def test_an_apply_that_fails_has_changed_nothing(rig):
    outer, inner = rig.context(), rig.context(device=0)
    before = rig.torch.state()
    rig.pools.refuses_begin = True
    with pytest.raises(RuntimeError, match="refused"):
        inner.driver.apply(inner.stream, memory=inner.memory)
    assert rig.torch.state() == before
    rig.pools.refuses_begin = False
    with outer.applied():
        inside = rig.torch.state()
        begin = rig.pools.begin
        calls = iter([RuntimeError("refused")])

        def refuse_once(device, pool_id):
            for error in calls:
                rig.pools.pools[pool_id].use_count += 1
                raise error
            begin(device, pool_id)

        inner.driver._platform.current._pools._enter = _entering(rig, refuse_once)
        with pytest.raises(RuntimeError, match="refused"):
            inner.driver.apply(inner.stream, memory=inner.memory)
        assert rig.torch.state() == inside
    assert rig.torch.state() == before
    with inner.applied():
        pass
    inner.close()


def _entering(rig, begin):
    def enter(device, pool):
        try:
            begin(device, pool.id)
        except RuntimeError:
            rig.pools.release(device, pool.id)
            raise

    return enter


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(st.integers(0, 3), max_size=10), newest_first=st.booleans())
def test_undo_restores_pools_streams_and_modes(native, steps, newest_first):
    rig = Rig(native[0], newest_first=newest_first)
    contexts = [rig.context(device=device) for device in (0, 0, 1, 1)]
    undone = []
    for step in steps:
        ctx = contexts[step]
        undone.append((rig.torch.state(), ctx.driver.apply(ctx.stream, memory=ctx.memory)))
        before = ctx.used
        held = rig.pools.empty(MB, device=ctx.stream.device)
        assert rig.pools.pools[held.pool].device == ctx.stream.device
        assert ctx.used - before in (0, 2 * MB)
        assert ctx.used > 0
        del held
    for state, token in reversed(undone):
        rig.driver.undo(token)
        assert rig.torch.state() == state
    for ctx in contexts:
        ctx.close()
        assert ctx.used is None
    rig.close()


def test_memory_of_another_driver_or_device_is_refused(rig):
    ctx, other = rig.context(), rig.context(device=1)
    with pytest.raises(InvalidRequest, match="memory of the CUDA driver"):
        ctx.driver.apply(ctx.stream, memory=object())
    with pytest.raises(InvalidRequest, match="memory of cuda:1"):
        ctx.driver.apply(ctx.stream, memory=other.memory)


def test_closed_memory_is_not_applied(rig):
    ctx = rig.context()
    ctx.close()
    before = rig.torch.state()
    with pytest.raises(InvalidRequest, match="closed"):
        ctx.driver.apply(ctx.stream, memory=ctx.memory)
    assert rig.torch.state() == before


# ------------------------------------------------------------------------------- giving back


def fragment(rig, ctx):
    """Fill the budget with segments that are too small for what comes."""
    with ctx.applied():
        small = [rig.pools.empty(2 * MB) for _ in range(5)]
        small.clear()
        with pytest.raises(torch.OutOfMemoryError):
            rig.pools.empty(10 * MB)


def test_a_trim_makes_room_where_the_cache_stood_in_the_way(rig):
    ctx = rig.context(cap=10 * MB)
    fragment(rig, ctx)
    ctx.memory.trim()
    with ctx.applied():
        assert rig.pools.empty(10 * MB)


def test_live_tensors_stay_through_a_trim(rig):
    ctx = rig.context(cap=10 * MB)
    with ctx.applied():
        kept = rig.pools.empty(4 * MB)
        rig.pools.empty(6 * MB)
    ctx.memory.trim()
    assert ctx.memory.live() == 4 * MB
    assert ctx.used == 4 * MB
    with ctx.applied():
        assert rig.pools.empty(6 * MB).pool != kept.pool
    del kept
    ctx.memory.trim()
    assert ctx.memory.live() == 0
    assert ctx.used == 0


def test_a_pool_with_nothing_to_give_is_left_alone(rig):
    ctx = rig.context()
    with ctx.applied():
        weights = rig.pools.empty(4 * MB)
    ctx.memory.trim()
    with ctx.applied():
        assert rig.pools.current() == weights.pool


def test_while_somebody_is_inside_nothing_is_dropped_and_the_last_one_out_does_it(rig):
    ctx, other = rig.context(cap=10 * MB), rig.context()
    fragment(rig, ctx)
    with inside_elsewhere(other):
        ctx.memory.trim()
        assert ctx.used == 10 * MB
        with ctx.applied(), pytest.raises(torch.OutOfMemoryError):
            rig.pools.empty(10 * MB)
        assert ctx.used == 10 * MB
    assert ctx.used == 0


def test_a_pool_that_is_lent_is_retired_when_it_comes_back(rig):
    ctx = rig.context(cap=10 * MB)
    with ctx.applied():
        rig.pools.empty(10 * MB)
        elsewhere(ctx.memory.trim)
        assert ctx.used == 10 * MB
        again = rig.pools.empty(4 * MB)
        assert again.pool == rig.pools.current()
        del again
    assert ctx.used == 0


def test_another_devices_pools_do_not_matter(rig):
    ctx, other = rig.context(cap=10 * MB), rig.context(device=1)
    fragment(rig, ctx)
    ctx.memory.trim()
    with other.applied(), ctx.applied():
        assert rig.pools.empty(10 * MB)


def test_close_gives_back_all_but_live_tensors(rig):
    ctx = rig.context()
    with ctx.applied():
        kept = rig.pools.empty(4 * MB)
        rig.pools.empty(6 * MB)
    ctx.close()
    ctx.memory.close()
    assert ctx.used == 4 * MB
    assert rig.driver.free_memory(0) == 10
    assert ctx.used == 4 * MB
    del kept
    assert rig.pools.emptied == 0
    rig.driver.free_memory(0)
    assert ctx.used is None
    assert rig.pools.pools == {}
    rig.driver.free_memory(0)
    assert rig.pools.emptied == 1


def test_close_clears_the_workspaces_of_cublas(rig):
    ctx = rig.context()
    with ctx.applied():
        rig.pools.workspaces.append(rig.pools.empty(8 * MB))
    with inside_elsewhere(rig.context()):
        ctx.close()
        assert rig.pools.cleared == 0
    assert rig.pools.cleared == 1
    assert ctx.used is None


def test_a_close_without_anything_alive_leaves_the_workspaces_of_others(rig):
    ctx = rig.context()
    with ctx.applied():
        rig.pools.empty(8 * MB)
    ctx.close()
    assert rig.pools.cleared == 0


def test_functions_are_not_another_contexts_while_somebody_is_inside(rig, native):
    """Else a thread that outlives its context would allocate on the next one's account."""
    ctx = rig.context()
    functions = native[0].functions(ctx.account)
    with inside_elsewhere(ctx):
        ctx.close()
        others = [ctx.ledger.open() for _ in range(900)]
        assert functions not in {native[0].functions(account) for account in others}
        for account in others:
            ctx.ledger.close(account)
    assert ctx.used is None


def test_a_lost_device_is_left_alone(rig):
    """A pool's destructor would end the process there."""
    ctx = rig.context()
    with ctx.applied():
        rig.pools.empty(4 * MB)
        rig.pools.lost = True
        elsewhere(ctx.memory.trim)
    ctx.memory.trim()
    ctx.close()
    assert ctx.used == 4 * MB
    rig.pools.lost = False
    ctx.driver._platform.memories._gates[0].drop_if_quiet()


def test_an_idle_pool_is_lent_to_any_thread(rig):
    """Else every thread of a pool of threads would leave a cache behind."""
    ctx = rig.context(cap=4 * MB)

    def allocate():
        with ctx.applied():
            rig.pools.empty(4 * MB)

    for _ in range(5):
        elsewhere(allocate)
    assert len(rig.pools.pools) == 1


# -------------------------------------------------------------------------------- soft budgets


@pytest.fixture(params=["no library", "no allocator", "public calls"])
def soft(request, native):
    rig = Rig(native[0], private=request.param != "public calls")
    if request.param == "no allocator":
        del rig.torch._C._cuda_customAllocator
    else:
        rig.ledgers[0] = LockedLedger(100 * MB)
    yield rig
    rig.close()


def test_soft_budgets_are_settled_afterwards(soft):
    ctx = soft.context(cap=10 * MB)
    assert not ctx.memory.enforced
    with ctx.applied():
        tensor = soft.pools.empty(6 * MB)
        assert ctx.used == 0
    ctx.memory.settle()
    assert ctx.used == ctx.memory.charged == 6 * MB
    del tensor
    ctx.memory.trim()
    assert ctx.used == ctx.memory.charged == 0


def test_a_soft_budget_knows_by_how_much_it_is_exceeded(soft):
    ctx = soft.context(cap=10 * MB)
    neighbour = soft.ledgers[0].open(reserved=70 * MB)
    with ctx.applied():
        tensors = [soft.pools.empty(20 * MB), soft.pools.empty(20 * MB)]
    ctx.memory.settle()
    assert ctx.used == 30 * MB
    assert ctx.ledger.read(ctx.account).cap == 10 * MB
    soft.ledgers[0].close(neighbour)
    ctx.memory.settle()
    assert ctx.used == 40 * MB
    tensors.clear()
    ctx.memory.trim()
    assert ctx.used == 0


def test_what_outlives_a_soft_context_is_credited_in_the_end(soft):
    ctx = soft.context()
    with ctx.applied():
        tensor = soft.pools.empty(20 * MB)
    ctx.close()
    assert ctx.used == 20 * MB
    del tensor
    soft.driver.free_memory(0)
    assert ctx.used is None


def test_without_torchs_own_allocator_nothing_is_counted(native):
    rig = Rig(native[0], backend="cudaMallocAsync")
    ctx = rig.context(cap=MB)
    assert not ctx.memory.enforced
    with ctx.applied():
        rig.pools.empty(20 * MB)
    ctx.memory.settle()
    ctx.memory.trim()
    assert (ctx.memory.live(), ctx.memory.charged, ctx.used) == (0, 0, 0)
    assert isinstance(ctx.memory.translated(torch.OutOfMemoryError(), "x"), OutOfDeviceMemory)
    ctx.close()
    rig.close()


# ------------------------------------------------------------------------------ the driver


def test_the_native_ledger_needs_the_library_and_no_cuda(monkeypatch, tmp_path, native):
    driver = CudaDriver(FakeNvml(), open_platform=lambda: pytest.fail("opened"))
    monkeypatch.setattr("asyncgpu.drivers.cuda.driver.open_library", lambda: native[0])
    ledger = driver.native_ledger(0, 50)
    assert (ledger.available, ledger.used, ledger.committed) == (50, 0, 0)
    monkeypatch.setattr(library_module, "PATH", tmp_path / "none.so")
    library_module.open_library.cache_clear()
    monkeypatch.setattr("asyncgpu.drivers.cuda.driver.open_library", library_module.open_library)
    assert driver.native_ledger(0, 50) is None
    library_module.open_library.cache_clear()
    driver.close()


def test_the_library_is_the_size_the_tables_are(native):
    assert ctypes.sizeof(native[0].accounts) == library_module.ACCOUNTS * 13 * 8
