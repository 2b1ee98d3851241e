"""Files of facts: what they may say, and what is said of one that doesn't fit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from actito_didomi.actito._wire import FACTS, read_facts
from actito_didomi.errors import SettingsError

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "facts.md"


def read(folder: Path, content: Any) -> Any:
    """Read a file with this content."""
    path = folder / "facts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_facts(str(path))


def test_what_a_file_does_not_name_is_as_shipped(tmp_path: Path) -> None:
    """Words are compared without case."""
    assert read_facts("") is FACTS
    assert read(tmp_path, {}) == FACTS
    facts = read(tmp_path, {"profiles": {"subscribed": ["Ja"]}, "imports": {"failed": ["kaputt"]}})
    assert facts.profiles.read_state("JA") is True
    assert facts.profiles.read_state("yes") is None
    assert facts.profiles.read_state("no") is False
    assert facts.imports.is_failed({"status": "Kaputt"})
    assert facts.tables == FACTS.tables


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not valid JSON"),
        ([], r"`\$`: Expected `object`, got `array`"),
        ({"profile": {}}, r"`\$`: there is no fact `profile`; did you mean `profiles`"),
        ({"x": {}}, r"`\$`: there is no fact `x`; known are paths, statuses, tables"),
        ({"tables": {"lists": "t"}}, r"`\$\.tables\.lists`: Expected `array`, got `str`"),
        ({"tables": {"value_types": {"X": "y"}}}, r"types\[\.\.\.\]`: Invalid .* of text, whole"),
        ({"paths": {"table": "/t"}}, r"`\$\.paths`: `table` must .* placeholders of .*\{table\}"),
        ({"paths": {"table": "/{table"}}, r"`table` must"),
        ({"paths": {"entities": "e"}}, r"`entities` must begin with `/`"),
        ({"profiles": {"subscribed": ["N"]}}, "`subscribed` and `unsubscribed` both hold n"),
        ({"profiles": {"updated_since_form": ">="}}, "`updated_since_form` must hold"),
        ({"imports": {"failed": ["success"]}}, "say different things of SUCCESS"),
        ({"imports": {"update": "create_update"}}, "`update` and `create_update` must differ"),
        ({"imports": {"definition": {"t": "$table"}}}, r"`definition`: the placeholder"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, content: Any, problem: str) -> None:
    """With its path inside of the file, and what was expected."""
    with pytest.raises(SettingsError, match=problem) as found:
        read(tmp_path, content)
    assert found.value.code.number == 101
    assert str(found.value).startswith("AD101 invalid_setting: facts_path: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The message names it."""
    with pytest.raises(SettingsError, match=r"facts_path: .*nowhere\.json can't be read: No such"):
        read_facts(str(tmp_path / "nowhere.json"))


def test_the_example_of_the_reference_fits(tmp_path: Path) -> None:
    """It changes something in each group that it names."""
    (example,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    facts = read(tmp_path, example)
    for group in json.loads(example):
        assert getattr(facts, group) != getattr(FACTS, group)
