"""The tap: its settings and its streams."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from singer_sdk import typing as th
from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities

from actito_didomi.didomi.config import (
    REQUIRED,
    missing_settings,
    organization_settings,
    secrets_of,
)
from actito_didomi.didomi.exports import ExportFolder
from actito_didomi.didomi.session import open_session
from actito_didomi.plugin.base import RETRY_SETTINGS, read_retry
from actito_didomi.plugin.tap import BaseTap, texts_of
from tap_didomi.api import ApiEvents, ApiUsers
from tap_didomi.exports import ExportEvents, ExportLines, ExportUsers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from singer_sdk import Stream

    from actito_didomi.http import ApiSession

CONFIG = th.PropertiesList(
    *organization_settings(
        required="Required without `export_root`.",
        regulation="The regulation to read consents of through the API. Batch exports hold GDPR "
        "only.",
    ),
    th.Property(
        "export_root",
        th.StringType,
        title="Batch exports",
        description="URL of the folder that batch exports arrive in: `s3://...`, `gs://...`, "
        "`file:///...`. With it, exports are read and the API is not called.",
    ),
    th.Property(
        "storage_options",
        th.ObjectType(additional_properties=True),
        secret=True,
        title="Storage options",
        description="Arguments of the file system of `export_root`, as fsspec takes them.",
    ),
    th.Property(
        "export_ids",
        th.ArrayType(th.StringType),
        title="Export ids",
        description="Only these exports; all when absent.",
    ),
    th.Property(
        "start_date",
        th.StringType,
        title="Start date",
        description="First day to read (`yyyy-MM-dd`), where there is no state yet.",
    ),
    th.Property(
        "on_bad_line",
        th.StringType,
        default="fail",
        allowed_values=["fail", "skip"],
        title="Broken lines",
        description="What to do about a broken line or file of an export: `fail` ends the run "
        "there, `skip` counts it, reports it and goes on.",
    ),
    *RETRY_SETTINGS,
).to_dict()

GROUPS = [["export_root"], list(REQUIRED)]
"""Settings that are complete together, each list by itself."""


class TapDidomi(BaseTap):
    """Singer tap for Didomi: consent events and consent users, from batch exports or the API."""

    name = "tap-didomi"
    package_name = "actito-didomi"
    config_jsonschema = CONFIG
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        *BaseTap.capabilities,
        PluginCapabilities.BATCH,
    ]

    def discover_streams(self) -> list[Stream]:
        """List the streams: those of batch exports where `export_root` is set, else the API's."""
        if self.config.get("export_root"):
            batches = bool(self.config.get("batch_config"))
            return [ExportLines(self) if batches else ExportEvents(self), ExportUsers(self)]
        return [ApiUsers(self), ApiEvents(self)]

    @cached_property
    def export_folder(self) -> ExportFolder:
        """The root of batch exports."""
        return ExportFolder(self.config["export_root"], self.config.get("storage_options"))

    @cached_property
    def session(self) -> ApiSession:
        """The session with Didomi."""
        return open_session(
            self.config["api_key"],
            self.config["api_secret"],
            base_url=self.config["api_url"],
            timeout=float(self.config["request_timeout"]),
            retry=read_retry(self.config),
            stop=self.shutdown.requested,
            runtime=self.runtime,
        )

    # Settings

    @classmethod
    def find_secrets(cls, config: Mapping[str, Any]) -> list[str]:
        """Collect key, secret, and all texts of the storage options."""
        return secrets_of(config) + texts_of(config.get("storage_options"))

    @classmethod
    def find_problems(cls, config: dict[str, Any]) -> list[str]:
        """Check that there is something to read from."""
        if batch_config := config.get("batch_config"):
            encoding = batch_config.get("encoding") or {}
            if (encoding.get("format"), encoding.get("compression")) != ("jsonl", "gzip"):
                how = '{"format": "jsonl", "compression": "gzip"}'
                return [f"batch_config: exports are gzip JSON lines. Set encoding to {how}."]
            if not config.get("export_root"):
                how = "Set export_root, or take batch_config out."
                return [f"batch_config: only batch exports go out as BATCH messages. {how}"]
        missing = missing_settings(config)
        if config.get("export_root") or not missing:
            return []
        how = "Either set export_root to read batch exports, or all three to read through the API."
        return [f"{', '.join(missing)} missing. {how}"]
