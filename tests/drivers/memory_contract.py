"""What the memory of every driver must do, said once, like `contract`: the budget holds.

Sizes are in whole segments of torch's CUDA allocator, so that every driver charges exactly them.
"""

from __future__ import annotations

import weakref
from contextlib import contextmanager

import pytest
import torch

from asyncgpu.devices.ledger import LockedLedger
from asyncgpu.errors import OutOfDeviceMemory, VRAMBudgetExceeded
from asyncgpu.units import MB

from .contract import within_limit

CAPACITY = 200 * MB


class Bench:
    """One device's ledger on a rig, and what a test does with the accounts of it."""

    def __init__(self, rig) -> None:
        self.driver = rig.driver
        self.torch_device = rig.driver.torch_device(0)
        self.ledger = rig.driver.native_ledger(0, CAPACITY) or LockedLedger(CAPACITY)
        self.stream = rig.driver.create_stream(0, level=1)

    def context(self, **limits):
        return Share(self, **limits)

    def make(self, nbytes):
        return torch.empty(nbytes, dtype=torch.uint8, device=self.torch_device)


class Share:
    """An account and its memory, as a context has them."""

    def __init__(self, bench, **limits) -> None:
        self.bench = bench
        self.account = bench.ledger.open(**limits)
        self.memory = bench.driver.open_memory(0, bench.ledger, self.account)

    @contextmanager
    def applied(self):
        driver = self.bench.driver
        token = driver.apply(self.bench.stream, memory=self.memory)
        try:
            yield
        finally:
            driver.undo(token)

    @property
    def used(self):
        """What its account is charged for when nothing is cached."""
        self.memory.trim()
        self.memory.settle()
        return self.bench.ledger.read(self.account).used

    def refusal_of(self, nbytes):
        """The error that an allocation of `nbytes` ends in."""
        with self.applied(), pytest.raises(torch.OutOfMemoryError) as caught:
            self.bench.make(nbytes)
        return caught.value


