"""Compute shares by green contexts, on fake bindings that keep CUDA's rules for splitting SMs."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncgpu.drivers.cuda.driver import CudaDriver
from asyncgpu.drivers.cuda.green import CudaShare, GreenContexts, groups_for
from asyncgpu.drivers.cuda.native import NativeStreams
from asyncgpu.drivers.cuda.platform import CudaPlatform
from asyncgpu.drivers.label_share import LabelShare
from asyncgpu.errors import DeviceError, DeviceLost, InfeasibleRequest, InvalidRequest

from .fake_torch import FakeNvml, FakeTorch

NOT_SUPPORTED, OUT_OF_MEMORY, ILLEGAL_ADDRESS = 801, 2, 700


class Resource:
    """Some SMs; `split` is the one they come from, None: straight from the device."""

    def __init__(self, device, sms, split=None):
        self.device = device
        self.sms = sms
        self.split = split
        self.sm = SimpleNamespace(smCount=len(sms), minSmPartitionSize=8)


class FakeBindings:
    """As much of `cuda.bindings.driver` as green contexts need, on H200s: 132 SMs, groups of 8."""

    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUdevResourceType = SimpleNamespace(CU_DEV_RESOURCE_TYPE_SM=1)
    CUgreenCtxCreate_flags = SimpleNamespace(CU_GREEN_CTX_DEFAULT_STREAM=1)

    def __init__(self, sms=132, size=8):
        self.sms = sms
        self.size = size
        self.splits = 0
        self.greens = []
        self.streams = []
        self.code = {}

    def cuInit(self, flags):
        return (0,)

    def cuDeviceGet(self, ordinal):
        return 0, ordinal

    def cuDevicePrimaryCtxRetain(self, device):
        return 0, f"context {device}"

    def cuCtxPushCurrent(self, context):
        return (0,)

    def cuCtxPopCurrent(self):
        return 0, None

    def cuCtxGetStreamPriorityRange(self):
        return 0, 0, -5

    def cuDeviceGetDevResource(self, device, kind):
        assert kind == 1
        return self.code.get("get", 0), Resource(device, tuple(range(self.sms)))

    def cuDevSmResourceSplitByCount(self, groups, whole, flags, minimum):
        assert whole.split is None, "CUDA does not split what a split has given"
        assert (flags, minimum) == (0, 8)
        possible = self.sms // self.size
        if groups == 0:
            return 0, [], possible, None
        self.splits += 1
        cut = [whole.sms[n * self.size : (n + 1) * self.size] for n in range(min(groups, possible))]
        made = [Resource(whole.device, sms, split=self.splits) for sms in cut]
        return 0, made, len(made), None

    def cuDevResourceGenerateDesc(self, resources, count):
        assert count == len(resources)
        assert len({resource.split for resource in resources}) == 1
        return 0, tuple(sm for resource in resources for sm in resource.sms)

    def cuGreenCtxCreate(self, sms, device, flags):
        assert flags == 1
        if self.code.get("create"):
            return self.code["create"], None
        self.greens.append((device, sms))
        return 0, len(self.greens) - 1

    def cuGreenCtxStreamCreate(self, green, flags, priority):
        assert flags == 1
        self.streams.append((green, priority))
        return 0, 0x2000 + len(self.streams)

    def cuStreamCreateWithPriority(self, flags, priority):
        self.streams.append((None, priority))
        return 0, 0x2000 + len(self.streams)


@pytest.fixture
def bindings(monkeypatch):
    return installed(monkeypatch, FakeBindings())


def installed(monkeypatch, fake):
    package = ModuleType("cuda.bindings")
    package.driver = fake
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    return fake


@pytest.fixture
def greens(bindings):
    return GreenContexts(NativeStreams())


@pytest.fixture
def driver(bindings):
    platform = CudaPlatform(FakeTorch(), NativeStreams())
    driver = CudaDriver(FakeNvml(), open_platform=lambda: platform)
    yield driver
    driver.close()


# --------------------------------------------------------------- what is granted


def test_two_halves_fit_and_say_what_they_really_have(greens, bindings):
    halves = [greens.open(0, 0.5) for _ in range(2)]
    assert [half.sm_count for half in halves] == [64, 64]
    assert [half.granted for half in halves] == [64 / 132, 64 / 132]
    (_, first), (_, second) = bindings.greens
    assert not set(first) & set(second)
    assert bindings.splits == 1


@pytest.mark.parametrize(
    ("share", "groups"), [(0.5, 8), (0.25, 4), (1 / 3, 5), (0.01, 1), (0.999, 16), (0.97, 16)]
)
def test_a_share_is_rounded_down_to_groups_and_is_one_at_least(share, groups):
    assert groups_for(share, total=132, size=8) == groups


def test_a_product_that_falls_short_of_a_whole_number_is_that_number():
    assert 0.29 * 100 < 29
    assert groups_for(0.29, total=100, size=1) == 29


def test_the_whole_device_needs_no_green_context(greens, bindings):
    share = greens.open(0, 1.0)
    assert (share.granted, share.sm_count, share.green) == (1.0, 132, None)
    assert bindings.greens == []


def test_more_than_is_left_is_refused_with_the_numbers(greens):
    greens.open(0, 0.9)
    with pytest.raises(InfeasibleRequest, match="64 of its 132 SMs, in groups of 8; 16 are left"):
        greens.open(0, 0.5)
    assert greens.open(0, 0.1).sm_count == 8


def test_what_is_given_back_is_given_out_again_with_its_green_context(greens, bindings):
    greens.open(0, 0.25)
    middle = greens.open(0, 0.25)
    middle.close()
    middle.close()
    again = greens.open(0, 0.25)
    assert again.green == middle.green
    assert len(bindings.greens) == 2


def test_each_device_is_split_by_itself(greens, bindings):
    assert greens.open(0, 0.9).sm_count == greens.open(1, 0.9).sm_count == 112
    assert [device for device, _ in bindings.greens] == [0, 1]
    assert bindings.splits == 2


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.05, 0.1, 0.3, 0.5, -1, -2, -3]), max_size=30))
def test_no_two_shares_ever_have_the_same_sm(steps):
    """A positive step opens a share, a negative one closes the oldest, second oldest ..."""
    with pytest.MonkeyPatch.context() as patch:
        fake = installed(patch, FakeBindings())
        greens = GreenContexts(NativeStreams())
        held = []
        for step in steps:
            if step < 0:
                if len(held) >= -step:
                    held.pop(int(-step) - 1).close()
                continue
            left = 16 - sum(share.sm_count // 8 for share in held)
            wanted = groups_for(step, total=132, size=8)
            if wanted > left:
                with pytest.raises(InfeasibleRequest):
                    greens.open(0, step)
            else:
                held.append(greens.open(0, step))
                assert held[-1].sm_count == wanted * 8
            taken = [sm for share in held for sm in fake.greens[share.green][1]]
            assert len(taken) == len(set(taken))


# --------------------------------------------------------------- where it is missing


def test_hardware_that_cannot_gives_a_label_and_says_so(driver, bindings, caplog):
    bindings.code["get"] = NOT_SUPPORTED
    share = driver.open_share(0, 0.5)
    assert isinstance(share, LabelShare)
    assert (share.granted, share.sm_count, share.enforced) == (0.5, None, False)
    driver.open_share(0, 0.5)
    assert caplog.text.count("cuda:0: compute shares are not enforced") == 1
    assert driver.create_stream(0, level=1, share=share).id == 0x2001
    assert bindings.streams == [(None, -3)]


def test_a_device_too_small_to_split_gives_a_label(driver, bindings):
    bindings.sms = 12
    assert not driver.open_share(0, 0.5).enforced


def test_bindings_that_lack_the_functions_give_a_label(driver, monkeypatch):
    monkeypatch.delattr(FakeBindings, "cuDeviceGetDevResource")
    assert not driver.open_share(0, 0.5).enforced


def test_a_driver_that_lacks_the_functions_gives_a_label(driver, monkeypatch):
    def missing(*args):
        raise RuntimeError('Function "cuDevSmResourceSplitByCount" not found')

    monkeypatch.setattr(FakeBindings, "cuDevSmResourceSplitByCount", missing)
    assert not driver.open_share(0, 0.5).enforced


def test_green_contexts_that_are_not_supported_give_a_label(driver, bindings):
    bindings.code["create"] = NOT_SUPPORTED
    assert not driver.open_share(0, 0.5).enforced


@pytest.mark.parametrize(
    ("code", "error"), [(OUT_OF_MEMORY, DeviceError), (ILLEGAL_ADDRESS, DeviceLost)]
)
def test_a_green_context_that_fails_takes_nothing(driver, bindings, code, error):
    bindings.code["create"] = code
    with pytest.raises(error, match="cuda:0"):
        driver.open_share(0, 0.5)
    bindings.code.clear()
    assert [driver.open_share(0, 0.5).sm_count for _ in range(2)] == [64, 64]


# --------------------------------------------------------------- streams


def test_a_stream_runs_in_the_green_context_with_its_level_s_priority(driver, bindings):
    share = driver.open_share(0, 0.25)
    streams = [driver.create_stream(0, level=level, share=share) for level in (0, 2)]
    assert bindings.streams == [(share.green, -5), (share.green, 0)]
    assert [stream.priority for stream in streams] == [-5, 0]


def test_a_closed_stream_is_lent_again_within_its_share_only(driver):
    quarter, half = driver.open_share(0, 0.25), driver.open_share(0, 0.5)
    stream = driver.create_stream(0, level=1, share=quarter)
    stream.close()
    others = [driver.create_stream(0, level=1), driver.create_stream(0, level=1, share=half)]
    assert stream.id not in {other.id for other in others}
    assert driver.create_stream(0, level=1, share=quarter).id == stream.id


def test_a_share_makes_no_stream_on_another_device_or_once_closed(driver):
    share = driver.open_share(0, 0.5)
    assert isinstance(share, CudaShare)
    with pytest.raises(InvalidRequest, match="share of cuda:0"):
        driver.create_stream(1, level=1, share=share)
    share.close()
    with pytest.raises(InvalidRequest, match="closed"):
        driver.create_stream(0, level=1, share=share)


def test_a_closed_driver_opens_no_share(driver):
    driver.close()
    with pytest.raises(InvalidRequest, match="closed"):
        driver.open_share(0, 0.5)
