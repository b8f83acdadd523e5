"""Scripted faults on virtual devices."""

from __future__ import annotations

import threading

import pytest

from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.drivers.virtual.faults import FaultScript
from asyncgpu.errors import DeviceLost, InvalidRequest
from asyncgpu.units import GB

from .held import held


@pytest.fixture
def driver():
    driver = VirtualDriver.from_spec("2x8GiB")
    yield driver
    driver.close()


def test_the_next_applies_fail_having_changed_nothing(driver):
    stream = driver.create_stream(0, level=1)
    driver.script.fail_next_apply(times=2)
    for _ in range(2):
        with pytest.raises(DeviceLost, match="could not be made current"):
            driver.apply(stream)
        assert driver.current_stream(0) is None
    driver.undo(driver.apply(stream))


def test_failing_work_is_noticed_by_waiting_for_it(driver):
    stream = driver.create_stream(0, level=1)
    latch = held(stream)
    driver.script.fail_next_work("cuda:0")
    ran = []
    stream.enqueue(lambda: ran.append(1))
    event = stream.record()
    latch.set()
    with pytest.raises(DeviceLost, match="cuda:0 is lost: RuntimeError: scripted fault"):
        event.synchronize()
    assert ran == []


def test_a_lost_device_ends_waits_under_way_and_leaves_the_other_alone(driver):
    lost, well = (driver.create_stream(device, level=1) for device in (0, 1))
    latch = held(lost)
    pending = lost.record()
    raised = []

    def wait() -> None:
        try:
            pending.synchronize()
        except DeviceLost as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    driver.script.lose_device(0, "fallen off the bus")
    thread.join(10)
    assert "cuda:0 is lost: fallen off the bus" in str(raised[0])
    well.enqueue(lambda: None)
    well.record().synchronize()
    with pytest.raises(DeviceLost, match="fallen off the bus"):
        driver.free_memory(0)
    latch.set()


def test_a_stream_that_waits_for_a_lost_device_is_lost_with_it(driver):
    producer, consumer = (driver.create_stream(device, level=1) for device in (0, 1))
    latch = held(producer)
    consumer.wait_event(producer.record())
    consumed = consumer.record()
    driver.script.lose_device(0)
    with pytest.raises(DeviceLost, match="cuda:1 is lost: DeviceLost: cuda:0 is lost"):
        consumed.synchronize()
    latch.set()


def test_every_caller_gets_an_exception_of_its_own(driver):
    """One shared object would collect the frames, and the tensors in them, of all who caught it."""
    event = driver.create_stream(0, level=1).record()
    driver.script.lose_device(0)
    caught = []
    for _ in range(2):
        with pytest.raises(DeviceLost) as info:
            event.done()
        caught.append(info.value)
    assert caught[0] is not caught[1]


def test_memory_used_by_other_programs_is_not_free(driver):
    driver.script.occupy("cuda:1", "3GiB")
    assert (driver.free_memory(0), driver.free_memory(1)) == (8 * GB, 5 * GB)
    driver.script.occupy(1, "9GiB")
    assert driver.free_memory(1) == 0
    driver.script.occupy(1, 0)
    assert driver.free_memory(1) == 8 * GB


def test_a_driver_follows_the_script_that_is_active_when_it_opens():
    script = FaultScript()
    with script.active():
        driver = VirtualDriver.from_spec("8GiB")
    later = VirtualDriver.from_spec("8GiB")
    assert driver.script is script
    assert later.script is not script
    script.lose_device(0)
    with pytest.raises(DeviceLost):
        driver.create_stream(0, level=1)
    later.create_stream(0, level=1)
    driver.close()
    later.close()


def test_a_closed_driver_plays_no_more():
    script = FaultScript()
    driver = VirtualDriver.from_spec("8GiB", script=script)
    event = driver.create_stream(0, level=1).record()
    driver.close()
    script.lose_device(0)
    assert event.done()


@pytest.mark.parametrize("device", [-1, "cpu", "cuda", "cuda:x", 1.5])
def test_a_device_is_an_index_or_a_string(device):
    with pytest.raises(InvalidRequest, match="names no device"):
        FaultScript().lose_device(device)
