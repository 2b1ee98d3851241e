"""The command `actito-didomi forget`: remove a person from the ledger."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from actito_didomi.commands.options import (
    ask_for_person,
    config_option,
    each_pair,
    ends_well,
    hash_option,
    output_option,
    show_json,
    source_argument,
)
from actito_didomi.consent.identity import match_key
from actito_didomi.consent.runs import MOST_KEPT
from actito_didomi.consent.verdicts import Explainer, owes_opt_out

if TYPE_CHECKING:
    from actito_didomi.consent.ledger import Ledger

_OWED, _UNKNOWN = 3, 5
"""Exit statuses: an opt-out is owed, so nothing is removed; nothing is known of the person."""


@click.command()
@source_argument
@hash_option
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option(
    "--lose-opt-outs",
    is_flag=True,
    help="Remove the person also if an opt-out is owed, which is never written then.",
)
@config_option
@output_option
@click.pass_context
@ends_well
def forget(  # noqa: PLR0917 - click passes options by name
    ctx: click.Context,
    source: str | None,
    name: str | None,
    yes: bool,
    lose_opt_outs: bool,
    configs: tuple[str, ...],
    output: str,
) -> None:
    """Remove a person from the ledger, and leave only their hash and the date.

    It asks for the person's key; with `-` it reads the key from standard input. Delete the person
    in Actito and Didomi first: what is still there is learned again by the next run.

    Exit status: 0 if the person is removed, 3 if nothing is since an opt-out is owed, 5 if nothing
    is known of the person.
    """
    if source == "-" and not yes:
        raise click.UsageError("With `-` nothing can be asked: add --yes.")
    text = "" if name is not None else ask_for_person(source)
    with each_pair(configs) as pairs, ExitStack() as stack:
        for pair in pairs:
            stack.enter_context(pair.lease("forward", 0, holder="actito-didomi forget"))
            stack.enter_context(pair.lease("reverse", 0, holder="actito-didomi forget"))
        if not lose_opt_outs and any(_owes_opt_out(pair, text, name) for pair in pairs):
            click.echo(
                "Nothing is removed: an opt-out of this person is owed, and would never be "
                "written. See it with `actito-didomi explain`; once it is written, ask again. If "
                "the person is deleted on both sides, add --lose-opt-outs.",
                err=True,
            )
            ctx.exit(_OWED)
        if not yes:
            question = "This removes all that the ledger knows of this person. Continue?"
            click.confirm(question, abort=True, err=True)
        removed = [_erase(pair, text, name) for pair in pairs]
    if output == "json":
        show_json({"removed": removed})
    else:
        for found in removed:
            counts = ", ".join(f"{n} {what}" for what, n in found.items() if what != "pair")
            click.echo(f"Removed: {counts}.")
        click.echo(
            "Not touched: backups and copies of the ledger, the files of `rejects_path`, and "
            "lines that could not be read and name nobody (`actito-didomi rejects list`)."
        )
    if not any(sum(n for n in found.values() if isinstance(n, int)) for found in removed):
        ctx.exit(_UNKNOWN)


def _names(pair: Ledger, text: str, name: str | None) -> tuple[str | None, str]:
    """Return the key of a person, if it is known, and their hash."""
    if name is not None:
        return pair.find_hash(name), name
    key = match_key(text, pair.matching())
    return key, pair.hash(key)


def _owes_opt_out(pair: Ledger, text: str, name: str | None) -> bool:
    key, hashed = _names(pair, text, name)
    person = None if key is None else pair.read([key]).get(key)
    if person is not None:
        explainer = Explainer(pair.rules, pair.last_runs(4 * MOST_KEPT), pair.mapped_fields())
        if owes_opt_out(explainer.explain(person)):
            return True
    matching = pair.matching()
    return any(
        reject.opt_out and reject.person and pair.hash(match_key(reject.person, matching)) == hashed
        for reject in pair.list_rejects(limit=2**31)
    )


def _erase(pair: Ledger, text: str, name: str | None) -> dict[str, Any]:
    """Remove a person from a pair; return how many rows were removed of each kind."""
    key, hashed = _names(pair, text, name)
    matching = pair.matching()

    def is_same(spelling: str) -> bool:
        return pair.hash(match_key(spelling, matching)) == hashed

    return {"pair": pair.describe_pair(), **pair.erase(key or "", hashed, is_same)._asdict()}
