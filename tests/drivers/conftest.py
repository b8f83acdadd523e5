"""Fixtures for the drivers' tests."""

from __future__ import annotations

import shutil

import pytest

from asyncgpu.drivers.cuda.cudart import find_cuda_functions
from asyncgpu.drivers.cuda.library import BudgetLibrary

from .native_budget import built


@pytest.fixture(scope="session")
def compiled_budget(tmp_path_factory):
    """The file of the native budget, and the fake runtime that this process has loaded."""
    return built(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def native(compiled_budget, tmp_path_factory):
    """A native budget that allocates on the fake runtime; each module has tables of its own."""
    file, device = compiled_budget
    library = BudgetLibrary(shutil.copy(file, tmp_path_factory.mktemp("copy")))
    library.allocate_with(find_cuda_functions("13.0"))
    return library, device
