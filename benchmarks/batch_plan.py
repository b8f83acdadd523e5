"""What planning costs: microseconds for each item, from a thousand items to a million.

Ten thousand tiny items, as `pool.run` gets them, are the row to watch: uniform ones must be planned
in less than 2 ms over the whole life of the plan.

A plan lives its whole life here, with a worker that answers at once and claims the seconds below:
it is built, two slots are opened, batches are taken and reported until all items have settled. The
growth column is the time for each item against that for a thousand: 1 or less means that planning
stays linear (n log n is allowed where costs are sorted).

Run it with ``python benchmarks/batch_plan.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from time import process_time

from asyncgpu.policy.dedup import merge
from asyncgpu.policy.lpt import lpt_schedule
from asyncgpu.policy.shards import BatchPlan

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
LARGEST_ONE_BY_ONE = 100_000
SECONDS_PER_ITEM = 3e-7
SECONDS_PER_MESSAGE = 1e-4


def live(costs: list[float] | None, count: int, max_batch: int | None = None) -> int:
    """Run a plan to its end; return the number of batches."""
    plan = BatchPlan(costs, count, max_batch=max_batch)
    plan.open_slot(0)
    plan.open_slot(1)
    while not plan.done:
        for slot in (0, 1):
            if batch := plan.take(slot):
                plan.succeeded(batch, SECONDS_PER_MESSAGE + SECONDS_PER_ITEM * len(batch.items))
    return plan.stats().batches


def best_of(run: Callable[[], object], rounds: int) -> float:
    """Return the shortest of a few runs, in seconds of processor time: the machine is shared."""
    times = []
    for _ in range(rounds):
        start = process_time()
        run()
        times.append(process_time() - start)
    return min(times)


def cases(count: int) -> dict[str, Callable[[], object]]:
    rng = random.Random(count)
    costs = [rng.lognormvariate(0, 1.2) for _ in range(count)]
    twins = [rng.randrange(count // 2) for _ in range(count)]
    return {
        "plan, uniform": lambda: live(None, count),
        "plan, costs": lambda: live(costs, count),
        "plan, costs, max_batch=32": lambda: live(costs, count, 32),
        "plan, uniform, max_batch=1": lambda: live(None, count, 1),
        "lpt_schedule, uniform, 2 slots": lambda: lpt_schedule([1.0] * count, [1.0, 1.0]),
        "lpt_schedule, costs, 2 slots": lambda: lpt_schedule(costs, [1.0, 1.0]),
        "lpt_schedule, costs, speeds 1 1 2 4": lambda: lpt_schedule(costs, [1.0, 1.0, 2.0, 4.0]),
        "merge, all different": lambda: merge(range(count)),
        "merge, each about twice": lambda: merge(twins),
    }


def main() -> None:
    print(f"{'':<36}{'items':>10}{'ms':>12}{'us/item':>12}{'growth':>9}")
    base: dict[str, float] = {}
    for count in COUNTS:
        rounds = max(3, min(50, 200_000 // count))
        for name, run in cases(count).items():
            if count > LARGEST_ONE_BY_ONE and name.endswith("max_batch=1"):
                continue
            seconds = best_of(run, rounds)
            each = seconds / count
            growth = each / base.setdefault(name, each)
            print(f"{name:<36}{count:>10}{seconds * 1e3:>12.3f}{each * 1e6:>12.4f}{growth:>9.2f}")


if __name__ == "__main__":
    main()
