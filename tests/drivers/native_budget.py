"""`budget.c` compiled from source, on a CUDA runtime that is a fake."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from asyncgpu.drivers.cuda import library as library_module
from asyncgpu.drivers.cuda.library import BudgetLibrary

HERE = Path(__file__).parent
SOURCE = Path(library_module.__file__).with_name("budget.c")

ALLOCATE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)


class FakeDevice:
    """What the fake runtime library counts."""

    def __init__(self, path: Path) -> None:
        self.loaded = ctypes.CDLL(str(path))

    def __getattr__(self, name):
        return ctypes.c_int64.in_dll(self.loaded, f"fake_{name}").value

    def set_free(self, nbytes: int) -> None:
        ctypes.c_int64.in_dll(self.loaded, "fake_free").value = nbytes


def compiled(source: Path, target: Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    flags = ["-std=c11", "-O0", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fPIC", "-pthread"]
    subprocess.run([compiler, *flags, "-shared", str(source), "-o", str(target)], check=True)
    return target


def built(folder: Path) -> tuple[Path, FakeDevice]:
    """Return the library's file, and the fake runtime, loaded."""
    device = FakeDevice(compiled(HERE / "fake_cudart.c", folder / "libcudart.so.13"))
    return compiled(SOURCE, folder / "libasyncgpu_budget.so"), device


class Functions:
    """The pair that torch would be given for an account."""

    def __init__(self, library: BudgetLibrary, account: int) -> None:
        allocate, release = library.functions(account)
        self._allocate, self._release = ALLOCATE(allocate), RELEASE(release)

    def allocate(self, nbytes: int) -> int | None:
        return self._allocate(nbytes, 0, None)

    def release(self, memory: int, nbytes: int) -> None:
        self._release(memory, nbytes, 0, None)
