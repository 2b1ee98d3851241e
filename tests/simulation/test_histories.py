"""Histories that are written down, and what they show: without a rule, one of them fails."""

from __future__ import annotations

import pytest

from simulation.ablation import RULES, without
from simulation.explorer import Result, describe, run_seed
from simulation.histories import EXCUSED, FAILS, HISTORIES
from simulation.stories import run_story


def run(history: str | int) -> Result:
    """Run a history by its name, or the story of a seed."""
    return run_seed(history) if isinstance(history, int) else run_story(HISTORIES[history])


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    """It holds, everything in it happens, and only what stands there is excused."""
    result = run(name)
    assert result.violation is None, "\n" + describe(result)
    assert not result.plan.unmet_cues, "\n" + describe(result, everything=True)
    assert dict(result.excuses) == EXCUSED.get(name, {})


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_needed(rule: str) -> None:
    """While it is switched off, a history fails that holds otherwise."""
    history = FAILS[rule]
    with without(rule):
        result = run(history)
    assert result.violation is not None, f"{history} holds without the rule"
    assert run(history).violation is None
