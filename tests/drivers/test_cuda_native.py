"""The CUDA driver's edge to torch and cuda-python: versions, and streams of our own."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from asyncgpu.drivers.cuda.native import NativeStreams
from asyncgpu.drivers.cuda.platform import _check
from asyncgpu.errors import DeviceError, DeviceLost, RequestError


@pytest.mark.parametrize("version", ["2.7.1+cu126", "1.13.0"])
def test_an_old_torch_is_refused(version):
    with pytest.raises(RequestError, match=r"needs torch 2\.8 or later on CUDA; this is"):
        _check(SimpleNamespace(__version__=version, version=SimpleNamespace(cuda="12.6")))


def test_a_torch_without_cuda_is_refused():
    with pytest.raises(RequestError, match="built without CUDA"):
        _check(SimpleNamespace(__version__="2.13.0+cpu", version=SimpleNamespace(cuda=None)))


@pytest.mark.parametrize("version", ["2.8.0", "2.11.0a0+git1234", "3.0.1"])
def test_a_torch_that_fits_is_accepted(version):
    _check(SimpleNamespace(__version__=version, version=SimpleNamespace(cuda="13.0")))


class FakeBindings:
    """As much of `cuda.bindings.driver` as creates a stream; codes first, as the real one."""

    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)

    def __init__(self):
        self.pushed = []
        self.fail_with = 0
        self.retained = 0

    def cuInit(self, flags):
        return (0,)

    def cuDeviceGet(self, ordinal):
        return 0, ordinal

    def cuDevicePrimaryCtxRetain(self, device):
        self.retained += 1
        return 0, f"context {device}"

    def cuCtxPushCurrent(self, context):
        self.pushed.append(context)
        return (0,)

    def cuCtxPopCurrent(self):
        return 0, self.pushed.pop()

    def cuCtxGetStreamPriorityRange(self):
        return 0, 0, -5

    def cuStreamCreateWithPriority(self, flags, priority):
        assert flags == 1
        assert self.pushed == ["context 1"]
        return (self.fail_with, 0xABC if self.fail_with == 0 else None)


@pytest.fixture
def bindings(monkeypatch):
    package = ModuleType("cuda.bindings")
    package.driver = FakeBindings()
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    return package.driver


def test_a_native_stream_is_made_in_the_primary_context_which_is_kept(bindings):
    native = NativeStreams()
    assert native.create(1, level=0) == (0xABC, -5)
    assert native.create(1, level=2) == (0xABC, 0)
    assert bindings.retained == 1
    assert bindings.pushed == []


@pytest.mark.parametrize(("code", "error"), [(700, DeviceLost), (2, DeviceError)])
def test_a_stream_that_cannot_be_made_leaves_no_context_pushed(bindings, code, error):
    bindings.fail_with = code
    with pytest.raises(error, match="cuda:1"):
        NativeStreams().create(1, level=0)
    assert bindings.pushed == []


def test_without_cuda_python_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(RequestError, match=r"asyncgpu\[cuda\]"):
        NativeStreams()
