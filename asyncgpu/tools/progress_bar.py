"""``progress=True``: a bar on standard error, drawn by rich, or by tqdm in notebooks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec

from ..errors import InvalidRequest
from .progress import Progress, ProgressCallback

__all__ = ["progress_callback"]


@contextmanager
def progress_callback(
    progress: bool | ProgressCallback | None, title: str
) -> Iterator[ProgressCallback | None]:
    """Give what a run should call: the caller's own, a bar's, or nothing.

    Raises:
        InvalidRequest: a bar is wanted, and neither rich nor tqdm is installed.
    """
    if progress is True:
        with _bar(title) as callback:
            yield callback
    else:
        yield None if progress is False else progress


def _bar(title: str) -> AbstractContextManager[ProgressCallback]:
    in_notebook = "ipykernel" in sys.modules
    if find_spec("rich") is not None and not in_notebook:
        return _rich_bar(title)
    if find_spec("tqdm") is not None:
        return _tqdm_bar(title)
    raise InvalidRequest("progress=True needs rich: pip install 'asyncgpu[progress]'")


@contextmanager
def _rich_bar(title: str) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    # No refresh thread: the bar is drawn when there is something new, in the loop's own thread.
    with Bar(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task(title, total=None, note="")

        def show(progress: Progress) -> None:
            settled = progress.done + progress.failed
            bar.update(
                task, completed=settled, total=progress.total, note=_note(progress), refresh=True
            )

        yield show


@contextmanager
def _tqdm_bar(title: str) -> Iterator[ProgressCallback]:
    from tqdm.auto import tqdm

    with tqdm(desc=title, unit="items") as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.total
            bar.n = progress.done + progress.failed
            bar.set_postfix_str(_note(progress), refresh=False)
            bar.refresh()

        yield show


def _note(progress: Progress) -> str:
    parts = []
    if progress.loading:
        parts.append(f"{progress.loading} loading")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.rate:
        parts.append(f"{progress.rate:,.0f}/s")
    if progress.eta is not None and not progress.finished:
        parts.append(f"{progress.eta:.0f} s to go")
    return " · ".join(parts)
