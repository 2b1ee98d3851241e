"""Run `python -m simulation SEED ...` to show stories, `--seeds N` to look for failing ones."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from simulation.explorer import describe, run_seed, shrink

CHUNK = 25


def run_chunk(first: int, count: int) -> tuple[int, list[int], Counter[str]]:
    """Run some seeds; return the first, those that fail, and what was excused."""
    failing, excuses = [], Counter[str]()
    for seed in range(first, first + count):
        result = run_seed(seed)
        excuses += result.excuses
        if result.violation is not None:
            failing.append(seed)
    return first, failing, excuses


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int, nargs="*", help="show the stories of these seeds")
    parser.add_argument("--all", action="store_true", help="show every step")
    parser.add_argument("--no-shrink", action="store_true", help="show failing stories as they are")
    parser.add_argument("--seeds", type=int, default=0, help="run this many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument(
        "--shown", type=int, default=3, help="failing stories to make small and show"
    )
    options = parser.parse_args()
    for seed in options.seed:
        result = run_seed(seed)
        if result.violation is not None and not options.no_shrink:
            print(f"seed {seed} fails: {result.violation}\nmade small:")
            result = shrink(result)
        print(describe(result, everything=options.all))
    return run_many(options) if options.seeds else 0


def run_many(options: argparse.Namespace) -> int:
    """Run many seeds."""
    started = time.monotonic()
    failing: list[int] = []
    excuses: Counter[str] = Counter()
    done = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        last = options.first + options.seeds
        tasks = [
            pool.submit(run_chunk, first, min(CHUNK, last - first))
            for first in range(options.first, last, CHUNK)
        ]
        for task in as_completed(tasks):
            _, found, excused = task.result()
            failing += found
            excuses += excused
            done += CHUNK
            rate = 60 * done / (time.monotonic() - started)
            sys.stderr.write(f"\r{done} seeds, {rate:.0f} per minute, {len(failing)} failing ")
    sys.stderr.write("\n")
    for why, number in sorted(excuses.items()):
        print(f"excused {number} times: {why}")
    for seed in sorted(failing)[: options.shown]:
        print()
        print(describe(shrink(run_seed(seed))))
    print(
        f"{options.seeds} seeds in {time.monotonic() - started:.0f} s; failing: {sorted(failing)}"
    )
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
