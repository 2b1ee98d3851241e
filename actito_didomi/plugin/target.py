"""A target for consent records: it reads, rejects, and emits STATE after what is done."""

from __future__ import annotations

import atexit
import contextlib
import gc
from typing import IO, TYPE_CHECKING, Any, ClassVar

import msgspec
from singer_sdk import Target
from singer_sdk.exceptions import MissingKeyPropertiesError, RecordsWithoutSchemaException
from singer_sdk.helpers.capabilities import (
    TARGET_VALIDATE_RECORDS_CONFIG,
    CapabilitiesEnum,
    PluginCapabilities,
    TargetCapabilities,
)
from singer_sdk.singerlib.exceptions import SingerError

from actito_didomi import codes, privacy
from actito_didomi.consent import records
from actito_didomi.consent.conflicts import END, to_micros
from actito_didomi.consent.copying import copy_for_trial
from actito_didomi.consent.identity import match_key
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.rejects import NewReject, RejectDetails
from actito_didomi.errors import (
    ActitoDidomiError,
    BadInputError,
    ChangesDeferredError,
    MistakeFoundError,
    OptOutsOwedError,
    OptOutsRejectedError,
    StoppedError,
    TooManyRejectsError,
    code_of,
    exit_status_of,
)
from actito_didomi.lines import CutLine, LongLine
from actito_didomi.plugin.base import BasePlugin
from actito_didomi.plugin.reader import SafeReader
from actito_didomi.plugin.rejects import Reject, RejectStore
from actito_didomi.plugin.reports import write_reports
from actito_didomi.plugin.sink import ConsentSink
from actito_didomi.plugin.state import StateBarriers, Unacknowledged, check_ledger
from actito_didomi.plugin.trial import Trial
from actito_didomi.tolerant import is_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from singer_sdk.plugin_base import _ConfigInput

    from actito_didomi.codes import Code
    from actito_didomi.consent.schema import LedgerScope
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.config import HasTargetSettings
    from actito_didomi.plugin.guards import Guards, Trip
    from actito_didomi.plugin.summary import Summary

_OBJECTS_PER_COLLECTION = 200_000
"""New objects after which unused ones are looked for while writing."""
_EXAMPLES = 5
_KEY_BYTES = 16
_MANY_RECORDS = 20
"""Records of another regulation alone that show a mistake, though there were others before."""
_BROKEN_INPUT = (
    SingerError,
    RecordsWithoutSchemaException,
    MissingKeyPropertiesError,
    BadInputError,
)


