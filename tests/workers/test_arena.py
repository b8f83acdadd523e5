"""Bulk memory crosses whole, is used in place while somebody holds it, and comes back."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from asyncgpu.workers.arena import ReceiveArena, SendArena, create_arena_file
from asyncgpu.workers.wire import Block, WireError

MIB = 1 << 20
SMALL, LARGE = 64 << 10, 2 * MIB


@pytest.fixture
def ends():
    descriptor = create_arena_file(16 * MIB)
    sender, receiver = SendArena(descriptor), ReceiveArena(descriptor)
    yield sender, receiver
    sender.close()
    receiver.close()
    os.close(descriptor)


def send(sender: SendArena, data) -> Block:
    block = sender.place(len(data))
    assert block is not None
    sender.copy(block, memoryview(data).cast("B"))
    return block


def give_back(sender: SendArena, receiver: ReceiveArena) -> None:
    for offset in receiver.done():
        sender.release(offset)


@pytest.mark.parametrize("size", [1, SMALL, LARGE])
@pytest.mark.parametrize("kind", [bytes, bytearray], ids=["read-only", "writable"])
def test_content_crosses_whole(ends, size, kind):
    sender, receiver = ends
    data = kind(os.urandom(size))
    assert bytes(receiver.take(send(sender, data))) == data


def test_small_blocks_come_back_at_once(ends):
    sender, receiver = ends
    memory = receiver.take(send(sender, bytes(SMALL)))
    give_back(sender, receiver)
    assert sender.used == 0
    memory[0] = 1  # the receiver's own copy


def test_a_large_block_is_held_as_long_as_an_array_is_built_on_it(ends):
    sender, receiver = ends
    array = np.frombuffer(receiver.take(send(sender, bytes(LARGE))), np.uint8)
    part = array[10:20]
    del array
    give_back(sender, receiver)
    assert sender.used == receiver.held == LARGE
    part[:] = 1
    del part
    give_back(sender, receiver)
    assert sender.used == receiver.held == 0


def test_a_slice_of_the_memory_keeps_it(ends):
    sender, receiver = ends
    memory = receiver.take(send(sender, b"x" * LARGE))
    memory = memory[:100]
    gc.collect()
    assert receiver.done() == []
    assert bytes(memory) == b"x" * 100


def test_who_holds_half_the_arena_gets_copies_from_there_on(ends):
    sender, receiver = ends
    hoard = [receiver.take(send(sender, bytes(LARGE))) for _ in range(6)]
    give_back(sender, receiver)
    assert sender.used == receiver.held == 8 * MIB
    assert [len(memory) for memory in hoard] == [LARGE] * 6


def test_what_must_be_copied_is_known_before(ends):
    sender, receiver = ends
    blocks = [send(sender, bytes(size)) for size in (SMALL, SMALL, *[LARGE] * 5)]
    # Small blocks always; of the large ones, those beyond half the arena.
    assert receiver.to_copy([*blocks, bytearray(10 * MIB)]) == 2 * SMALL + LARGE
    kept = [receiver.take(block) for block in blocks]
    assert receiver.held == 4 * LARGE
    assert len(kept) == 7


def test_a_full_arena_says_so(ends):
    sender, _ = ends
    assert sender.place(16 * MIB) is not None
    assert sender.place(1) is None


def test_what_is_held_outlives_the_arena(ends):
    sender, receiver = ends
    arrays = [
        np.frombuffer(receiver.take(send(sender, bytes([value]) * LARGE)), np.uint8)
        for value in (1, 2, 3)
    ]
    del arrays[1]
    sender.close()
    receiver.close()
    assert (arrays[0] == 1).all()
    assert (arrays[1] == 3).all()


def test_closing_gives_the_unheld_pages_back_to_the_kernel():
    descriptor = create_arena_file(16 * MIB)
    sender, receiver = SendArena(descriptor), ReceiveArena(descriptor)
    first, second = (receiver.take(send(sender, bytes(LARGE))) for _ in range(2))
    del first
    receiver.close()
    assert os.fstat(descriptor).st_blocks * 512 == LARGE
    del second
    sender.close()
    os.close(descriptor)


def test_a_block_outside_the_arena_is_refused(ends):
    _, receiver = ends
    with pytest.raises(WireError, match="outside"):
        receiver.peek(Block(16 * MIB - 1, 2))
    with pytest.raises(WireError, match="outside"):
        receiver.take(Block(15 * MIB, LARGE))


def test_a_release_of_what_was_not_sent_is_refused(ends):
    sender, _ = ends
    sender.release(4096)
    with pytest.raises(WireError, match="4096"):
        sender.place(1)


def test_without_memfd_a_nameless_file_serves(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    descriptor = create_arena_file(16 * MIB)
    assert os.fstat(descriptor).st_size == 16 * MIB
    assert list(tmp_path.iterdir()) == []
    sender, receiver = SendArena(descriptor), ReceiveArena(descriptor)
    assert bytes(receiver.take(send(sender, b"y" * LARGE))) == b"y" * LARGE
    sender.close()
    receiver.close()
    os.close(descriptor)
