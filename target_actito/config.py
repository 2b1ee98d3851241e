"""Settings of target-actito: their schema, Didomi's connector object, and the checks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from singer_sdk import typing as th

from actito_didomi.actito.config import (
    CALLS_PER_MINUTE,
    MAPPING_TYPE,
    REQUIRED,
    TIME_ZONE,
    account_settings,
    base_url,
    find_account_problems,
)
from actito_didomi.actito.imports import check_definition
from actito_didomi.consent.mapping import Mapping, read_mappings
from actito_didomi.errors import InvalidMappingError
from actito_didomi.plugin.base import RETRY_SETTINGS, read_lenient_json, read_retry
from actito_didomi.plugin.config import target_settings
from target_actito.bulk import BulkSettings
from target_actito.plan import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping as MappingABC

    from actito_didomi.http import RetryPolicy

logger = logging.getLogger("target-actito")

_REQUIRED = {
    **REQUIRED,
    "mappings": 'which consent goes where, such as [{"id": "Newsletter", "value": '
    '"consents_channels_email_enabled"}]',
}

CONFIG = th.PropertiesList(
    *account_settings(", here or in the connector object"),
    th.Property(
        "mappings",
        MAPPING_TYPE,
        title="Mappings",
        description="Which consent goes to which subscription or attribute. `id` names the "
        "subscription (or, with `type: attribute`, the attribute), `value` the consent path, "
        "flattened with `_`; `invert` swaps true and false; `path` settles a name that reads two "
        "ways. Required, here or in the connector object.",
    ),
    th.Property(
        "upsert_mode",
        th.BooleanType,
        default=False,
        title="Create missing profiles",
        description="Whether a person without a profile gets one. If not, they are counted as "
        "unmatched and nothing is created.",
    ),
    th.Property(
        "regulation",
        th.StringType,
        default="gdpr",
        title="Regulation",
        description="Records of any other regulation are counted and skipped.",
    ),
    th.Property(
        "skip_delegates",
        th.ArrayType(th.StringType),
        default=["actito"],
        title="Delegates to skip",
        description="Consent events by these delegates are skipped: they came from Actito.",
    ),
    TIME_ZONE,
    CALLS_PER_MINUTE,
    th.Property(
        "max_concurrency",
        th.IntegerType(minimum=1, maximum=50),
        default=5,
        title="Calls at once",
        description="Most calls at the same time; Actito refuses more than 5 a licence.",
    ),
    *RETRY_SETTINGS,
    th.Property(
        "write_mode",
        th.StringType,
        default="auto",
        allowed_values=["auto", "single", "bulk"],
        title="Write mode",
        description="`auto` plans the fewest calls: bulk imports for many changes, single calls "
        "for few. `single` makes no import, `bulk` makes them as long as the day has any.",
    ),
    th.Property(
        "bulk_threshold",
        th.IntegerType(minimum=1),
        default=200,
        title="Worth of an import",
        description="How many single calls one import is worth; up to so many changes go singly.",
    ),
    th.Property(
        "bulk_calls_per_day",
        th.IntegerType(minimum=0),
        default=24,
        title="Imports a day",
        description="Most bulk imports in 24 hours; those of this user on this machine are counted "
        "over all runs.",
    ),
    th.Property(
        "bulk_max_bytes",
        th.IntegerType(minimum=4096),
        default=100_000_000,
        title="Largest file",
        description="Most bytes in an import file, before it is zipped.",
    ),
    th.Property(
        "bulk_etl_id",
        th.StringType,
        title="Predefined ETL",
        description="Id of an ETL defined in Actito, which is sent the file only: zipped CSV, "
        "UTF-8, `;`, columns named like attributes and subscriptions. Without it, one-shot "
        "imports are made.",
    ),
    th.Property(
        "bulk_etl_mode",
        th.StringType,
        allowed_values=["update", "create_update"],
        title="Mode of the ETL",
        description="What the predefined ETL does with unknown people, where Actito doesn't tell.",
    ),
    th.Property(
        "bulk_definition",
        th.ObjectType(additional_properties=True),
        title="One-shot definition",
        description="Definition of one-shot imports in place of the one that is shipped. The texts "
        '`"$table"`, `"$key"`, `"$mode"` and `"$columns"` are replaced.',
    ),
    th.Property(
        "bulk_empty_cells",
        th.StringType,
        default="unknown",
        allowed_values=["unknown", "unchanged"],
        title="Empty cells",
        description="`unchanged` once you have verified that an empty cell leaves a value as it "
        "is: then all rows share one file. Otherwise a file has no empty cells.",
    ),
    th.Property(
        "bulk_poll_interval",
        th.NumberType(exclusive_minimum=0),
        default=2,
        title="First look (s)",
        description="Seconds to the first look at how an import stands; later ones come further "
        "apart, up to 30 s.",
    ),
    th.Property(
        "bulk_timeout",
        th.NumberType(exclusive_minimum=0),
        default=3600,
        title="Longest import (s)",
        description="Seconds after which an import that hasn't ended is given up.",
    ),
    th.Property(
        "max_single_minutes",
        th.NumberType(minimum=0),
        default=60,
        title="Longest without imports (min)",
        description="How long single calls may take where no import is left; opt-outs go in any "
        "case. Beyond it the run ends with an error and the rest is written by the next one.",
    ),
    th.Property(
        "storage_options",
        th.ObjectType(additional_properties=True),
        secret=True,
        title="Storage options",
        description="Arguments of the file system of BATCH messages' files, as fsspec takes them.",
    ),
    th.Property(
        "snapshot_url",
        th.StringType,
        secret=True,
        title="Snapshot",
        description="Where tap-actito keeps its snapshot, if changes come back by it: the same "
        "address as there. Both take note there of what they wrote or found, so that neither "
        "writes over a newer choice of the other side.",
    ),
    *target_settings("actito-rejects.jsonl"),
    th.Property(
        "connector",
        th.StringType,
        secret=True,
        title="Didomi connector",
        description="Didomi's Actito connector object, pasted as it is (as text, or in a "
        "configuration file as an object). Settings given by their own name win.",
    ),
    th.Property(
        "type_id",
        th.StringType,
        title="Connector: type",
        description="Part of Didomi's connector object: must be `actito`.",
    ),
    th.Property(
        "authentication",
        th.ObjectType(additional_properties=True),
        secret=True,
        title="Connector: authentication",
        description="Part of Didomi's connector object: `private_api_key`.",
    ),
    th.Property(
        "properties",
        th.ObjectType(additional_properties=True),
        title="Connector: properties",
        description="Part of Didomi's connector object: `entity_id`, `table_name`, "
        "`user_unique_key`.",
    ),
    th.Property(
        "config",
        th.ObjectType(additional_properties=True),
        secret=True,
        title="Connector: older form",
        description="Part of the older connector object: `api_key` and `properties`, its mappings.",
    ),
    th.Property(
        "enable_webhooks",
        th.BooleanType,
        title="Connector: webhooks",
        description="Part of Didomi's connector object; this target needs none.",
    ),
    th.Property(
        "enable_emailing",
        th.BooleanType,
        title="Connector: mailing",
        description="Part of Didomi's connector object. This target sends no e-mail; Didomi's own "
        "mails through Actito stop when its connector is switched off.",
    ),
).to_dict()

GROUPS = [
    ["api_key", "entity_id", "table_name", "user_unique_key", "mappings"],
    ["connector"],
    ["authentication", "properties", "mappings"],
    ["config"],
]
"""Settings that are complete together, each list by itself."""


_ETL_MODES = {"update": "UPDATE_ONLY", "create_update": "CREATE_UPDATE"}


@dataclass(frozen=True)
class Settings:
    """The settings, checked and typed. Units as in their descriptions."""

    api_key: str
    base_url: str
    entity_id: str
    table_name: str
    user_unique_key: str
    mappings: tuple[Mapping, ...]
    upsert_mode: bool
    regulation: str
    skip_delegates: frozenset[str]
    zone: ZoneInfo
    calls_per_minute: int
    max_concurrency: int
    request_timeout: float
    retry: RetryPolicy
    bulk: BulkSettings
    bulk_etl_id: str | None
    bulk_etl_mode: str | None
    bulk_definition: dict[str, Any] | None
    storage_options: dict[str, Any]
    snapshot_url: str | None


def unfold_connector(config: dict[str, Any]) -> dict[str, Any]:
    """Bring Didomi's connector object, in any of its forms, to flat settings.

    Args:
        config: Settings as given; not changed.

    Returns:
        Settings in which flat names win over the connector's.
    """
    flat = {k: v for k, v in config.items() if v is not None}
    pasted = flat.pop("connector", None)
    if isinstance(pasted, str):
        pasted = read_lenient_json(pasted, "connector") if pasted.strip() else None
    for source in (flat, pasted):
        if isinstance(source, dict):
            for name, value in _from_connector(source).items():
                if value is not None:
                    flat.setdefault(name, value)
    return flat


def _from_connector(source: dict[str, Any]) -> dict[str, Any]:
    authentication = _object(source, "authentication")
    properties = _object(source, "properties")
    old = _object(source, "config")
    old_access = {**old, **_object(old, "credentials"), **_object(old, "authentication")}
    fields = ("entity_id", "table_name", "user_unique_key")
    found: dict[str, Any] = {
        name: properties.get(name, source.get(name, old_access.get(name))) for name in fields
    }
    found["api_key"] = (
        authentication.get("private_api_key")
        or authentication.get("api_key")
        or source.get("api_key")
        or old_access.get("private_api_key")
        or old_access.get("api_key")
    )
    found["mappings"] = source.get("mappings") or old.get("mappings") or _list(old, "properties")
    switches = ("upsert_mode", "enable_webhooks", "enable_emailing", "type_id")
    found |= {name: source.get(name) for name in switches}
    return found


def _object(source: dict[str, Any], name: str) -> dict[str, Any]:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _list(source: dict[str, Any], name: str) -> list[Any] | None:
    value = source.get(name)
    return value if isinstance(value, list) else None


def find_problems(config: dict[str, Any]) -> list[str]:
    """Check flat settings beyond what a JSON schema can say.

    Returns:
        A line a problem, each naming the setting and what to do.
    """
    problems = [
        f"{name} is missing: {what}. Set {name}, or TARGET_ACTITO_{name.upper()} in the "
        "environment, or paste Didomi's connector object."
        for name, what in _REQUIRED.items()
        if not config.get(name)
    ]
    if config.get("type_id") not in (None, "actito"):
        problems.append(
            f"type_id is {config['type_id']!r}: this connector object is for another system, not "
            "for Actito."
        )
    if config.get("mappings"):
        try:
            read_mappings(config["mappings"])
        except InvalidMappingError as error:
            problems.append(str(error))
    problems += find_account_problems(config)
    if config.get("bulk_definition") is not None and (
        wrong := check_definition(config["bulk_definition"])
    ):
        problems.append(f"bulk_definition: {wrong}.")
    if config.get("bulk_etl_id") and config.get("bulk_definition"):
        problems.append(
            "bulk_etl_id and bulk_definition are both set: an ETL has its own definition. Take one "
            "of them out."
        )
    return problems


def secrets_of(config: MappingABC[str, Any]) -> list[str]:
    """Collect the texts of flat settings that must never be shown."""
    return [str(config[name]) for name in ("api_key", "snapshot_url") if config.get(name)]


def announce(config: dict[str, Any]) -> None:
    """Say what a pasted connector object asks for and this target does not do."""
    if config.get("enable_emailing"):
        logger.warning(
            "enable_emailing: this plugin sends no e-mail. Didomi's own mails through Actito "
            "(log-in codes, confirmations) stop when its Actito connector is switched off: keep "
            "that connector with empty mappings, or go back to Didomi's own sender first."
        )
    if config.get("enable_webhooks"):
        logger.info("enable_webhooks: this target works without webhooks; the switch is ignored.")


def read_settings(config: dict[str, Any]) -> Settings:
    """Turn checked settings into typed ones."""
    return Settings(
        api_key=config["api_key"],
        base_url=base_url(config),
        entity_id=config["entity_id"],
        table_name=str(config["table_name"]),
        user_unique_key=config["user_unique_key"],
        mappings=tuple(read_mappings(config["mappings"])),
        upsert_mode=config["upsert_mode"],
        regulation=config["regulation"],
        skip_delegates=frozenset(config["skip_delegates"]),
        zone=ZoneInfo(config["time_zone"]),
        calls_per_minute=config["calls_per_minute"],
        max_concurrency=config["max_concurrency"],
        request_timeout=float(config["request_timeout"]),
        retry=read_retry(config),
        bulk=BulkSettings(
            limits=Limits(
                mode=config["write_mode"],
                threshold=config["bulk_threshold"],
                calls_per_minute=config["calls_per_minute"],
                imports_left=config["bulk_calls_per_day"],
                max_bytes=config["bulk_max_bytes"],
                mixed_columns=config["bulk_empty_cells"] == "unchanged",
                may_create=config["upsert_mode"],
                max_single_minutes=float(config["max_single_minutes"]),
            ),
            key=config["user_unique_key"],
            first_poll=float(config["bulk_poll_interval"]),
            timeout=float(config["bulk_timeout"]),
            longest_pause=float(config["retry_max_wait"]),
        ),
        bulk_etl_id=config.get("bulk_etl_id"),
        bulk_etl_mode=_ETL_MODES.get(config.get("bulk_etl_mode") or ""),
        bulk_definition=config.get("bulk_definition"),
        storage_options=config.get("storage_options") or {},
        snapshot_url=config.get("snapshot_url"),
    )
