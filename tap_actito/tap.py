"""The tap: its streams, and what they share."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito import TableStructure, ValueType, open_session, read_table
from actito_didomi.actito.table import find_only_table
from actito_didomi.consent.reverse_mapping import ReverseMapping, reverse_mappings
from actito_didomi.errors import SettingsError
from actito_didomi.plugin.connector import unfold_connector
from actito_didomi.plugin.tap import BaseTap
from tap_actito.config import Settings, find_problems, missing_for_sync
from tap_actito.streams import ConsentEvents, Profiles, SubscriptionChanges

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from singer_sdk import Stream

    from actito_didomi.http import ApiSession
    from tap_actito.streams import ActitoTap


class TapActito(BaseTap):
    """Singer tap for Actito: profiles, changes of subscriptions, and these as consent events."""

    name = "tap-actito"
    package_name = "actito-didomi"
    settings_class = Settings
    settings: Settings
    dynamic_catalog = True  # discovery reads the table, so it checks the settings first

    def discover_streams(self) -> list[Stream]:
        """Return the streams.

        Mappings ask for consent events; without them everything else is read by default.
        """
        _: ActitoTap = self  # what the streams take this for
        events = ConsentEvents(self)
        streams: list[Stream] = [Profiles(self), SubscriptionChanges(self), events]
        mapped = bool(self.settings.mappings)
        for stream in streams:
            stream.selected_by_default = mapped is (stream is events)
        return streams

    @property
    def zone(self) -> ZoneInfo:
        """Time zone of timestamps in Actito."""
        return self.settings.actito.zone

    @cached_property
    def session(self) -> ApiSession:
        """The session with Actito."""
        return open_session(
            self.settings.actito,
            self.settings.client,
            max_concurrency=1,
            stop=self.shutdown.requested,
            runtime=self.runtime,
        )

    @cached_property
    def structure(self) -> TableStructure:
        """Structure of the profile table.

        For discovery the API key is enough if it gives access to a single table.
        """
        actito = self.settings.actito
        if missing_for_sync(self.settings):
            return find_only_table(
                self.session, actito.entity_id or None, actito.table_name or None
            )
        return read_table(self.session, actito.entity_id, actito.table_name, actito.user_unique_key)

    @property
    def account(self) -> list[str]:
        """What distinguishes this table from all others."""
        return [self.settings.actito.base_url, self.structure.entity, self.structure.id]

    @cached_property
    def reverse_mappings(self) -> dict[tuple[str, str], ReverseMapping]:
        """The reverse mappings, checked against the table.

        Raises:
            SettingsError: The table lacks what a mapping names.
        """
        found = reverse_mappings(self.settings.mappings)
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
                    problem = "does not exist" if attribute is None else "must be a boolean"
                    raise SettingsError(
                        codes.UNSUITABLE_FIELD,
                        f"mappings: the attribute {name!r} {problem} in table {structure.name!r}. "
                        "A reverse mapping needs a boolean: remove it from tap-actito's mappings.",
                    )
        return found

    @classmethod
    def unfold_settings(cls, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Unfold a pasted connector object."""
        return unfold_connector(config, cls.full_schema()["properties"])

    def find_problems(self) -> list[str]:
        """Check the typed settings for what a JSON schema can't say."""
        return find_problems(self.settings)

    def prepare(self) -> None:
        """Check what the selected streams need.

        Raises:
            SettingsError: A setting that reading needs is missing.
        """
        if missing := missing_for_sync(self.settings):
            raise SettingsError(
                codes.INVALID_SETTING,
                f"{', '.join(missing)} missing: optional for discovery, required for reading.",
            )
        if not self.streams["consent_events"].selected:
            return
        if not self.settings.mappings:
            raise SettingsError(
                codes.INVALID_SETTING,
                "mappings is missing: the stream consent_events needs it. Set it as for "
                "target-actito, or deselect the stream.",
            )
        _ = self.reverse_mappings

    def conclude(self) -> None:
        """Log which subscriptions no mapping names."""
        events = self.streams["consent_events"]
        if isinstance(events, ConsentEvents):
            if names := sorted(events.unmapped):
                self.logger.info(
                    "Unmapped subscriptions (left unchanged): %s.",
                    ", ".join(f"{name} ({events.unmapped[name]:,} changes)" for name in names),
                )
            if events.without_key:
                self.logger.warning(
                    "%d changes are of profiles without %s; they can't be synced to Didomi.",
                    events.without_key,
                    self.settings.actito.user_unique_key,
                )
