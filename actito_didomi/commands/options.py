"""Options and output that commands on the ledger have in common."""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.copying import list_pairs, open_pair
from actito_didomi.errors import ActitoDidomiError, InvalidSettingsError
from actito_didomi.plugin.config import (
    normalise,
    read_config_files,
    read_environment,
    schema_of,
)
from actito_didomi.privacy import describe_exception, install, protect
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from actito_didomi.consent.ledger import Ledger

Command = TypeVar("Command", bound="Callable[..., Any]")

_PREFIXES = ("TARGET_ACTITO_", "TARGET_DIDOMI_", "TAP_ACTITO_", "TAP_DIDOMI_")
"""What the environment variables of the plugins begin with."""
_ENVIRONMENT = "ENV"
_HASH = re.compile(r"[0-9a-f]{10}")

config_option = click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="FILE|ENV",
    help="Settings of a plugin: a JSON file, or ENV for the environment variables of all four "
    "plugins and `.env`. May be repeated.  [default: ENV]",
)
output_option = click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the output.",
)


def _check_hash(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    del ctx, param
    if value is not None and not _HASH.fullmatch(value):
        raise click.BadParameter("must be 10 hexadecimal digits.")
    return value


source_argument = click.argument("source", metavar="[-]", required=False, type=click.Choice(["-"]))
hash_option = click.option(
    "--hash",
    "name",
    metavar="H",
    callback=_check_hash,
    help="The person by their hash, as logs show it.",
)


def ask_for_person(source: str | None) -> str:
    """Return the key of the person, from standard input or a prompt."""
    if source == "-":
        text = sys.stdin.readline().rstrip("\r\n")
    else:
        text = str(click.prompt("Person", err=True))
    if not text.strip():
        raise click.UsageError("No person is named: give the value of the key attribute.")
    return text


def read_ledger_settings(configs: tuple[str, ...]) -> LedgerSettings:
    """Return the settings on the ledger, as the plugins have them.

    Args:
        configs: Files, or `ENV` for the environment; the environment if there is none.

    Raises:
        InvalidSettingsError: They can't be read, contradict each other, or there is no ledger.
    """
    settings = find_ledger_settings(configs)
    if not settings.has_ledger:
        raise InvalidSettingsError(["ledger_url is `none`: there is no ledger."])
    return settings


def find_ledger_settings(configs: tuple[str, ...]) -> LedgerSettings:
    """Return the same, also where `ledger_url` is `none`."""
    schema = schema_of(LedgerSettings)
    config = read_config_files(name for name in configs if name != _ENVIRONMENT)
    if not configs or _ENVIRONMENT in configs:
        config = _of_environment(schema) | config
    known = {name: value for name, value in config.items() if name in schema["properties"]}
    try:
        settings = msgspec.convert(normalise(known, schema), LedgerSettings)
    except msgspec.ValidationError as error:
        raise InvalidSettingsError([str(error)]) from None
    protect([settings.ledger_key])
    return settings


@contextmanager
def each_pair(configs: tuple[str, ...], *, one: bool = False) -> Iterator[list[Ledger]]:
    """Open all pairs of the ledger, or the one that `ledger_scope` names.

    Args:
        configs: Where the settings are read from.
        one: Whether there must be one only, since the numbers of rejects are each pair's own.
    """
    settings = read_ledger_settings(configs)
    runtime = Runtime()
    names = list_pairs(settings, runtime)
    if settings.ledger_scope:
        names = [settings.ledger_scope]
    if one and len(names) > 1:
        raise click.UsageError(f"Set ledger_scope to one of these pairs: {', '.join(names)}.")
    pairs = [open_pair(settings, name, runtime) for name in names]
    try:
        yield pairs
    finally:
        for pair in pairs:
            pair.close()


def _of_environment(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    named: dict[str, str] = {}
    for prefix in _PREFIXES:
        for name, value in read_environment(schema, prefix).items():
            if name not in schema["properties"]:
                continue
            if name in found and found[name] != value:
                problem = (
                    f"{name}: {named[name]} and {prefix}{name.upper()} differ. Set the same for "
                    "all plugins, or name the settings of one with --config."
                )
                raise InvalidSettingsError([problem])
            found[name] = value
            named[name] = f"{prefix}{name.upper()}"
    return found


def ends_well(command: Command) -> Command:
    """Make a command end with one line for an error of this project, and exit status 1."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        logging.basicConfig(format="%(levelname)s %(message)s")
        install()
        try:
            return command(*arguments, **options)
        except InvalidSettingsError as error:
            raise click.UsageError("\n".join(error.errors)) from None
        except ActitoDidomiError as error:
            raise click.ClickException(describe_exception(error)) from None

    return run  # type: ignore[return-value]


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False))
