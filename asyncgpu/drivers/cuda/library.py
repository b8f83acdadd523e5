"""`BudgetLibrary`: the compiled `budget.c`, through ctypes."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from .cudart import CudaFunctions

__all__ = ["BudgetLibrary", "open_library"]

PATH = Path(__file__).with_name("libasyncgpu_budget.so")
"""Where the build puts it (``hatch_build.py``)."""

ACCOUNTS = 1024
LEDGERS = 256


def _record(name: str, fields: str) -> type[ctypes.Structure]:
    """Return a structure of 64-bit numbers, as every table of the library is made of."""
    members = {"_fields_": [(field, ctypes.c_int64) for field in fields.split()]}
    return type(name, (ctypes.Structure,), members)


_Ledger = _record("_Ledger", "open accounts capacity committed used")
_Account = _record(
    "_Account",
    "number last ledger group cap reserved used peak closed holds requested available by_device",
)


class _Functions(ctypes.Structure):
    _fields_ = (("allocate", ctypes.c_void_p), ("release", ctypes.c_void_p))


class BudgetLibrary:
    """The functions and the tables of one loaded library. A process has one.

    Its functions take a moment and never call back, so they are called with the GIL held: to give
    it up and ask for it again takes longer than they do.

    Attributes:
        ledgers: the table of ledgers, to read.
        accounts: the table of accounts, to read.
    """

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            OSError: the file cannot be loaded.
        """
        loaded = ctypes.PyDLL(str(path))
        self.ledgers = (_Ledger * LEDGERS).in_dll(loaded, "asyncgpu_ledgers")
        self.accounts = (_Account * ACCOUNTS).in_dll(loaded, "asyncgpu_accounts")
        self._functions = (_Functions * ACCOUNTS).in_dll(loaded, "asyncgpu_functions")
        self.use_cuda = _bound(loaded, "use_cuda", 4, ctypes.c_void_p, answers=None)
        self.open_ledger = _bound(loaded, "open_ledger", 1)
        self.close_ledger = _bound(loaded, "close_ledger", 1, answers=None)
        self.set_capacity = _bound(loaded, "set_capacity", 2, answers=None)
        self.open_group = _bound(loaded, "open_group", 1)
        self.close_group = _bound(loaded, "close_group", 1)
        self.open = _bound(loaded, "open", 4)
        self.close = _bound(loaded, "close", 1)
        self.charge = _bound(loaded, "charge", 2)
        self.credit = _bound(loaded, "credit", 2)
        self.set_cap = _bound(loaded, "set_cap", 2)
        self.reserve = _bound(loaded, "reserve", 2)
        self.headroom = _bound(loaded, "headroom", 1)
        self.hold = _bound(loaded, "hold", 2)
        self.refusal = loaded.asyncgpu_refusal
        self.refusal.argtypes = (ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))
        self.refusal.restype = ctypes.c_int64

    def allocate_with(self, cuda: CudaFunctions) -> None:
        """Take device memory through these functions from now on."""
        self.use_cuda(*cuda)

    def functions(self, account: int) -> tuple[int, int]:
        """Return the addresses of the two C functions that allocate and release for `account`."""
        pair = self._functions[account % ACCOUNTS]
        return pair.allocate, pair.release


@functools.cache
def open_library() -> BudgetLibrary | None:
    """Load what was built with the package; None: it was built without a C compiler."""
    try:
        return BudgetLibrary(PATH)
    except OSError:
        return None


def _bound(
    loaded: ctypes.PyDLL,
    name: str,
    parameters: int,
    kind: type = ctypes.c_int64,
    *,
    answers: type | None = ctypes.c_int64,
) -> ctypes._NamedFuncPointer:
    function = loaded[f"asyncgpu_{name}"]
    function.argtypes = (kind,) * parameters
    function.restype = answers
    return function
