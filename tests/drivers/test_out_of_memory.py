"""torch's out-of-memory errors become ours, and stay torch's."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch

from asyncgpu.drivers.out_of_memory import out_of_memory_error
from asyncgpu.errors import DeviceError, OutOfDeviceMemory, RequestError, VRAMBudgetExceeded
from asyncgpu.ports import Refusal

CUDA_TEXT = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 1 has a total capacity of 139.72 GiB of "
    "which 512.00 MiB is free. Including non-PyTorch memory, this process has 3.00 GiB memory in "
    "use."
)
OWN = Refusal(300, 200, by_device=False)


def ours(error, refusal=None):
    return out_of_memory_error(error, context="ocr", device=1, refusal=refusal)


def test_a_context_over_its_budget():
    error = ours(torch.OutOfMemoryError(CUDA_TEXT), OWN)
    assert isinstance(error, VRAMBudgetExceeded)
    assert isinstance(error, RequestError)
    assert isinstance(error, torch.OutOfMemoryError)
    assert (error.context, error.requested, error.available) == ("ocr", 300, 200)
    assert str(error) == str(VRAMBudgetExceeded("ocr", 300, 200))
    assert type(error).__name__ == "VRAMBudgetExceeded"


def test_a_device_that_its_ledger_calls_full():
    error = ours(torch.OutOfMemoryError(CUDA_TEXT), Refusal(300, 200, by_device=True))
    assert isinstance(error, OutOfDeviceMemory)
    assert isinstance(error, DeviceError)
    assert isinstance(error, torch.OutOfMemoryError)
    assert (error.device, error.requested, error.available) == ("cuda:1", 300, 200)
    assert str(error) == str(OutOfDeviceMemory("cuda:1", 300, 200))


def test_without_a_refusal_the_numbers_are_torchs():
    error = ours(torch.OutOfMemoryError(CUDA_TEXT))
    assert isinstance(error, OutOfDeviceMemory)
    assert (error.requested, error.available) == (5 << 29, 1 << 29)


def test_words_without_numbers_give_no_numbers():
    error = ours(torch.OutOfMemoryError("no room"))
    assert (error.requested, error.available) == (0, 0)


@pytest.mark.parametrize(
    ("text", "requested"),
    [
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000000 bytes. Error code 12",
            4_000_000_000_000,
        ),
        ("CUDA error: out of memory\nCUDA kernel errors might be ...", 0),
    ],
)
def test_memory_that_no_ledger_was_asked_for_is_the_devices(text, requested):
    """The refusal is of some earlier allocation."""
    error = ours(RuntimeError(text), OWN)
    assert isinstance(error, OutOfDeviceMemory)
    assert error.requested == requested


def test_the_cpus_own_error_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert ours(caught.value).requested == 1 << 60


@pytest.mark.parametrize("error", [RuntimeError("shape"), ValueError("DefaultCPUAllocator: ")])
def test_another_error_stays_what_it_is(error):
    assert ours(error, OWN) is error


def test_an_error_of_ours_is_not_translated_again():
    """An inner context's error passes through an outer one's."""
    error = ours(torch.OutOfMemoryError(CUDA_TEXT), OWN)
    assert out_of_memory_error(error, context="outer", device=0, refusal=None) is error


@pytest.mark.parametrize("refusal", [OWN, None])
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_copies_are_equal_and_of_the_same_class(refusal, copied):
    error = ours(torch.OutOfMemoryError(CUDA_TEXT), refusal)
    again = copied(error)
    assert type(again) is type(error)
    assert again.args == error.args
    assert str(again) == str(error)


def test_nothing_of_the_original_is_kept():
    class Tensor:
        pass

    def step():
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError(CUDA_TEXT)

    alive = []
    try:
        step()
    except torch.OutOfMemoryError as caught:
        error = ours(caught, OWN)
    gc.collect()
    assert alive[0]() is None
    assert error.__cause__ is None
    assert error.__context__ is None
