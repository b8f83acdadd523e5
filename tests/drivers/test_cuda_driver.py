"""The CUDA driver's own rules, on a fake torch: what can be known without a GPU.

`tests/gpu` runs the drivers' contract on real CUDA.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.drivers.cuda.current import CurrentCudaStreams
from asyncgpu.drivers.cuda.driver import CudaDriver
from asyncgpu.drivers.cuda.faults import device_error, translated
from asyncgpu.drivers.cuda.native import hardware_priority
from asyncgpu.drivers.cuda.platform import CudaPlatform
from asyncgpu.errors import DeviceError, DeviceLost, InvalidRequest

from .fake_torch import CUDA, FakeNative, FakeNvml, FakeTorch


@pytest.fixture
def torch_():
    return FakeTorch()


@pytest.fixture
def native():
    return FakeNative()


@pytest.fixture
def driver(torch_, native):
    platform = CudaPlatform(torch_, native)
    driver = CudaDriver(FakeNvml(), open_platform=lambda: platform)
    yield driver
    driver.close()


# ----------------------------------------------------------------------------- current stream


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), max_size=12), st.booleans())
def test_undo_restores_every_stream_and_the_device(steps, private):
    torch = FakeTorch(private=private)
    current = CurrentCudaStreams(torch)
    undone = []
    for device, stream_id in steps:
        undone.append((torch.state(), current.apply((stream_id, device, CUDA), inference=False)))
        assert torch.device() == device
        assert current.get(device)[0] == stream_id
    for state, token in reversed(undone):
        current.undo(token)
        assert torch.state() == state


def test_undo_restores_the_device_that_a_step_has_changed(torch_):
    current = CurrentCudaStreams(torch_)
    token = current.apply((7, 1, CUDA), inference=False)
    torch_.local.device = 2
    current.undo(token)
    assert torch_.device() == 0
    assert torch_.stream(1)[0] == 0


def test_the_current_stream_is_the_drivers_own_object(driver):
    stream = driver.create_stream(1, level=0)
    assert driver.current_stream(1) is None
    token = driver.apply(stream)
    assert driver.current_stream(1) is stream
    driver.undo(token)


def test_a_stream_that_torch_code_made_current_is_wrapped(driver, torch_, native):
    driver.create_stream(0, level=0)
    torch_.set_stream(0x77, 0, CUDA)
    foreign = driver.current_stream(0)
    assert foreign.id == 0x77
    foreign.close()
    assert driver.create_stream(0, level=0).id != 0x77


def test_nothing_is_initialised_before_the_first_stream():
    def open_platform():
        raise AssertionError("opened")

    driver = CudaDriver(FakeNvml(), open_platform=open_platform)
    assert driver.current_stream(0) is None
    assert driver.free_memory(1) == 11
    assert driver.torch_device(2) == "cuda:2"
    driver.close()


# ------------------------------------------------------------------------------------ streams


@pytest.mark.parametrize(
    ("least", "greatest", "priorities"),
    [(0, -5, [-5, -3, 0]), (0, -1, [-1, -1, 0]), (0, 0, [0] * 3)],
)
def test_levels_are_the_ends_and_the_middle_of_the_hardwares_range(least, greatest, priorities):
    found = [hardware_priority(level, least=least, greatest=greatest) for level in (0, 1, 2)]
    assert found == priorities


def test_a_closed_stream_is_lent_again_and_never_to_two(driver, native):
    first = driver.create_stream(0, level=1)
    first.close()
    second = driver.create_stream(0, level=1)
    assert second.id == first.id
    first.close()
    third = driver.create_stream(0, level=1)
    assert third.id != second.id
    assert native.created == 2
    driver.undo(driver.apply(second))


def test_streams_are_lent_by_device_and_level(driver):
    driver.create_stream(0, level=1).close()
    for device, level in ((1, 1), (0, 2)):
        assert driver.create_stream(device, level=level).device == device
    assert driver.create_stream(0, level=1).priority == -3


def test_a_closed_stream_with_work_pending_is_not_lent(driver):
    stream = driver.create_stream(0, level=1)
    stream.torch_stream.pending = True
    stream.close()
    other = driver.create_stream(0, level=1)
    assert other.id != stream.id
    stream.torch_stream.pending = False
    assert driver.create_stream(0, level=1).id == stream.id


def test_a_closed_stream_refuses(driver):
    """It may be somebody else's by now."""
    stream, other = (driver.create_stream(0, level=1) for _ in range(2))
    event = other.record()
    stream.close()
    uses = (stream.record, lambda: stream.wait_event(event), lambda: driver.apply(stream))
    for use in uses:
        with pytest.raises(InvalidRequest, match="closed"):
            use()


