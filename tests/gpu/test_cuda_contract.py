"""The CUDA driver keeps the drivers' contract; skipped, with a count, without a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..drivers.contract import DriverContract
from .cuda_rig import opened_rig

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rig():
    yield from opened_rig()


class TestCudaDriver(DriverContract):
    def test_torch_sends_its_work_to_the_applied_stream(self, rig):
        stream = rig.driver.create_stream(0, level=0)
        token = rig.driver.apply(stream)
        assert torch.cuda.current_stream(0).cuda_stream == stream.id
        assert torch.cuda.current_stream(0).priority == stream.priority
        rig.driver.undo(token)
        assert torch.cuda.current_stream(0) == torch.cuda.default_stream(0)

    def test_nvml_and_cuda_number_the_devices_alike(self, rig):
        for device in rig.driver.inventory():
            uuid = torch.cuda.get_device_properties(device.index).uuid
            assert device.uuid.partition("-")[2] == str(uuid)


def test_a_fault_reaches_every_wait_and_every_use():
    """In a process of its own, which cannot use the device any more afterwards."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    suite = Path(__file__).parent / "cuda_faults.py"
    command = [sys.executable, "-m", "pytest", "-q", str(suite)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
