"""Random life in a memory pool. Every block's bytes are followed, and every request's outcome."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncgpu.errors import InfeasibleRequest, InvalidRequest, RequestError
from asyncgpu.policy.pool_actions import CopyOut, ForgetHostCopy, Grant, Load, Refuse, Release
from asyncgpu.policy.pool_block import BlockState
from asyncgpu.policy.residency import Residency
from asyncgpu.policy.residency_invariants import check_residency

QUOTA = 4 * 256
FAULT = OSError("no more host memory")


class PoolLife(RuleBasedStateMachine):
    """A pool, and the simplest shell around it: memory is a dict of buffer numbers to contents."""

    @initialize(eviction=st.booleans())
    def open(self, eviction):
        self.pool = Residency(QUOTA, eviction=eviction)
        self.device = {}
        self.host = {}
        self.contents = {}
        self.written = 0
        self.moves = []
        self.asked = {}
        self.used = []
        self.blocks = []
        self.freed = []

    # ---------------------------------------------------------------------------- the shell

    def perform(self, actions):
        for action in actions:
            match action:
                case Grant(want):
                    self.grant(want)
                case Refuse(want, error):
                    assert self.asked.pop(want.number) is want
                    assert isinstance(error, Exception)
                case Load() | CopyOut():
                    self.moves.append(action)
                case ForgetHostCopy(block):
                    self.host.pop(block.number, None)
                case Release(buffer):
                    del self.device[buffer]

    def grant(self, want):
        assert self.asked.pop(want.number) is want
        block = want.block
        assert block not in self.freed
        if want.locks:
            assert block.state is BlockState.RESIDENT
            assert self.device[block.buffer] == self.contents[block.number]
            self.written += 1
            self.device[block.buffer] = self.contents[block.number] = self.written
            self.used.append(want)
        else:
            # It may be leaving again already, for the next in line.
            self.contents[block.number] = self.device[block.buffer]
            self.blocks.append(block)

    def ask(self, want, actions):
        self.asked[want.number] = want
        self.perform(actions)

    # ----------------------------------------------------------------------------- requests

    @rule(nbytes=st.integers(1, QUOTA + 256), priority=st.integers(0, 1))
    def allocate(self, nbytes, priority):
        held = [want.block for want in self.used if want.number % 3 == 0]
        try:
            self.ask(*self.pool.allocate(nbytes, priority, held))
        except InfeasibleRequest:
            assert nbytes > QUOTA - sum(block.size for block in set(held))

    @precondition(lambda self: self.blocks)
    @rule(data=st.data(), priority=st.one_of(st.none(), st.integers(0, 1)))
    def use(self, data, priority):
        self.ask(*self.pool.use(data.draw(st.sampled_from(self.blocks)), priority))

    @precondition(lambda self: self.used)
    @rule(data=st.data())
    def leave(self, data):
        want = data.draw(st.sampled_from(self.used))
        self.used.remove(want)
        self.perform(self.pool.leave(want))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def withdraw(self, data):
        want = self.asked.pop(data.draw(st.sampled_from(sorted(self.asked))))
        self.perform(self.pool.withdraw(want))

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def free(self, data):
        block = data.draw(st.sampled_from(self.blocks))
        if block.locks:
            with pytest.raises(RequestError, match="in use"):
                self.pool.free(block)
            return
        self.forget(block)
        self.perform(self.pool.free(block))

    @precondition(lambda self: self.freed)
    @rule(data=st.data())
    def free_or_use_what_is_freed(self, data):
        block = data.draw(st.sampled_from(self.freed))
        for method in (self.pool.free, self.pool.use):
            with pytest.raises(InvalidRequest, match="was freed"):
                method(block)

    @rule()
    def clear(self):
        if self.used:
            with pytest.raises(RequestError, match="in use"):
                self.pool.clear()
            return
        for block in list(self.blocks):
            self.forget(block)
        self.perform(self.pool.clear())

    @rule()
    def flush(self):
        self.perform(self.pool.flush())
        assert self.pool.memory.cached == 0

    def forget(self, block):
        self.blocks.remove(block)
        self.freed.append(block)

    # ----------------------------------------------------------------------------- outcomes

    @precondition(lambda self: self.moves)
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def finish_move(self, data, fails):
        move = self.moves.pop(data.draw(st.integers(0, len(self.moves) - 1)))
        block = move.block
        if isinstance(move, CopyOut):
            if fails:
                self.perform(self.pool.copy_out_failed(block, FAULT))
                return
            self.host[block.number] = self.device[move.buffer]
            self.perform(self.pool.copied_out(block))
        elif fails:
            self.device.pop(move.buffer, None)
            self.perform(self.pool.load_failed(block, FAULT))
        else:
            assert (move.buffer in self.device) is not move.new
            self.device[move.buffer] = self.host[block.number] if move.reload else None
            self.perform(self.pool.loaded(block))

    # --------------------------------------------------------------------------- invariants

    @invariant()
    def all_is_well(self):
        if not hasattr(self, "pool"):
            return
        check_residency(self.pool)
        loading = {move.buffer for move in self.moves if isinstance(move, Load) and move.new}
        assert set(self.device) | loading == set(self.pool.memory._sizes)
        assert set(self.host) == {block.number for block in self.pool.blocks if block.on_host}
        waiting = {w.number for block in self.pool.blocks for w in block.wants.values()}
        assert waiting == set(self.asked)

    def teardown(self):
        """Whatever happened, in the end everything that waits is served, and nothing is left."""
        if not hasattr(self, "pool"):
            return
        for want in self.used:
            self.perform(self.pool.leave(want))
        self.used.clear()
        self.perform(self.pool.close(RequestError("closed")))
        for move in self.moves:
            done = self.pool.loaded if isinstance(move, Load) else self.pool.copied_out
            self.device.setdefault(move.buffer, None)
            self.perform(done(move.block))
        assert not self.asked
        assert not self.pool.blocks
        assert self.pool.memory.allocated == self.pool.memory.cached == 0
        assert not self.device
        assert not self.host


TestPoolLife = PoolLife.TestCase
TestPoolLife.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
