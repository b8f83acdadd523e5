"""The command line: ``python -m examples.embed_stdlib``, or ``python examples/embed_stdlib``."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path

# Transformers reads this once, when it is imported: the model is on this disk, nothing is fetched.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if not __package__:
    # Started by its folder's name: go on as if by its module's.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> int:
    """Run the demo; the exit status is 1 if its vectors are not those of a plain run."""
    arguments = _parser().parse_args()

    import anyio
    import torch
    from rich.console import Console

    from examples.embed_stdlib.demo import Options, demo
    from examples.embed_stdlib.report import print_report

    # The two workers have the cores; this process only answers questions.
    torch.set_num_threads(1)
    # The imported libraries are for ever: without this, a full garbage collection walks all of
    # their objects, a third of a second in which the event loop stands still.
    gc.freeze()
    console = Console()
    options = Options(limit=arguments.limit, out=arguments.out, gpus=arguments.gpus)
    report = anyio.run(demo, options, console)
    print_report(report, console)
    console.print(f"\nTimeline: {options.out}/timeline.html, or trace.json in ui.perfetto.dev")
    if not report.equal:
        console.print("[bold red]The vectors differ from those of a plain run.[/bold red]")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embed_stdlib", description="Embed every docstring of the standard library."
    )
    parser.add_argument("--limit", type=int, help="how many texts (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="where the timeline goes"
    )
    parser.add_argument(
        "--gpus",
        default=os.environ.get("ASYNCGPU_VIRTUAL_DEVICES", "2x8GiB"),
        help="virtual GPUs to make out of the CPU, or 'real' (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
