"""Choose a driver by name and open it; each is imported only when it is chosen."""

from __future__ import annotations

from ..errors import InvalidRequest
from ..ports import Driver

__all__ = ["open_driver"]


def open_driver(name: str, *, virtual_devices: str | None) -> Driver:
    """Open the driver called `name`. May block for tens of milliseconds.

    Args:
        name: ``"cuda"``, ``"virtual"``, or ``"auto"``: virtual devices where they are described,
            else CUDA where NVML finds a device, else a driver with no devices at all, whose every
            use is an error that says how to have some.
        virtual_devices: the value of ``ASYNCGPU_VIRTUAL_DEVICES``; None or empty: it is not set.

    Raises:
        InvalidRequest: no such driver, or the description of virtual devices cannot be read.
        InfeasibleRequest: ``"cuda"`` on a machine that has none.
        DeviceError: the machine has an NVIDIA driver that cannot be used.
    """
    match name:
        case "auto":
            return _open_virtual(virtual_devices) if virtual_devices else _open_detected()
        case "cuda":
            return _open_cuda()
        case "virtual":
            return _open_virtual(virtual_devices or "")
    raise InvalidRequest(f"driver: {name!r} is none of 'auto', 'cuda', 'virtual'")


def _open_virtual(spec: str) -> Driver:
    from .virtual.driver import VirtualDriver

    return VirtualDriver.from_spec(spec)


def _open_cuda() -> Driver:
    from .absent import no_device

    driver = _open_detected()
    if not driver.inventory():
        driver.close()
        raise no_device("cuda")
    return driver


def _open_detected() -> Driver:
    from .absent import AbsentDriver
    from .cuda.driver import CudaDriver

    driver = CudaDriver.open()
    if driver.inventory():
        return driver
    driver.close()
    return AbsentDriver()
