"""Virtual GPUs for the length of a block."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..drivers.virtual.spec import VARIABLE, parse_spec

__all__ = ["virtual_gpus"]


@contextmanager
def virtual_gpus(spec: str = "2x8GiB") -> Iterator[tuple[str, ...]]:
    """Give every `Runtime` opened inside virtual devices; yield their names.

    Works through the environment variable ``ASYNCGPU_VIRTUAL_DEVICES``, so it holds in all threads
    and in worker processes. A runtime that is open already keeps its devices.

    Args:
        spec: a count and a size, ``"2x8GiB"``, or one size for each device, ``"8GiB,4GiB"``.

    Raises:
        InvalidRequest: `spec` cannot be read; the environment was not touched.
    """
    names = tuple(f"cuda:{index}" for index, _size in enumerate(parse_spec(spec)))
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = spec
    try:
        yield names
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
