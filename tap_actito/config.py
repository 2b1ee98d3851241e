"""Settings of tap-actito."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from singer_sdk import typing as th

from actito_didomi.actito.changes import COLUMNS
from actito_didomi.actito.config import (
    CALLS_PER_MINUTE,
    MAPPING_TYPE,
    TIME_ZONE,
    account_settings,
    find_account_problems,
)
from actito_didomi.consent.mapping import read_mappings
from actito_didomi.consent.reverse_mapping import reverse_mappings
from actito_didomi.errors import InvalidMappingError
from actito_didomi.plugin.base import RETRY_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SNAPSHOT = "sqlite:///actito-snapshot.db"

CONFIG = th.PropertiesList(
    *account_settings(" but for discovery, which needs `api_key` only"),
    th.Property(
        "mappings",
        MAPPING_TYPE,
        title="Mappings",
        description="The mappings of target-actito, read backwards by the stream `consent_events`: "
        "which subscription stands for which consent. An ambiguous name needs a `path`.",
    ),
    TIME_ZONE,
    CALLS_PER_MINUTE,
    th.Property(
        "change_source",
        th.StringType,
        default="api",
        allowed_values=["api", "exports"],
        title="Source of changes",
        description="Where changes of subscriptions come from: `exports` reads files of Actito's "
        "incremental export of profile changes, `api` compares the whole table with a snapshot.",
    ),
    th.Property(
        "export_root",
        th.StringType,
        title="Exports",
        description="URL of the folder that exports of profile changes arrive in: `s3://...`, "
        "`sftp://...`, `file:///...`. Required with `change_source: exports`.",
    ),
    th.Property(
        "storage_options",
        th.ObjectType(additional_properties=True),
        secret=True,
        title="Storage options",
        description="Arguments of the file system of `export_root`, as fsspec takes them.",
    ),
    th.Property(
        "export_columns",
        th.ObjectType(
            *(th.Property(name, th.StringType) for name in [*COLUMNS, "person"]),
        ),
        title="Columns",
        description="Names of the columns of that export, where they differ from "
        + ", ".join(f"`{part}`: `{column}`" for part, column in COLUMNS.items())
        + ", `person`: the key attribute.",
    ),
    th.Property(
        "export_grace",
        th.NumberType(minimum=0),
        default=60,
        title="Grace (s)",
        description="A file that changed within so many seconds may still be on its way: it is "
        "left for the next run.",
    ),
    th.Property(
        "on_bad_line",
        th.StringType,
        default="fail",
        allowed_values=["fail", "skip"],
        title="Broken lines",
        description="What to do about a broken line of an export: `fail` ends the run there, "
        "`skip` counts it, reports it and goes on.",
    ),
    th.Property(
        "snapshot_url",
        th.StringType,
        secret=True,
        title="Snapshot",
        description="Where the snapshot is kept: any URL that SQLAlchemy knows, such as "
        f"`postgresql+psycopg://...`; with `change_source: api`, `{DEFAULT_SNAPSHOT}` unless set. "
        "Where target-actito names the same address, both take note there of what they wrote or "
        "found. One snapshot a pipeline.",
    ),
    th.Property(
        "emit_initial",
        th.BooleanType,
        default=False,
        title="Emit the first look",
        description="Whether the first run, which makes the snapshot, gives all subscriptions as "
        "changes. If not, it gives none.",
    ),
    th.Property(
        "trust_update_moment",
        th.BooleanType,
        default=False,
        title="Trust updateMoment",
        description="Whether to ask Actito only for profiles whose `updateMoment` moved. Set it "
        "once you have verified that a subscription change moves it; it may not.",
    ),
    th.Property(
        "page_size",
        th.IntegerType(minimum=1, maximum=10_000),
        default=1000,
        title="Page",
        description="Profiles a call.",
    ),
    *RETRY_SETTINGS,
).to_dict()

GROUPS = [["api_key", "entity_id", "table_name", "user_unique_key"]]
"""Settings that are complete together."""


def find_problems(config: dict[str, Any]) -> list[str]:
    """Check what a JSON schema can't say; a line a problem, with what to do."""
    problems = find_account_problems(config)
    if not config.get("api_key"):
        problems.append(
            "api_key is missing: the key of an Actito API user. Set api_key, or "
            "TAP_ACTITO_API_KEY in the environment."
        )
    if config["change_source"] == "exports" and not config.get("export_root"):
        problems.append(
            "export_root is missing: with change_source exports it names the folder of the files."
        )
    if config.get("mappings"):
        try:
            reverse_mappings(read_mappings(config["mappings"]))
        except InvalidMappingError as error:
            problems.append(str(error))
    return problems


def missing_for_sync(config: Mapping[str, Any]) -> list[str]:
    """Name the settings without which nothing but discovery works."""
    return [n for n in ("entity_id", "table_name", "user_unique_key") if not config.get(n)]
