"""The demo's texts: the docstrings of the standard library."""

from __future__ import annotations

import inspect
import json
import statistics
from pathlib import Path

import pytest

from examples.embed_stdlib.texts import (
    Docstring,
    ReadDocstrings,
    docstrings_of,
    evenly,
    source_files,
)


@pytest.fixture(scope="module")
def of_json():
    return {found.name: found.text for found in docstrings_of(Path(json.__file__))}


def test_docstrings_are_those_that_python_itself_shows(of_json):
    assert of_json["json"] == inspect.getdoc(json)
    assert of_json["json.loads"] == inspect.getdoc(json.loads)


def test_nested_and_conditional_definitions_have_full_names(tmp_path, monkeypatch):
    monkeypatch.setattr("examples.embed_stdlib.texts._root", lambda: tmp_path)
    path = tmp_path / "pack" / "part.py"
    path.parent.mkdir()
    path.write_text(
        '"""Module."""\n'
        "class A:\n"
        '    """Class."""\n'
        "    async def go(self):\n"
        '        """Method."""\n'
        "        def inner():\n"
        '            """Inner."""\n'
        "try:\n"
        "    if True:\n"
        "        def maybe():\n"
        '            """Maybe."""\n'
        "except ImportError:\n"
        "    def fallback():\n"
        '        """Fallback."""\n'
        "def undocumented(): pass\n"
        "def blank():\n"
        '    """   """\n'
    )

    assert docstrings_of(path) == [
        Docstring("pack.part", "Module."),
        Docstring("pack.part.A", "Class."),
        Docstring("pack.part.A.go", "Method."),
        Docstring("pack.part.A.go.inner", "Inner."),
        Docstring("pack.part.maybe", "Maybe."),
        Docstring("pack.part.fallback", "Fallback."),
    ]


def test_a_package_is_named_without_its_init_file(of_json):
    assert "json" in of_json
    assert not any("__init__" in name for name in of_json)


def test_tests_and_installed_packages_are_left_out():
    folders = {part for path in source_files() for part in path.parts}

    assert folders.isdisjoint({"site-packages", "idle_test"})
    assert not any("test" in path.parts for path in source_files())
    assert any(path.name == "argparse.py" for path in source_files())


def test_the_texts_are_many_and_differ_by_orders_of_magnitude():
    files = evenly(source_files(), 60)
    lengths = sorted(len(found.text) for path in files for found in docstrings_of(path))

    assert len(lengths) > 200
    assert lengths[-1] > 20 * statistics.median(lengths)


def test_the_tool_answers_file_by_file_and_costs_bytes():
    path = Path(json.__file__)
    tool = ReadDocstrings()

    assert tool.device == "cpu"
    assert tool.run([path, path]) == [docstrings_of(path)] * 2
    assert tool.cost(path) == path.stat().st_size


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, list(range(10))), (99, list(range(10))), (5, [0, 2, 4, 6, 8]), (3, [0, 3, 6])],
)
def test_evenly_spreads_over_the_whole(limit, expected):
    assert evenly(range(10), limit) == expected
