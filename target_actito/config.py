"""Settings of target-actito."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from actito_didomi.actito._wire import check_definition
from actito_didomi.actito.config import (
    REQUIRED,
    ActitoSettings,
    find_account_problems,
    missing_settings,
)
from actito_didomi.actito.imports import StatedMode
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.mapping import check_inverted, check_mappings
from actito_didomi.consent.mapping_watch import check_roots
from actito_didomi.errors import InvalidMappingError
from actito_didomi.files import MAX_COMPRESSION_RATIO
from actito_didomi.http import ClientSettings
from actito_didomi.plugin.config import (
    Connector,
    Mappings,
    MaxCompressionRatio,
    RejectsPath,
    SkipDelegates,
    StorageOptions,
    TargetSettings,
)
from actito_didomi.plugin.guards import GuardSettings
from actito_didomi.settings import setting
from target_actito.plan import Limits, WriteMode

GROUPS = [[*REQUIRED, "mappings"], ["connector"]]
"""Settings that are complete together, each list by itself."""


class BulkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings on bulk imports."""

    write_mode: Annotated[
        WriteMode,
        setting(
            "Write mode",
            "`auto` plans as few requests as it can: bulk imports for many changes, single "
            "requests for few. `single` never imports, `bulk` imports as long as the day allows.",
        ),
    ] = "auto"
    bulk_threshold: Annotated[
        int,
        setting(
            "Bulk threshold",
            "Use a bulk import for more changes than this; fewer are written by single requests.",
            advanced=True,
            ge=1,
        ),
    ] = 200
    bulk_calls_per_day: Annotated[
        int,
        setting(
            "Maximum imports per day",
            "Maximum number of bulk imports in 24 hours; those of this user on this machine are "
            "counted over all runs.",
            ge=0,
        ),
    ] = 24
    bulk_max_bytes: Annotated[
        int,
        setting(
            "Maximum file size (bytes)",
            "Maximum size of an import file in bytes, before it is zipped.",
            advanced=True,
            ge=4096,
        ),
    ] = 100_000_000
    bulk_etl_id: Annotated[
        str | None,
        setting(
            "Predefined ETL",
            "Id of an ETL that is defined in Actito and receives only the file: zipped CSV, "
            "UTF-8, `;`, columns named like attributes and subscriptions. Without it, one-shot "
            "imports are made.",
            advanced=True,
        ),
    ] = None
    bulk_etl_mode: Annotated[
        StatedMode | None,
        setting(
            "Mode of the ETL",
            "What the predefined ETL does with unknown people, where Actito does not report it.",
            advanced=True,
        ),
    ] = None
    bulk_definition: Annotated[
        dict[str, Any] | None,
        setting(
            "One-shot definition",
            "Definition of one-shot imports, instead of the built-in one. The texts "
            '`"$table"`, `"$key"`, `"$mode"` and `"$columns"` are replaced.',
            advanced=True,
        ),
    ] = None
    bulk_empty_cells: Annotated[
        Literal["unknown", "unchanged"],
        setting(
            "Empty cells",
            "`unchanged` once you have verified that an empty cell leaves a value unchanged: then "
            "all rows share one file. Otherwise a file has no empty cells.",
            advanced=True,
        ),
    ] = "unknown"
    bulk_poll_interval: Annotated[
        float,
        setting(
            "Polling interval (s)",
            "Initial polling interval for import status, in seconds; grows to 30 s.",
            advanced=True,
            gt=0,
        ),
    ] = 2
    bulk_timeout: Annotated[
        float,
        setting(
            "Import timeout (s)",
            "Maximum duration of an import, in seconds; the run fails after it.",
            advanced=True,
            gt=0,
        ),
    ] = 3600
    max_single_minutes: Annotated[
        float,
        setting(
            "Maximum time without imports (min)",
            "Maximum time that single requests may take when no import is left, in minutes; "
            "opt-outs are written in any case. Beyond it the run ends with an error, and the next "
            "one writes the rest.",
            advanced=True,
            ge=0,
        ),
    ] = 60


