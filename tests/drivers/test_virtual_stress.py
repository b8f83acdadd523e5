"""Many threads allocate and free, and finalisers run in the middle of everything."""

from __future__ import annotations

import gc
import random
import threading
from contextlib import contextmanager

import torch

from asyncgpu.units import KB, MB

from .contract import within_limit
from .virtual_bench import VirtualContext


def test_threads_that_allocate_and_free_leave_nothing():
    """In three contexts, with tensors handed from thread to thread and a budget that refuses."""
    contexts = [VirtualContext(cap=60 * MB)]
    contexts += [VirtualContext(beside=contexts[0], cap=cap) for cap in (30 * MB, None)]
    ledger, driver = contexts[0].ledger, contexts[0].driver
    shared, refused, failures = [], [], []

    def work(seed: int) -> None:
        rng, own = random.Random(seed), []
        for _ in range(300):
            context = rng.choice(contexts)
            with context.applied():
                try:
                    size = rng.choice([rng.randint(1, 4 * KB), rng.randint(1, 12 * MB)])
                    rng.choice([own, shared]).append(torch.empty(size, dtype=torch.int8))
                except torch.OutOfMemoryError:
                    refused.append(context)
                for some in (own, shared):
                    if len(some) > rng.randint(0, 10):
                        some.pop()
            ledger.check_invariants()

    def guarded(seed: int) -> None:
        try:
            work(seed)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    assert contexts[0] in refused
    assert contexts[2] not in refused
    shared.clear()
    assert [each.live for each in contexts] == [0, 0, 0]
    assert [each.used for each in contexts] == [0, 0, 0]
    assert driver.free_memory(0) == driver.inventory()[0].total_memory
    driver.close()


def garbage():
    """A tensor that only a garbage collection frees."""
    cycle = [torch.empty(20 * MB, dtype=torch.int8)]
    cycle.append(cycle)


@contextmanager
def collecting_inside(monkeypatch, owner, name):
    """Each call of `owner.name` runs a garbage collection first, as any allocation might."""
    plain = getattr(owner, name)

    def collecting(*args):
        gc.collect()
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, collecting)
        yield


def test_a_finaliser_inside_the_ledgers_lock_does_not_deadlock(monkeypatch):
    context = VirtualContext()

    def allocate() -> None:
        with context.applied():
            garbage()
            assert context.used == 20 * MB
            with collecting_inside(monkeypatch, context.ledger._budget, "charge"):
                kept.append(torch.empty(30 * MB, dtype=torch.int8))

    kept = []
    assert within_limit(allocate) is None
    assert context.used == context.live == 30 * MB
    kept.clear()
    assert context.used == 0
    context.driver.close()


class CollectingSegments:
    """`Segments` whose methods are interrupted by a garbage collection."""

    def __init__(self, segments) -> None:
        self._segments = segments
        self._inside = False
        self.overlaps = 0

    @property
    def live(self):
        return self._segments.live

    def add(self, nbytes):
        return self._interrupted(self._segments.add, nbytes)

    def remove(self, nbytes):
        return self._interrupted(self._segments.remove, nbytes)

    def _interrupted(self, change, nbytes):
        self.overlaps += self._inside
        self._inside = True
        gc.collect()
        self._inside = False
        return change(nbytes)


def test_a_finaliser_inside_the_memorys_lock_waits_for_its_end():
    context, kept = VirtualContext(), []
    segments = CollectingSegments(context.memory._segments)

    def allocate() -> None:
        with context.applied():
            garbage()
            context.memory._segments = segments
            kept.append(torch.empty(30 * MB, dtype=torch.int8))
            garbage()
            kept.clear()
            gc.collect()

    assert within_limit(allocate) is None
    assert segments.overlaps == 0
    assert context.used == context.live == 0
    context.driver.close()


def test_a_finaliser_that_allocates_inside_the_bookkeeping_gets_its_memory(monkeypatch):
    """It cannot wait for what it interrupts, so nobody is charged for it."""
    context, made = VirtualContext(), []

    class Noisy:
        def __del__(self) -> None:
            made.append(torch.empty(20 * MB, dtype=torch.int8))

    def free() -> None:
        with context.applied():
            made.append(torch.empty(30 * MB, dtype=torch.int8))
            cycle = [Noisy()]
            cycle.append(cycle)
            del cycle
            with collecting_inside(monkeypatch, context.ledger._budget, "credit"):
                made.clear()

    assert within_limit(free) is None
    assert [tensor.numel() for tensor in made] == [20 * MB]
    assert context.used == context.live == 0
    context.driver.close()
