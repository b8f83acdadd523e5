"""CUDA's own order of the devices, asked in a process that ends at once.

Only CUDA knows what "fastest first" means on a machine of different GPUs, and asking it in this
process would initialise CUDA here: after that a fork is unsafe and the variables are read.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from ...errors import DeviceError

__all__ = ["ask_cuda_for_uuids"]

# Loading the driver takes up to a few seconds on a machine with many GPUs and no persistence mode.
_TIMEOUT_SECONDS = 30.0

_QUESTION = """
import ctypes, uuid
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        raise SystemExit(f"{name} returned {code}")
call("cuInit", 0)
count = ctypes.c_int()
call("cuDeviceGetCount", ctypes.byref(count))
for ordinal in range(count.value):
    device, raw = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    call("cuDeviceGet", ctypes.byref(device), ordinal)
    call("cuDeviceGetUuid_v2", raw, device)
    print(uuid.UUID(bytes=bytes(raw)))
"""


def ask_cuda_for_uuids(command: Sequence[str] = (sys.executable, "-c", _QUESTION)) -> list[str]:
    """Return the UUIDs of the devices CUDA shows, in its order, without ``GPU-`` or ``MIG-``.

    Args:
        command: prints one UUID on each line.

    Raises:
        DeviceError: CUDA cannot be asked; the message says how to do without.
    """
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or "").strip()
        raise DeviceError(
            "this machine has GPUs of several kinds and CUDA could not be asked for its order of "
            f"them ({error}; {said}): set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        ) from None
    return answer.stdout.split()
