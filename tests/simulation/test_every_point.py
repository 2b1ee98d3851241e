"""Stories that are written down, with something going wrong, or somebody acting, at every point."""

from __future__ import annotations

import pytest

from simulation.explorer import describe
from simulation.stories import STORIES, at_every_point, run_story

STEP = 31
"""Every n-th point and fault is tried here; which ones differs from story to story."""


@pytest.mark.parametrize("name", STORIES)
def test_every_point(name: str) -> None:
    first = list(STORIES).index(name) % STEP
    for place, decision, result in at_every_point(STORIES[name], step=STEP, first=first):
        assert result.violation is None, f"\n{place}: {decision}\n{describe(result)}"


@pytest.mark.parametrize("name", STORIES)
def test_nothing_goes_wrong(name: str) -> None:
    result = run_story(STORIES[name])
    assert result.violation is None, "\n" + describe(result)
