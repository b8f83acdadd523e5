"""The report: a table and the answers on the screen, the timeline and the numbers as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncgpu import PoolStats, Span
from asyncgpu.integrations.perfetto import write_trace
from asyncgpu.integrations.picture import write_picture

from .check import TOLERANCE
from .search import Match

TITLE = "Every docstring of the standard library"


@dataclass(frozen=True, slots=True)
class Report:
    """What came out of one run of the demo."""

    texts: int
    distinct: int
    seconds: float
    stats: PoolStats
    worst_lag: float
    usual_lag: float
    """99 of 100 beats were less late than this."""
    longest_work: float
    """Processor time the loop's thread used at a stretch, at most."""
    questions: int
    question_seconds: float
    """The median."""
    difference: float
    """From a plain run, at most."""
    answers: Mapping[str, list[Match]]

    @property
    def equal(self) -> bool:
        return self.difference <= TOLERANCE


def print_report(report: Report, console: Console) -> None:
    """Print the table and the answers."""
    console.print(_numbers(report))
    for question, matches in report.answers.items():
        console.print(_answers(question, matches))


def write_report(folder: Path, report: Report, spans: tuple[Span, ...]) -> None:
    """Write ``timeline.html``, ``trace.json`` and ``report.json``. Blocks: call it in a thread."""
    folder.mkdir(parents=True, exist_ok=True)
    write_picture(folder / "timeline.html", spans, title=TITLE)
    write_trace(folder / "trace.json", spans)
    numbers = asdict(report) | {"equal": report.equal}
    (folder / "report.json").write_text(json.dumps(numbers, indent=2), encoding="utf-8")


def _numbers(report: Report) -> Table:
    table = Table(title=TITLE, show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column()
    for name, value in _rows(report):
        table.add_row(name, value)
    return table


def _answers(question: str, matches: Sequence[Match]) -> Table:
    table = Table(
        title=f"\n{question}", title_justify="left", show_header=False, box=None, expand=True
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="cyan", no_wrap=True, ratio=2, overflow="ellipsis")
    table.add_column(no_wrap=True, ratio=3, overflow="ellipsis")
    for match in matches:
        table.add_row(f"{match.score:.2f}", match.name, Text(match.first_line))
    return table


def _rows(report: Report) -> list[tuple[str, str]]:
    stats = report.stats
    embedders = [slot for slot in stats.slots if slot.tool == "Embed"]
    rows = [
        ("texts", f"{report.texts:,} in {report.seconds:.1f} s"),
        ("duplicates saved", f"{stats.merged:,}"),
    ]
    rows += [
        (
            f"worker on {slot.device}",
            f"{slot.items:,} texts, {slot.busy:.1f} s busy, {slot.steals} micro-batches stolen",
        )
        for slot in embedders
    ]
    if stats.makespan and stats.lower_bound:
        over = stats.makespan / stats.lower_bound
        rows.append(
            (
                "makespan / lower bound",
                f"{stats.makespan:.2f} s / {stats.lower_bound:.2f} s = {over:.3f}",
            )
        )
    rows += [
        ("questions meanwhile", f"{report.questions}, half within {report.question_seconds:.3f} s"),
        (
            "worst event-loop lag",
            f"{report.worst_lag * 1e3:.1f} ms (99 % under {report.usual_lag * 1e3:.1f} ms; the loop"
            f" itself never worked over {report.longest_work * 1e3:.1f} ms at a stretch)",
        ),
        (
            "against a plain run",
            f"{'equal' if report.equal else '[bold red]DIFFERENT[/bold red]'}"
            f" (at most {report.difference:.1e} apart)",
        ),
    ]
    return rows
