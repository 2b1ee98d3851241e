"""Histories that are written down, and what they show: without a rule, one of them fails."""

from __future__ import annotations

import pytest

from simulation.ablation import RULES, without
from simulation.explorer import describe
from simulation.histories import EXCUSED, FAILS, HISTORIES
from simulation.stories import run_story


@pytest.mark.parametrize("name", HISTORIES)
def test_history(name: str) -> None:
    """It holds, everything in it happens, and only what stands there is excused."""
    result = run_story(HISTORIES[name])
    assert result.violation is None, "\n" + describe(result)
    assert not result.plan.unmet_cues, "\n" + describe(result, everything=True)
    assert dict(result.excuses) == EXCUSED.get(name, {})


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_needed(rule: str) -> None:
    """While it is switched off, a history fails that holds otherwise."""
    history = FAILS[rule]
    with without(rule):
        result = run_story(HISTORIES[history])
    assert result.violation is not None, f"{history} holds without the rule"
    assert run_story(HISTORIES[history]).violation is None
