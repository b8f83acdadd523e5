"""``CUDA_VISIBLE_DEVICES``, by CUDA's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncgpu.drivers.visibility import Gpu, MigInstance, visible_devices

GPUS = [Gpu("GPU-aa11"), Gpu("GPU-ab22"), Gpu("GPU-cc33")]
ALL = ("GPU-aa11", "GPU-ab22", "GPU-cc33")

SLICED = Gpu(
    "GPU-dd44",
    mig_mode=True,
    instances=(
        MigInstance("MIG-e1", "MIG-GPU-dd44/1/0"),
        MigInstance("MIG-e2", "MIG-GPU-dd44/2/0"),
    ),
)
EMPTY = Gpu("GPU-ff66", mig_mode=True)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, ALL),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("0", ALL[:1]),
        ("2,1", ("GPU-cc33", "GPU-ab22")),
        (" 1 , 0", ("GPU-ab22", "GPU-aa11")),
        ("+1", ("GPU-ab22",)),
        # C's strtoul reads as far as there are digits.
        ("1gpu,2ampere", ("GPU-ab22", "GPU-cc33")),
    ],
)
def test_indices(value, seen):
    assert visible_devices(value, GPUS) == seen


@pytest.mark.parametrize("invalid", ["-1", "3", "x", "", "+", "99999999999999999999"])
def test_the_first_invalid_entry_ends_the_list(invalid):
    assert visible_devices(f"2,0,{invalid},1", GPUS) == ("GPU-cc33", "GPU-aa11")


@pytest.mark.parametrize("value", ["1,1", "0,1,0", "0, 00", "GPU-cc,GPU-cc", "GPU-cc,GPU-cc33"])
def test_a_repeated_entry_hides_everything(value):
    assert visible_devices(value, GPUS) == ()


def test_a_repetition_after_an_invalid_entry_is_not_read():
    assert visible_devices("0,-1,0", GPUS) == ("GPU-aa11",)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("GPU-cc33,GPU-aa11", ("GPU-cc33", "GPU-aa11")),
        ("GPU-ab", ("GPU-ab22",)),
        ("GPU-a", ()),  # ambiguous
        ("GPU-cc,GPU-zz,GPU-aa", ("GPU-cc33",)),
        ("GPU-cc,0", ("GPU-cc33",)),
        ("0,GPU-cc", ("GPU-aa11",)),
        ("GPU-cc,MIG-e1", ("GPU-cc33",)),
    ],
)
def test_uuids_may_be_abbreviated_and_are_not_mixed_with_indices(value, seen):
    assert visible_devices(value, [*GPUS, SLICED]) == seen


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("MIG-e2", ("MIG-e2",)),
        ("MIG-e2,MIG-e1", ("MIG-e2",)),
        ("MIG-GPU-dd44/2/0", ("MIG-e2",)),
        ("MIG-GPU-dd44/9/0", ()),
        ("MIG-e", ()),
        ("MIG-zz", ()),
    ],
)
def test_one_mig_instance_can_be_named(value, seen):
    assert visible_devices(value, [GPUS[0], SLICED]) == seen


@pytest.mark.parametrize("value", [None, "0,1", "1,0", "GPU-dd44"])
def test_of_a_sliced_gpu_only_the_first_instance_is_seen_and_nothing_beside_it(value):
    assert visible_devices(value, [GPUS[0], SLICED]) == ("MIG-e1",)


def test_a_whole_gpu_beside_a_sliced_one_can_be_chosen():
    assert visible_devices("0", [GPUS[0], SLICED]) == ("GPU-aa11",)


def test_a_gpu_in_mig_mode_without_an_instance_cannot_be_used():
    assert visible_devices(None, [EMPTY, GPUS[0]]) == ("GPU-aa11",)


@given(st.one_of(st.none(), st.text("0123456789-+, GPUMIGacdef", max_size=30)))
def test_any_text_names_each_device_once_at_most(value):
    seen = visible_devices(value, [*GPUS, SLICED, EMPTY])
    assert len(set(seen)) == len(seen)
    assert set(seen) <= {*ALL, "MIG-e1", "MIG-e2"}
