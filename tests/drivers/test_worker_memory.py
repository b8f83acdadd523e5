"""What holds a worker to its tool's declared memory."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from asyncgpu.drivers.absent import AbsentDriver
from asyncgpu.drivers.cuda.driver import CudaDriver
from asyncgpu.drivers.cuda.share import limit_memory
from asyncgpu.ports import Preparation
from asyncgpu.workers.hosting import ToolHost

GIB = 1 << 30


class FakeCuda:
    """As much of ``torch.cuda`` as is asked for."""

    def __init__(self, *, available=True, sizes=()):
        self.fractions = {}
        self.is_available = lambda: available
        self.get_device_properties = lambda device: SimpleNamespace(total_memory=sizes[device])

    def set_per_process_memory_fraction(self, fraction, device):
        self.fractions[device] = fraction


@pytest.fixture
def cuda(monkeypatch):
    cuda = FakeCuda(sizes={"cuda:0": 8 * GIB, "cuda:1": 32 * GIB})
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    return cuda


def test_each_device_is_limited_to_its_own_part(cuda):
    limit_memory(["cuda:0", "cuda:1"], 4 * GIB)
    assert cuda.fractions == {"cuda:0": 0.5, "cuda:1": 0.125}


def test_more_than_there_is_means_all_of_it(cuda):
    limit_memory(["cuda:0"], 100 * GIB)
    assert cuda.fractions == {"cuda:0": 1.0}


def test_a_torch_without_cuda_is_left_alone(monkeypatch):
    cuda = FakeCuda(available=False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    limit_memory(["cuda:0"], GIB)
    assert not cuda.fractions


def test_a_worker_without_torch_is_left_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    limit_memory(["cuda:0"], GIB)


def test_it_is_done_before_the_tool_loads(cuda):
    seen = []

    class Model:
        def load(self, device):
            seen.append((device, dict(cuda.fractions)))

    preparation = CudaDriver.worker_preparation(None, ["cuda:0"], 2 * GIB)
    ToolHost().load(Model(), ["cuda:0"], tuple(preparation))
    assert seen == [("cuda:0", {"cuda:0": 0.25})]


def test_one_that_fails_is_the_loads_failure():
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        ToolHost().load(object(), ["cpu"], Preparation("nowhere:nothing"))


def test_without_devices_there_is_nothing_to_hold_to():
    assert AbsentDriver().worker_preparation([], GIB) is None
