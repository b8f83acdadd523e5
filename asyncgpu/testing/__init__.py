"""Public fakes for testing programs that use asyncgpu: virtual GPUs, gates, faults.

::

    with virtual_gpus("2x8GiB"), faults() as script, gate() as entered:
        async with asyncgpu.Runtime() as rt:
            ...

pytest fixtures of the same names are registered when the package is installed.
"""

from __future__ import annotations

from ..drivers.virtual.faults import FaultScript
from .busywork import busy
from .devices import virtual_gpus
from .failures import faults
from .gates import Gate, gate

__all__ = ["FaultScript", "Gate", "busy", "faults", "gate", "virtual_gpus"]
