"""Compile ``budget.c`` with the system's C compiler while the package is built, if there is one.

Without it everything works, but VRAM budgets on CUDA are checked only at the end of each step.
The library needs no header of Python, CUDA or torch, so one build serves every version of them.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("asyncgpu", "drivers", "cuda")
SOURCE = FOLDER / "budget.c"
TARGET = FOLDER / "libasyncgpu_budget.so"
FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-s", "-pthread")


class BudgetBuildHook(BuildHookInterface):
    """Puts the library into wheels and, for editable installs, beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are collected; a wheel with the library is for this platform."""
        if self.target_name != "wheel" or not sys.platform.startswith("linux"):
            return
        trouble = compile_library(Path(self.root))
        if trouble:
            self.app.display_warning(f"{SOURCE} not compiled, VRAM budgets will be soft: {trouble}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        # Git ignores it, so it is taken along by name.
        build_data["artifacts"].append(f"/{TARGET.as_posix()}")

    def clean(self, versions: list[str]) -> None:
        """Remove what was compiled."""
        (Path(self.root) / TARGET).unlink(missing_ok=True)


def compile_library(root: Path) -> str:
    """Compile it below `root`, with ``$CC`` or ``cc``; return what went wrong, or nothing."""
    target = root / TARGET
    # One that an earlier version left there must not be taken for this one.
    target.unlink(missing_ok=True)
    compiler, *options = shlex.split(os.environ.get("CC") or "cc")
    found = shutil.which(compiler)
    if found is None:
        return f"there is no C compiler {compiler!r} (on Debian: apt install gcc libc6-dev)"
    command = [found, *options, *FLAGS, str(root / SOURCE), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    target.unlink(missing_ok=True)
    words = done.stderr.strip().splitlines()
    return words[0] if words else f"{compiler} ended with exit code {done.returncode}"
