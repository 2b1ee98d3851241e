"""The command `actito-didomi`: what isn't a Singer plugin."""

from __future__ import annotations

import click

from actito_didomi.commands.check import check
from actito_didomi.commands.explain import explain
from actito_didomi.commands.forget import forget
from actito_didomi.commands.ledger import ledger
from actito_didomi.commands.mappings import mappings
from actito_didomi.commands.rejects import rejects
from actito_didomi.commands.runs import runs
from actito_didomi.commands.sandbox import sandbox


@click.group()
@click.version_option(package_name="actito-didomi")
def main() -> None:
    """Tools around the Singer plugins for Didomi and Actito."""


main.add_command(check)
main.add_command(explain)
main.add_command(forget)
main.add_command(ledger)
main.add_command(mappings)
main.add_command(rejects)
main.add_command(runs)
main.add_command(sandbox)
