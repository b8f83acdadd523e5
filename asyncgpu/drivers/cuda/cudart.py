"""CUDA's runtime library as torch has loaded it: where its memory functions are.

Memory must come from the copy that torch uses. A second copy of the library, even of the same
version, has its own idea of each thread's current device.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

__all__ = ["CudaFunctions", "find_cuda_functions"]

_MAPS = Path("/proc/self/maps")


class CudaFunctions(NamedTuple):
    """Addresses of the C functions that `budget.c` calls."""

    malloc: int
    free: int
    get_last_error: int
    mem_get_info: int


def find_cuda_functions(version: str, maps: Path = _MAPS) -> CudaFunctions | None:
    """Return the functions of the runtime library that this process has loaded; None: none.

    Args:
        version: ``torch.version.cuda``. A program may have loaded an older runtime too.
        maps: what the system says is mapped into this process.
    """
    found = (_functions(path) for path in _loaded_runtimes(version, maps))
    return next((functions for functions in found if functions is not None), None)


def _functions(path: str) -> CudaFunctions | None:
    names = ("cudaMalloc", "cudaFree", "cudaGetLastError", "cudaMemGetInfo")
    try:
        # The handle of what is loaded already; nothing more is loaded.
        runtime = ctypes.CDLL(path)
        addresses = [ctypes.cast(runtime[name], ctypes.c_void_p).value or 0 for name in names]
    except (OSError, AttributeError):
        return None
    return CudaFunctions(*addresses)


def _loaded_runtimes(version: str, maps: Path) -> list[str]:
    try:
        lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    # Address, permissions, offset, device, inode, and the path, which may have spaces.
    paths = [fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6]
    wanted = f"libcudart.so.{version.partition('.')[0]}"
    return [path for path in dict.fromkeys(paths) if Path(path).name.startswith(wanted)]
