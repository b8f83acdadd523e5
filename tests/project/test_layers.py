"""The layer table of docs/architecture.md, held over every import of the package.

Imports inside functions and under ``TYPE_CHECKING`` count like any other: a late import is still a
dependency. A literal ``import_module("x")`` counts too. The planted trees at the end prove that the
checker sees what it should.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "asyncgpu"

EFFECTS = frozenset(
    {"asyncio", "logging", "os", "random", "socket", "subprocess", "threading", "time"}
)


@dataclass(frozen=True)
class Layer:
    """What one layer may import.

    `ours` and `outside` are names or dotted prefixes; a layer may always import itself. With
    `one_outside`, a file may use only one of them: each edge file is about one library.
    """

    ours: frozenset[str] = frozenset()
    outside: frozenset[str] = frozenset()
    banned: frozenset[str] = frozenset()
    one_outside: bool = False


def layer(ours: str = "", outside: str = "", **kwargs: object) -> Layer:
    return Layer(frozenset(ours.split()), frozenset(outside.split()), **kwargs)


VALUES = "errors units"
PORTS = f"{VALUES} ports ambient settings promise home_loop"
SHELLS = "devices contexts tools"
PUBLIC = "__init__ errors worker"

LAYERS = {
    "errors": layer(),
    "units": layer("errors"),
    "ports": layer(f"{VALUES} ambient promise settings"),
    "ambient": layer(VALUES),
    "settings": layer(VALUES),
    "promise": layer(VALUES, "trio"),
    "home_loop": layer(f"{VALUES} ambient", "trio"),
    "policy": layer(VALUES, banned=EFFECTS),
    "drivers": layer(PORTS, "torch cuda pynvml", one_outside=True),
    "workers": layer(PORTS, "anyio cloudpickle", one_outside=True),
    "devices": layer(f"{PORTS} policy", "anyio"),
    "contexts": layer(f"{PORTS} policy devices", "anyio"),
    "tools": layer(f"{PORTS} policy devices contexts", "anyio"),
    "clock": layer("", "anyio"),
    "host_task": layer(PORTS, "anyio"),
    "runtime": layer(f"{PORTS} policy drivers workers {SHELLS} clock host_task", "anyio"),
    "api": layer(f"{PORTS} policy {SHELLS} runtime", "anyio"),
    "blocking": layer(f"{PORTS} policy {SHELLS} runtime", "anyio"),
    "worker": layer("errors workers"),
    "__init__": layer(f"{PORTS} policy {SHELLS} runtime api blocking worker"),
    "integrations": layer(PUBLIC, "fastapi starlette aiohttp prometheus_client opentelemetry"),
    "cli": layer(PUBLIC),
    "testing": layer(f"{PUBLIC} drivers.virtual policy", "anyio pytest"),
}

# What single files may import beyond their layer. anyio has no word for what the first three need
# of trio (system tasks, instruments, run-local values); the bars of a pool are drawn by others.
EXTRA = {
    "contexts/step_hook_trio.py": frozenset({"trio"}),
    "host_task.py": frozenset({"trio"}),
    "testing/gates.py": frozenset({"anyio"}),
    "workers/reactor.py": frozenset({"trio"}),
    "tools/progress_bar.py": frozenset({"rich", "tqdm"}),
}


def violations(root: Path) -> list[str]:
    """Return every import under `root` (an ``asyncgpu`` folder) that the table forbids."""
    return [
        f"{path.relative_to(root).as_posix()}: {complaint}"
        for path in sorted(root.rglob("*.py"))
        for complaint in _complaints(path, root)
    ]


def _complaints(path: Path, root: Path) -> Iterator[str]:
    relative = path.relative_to(root)
    name = relative.parts[0].removesuffix(".py")
    if name not in LAYERS:
        yield f"{name} stands in no layer; add it to the table and to docs/architecture.md"
        return
    rule = LAYERS[name]
    extra = EXTRA.get(relative.as_posix(), frozenset[str]())
    libraries = set()
    for target in sorted(set(_imports(path, root))):
        top, _, rest = target.partition(".")
        if top == "asyncgpu":
            if not _within(rest, {name} | rule.ours | extra):
                yield f"imports {target}"
        elif top in sys.stdlib_module_names:
            if top in rule.banned:
                yield f"imports {target}, and this layer is pure"
        elif _within(target, rule.outside):
            libraries.add(top)
        elif not _within(target, extra):
            yield f"imports {target}"
    if rule.one_outside and len(libraries) > 1:
        yield f"imports {' and '.join(sorted(libraries))}: one library for each file"


def _within(target: str, allowed: set[str] | frozenset[str]) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in allowed)


def _imports(path: Path, root: Path) -> Iterator[str]:
    """Yield absolute names of the modules that a file imports; for ours, as far as they exist."""
    module = ("asyncgpu", *path.relative_to(root).with_suffix("").parts)
    package = module[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (_ours(alias.name, root) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            yield from (_ours(f"{base}.{alias.name}", root) for alias in node.names)
        elif isinstance(node, ast.Call) and _is_dynamic_import(node):
            literal = node.args[0]
            if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                above = ".".join(package) if literal.value.startswith(".") else ""
                yield _ours(f"{above}{literal.value}", root)


def _ours(name: str, root: Path) -> str:
    """Cut `name` back to an existing module of the package; leave other names as they are.

    ``from asyncgpu import Runtime`` asks for the package itself: ``asyncgpu.__init__``.
    """
    parts = name.split(".")
    if parts[0] != "asyncgpu":
        return name
    found = root
    for depth, part in enumerate(parts[1:], start=1):
        if (found / f"{part}.py").exists():
            return ".".join(parts[: depth + 1])
        if not (found / part).is_dir():
            return ".".join(parts[:depth]) if depth > 1 else "asyncgpu.__init__"
        found /= part
    return name if len(parts) > 1 else "asyncgpu.__init__"


def _is_dynamic_import(node: ast.Call) -> bool:
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in {"import_module", "__import__"} and bool(node.args)


def test_every_import_obeys_the_table():
    assert violations(PACKAGE) == []


def test_every_exception_is_still_needed():
    """An entry of `EXTRA` that nothing uses any more is a hole."""
    for name, extra in EXTRA.items():
        tops = {target.partition(".")[0] for target in _imports(PACKAGE / name, PACKAGE)}
        assert extra <= tops, name


def test_the_table_is_acyclic():
    """Following `ours` from any layer never leads back to it."""

    def reach(name: str, seen: frozenset[str]) -> None:
        assert name not in seen, f"{' -> '.join(sorted(seen))} -> {name}"
        for other in LAYERS[name].ours:
            reach(other.partition(".")[0], seen | {name})

    for name in LAYERS:
        reach(name, frozenset())


PLANTED = {
    "the clock in policy": ("policy/lru.py", "import time", "time"),
    "an effect inside a function": ("policy/lru.py", "def f():\n    import os", "os"),
    "asyncio by its submodule": ("policy/lru.py", "from asyncio.locks import Lock", "asyncio"),
    "a port in policy": ("policy/lru.py", "from ..ports import Driver", "asyncgpu.ports"),
    "torch above the drivers": ("contexts/session.py", "def f():\n    import torch", "torch"),
    "a type-checking import": (
        "devices/manager.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..tools.tool import Tool",
        "asyncgpu.tools.tool",
    ),
    "an edge named below the runtime": (
        "tools/pool.py",
        "from .. import workers",
        "asyncgpu.workers",
    ),
    "an absolute import of ours": (
        "drivers/nvml.py",
        "import asyncgpu.policy.lpt",
        "asyncgpu.policy.lpt",
    ),
    "one edge in the other": ("drivers/nvml.py", "from ..workers import wire", "asyncgpu.workers"),
    "two libraries in one file": ("drivers/nvml.py", "import torch, pynvml", "pynvml and torch"),
    "the public package from inside": (
        "tools/pool.py",
        "from asyncgpu import Runtime",
        "asyncgpu.__init__",
    ),
    "a dynamic import": (
        "tools/pool.py",
        "import importlib\nimportlib.import_module('torch')",
        "torch",
    ),
    "a relative dynamic import": (
        "tools/pool.py",
        "from importlib import import_module as import_module\nimport_module('asyncgpu.api')",
        "asyncgpu.api",
    ),
    "the wrong driver in testing": (
        "testing/gpus.py",
        "from ..drivers.cuda import stream",
        "asyncgpu.drivers.cuda",
    ),
    "a foreign library": ("tools/pool.py", "import numpy as np", "numpy"),
    "an unknown module": ("helpers.py", "", "stands in no layer"),
    "an unknown folder": ("extras/thing.py", "", "stands in no layer"),
}


def plant(folder: Path, files: dict[str, str]) -> Path:
    root = folder / "asyncgpu"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


BYSTANDERS = {
    "__init__.py": "from .api import create_context\n",
    "api.py": "from .runtime import Runtime\n",
    "runtime.py": "def f():\n    from .drivers.virtual import driver\n",
    "policy/lpt.py": "from heapq import heappush\nfrom ..errors import InvalidRequest\n",
    "ports/__init__.py": "from ..promise import Promise\n",
    "promise.py": "def f():\n    import trio\n",
    "errors.py": "",
    "workers/wire.py": "import struct\n",
    "drivers/virtual/driver.py": "import torch\nfrom ...ports import Driver\n",
    "drivers/cuda/stream.py": "from cuda.bindings import runtime\n",
    "tools/tool.py": "import anyio\nfrom ..policy.lpt import heappush\n",
    "testing/__init__.py": "import pytest\nfrom .. import Runtime\nfrom ..drivers import virtual\n",
}


def test_an_orderly_tree_has_no_violations(tmp_path):
    assert violations(plant(tmp_path, BYSTANDERS)) == []


@pytest.mark.parametrize(("path", "source", "named"), PLANTED.values(), ids=PLANTED)
def test_a_planted_violation_is_found_and_named(tmp_path, path, source, named):
    found = violations(plant(tmp_path, {**BYSTANDERS, path: source}))
    assert len(found) == 1
    assert found[0].startswith(path)
    assert named in found[0]
