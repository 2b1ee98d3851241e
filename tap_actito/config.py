"""Settings of tap-actito."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from actito_didomi.actito.changes import COLUMNS, MAX_CELL_BYTES
from actito_didomi.actito.config import (
    REQUIRED,
    ActitoSettings,
    find_account_problems,
    missing_settings,
)
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.mapping import check_mappings
from actito_didomi.consent.reverse_mapping import reverse_mappings
from actito_didomi.errors import InvalidMappingError
from actito_didomi.files import MAX_COMPRESSION_RATIO
from actito_didomi.http import ClientSettings
from actito_didomi.plugin.config import (
    Connector,
    Mappings,
    MaxCompressionRatio,
    OnBadLine,
    StorageOptions,
)
from actito_didomi.settings import setting

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS = [list(REQUIRED), ["connector"]]
"""Settings that are complete together."""
NEEDS_LEDGER = (
    "change_source: `api` compares the table with the ledger, and ledger_url is `none`. Set "
    "ledger_url, or read exports (change_source: `exports`, with export_root)."
)
_COLUMN_NAMES = (*COLUMNS, "person")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of tap-actito."""

    actito: ActitoSettings
    connector: Connector = ""
    mappings: Mappings = ()
    change_source: Annotated[
        Literal["api", "exports"],
        setting(
            "Source of changes",
            "Where changes of subscriptions come from: `exports` reads files of Actito's "
            "profile-change export (incremental), `api` looks at the whole table and compares it "
            "with the ledger.",
        ),
    ] = "api"
    export_root: Annotated[
        str | None,
        setting(
            "Export folder",
            "URL of the folder that profile-change exports arrive in: `s3://...`, "
            "`sftp://...`, `file:///...`. Required with `change_source: exports`.",
        ),
    ] = None
    storage_options: StorageOptions = {}
    export_columns: Annotated[
        dict[str, str],
        setting(
            "Export columns",
            "Names of the columns of the profile-change export, where they differ from "
            + ", ".join(f"`{part}`: `{column}`" for part, column in COLUMNS.items())
            + ", `person`: the key attribute.",
            advanced=True,
        ),
    ] = {}
    export_grace: Annotated[
        float,
        setting(
            "Minimum file age (s)",
            "Minimum file age, in seconds; newer files wait for the next run.",
            advanced=True,
            ge=0,
        ),
    ] = 60
    on_bad_line: OnBadLine = "fail"
    max_cell_bytes: Annotated[
        int,
        setting(
            "Maximum cell (bytes)",
            "Largest cell of an export file that is read; a line with a larger one is broken.",
            advanced=True,
            ge=1024,
        ),
    ] = MAX_CELL_BYTES
    max_compression_ratio: MaxCompressionRatio = MAX_COMPRESSION_RATIO
    trust_update_moment: Annotated[
        bool,
        setting(
            "Trust updateMoment",
            "Whether to request only profiles whose `updateMoment` changed. Set it once you have "
            "verified that a change of a subscription updates it; that is undocumented.",
            advanced=True,
        ),
    ] = False
    page_size: Annotated[
        int, setting("Page size", "Profiles per request.", advanced=True, ge=1, le=10_000)
    ] = 1000
    client: ClientSettings
    ledger: LedgerSettings


def find_problems(settings: Settings) -> list[str]:
    """Check settings for what a JSON schema can't say; return one line per problem."""
    problems = find_account_problems(settings.actito, settings.client)
    if not settings.actito.api_key:
        problems.append(
            f"api_key is missing: {REQUIRED['api_key']}. Set api_key, or TAP_ACTITO_API_KEY in the "
            "environment, or paste Didomi's connector object."
        )
    if settings.change_source == "exports" and not settings.export_root:
        problems.append(
            "export_root is missing: with change_source exports it names the folder of the files."
        )
    if unknown := sorted(set(settings.export_columns) - set(_COLUMN_NAMES)):
        problems.append(
            f"export_columns: unknown part {', '.join(unknown)}. Known: {', '.join(_COLUMN_NAMES)}."
        )
    try:
        check_mappings(settings.mappings)
        reverse_mappings(settings.mappings)
    except InvalidMappingError as error:
        problems.append(str(error))
    return problems


def missing_for_sync(settings: Settings) -> Sequence[str]:
    """Return the names of the settings that are missing for anything but discovery."""
    return [name for name in missing_settings(settings.actito) if name != "api_key"]
