"""What always holds for a pool, written out. For tests: it looks at everything."""

from __future__ import annotations

from .pool_block import BlockState, WantState
from .residency import Residency

__all__ = ["check_residency"]

_WITHOUT_MEMORY = (BlockState.AWAITED, BlockState.EVICTED)


def check_residency(residency: Residency) -> None:
    """Raise `AssertionError` if `residency` contradicts itself, or could serve and does not."""
    residency.memory.check_invariants()
    for block in residency.blocks:
        assert (block.buffer is None) == (block.state in _WITHOUT_MEMORY)
        assert not block.locks or block.state is BlockState.RESIDENT
        assert not block.ended or (block.moving and not block.wants)
        assert block.state is not BlockState.EVICTED or block.on_host
        for want in block.wants.values():
            assert want.state is WantState.WAITING
            assert (want.queue is None) == (block.state is BlockState.LOADING)
    _check_sums(residency)
    _check_nobody_waits_in_vain(residency)


def _check_sums(residency: Residency) -> None:
    blocks = residency.blocks
    held = sum(block.size for block in blocks if block.buffer is not None)
    assert residency.memory.allocated == held
    idle = {b.number for b in blocks if b.state is BlockState.RESIDENT and not b.locks}
    assert {block.number for block in residency.idle} == idle
    assert residency.idle.nbytes == sum(block.size for block in residency.idle)
    assert len(residency.wants) == sum(
        want.queue is not None for block in blocks for want in block.wants.values()
    )


def _check_nobody_waits_in_vain(residency: Residency) -> None:
    """The head of the queue could not be served, and what could be evicted for it is leaving."""
    head, memory = residency.wants.head, residency.memory
    if head is None or head.block.state is BlockState.LEAVING:
        return
    size = head.block.size
    assert size > memory.room + memory.cached
    coming = sum(
        block.size for block in residency.blocks if block.ended or block.state is BlockState.LEAVING
    )
    possible = memory.room + memory.cached + coming
    assert not residency.evicts or size <= possible or size > possible + residency.idle.nbytes
