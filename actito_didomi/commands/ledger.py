"""The command `actito-didomi ledger`: what the consent ledger holds, and copies of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec
from sqlalchemy.engine import make_url

from actito_didomi.commands.options import (
    config_option,
    ends_well,
    output_option,
    read_ledger_settings,
    show_json,
)
from actito_didomi.consent.conflicts import to_datetime
from actito_didomi.consent.copying import copy_ledger, list_pairs, open_pair
from actito_didomi.consent.person import Owed
from actito_didomi.consent.store import sqlite_path
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from actito_didomi.consent.config import LedgerSettings


@click.group()
def ledger() -> None:
    """Show the consent ledger, or copy it to another database."""


@ledger.command()
@config_option
@output_option
@ends_well
def info(configs: tuple[str, ...], output: str) -> None:
    """Show what the ledger holds and what is owed, without personal data."""
    found = describe_ledger(read_ledger_settings(configs))
    if output == "json":
        show_json(found)
        return
    for name, value in found.items():
        if name != "pairs":
            click.echo(f"{name}: {value}")
    for pair in found["pairs"]:
        click.echo("")
        for name, value in pair.items():
            if name != "last_runs" and (name != "pair" or value):
                click.echo(f"{name}: {_line(value)}")
        for run in pair["last_runs"]:
            click.echo(_describe_run(run))


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items()) or "nothing"
    if isinstance(value, list):
        return "; ".join(map(_line, value)) or "none"
    return "unknown" if value in {None, ""} else str(value)


def _describe_run(run: dict[str, Any]) -> str:
    """Return a run in one line, with the counts that aren't 0."""
    named = f"run {run['number']}: {run['plugin']}, {run['began']}"
    if run["ended"] is None:
        return f"{named}, not finished ({run['process']})"
    counts = [
        f"{name}: {_line(value)}" if isinstance(value, dict) else f"{name} {value}"
        for name, value in run["counts"].items()
        if value and isinstance(value, (int, float, dict))
    ]
    ended = f"{named} to {run['ended']}, exit {run['exit_status']} ({run['outcome']})"
    return "; ".join(filter(None, [ended, ", ".join(counts)]))


def describe_ledger(settings: LedgerSettings) -> dict[str, Any]:
    """Return what a ledger holds, as JSON has it.

    Raises:
        SettingsError: There is no ledger, or it can't be used.
    """
    runtime = Runtime()
    path = sqlite_path(settings.ledger_url)
    names = list_pairs(settings, runtime)
    pairs: list[dict[str, Any]] = []
    described: dict[str, Any] = {
        "database": str(path) if path else make_url(settings.ledger_url).render_as_string(),
    }
    for name in names:
        pair = open_pair(settings, name, runtime)
        try:
            described |= pair.describe_database()
            owed = pair.count_owed()
            rejects = pair.count_rejects()
            look = pair.last_look()
            pairs.append(
                {
                    "pair": name,
                    **pair.describe_pair(),
                    "people": pair.count_people(),
                    "owed": {
                        (flag.name or "").lower(): count
                        for flag in Owed
                        if flag and (count := owed.having(flag))
                    },
                    "rejects": {code: n for (code, _), n in sorted(rejects.items())},
                    "rejects_with_opt_outs": sum(n for (_, out), n in rejects.items() if out),
                    "open_imports": [
                        {"number": row.number, "state": row.state, "execution": row.execution}
                        for row in pair.open_imports()
                    ],
                    "last_look": to_datetime(look.began).isoformat() if look else None,
                    "last_runs": [
                        {
                            **msgspec.structs.asdict(run),
                            "began": _time(run.began),
                            "ended": _time(run.ended),
                        }
                        for run in pair.last_runs()
                    ],
                }
            )
        finally:
            pair.close()
    described["pairs"] = pairs
    return described


def _time(micros: int | None) -> str | None:
    return None if micros is None else to_datetime(micros).isoformat(timespec="seconds")


@ledger.command()
@click.option(
    "--to",
    "url",
    required=True,
    metavar="URL",
    help="Database to copy the ledger to, as a URL of SQLAlchemy; it must hold no ledger. A "
    "password in it is visible to others on this machine: use a service file or PGPASSWORD.",
)
@config_option
@ends_well
def copy(url: str, configs: tuple[str, ...]) -> None:
    """Copy the ledger to another database, with its id, while no run writes.

    Afterwards set `ledger_url` in all plugins; for PostgreSQL also `ledger_key`, to the content of
    the file next to the SQLite ledger that ends with `.key`.
    """
    settings = read_ledger_settings(configs)

    def report(table: str, rows: int) -> None:
        click.echo(f"{table}: {rows} rows")

    copy_ledger(settings, url, Runtime(), report)
    click.echo("Copied. Set ledger_url in all plugins before the next run.")
