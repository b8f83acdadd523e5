"""Plain pickle for what it can do, codecs for foreign memory, by value what has no name."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types

import numpy as np
import pytest

from asyncgpu.workers.pickling import Pickling, find_codecs


class Opaque:
    """Stands for a library's object."""

    def __init__(self, data: bytearray) -> None:
        self.data = data


class OpaqueCodec:
    module = "opaque_library"
    asked = 0

    def reducers(self):
        type(self).asked += 1
        return {Opaque: lambda opaque: (Opaque, (pickle.PickleBuffer(opaque.data),))}


def round_trip(pickling: Pickling, value):
    body, buffers = pickling.dumps(value)
    return pickle.loads(body, buffers=[bytearray(buffer) for buffer in buffers])


def test_only_large_buffers_leave_the_pickle():
    small, large = np.zeros(1000, np.uint8), np.arange(40_000, dtype=np.uint8)
    body, buffers = Pickling().dumps([small, large, large[::2]])
    assert [buffer.nbytes for buffer in buffers] == [40_000]
    assert len(body) < 30_000


def test_values_come_back_as_they_were():
    value = {"a": [1, (2.5, None)], "b": b"\x00\xff", "c": {3}, "n": np.arange(9.0).reshape(3, 3)}
    back = round_trip(Pickling(), value)
    assert back["n"].tolist() == value["n"].tolist()
    assert {**back, "n": 0} == {**value, "n": 0}


def test_lambdas_and_local_classes_go_by_value():
    factor = 3

    class Local:
        def triple(self, x):
            return factor * x

    triple, local = round_trip(Pickling(), (lambda x: factor * x, Local()))
    assert triple(2) == local.triple(2) == 6


def test_what_cannot_be_pickled_raises():
    with pytest.raises(TypeError, match="generator"):
        Pickling().dumps([1, (letter for letter in "abc")])


def test_a_codec_is_asked_once_its_library_is_there(monkeypatch):
    pickling = Pickling([OpaqueCodec()])
    pickling.dumps([1])
    assert OpaqueCodec.asked == 0
    monkeypatch.setitem(sys.modules, "opaque_library", types.ModuleType("opaque_library"))
    for _ in range(2):
        _, buffers = pickling.dumps([Opaque(bytearray(100_000))])
        assert [buffer.nbytes for buffer in buffers] == [100_000]
    assert OpaqueCodec.asked == 1
    assert len(round_trip(pickling, Opaque(bytearray(50_000))).data) == 50_000


def test_a_half_imported_library_is_left_alone(monkeypatch):
    module = types.ModuleType("opaque_library")
    module.__spec__ = types.SimpleNamespace(_initializing=True)
    monkeypatch.setitem(sys.modules, "opaque_library", module)
    asked = OpaqueCodec.asked
    Pickling([OpaqueCodec()]).dumps([1])
    assert OpaqueCodec.asked == asked


def test_codecs_work_by_value_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "opaque_library", types.ModuleType("opaque_library"))
    _, buffers = Pickling([OpaqueCodec()]).dumps([Opaque(bytearray(100_000)), lambda: 1])
    assert [buffer.nbytes for buffer in buffers] == [100_000]


def test_codecs_are_found_by_path():
    (codec,) = find_codecs(["asyncgpu.drivers.codec:TorchCodec"])
    assert codec.module == "torch"


def test_plain_values_import_nothing():
    program = (
        "import sys; from asyncgpu.workers.pickling import Pickling, find_codecs;"
        "p = Pickling(find_codecs(['asyncgpu.drivers.codec:TorchCodec']));"
        "p.dumps([1, 'a', {2: 3.0}]);"
        "print({'torch', 'numpy', 'cloudpickle'} & {*sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr
