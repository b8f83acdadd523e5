"""What the program can import, its workers find: by path, by file, or by value."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from worker_tools import Calls

import asyncgpu

ROOT = Path(asyncgpu.__file__).parents[1]


class Point:
    """Lives in this module, which pytest loaded from a file and no import path leads to."""

    def __init__(self, x: float) -> None:
        self.x = x


class Doubles:
    """So does this tool."""

    def load(self, device):
        pass

    def run(self, items):
        return [Point(2 * item.x) for item in items]

    def close(self):
        pass


@pytest.mark.anyio
async def test_modules_that_no_path_leads_to_are_found_by_their_files(start):
    channel = await start(Doubles())
    (point,) = (await channel.submit([Point(1.5)])).value
    assert type(point) is Point
    assert point.x == 3.0


@pytest.mark.anyio
async def test_lambdas_and_local_classes_go_by_value(start):
    channel = await start(Calls())
    offset = 5

    class Local:
        value = 7

    replies = (await channel.submit([[lambda x: x + offset, 1], [Local]])).value
    assert replies[0] == 6
    assert type(replies[1]) is Local


def run_script(folder: Path, source: str) -> str:
    """Run a program of its own, in which everything is in ``__main__``."""
    script = folder / "script.py"
    body = """
        import sys, anyio
        sys.path.insert(0, {root!r})
        from asyncgpu.ports import WorkerSpec
        from asyncgpu.workers.process import ProcessTransport

        async def ask(tool, items):
            transport = ProcessTransport()
            channel = await transport.start(WorkerSpec(name="w"))
            loaded = await channel.load(tool, ["cpu"])
            reply = await channel.submit(items)
            await transport.aclose()
            return reply if loaded.error is None else loaded
    """
    script.write_text(textwrap.dedent(body).format(root=str(ROOT)) + textwrap.dedent(source))
    run = subprocess.run(
        [sys.executable, str(script), "--flag"], capture_output=True, text=True, cwd="/", timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_tools_of_a_script_cross_by_value_and_their_results_are_its_own_classes(tmp_path):
    printed = run_script(
        tmp_path,
        """
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: float

        def double(point):
            return Point(2 * point.x)

        class Doubles:
            def __init__(self, offset): self.offset = offset
            def load(self, device): self.device = device
            def close(self): pass
            def run(self, items):
                assert sys.argv[1:] == ["--flag"]
                return [Point(double(item).x + self.offset) for item in items]

        reply = anyio.run(ask, Doubles(10), [Point(1.5)])
        print(reply.value, type(reply.value[0]) is Point)
        """,
    )
    assert printed == "[Point(x=13.0)] True\n"


def test_exceptions_of_a_script_are_its_own_classes(tmp_path):
    printed = run_script(
        tmp_path,
        """
        class MyError(Exception): pass

        class Fails:
            def load(self, device): pass
            def close(self): pass
            def run(self, items): raise MyError("mine")

        error = anyio.run(ask, Fails(), [1]).error
        print(error.exception_type, type(error.__cause__) is MyError, error.__cause__)
        """,
    )
    assert printed == "__main__.MyError True mine\n"


def test_modules_beside_a_script_are_found(tmp_path):
    (tmp_path / "neighbour.py").write_text(
        "class Echo:\n"
        "    def load(self, device): pass\n"
        "    def run(self, items): return [__name__ for _ in items]\n"
        "    def close(self): pass\n"
    )
    printed = run_script(
        tmp_path, "import neighbour\nprint(anyio.run(ask, neighbour.Echo(), [1]).value)"
    )
    assert printed == "['neighbour']\n"


def test_a_module_in_the_current_folder_does_not_stand_in_for_one_of_ours(tmp_path, monkeypatch):
    (tmp_path / "pickle.py").write_text("raise SystemExit('the wrong pickle')")
    monkeypatch.chdir(tmp_path)
    code = (
        f"import sys; sys.path[:] = [{str(ROOT)!r}, *sys.path[1:]];"
        "import anyio; from asyncgpu.ports import WorkerSpec;"
        "from asyncgpu.workers.process import ProcessTransport;"
        "transport = ProcessTransport();"
        "print(anyio.run(transport.start, WorkerSpec(name='w')).alive)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout == "True\n", run.stderr
