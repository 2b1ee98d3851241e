"""The command `actito-didomi runs`: when plugins ran, how they ended, and what they did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from actito_didomi.commands.options import (
    config_option,
    each_pair,
    ends_well,
    output_option,
    show_json,
)
from actito_didomi.consent.conflicts import to_micros
from actito_didomi.consent.runs import MOST_KEPT
from actito_didomi.consent.verdicts import show_time
from actito_didomi.plugin.page import render_page
from actito_didomi.plugin.summary import show_seconds, write_private
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.runs import RunRow

_TOO_OLD = 5
"""Exit status where no run has finished within the time."""
_FINISHED = frozenset({0, 3, 4})
"""Exit statuses of runs that have written all they could, and let STATE out."""
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)\s*(min|h|d)")
_SECONDS = {"min": 60, "h": 3_600, "d": 86_400}


@click.group(invoke_without_command=True)
@click.pass_context
def runs(ctx: click.Context) -> None:
    """List runs, show one, or check that one has finished lately."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_runs)


@runs.command("list")
@click.option("--limit", default=20, show_default=True, help="Show N at most of each pair.")
@config_option
@output_option
@ends_well
def list_runs(limit: int = 20, configs: tuple[str, ...] = (), output: str = "text") -> None:
    """List the last runs of all plugins, newest first, without personal data."""
    with each_pair(configs) as pairs:
        found: list[dict[str, Any]] = [
            {"pair": pair.describe_pair(), "runs": [describe_run(r) for r in pair.last_runs(limit)]}
            for pair in pairs
        ]
    if output == "json":
        show_json({"pairs": found})
        return
    from rich.console import Console  # noqa: PLC0415 - slow
    from rich.table import Table  # noqa: PLC0415

    console = Console(highlight=False)
    for pair in found:
        table = Table(box=None, pad_edge=False)
        for name in ("run", "plugin", "began (UTC)", "time", "exit", "how it ended", "counts"):
            table.add_column(name, justify="right" if name in {"run", "exit", "time"} else "left")
        for run in pair["runs"]:
            table.add_row(*_row(run))
        console.print(table if pair["runs"] else "No run is on record.")


def describe_run(run: RunRow) -> dict[str, Any]:
    """Return a run as JSON has it."""
    return {
        **msgspec.structs.asdict(run),
        "began": show_time(run.began),
        "ended": show_time(run.ended),
        "seconds": None if run.ended is None else (run.ended - run.began) / 1_000_000,
    }


def _row(run: dict[str, Any]) -> list[str]:
    status = run["exit_status"]
    return [
        str(run["number"]),
        run["plugin"],
        run["began"],
        "" if run["seconds"] is None else show_seconds(run["seconds"]),
        "" if status is None else str(status),
        run["outcome"] or "not finished: running, or killed",
        _headline(run["counts"]),
    ]


def _headline(counts: dict[str, Any]) -> str:
    """Return the counts that say most about a run."""
    names = ("records", "people", "updated", "imported", "unmatched", "rejected", "deferred")
    parts = [f"{name} {counts[name]:,}" for name in names if counts.get(name)]
    latency = counts.get("opt_out_latency") or {}
    if latency.get("count"):
        parts.append(f"opt-outs after {show_seconds(latency['median'])} (median)")
    return ", ".join(parts)


@runs.command()
@click.argument("number", metavar="RUN", type=int)
@config_option
@ends_well
def show(number: int, configs: tuple[str, ...]) -> None:
    """Show all that is recorded of one run, as JSON, without personal data."""
    with each_pair(configs, one=True) as (pair,):
        found = pair.find_run(number)
    if found is None:
        raise click.UsageError(f"There is no run {number} on record.")
    show_json(describe_run(found))


def _all(pair: Ledger) -> list[RunRow]:
    return pair.last_runs(4 * MOST_KEPT)


