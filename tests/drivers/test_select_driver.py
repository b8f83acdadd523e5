"""Drivers are chosen by name; the virtual one never switches itself on."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from asyncgpu.drivers.cuda import driver as cuda_driver
from asyncgpu.drivers.select import open_driver
from asyncgpu.errors import InfeasibleRequest, InvalidRequest
from asyncgpu.ports import DeviceInfo

H200 = DeviceInfo(index=0, name="NVIDIA H200", uuid="GPU-a", total_memory=1)


@pytest.fixture
def machine(monkeypatch):
    """Set what NVML finds."""

    def set_(*devices):
        nvml = SimpleNamespace(inventory=lambda: devices, close=lambda: None)
        monkeypatch.setattr(cuda_driver, "Nvml", lambda environ: nvml)

    return set_


def test_described_virtual_devices_come_first(machine):
    machine(H200)
    driver = open_driver("auto", virtual_devices="2x8GiB")
    assert driver.name == "virtual"
    assert len(driver.inventory()) == 2
    driver.close()


def test_then_cuda_where_there_is_a_device(machine):
    machine(H200)
    driver = open_driver("auto", virtual_devices=None)
    assert driver.name == "cuda"
    assert list(driver.inventory()) == [H200]
    driver.close()


@pytest.mark.parametrize("unset", [None, ""])
def test_else_there_are_no_devices_and_every_use_says_how_to_have_some(machine, unset):
    machine()
    driver = open_driver("auto", virtual_devices=unset)
    assert driver.inventory() == ()
    for use in (
        lambda: driver.create_stream(0, level=0),
        lambda: driver.free_memory(0),
        lambda: driver.torch_device(0),
        lambda: driver.current_stream(0),
        lambda: driver.worker_environment([0]),
        lambda: driver.apply(SimpleNamespace(device=0)),
    ):
        with pytest.raises(InfeasibleRequest, match=r"cuda:0: .*ASYNCGPU_VIRTUAL_DEVICES"):
            use()
    assert driver.worker_environment([]) == {}
    driver.undo(None)
    driver.close()


def test_asking_for_cuda_where_there_is_none_is_refused_at_once(machine):
    machine()
    with pytest.raises(InfeasibleRequest, match="ASYNCGPU_VIRTUAL_DEVICES"):
        open_driver("cuda", virtual_devices="2x8GiB")


def test_asking_for_virtual_devices_needs_their_description(machine):
    machine(H200)
    with pytest.raises(InvalidRequest, match="ASYNCGPU_VIRTUAL_DEVICES"):
        open_driver("virtual", virtual_devices=None)


def test_a_driver_nobody_knows_is_refused():
    with pytest.raises(InvalidRequest, match="'auto', 'cuda', 'virtual'"):
        open_driver("rocm", virtual_devices=None)


@pytest.mark.parametrize(
    ("name", "spec", "unwanted"),
    [("virtual", "'2x8GiB'", ["torch", "pynvml", "cuda"]), ("auto", "None", ["torch", "cuda"])],
)
def test_opening_a_driver_imports_only_what_it_needs(name, spec, unwanted):
    program = (
        "import sys; from asyncgpu.drivers.select import open_driver;"
        f"d = open_driver({name!r}, virtual_devices={spec}); d.inventory(); d.close();"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not set(unwanted) & set(done.stdout.split())
