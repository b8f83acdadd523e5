"""The progress bar: workers that load, items that are done, and the answers above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from asyncgpu import Progress


@contextmanager
def progress_bar(title: str, console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show a bar; yields what a pool calls with its progress."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[dim]{task.fields[note]}"),
        TimeElapsedColumn(),
    )
    # Drawn when the pool has news, ten times a second at most; no thread of its own.
    with RichProgress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task(title, total=None, note="")

        def show(progress: Progress) -> None:
            bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                note=_note(progress),
                refresh=True,
            )

        yield show


def _note(progress: Progress) -> str:
    if progress.loading:
        return f"{progress.loading} workers loading"
    if progress.eta is None or progress.finished:
        return ""
    return f"{progress.rate:,.0f} texts/s, {progress.eta:.0f} s to go"