class _TargetSettings(TargetSettings, frozen=True, kw_only=True):
    rejects_path: RejectsPath = "actito-rejects.jsonl"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of target-actito."""

    actito: ActitoSettings
    connector: Connector = ""
    mappings: Mappings = ()
    allow_invert: Annotated[
        bool,
        setting(
            "Inverted mappings are meant",
            "Whether it is meant that more than half of the mappings are inverted. The guards then "
            "count an opt-in by the choice, rather than by what turns a field on.",
            advanced=True,
        ),
    ] = False
    mapping_check_min_people: Annotated[
        int,
        setting(
            "People of a mapping check",
            "People after whom a mapping without a value is reported within a run; at the end of "
            "a run 20 are enough where the ledger remembers them.",
            advanced=True,
            ge=1,
        ),
    ] = 200
    upsert_mode: Annotated[
        bool,
        setting(
            "Create missing profiles",
            "Whether to create a profile for a person who has none. If not, such people are "
            "counted as unmatched and nothing is created.",
        ),
    ] = False
    regulation: Annotated[
        str,
        setting(
            "Regulation",
            "Regulation whose consents are synced; records of any other are counted and skipped.",
            advanced=True,
        ),
    ] = "gdpr"
    skip_delegates: SkipDelegates = ("actito",)
    max_concurrency: Annotated[
        int,
        setting(
            "Maximum concurrent requests",
            "Maximum number of requests at the same time; Actito refuses more than 5 per licence.",
            advanced=True,
            ge=1,
            le=50,
        ),
    ] = 5
    client: ClientSettings
    bulk: BulkSettings
    storage_options: StorageOptions = {}
    batch_root: Annotated[
        str | None,
        setting(
            "Folder of BATCH files",
            "Folder, as a path or URL, that files of BATCH messages must lie in. Without it BATCH "
            "messages are refused, since a tap could name any file that `storage_options` and this "
            "machine give access to.",
            advanced=True,
        ),
    ] = None
    max_compression_ratio: MaxCompressionRatio = MAX_COMPRESSION_RATIO
    ledger: LedgerSettings
    look_timeout: Annotated[
        float,
        setting(
            "Look timeout (s)",
            "Maximum time for the look at a profile before it is written, in seconds. If it takes "
            "longer, an opt-in waits, and an opt-out is written all the same.",
            advanced=True,
            gt=0,
        ),
    ] = 10
    lookup_hours: Annotated[
        float,
        setting(
            "Lookup interval (h)",
            "Hours after which a person who had no profile is looked up again.",
            advanced=True,
            ge=0,
        ),
    ] = 24
    lookup_calls: Annotated[
        int,
        setting(
            "Maximum lookups",
            "Maximum number of people without a profile who are looked up again in a run.",
            advanced=True,
            ge=0,
        ),
    ] = 1000
    guards: GuardSettings
    target: _TargetSettings

    @property
    def limits(self) -> Limits:
        """What plans keep to; `imports_left` is what a day allows."""
        return Limits(
            mode=self.bulk.write_mode,
            threshold=self.bulk.bulk_threshold,
            calls_per_minute=self.actito.calls_per_minute,
            imports_left=self.bulk.bulk_calls_per_day,
            max_bytes=self.bulk.bulk_max_bytes,
            mixed_columns=self.bulk.bulk_empty_cells == "unchanged",
            may_create=self.upsert_mode,
            max_single_minutes=self.bulk.max_single_minutes,
        )


def find_problems(settings: Settings) -> list[str]:
    """Check settings for what a JSON schema can't say; return one line per problem."""
    missing = {name: REQUIRED[name] for name in missing_settings(settings.actito)}
    if not settings.mappings:
        missing["mappings"] = (
            'which consent goes where, such as [{"id": "Newsletter", "value": '
            '"consents_channels_email_enabled"}]'
        )
    problems = [
        f"{name} is missing: {what}. Set {name}, or TARGET_ACTITO_{name.upper()} in the "
        "environment, or paste Didomi's connector object."
        for name, what in missing.items()
    ]
    try:
        check_mappings(settings.mappings)
        check_roots(settings.mappings)
        check_inverted(settings.mappings, allowed=settings.allow_invert)
    except InvalidMappingError as error:
        problems.append(str(error))
    problems += find_account_problems(settings.actito, settings.client)
    bulk = settings.bulk
    if bulk.bulk_definition is not None and (wrong := check_definition(bulk.bulk_definition)):
        problems.append(f"bulk_definition: {wrong}.")
    if bulk.bulk_etl_id and bulk.bulk_definition:
        problems.append(
            "bulk_etl_id and bulk_definition are both set: an ETL has its own definition. Remove "
            "one of them."
        )
    return problems
