"""What all taps do alike: run, and streams whose state is their own."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any, ClassVar

import msgspec
from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.helpers._util import load_json
from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities, TapCapabilities
from singer_sdk.helpers.conform import TypeConformanceLevel

from actito_didomi import codes
from actito_didomi.errors import BadInputError, StoppedError
from actito_didomi.plugin.base import BasePlugin, run_safely

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import click
    from singer_sdk.helpers.types import Context
    from singer_sdk.plugin_base import _ConfigInput

_GRACE = 10.0
_WAITING = 1000
"""Pieces of messages that are gathered before they are written."""


class BaseTap(BasePlugin, Tap):
    """A tap of this project.

    Attributes:
        skipped_lines: Broken lines or files of the source that were passed over.
    """

    message_writer_class = MsgSpecWriter
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        TapCapabilities.CATALOG,
        TapCapabilities.STATE,
        TapCapabilities.DISCOVER,
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.STRUCTURED_LOGGING,
    ]

    def __init__(self, **kwargs: Any) -> None:
        self.skipped_lines = 0
        super().__init__(**kwargs)
        self.shutdown.grace = _GRACE

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
        tap.prepare(selected_by_catalog=catalog is not None)
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
        tap.conclude()

    def prepare(self, *, selected_by_catalog: bool) -> None:
        """Choose the streams where no catalog does, and check what they need."""
        if not selected_by_catalog:
            for stream in self.streams.values():
                if isinstance(stream, CheckpointStream) and stream.off_without_catalog:
                    stream.selected = False

    def conclude(self) -> None:
        """Say at the end what was noticed."""

    @classmethod
    def cb_discover(cls, ctx: click.Context, param: click.Option, value: bool) -> None:
        """Run discovery; an error shows no values."""
        run_safely(cls.name, lambda: super(BaseTap, cls).cb_discover(ctx, param, value))

    @classmethod
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        """Run the connection test; an error shows no values."""
        run_safely(cls.name, lambda: super(BaseTap, cls).cb_test(ctx, param, value))


class CheckpointStream(Stream):
    """A stream whose records go out as they came, and whose state is its own.

    STATE is written where a stream can be taken up again, by `emit_state`, and not every so many
    records as the SDK does.
    """

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE
    STATE_MSG_FREQUENCY = sys.maxsize
    off_without_catalog = False
    """Whether the stream is read only when a catalog selects it."""
    raw = False
    """Whether records go out as bytes where nothing has to look into them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: list[bytes] = []

    def emit_state(self) -> None:
        """Write STATE: all before it has been written."""
        self._write_waiting()
        self.state_manager.is_flushed = False
        self._write_state_message()

    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """Give none: bookmarks are limited where they are made."""
        del context

    def _increment_stream_state(
        self, latest_record: dict[str, Any], *, context: Context | None = None
    ) -> None:
        """Leave the state alone: one record doesn't move it."""

    def raw_records(self, context: Context | None) -> Iterable[Any]:
        """Give the records as `get_records` does, in any form that can be encoded."""
        return self.get_records(context)

    def _sync_records(
        self, context: Context | None = None, *, write_messages: bool = True
    ) -> Generator[dict[str, Any], Any, Any]:
        """Write all records: as bytes where nothing has to look into them.

        The SDK's way, for maps, deselected properties and tests, takes twice as long.
        """
        raw = getattr(sys.stdout, "buffer", None)
        if not self.raw or raw is None or not write_messages or self._needs_looking_into():
            yield from super()._sync_records(context, write_messages=write_messages)
            return
        encode = msgspec.json.Encoder().encode
        end = b',"time_extracted":"' + datetime.now(timezone.utc).isoformat().encode() + b'"}\n'
        start = b'{"type":"RECORD","stream":' + encode(self.name) + b',"record":'
        waiting = self._waiting
        self._write_starting_replication_value(context)
        with self.get_record_counter() as counter, self.get_sync_timer():
            for record in self.raw_records(context):
                waiting += (start, encode(record), end)
                counter.increment()
                if len(waiting) > _WAITING:
                    raw.write(b"".join(waiting))
                    waiting.clear()
            self._write_waiting()
        self._write_state_message()

    def _write_waiting(self) -> None:
        if self._waiting:
            sys.stdout.buffer.write(b"".join(self._waiting))
            self._waiting.clear()
            sys.stdout.buffer.flush()

    def _needs_looking_into(self) -> bool:
        maps = self.config.get("stream_maps")
        limited = self.ABORT_AT_RECORD_COUNT is not None
        return bool(maps) or limited or not all(self.mask.values())


def _load(file: IO[str] | None, option: str) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        loaded: dict[str, Any] = load_json(file.read())
    except ValueError:
        raise BadInputError(codes.DAMAGED_FILE, f"{option}: the file is no JSON.") from None
    return loaded
