"""The tap: its streams, and what they share."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from actito_didomi import codes
from actito_didomi.actito import TableStructure, ValueType, open_session, read_table
from actito_didomi.actito.config import base_url
from actito_didomi.actito.table import find_only_table
from actito_didomi.consent.mapping import read_mappings
from actito_didomi.consent.reverse_mapping import ReverseMapping, reverse_mappings
from actito_didomi.errors import SettingsError
from actito_didomi.plugin.base import read_retry
from actito_didomi.plugin.tap import BaseTap, texts_of
from tap_actito import config as settings
from tap_actito.streams import ConsentEvents, Profiles, SubscriptionChanges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from singer_sdk import Stream

    from actito_didomi.http import ApiSession


class TapActito(BaseTap):
    """Singer tap for Actito: profiles, changes of subscriptions, and these as consent events."""

    name = "tap-actito"
    package_name = "actito-didomi"
    config_jsonschema = settings.CONFIG

    def discover_streams(self) -> list[Stream]:
        """List the streams."""
        return [Profiles(self), SubscriptionChanges(self), ConsentEvents(self)]

    @cached_property
    def zone(self) -> ZoneInfo:
        """Time zone of timestamps in Actito."""
        return ZoneInfo(self.config["time_zone"])

    @cached_property
    def session(self) -> ApiSession:
        """The session with Actito."""
        return open_session(
            self.config["api_key"],
            base_url=base_url(self.config),
            calls_per_minute=self.config["calls_per_minute"],
            max_concurrency=1,
            timeout=float(self.config["request_timeout"]),
            retry=read_retry(self.config),
            stop=self.shutdown.requested,
            runtime=self.runtime,
        )

    @cached_property
    def structure(self) -> TableStructure:
        """Structure of the profile table.

        For discovery the key is enough, where it sees one table only.
        """
        if settings.missing_for_sync(self.config):
            return find_only_table(
                self.session, self.config.get("entity_id"), self.config.get("table_name")
            )
        return read_table(
            self.session,
            self.config["entity_id"],
            str(self.config["table_name"]),
            self.config["user_unique_key"],
        )

    @property
    def account(self) -> list[str]:
        """What tells this table from all others."""
        return [base_url(self.config), self.structure.entity, self.structure.id]

    @cached_property
    def reverse_mappings(self) -> dict[tuple[str, str], ReverseMapping]:
        """The mappings read backwards, which fit the table.

        Raises:
            SettingsError: The table lacks what a mapping names.
        """
        found = reverse_mappings(read_mappings(self.config.get("mappings") or []))
        structure = self.structure
        for kind, name in found:
            if kind == "subscription" and name not in structure.subscriptions:
                raise SettingsError(
                    codes.UNKNOWN_FIELD,
                    f"mappings: table {structure.name!r} has no subscription {name!r}. Its "
                    f"subscriptions: {', '.join(structure.subscriptions) or 'none'}. Names are "
                    "case-sensitive.",
                )
            if kind == "attribute":
                attribute = structure.attributes.get(name)
                if attribute is None or attribute.type is not ValueType.BOOLEAN:
                    problem = "does not exist" if attribute is None else "is no boolean"
                    raise SettingsError(
                        codes.UNSUITABLE_FIELD,
                        f"mappings: the attribute {name!r} {problem} in table {structure.name!r}, "
                        "so it can't be read backwards. Take it out of tap-actito's mappings.",
                    )
        return found

    @classmethod
    def find_secrets(cls, config: Mapping[str, Any]) -> list[str]:
        """Collect the key, the snapshot's address, and all texts of the storage options."""
        names = ("api_key", "snapshot_url")
        given = [str(config[name]) for name in names if config.get(name)]
        return given + texts_of(config.get("storage_options"))

    @classmethod
    def find_problems(cls, config: dict[str, Any]) -> list[str]:
        """Check what a JSON schema can't say."""
        return settings.find_problems(config)

    def prepare(self, *, selected_by_catalog: bool) -> None:
        """Choose the streams where no catalog does, and check what they need.

        Without a catalog, mappings ask for consent events; without mappings, there is no need of
        those, and all else is read.

        Raises:
            SettingsError: A setting that reading needs is missing.
        """
        if missing := settings.missing_for_sync(self.config):
            raise SettingsError(
                codes.INVALID_SETTING,
                f"{', '.join(missing)} missing: discovery works without, reading does not.",
            )
        mapped = bool(self.config.get("mappings"))
        events = self.streams["consent_events"]
        if not selected_by_catalog:
            for stream in self.streams.values():
                stream.selected = mapped is (stream is events)
        if not events.selected:
            return
        if not mapped:
            raise SettingsError(
                codes.INVALID_SETTING,
                "mappings is missing: the stream consent_events needs it. Set it as for "
                "target-actito, or deselect the stream.",
            )
        _ = self.reverse_mappings

    def conclude(self) -> None:
        """Say which subscriptions no mapping names."""
        events = self.streams["consent_events"]
        if isinstance(events, ConsentEvents):
            if names := sorted(events.unmapped):
                self.logger.info(
                    "Subscriptions that no mapping names, left out of consent_events: %s.",
                    ", ".join(f"{name} ({events.unmapped[name]:,} changes)" for name in names),
                )
            if events.without_key:
                self.logger.warning(
                    "%d changes are of profiles without %s; they can't be told to Didomi.",
                    events.without_key,
                    self.config["user_unique_key"],
                )
