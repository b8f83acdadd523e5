"""`busy` puts work that takes time on a virtual stream."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace

import pytest

from asyncgpu.drivers.virtual.driver import VirtualDriver
from asyncgpu.errors import InvalidRequest
from asyncgpu.testing import busy


@pytest.fixture
def driver():
    driver = VirtualDriver.from_spec("8GiB")
    yield driver
    driver.close()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: SimpleNamespace(stream=s)])
def test_a_stream_is_busy_for_that_long_after_its_earlier_work(driver, wrap):
    stream = driver.create_stream(0, level=1)
    started = stream.record()
    busy(wrap(stream), 0.02)
    first = stream.record()
    busy(wrap(stream), 0.03)
    second = stream.record()
    assert not first.done()
    second.synchronize()
    assert first.elapsed_since(started) >= 0.02
    assert second.elapsed_since(first) >= 0.03


def test_other_streams_are_not_busy(driver):
    busy(driver.create_stream(0, level=1), 60.0)
    assert driver.create_stream(0, level=1).record().done()


def test_a_busy_stream_does_not_keep_the_driver_from_closing(driver):
    stream = driver.create_stream(0, level=1)
    begun = threading.Event()
    stream.enqueue(begun.set)
    busy(stream, 3600.0)
    begun.wait(10)
    driver.close()
    assert stream.gone


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_only_a_duration_is_taken(driver, seconds):
    with pytest.raises(InvalidRequest, match="seconds"):
        busy(driver.create_stream(0, level=1), seconds)


def test_real_devices_cannot_be_made_busy():
    with pytest.raises(InvalidRequest, match="only virtual devices"):
        busy(object(), 1.0)