class ConsentTarget(BasePlugin, Target):
    """What targets for consent records share; a plugin says how to gather and to write them.

    A record is acknowledged when what it says is written, rejected durably or skipped. STATE is
    emitted only when all records before it are acknowledged.

    Attributes:
        summary: Counts of the run.
        arrival: When the record that is read had arrived at the latest; None for now.
    """

    package_name = "actito-didomi"
    default_sink_class = ConsentSink
    system: ClassVar[str]
    """The system written to, as people call it."""
    summary_class: ClassVar[type[Summary]]
    guards: Guards | None = None
    """Limits on what a run may change; a target that has such settings sets it."""
    settings: HasTargetSettings
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        PluginCapabilities.ABOUT,
        PluginCapabilities.STREAM_MAPS,
        PluginCapabilities.STRUCTURED_LOGGING,
        TargetCapabilities.VALIDATE_RECORDS,
    ]

    def __init__(self, **kwargs: Any) -> None:
        self._reader = _TargetReader(self)
        super().__init__(message_reader=self._reader, **kwargs)
        self.max_parallelism = 1  # sinks hold nothing, so the SDK needs no threads to drain them
        self.shutdown.grace = self.settings.target.shutdown_grace
        self._reader.max_line_bytes = self.settings.target.max_line_bytes
        self.summary = self.summary_class()
        self.mistake: MistakeFoundError | None = None
        self._has_gathered = self._has_ended = False
        self.arrival: datetime | None = None
        self._barriers = StateBarriers()
        self._unacknowledged = Unacknowledged([])
        self._rejects: RejectStore | None = None
        self.ledger: Ledger | None = None
        self._lease = contextlib.ExitStack()
        self._session: ApiSession | None = None
        self._started = self.runtime.monotonic()
        self._state_after: int | None = None
        self._waiting_since: float | None = None
        self._skipped_streams: set[str] = set()
        self._unmatched_examples: list[str] = []
        self._hash_key = b""
        self.trial: Trial | None = None
        if self.settings.target.dry_run:
            self.trial = Trial(self.runtime, self.logger)
        self._concluded = False
        self._is_writing = False
        self._pauses_gc = False

    # What a plugin says

    def open(self) -> ApiSession:
        """Open the API, and check the configuration against it.

        Called once, when the first stream with consents is declared or its first record comes.
        """
        raise NotImplementedError

    def ledger_scope(self) -> LedgerScope:
        """Return the pair of organisation and table, as far as the settings name it."""
        raise NotImplementedError

    def take(self, consent: records.ConsentRecord, part: Mapping[str, Any]) -> None:
        """Gather one consent record; `summary.records` is its number.

        Args:
            consent: The record.
            part: The same as it came.

        Raises:
            BadInputError: It can't be read after all; it becomes a reject.
        """
        raise NotImplementedError

    def found_consent(self, sink: ConsentSink) -> None:
        """Note that a stream holds consent records: at its SCHEMA, or at its first such record.

        Args:
            sink: The stream's sink.
        """

    def may_opt_out(self, part: dict[str, Any]) -> bool:
        """Return whether a record, or event of one, that could not be read may hold an opt-out."""
        raise NotImplementedError

    @property
    def waiting(self) -> int:
        """How many people have something gathered."""
        raise NotImplementedError

    @property
    def oldest_waiting(self) -> int | None:
        """Number of the earliest record of which something is gathered."""
        raise NotImplementedError

    def write_gathered(self) -> None:
        """Write what is gathered: `expect` it first, then `acknowledge` each part.

        Requests belong into `collecting_garbage`.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Check, once all is written and the last STATE is out, that the run has ended well.

        Raises:
            ActitoDidomiError: It has not.
        """

    @property
    def regulation(self) -> str:
        """The regulation whose consents are synced."""
        raise NotImplementedError

    @property
    def knows_regulation(self) -> bool:
        """Whether earlier runs met records of the regulation."""
        return False

    @property
    def suspects_mistake(self) -> bool:
        """Whether the settings look wrong so far: no STATE leaves before that is clear."""
        return False

    @property
    def seen_regulations(self) -> str:
        """What is known of the regulations of records, in words after that of the settings."""
        return ""

    def close(self) -> None:
        """Fill in the rest of the summary, and put things away; also after a failure."""
        raise NotImplementedError

    # Settings

    @classmethod
    def append_sdk_config(cls, config_jsonschema: dict[str, Any]) -> None:
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

    # Command line

    @classmethod
    def run(cls, given: _ConfigInput, **files: IO[str] | None) -> None:
        """Read the input to its end, or as far as it goes."""
        target = cls(config=given.config, parse_env_config=given.parse_env)
        target.shutdown.watch()
        # A million people are kept, and none of them in a cycle: looking for cycles while reading,
        # and once more at the end, would take a fifth of the time. While writing it is needed.
        target._pauses_gc, frozen = gc.isenabled(), gc.get_freeze_count()
        gc.freeze()
        gc.disable()
        try:
            try:
                target.listen(files.get("file_input"))
            except _BROKEN_INPUT:
                target.flush()  # what came before the break is whole
                raise
            except TooManyRejectsError:
                if not target._is_writing:
                    target.flush()  # opt-outs gathered before must not wait for the mistake
                raise
            target.shutdown.check()  # a signal may have come when all was done
        except StoppedError as error:
            target.conclude(f"stopped by {target.shutdown.signal_name}", error)
            target.shutdown.finish()
        except (OptOutsRejectedError, OptOutsOwedError, ChangesDeferredError, MistakeFoundError):
            raise
        except Exception as error:
            target.conclude("failed", error)
            raise
        finally:
            if not frozen:
                gc.unfreeze()
            if target._pauses_gc:
                gc.enable()
            atexit.register(gc.freeze)

    # Messages

    def take_lines(self, block: bytes) -> None:
        """Read whole lines of the input; override to read many at once.

        Args:
            block: The lines, without the end of the last.
        """
        for line in block.split(b"\n"):
            self.take_line(line)

    def count_lines(self, count: int) -> None:
        """Record that this many lines with a record were read without `take_line`."""
        self._reader.count_records(count)

    def take_line(self, line: bytes) -> None:
        """Read one line of the input, as a whole."""
        self.on_idle()
        self._reader.process_line(line)

    def _process_schema_message(self, message_dict: dict[str, Any]) -> None:
        super()._process_schema_message(message_dict)
        for sink in self._sinks_active.values():
            if isinstance(sink, ConsentSink) and sink.declares_consent:
                self.connect()
                self.found_consent(sink)

    def _process_record_message(self, message_dict: dict[str, Any]) -> None:
        self.summary.records += 1
        self.arrival = records.read_arrival(message_dict.get("time_extracted"))
        super()._process_record_message(message_dict)
        self.after_records()

    def after_records(self) -> None:
        """See whether it is time to write."""
        if self._waiting_since is None and self.waiting:
            self._has_gathered = True
            self._waiting_since = self.runtime.monotonic()
        if self.waiting >= self.settings.target.max_buffered_people:
            self.logger.info("People whose changes are gathered: %d.", self.waiting)
            self.flush()

    def _process_state_message(self, message_dict: dict[str, Any]) -> None:
        self._assert_line_requires(message_dict, requires={"value"})
        state = message_dict["value"]
        if self.ledger is not None and self.settings.ledger.on_lost_ledger == "fail":
            check_ledger(state, self.ledger.id)
        self._state_after = self.summary.records
        self._barriers.add(state, after=self.summary.records)
        self._release()

    def _process_activate_version_message(self, message_dict: dict[str, Any]) -> None:
        """Ignore it: nothing is ever deleted for being absent from a stream."""

    def _process_batch_message(self, message_dict: dict[str, Any]) -> None:
        """Refuse files: the SDK would hand their records to a sink that keeps none.

        Raises:
            BadInputError: Always.
        """
        raise BadInputError(
            codes.BATCH_UNSUPPORTED,
            f"{self.name} takes no BATCH messages (stream {message_dict.get('stream')!r}). Take "
            "batch_config out of the tap's settings.",
        )

    def _handle_max_record_age(self) -> None:
        """Do nothing: `on_idle` looks at the age of what waits, also while the tap is quiet."""

    def _write_state_message(self, state: dict[str, Any]) -> None:
        """Print nothing: STATE leaves through `_release` only, never from a drain of the SDK."""

    def process_endofpipe(self) -> None:
        """Write what is left, let the last STATE out, and report.

        Raises:
            OptOutsRejectedError: An opt-out could not be written.
        """
        self._open_if_owed()
        self._check_regulation()
        self._has_ended = True
        self.flush()
        super().process_endofpipe()
        if self.trial is not None:
            if self._trip is not None:
                self.logger.warning("A guard would trip: %s", self._deferred(self._trip))
            if self.mistake is not None:
                self.logger.warning("%s", self.mistake)
            self.conclude("dry run")
            return
        self.finish()
        if self.ledger is not None:
            self._conclude_with_ledger(self.ledger)
            return
        rejected, trip = self.summary.rejected_opt_outs, self._trip
        if not rejected or self._rejects is None:
            if trip is not None:
                deferred_changes = self._deferred(trip)
                self.conclude("changes deferred", deferred_changes)
                raise deferred_changes
            self._conclude_well()
            return
        error = OptOutsRejectedError(
            f"{rejected} change(s) that hold an opt-out could not be written. They are in "
            f"{self._rejects.path} with the reason. Everything else is written. "
            "Resolve these rejects before the next campaign."
        )
        self.conclude("opt-outs rejected", error)
        raise error

    def _conclude_with_ledger(self, ledger: Ledger) -> None:
        """Report, with what the ledger says is owed.

        Raises:
            OptOutsOwedError: An opt-out is owed for another reason than a missing profile.
            ChangesDeferredError: Opt-ins wait for a decision.
        """
        owed = ledger.count_owed()
        unreadable = ledger.count_rejects(self.direction)
        opt_outs = owed.opt_outs(self.direction)
        opt_outs += sum(n for (_, is_opt_out), n in unreadable.items() if is_opt_out)
        deferred = owed.deferred if self.direction == "forward" else 0
        trip = self._trip
        error: ActitoDidomiError
        if opt_outs:
            error = OptOutsOwedError(
                f"{opt_outs} opt-out(s) could not be written to {self.system}, and are owed. "
                "Everything else is written. See them with `actito-didomi rejects list "
                "--opt-outs`, and resolve them before the next campaign. Each run attempts them "
                "again."
            )
            if trip is not None:
                self.logger.error("%s", self._deferred(trip))
            self.conclude("opt-outs owed", error)
            raise error
        if trip is not None:
            error = self._deferred(trip)
            self.conclude("changes deferred", error)
            raise error
        if deferred:
            error = ChangesDeferredError(
                codes.CHANGES_DEFERRED,
                f"People whose opt-ins wait: {deferred}. Their profiles were opted out at the "
                "first look, and nobody knows since when. Set `baseline` in all plugins: "
                "`opt_out` (they stay opted out) or `didomi` (Didomi's choice counts). All "
                "opt-outs are written.",
            )
            self.conclude("changes deferred", error)
            raise error
        self._conclude_well()

    def _conclude_well(self) -> None:
        """Report a run without errors, and say so if the input may be a part only.

        A tap ends with STATE. Where that is missing, it may have failed: a pipe shows no exit
        status.

        Raises:
            MistakeFoundError: The records show that the settings are wrong.
        """
        if self.mistake is not None:
            self.conclude("mistake found", self.mistake)
            raise self.mistake
        if self._state_after == self.summary.records:
            self.conclude("success")
            return
        self.logger.warning(
            "%s: the input ended %s. The tap may have failed: look at its log and exit status. "
            "What came is written.",
            codes.INPUT_ENDED,
            "without a STATE message" if self._state_after is None else "after the last STATE",
        )
        self.conclude("input ended")

    def _deferred(self, trip: Trip) -> ChangesDeferredError:
        """Return the error that a guard held changes back."""
        written = "Opt-outs are written" if self._writes_opt_outs else "Nothing more is written"
        if self.ledger is None:
            rest = "STATE stays before what is not"
        else:
            rest = "all else is owed, and attempted again at each run"
        return ChangesDeferredError(
            trip.code,
            f"{trip.text}. {written}; {rest}. Correct the settings, or, if this is right, run "
            "once with `force_guards: true`.",
        )

    @property
    def _trip(self) -> Trip | None:
        """The limit of a guard that was passed."""
        return None if self.guards is None else self.guards.trip

    @property
    def _writes_opt_outs(self) -> bool:
        return self.guards is None or self.guards.settings.guards_allow_opt_outs

    # Records

    def collect(
        self, sink: ConsentSink, record: dict[str, Any], invalid: tuple[Code, str] | None
    ) -> None:
        """Collect one record of a stream.

        Args:
            sink: The stream's sink.
            record: The record.
            invalid: Code and text of what is wrong with it, or None.
        """
        if records.shape_of(record) is None and not sink.declares_consent:
            self._skip_stream(sink.stream_name)
            return
        self.connect()
        self.found_consent(sink)
        if invalid is not None:
            self._reject_record(record, *invalid)
            return
        try:
            parts = records.split_record(record)
        except BadInputError as error:
            self._reject_record(record, error.code, error.message)
            return
        for part in parts:
            try:
                self.take(records.read_record(part), part)
            except BadInputError as error:
                self._reject_record(part, error.code, error.message)

    def _skip_stream(self, stream: str) -> None:
        self.summary.skip(codes.NO_CONSENT)
        if stream not in self._skipped_streams:
            self._skipped_streams.add(stream)
            self.logger.warning(
                "%s: stream %r holds no consent records; its records are counted and skipped.",
                codes.NO_CONSENT,
                stream,
            )

    def _reject_record(self, record: Any, code: Code, reason: str) -> None:
        parts = _parts_of(record)
        opt_out = parts is None or any(self.may_opt_out(part) for part in parts)
        self.reject(Reject(code, reason, _person_of(record), opt_out=opt_out, record=record))

    def reject_line(self, line: bytes, reason: str) -> None:
        """Reject a line that can't be decoded, with its bytes: it may hold an opt-out.

        Args:
            line: The line, or the beginning of one that is too long.
            reason: What is wrong with it, and where it stands.
        """
        self.summary.records += 1
        self.reject(Reject(codes.UNREADABLE_LINE, reason, opt_out=True, raw=bytes(line)))

    def reject(self, reject: Reject) -> None:
        """Store a reject, count it and say so.

        Raises:
            TooManyRejectsError: There are more than `max_rejects`.
        """
        store = self.connect()
        try:
            if self.ledger is not None and not (reject.record is None and reject.raw is None):
                self._keep_unreadable(self.ledger, reject)
            store.add(reject)
        finally:
            self.summary.rejected = store.count
            self.summary.rejects = store.by_code
            self.summary.rejected_opt_outs = store.opt_outs
        self.logger.warning(
            "Rejected%s: person %s: %s: %s",
            " (an opt-out)" if reject.opt_out else "",
            self._name_of(reject.person) if reject.person else "unknown",
            reject.code,
            reject.reason,
        )

    def _keep_unreadable(self, ledger: Ledger, reject: Reject) -> None:
        """Store in the ledger what could not be read; what was refused stands with its person."""
        now = to_micros(self.runtime.now())
        details = RejectDetails(
            reason=reject.reason,
            run=str(self._run[1]) if self._run else "",
            first_at=now,
            response=reject.response or "",
            raw=msgspec.json.encode(reject.record, enc_hook=str)
            if reject.raw is None
            else reject.raw,
        )
        ledger.add_reject(
            NewReject(
                code=reject.code.name,
                person=reject.person,
                opt_out=reject.opt_out,
                due=END,
                direction=self.direction,
                details=details,
            )
        )

    def note_unmatched(self, person: str) -> None:
        """Count a person whom the other side doesn't know."""
        self.summary.unmatched += 1
        if len(self._unmatched_examples) < _EXAMPLES:
            self._unmatched_examples.append(self._name_of(person))

    def _name_of(self, person: str) -> str:
        """Return what a person is called in logs; with a ledger, what commands call them."""
        if self.ledger is None:
            self._hash_key = self._hash_key or self.runtime.token(_KEY_BYTES).encode()
            return privacy.hash_person(person, self._hash_key)
        return self.ledger.hash(match_key(person, self.ledger.matching()))

    def connect(self) -> RejectStore:
        """Open what is needed for writing, once; give where rejects are kept."""
        if self._rejects is None:
            target = self.settings.target
            path = target.rejects_path
            if self.trial is not None:
                path = str(self.trial.folder / "rejects.jsonl")
            rejects = RejectStore(path, target.max_rejects, self.runtime)
            self._open_ledger()
            self._session = self.open()
            self._session.read_only = self.trial is not None
            self._rejects = rejects
        return self._rejects

    def _open_if_owed(self) -> None:
        """Open what is needed for writing where something is owed, though no record came."""
        if self._rejects is not None or not self.settings.ledger.has_ledger:
            return
        self._open_ledger()
        ledger, direction = self.ledger, self.direction
        if ledger is not None and (
            ledger.count_owed().to(direction) or (direction == "forward" and ledger.open_imports())
        ):
            self.connect()

    def _open_ledger(self) -> None:
        """Open the ledger, and keep other runs of this direction out of it.

        Raises:
            SettingsError: It can't be used, or another run of this direction uses it.
        """
        if self.ledger is not None:
            return
        settings = self.settings.ledger
        if not settings.has_ledger:
            self.logger.warning(
                "%s: `ledger_url` is `none`: each record is judged by itself. A person's own "
                "newer choice on the other side may be overwritten, what could not be written is "
                "not tried again, and hashes of people can't be compared between runs.",
                codes.NO_LEDGER,
            )
            return
        if self.trial is not None:
            settings = copy_for_trial(settings, self.trial.folder, self.runtime)
        ledger = Ledger.open(settings, self.ledger_scope(), self.runtime)
        try:
            self._lease.enter_context(
                ledger.lease(
                    self.direction,
                    settings.lease_wait,
                    holder=self.name,
                    stop=self.shutdown.requested,
                )
            )
        except BaseException:
            ledger.close()
            raise
        self.ledger = ledger
        self.record_start(ledger)

    def close_ledger(self) -> None:
        """Release the lease, and close the ledger."""
        self._lease.close()
        if self.ledger is not None:
            self.ledger.close()

    # Writing

    @property
    def has_ended(self) -> bool:
        """Whether the input has ended: what is written now is the last."""
        return self._has_ended

    def flush(self) -> None:
        """Write all that is gathered, and emit the STATE that is due.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        self._waiting_since = None
        if self._session:
            self._is_writing = True  # stays set if writing fails: it isn't begun again
            self.write_gathered()
            self._is_writing = False
        self._release()

    @property
    def waits_since(self) -> float | None:
        """Since when requests wait for the limit, by the monotonic clock; None while they don't."""
        return None if self._session is None else self._session.waits_since

    @contextlib.contextmanager
    def collecting_garbage(self) -> Iterator[None]:
        """Look for unused objects while writing, where `run` has paused that."""
        if not self._pauses_gc:
            yield
            return
        gc.freeze()  # the people gathered need not be looked at
        thresholds = gc.get_threshold()
        gc.set_threshold(_OBJECTS_PER_COLLECTION)  # nor the rows of each transaction, repeatedly
        gc.enable()
        try:
            yield
        finally:
            gc.disable()
            gc.set_threshold(*thresholds)

    def expect(self, first_records: Iterable[int]) -> None:
        """Record what is about to be written.

        Args:
            first_records: For each part the number of the earliest record it holds something of.
        """
        self._unacknowledged = Unacknowledged(first_records)

    def acknowledge(self, *first_records: int) -> None:
        """Record that parts are written, rejected or skipped, and emit the STATE that is due."""
        for first_record in first_records:
            self._unacknowledged.acknowledge(first_record)
        self._release()

    def _release(self) -> None:
        """Emit the STATE messages before which everything is acknowledged.

        None leaves once the records show that the settings are wrong: they are to be read again.
        """
        if not len(self._barriers) or self.mistake is not None or self.trial is not None:
            return
        if self.ledger is None and self._trip is not None:
            return  # what a guard defers is kept nowhere else
        if not self._has_ended and (self._misses_regulation or self.suspects_mistake):
            return
        waiting = [n for n in (self._unacknowledged.oldest, self.oldest_waiting) if n is not None]
        for state in self._barriers.release(min(waiting, default=None)):
            self.runtime.stdout.write(msgspec.json.encode(state).decode() + "\n")
            self.runtime.stdout.flush()

    @property
    def _misses_regulation(self) -> bool:
        """Whether all records so far belong to another regulation."""
        skipped = self.summary.skipped[codes.OTHER_REGULATION.name]
        return skipped > 0 and skipped >= self.summary.records and not self._has_gathered

    def _check_regulation(self) -> None:
        """See at the end whether all records belong to another regulation."""
        few = self.summary.records < _MANY_RECORDS
        if self._misses_regulation and not (few and self.knows_regulation):
            self.mistake = MistakeFoundError(
                codes.REGULATION_MISSED,
                f"All {self.summary.records:,} records belong to another regulation than "
                f"{self.regulation!r}{self.seen_regulations}. STATE stays. Correct `regulation`, "
                "and run again.",
            )

    # Time and signals

    def on_idle(self) -> None:
        """Look at signals, and at how long changes have waited."""
        self.shutdown.check()
        since, longest = self._waiting_since, self.settings.target.flush_interval
        if since is not None and self.runtime.monotonic() - since >= longest:
            self.flush()

    # The end

    def conclude(self, status: str, error: Exception | None = None) -> None:
        """Print the summary, record it in the ledger, and write the report; once.

        Args:
            status: How the run ends, in words.
            error: What it ends with; None for exit status 0.
        """
        if self._concluded:
            return
        self._concluded = True
        if self.mistake is not None and error is not self.mistake:
            self.logger.error("%s", self.mistake)
        summary = self.summary
        summary.status = status
        summary.code = code_of(error).name if error else None
        summary.seconds = self.runtime.monotonic() - self._started
        if self._session:
            summary.requests = self._session.count.calls
            summary.retries = self._session.count.retries
            self._session.log_metrics()
        self.close()
        exit_status = exit_status_of(error) if error else 0
        if isinstance(error, StoppedError):
            exit_status = self.shutdown.exit_code
        number = self._run[1] if self._run else None
        self.record_end(status, exit_status, summary.to_dict())
        if summary.unmatched:
            self.logger.info(
                "%s: %d %s no profile in %s (for example %s); no profiles were created.",
                codes.UNMATCHED,
                summary.unmatched,
                "person has" if summary.unmatched == 1 else "people have",
                self.system,
                ", ".join(self._unmatched_examples),
            )
        if summary.records or status != "failed":  # else the error alone says more
            self.logger.info("%s", summary.to_text(), extra={"summary": summary.to_dict()})
        if self.settings.target.report_path:
            self._report(self.settings.target.report_path, number)
        self.close_ledger()
        if self.trial is not None:
            self.trial.close()

    def _report(self, path: str, number: int | None) -> None:
        """Write the report: whatever becomes of it, the run ends as it does.

        Args:
            path: The setting `report_path`.
            number: Number of the run in the ledger; None if it isn't recorded there.
        """
        try:
            write_reports(path, self.summary, self.ledger, number, self.runtime)
        except OSError as problem:
            self.logger.error(  # noqa: TRY400
                "report_path: the report can't be written: %s", problem.strerror
            )
        except Exception as problem:  # noqa: BLE001 - it must not hide how the run ends
            self.logger.error(  # noqa: TRY400
                "report_path: the report can't be made.\n%s", privacy.safe_traceback(problem)
            )


