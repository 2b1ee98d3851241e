"""The command `actito-didomi rejects`: what could not be read or written, and is owed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click
import msgspec

from actito_didomi.commands.options import (
    config_option,
    each_pair,
    ends_well,
    output_option,
    show_json,
)
from actito_didomi.consent.conflicts import END, OPT_OUT, to_datetime, to_micros
from actito_didomi.consent.entries import winner
from actito_didomi.consent.identity import match_key
from actito_didomi.consent.person import Owed
from actito_didomi.consent.rejects import REJECT_STATES
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.person import Person
    from actito_didomi.consent.rejects import StoredReject

_HASH_DIGITS = 10
_OPT_OUTS = Owed.OPT_OUT_ACTITO | Owed.OPT_OUT_DIDOMI
_WAITS = {
    Owed.NO_PROFILE: "no_profile",
    Owed.NO_USER: "no_user",
    Owed.DEFERRED: "deferred",
    Owed.IN_IMPORT: "in_import",
}
"""Why something waits that nobody refused."""
_OWED = Owed.ACTITO | Owed.DIDOMI | Owed.DEFERRED


@click.group()
def rejects() -> None:
    """List, retry, dismiss or export what could not be written."""


def _summarise(reject: StoredReject, pair: Ledger) -> dict[str, Any]:
    """Return a reject without personal data."""
    return {
        "id": str(reject.number),
        "state": reject.state,
        "code": reject.code,
        "opt_out": reject.opt_out,
        "person": pair.hash(match_key(reject.person, pair.matching())) if reject.person else None,
        "attempts": reject.details.attempts,
        "first_at": _time(reject.details.first_at),
        "next_at": _next(reject.due),
        "waits_for_retry": reject.state == "open" and reject.due >= END,
    }


def _summarise_person(key: str, person: Person, pair: Ledger) -> dict[str, Any]:
    """Return what is owed to a person, without personal data."""
    refused = [retry.name for retry in person.retries.values()]
    waits = [name for flag, name in _WAITS.items() if person.owed & flag]
    return {
        "id": pair.hash(key),
        "state": "open",
        "code": ", ".join(refused or waits) or "not_yet_written",
        "opt_out": bool(person.owed & _OPT_OUTS),
        "person": pair.hash(key),
        "attempts": max((retry.attempts for retry in person.retries.values()), default=0),
        "first_at": _time(min((r.first_at for r in person.retries.values()), default=0)),
        "next_at": _next(max((r.next_at for r in person.retries.values()), default=0)),
        "waits_for_retry": False,
    }


def _next(micros: int) -> str | None:
    """Return when something is attempted again; None at the next run, or after `retry` only."""
    return _time(micros) if micros > to_micros(Runtime().now()) else None


def _time(micros: int) -> str | None:
    return to_datetime(micros).isoformat(timespec="seconds") if 0 < micros < END else None


def _owed(pair: Ledger, *, opt_outs_only: bool = False) -> Iterator[tuple[str, Person]]:
    """Read the people to whom something is owed, in parts."""
    after = None
    while found := pair.owed(_OWED, after=after, opt_outs_only=opt_outs_only):
        yield from found
        after = found[-1][0]


@rejects.command("list")
@click.option("--open/--all", "only_open", default=True, help="Only those to be settled.")
@click.option("--code", help="Only those with the code of this name.")
@click.option("--opt-outs", is_flag=True, help="Only those that hold an opt-out, or may.")
@click.option("--limit", default=100, show_default=True, help="Show N at most.")
@config_option
@output_option
@ends_well
def list_rejects(  # noqa: PLR0917 - click passes options by name
    only_open: bool,
    code: str | None,
    opt_outs: bool,
    limit: int,
    configs: tuple[str, ...],
    output: str,
) -> None:
    """List rejects and owed changes, people by their hash.

    The id of a reject is a number, that of an owed change the hash of its person, as in logs.
    """
    found: list[dict[str, Any]] = []
    with each_pair(configs) as pairs:
        for pair in pairs:
            states = ("open",) if only_open else REJECT_STATES
            stored = pair.list_rejects(states, code=code, opt_outs_only=opt_outs, limit=limit + 1)
            found += [_summarise(reject, pair) for reject in stored]
            for key, person in _owed(pair, opt_outs_only=opt_outs):
                line = _summarise_person(key, person, pair)
                if code is None or code in line["code"].split(", "):
                    found.append(line)
                if len(found) > limit:
                    break
    if output == "json":
        show_json(found[:limit])
        return
    for line in found[:limit]:
        opt_out = "opt-out" if line["opt_out"] else ""
        attempt = f"next {line['next_at'] or 'with the next run'}"
        if line["waits_for_retry"]:
            attempt = "next after `rejects retry`"
        click.echo(
            f"{line['id']:>10}  {line['state']:<10}  {line['code']:<24}  {opt_out:<7}  "
            f"{line['attempts']} attempt(s), {attempt}"
        )
    if len(found) > limit:
        click.echo(f"... and more: see --limit, or `rejects export`. Shown: {limit}.")
    if not found:
        click.echo("Nothing is rejected or owed.")


@rejects.command()
@click.argument("reject_id", metavar="ID")
@click.option("--yes", is_flag=True, help="Show personal data without asking.")
@config_option
@ends_well
def show(reject_id: str, yes: bool, configs: tuple[str, ...]) -> None:
    """Show all that is known of a reject or owed change; it asks first: personal data."""
    with each_pair(configs, one=reject_id.isdecimal()) as pairs:
        found = next(filter(None, (_find(pair, reject_id) for pair in pairs)), None)
    if found is None:
        raise click.UsageError(f"There is no reject or owed change {reject_id}.")
    if not yes:
        click.confirm("This shows personal data. Continue?", abort=True, err=True)
    show_json(found)


def _find(pair: Ledger, reject_id: str) -> dict[str, Any] | None:
    if len(reject_id) == _HASH_DIGITS:
        for key, person in _owed(pair):
            if pair.hash(key) == reject_id:
                return _describe_person(key, person, pair)
        return None
    if not reject_id.isdecimal() or (reject := pair.get_reject(int(reject_id))) is None:
        return None
    return _describe(reject, pair)


def _describe(reject: StoredReject, pair: Ledger) -> dict[str, Any]:
    """Return a reject with personal data."""
    details = msgspec.structs.asdict(reject.details)
    details["raw"] = reject.details.raw.decode("utf-8", "backslashreplace")
    del details["first_at"], details["attempts"]
    return {**_summarise(reject, pair), "key": reject.person, **details}


def _describe_person(key: str, person: Person, pair: Ledger) -> dict[str, Any]:
    """Return what is owed to a person, with personal data."""
    choices = []
    for path, entry in sorted(person.entries.items()):
        best = winner(entry, pair.rules)
        if best is not None:
            choices.append(
                {
                    "path": list(path),
                    "choice": "opt-out" if best.value is OPT_OUT else "opt-in",
                    "made_in": best.side,
                    "made_by": _time(best.latest),
                }
            )
    return {
        **_summarise_person(key, person, pair),
        "key": key,
        "owed_to": [
            side
            for side, flag in (("actito", Owed.ACTITO), ("didomi", Owed.DIDOMI))
            if person.owed & flag
        ],
        "refusals": {side: r.detail for side, r in person.retries.items()},
        "choices": choices,
    }


@rejects.command()
@click.argument("reject_ids", metavar="[ID]...", nargs=-1)
@click.option("--code", help="All with the code of this name.")
@click.option("--all", "everything", is_flag=True, help="All.")
@click.option("--dry-run", is_flag=True, help="Only show how many there are.")
@config_option
@ends_well
def retry(
    reject_ids: tuple[str, ...],
    code: str | None,
    everything: bool,
    dry_run: bool,
    configs: tuple[str, ...],
) -> None:
    """Make rejects and owed changes due at once: the next run attempts them again."""
    if not reject_ids and code is None and not everything:
        raise click.UsageError("Name ids, --code, or --all.")
    stored = people = 0
    with each_pair(configs, one=any(map(str.isdecimal, reject_ids))) as pairs:
        for pair in pairs:
            numbers = [
                reject.number
                for reject in pair.list_rejects(code=code, limit=2**31)
                if not reject_ids or str(reject.number) in reject_ids
            ]
            keys = [
                key
                for key, person in _owed(pair)
                if any(code in {None, retry.name} for retry in person.retries.values())
                and (not reject_ids or pair.hash(key) in reject_ids)
            ]
            stored += len(numbers) if dry_run else pair.retry_rejects(numbers)
            people += len(keys) if dry_run else pair.retry_people(keys, code=code)
    verb = "would be" if dry_run else "are"
    click.echo(f"{stored} reject(s) and owed changes of {people} people {verb} due.")


@rejects.command()
@click.argument("reject_id", metavar="ID")
@click.option("--because", required=True, metavar="TEXT", help="Why; it is kept.")
@config_option
@ends_well
def dismiss(reject_id: str, because: str, configs: tuple[str, ...]) -> None:
    """Settle a reject without writing it."""
    if len(reject_id) == _HASH_DIGITS or not reject_id.isdecimal():
        raise click.UsageError(
            "Only rejects, whose ids are short numbers, can be dismissed: what is owed to a person "
            "ends when it is written, or when the person makes another choice."
        )
    with each_pair(configs, one=True) as (pair,):
        is_done = pair.set_reject_state(int(reject_id), "dismissed", because=because)
    if not is_done:
        raise click.UsageError(f"There is no reject {reject_id}.")
    click.echo(f"Reject {reject_id} is dismissed.")


@rejects.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--open/--all", "only_open", default=True, help="Only those to be settled.")
@config_option
@ends_well
def export(file: str, only_open: bool, configs: tuple[str, ...]) -> None:
    """Write rejects and owed changes to a new file, as JSON Lines; it holds personal data.

    Only its owner can read the file.
    """
    count = 0
    with each_pair(configs) as pairs, _new_private_file(file) as target:
        for pair in pairs:
            states = ("open",) if only_open else REJECT_STATES
            for reject in pair.list_rejects(states, limit=2**31):
                target.write(msgspec.json.encode(_describe(reject, pair)) + b"\n")
                count += 1
            for key, person in _owed(pair):
                target.write(msgspec.json.encode(_describe_person(key, person, pair)) + b"\n")
                count += 1
    click.echo(f"{count} written to {file}.")


@contextmanager
def _new_private_file(file: str) -> Iterator[IO[bytes]]:
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise click.ClickException(f"{file} can't be written: {error.strerror}.") from None
    with os.fdopen(handle, "wb") as target:
        yield target
