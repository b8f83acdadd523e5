"""How the documentation is built: ``nox -s docs``. Nothing is fetched while it builds."""

from __future__ import annotations

import tomllib
from pathlib import Path

from sphinx.application import Sphinx

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = _PROJECT["name"]
release = _PROJECT["version"]
author = _PROJECT["authors"][0]["name"]
project_copyright = f"2026, {author}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "asyncgpu"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# `name` in a docstring is a Python name; where it cannot be found it is set as code.
default_role = "py:obj"
# A constructor is shown only where users call it; a page says so by excluding less.
autodoc_class_signature = "separated"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "exclude-members": "__init__, __new__",
}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def setup(app: Sphinx) -> None:
    """Lead the docstrings of attributes past napoleon.

    It reads ``text: more text`` as a type and what it is for, and ours name no types.
    """
    untouched: dict[str, list[str]] = {}

    def keep(_: Sphinx, what: str, name: str, *rest: object) -> None:
        if what in {"attribute", "property"}:
            untouched[name] = list(rest[-1])

    def restore(_: Sphinx, what: str, name: str, *rest: object) -> None:
        if name in untouched:
            rest[-1][:] = untouched.pop(name)

    app.connect("autodoc-process-docstring", keep, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", restore, priority=600)
