"""Seeds that have once shown a fault, each with what it was."""

from __future__ import annotations

import pytest

from simulation.explorer import describe, run_seed

FOUND = {
    4: "an opt-out did not reach a Didomi user who had said nothing of that choice",
    37: "rows of an export seemed older than the first look, by a clock that was wrong",
    71: "an opt-in in Actito won over a newer opt-out in Didomi, by a clock that was wrong",
    572: "a fresh opt-out in Didomi seemed to come from the future",
    729: "an opt-out counted as owed for good, though a newer opt-in had ended that",
    1187: "an opt-out in Actito while an import wrote the same was taken for ours",
    871: "our event counted from its arrival in Didomi, not from its creation, as Didomi has it",
    1127: "an opt-in in Actito left no trace: changed and changed back between two looks",
    1359: "our event in Didomi was dated in the future, and hid an opt-out in Didomi itself",
    1251: "changed and changed back between two looks, before an import",
    1618: "an opt-in within the tolerance of the look that showed an opt-out of before",
    1897: "an opt-out that a status of Didomi showed before",
    1945: "our event counted from its arrival in Didomi, in one choice of two",
    2684: "a status that may be newer, since another choice was made again",
    3365: "a look whose response never came shows nothing",
    2035: "an opt-in in Actito gives way to a status that may be newer",
    6003: "an opt-out in Actito while an import was under way that wrote the same",
    4678: "a row made a field doubtful, and nobody looked at it again",
    5164: "an opt-out whose row comes later: changed and changed back since the last row",
    5422: "of two rows a field held a doubtful opt-out; a newer one was taken for it",
    5526: "our event in Didomi was dated in the future, and hid an opt-out of that second",
}


@pytest.mark.parametrize("seed", FOUND, ids=str)
def test_found(seed: int) -> None:
    result = run_seed(seed)
    assert result.violation is None, f"{FOUND[seed]}\n{describe(result)}"
