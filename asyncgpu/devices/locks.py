"""`DeviceLocks`: two programs that use asyncgpu do not take the same GPU at the same time.

For each GPU there is a file, named by the GPU's UUID, and who uses the GPU holds an advisory lock
(``flock``) on it. The kernel gives the lock back when the process ends, however it ends. Trying
takes microseconds and never waits.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..policy.device_inputs import LocksTried
from ..ports import DeviceInfo

__all__ = ["DeviceLocks", "device_locks"]

log = logging.getLogger("asyncgpu.devices")


class DeviceLocks:
    """The locks of a program's devices. Used in one thread.

    All runtimes of a process share a lock: they are one program. Where locks cannot be had, as in
    a folder that is not the user's own, this says so once and hinders nobody.
    """

    def __init__(self, uuids: Mapping[int, str], directory: Path) -> None:
        """Know the devices.

        Args:
            uuids: the physical devices by logical index; any other needs no lock.
            directory: where the files are; made if need be.
        """
        self._paths = {index: directory / f"{uuid}.lock" for index, uuid in uuids.items()}
        self._directory = directory
        self._ours: set[int] = set()
        self._usable: bool | None = None

    def take(self, indices: Iterable[int]) -> LocksTried:
        """Lock these devices against other programs, as far as those let us."""
        ours: list[int] = []
        taken: dict[int, str] = {}
        # Two programs that want the same two GPUs must not each get one of them.
        for index in sorted(indices, key=lambda index: str(self._paths.get(index, ""))):
            by = None if index in self._ours else self._take(index)
            if by is None:
                ours.append(index)
            else:
                taken[index] = by
        self._ours.update(ours)
        return LocksTried(tuple(ours), taken)

    def give_back(self, indices: Iterable[int]) -> None:
        """Let other programs have these devices."""
        for index in self._ours.intersection(indices):
            self._ours.discard(index)
            if index in self._paths:
                _give_back(self._paths[index])

    def close(self) -> None:
        """Give every lock back."""
        self.give_back(tuple(self._ours))

    def _take(self, index: int) -> str | None:
        """Return who else has the device; None: it is ours."""
        path = self._paths.get(index)
        if path is None or not self._are_usable():
            return None
        try:
            return _take(path)
        except OSError as error:
            self._give_up(error)
            return None

    def _are_usable(self) -> bool:
        if self._usable is None:
            self._usable = True
            try:
                _make_private(self._directory)
            except OSError as error:
                self._give_up(error)
        return self._usable

    def _give_up(self, error: OSError) -> None:
        self._usable = False
        log.warning(
            "devices are not locked against other programs: %s; ASYNCGPU_DEVICE_LOCKS=false "
            "ends this message",
            error,
        )


def device_locks(inventory: Iterable[DeviceInfo]) -> DeviceLocks:
    """Return the locks of these devices, in the folder where a user's programs meet.

    Not in ``$XDG_RUNTIME_DIR`` and not in ``$TMPDIR``: a service and a shell of one user may have
    different ones, or none.
    """
    uuids = {info.index: info.uuid for info in inventory if info.physical}
    return DeviceLocks(uuids, Path(f"/tmp/asyncgpu-{os.getuid()}"))


@dataclass(slots=True)
class _Held:
    file: int
    users: int


# The process's, as the locks are: runtimes on several loops are one program to the others.
_held: dict[Path, _Held] = {}
_guard = threading.Lock()


def _take(path: Path) -> str | None:
    with _guard:
        if path in _held:
            _held[path].users += 1
            return None
        file = _open_locked(path)
        if file is None:
            return _owner(path)
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()}".encode(), 0)
        _held[path] = _Held(file, 1)
        return None


def _give_back(path: Path) -> None:
    with _guard:
        # In the child of a fork there is nothing to give back: the locks are the parent's.
        held = _held.get(path)
        if held is None:
            return
        held.users -= 1
        if not held.users:
            del _held[path]
            # Closing alone would leave the lock to a child that is just being started.
            fcntl.flock(held.file, fcntl.LOCK_UN)
            os.close(held.file)


def _open_locked(path: Path) -> int | None:
    """Return the open file with its lock; None: another process has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, file):
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            os.close(file)
            raise
        # Somebody has cleaned up in between: others would lock the new file.
        os.close(file)


def _is_still(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")[:64] or "just started"
    except OSError:
        return "unknown"


def _make_private(directory: Path) -> None:
    """Make the folder, and refuse one that other users could have put there.

    Raises:
        OSError: it is not a folder of this user alone, or cannot be made.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{directory} is not a folder that only this user can write to")


def _forget() -> None:
    """Let go, in the child of a fork, of what would keep the parent's locks after its death."""
    global _guard
    _guard = threading.Lock()
    for held in _held.values():
        os.close(held.file)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
