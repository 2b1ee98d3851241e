"""Every command and option is documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from actito_didomi.commands import main

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"


def commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Return all commands with their whole names."""
    for part, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}{part} ")
        else:
            yield name + part, command


def sections() -> dict[str, str]:
    """Return the parts of the page by their headings; the first one by the empty text."""
    first, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {part.partition("\n")[0]: part for part in parts}
    return {"": first, **found}


@pytest.mark.parametrize(("name", "command"), list(commands(main)))
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    found = sections()
    assert f"`{name}`" in found[""]
    if name == "sandbox":
        return  # has a page of its own
    for parameter in command.params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("--"):
                assert f"`{option}" in found[name] + found[""], option
