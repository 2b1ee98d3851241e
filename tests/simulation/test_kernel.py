"""The simulation itself: the same seed is the same story, step by step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from simulation.explorer import run_seed

ROOT = Path(__file__).parents[2]
SEEDS = (1, 12, 36)


def test_a_seed_is_one_story() -> None:
    for seed in SEEDS:
        assert run_seed(seed).digest == run_seed(seed).digest


def test_a_seed_is_one_story_in_another_process() -> None:
    program = (
        "from simulation.explorer import run_seed\n"
        f"print(*(run_seed(seed).digest for seed in {SEEDS}))"
    )
    found = set()
    for hash_seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        found.add(done.stdout)
    assert found == {" ".join(run_seed(seed).digest for seed in SEEDS) + "\n"}
