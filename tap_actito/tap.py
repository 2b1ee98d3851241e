"""The tap: its streams, and what they share."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito import (
    ProfileTable,
    TableStructure,
    ValueType,
    open_session,
    read_table,
)
from actito_didomi.actito.changes import ChangeFolder
from actito_didomi.actito.table import find_only_table
from actito_didomi.consent.conflicts import to_micros
from actito_didomi.consent.identity import matching_of
from actito_didomi.consent.reverse_mapping import ReverseMapping, reverse_mappings
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.errors import SettingsError
from actito_didomi.plugin.connector import unfold_connector
from actito_didomi.plugin.looks import LookLearner, ProfileReader
from actito_didomi.plugin.tap import BaseTap
from tap_actito.config import NEEDS_LEDGER, Settings, find_problems, missing_for_sync
from tap_actito.fields import find_fields
from tap_actito.found import prune_found
from tap_actito.rows import RowLearner
from tap_actito.sources import ExportSource, TableAccess, TableLook
from tap_actito.streams import ConsentEvents, Profiles, SubscriptionChanges

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from singer_sdk import Stream

    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.consent.identity import Matching
    from actito_didomi.consent.ledger import Ledger
    from tap_actito.fields import Fields
    from tap_actito.streams import ActitoTap


class TapActito(BaseTap):
    """Singer tap for Actito: profiles, changes of subscriptions, and these as consent events."""

    name = "tap-actito"
    package_name = "actito-didomi"
    settings_class = Settings
    settings: Settings
    direction = "reverse"
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
    def session(self) -> ActitoSession:
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

    def ledger_scope(self) -> LedgerScope:
        """Return the pair as far as it is known here: the table in Actito."""
        actito = self.settings.actito
        return LedgerScope(entity=actito.entity_id, table=actito.table_name)

    @cached_property
    def fields(self) -> Fields:
        """The fields that looks and rows are about."""
        return find_fields(self.structure, self.reverse_mappings.values())

    @cached_property
    def table(self) -> TableAccess:
        """The table, and what it takes to read it."""
        structure = self.structure  # shows Actito's clock, by which all that is learned is dated
        return TableAccess(
            session=self.session,
            structure=structure,
            key=self.settings.actito.user_unique_key,
            zone=self.zone,
            shutdown=self.shutdown,
            runtime=self.session.runtime,
            logger=self.logger,
        )

    @cached_property
    def matching(self) -> Matching:
        """How keys of people are compared."""
        return matching_of(self.settings.ledger.key_matching, self.settings.actito.user_unique_key)

    @cached_property
    def look_learner(self) -> LookLearner:
        """Learns looks into the ledger."""
        return LookLearner(self.own_ledger, self._reader, "", self.fields.mapped)

    @cached_property
    def _reader(self) -> ProfileReader:
        return ProfileReader(
            self.structure, self.table.key, self.matching, self.zone, self.fields.all
        )

    @cached_property
    def table_look(self) -> TableLook:
        """The look at the table of this run."""
        return TableLook(
            self.table,
            self.own_ledger,
            self.look_learner,
            self.settings.page_size,
            is_mapped=bool(self.fields.mapped),
        )

    @cached_property
    def exports(self) -> ExportSource:
        """The exports of profile changes."""
        settings = self.settings
        return ExportSource(
            self.table,
            ChangeFolder(settings.export_root or "", settings.storage_options),
            columns={k: v for k, v in settings.export_columns.items() if v},
            min_age=settings.export_grace,
            broken_lines=self.broken_lines,
            runtime=self.runtime,
            learner=None if self.ledger is None else self._row_learner(self.ledger),
            max_cell_bytes=settings.max_cell_bytes,
            max_compression_ratio=settings.max_compression_ratio,
        )

    def _row_learner(self, ledger: Ledger) -> RowLearner:
        by_id = ProfileTable(self.session, self.structure, "profileId")

        def find_key(profile_id: str) -> str | None:
            shown = by_id.look(profile_id)
            return None if shown is None else self._reader.spelling(shown.attributes)

        return RowLearner(
            ledger=ledger,
            fields=self.fields.subscriptions,
            matching=self.matching,
            looks=self.look_learner,
            find_key=find_key,
            runtime=self.table.runtime,
        )

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
            if kind == "subscription":
                structure.require_subscriptions()
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
            SettingsError: A setting that reading needs is missing, or the table's subscriptions
                aren't known.
        """
        if missing := missing_for_sync(self.settings):
            raise SettingsError(
                codes.INVALID_SETTING,
                f"{', '.join(missing)} missing: optional for discovery, required for reading.",
            )
        reads_changes = any(
            self.streams[name].selected for name in ("subscription_changes", "consent_events")
        )
        if self.streams["subscription_changes"].selected:
            self.structure.require_subscriptions()
        if not self.settings.ledger.has_ledger and reads_changes:
            if self.settings.change_source == "api":
                raise SettingsError(codes.INVALID_SETTING, NEEDS_LEDGER)
            self.logger.warning(
                "ledger_url is `none`: exports are read file by file. What target-actito wrote "
                "comes back as a change, so a newer choice in Didomi may be overwritten; and what "
                "can't be synced yet is not tried again."
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
        """Log which subscriptions no mapping names; forget what was found long ago."""
        if self.ledger is not None:
            bound = self.runtime.now() - timedelta(days=self.settings.ledger.late_days)
            prune_found(self.ledger, to_micros(bound))
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