class _TargetReader(SafeReader):
    """Passes lines to a target.

    Args:
        target: The target.
    """

    def __init__(self, target: ConsentTarget) -> None:
        super().__init__()
        self._target = target

    def process_block(self, block: bytes | None) -> None:
        """Make the target check the time and signals, and read the lines."""
        self._target.on_idle()
        if isinstance(block, (CutLine, LongLine)):
            self.process_line(block)
        elif block is not None:
            self._target.take_lines(block)

    def handle_unreadable(self, line: bytes, reason: str) -> None:
        """Make it a reject: one bad line never stops the others."""
        self._target.reject_line(line, reason)


def _parts_of(record: Any) -> list[dict[str, Any]] | None:
    """Return what holds consents in a record that could not be read; None if that isn't known."""
    if not isinstance(record, dict) or is_unreadable(record):
        return None
    events = record.get("events")
    parts = [record, *(events if isinstance(events, list) else [events] if events else [])]
    if not all(isinstance(part, dict) for part in parts):
        return None
    found = [part for part in parts if "consents" in part]
    return None if not found and any(map(_may_hold_more, record.values())) else found


def _may_hold_more(value: Any) -> bool:
    """Return whether a value holds others, or is the JSON of such a one."""
    return isinstance(value, (dict, list)) or (
        isinstance(value, str) and value.lstrip().startswith(("{", "["))
    )


def _person_of(record: Any) -> str | None:
    """Find whose record this is, in one that could not be read."""
    if not isinstance(record, dict):
        return None
    user = record.get("user")
    owner = user if isinstance(user, dict) else record
    person = owner.get("organization_user_id")
    return str(person) if isinstance(person, (str, int)) else None
