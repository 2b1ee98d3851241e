"""Stories, each drawn from a seed: whatever happens, no opt-out is lost."""

from __future__ import annotations

import os

import pytest

from simulation.explorer import describe, run_seed, shrink

CHUNK = 25
SEEDS = int(os.environ.get("SIMULATED_SEEDS", "1000"))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_seeds(first: int) -> None:
    for seed in range(first, first + CHUNK):
        result = run_seed(seed)
        assert result.violation is None, "\n" + describe(shrink(result))
