"""The command `actito-didomi explain`: what became of one person's choices, and why."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
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
from actito_didomi.consent.conflicts import to_micros
from actito_didomi.consent.identity import match_key
from actito_didomi.consent.person import Person
from actito_didomi.consent.runs import MOST_KEPT
from actito_didomi.consent.verdicts import OWED, Explainer, owes_opt_out, show_time
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.verdicts import Verdict

_OWED, _UNKNOWN = 3, 5
"""Exit statuses: an opt-out is owed; nothing is known of the person."""
_RUNS = 4 * MOST_KEPT
_PERIOD = re.compile(r"(\d+)\s*([dh])")
_MARKS = {"written": ("✓", "green"), "unchanged": ("✓", "green"), "superseded": ("·", "dim")}


@click.command()
@source_argument
@hash_option
@click.option(
    "--since",
    metavar="TIME",
    help="Only choices made or written since: 7d, 12h, or a date such as 2026-11-24.",
)
@click.option(
    "--chosen",
    metavar="TIME",
    help="What became of a choice that was made in Didomi at this time, such as "
    "2026-11-24T18:02:00Z.",
)
@config_option
@output_option
@click.pass_context
@ends_well
def explain(  # noqa: PLR0917 - click passes options by name
    ctx: click.Context,
    source: str | None,
    name: str | None,
    since: str | None,
    chosen: str | None,
    configs: tuple[str, ...],
    output: str,
) -> None:
    """Show what became of one person's choices, when and why.

    It asks for the person's key, since a key is never given on the command line; with `-` it reads
    the key from standard input. The output names the person by their hash alone.

    Exit status: 0 if nothing is wrong, 3 if an opt-out of the person is owed, 5 if nothing is known
    of the person.
    """
    from_time = None if since is None else _read_time(since, "--since")
    made_at = None if chosen is None else _read_time(chosen, "--chosen")
    text = "" if name is not None else ask_for_person(source)
    with each_pair(configs) as pairs:
        found = [
            described
            for pair in pairs
            if (described := _describe(pair, text, name, from_time, made_at)) is not None
        ]
        hashes = {name or pair.hash(match_key(text, pair.matching())): pair for pair in pairs}
        times = [pair.forgotten_at(hashed) for hashed, pair in hashes.items()]
        forgotten = show_time(max((at for at in times if at is not None), default=None))
    if output == "json":
        show_json({"known": bool(found), "pairs": found, "forgotten_at": forgotten})
    else:
        _print(found, forgotten)
    if not found:
        ctx.exit(_UNKNOWN)
    ctx.exit(_OWED if any(pair["owes_opt_out"] for pair in found) else 0)


def _read_time(text: str, option: str) -> int:
    """Return a timestamp in microseconds, from a period before now, a date or a timestamp."""
    if period := _PERIOD.fullmatch(text.strip()):
        hours = int(period[1]) * (24 if period[2] == "d" else 1)
        return to_micros(Runtime().now() - timedelta(hours=hours))
    try:
        # Python 3.10 reads no Z.
        found = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except ValueError:
        raise click.BadParameter(
            "must be 7d, 12h, a date or a timestamp.", param_hint=option
        ) from None
    return to_micros(found if found.tzinfo else found.replace(tzinfo=timezone.utc))


def _describe(
    pair: Ledger, text: str, name: str | None, from_time: int | None, made_at: int | None
) -> dict[str, Any] | None:
    """Return what is known of a person in a pair; None where nothing is."""
    matching = pair.matching()
    key = match_key(text, matching) if name is None else pair.find_hash(name)
    named = name if key is None or name is not None else pair.hash(key)
    rejects = [
        reject
        for reject in pair.list_rejects(limit=2**31)
        if reject.person and pair.hash(match_key(reject.person, matching)) == named
    ]
    person = None if key is None else pair.read([key]).get(key)
    skips = {} if key is None else pair.find_skips(key)
    if person is None and not rejects and not skips:
        return None
    verdicts: list[Verdict] = []
    if person is not None or skips:
        person = person or Person()
        explainer = Explainer(pair.rules, pair.last_runs(_RUNS), pair.mapped_fields())
        if made_at is None:
            verdicts = [*explainer.explain(person), *explainer.explain_skips(person, skips)]
        else:
            verdicts = explainer.explain_at(person, made_at)
    if from_time is not None:
        verdicts = [verdict for verdict in verdicts if _is_since(verdict, from_time)]
    return {
        "pair": pair.describe_pair(),
        "person": named,
        "owes_opt_out": owes_opt_out(verdicts) or any(reject.opt_out for reject in rejects),
        "choices": [_as_json(verdict) for verdict in verdicts],
        "rejects": [
            {
                "id": str(reject.number),
                "code": reject.code,
                "opt_out": reject.opt_out,
                "first_at": show_time(reject.details.first_at),
                "sentence": f"A record of the person could not be read ({reject.code})"
                f"{', and may hold an opt-out' if reject.opt_out else ''}: see "
                f"`actito-didomi rejects show {reject.number}`.",
            }
            for reject in rejects
        ],
    }


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "choice_path": list(verdict.path),
        "direction": verdict.direction,
        "choice": verdict.choice,
        "made_from": verdict.earliest,
        "made_by": verdict.latest,
        "place": verdict.place or None,
        "outcome": verdict.outcome,
        "written_at": verdict.written_at,
        "run": verdict.run,
        "code": verdict.code or None,
        "attempts": verdict.attempts,
        "next_at": verdict.next_at,
        "sentence": verdict.sentence,
    }


def _is_since(verdict: Verdict, from_time: int) -> bool:
    """Return whether a choice was made or written since a time, or is yet to be written."""
    since = show_time(from_time) or ""
    times = (verdict.latest, verdict.written_at)
    return verdict.outcome in OWED or any(at is not None and at >= since for at in times)


def _print(found: list[dict[str, Any]], forgotten: str | None) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow
    from rich.padding import Padding  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    if not found:
        console.print("Nothing is known of this person: no record that names them was read.")
    if forgotten is not None:
        console.print(f"The person was removed from the ledger on {forgotten} (`forget`).")
    for pair in found:
        owed = "an opt-out is owed" if pair["owes_opt_out"] else "no opt-out is owed"
        console.print(Text(f"Person {pair['person']}: {owed}."))
        path: list[str] | None = None
        for choice in pair["choices"]:
            if choice["choice_path"] != path:
                path = choice["choice_path"]
                title = " / ".join(path) or "records that don't count"
                console.print(Text(f"\n{title}", style="bold"))
            mark, style = _MARKS.get(choice["outcome"], ("✗", "red"))
            if choice["outcome"] not in OWED and mark == "✗":
                mark, style = "!", "yellow"
            line = Text(f"{mark} {choice['outcome']}: ", style=style)
            line.append(choice["sentence"], style="default")
            console.print(Padding(line, (0, 0, 0, 2)))
        for reject in pair["rejects"]:
            console.print(Text(f"✗ reject: {reject['sentence']}", style="red"))
        if not pair["choices"] and not pair["rejects"]:
            console.print("No choice of this time is known.")
