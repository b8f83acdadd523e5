"""The runtime library that torch has loaded is found among what is mapped."""

from __future__ import annotations

import ctypes

import pytest

from asyncgpu.drivers.cuda.cudart import find_cuda_functions

from .native_budget import HERE, compiled


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda runtime")
    return compiled(HERE / "fake_cudart.c", folder / "libcudart.so.12")


def maps(folder, *paths):
    lines = ["7f0000000000-7f0000001000 rw-p 00000000 00:00 0"]
    lines += [f"7f0000000000-7f0000001000 r-xp 00000000 08:01 {i} {p}" for i, p in enumerate(paths)]
    file = folder / "maps"
    file.write_text("\n".join(lines))
    return file


def test_the_functions_are_those_of_the_loaded_library(runtime, tmp_path):
    loaded = ctypes.CDLL(str(runtime))
    found = find_cuda_functions("12.8", maps(tmp_path, "/usr/lib/libc.so.6", runtime))
    assert found.malloc == ctypes.cast(loaded.cudaMalloc, ctypes.c_void_p).value
    assert found.free == ctypes.cast(loaded.cudaFree, ctypes.c_void_p).value
    assert found.get_last_error == ctypes.cast(loaded.cudaGetLastError, ctypes.c_void_p).value
    assert found.mem_get_info == ctypes.cast(loaded.cudaMemGetInfo, ctypes.c_void_p).value


def test_a_runtime_of_another_version_is_somebody_elses(runtime, tmp_path):
    assert find_cuda_functions("13.0", maps(tmp_path, runtime)) is None


def test_without_a_runtime_there_are_no_functions(tmp_path):
    assert find_cuda_functions("13.0", maps(tmp_path)) is None
    assert find_cuda_functions("13.0", tmp_path / "none") is None
    assert find_cuda_functions("13.0", maps(tmp_path, "/gone/libcudart.so.13.0.1")) is None


def test_a_library_that_only_looks_like_it_has_none(tmp_path):
    source = tmp_path / "other.c"
    source.write_text("int other(void) { return 0; }\n")
    other = compiled(source, tmp_path / "libcudart.so.13")
    assert find_cuda_functions("13.0", maps(tmp_path, other)) is None
