"""The tap: its streams, and where they read from."""

from __future__ import annotations

from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities

from actito_didomi.consent.schema import LedgerScope
from actito_didomi.didomi.exports import ExportFolder
from actito_didomi.didomi.session import open_session
from actito_didomi.plugin.tap import BaseTap
from tap_didomi.config import Settings, find_problems
from tap_didomi.sources import ApiSource, ExportSource
from tap_didomi.streams import ConsentEvents, ConsentUsers, ExportLines

if TYPE_CHECKING:
    from singer_sdk import Stream

    from actito_didomi.http import ApiSession
    from tap_didomi.sources import ConsentSource
    from tap_didomi.streams import DidomiTap


class TapDidomi(BaseTap):
    """Singer tap for Didomi: consent events and consent users, from batch exports or the API."""

    name = "tap-didomi"
    package_name = "actito-didomi"
    settings_class = Settings
    settings: Settings
    direction = "forward"
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        *BaseTap.capabilities,
        PluginCapabilities.BATCH,
    ]

    def discover_streams(self) -> list[Stream]:
        """Return the streams: those of batch exports if `export_root` is set, else the API's."""
        _: DidomiTap = self  # what the streams take this for
        if self.settings.export_root:
            batches = bool(self.config.get("batch_config"))
            events: Stream = ExportLines(self) if batches else ConsentEvents(self)
            return [events, ConsentUsers(self)] if self.settings.read_users else [events]
        events, users = ConsentEvents(self), ConsentUsers(self)
        # One request per user is practical for small organisations only.
        events.selected_by_default = False
        users.replication_key = "updated_at"
        return [events, users]

    def prepare(self) -> None:
        """Warn where a whole status can hide an event."""
        names = ("consent_events", "consent_users")
        if all(name in self.streams and self.streams[name].selected for name in names):
            self.logger.warning(
                "consent_events and consent_users are both selected. A target takes the whole "
                "status of a user for newer than choices that were made in Actito meanwhile, so an "
                "unsubscribe can be turned back. Select consent_events only."
            )

    def ledger_scope(self) -> LedgerScope:
        """Return the pair as far as it is known here: the organisation in Didomi."""
        didomi = self.settings.didomi
        return LedgerScope(organization=didomi.organization_id, regulation=didomi.regulation)

    @cached_property
    def source(self) -> ConsentSource:
        """Where consents come from."""
        if self.settings.export_root:
            return self.export_source
        return ApiSource(
            self.session,
            organization_id=self.settings.didomi.organization_id,
            regulation=self.settings.didomi.regulation_id,
            start_date=_start_of(self.settings.start_date),
            shutdown=self.shutdown,
            runtime=self.runtime,
            logger=self.logger,
        )

    @cached_property
    def export_source(self) -> ExportSource:
        """Batch exports."""
        return ExportSource(
            ExportFolder(
                self.settings.export_root or "",
                self.settings.storage_options,
                max_line_bytes=self.settings.max_line_bytes,
                max_compression_ratio=self.settings.max_compression_ratio,
            ),
            export_ids=self.settings.export_ids or None,
            start_date=(self.settings.start_date or "")[:10],
            late_days=self.settings.ledger.late_days,
            broken_lines=self.broken_lines,
            shutdown=self.shutdown,
            runtime=self.runtime,
            logger=self.logger,
        )

    @cached_property
    def session(self) -> ApiSession:
        """The session with Didomi."""
        return open_session(
            self.settings.didomi,
            self.settings.client,
            stop=self.shutdown.requested,
            runtime=self.runtime,
        )

    # Settings

    def find_problems(self) -> list[str]:
        """Check that there is something to read from."""
        return find_problems(self.settings, self.config.get("batch_config"))


def _start_of(start_date: str | None) -> datetime | None:
    if not start_date:
        return None
    start = datetime.fromisoformat(start_date.replace("Z", "+00:00"))
    return start if start.tzinfo else start.replace(tzinfo=timezone.utc)
