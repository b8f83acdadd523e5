"""CUDA's errors translated into ours, in this one place."""

from __future__ import annotations

from ...errors import DeviceError, DeviceLost

__all__ = ["Unsupported", "device_error", "translated"]

# The errors after which, by CUDA's own documentation (driver_types.h), the process cannot use the
# device any more, and how CUDA words them. cudaError_t and CUresult share these numbers. The words
# are needed where torch passes on the text alone.
_STICKY = {
    214: "uncorrectable ECC error",
    220: "uncorrectable NVLink error",
    226: "contained error",
    700: "an illegal memory access was encountered",
    702: "the launch timed out and was terminated",
    709: "context is destroyed",
    710: "device-side assert triggered",
    714: "hardware stack error",
    715: "an illegal instruction was encountered",
    716: "misaligned address",
    717: "operation not supported on global/shared address space",
    718: "invalid program counter",
    719: "unspecified launch failure",
    721: "tensor memory not completely freed",
    810: "MPS client has been terminated",
    911: "external device",
    999: "unknown error",
}

# Needs a newer driver; not supported; invalid type, and configuration, of a resource.
_UNSUPPORTED = {36, 801, 914, 915}

_TORCH_PREFIX = "CUDA error: "


class Unsupported(DeviceError):
    """This hardware or driver cannot do it; another one could."""


def device_error(device: int, what: str, code: int | None = None) -> DeviceError:
    """Return the error for a CUDA call that failed on `device`.

    Args:
        device: logical index.
        what: what CUDA said.
        code: its number; None: judge by the words.
    """
    sticky = code in _STICKY if code is not None else any(s in what for s in _STICKY.values())
    if sticky:
        return DeviceLost(f"cuda:{device} is lost: {what}; this process cannot use it any more")
    if code in _UNSUPPORTED:
        return Unsupported(f"cuda:{device}: {what}")
    return DeviceError(f"cuda:{device}: {what}")


def translated(device: int, error: RuntimeError) -> Exception:
    """Return our error for one that torch raised, or the same if it is not CUDA's.

    torch 2.8 and later raise `torch.AcceleratorError`, which carries the number in `error_code`;
    some versions, and some calls, pass on only the text.
    """
    text = str(error).partition("\n")[0]
    code = getattr(error, "error_code", None)
    if code is None and not text.startswith(_TORCH_PREFIX):
        return error
    return device_error(device, text.removeprefix(_TORCH_PREFIX), code)
