"""The tap: its settings and its streams."""

from __future__ import annotations

from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, ClassVar

from singer_sdk import Tap
from singer_sdk import typing as th
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.helpers._util import load_json
from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities, TapCapabilities

from actito_didomi.didomi.exports import ExportFolder
from actito_didomi.didomi.session import API_URL, open_session
from actito_didomi.errors import BadInputError, StoppedError
from actito_didomi.singer.plugin import RETRY_SETTINGS, CheckedPlugin, read_retry, run_safely
from tap_didomi.api import ApiEvents, ApiUsers
from tap_didomi.base import DidomiStream
from tap_didomi.exports import ExportEvents, ExportLines, ExportUsers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import click
    from singer_sdk import Stream
    from singer_sdk.plugin_base import _ConfigInput

    from actito_didomi.http import ApiSession

_GRACE = 10.0
_SECRETS = ("api_key", "api_secret")

CONFIG = th.PropertiesList(
    th.Property(
        "api_key",
        th.StringType,
        secret=True,
        title="API key",
        description="Private API key of the Didomi organisation. Required without `export_root`.",
    ),
    th.Property(
        "api_secret",
        th.StringType,
        secret=True,
        title="API secret",
        description="Secret of the API key. Required without `export_root`.",
    ),
    th.Property(
        "organization_id",
        th.StringType,
        title="Organisation",
        description="Id of the Didomi organisation. Required without `export_root`.",
    ),
    th.Property(
        "api_url",
        th.StringType,
        default=API_URL,
        title="API address",
        description="Address of the API; for the sandbox, `http://127.0.0.1:8700/didomi/v1`.",
    ),
    th.Property(
        "regulation",
        th.StringType,
        default="gdpr",
        title="Regulation",
        description="The regulation to read consents of through the API. Batch exports hold GDPR "
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

GROUPS = [["export_root"], ["api_key", "api_secret", "organization_id"]]
"""Settings that are complete together, each list by itself."""


class TapDidomi(CheckedPlugin, Tap):
    """Singer tap for Didomi: consent events and consent users, from batch exports or the API."""

    name = "tap-didomi"
    package_name = "actito-didomi"
    config_jsonschema = CONFIG
    message_writer_class = MsgSpecWriter
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        TapCapabilities.CATALOG,
        TapCapabilities.STATE,
        TapCapabilities.DISCOVER,
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.FLATTENING,
        PluginCapabilities.STRUCTURED_LOGGING,
        PluginCapabilities.BATCH,
    ]

    def __init__(self, **kwargs: Any) -> None:
        self.skipped_lines = 0
        super().__init__(**kwargs)
        self.shutdown.grace = _GRACE

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
        )

    # Settings

    @classmethod
    def find_secrets(cls, config: Mapping[str, Any]) -> list[str]:
        """Collect key, secret, and all texts of the storage options."""
        keys = [str(config[name]) for name in _SECRETS if config.get(name)]
        return keys + _texts(config.get("storage_options"))

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
        missing = [n for n in ("api_key", "api_secret", "organization_id") if not config.get(n)]
        if config.get("export_root") or not missing:
            return []
        how = "Either set export_root to read batch exports, or all three to read through the API."
        return [f"{', '.join(missing)} missing. {how}"]

    # Command line

    @classmethod
    def run(cls, given: _ConfigInput, **files: IO[str] | None) -> None:
        """Read all that is new."""
        catalog = _load(files.get("catalog"), "--catalog")
        tap = cls(
            config=given.config,
            state=_load(files.get("state"), "--state"),
            catalog=catalog,
            parse_env_config=given.parse_env,
        )
        tap.shutdown.watch()
        if catalog is None:
            for stream in tap.streams.values():
                if isinstance(stream, DidomiStream) and stream.off_without_catalog:
                    stream.selected = False
        try:
            tap.sync_all()
            tap.shutdown.check()
        except StoppedError:
            cls.logger.warning("Stopped by %s.", tap.shutdown.signal_name)
            tap.shutdown.finish()
        if tap.skipped_lines:
            cls.logger.error(
                "%d broken line(s) or file(s) were skipped, as on_bad_line says; what they held "
                "is missing.",
                tap.skipped_lines,
            )

    @classmethod
    def cb_discover(cls, ctx: click.Context, param: click.Option, value: bool) -> None:
        """Run discovery; an error shows no values."""
        run_safely(cls.name, lambda: super(TapDidomi, cls).cb_discover(ctx, param, value))

    @classmethod
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        """Run the connection test; an error shows no values."""
        run_safely(cls.name, lambda: super(TapDidomi, cls).cb_test(ctx, param, value))


def _load(file: IO[str] | None, option: str) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        loaded: dict[str, Any] = load_json(file.read())
    except ValueError:
        raise BadInputError(f"{option}: the file is no JSON.") from None
    return loaded


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _texts(part)]
    return [value] if isinstance(value, str) else []
