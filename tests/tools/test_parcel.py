"""`Parcel`: a value as bytes; what it weighs, who gets a copy, and in what pieces."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from asyncgpu.drivers.codec import TorchCodec
from asyncgpu.tools import parcel as parcels
from asyncgpu.tools.parcel import SMALL, Packer, unpack

packer = Packer([TorchCodec()])
MIB = 1 << 20


@dataclass
class Answer:
    name: str
    data: object = field(default_factory=list)


VALUES = [
    None, True, 3, 2.5, "text", b"bytes", (1, [2, {"k": {3}}]), Answer("a", [Answer("b")]),
    list(range(200_000)), "ä" * SMALL, bytes(range(256)) * 5000,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_comes_out_is_what_went_in(value):
    parcel = packer.pack(value)
    assert unpack(parcel) == value
    assert parcel.nbytes == sum(map(len, parcel.pieces))


@pytest.mark.parametrize("mebibytes", [0, 1, 5])
@pytest.mark.parametrize("library", [np, torch])
def test_arrays_weigh_what_their_memory_weighs_and_come_out_writable(library, mebibytes):
    array = library.ones(mebibytes * MIB, dtype=library.uint8)
    parcel = packer.pack(Answer("a", [array]))
    assert mebibytes * MIB < parcel.nbytes < mebibytes * MIB + 1024
    one, other = unpack(parcel).data[0], unpack(parcel).data[0]
    one[:] = 7
    assert bool((other == 1).all())
    assert bool((array == 1).all())


def test_a_view_is_packed_without_the_rest_of_its_memory():
    for library in (np, torch):
        array = library.zeros(MIB, dtype=library.uint8)
        assert packer.pack(array[:100]).nbytes < 1024


def test_what_is_large_is_not_packed_as_small():
    for value in (bytes(SMALL + 1), "x" * (SMALL + 1), list(range(SMALL)), np.zeros(SMALL)):
        assert packer.pack_small(value) is None
        assert packer.pack_small([value]) is None
        assert packer.pack(value) is not None
    for value in (None, "x" * 100, np.zeros(10), list(range(1000))):
        assert packer.pack_small(value) == packer.pack(value)


def test_a_large_array_is_refused_as_small_before_it_is_copied(monkeypatch):
    copied = []
    write = parcels._Writer.write
    monkeypatch.setattr(
        parcels._Writer, "write", lambda self, data: copied.append(len(data)) or write(self, data)
    )
    for library in (np, torch):
        assert packer.pack_small(Answer("a", library.zeros(64 * MIB, dtype=library.uint8))) is None
    assert sum(copied) < 1024


def test_a_large_value_is_copied_in_pieces_that_others_may_run_between(monkeypatch):
    """Between two pieces is Python code, so another thread can have the interpreter."""
    taken = []
    room = memoryview
    parcel = packer.pack(np.arange(40 * MIB, dtype=np.uint8))
    assert max(map(len, parcel.pieces)) <= MIB
    monkeypatch.setattr(parcels, "_PIECE", MIB // 4)
    monkeypatch.setattr(
        parcels, "memoryview", lambda value: taken.append(value) or room(value), raising=False
    )
    unpack(parcel)
    assert len(taken) >= len(parcel.pieces)


def test_what_cannot_be_pickled_is_no_parcel():
    for value in ((line for line in "x"), lambda: None):
        assert packer.pack(value) is None
        assert packer.pack_small(value) is None


def test_a_parcel_cut_short_is_an_error_and_not_a_shorter_value():
    parcel = packer.pack(bytes(5 * MIB))
    short = parcels.Parcel(parcel.pieces[:-1], parcel.nbytes)
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        unpack(short)