@runs.command()
@click.option("--out", required=True, metavar="FILE", help="HTML file to write.")
@click.option("--run", "number", type=int, metavar="RUN", help="[default: the last of a target]")
@config_option
@ends_well
def page(out: str, number: int | None, configs: tuple[str, ...]) -> None:
    """Write a page about a run of a target: what it wrote, what is owed now, and why.

    It is one HTML file without scripts or addresses. People appear as hashes only.
    """
    with each_pair(configs, one=True) as (pair,):
        if number is not None:
            found = pair.find_run(number)
        else:
            ended = (run for run in _all(pair) if run.ended is not None)
            found = next((run for run in ended if run.plugin.startswith("target-")), None)
        if found is not None and not found.plugin.startswith("target-"):
            raise click.UsageError(f"Run {number} is of {found.plugin}, which writes nothing.")
        if found is None:
            named = "finished run" if number is None else f"run {number}"
            raise click.UsageError(f"There is no {named} of a target on record.")
        text = render_page(pair, found)
    try:
        write_private(Path(out), text.encode(), Runtime())
    except OSError as error:
        raise click.ClickException(f"{out} can't be written: {error.strerror}.") from None
    click.echo(f"The page about run {found.number} of {found.plugin} is {out}.")


@runs.command()
@click.option(
    "--max-age",
    default="26h",
    show_default=True,
    metavar="TIME",
    help="A run must have finished within this time, such as 90min, 26h or 7d.",
)
@click.option(
    "--direction",
    type=click.Choice(["forward", "reverse", "both"]),
    help="Directions that must have run.  [default: those of which a run is on record]",
)
@config_option
@output_option
@click.pass_context
@ends_well
def check(
    ctx: click.Context,
    max_age: str,
    direction: str | None,
    configs: tuple[str, ...],
    output: str,
) -> None:
    """Check that a run of each direction has finished lately; for cron.

    A run has finished if its exit status is 0, 3 or 4. Exit status: 0 if one has, 5 if none has.
    """
    longest = _read_period(max_age)
    now = to_micros(Runtime().now())
    with each_pair(configs) as pairs:
        found = [line for pair in pairs for line in _check(pair, direction, longest, now)]
    is_well = bool(found) and all(line["ok"] for line in found)
    if output == "json":
        show_json({"ok": is_well, "checks": found})
    else:
        for line in found:
            click.echo(_describe_check(line, max_age))
        if not found:
            click.echo("✗ No run of a target is on record.")
    ctx.exit(0 if is_well else _TOO_OLD)


def _read_period(text: str) -> float:
    """Return a period in seconds."""
    found = _PERIOD.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter("must be a time such as 90min, 26h or 7d.", param_hint="--max-age")
    return float(found[1]) * _SECONDS[found[2]]


def _check(pair: Ledger, direction: str | None, longest: float, now: int) -> list[dict[str, Any]]:
    """Return for each direction when a run finished last, and whether that is lately enough."""
    runs_of_targets = [run for run in _all(pair) if run.plugin.startswith("target-")]
    wanted = {"forward", "reverse"} if direction == "both" else {direction}
    if direction is None:
        wanted = {run.direction for run in runs_of_targets}
    found = []
    for name in sorted(filter(None, wanted)):
        of_direction = [run for run in runs_of_targets if run.direction == name]
        ended = [run for run in of_direction if run.exit_status in _FINISHED]
        last = max((run.ended or 0 for run in ended), default=None)
        age = None if last is None else (now - last) / 1_000_000
        found.append(
            {
                "pair": pair.describe_pair(),
                "direction": name,
                "finished": show_time(last),
                "age_seconds": age,
                "last_exit_status": of_direction[0].exit_status if of_direction else None,
                "ok": age is not None and age <= longest,
            }
        )
    return found


def _describe_check(line: dict[str, Any], max_age: str) -> str:
    if line["age_seconds"] is None:
        return f"✗ {line['direction']}: no run has finished yet."
    age = show_seconds(line["age_seconds"])
    text = f"{line['direction']}: a run finished {age} ago, on {line['finished']}"
    if not line["ok"]:
        text += f"; expected within {max_age}"
    if line["last_exit_status"] not in _FINISHED:
        status = line["last_exit_status"]
        text += f"; the last one {'did not end' if status is None else f'had exit status {status}'}"
    return f"{'✓' if line['ok'] else '✗'} {text}."
