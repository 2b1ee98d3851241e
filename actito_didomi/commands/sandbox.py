"""The command `actito-didomi sandbox`: Actito and Didomi on this machine."""

from __future__ import annotations

import contextlib

import click


@click.command()
@click.option(
    "--port", default=8700, show_default=True, help="Port on 127.0.0.1; 0 for a free one."
)
@click.option("--database", help="SQLite file for all data.  [default: a temporary one]")
@click.option("--people", default=0, show_default=True, help="Create N people on both sides.")
@click.option("--seed", default=1, show_default=True, help="Seed of the people.")
@click.option("--exports", help="Write batch exports of the people to this folder.")
@click.option("--no-limits", is_flag=True, help="Switch Actito's limits off.")
@click.option(
    "--max-concurrency",
    default=5,
    show_default=True,
    help="Actito: concurrent requests before status 429.",
)
@click.option(
    "--calls-per-minute",
    default=100,
    show_default=True,
    help="Actito: requests before it slows down.",
)
@click.option(
    "--token-ttl", default=900.0, show_default=True, help="Actito: lifetime of a token, in s."
)
@click.option(
    "--latency", default=0.0, show_default=True, metavar="MS", help="Delay of each request, in ms."
)
@click.option(
    "--switch",
    "switches",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any switch, such as put_replaces=true; may be repeated. See docs/reference/sandbox.md.",
)
def sandbox(  # noqa: PLR0917 - click passes options by name
    port: int,
    database: str | None,
    people: int,
    seed: int,
    exports: str | None,
    no_limits: bool,
    max_concurrency: int,
    calls_per_minute: int,
    token_ttl: float,
    latency: float,
    switches: tuple[str, ...],
) -> None:
    """Serve Actito and Didomi on this machine until interrupted."""
    try:
        import msgspec  # noqa: PLC0415

        from actito_didomi.sandbox.options import SandboxOptions  # noqa: PLC0415
        from actito_didomi.sandbox.server import serve  # noqa: PLC0415
    except ImportError as error:
        raise click.ClickException(
            f"The sandbox needs its server libraries ({error.name} is missing): "
            "install the extra `sandbox` with pip install 'actito-didomi[sandbox]' (in a clone: "
            "pip install -e '.[sandbox]')."
        ) from None
    values = dict(switch.partition("=")[::2] for switch in switches)
    try:
        options = msgspec.convert(
            {
                "database": database,
                "people": people,
                "seed": seed,
                "limits": not no_limits,
                "max_concurrency": max_concurrency,
                "calls_per_minute": calls_per_minute,
                "token_ttl": token_ttl,
                "latency": latency / 1000,
                **{name: _read_value(value) for name, value in values.items()},
            },
            SandboxOptions,
        )
    except msgspec.ValidationError as error:
        raise click.BadParameter(str(error), param_hint="--switch") from None
    if unknown := set(values) - set(SandboxOptions.__dataclass_fields__):
        raise click.BadParameter(
            f"unknown: {', '.join(sorted(unknown))}. "
            f"Known: {', '.join(SandboxOptions.__dataclass_fields__)}.",
            param_hint="--switch",
        )
    try:
        with contextlib.suppress(KeyboardInterrupt):  # the usual end
            serve(options, port, exports)
    except OSError as error:
        raise click.ClickException(
            f"Port {port} can't be used: {error.strerror}. Another sandbox may be running; choose "
            "another port with --port."
        ) from None


def _read_value(text: str) -> object:
    """Read a switch's value: a number or boolean if it looks like one, else a string."""
    import msgspec  # noqa: PLC0415

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
