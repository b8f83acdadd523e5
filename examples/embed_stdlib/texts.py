"""The texts: every docstring of the standard library, found without importing it."""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import anyio

from asyncgpu import Tool, ToolPool

T = TypeVar("T")

# Tests are no part of the library's documentation, and some hold broken Python on purpose.
_LEFT_OUT = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages"})

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Docstring:
    """One text and where it stands."""

    name: str
    """``"json.decoder.JSONDecoder.decode"``."""
    text: str


class ReadDocstrings(Tool):
    """Source files in, their docstrings out. A CPU tool: it needs processes, but no GPU.

    ``ast.parse`` holds the interpreter's lock for as long as a file takes, 100 ms for the largest.
    In a thread of this process that would hold up the event loop; in a worker it does not.
    """

    device = "cpu"

    def cost(self, path: Path) -> float:
        return path.stat().st_size

    def run(self, paths: list[Path]) -> list[list[Docstring]]:
        return [docstrings_of(path) for path in paths]


async def collect(pool: ToolPool, *, limit: int | None = None) -> list[Docstring]:
    """Return the docstrings of the standard library, or `limit` of them from all over it."""
    files = evenly(await anyio.to_thread.run_sync(source_files), limit)
    found = await pool.run(ReadDocstrings(), files)
    return evenly([docstring for of_one_file in found for docstring in of_one_file], limit)


def source_files() -> list[Path]:
    """Return the standard library's source files, sorted. Blocks: call it in a thread."""
    files: list[Path] = []
    for folder, subfolders, names in os.walk(_root()):
        subfolders[:] = [name for name in subfolders if name not in _LEFT_OUT]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(files)


def docstrings_of(path: Path) -> list[Docstring]:
    """Return the docstrings of a module and of every class and function in it."""
    with warnings.catch_warnings():
        # Old code draws warnings from the parser; they are not ours to mend.
        warnings.simplefilter("ignore")
        tree = ast.parse(path.read_bytes(), filename=str(path))
    parts = path.relative_to(_root()).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return [
        Docstring(name, text)
        for name, node in _walk(tree, module)
        if (text := (ast.get_docstring(node) or "").strip())
    ]


def evenly(things: Sequence[T], limit: int | None) -> list[T]:
    """Return `limit` of the things, evenly spread over them; all of them for None."""
    if limit is None or limit >= len(things):
        return list(things)
    return [things[number * len(things) // limit] for number in range(limit)]


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield everything that may have a docstring, with its full name, in source order."""
    yield name, node
    inside = [*ast.iter_child_nodes(node)]
    while inside:
        child = inside.pop(0)
        if isinstance(child, _DOCUMENTED):
            yield from _walk(child, f"{name}.{child.name}")
        elif not isinstance(child, ast.expr):
            # A function defined under an `if` or an `except` belongs to what surrounds that.
            inside[:0] = ast.iter_child_nodes(child)
