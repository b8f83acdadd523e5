"""The contract's faults on CUDA; `test_cuda_contract.py` runs this file in a process of its own."""

from __future__ import annotations

import pytest

from ..drivers.contract import FaultContract
from .cuda_rig import opened_rig

pytestmark = pytest.mark.gpu


@pytest.fixture
def rig():
    yield from opened_rig()


class TestCudaFaults(FaultContract):
    pass
