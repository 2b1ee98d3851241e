"""What all taps have in common: how they run, and streams that write STATE at checkpoints."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime, timezone
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import msgspec
from singer_sdk import Stream, Tap
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.exceptions import AbortedSyncFailedException, AbortedSyncPausedException
from singer_sdk.helpers._util import load_json
from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities, TapCapabilities
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.singerlib.catalog import REPLICATION_FULL_TABLE, REPLICATION_INCREMENTAL

from actito_didomi import codes
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.errors import (
    BadInputError,
    SettingsError,
    StoppedError,
    exit_status_of,
)
from actito_didomi.plugin.base import BasePlugin, run_safely
from actito_didomi.plugin.source import BrokenLines
from actito_didomi.plugin.state import LEDGER

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    import click
    from singer_sdk.helpers.types import Context
    from singer_sdk.plugin_base import _ConfigInput
    from singer_sdk.singerlib import RecordMessage

    from actito_didomi.consent.config import LedgerSettings
    from actito_didomi.plugin.source import Batch

_GRACE = 10.0
_BUFFERED_PARTS = 1000
"""Parts of messages that are buffered before they are written; a record has three."""

Item = TypeVar("Item")


class BaseTap(BasePlugin, Tap):
    """A tap of this project.

    Without a catalog a tap reads the streams that are selected by default, which are those that
    discovery shows as selected. Set `Stream.selected_by_default` in `discover_streams`.
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
        self.ledger: Ledger | None = None
        super().__init__(**kwargs)
        self.shutdown.grace = _GRACE

    @cached_property
    def broken_lines(self) -> BrokenLines:
        """What to do about broken lines of a source, and how many were skipped."""
        on_bad_line = self.config.get("on_bad_line", "fail")
        return BrokenLines(on_bad_line, self.logger, self.runtime.now)

    @classmethod
    def run(cls, given: _ConfigInput, **files: IO[str] | None) -> None:
        """Read all that is new."""
        tap = cls(
            config=given.config,
            state=_load(files.get("state"), "--state"),
            catalog=_load(files.get("catalog"), "--catalog"),
            parse_env_config=given.parse_env,
        )
        tap.shutdown.watch()
        try:
            tap.read()
            tap.record_end("success", 0, tap.counts)
        except Exception as error:
            tap.record_end("failed", exit_status_of(error), tap.counts)
            raise
        finally:
            session = vars(tap).get("session")  # opened at its first use
            if session is not None:
                session.log_metrics()
            if tap.ledger is not None:
                tap.ledger.close()

    def read(self) -> None:
        """Emit all that is new.

        Raises:
            ActitoDidomiError: Reading can't go on, or something is missing.
        """
        self.check_catalog()
        self.prepare()
        self.open_ledger()
        if self.ledger is not None:
            run = self.record_start(self.ledger)
            self.broken_lines.use_ledger(self.ledger, self.direction, str(run))
        try:
            self.sync_all()
            self.shutdown.check()
            self.broken_lines.store()
        except StoppedError:
            self.logger.warning("Stopped by %s.", self.shutdown.signal_name)
            self.record_end(
                f"stopped by {self.shutdown.signal_name}", self.shutdown.exit_code, self.counts
            )
            self.shutdown.finish()
        if skipped := self.broken_lines.skipped:
            self.logger.error(
                "%d broken line(s) or file(s) were skipped (on_bad_line: skip); their content is "
                "missing%s.",
                skipped,
                "" if self.ledger is None else ". The lines are kept: `actito-didomi rejects list`",
            )
        self.conclude()
        self.broken_lines.check()

    @property
    def counts(self) -> dict[str, Any]:
        """The counts of the run, as JSON has them."""
        emitted = {
            name: stream.emitted
            for name, stream in self.streams.items()
            if isinstance(stream, CheckpointStream) and stream.selected
        }
        broken = self.broken_lines
        return {
            "records": sum(emitted.values()),
            "streams": emitted,
            "broken": broken.skipped + broken.failed,
        }

    def check_catalog(self) -> None:
        """Check that a catalog, if there is one, selects streams that this tap has.

        Raises:
            BadInputError: It selects none, so nothing would be read.
        """
        if (catalog := self.input_catalog) is None:
            return
        unknown = sorted(
            name
            for name, entry in catalog.items()
            if name not in self.streams and entry.metadata.resolve_selection().get((), False)
        )
        if unknown:
            self.logger.warning(
                "The catalog selects %s, which this tap doesn't offer with these settings; not "
                "read.",
                ", ".join(unknown),
            )
        if not any(stream.selected for stream in self.streams.values()):
            raise BadInputError(
                codes.NOTHING_SELECTED,
                "--catalog: no stream is selected, so nothing would be read. Select at least one "
                f"of {', '.join(self.streams)}, or run without a catalog.",
            )

    def prepare(self) -> None:
        """Check what the selected streams need. Override to check more than the settings."""

    def conclude(self) -> None:
        """Log at the end what was noticed. Override to log more."""

    # The ledger

    def ledger_scope(self) -> LedgerScope:
        """Return the pair of organisation and table, as far as the settings name it."""
        return LedgerScope()

    @property
    def own_ledger(self) -> Ledger:
        """The ledger, where there must be one."""
        if self.ledger is None:
            raise RuntimeError("the ledger is used only once it is open")
        return self.ledger

    def open_ledger(self) -> None:
        """Open the ledger if a selected stream uses it, and compare it with STATE; once.

        Bookmarks of a STATE that names no ledger are not used: what was read before, the ledger may
        not know. Reading it again is harmless.

        Raises:
            SettingsError: The ledger can't be used, or STATE names another one.
        """
        settings: LedgerSettings = self.settings.ledger
        users = {
            name: stream
            for name, stream in self.streams.items()
            if stream.selected and getattr(stream, "uses_ledger", False)
        }
        if not users or self.ledger is not None:
            return
        if settings.has_ledger:
            self.ledger = Ledger.open(settings, self.ledger_scope(), self.runtime)
        ignored = []
        for name, state in self.state.get("bookmarks", {}).items():
            known = state.get(LEDGER)
            known = known if isinstance(known, str) else None
            if not state or (name not in users and known is None) or self._belongs(known):
                continue
            state.clear()
            ignored.append(name)
        if ignored:
            self.logger.warning(
                "The bookmarks of %s in STATE are not used, since they don't belong to the ledger: "
                "everything is read again.",
                ", ".join(sorted(ignored)),
            )

    def _belongs(self, ledger_id: str | None) -> bool:
        """Return whether bookmarks may be used that belong to a ledger, or to none."""
        on_lost = self.settings.ledger.on_lost_ledger
        if self.ledger is not None:
            return self.ledger.check_state(ledger_id, on_lost=on_lost) and ledger_id is not None
        if ledger_id is not None and on_lost == "fail":
            raise SettingsError(
                codes.LEDGER_MISSING,
                "ledger_url is `none`, but STATE belongs to a ledger: what is owed, and who chose "
                "what, stands there. Set ledger_url to it. To work without it from now on, set "
                "`on_lost_ledger: baseline` for one run: then everything is read again.",
            )
        return ledger_id is None

    @classmethod
    def cb_discover(cls, ctx: click.Context, param: click.Option, value: bool) -> None:
        """Run discovery; an error shows no values."""
        run_safely(cls.name, lambda: super(BaseTap, cls).cb_discover(ctx, param, value))

    @classmethod
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        """Run the connection test; an error shows no values."""
        run_safely(cls.name, lambda: super(BaseTap, cls).cb_test(ctx, param, value))


