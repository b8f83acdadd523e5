"""Asking CUDA for its order in a process of its own."""

from __future__ import annotations

import sys

import pytest

from asyncgpu.drivers.cuda import order
from asyncgpu.drivers.cuda.order import ask_cuda_for_uuids
from asyncgpu.errors import DeviceError


def python(program):
    return [sys.executable, "-c", program]


def test_one_uuid_a_line_in_order():
    assert ask_cuda_for_uuids(python("print('b'); print('a')")) == ["b", "a"]


@pytest.mark.parametrize(
    "program", ["raise SystemExit('cuInit returned 999')", "import nothing_of_this_name"]
)
def test_an_answer_that_does_not_come_says_how_to_do_without(program):
    with pytest.raises(DeviceError, match="set CUDA_DEVICE_ORDER=PCI_BUS_ID") as info:
        ask_cuda_for_uuids(python(program))
    assert "cuInit" in str(info.value) or "nothing_of_this_name" in str(info.value)


def test_a_driver_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(order, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(DeviceError, match="timed out"):
        ask_cuda_for_uuids(python("import threading; threading.Event().wait()"))
