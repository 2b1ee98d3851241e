"""The target: collects consent records, writes profile changes, and lets STATE out behind them."""

from __future__ import annotations

import gc
import logging
import sys
import time
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec import UNSET
from singer_sdk import Target
from singer_sdk.exceptions import MissingKeyPropertiesError, RecordsWithoutSchemaException
from singer_sdk.helpers.capabilities import (
    TARGET_VALIDATE_RECORDS_CONFIG,
    CapabilitiesEnum,
    PluginCapabilities,
    TargetCapabilities,
)
from singer_sdk.singerlib.exceptions import SingerError

from actito_didomi import privacy
from actito_didomi.actito import Imports, ProfileTable, Written, open_session, read_table
from actito_didomi.didomi import records
from actito_didomi.errors import (
    BadInputError,
    ImportsSpentError,
    OptOutsRejectedError,
    RefusedError,
    StoppedError,
)
from actito_didomi.singer.barriers import StateBarriers, Unsettled
from actito_didomi.singer.plugin import CheckedPlugin
from actito_didomi.singer.reader import SafeReader
from actito_didomi.singer.rejects import Reject, RejectStore
from target_actito import settings as setting
from target_actito.batches import TypedLines, read_batch
from target_actito.bulk import BulkWriter
from target_actito.coalesce import Collector
from target_actito.fast import ShortWay
from target_actito.plan import plan_writes
from target_actito.scope import BY_DELEGATE, Scope
from target_actito.sink import ConsentSink
from target_actito.summary import Summary, to_dict, to_text, write_report
from target_actito.translate import Translator
from target_actito.workspace import Workspace, account_name
from target_actito.writer import Result, Writer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from singer_sdk.plugin_base import _ConfigInput

    from actito_didomi.http import ApiSession
    from actito_didomi.singer.shutdown import Shutdown
    from target_actito.bulk import Imported
    from target_actito.coalesce import ProfileChange

logger = logging.getLogger("target-actito")

_EXAMPLES = 5
_BROKEN_INPUT = (
    SingerError,
    RecordsWithoutSchemaException,
    MissingKeyPropertiesError,
    BadInputError,
)


