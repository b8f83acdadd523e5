"""No Python function is ever called by CUDA or by torch's allocator.

Both call back with locks held that a thread with the GIL may wait for, so a callback that needs
the GIL deadlocks; and after a device fault CUDA never calls back at all.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DRIVERS = Path(__file__).parents[2] / "asyncgpu" / "drivers"
# CUDA's two ways to call the host, by any of their names, and ctypes' ways to make a C function of
# a Python one.
FORBIDDEN = re.compile(
    r"LaunchHostFunc|StreamAddCallback|add_callback|host_launch|CFUNCTYPE|PYFUNCTYPE|callback_type"
)


@pytest.mark.parametrize("path", sorted(DRIVERS.rglob("*.py")), ids=lambda path: path.stem)
def test_a_driver_makes_no_function_that_native_code_could_call(path):
    assert FORBIDDEN.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line", ["cu.cuLaunchHostFunc(s, f, 0)", "ctypes.CFUNCTYPE(None)", "cuStreamAddCallback(s)"]
)
def test_the_search_finds_them(line):
    assert FORBIDDEN.search(line)
