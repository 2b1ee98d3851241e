"""The command `actito-didomi check`: whether settings fit Actito and Didomi."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from singer_sdk.typing import DEFAULT_JSONSCHEMA_VALIDATOR

from actito_didomi.codes import LEDGER_MISSING, NO_LEDGER
from actito_didomi.commands.options import (
    config_option,
    ends_well,
    find_ledger_settings,
    output_option,
    show_json,
)
from actito_didomi.consent.copying import list_pairs
from actito_didomi.errors import ActitoDidomiError, InvalidSettingsError
from actito_didomi.plugin.checking import ActitoSide, Check, DidomiSide, Step
from actito_didomi.plugin.config import (
    find_invalid,
    normalise,
    read_config_files,
    read_environment,
    read_settings,
    schema_of,
    secret_texts,
)
from actito_didomi.plugin.connector import unfold_connector
from actito_didomi.privacy import protect
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actito_didomi.consent.leases import Direction

Side = TypeVar("Side", bound=msgspec.Struct)

_MISTAKES = 5
"""Exit status where there are mistakes."""
_MARKS = {"ok": "✓", "warning": "!", "mistake": "✗", "not_checked": "-"}
_OF_DIDOMI = frozenset({"organization_id", "api_secret"})
_OF_ACTITO = frozenset(
    {"entity_id", "table_name", "user_unique_key", "connector", "authentication", "mappings"}
)
_PREFIXES: dict[str, dict[Direction, tuple[str, str]]] = {
    "actito": {
        "forward": ("TAP_ACTITO_", "TARGET_ACTITO_"),
        "reverse": ("TARGET_ACTITO_", "TAP_ACTITO_"),
    },
    "didomi": {
        "forward": ("TARGET_DIDOMI_", "TAP_DIDOMI_"),
        "reverse": ("TAP_DIDOMI_", "TARGET_DIDOMI_"),
    },
}
"""What environment variables of each side begin with; those of the second win."""


@click.command()
@click.option(
    "--direction",
    type=click.Choice(["forward", "reverse", "both"]),
    default="forward",
    show_default=True,
    help="Check the settings of the forward sync (Didomi to Actito), of the reverse sync, or both.",
)
@click.option(
    "--sample",
    default=1000,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="Read N consent users of Didomi at most.",
)
@click.option("--offline", is_flag=True, help="Check what can be checked without a request.")
@config_option
@output_option
@click.pass_context
@ends_well
def check(  # noqa: PLR0917 - click passes options by name
    ctx: click.Context,
    direction: str,
    sample: int,
    offline: bool,
    configs: tuple[str, ...],
    output: str,
) -> None:
    """Check settings, rights and mappings against Actito and Didomi; nothing is written.

    What can't be checked since settings of the other side are missing is listed. Exit status: 0 if
    no mistake was found, 5 if one was.
    """
    directions: tuple[Direction, ...] = ("forward", "reverse")
    if direction != "both":
        directions = ("forward",) if direction == "forward" else ("reverse",)
    found: list[tuple[Direction, Step]] = []
    for one in directions:
        if output == "text" and len(directions) > 1:
            click.echo(f"{one} sync")
        for step in _steps(one, sample, configs, offline=offline):
            found.append((one, step))
            if output == "text":
                _print(step)
    mistakes = sum(step.state == "mistake" for _, step in found)
    if output == "json":
        steps = [{"direction": one, **vars(step)} for one, step in found]
        show_json({"ready": not mistakes, "mistakes": mistakes, "steps": steps})
    elif mistakes:
        click.echo(f"{mistakes} mistake{'' if mistakes == 1 else 's'} found.")
    else:
        click.echo("Ready.")
    ctx.exit(_MISTAKES if mistakes else 0)


def _print(step: Step) -> None:
    code = f" [{step.code}]" if step.code else ""
    click.echo(f"{_MARKS[step.state]} {step.name}{code}: {step.text} ({step.seconds:.1f} s)")


def _steps(
    direction: Direction, sample: int, configs: tuple[str, ...], *, offline: bool
) -> Iterator[Step]:
    sides: dict[str, Any] = {"actito": None, "didomi": None}
    for name, declared in (("actito", ActitoSide), ("didomi", DidomiSide)):
        step = Step(f"settings of {name.capitalize()}", text="can be read")
        try:
            sides[name] = _read_side(name, declared, direction, configs)
        except InvalidSettingsError as error:
            step.state, step.text, step.code = "mistake", " ".join(error.errors), error.code.name
        if sides[name] is None and step.state == "ok":
            step.state, step.text = "not_checked", "none are set"
        yield step
    runtime = Runtime()
    yield from Check(
        sides["actito"],
        sides["didomi"],
        direction=direction,
        sample=sample,
        offline=offline,
        runtime=runtime,
    ).steps()
    yield _check_ledger(configs, runtime)


def make_check(direction: Direction, sample: int, configs: tuple[str, ...]) -> Check:
    """Return a check of all settings.

    Raises:
        InvalidSettingsError: Settings can't be read.
    """
    return Check(
        _read_side("actito", ActitoSide, direction, configs),
        _read_side("didomi", DidomiSide, direction, configs),
        direction=direction,
        sample=sample,
        offline=False,
        runtime=Runtime(),
    )


def _read_side(
    name: str, declared: type[Side], direction: Direction, configs: tuple[str, ...]
) -> Side | None:
    """Return the settings of a side; None where none are set.

    A file that `--config` names belongs to the side whose settings it holds.

    Raises:
        InvalidSettingsError: They can't be read.
    """
    schema = schema_of(declared)
    known = schema["properties"]
    config: dict[str, Any] = {}
    if not configs or "ENV" in configs:
        for prefix in _PREFIXES[name][direction]:
            config |= read_environment(schema, prefix)
    for file in configs:
        if file == "ENV":
            continue
        given = read_config_files([file])
        is_of_didomi = bool(_OF_DIDOMI & set(given)) and not _OF_ACTITO & set(given)
        if is_of_didomi is (name == "didomi"):
            config |= given
    problems: list[str] = []
    if name == "actito":
        config, problems = unfold_connector(config, known)
    config = {key: value for key, value in normalise(config, schema).items() if key in known}
    if not any(config.get(key) for key in ("api_key", "connector", "mappings", "entity_id")):
        return None
    protect(secret_texts(config, schema))
    invalid = DEFAULT_JSONSCHEMA_VALIDATOR(schema).iter_errors(config)
    problems += find_invalid(config, invalid, schema, _PREFIXES[name][direction][1])
    if problems:
        raise InvalidSettingsError(problems, schema)
    return read_settings(declared, config)


def _check_ledger(configs: tuple[str, ...], runtime: Runtime) -> Step:
    """Return whether the ledger can be used; none is made."""
    step = Step("ledger")
    try:
        settings = find_ledger_settings(configs)
        if not settings.has_ledger:
            step.state, step.code = "warning", NO_LEDGER.name
            step.text = "ledger_url is `none`: nothing is remembered from run to run"
            return step
        pairs = list_pairs(settings, runtime)
        step.text = f"can be read, {len(pairs)} pair{'' if len(pairs) == 1 else 's'}"
    except InvalidSettingsError as error:
        step.state, step.text, step.code = "mistake", " ".join(error.errors), error.code.name
    except ActitoDidomiError as error:
        if error.code is LEDGER_MISSING:
            step.text = "there is none yet: the first run makes it"
        else:
            step.state, step.text, step.code = "mistake", error.message, error.code.name
    return step