class TargetActito(CheckedPlugin, Target):
    """Singer target for Actito: writes consent records to subscriptions and attributes of profiles.

    It takes Didomi's consent events, consent users and batch-export lines from any tap.
    """

    name = "target-actito"
    package_name = "actito-didomi"
    config_jsonschema = setting.CONFIG
    default_sink_class = ConsentSink
    compare_first = 200
    """Records at the beginning that are read both the short and the full way."""
    message_reader_class = SafeReader
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.FLATTENING,
        PluginCapabilities.STRUCTURED_LOGGING,
        TargetCapabilities.VALIDATE_RECORDS,
        PluginCapabilities.BATCH,
    ]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.settings = setting.read_settings(self._config)
        self.shutdown.grace = self.settings.shutdown_grace
        self._scope = Scope(self.settings.regulation, self.settings.skip_delegates)
        self._collector = Collector()
        self._barriers = StateBarriers()
        self._unsettled = Unsettled([])
        self._summary = Summary()
        self._started = time.monotonic()
        self._waiting_since: float | None = None
        self._connected: _Connected | None = None
        self._skipped_streams: set[str] = set()
        self._unmatched_examples: list[str] = []
        self._concluded = False
        self._counted: set[str] = set()
        self._short: ShortWay | None = None
        self._short_streams: dict[str, ConsentSink] = {}
        self._decoder = msgspec.json.Decoder()
        if not isinstance(self.message_reader, SafeReader):
            raise TypeError("message_reader_class must be SafeReader")
        self._reader = self.message_reader
        self._reader.on_tick = self._on_tick
        if self._config.get("stream_maps") or self._config.get("flattening_enabled"):
            logger.info(
                "Stream maps or flattening are set: records take the SDK's own path, which takes "
                "longer."
            )
        else:
            self._reader.on_lines = self._take_lines

    # Settings

    @classmethod
    def append_builtin_config(cls, config_jsonschema: dict[str, Any]) -> None:
        """Add the SDK's settings that have a meaning here.

        Those about loading rows into a table (`load_method`, `add_record_metadata`,
        `batch_size_rows`) have none.
        """
        for name, schema in TARGET_VALIDATE_RECORDS_CONFIG["properties"].items():
            config_jsonschema["properties"].setdefault(
                name,
                {
                    **schema,
                    "default": False,
                    "description": "Whether to check records against the JSON schema of their "
                    "stream as well. The types of all that is read are checked in any case.",
                },
            )
        super(Target, cls).append_builtin_config(config_jsonschema)

    @classmethod
    def unfold_settings(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Unfold a pasted connector object; settings given by their own name win."""
        return setting.unfold_connector(config)

    @classmethod
    def find_secrets(cls, config: Mapping[str, Any]) -> list[str]:
        """Collect the API key."""
        return setting.secrets_of(config)

    @classmethod
    def find_problems(cls, config: dict[str, Any]) -> list[str]:
        """Check what a JSON schema can't say, and what this target leaves to others."""
        problems = setting.find_problems(config)
        if not problems:
            setting.announce(config)
        return problems

    # Command line

    @classmethod
    def run(cls, given: _ConfigInput, **files: IO[str] | None) -> None:
        """Read the input to its end, or as far as it goes."""
        target = cls(config=given.config, parse_env_config=given.parse_env)
        target.shutdown.watch()
        # A million people are kept, and none of them in a cycle: looking for cycles while reading,
        # and once more at the end, would take a fifth of the time. While writing it is needed.
        gc.freeze()
        gc.disable()
        try:
            try:
                target.listen(files.get("file_input"))
            except _BROKEN_INPUT:
                target.flush()  # what came before the break is whole
                raise
            target.shutdown.check()  # a signal may have come when all was done
        except StoppedError:
            target.conclude(f"stopped by {target.shutdown.signal_name}")
            target.shutdown.finish()
        except OptOutsRejectedError:
            raise
        except Exception as error:
            target.conclude(f"failed: {type(error).__name__}")
            raise
        finally:
            gc.freeze()

    # Messages

    def _process_schema_message(self, message_dict: dict[str, Any]) -> None:
        super()._process_schema_message(message_dict)
        if any(
            isinstance(sink, ConsentSink) and sink.declares_consent
            for sink in self._sinks_active.values()
        ):
            self._connect()
        self._choose_way(message_dict["stream"])

    def _choose_way(self, stream: str) -> None:
        """Let a stream take the short way where it can."""
        self._short_streams.pop(stream, None)
        sink = self._sinks_active.get(stream)
        if not self._connected or not isinstance(sink, ConsentSink) or not sink.declares_consent:
            return
        if self._short is None:
            self._short = ShortWay(
                self._connected.translator,
                self._collector,
                self._summary,
                scope=self._scope,
                compare_first=self.compare_first,
            )
            self._typed = TypedLines(self._short.record_type)
        if self._short.usable and self._short.can_tell(sink.key_properties):
            self._short_streams[stream] = sink

    def _process_record_message(self, message_dict: dict[str, Any]) -> None:
        self._summary.records += 1
        super()._process_record_message(message_dict)
        self._after_lines()

    def _take_lines(self, block: bytes) -> None:
        """Take in lines of the input: records the short way where they can, all else in full."""
        if not self._short_streams:
            block = self._take_until_short(block)
        if block:
            self._take_typed(_Lines(block), self._typed.messages(block))
        self._after_lines()

    def _take_until_short(self, block: bytes) -> bytes:
        """Take in lines in full, up to the one that lets a stream take the short way.

        Returns:
            The lines behind it.
        """
        lines = block.split(b"\n")
        for at, line in enumerate(lines, start=1):
            self._on_tick()
            self._reader.process_line(line)
            if self._short_streams:
                return b"\n".join(lines[at:])
        return b""

    def _take_typed(self, lines: _Lines, messages: list[Any]) -> None:
        """Take in lines with what they are by type: runs of records of one stream together."""
        reader = self._reader
        streams = {message.stream for message in messages if message is not None}
        records = [
            message.record if message is not None and message.type == "RECORD" else None
            for message in messages
        ]
        at, end = 0, len(messages)
        while at < end:
            record = records[at]
            if record is not None and record is not UNSET:
                stream = messages[at].stream
                sink = self._short_streams.get(stream)
                if sink is not None:
                    stop = at + 1
                    if len(streams) == 1:
                        stop = end
                    while stop < end and messages[stop] and messages[stop].stream == stream:
                        stop += 1
                    taken = self._take_short(sink, records, lines, at, stop)
                    reader.line_number += taken
                    at += taken
                    if at == stop:
                        continue
            self._on_tick()
            reader.process_line(lines[at])
            at += 1

    def _take_short(
        self,
        sink: ConsentSink,
        records: list[Any],
        lines: _Lines,
        start: int,
        stop: int,
        *,
        batch: bool = False,
    ) -> int:
        """Take in records of one stream the short way.

        Returns:
            How many were taken: all, or those before one that must take the full way.
        """
        short = self._short
        if short is None or not short.usable:
            return 0
        if not (sink.validates or short.compares):
            stop = short.first_without(records, sink.key_properties, start, stop)
            taken = short.take_many(records, start, stop, self._summary.records + 1)
            self._summary.records += taken
            return taken
        for at in range(start, stop):
            if (
                records[at] is None
                or records[at] is UNSET
                or short.first_without(records, sink.key_properties, at, at + 1) == at
                or not self._may_be_short(short, sink, records[at], lines[at], batch=batch)
                or not short.take(records[at], self._summary.records + 1)
            ):
                return at - start
            self._summary.records += 1
        return stop - start

    def _may_be_short(
        self, short: ShortWay, sink: ConsentSink, record: Any, line: bytes, *, batch: bool
    ) -> bool:
        """Check what a typed record doesn't show: its schema, and at first the full way."""
        whole = self._decoder.decode(line)
        whole = whole if batch else whole["record"]
        if sink.validates and not sink.accepts(whole):
            return False
        if short.compares:
            short.compare(record, whole)
            if not short.usable:
                self._short_streams.clear()
                return False
        return True

    def _after_lines(self) -> None:
        """See whether it is time to write."""
        if self._waiting_since is None and self._collector.waiting:
            self._waiting_since = time.monotonic()
        if self._collector.waiting >= self.settings.max_buffered_people:
            logger.info("Changes of %d people are gathered.", self._collector.waiting)
            self.flush()

    def _process_state_message(self, message_dict: dict[str, Any]) -> None:
        self._assert_line_requires(message_dict, requires={"value"})
        self._barriers.add(message_dict["value"], after=self._summary.records)
        self._release()

    def _process_activate_version_message(self, message_dict: dict[str, Any]) -> None:
        """Ignore it: nothing is ever deleted for being absent from a stream."""

    def _process_batch_message(self, message_dict: dict[str, Any]) -> None:
        """Take in the files of a BATCH message, streamed."""
        self._assert_line_requires(message_dict, requires={"stream", "encoding", "manifest"})
        stream = message_dict["stream"]
        self._assert_sink_exists(stream)
        options = self.settings.storage_options
        for url in message_dict["manifest"]:
            before = self._summary.records
            blocks = read_batch(url, message_dict["encoding"], options)
            for number, block in blocks:
                self._on_tick()
                self._take_batch_lines(stream, url, number, block)
                self._after_lines()
            logger.info("BATCH file read: %d records.", self._summary.records - before)

    def _take_batch_lines(self, stream: str, url: str, number: int, block: bytes) -> None:
        """Take in lines of one file of a BATCH message.

        Raises:
            BadInputError: One is no JSON object.
        """
        lines, at = _Lines(block), 0
        sink = self._short_streams.get(stream)
        records = self._typed.records(block) if sink else []
        end = len(records) if sink else len(lines)
        while at < end:
            if sink is not None:
                at += self._take_short(sink, records, lines, at, end, batch=True)
                if at == end:
                    return
            line = lines[at]
            at += 1
            if not line.strip():
                continue
            try:
                whole = self._decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                whole = None
            if not isinstance(whole, dict):
                raise BadInputError(
                    f"{url}, line {number + at - 1}: no JSON object. Nothing behind it is "
                    "acknowledged; have the file made again."
                )
            self._process_record_message({"type": "RECORD", "stream": stream, "record": whole})

    def _handle_max_record_age(self) -> None:
        """Do nothing: `_on_tick` looks at the age of what waits, also while the tap is quiet."""

    def _write_state_message(self, state: dict[str, Any]) -> None:
        """Print nothing: STATE leaves through `_release` only, never from a drain of the SDK."""

    def process_endofpipe(self) -> None:
        """Write what is left, let the last STATE out, and report.

        Raises:
            OptOutsRejectedError: An opt-out could not be written.
        """
        self.flush()
        super().process_endofpipe()
        rejected = self._summary.rejected_opt_outs
        self.conclude("opt-outs rejected" if rejected else "success")
        if rejected and self._connected:
            raise OptOutsRejectedError(
                f"{rejected} change(s) that hold an opt-out could not be written. They are in "
                f"{self._connected.rejects.path} with the reason. Everything else is written. "
                "Someone has to see to these people before the next campaign."
            )

    # Collecting

    def collect(self, sink: ConsentSink, record: dict[str, Any], invalid: str | None) -> None:
        """Take in one record of a stream.

        Args:
            sink: The stream's sink.
            record: The record.
            invalid: What is wrong with it, or None.
        """
        if records.shape_of(record) is None and not sink.declares_consent:
            self._skip_stream(sink.stream_name)
            return
        connected = self._connect()
        if invalid is not None:
            self._reject_record(connected, record, invalid)
            return
        try:
            parts = records.split_record(record)
        except BadInputError as error:
            self._reject_record(connected, record, str(error))
            return
        for part in parts:
            try:
                consent = records.read_record(part)
            except BadInputError as error:
                self._reject_record(connected, part, str(error))
            else:
                self._collect_consent(connected, consent)

    def _collect_consent(self, connected: _Connected, consent: records.ConsentRecord) -> None:
        reason = self._scope.reason_to_skip(
            consent.person, consent.status, consent.regulation, consent.delegate
        )
        if reason:
            self._summary.skipped[reason] += 1
            if reason is BY_DELEGATE:
                # Not to be written, but older choices must not be written over it either.
                values, _ = connected.translator.translate(replace(consent, metadata={}))
                number = self._summary.records
                self._collector.add(consent.person or "", number, values, written=True)
            return
        person = consent.person or ""
        values, failed = connected.translator.translate(consent)
        self._collector.add(person, self._summary.records, values)
        for choice in failed:
            self._reject(
                connected,
                Reject(
                    reason=choice.reason,
                    person=person,
                    opt_out=choice.opt_out,
                    record={"target": choice.id, "moment": consent.moment, **consent.tree},
                ),
            )

    def _skip_stream(self, stream: str) -> None:
        self._summary.skipped["without consents"] += 1
        if stream not in self._skipped_streams:
            self._skipped_streams.add(stream)
            logger.warning(
                "Stream %r holds no consent records; its records are counted and skipped.", stream
            )

    def _reject_record(self, connected: _Connected, record: Any, reason: str) -> None:
        self._reject(
            connected,
            Reject(
                reason=reason,
                person=_person_of(record),
                opt_out=_may_opt_out(connected.translator, record),
                record=record,
            ),
        )

    def _reject(self, connected: _Connected, reject: Reject) -> None:
        try:
            connected.rejects.add(reject)
        finally:
            self._summary.rejected = connected.rejects.count
            self._summary.rejected_opt_outs = connected.rejects.opt_outs
        logger.warning(
            "Rejected%s: person %s: %s",
            " (an opt-out)" if reject.opt_out else "",
            privacy.hash_person(reject.person) if reject.person else "unknown",
            reject.reason,
        )

    # Writing

    def flush(self) -> None:
        """Write all that is gathered, and let out the STATE that is due.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        changes = self._collector.take()
        self._waiting_since = None
        if changes and self._connected:
            gc.enable()
            self._write(self._connected, changes)
            gc.disable()
        self._release()

    def _write(self, connected: _Connected, changes: list[ProfileChange]) -> None:
        logger.info(
            "Writing the changes of %d people, %d of them with an opt-out.",
            len(changes),
            sum(change.opt_out for change in changes),
        )
        if connected.bulk is None:
            plan = plan_writes(changes, self.settings.bulk.limits)
        else:
            plan = connected.bulk.plan(changes)
        logger.info("%s", plan.to_text())
        parts = [*plan.urgent, *plan.later, *plan.held]
        parts += [change for file in plan.files for change in file.changes]
        self._unsettled = Unsettled(part.first_record for part in parts)
        self._counted.clear()
        if connected.bulk is None:
            connected.writer.write([*plan.urgent, *plan.later], self._settle)
            return
        try:
            connected.bulk.write(plan, self._settle, self._settle_import)
        except ImportsSpentError as error:
            self._summary.held = error.held
            raise

    def _settle_import(self, imported: Imported) -> None:
        """Take note of rows that an import has settled.

        Where a person's change was spread over several imports, they count in the first one.
        """
        summary = self._summary
        summary.imports += 1
        rows = len(imported.changes)
        new = 0
        for change in imported.changes:
            new += change.person not in self._counted
            self._counted.add(change.person)
            self._unsettled.settle(change.first_record)
        if imported.counts is None:
            summary.imported += new
        elif rows:
            created, updated = (round(count * new / rows) for count in imported.counts)
            summary.created += created
            summary.updated += updated
            summary.unmatched += new - created - updated
        self._release()

    def _settle(self, result: Result) -> None:
        summary, change, outcome = self._summary, result.change, result.outcome
        if isinstance(outcome, RefusedError):
            self._reject(
                self._connect(),
                Reject(
                    reason=str(outcome),
                    person=change.person,
                    opt_out=change.opt_out,
                    change={
                        "attributes": change.attributes,
                        "subscriptions": change.subscriptions,
                    },
                    status=outcome.status,
                    answer=outcome.body,
                ),
            )
        elif outcome is Written.UPDATED:
            summary.updated += 1
        elif outcome is Written.CREATED:
            summary.created += 1
        elif outcome is Written.UNMATCHED:
            summary.unmatched += 1
            if len(self._unmatched_examples) < _EXAMPLES:
                self._unmatched_examples.append(privacy.hash_person(change.person))
        self._unsettled.settle(change.first_record)
        self._release()

    def _release(self) -> None:
        """Print the STATE messages before which everything is settled."""
        waiting = [n for n in (self._unsettled.oldest, self._collector.oldest) if n is not None]
        for state in self._barriers.release(min(waiting, default=None)):
            sys.stdout.write(msgspec.json.encode(state).decode() + "\n")
            sys.stdout.flush()

    # Time and signals

    def _on_tick(self) -> None:
        self.shutdown.check()
        since = self._waiting_since
        if since is not None and time.monotonic() - since >= self.settings.flush_interval:
            self.flush()

    # The end

    def conclude(self, status: str) -> None:
        """Print the summary, and write the report; once."""
        if self._concluded:
            return
        self._concluded = True
        summary = self._summary
        summary.status = status
        summary.people = self._collector.people
        summary.unchanged = self._collector.people_unchanged
        summary.seconds = time.monotonic() - self._started
        if self._connected:
            if self._connected.workspace:
                self._connected.workspace.close()
            summary.calls = self._connected.session.count.calls
            summary.retries = self._connected.session.count.retries
            self._report_metadata(self._connected.translator)
        if summary.unmatched:
            logger.info(
                "%d people have no profile in Actito, for example %s. Nothing was created.",
                summary.unmatched,
                ", ".join(self._unmatched_examples),
            )
        logger.info("%s", to_text(summary), extra={"summary": to_dict(summary)})
        if self.settings.report_path:
            try:
                write_report(summary, self.settings.report_path)
            except OSError as error:
                logger.error(  # noqa: TRY400
                    "report_path: the report can't be written: %s", error.strerror
                )

    def _report_metadata(self, translator: Translator) -> None:
        if names := sorted(translator.unknown_metadata):
            logger.info(
                "Metadata that is no attribute of the table, left out: %s.", ", ".join(names)
            )
        for name, count in sorted(translator.unusable_metadata.items()):
            logger.warning("Metadata %r could not be converted in %d records.", name, count)

    def _connect(self) -> _Connected:
        """Open the session and check the configuration against the table, once."""
        if self._connected is None:
            self._connected = _Connected(self.settings, self.shutdown)
        return self._connected


class _Lines:
    """The lines of a block, cut apart only when one is asked for."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._lines: list[bytes] | None = None

    def __getitem__(self, at: int) -> bytes:
        if self._lines is None:
            self._lines = self._block.split(b"\n")
        return self._lines[at]

    def __len__(self) -> int:
        return self._block.count(b"\n") + 1


class _Connected:
    """What exists once Actito is needed: session, table, translator, writer, rejects."""

    def __init__(self, settings: setting.Settings, shutdown: Shutdown) -> None:
        self.rejects = RejectStore(settings.rejects_path, settings.max_rejects)
        self.session: ApiSession = open_session(
            settings.api_key,
            base_url=settings.base_url,
            calls_per_minute=settings.calls_per_minute,
            max_concurrency=settings.max_concurrency,
            timeout=settings.request_timeout,
            retry=settings.retry,
            stop=shutdown.requested,
        )
        structure = read_table(
            self.session, settings.entity_id, settings.table_name, settings.user_unique_key
        )
        self.translator = Translator(
            structure, settings.user_unique_key, settings.mappings, settings.zone
        )
        self.writer = Writer(
            ProfileTable(self.session, structure, settings.user_unique_key),
            create=settings.upsert_mode,
            max_concurrency=settings.max_concurrency,
            shutdown=shutdown,
        )
        self.bulk: BulkWriter | None = None
        self.workspace: Workspace | None = None
        if settings.bulk.limits.mode != "single":
            imports = Imports(
                self.session,
                structure,
                settings.user_unique_key,
                create=settings.upsert_mode,
                etl_id=settings.bulk_etl_id,
                definition=settings.bulk_definition,
            )
            imports.check(told_mode=settings.bulk_etl_mode)
            self.workspace = Workspace(
                account_name(settings.base_url, structure.entity, structure.id)
            )
            self.bulk = BulkWriter(imports, self.writer, self.workspace, settings.bulk, shutdown)


def _person_of(record: Any) -> str | None:
    """Find whose record this is, in one that could not be read."""
    if not isinstance(record, dict):
        return None
    user = record.get("user")
    owner = user if isinstance(user, dict) else record
    person = owner.get("organization_user_id")
    return str(person) if isinstance(person, (str, int)) else None


def _may_opt_out(translator: Translator, record: Any) -> bool:
    """Tell whether a record that could not be read may hold an opt-out."""
    if not isinstance(record, dict):
        return False
    events = record.get("events")
    parts = [record, *(events if isinstance(events, list) else [])]
    return any(translator.may_opt_out(p.get("consents")) for p in parts if isinstance(p, dict))
