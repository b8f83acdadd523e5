"""What a program can import, a worker shall find too.

The worker gets the program's import path. On top of it come, by file, the modules the program
holds that no path may lead to: those a test runner or a launcher loaded from a file. The worker
turns to them last, only for names that its own import system does not know.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["ImportState"]


class ImportState(NamedTuple):
    """Where a program's modules come from."""

    path: list[str]
    files: dict[str, str]
    """Source files of modules outside the interpreter's libraries, by the modules' names."""
    argv: list[str]

    @classmethod
    def of_this_process(cls) -> ImportState:
        """Describe the running program."""
        from pathlib import Path

        cwd, libraries = str(Path.cwd()), _library_folders()
        files = {}
        for name, module in tuple(sys.modules.items()):
            file = _source_file(module)
            if file is not None and not file.startswith(libraries) and name != "__main__":
                files[name] = file
        return cls([entry or cwd for entry in sys.path], files, list(sys.argv))

    def for_other_interpreter(self) -> ImportState:
        """Return the part that makes sense to it: not the libraries of this one."""
        libraries = _library_folders()
        path = [entry for entry in self.path if not f"{entry}/".startswith(libraries)]
        return ImportState(path, self.files, self.argv)

    def adopt(self, *, same_interpreter: bool) -> None:
        """Take it over, in the worker."""
        if same_interpreter:
            sys.path[:] = self.path
        else:
            sys.path += [entry for entry in self.path if entry not in sys.path]
        sys.argv[:] = self.argv
        sys.meta_path.append(_ByFile(self.files))


class _ByFile:
    """Finds modules by the files the program loaded them from."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        # Test runners put modules below packages that exist in name only.
        self._packages = {
            name.rsplit(".", depth)[0] for name in files for depth in range(1, name.count(".") + 1)
        }

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> Any:
        from importlib.machinery import ModuleSpec
        from importlib.util import spec_from_file_location

        file = self._files.get(name)
        if file is not None:
            folder, _, base = file.rpartition("/")
            folders = [folder] if base == "__init__.py" else None
            return spec_from_file_location(name, file, submodule_search_locations=folders)
        if name in self._packages:
            return ModuleSpec(name, None, is_package=True)
        return None


def _source_file(module: ModuleType) -> str | None:
    # Anything can stand in sys.modules, so nothing is taken for granted.
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") else None


def _library_folders() -> tuple[str, ...]:
    """Where this interpreter keeps its own modules and those installed for it."""
    import sysconfig

    paths = sysconfig.get_paths()
    return tuple(f"{paths[kind]}/" for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