class MemoryContract:
    """Subclassed with a fixture `rig`, which opens a driver and closes it."""

    @pytest.fixture
    def bench(self, rig):
        return Bench(rig)

    def test_an_allocation_is_charged_until_it_is_freed(self, bench):
        context = bench.context()
        with context.applied():
            block = bench.make(20 * MB)
            assert context.used == 20 * MB
            assert context.memory.live() == 20 * MB
        assert context.used == 20 * MB
        del block
        assert context.used == context.memory.live() == 0
        assert bench.ledger.read(context.account).peak == 20 * MB

    def test_what_is_charged_beyond_live_bytes_is_cached_or_rounding(self, bench):
        context = bench.context()
        with context.applied():
            block = bench.make(1000)
            assert 1000 <= context.memory.live() <= context.used <= 2 * MB
        del block
        assert context.used == 0

    def test_nothing_outside_is_charged(self, bench):
        context = bench.context()
        before = bench.make(20 * MB)
        with context.applied():
            alias = before.view(-1)[1:]
        after = bench.make(20 * MB)
        assert context.used == 0
        del before, after
        assert alias.numel() == 20 * MB - 1

    def test_a_context_fails_at_its_cap_and_nothing_of_the_failure_stays(self, bench):
        context, neighbour = bench.context(cap=40 * MB), bench.context()
        self.needs_enforcement(context)
        with context.applied():
            blocks = [bench.make(20 * MB)]
        assert "out of memory" in str(context.refusal_of(30 * MB))
        with context.applied():
            blocks.append(bench.make(20 * MB))
        context.refusal_of(2 * MB)
        with neighbour.applied():
            others = bench.make(100 * MB)
        assert (context.used, neighbour.used) == (40 * MB, 100 * MB)
        del blocks, others
        assert (context.used, neighbour.used) == (0, 0)

    def test_nobody_takes_what_another_has_reserved(self, bench):
        reserved, greedy = bench.context(reserved=100 * MB), bench.context()
        self.needs_enforcement(greedy)
        with greedy.applied():
            mine = bench.make(100 * MB)
        greedy.refusal_of(20 * MB)
        with reserved.applied():
            theirs = bench.make(100 * MB)
        assert bench.ledger.available == 0
        del mine, theirs

    def test_headroom_is_what_can_be_allocated(self, bench):
        context = bench.context(cap=60 * MB)
        self.needs_enforcement(context)
        with context.applied():
            block = bench.make(20 * MB)
            rest = bench.make(bench.ledger.headroom(context.account))
        assert bench.ledger.headroom(context.account) == 0
        del block, rest
        assert context.used == 0
        assert bench.ledger.headroom(context.account) == 60 * MB

    def test_the_same_memory_applied_twice_counts_once(self, bench):
        context = bench.context()
        with context.applied(), context.applied():
            inner = bench.make(20 * MB)
        with context.applied():
            with context.applied():
                pass
            outer = bench.make(20 * MB)
        assert context.used == 40 * MB
        del inner, outer

    def test_a_memory_applied_inside_another_pays_alone(self, bench):
        outer, inner = bench.context(), bench.context(cap=40 * MB)
        with outer.applied():
            with inner.applied():
                first = bench.make(40 * MB)
                if inner.memory.enforced:
                    with pytest.raises(torch.OutOfMemoryError):
                        bench.make(20 * MB)
            second = bench.make(20 * MB)
        assert (outer.used, inner.used) == (20 * MB, 40 * MB)
        del first, second
        assert (outer.used, inner.used) == (0, 0)

    def test_a_stream_applied_without_memory_changes_no_memory(self, bench):
        context = bench.context()
        with context.applied():
            token = bench.driver.apply(bench.stream)
            block = bench.make(20 * MB)
            bench.driver.undo(token)
        token = bench.driver.apply(bench.stream)
        other = bench.make(20 * MB)
        bench.driver.undo(token)
        assert context.used == 20 * MB
        del block, other

    def test_inference_mode_and_memory_come_together(self, bench):
        context = bench.context()
        token = bench.driver.apply(bench.stream, inference=True, memory=context.memory)
        block = bench.make(20 * MB)
        bench.driver.undo(token)
        assert block.is_inference()
        assert context.used == 20 * MB
        del block

    @pytest.mark.parametrize("where", ["nowhere", "a thread", "another context"])
    def test_who_allocated_is_credited_wherever_it_is_freed(self, bench, where):
        context, other = bench.context(), bench.context()
        with context.applied():
            blocks = [bench.make(20 * MB)]
        if where == "a thread":
            assert within_limit(blocks.clear) is None
        elif where == "another context":
            with other.applied():
                blocks.clear()
        else:
            blocks.clear()
        assert (context.used, other.used) == (0, 0)

    def test_memory_is_applied_to_one_thread(self, bench):
        context, blocks = bench.context(), []
        with context.applied():
            assert within_limit(lambda: blocks.append(bench.make(20 * MB))) is None
        assert context.used == 0

        def inside() -> None:
            with context.applied():
                blocks.append(bench.make(20 * MB))

        with context.applied():
            assert within_limit(inside) is None
            blocks.append(bench.make(20 * MB))
        assert context.used == 40 * MB
        blocks.clear()
        assert context.used == 0

    def test_a_backward_pass_is_charged(self, bench):
        context = bench.context()
        with context.applied():
            weight = torch.ones(5 * MB, device=bench.torch_device, requires_grad=True)
            (weight * 2).sum().backward()
        assert context.used == 40 * MB
        weight.grad = None
        assert context.used == 20 * MB
        del weight

    def test_what_lives_on_after_the_close_is_valid_and_charged(self, bench):
        context = bench.context()
        with context.applied():
            block = bench.make(20 * MB).fill_(7)
        context.memory.close()
        context.memory.close()
        bench.ledger.close(context.account)
        assert bench.ledger.used == 20 * MB
        assert int(block[-1]) == 7
        del block
        context.memory.trim()
        assert bench.ledger.used == 0

    def test_a_refusal_of_the_own_budget_is_told_from_one_of_the_device(self, bench):
        capped, free = bench.context(cap=40 * MB), bench.context()
        self.needs_enforcement(capped)
        error = capped.memory.translated(capped.refusal_of(60 * MB), "reader")
        assert isinstance(error, VRAMBudgetExceeded)
        assert isinstance(error, torch.OutOfMemoryError)
        assert (error.context, error.available) == ("reader", 40 * MB)
        assert error.requested == 60 * MB
        error = free.memory.translated(free.refusal_of(CAPACITY + 20 * MB), "writer")
        assert isinstance(error, OutOfDeviceMemory)
        assert isinstance(error, torch.OutOfMemoryError)
        assert (error.device, error.available) == ("cuda:0", CAPACITY)

    def test_a_translated_error_is_left_alone_and_so_is_any_other(self, bench):
        inner, outer = bench.context(cap=20 * MB), bench.context()
        self.needs_enforcement(inner)
        error = inner.memory.translated(inner.refusal_of(60 * MB), "inner")
        assert outer.memory.translated(error, "outer") is error
        mistake = ValueError("no")
        assert outer.memory.translated(mistake, "outer") is mistake

    def test_a_translated_error_keeps_nothing_of_the_failed_step_alive(self, bench):
        context = bench.context(cap=40 * MB)
        self.needs_enforcement(context)

        def step():
            held = bench.make(20 * MB)
            seen.append(weakref.ref(held))
            return held, bench.make(40 * MB)

        seen, error = [], None
        try:
            with context.applied():
                step()
        except torch.OutOfMemoryError as raised:
            error = context.memory.translated(raised, "context")
        assert isinstance(error, VRAMBudgetExceeded)
        assert seen[0]() is None

    @staticmethod
    def needs_enforcement(context) -> None:
        if not context.memory.enforced:
            pytest.skip("this machine's driver cannot refuse an allocation")
