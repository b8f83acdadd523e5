"""The CUDA driver's blocks: what can be known without a GPU. `tests/gpu` has the contract."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from asyncgpu.drivers.cuda.blocks import CudaBlocks
from asyncgpu.drivers.cuda.faults import device_error
from asyncgpu.drivers.cuda.page_lock import PageLocks
from asyncgpu.errors import DeviceError, DeviceLost

PRIMARY = "primary CUDA context"


class FakeCuda:
    """cuda-python's calls, for one thread."""

    CU_MEMHOSTREGISTER_PORTABLE = 1

    def __init__(self):
        self.current = []
        self.locked = {}
        self.code = 0

    def cuCtxPushCurrent(self, context):
        self.current.append(context)
        return (0,)

    def cuCtxPopCurrent(self):
        return 0, self.current.pop()

    def cuMemHostRegister(self, address, nbytes, flags):
        assert self.current == [PRIMARY]
        assert flags == 1
        if not self.code:
            self.locked[address] = nbytes
        return (self.code,)

    def cuMemHostUnregister(self, address):
        assert self.current == [PRIMARY]
        del self.locked[address]
        return (0,)


class FakeNative:
    def __init__(self, cuda):
        self.cuda = cuda

    def cuda_context(self, device):
        return PRIMARY

    def call(self, device, function, *arguments):
        code, *values = function(*arguments)
        if code:
            raise device_error(device, f"{function.__name__} returned {code}", code)
        return tuple(values)


class FakeTorch:
    """torch with a device that is the CPU, and a note of the stream each call was made on."""

    uint8 = torch.uint8
    frombuffer = staticmethod(torch.frombuffer)

    def __init__(self):
        self.cuda = SimpleNamespace(stream=self.on)
        self.streams = []
        self.empties = []
        self.error = None

    @contextmanager
    def on(self, stream):
        self.streams.append(stream)
        try:
            yield
        finally:
            self.streams.pop()

    def empty(self, nbytes, *, dtype, device=None):
        if self.error is not None:
            raise self.error
        self.empties.append((device, *self.streams))
        return torch.empty(nbytes, dtype=dtype)


@pytest.fixture
def cuda():
    return FakeCuda()


@pytest.fixture
def torch_():
    return FakeTorch()


@pytest.fixture
def blocks(cuda, torch_):
    stream = SimpleNamespace(device=1, torch_stream="copies")
    locks = PageLocks(FakeNative(cuda), 1)
    return CudaBlocks(torch_, stream, here=lambda: stream, locks=locks, spare=1 << 30)


def test_blocks_belong_to_the_stream_of_the_copies(blocks, torch_):
    blocks.empty(256)
    assert torch_.empties == [("cuda:1", "copies")]


@pytest.mark.parametrize("nbytes", [64 << 10, 100_000, 3 << 20])
def test_host_memory_is_page_locked_to_the_byte_and_unlocked_once(blocks, cuda, nbytes):
    tensor = torch.arange(nbytes).remainder(251).to(torch.uint8)
    host = blocks.to_host(tensor)
    assert torch.equal(host, tensor)
    assert cuda.locked == {host.data_ptr(): nbytes}
    blocks.forget(host)
    assert blocks.to_host(tensor) is host
    blocks.forget(host)
    blocks.trim()
    assert cuda.locked == {}
    blocks.close()
    assert cuda.current == []


def test_small_copies_are_not_page_locked(blocks, cuda):
    host = blocks.to_host(torch.ones(1024, dtype=torch.uint8))
    assert cuda.locked == {}
    back = torch.zeros(1024, dtype=torch.uint8)
    blocks.to_device(host, back)
    assert back.tolist() == [1] * 1024
    blocks.close()


def test_where_the_system_locks_no_more_pages_copies_are_slower_and_right(blocks, cuda):
    cuda.code = 2
    host = blocks.to_host(torch.ones(1 << 20, dtype=torch.uint8))
    assert bool(host.all())
    blocks.close()
    assert cuda.current == []


def test_a_fault_is_not_taken_for_that(blocks, cuda):
    cuda.code = 700
    with pytest.raises(DeviceLost):
        blocks.to_host(torch.ones(1 << 20, dtype=torch.uint8))
    assert cuda.current == []


def test_cuda_s_errors_are_ours_and_torch_s_own_pass(blocks, torch_):
    torch_.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceLost):
        blocks.empty(256)
    torch_.error = RuntimeError("CUDA error: invalid argument")
    with pytest.raises(DeviceError):
        blocks.empty(256)
    torch_.error = torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(torch.OutOfMemoryError) as caught:
        blocks.empty(256)
    assert caught.value is torch_.error
