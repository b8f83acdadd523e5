"""`virtual_gpus` and `faults` set the scene for what is opened inside, and no longer."""

from __future__ import annotations

import os

import pytest

from asyncgpu.drivers.select import open_driver
from asyncgpu.errors import DeviceLost, InvalidRequest
from asyncgpu.settings import Settings
from asyncgpu.testing import faults, virtual_gpus

VARIABLE = "ASYNCGPU_VIRTUAL_DEVICES"


def open_here():
    settings = Settings.from_environ(os.environ)
    return open_driver("auto", virtual_devices=settings.virtual_devices)


def test_what_is_opened_inside_has_these_devices():
    with virtual_gpus("8GiB,4GiB") as names:
        driver = open_here()
    assert names == ("cuda:0", "cuda:1")
    assert [device.total_memory >> 30 for device in driver.inventory()] == [8, 4]
    driver.close()


@pytest.mark.parametrize("before", [None, "1x1GiB"])
def test_the_environment_is_restored(monkeypatch, before):
    if before is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, before)
    with virtual_gpus(), virtual_gpus("3x1GiB"):
        assert os.environ[VARIABLE] == "3x1GiB"
    assert os.environ.get(VARIABLE) == before


def test_a_description_nobody_can_read_changes_nothing(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1x1GiB")
    with pytest.raises(InvalidRequest), virtual_gpus("many"):
        pass
    assert os.environ[VARIABLE] == "1x1GiB"


def test_faults_reach_what_is_opened_inside():
    with virtual_gpus(), faults() as script:
        script.fail_next_apply()
        driver = open_here()
        stream = driver.create_stream(0, level=1)
        with pytest.raises(DeviceLost):
            driver.apply(stream)
        script.lose_device("cuda:0")
        with pytest.raises(DeviceLost):
            stream.record()
        other = open_here()
    assert other.script is script
    after = open_driver("virtual", virtual_devices="8GiB")
    assert after.script is not script
    for opened in (driver, other, after):
        opened.close()
