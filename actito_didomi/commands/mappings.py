"""The command `actito-didomi mappings`: propose which subscription stands for which choice."""

from __future__ import annotations

import json
from typing import Any

import click
from msgspec import to_builtins

from actito_didomi.commands.check import make_check
from actito_didomi.commands.options import config_option, ends_well, output_option, show_json
from actito_didomi.consent.suggesting import suggest as find_suggestions


@click.group()
def mappings() -> None:
    """Propose mappings."""


@mappings.command()
@click.option(
    "--sample",
    default=200,
    show_default=True,
    type=click.IntRange(0, 100_000),
    help="Read N consent users of Didomi at most.",
)
@config_option
@output_option
@ends_well
def suggest(sample: int, configs: tuple[str, ...], output: str) -> None:
    """Propose a mapping for each subscription that none names, by the names of both sides.

    Choices are those of Didomi's configuration tree and of some consent users. It changes nothing:
    read each proposal, and paste those that are right into `mappings`.
    """
    check = make_check("forward", sample, configs)
    subscriptions, choices, own = check.read_names()
    mapped, named = {mapping.id for mapping in own}, {mapping.value for mapping in own}
    left = [name for name in subscriptions if name not in mapped]
    found = find_suggestions(left, [name for name in choices if name not in named])
    pasted: list[Any] = [
        {name: value for name, value in to_builtins(mapping).items() if value not in (None, False)}
        for mapping in own
    ]
    pasted += [{"id": one.id, "value": one.value} for one in found]
    used = {one.value for one in found} | named
    missing = [name for name in left if name not in {one.id for one in found}]
    if output == "json":
        show_json(
            {
                "mappings": pasted,
                "suggested": [one._asdict() for one in found],
                "subscriptions_left": missing,
                "choices_left": [name for name in choices if name not in used],
            }
        )
        return
    for one in found:
        click.echo(f"{one.id} <- {one.value} ({one.similarity:.0%} similar)")
    if not found:
        click.echo("No subscription that no mapping names is similar to a choice in Didomi.")
    if missing:
        click.echo(f"Subscriptions without a proposal: {', '.join(missing)}")
    if rest := [name for name in choices if name not in used]:
        click.echo("Choices that nothing names:")
        for name in rest:
            click.echo(f"  {name}")
    if found:
        click.echo("\nAll mappings, to paste once each proposal is read:")
        click.echo(json.dumps(pasted, indent=2, ensure_ascii=False))