def test_closing_the_driver_takes_its_streams_back(driver, torch_, native):
    stream = driver.create_stream(0, level=1)
    driver.close()
    assert stream.closed
    assert driver._nvml.closed


def test_a_worker_is_given_uuids(driver):
    assert driver.worker_environment([2, 0]) == {
        "CUDA_VISIBLE_DEVICES": "GPU-2,GPU-0",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_elapsed_time_is_in_seconds(driver):
    stream = driver.create_stream(0, level=1)
    earlier, later = stream.record(), stream.record()
    later.torch_event.time = 1500.0
    assert later.elapsed_since(earlier) == 1.5


# ------------------------------------------------------------------------------------- faults


class AcceleratorError(RuntimeError):
    def __init__(self, text, error_code):
        super().__init__(text)
        self.error_code = error_code


ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."


@pytest.mark.parametrize("error", [AcceleratorError(ILLEGAL, 700), RuntimeError(ILLEGAL)])
def test_a_sticky_error_is_device_lost(error):
    ours = translated(1, error)
    assert isinstance(ours, DeviceLost)
    assert str(ours).startswith("cuda:1 is lost: an illegal memory access was encountered")


@pytest.mark.parametrize(
    "error",
    [AcceleratorError("CUDA error: invalid resource handle", 400), RuntimeError("CUDA error: out")],
)
def test_another_cuda_error_is_a_device_error(error):
    ours = translated(1, error)
    assert isinstance(ours, DeviceError)
    assert not isinstance(ours, DeviceLost)


def test_what_is_not_cudas_stays_what_it_is():
    error = RuntimeError("Event device 1 does not match recording stream's device 0")
    assert translated(1, error) is error


def test_a_number_decides_before_the_words():
    assert not isinstance(device_error(0, "an illegal memory access", 400), DeviceLost)


def test_faults_come_out_of_every_call(driver, torch_):
    stream = driver.create_stream(0, level=1)
    event = stream.record()
    event.torch_event.error = AcceleratorError(ILLEGAL, 700)
    with pytest.raises(DeviceLost):
        event.done()

    def fail(*args, **kwargs):
        raise AcceleratorError(ILLEGAL, 700)

    stream.torch_stream.wait_event = fail
    with pytest.raises(DeviceLost):
        stream.wait_event(event)
    torch_.cuda.Event = lambda **kwargs: SimpleNamespace(record=fail)
    with pytest.raises(DeviceLost):
        stream.record()


def test_a_failing_apply_is_translated(torch_, native):
    def fail(*args, **kwargs):
        raise AcceleratorError(ILLEGAL, 700)

    torch_._C._cuda_setStream = fail
    driver = CudaDriver(FakeNvml(), open_platform=lambda: CudaPlatform(torch_, native))
    with pytest.raises(DeviceLost, match="cuda:0"):
        driver.apply(driver.create_stream(0, level=1))
    driver.close()


def test_a_closed_driver_makes_no_stream(driver):
    driver.close()
    with pytest.raises(InvalidRequest, match="closed"):
        driver.create_stream(0, level=1)
