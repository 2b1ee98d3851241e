"""The tap: its settings and its streams."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities

from actito_didomi.didomi.exports import ExportFolder
from actito_didomi.didomi.session import open_session
from actito_didomi.plugin.tap import BaseTap
from tap_didomi.api import ApiEvents, ApiUsers
from tap_didomi.config import Settings, find_problems
from tap_didomi.exports import ExportEvents, ExportLines, ExportUsers

if TYPE_CHECKING:
    from singer_sdk import Stream

    from actito_didomi.http import ApiSession


class TapDidomi(BaseTap):
    """Singer tap for Didomi: consent events and consent users, from batch exports or the API."""

    name = "tap-didomi"
    package_name = "actito-didomi"
    settings_class = Settings
    settings: Settings
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        *BaseTap.capabilities,
        PluginCapabilities.BATCH,
    ]

    def discover_streams(self) -> list[Stream]:
        """List the streams: those of batch exports where `export_root` is set, else the API's."""
        if self.settings.export_root:
            batches = bool(self.config.get("batch_config"))
            return [ExportLines(self) if batches else ExportEvents(self), ExportUsers(self)]
        return [ApiUsers(self), ApiEvents(self)]

    @cached_property
    def export_folder(self) -> ExportFolder:
        """The root of batch exports."""
        return ExportFolder(self.settings.export_root or "", self.settings.storage_options)

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
