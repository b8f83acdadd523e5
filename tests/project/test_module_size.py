"""A reader holds one module in mind at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "asyncgpu"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

LIMIT = 400


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_the_limit(module):
    lines = (PACKAGE / module).read_text(encoding="utf-8").count("\n")
    assert lines <= LIMIT, f"{module} has {lines} lines; it holds more than one idea"
