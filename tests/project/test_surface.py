"""The public surface is a list: sorted, real, complete, and documented."""

from __future__ import annotations

import ast
import importlib
import re
import types
from pathlib import Path

import pytest

import asyncgpu

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
DIRECTIVE = re.compile(r"^\.\. auto\w+:: ([\w.]+)", re.MULTILINE)


def documented() -> set[str]:
    """Return every name that the reference pages document, without its package."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    return {name.removeprefix("asyncgpu.") for name in DIRECTIVE.findall(pages)}


def by_kind(name: str) -> tuple[int, str]:
    """Order as ruff does: CONSTANTS, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", ["asyncgpu", "asyncgpu.errors", "asyncgpu.testing"])
def test_all_is_sorted_and_without_twins(name):
    exported = importlib.import_module(name).__all__
    assert list(exported) == sorted(set(exported), key=by_kind)


@pytest.mark.parametrize("name", sorted(asyncgpu.__all__))
def test_every_name_of_all_is_there(name):
    assert getattr(asyncgpu, name) is not None


def test_nothing_else_is_there():
    """Folders and files of the package become attributes when they are imported; those are fine.

    So are the few names that ``__init__`` works with.
    """
    extra = {
        name
        for name, value in vars(asyncgpu).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert extra <= {*asyncgpu.__all__, "annotations", "Any", "TYPE_CHECKING", "import_module"}


def test_what_is_imported_late_is_what_type_checkers_see():
    tree = ast.parse(Path(asyncgpu.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.name: f".{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module
        for alias in node.names
    }
    assert seen == asyncgpu._HOME


def test_a_name_that_is_not_there_is_reported_as_usual():
    with pytest.raises(AttributeError, match="no attribute 'Runtme'"):
        asyncgpu.Runtme  # noqa: B018


def test_every_error_is_public():
    assert set(asyncgpu.errors.__all__) <= set(asyncgpu.__all__)


@pytest.mark.parametrize("name", sorted(asyncgpu.__all__))
def test_every_public_name_is_documented(name):
    assert name in documented()


def test_the_reference_documents_nothing_else():
    assert {name for name in documented() if "." not in name} - {"testing"} == set(asyncgpu.__all__)


@pytest.mark.parametrize("module", ["testing", "worker"])
def test_every_name_of_a_public_module_is_documented(module):
    exported = importlib.import_module(f"asyncgpu.{module}").__all__
    assert {f"{module}.{name}" for name in exported} <= documented()
