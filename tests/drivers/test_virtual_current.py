"""The virtual driver finds a stream that is restored in the wrong order."""

from __future__ import annotations

import threading

import pytest

from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.errors import InvalidRequest, InvalidTransition


@pytest.fixture
def driver():
    driver = VirtualDriver.from_spec("2x8GiB")
    yield driver
    driver.close()


@pytest.mark.parametrize("devices", [(0, 0), (0, 1)])
def test_undo_out_of_order_is_refused_and_changes_nothing(driver, devices):
    streams = [driver.create_stream(device, level=1) for device in devices]
    outer, inner = (driver.apply(stream) for stream in streams)
    with pytest.raises(InvalidTransition, match="out of order"):
        driver.undo(outer)
    assert driver.current_stream(devices[1]) is streams[1]
    driver.undo(inner)
    driver.undo(outer)
    assert driver.current_stream(0) is driver.current_stream(1) is None


def test_a_token_is_good_once(driver):
    token = driver.apply(driver.create_stream(0, level=1))
    driver.undo(token)
    with pytest.raises(InvalidTransition):
        driver.undo(token)


def test_a_token_belongs_to_its_thread(driver):
    token = driver.apply(driver.create_stream(0, level=1))
    raised = []

    def undo() -> None:
        try:
            driver.undo(token)
        except InvalidTransition as error:
            raised.append(error)

    thread = threading.Thread(target=undo)
    thread.start()
    thread.join()
    assert raised
    driver.undo(token)


def test_only_virtual_streams_can_be_applied(driver):
    with pytest.raises(InvalidRequest, match="not a stream"):
        driver.apply(object())
