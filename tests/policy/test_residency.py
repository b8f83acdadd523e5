"""Single decisions of a memory pool; `test_residency_fuzz` has random life."""

from __future__ import annotations

import pytest

from asyncgpu.errors import InfeasibleRequest, InvalidTransition
from asyncgpu.policy.idle_blocks import IdleBlocks
from asyncgpu.policy.pool_actions import CopyOut, Grant, Load, Release
from asyncgpu.policy.pool_block import TRANSITIONS, BlockState, PoolBlock
from asyncgpu.policy.pool_memory import PoolMemory, rounded
from asyncgpu.policy.residency import Residency


@pytest.mark.parametrize(("nbytes", "size"), [(1, 256), (256, 256), (257, 512), (5000, 5120)])
def test_sizes_are_whole_grains(nbytes, size):
    assert rounded(nbytes) == size


# -------------------------------------------------------------------------------------- memory


def test_the_latest_cached_buffer_of_a_size_is_used_first_and_the_oldest_given_back():
    memory = PoolMemory(4 * 256)
    buffers = [memory.take(256).buffer for _ in range(4)]
    for buffer in buffers:
        memory.cache(buffer, freed=True)
    assert memory.take(256).buffer == buffers[3]
    taken = memory.take(512)
    assert (taken.cached, taken.released) == (False, (buffers[0], buffers[1]))
    assert memory.room + memory.cached == 256
    memory.check_invariants()


def test_memory_is_not_given_back_for_a_request_that_does_not_fit_even_so():
    memory = PoolMemory(2 * 256)
    memory.cache(memory.take(256).buffer, freed=True)
    assert memory.take(256) is not None
    assert memory.take(512) is None
    assert memory.allocated == 256


# --------------------------------------------------------------------------------- the victims


def idle(*sizes):
    blocks = IdleBlocks()
    for number, size in enumerate(sizes):
        blocks.add(PoolBlock(number, size, 0))
    return blocks


@pytest.mark.parametrize(
    ("sizes", "shortage", "chosen"),
    [
        ((256, 256, 256), 256, [0]),
        ((256, 256, 256), 512, [0, 1]),
        ((256, 1024), 1024, [1]),
        ((512, 256, 1024), 1280, [0, 2]),
        ((256, 512, 1024), 1280, [0, 2]),
        ((256, 256), 512 + 256, []),
        ((256,), 0, []),
    ],
)
def test_the_least_recently_used_go_and_the_recent_ones_that_are_not_needed_are_spared(
    sizes, shortage, chosen
):
    assert [block.number for block in idle(*sizes).victims(shortage)] == chosen


# ----------------------------------------------------------------------------------- decisions


def given(pool, nbytes=256):
    """Allocate a block that is there at once or after its load."""
    want, actions = pool.allocate(nbytes)
    for action in actions:
        if isinstance(action, Load):
            pool.loaded(action.block)
    assert want.block.given
    return want.block


def test_an_eviction_is_an_action_and_the_request_waits_for_its_outcome():
    pool = Residency(256)
    victim = given(pool)
    want, actions = pool.allocate(256)
    assert actions == [CopyOut(victim, victim.buffer)]
    assert pool.evictions == 0
    actions = pool.copied_out(victim)
    # Its memory is of the right size: none is asked of the device.
    assert actions == [Grant(want)]
    assert (victim.state, pool.evictions, pool.reuses) == (BlockState.EVICTED, 1, 0)


def test_victims_are_not_evicted_twice_for_one_request():
    pool = Residency(2 * 256)
    victims = [given(pool), given(pool)]
    _, actions = pool.allocate(512)
    assert [action.block for action in actions] == victims
    pool.copied_out(victims[0])
    assert pool.allocate(256)[1] == []
    actions = pool.copied_out(victims[1])
    assert [type(action) for action in actions] == [Release, Release, Load]


def test_a_victim_stays_if_room_has_been_found_elsewhere():
    pool = Residency(2 * 256)
    victim, other = given(pool), given(pool)
    want, _ = pool.allocate(256)
    assert pool.free(other) == [Grant(want)]
    pool.copied_out(victim)
    assert (victim.state, pool.evictions) == (BlockState.RESIDENT, 0)
    # It is still the one that has not been used for longest.
    assert pool.idle.victims(256) == [victim]


def test_a_victim_stays_if_its_room_would_not_be_enough_any_more():
    pool = Residency(2 * 256)
    victim, other = given(pool), given(pool)
    want, _ = pool.allocate(256)
    pool.withdraw(want)
    pool.use(other)
    large, _ = pool.allocate(512)
    pool.copied_out(victim)
    assert (victim.state, pool.evictions) == (BlockState.RESIDENT, 0)
    assert large.block.state is BlockState.AWAITED


def test_a_victim_stays_if_the_other_victims_are_enough_by_now():
    pool = Residency(3 * 256)
    victims, other = [given(pool), given(pool)], given(pool)
    pool.allocate(512)
    pool.free(other)
    pool.copied_out(victims[0])
    assert victims[0].state is BlockState.RESIDENT
    assert any(isinstance(action, Load) for action in pool.copied_out(victims[1]))
    assert pool.evictions == 1


def test_an_urgent_request_takes_what_was_being_freed_for_another():
    pool = Residency(256)
    victim = given(pool)
    pool.allocate(256)
    urgent, actions = pool.allocate(256, priority=1)
    assert actions == []
    assert Grant(urgent) in pool.copied_out(victim)


def test_a_request_that_would_wait_for_its_own_asker_is_refused():
    pool = Residency(2 * 256)
    block = given(pool)
    pool.use(block)
    with pytest.raises(InfeasibleRequest, match="wait for itself"):
        pool.allocate(512, held=[block, block])
    pool.allocate(256, held=[block, block])


# -------------------------------------------------------------------------------------- states


@pytest.mark.parametrize("state", BlockState)
def test_every_state_but_the_last_leads_to_the_last(state):
    assert (BlockState.GONE in TRANSITIONS[state]) is (state is not BlockState.GONE)


def test_what_is_gone_never_comes_back():
    block = PoolBlock(7, 256, 0)
    block.move(BlockState.GONE)
    for state in BlockState:
        with pytest.raises(InvalidTransition, match="pool block 7"):
            block.move(state)
