"""A memory pool in a program without an event loop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from asyncgpu import MemoryPool, blocking_runtime

KIB = 1024


def test_four_threads_allocate_at_once(virtual_gpus):
    """[H18]"""
    virtual_gpus("1x256MiB")
    with blocking_runtime() as rt, rt.enter(MemoryPool("100MiB")) as pool:

        def allocate(_):
            return [rt.call(pool.allocate, "100KiB") for _ in range(10)]

        with ThreadPoolExecutor(4) as threads:
            blocks = [block for each in threads.map(allocate, range(4)) for block in each]
        assert len(blocks) == 40
        assert pool.stats().allocated_bytes == 40 * 100 * KIB
        with rt.enter(blocks[0].use()) as tensor:
            tensor.fill_(3)
        rt.call(pool.clear)
        assert pool.stats().active_blocks == 0


def test_no_thread_of_a_pool_is_left(virtual_gpus):
    virtual_gpus("1x256MiB")
    before = set(threading.enumerate())
    with blocking_runtime() as rt, rt.enter(MemoryPool(256)) as pool:
        blocks = [rt.call(pool.allocate, 256) for _ in range(3)]
        for block in blocks:
            with rt.enter(block.use()):
                pass
    assert {thread.name for thread in set(threading.enumerate()) - before} == set()