class CheckpointStream(Stream):
    """A stream that emits records as its source holds them, and STATE at the source's checkpoints.

    The SDK would write STATE after a number of records, and derive bookmarks from records. Here the
    source says where reading can resume, and STATE is written there only.
    """

    uses_ledger = True
    """Whether its bookmark has a meaning only together with the ledger."""
    emitted = 0
    """Records emitted so far."""
    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE
    STATE_MSG_FREQUENCY = sys.maxsize

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._buffer: list[bytes] = []
        self._runtime = cast("BaseTap", self._tap).runtime
        self._arrived_at = self._runtime.now()
        self._end_of_record = b""

    @property
    def replication_method(self) -> str:
        """Incremental; only a stream with a replication key can be read in full by the catalog."""
        return super().replication_method if self.replication_key else REPLICATION_INCREMENTAL

    @property
    def resume_state(self) -> Mapping[str, Any]:
        """The state to resume from, without its bookmark if the catalog demands the full table."""
        state = dict(self.stream_state)
        if self.replication_method == REPLICATION_FULL_TABLE:
            state.pop("replication_key_value", None)
        return state

    def follow(self, batches: Iterable[Batch[Item]]) -> Iterator[Iterable[Item]]:
        """Yield the items of each batch, and write STATE after it.

        Once the caller requests the next batch, it has emitted the one before.
        """
        for batch in batches:
            self._set_arrival(batch.arrived_at or self._runtime.now())
            yield batch.items
            if batch.state is not None:
                self.checkpoint(batch.state)

    def _set_arrival(self, arrived_at: datetime) -> None:
        """Set `time_extracted` of the records that follow.

        Targets bound the timestamps of choices by it: a choice that claims to be made later is of
        unknown age.
        """
        self._arrived_at = arrived_at
        text = arrived_at.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
        self._end_of_record = b',"time_extracted":"' + text.encode() + b'"}\n'

    def _generate_record_messages(self, record: Any) -> Generator[RecordMessage, None, None]:
        """Return the messages of a record, with the arrival of its batch."""
        self.emitted += 1
        for message in super()._generate_record_messages(record):
            message.time_extracted = self._arrived_at
            yield message

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Set keys of the stream's state (None removes one), and write STATE."""
        own = self.stream_state
        ledger = cast("BaseTap", self._tap).ledger
        if self.uses_ledger and ledger is not None:
            own[LEDGER] = ledger.id
        for key, value in state.items():
            if value is None:
                own.pop(key, None)
            else:
                own[key] = value
        cast("BaseTap", self._tap).broken_lines.store()
        self._write_buffer()
        self.state_manager.is_flushed = False
        self._write_state_message()

    def get_replication_key_signpost(self, context: Context | None = None) -> None:
        """Return None: sources limit their bookmarks themselves."""
        del context

    def _increment_stream_state(
        self, latest_record: dict[str, Any], *, context: Context | None = None
    ) -> None:
        """Leave the state alone: a single record doesn't move it."""

    def _write_starting_replication_value(self, context: Context | None) -> None:
        """Leave the state alone: sources read their bookmarks from `resume_state`."""

    def raw_records(self, context: Context | None) -> Iterable[Any]:
        """Return the records of `get_records`, in any form that msgspec can encode.

        Override where parts of a record needn't be decoded.
        """
        return self.get_records(context)

    def _sync_records(
        self, context: Context | None = None, *, write_messages: bool = True
    ) -> Generator[dict[str, Any], Any, Any]:
        """Write all records, as bytes unless something must change them.

        The SDK's own loop, for stream maps, deselected properties and tests, takes twice as long.
        """
        cast("BaseTap", self._tap).open_ledger()  # where a program runs streams without `read`
        raw = getattr(self._runtime.stdout, "buffer", None)
        if raw is None or not write_messages or self._must_change_records():
            # `--test` stops the SDK's loop after a record, which is no error.
            with contextlib.suppress(AbortedSyncFailedException, AbortedSyncPausedException):
                yield from super()._sync_records(context, write_messages=write_messages)
            return
        encode = msgspec.json.Encoder().encode
        self._set_arrival(self._runtime.now())
        start = b'{"type":"RECORD","stream":' + encode(self.name) + b',"record":'
        buffer = self._buffer
        with self.get_record_counter() as counter, self.get_sync_timer():
            try:
                for record in self.raw_records(context):
                    self.emitted += 1
                    buffer += (start, encode(record), self._end_of_record)
                    counter.increment()
                    if len(buffer) > _BUFFERED_PARTS:
                        raw.write(b"".join(buffer))
                        buffer.clear()
            finally:  # what was read before an error is emitted, as the SDK does
                self._write_buffer()
        self._write_state_message()

    def _write_buffer(self) -> None:
        if self._buffer:
            raw = self._runtime.stdout.buffer
            raw.write(b"".join(self._buffer))
            self._buffer.clear()
            raw.flush()

    def _must_change_records(self) -> bool:
        maps = self.config.get("stream_maps")
        limited = self.ABORT_AT_RECORD_COUNT is not None
        return bool(maps) or limited or not all(self.mask.values())


def _load(file: IO[str] | None, option: str) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        loaded: Any = load_json(file.read())
    except ValueError:
        problem = "is not valid JSON"
    else:
        if isinstance(loaded, dict):
            return _unwrap(loaded) if option == "--state" else loaded
        problem = "must hold a JSON object"
    remedy = {
        "--state": "It must be the last STATE that the target printed: one line of its output. "
        "Without any, start with {}; everything is read again.",
        "--catalog": "Create it again with --discover.",
    }[option]
    raise BadInputError(codes.DAMAGED_FILE, f"{option} {file.name} {problem}. {remedy}")


def _unwrap(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state itself, of a whole STATE message or of what Meltano's commands show."""
    for name in ("value", "singer_state"):
        inner = state.get(name)
        if isinstance(inner, dict) and "bookmarks" not in state:
            return _unwrap(inner)
    return state
