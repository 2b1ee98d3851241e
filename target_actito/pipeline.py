"""The pipeline: from lines to gathered people, and from their changes to writes."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from actito_didomi import codes
from actito_didomi.actito import Imports, ProfileTable, open_session, read_table
from actito_didomi.consent.coalesce import Collector, Field
from actito_didomi.consent.event_ids import is_ours
from actito_didomi.consent.fields import mapped_field
from actito_didomi.consent.identity import matching_of
from actito_didomi.consent.mapping import show_path
from actito_didomi.consent.mapping_watch import MappingTotal
from actito_didomi.consent.scope import Scope
from actito_didomi.didomi.exports import arrival_of_file
from actito_didomi.errors import BadInputError, ImportQuotaExceededError
from actito_didomi.files import is_below, show_url
from actito_didomi.lines import CutLine, LongLine
from actito_didomi.plugin.breaker import RefusalBreaker
from actito_didomi.plugin.fields import warn_of_mandatory
from actito_didomi.plugin.looks import LookLearner, ProfileReader
from actito_didomi.plugin.progress import Progress
from actito_didomi.plugin.rejects import Reject
from actito_didomi.tolerant import decode_tolerantly
from target_actito.bulk import BulkWriter
from target_actito.checked import CheckedWriter
from target_actito.counts import Counts
from target_actito.decode import Decoder, Lines, read_batch
from target_actito.delivery import Delivery
from target_actito.gather import NEVER, Gatherer
from target_actito.guarding import ChangeGuard
from target_actito.import_records import SessionRecords
from target_actito.learning import Learner
from target_actito.plan import plan_writes
from target_actito.single import Writer
from target_actito.translate import Translator
from target_actito.value_watch import ValueWatch
from target_actito.workspace import Workspace, account_name

if TYPE_CHECKING:
    from datetime import datetime

    from actito_didomi.actito import Execution, TableStructure
    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.records import ConsentRecord
    from actito_didomi.http import RequestLimits
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.sink import ConsentSink
    from actito_didomi.runtime import Runtime
    from target_actito.bulk import ImportRecords
    from target_actito.config import Settings
    from target_actito.counts import HasIntake
    from target_actito.single import SingleWriter, WriteResult

logger = logging.getLogger("target-actito")

_MAPPINGS = "mappings"
"""The fact in the ledger that says what mappings met."""
_SUBSCRIPTIONS = "subscriptions"
"""The fact in the ledger that says which subscriptions the table had."""
_RUN_BYTES = 6
"""Of the id of a run, which stands in the row of each person to whom a write is open."""


class Pipeline:
    """What exists once Actito is needed: session and table, reading, gathering, writing.

    Args:
        settings: The settings.
        target: The target.
        ledger: The ledger; None without one.
        shutdown: Says when to stop.
        runtime: Clock, threads and transport.

    Raises:
        SettingsError: The settings don't fit the table.
        ActitoDidomiError: Actito can't be reached.
    """

    def __init__(
        self,
        settings: Settings,
        target: HasIntake,
        ledger: Ledger | None,
        shutdown: Shutdown,
        runtime: Runtime,
    ) -> None:
        self._settings = settings
        self._target = target
        self.ledger = ledger
        self._shutdown = shutdown
        self._runtime = runtime
        self.session = open_session(
            settings.actito,
            settings.client,
            max_concurrency=settings.max_concurrency,
            stop=shutdown.requested,
            runtime=runtime,
            limits=None if ledger is None else self._share_limits(ledger),
        )
        actito = settings.actito
        structure = read_table(
            self.session, actito.entity_id, actito.table_name, actito.user_unique_key
        )
        # All timestamps from here on are compared with Actito's.
        runtime = self._runtime = self.session.runtime
        self.translator = Translator(
            structure, actito.user_unique_key, settings.mappings, actito.zone
        )
        if settings.upsert_mode:
            warn_of_mandatory(structure, actito.user_unique_key, settings.mappings)
        self.collector = Collector(
            self.translator.masks, self.translator, for_ledger=ledger is not None
        )
        for mapping in settings.mappings:
            if mapping.invert:
                logger.info(
                    "Mapping inverted: an opt-out in Didomi (%s) turns %s on, and an opt-in turns "
                    "it off.",
                    mapping.value,
                    mapping.id,
                )
        self._watch = ValueWatch(
            settings.mappings,
            self.translator,
            settings.mapping_check_min_people,
            None if ledger is None else ledger.read_fact(_MAPPINGS, list[MappingTotal]) or [],
        )
        target.summary.mappings = self._watch.counts
        self._subscriptions = sorted(structure.subscriptions)
        if ledger is not None:
            self._compare_subscriptions(ledger)
        self._scope = Scope(settings.regulation, frozenset(settings.skip_delegates))
        self._decoder = Decoder(self.translator.resolver, origins=ledger is not None)
        self._gatherer = Gatherer(
            self.translator, self.collector, target.summary, self._scope, self._is_ours
        )
        microseconds = 0 if ledger is None else ledger.rules.clock_tolerance
        self._tolerance = timedelta(microseconds=microseconds)
        self._sinks: dict[str, ConsentSink] = {}
        self._validates = False
        self._table = ProfileTable(self.session, structure, actito.user_unique_key)
        self._guard = ChangeGuard(target.guards, self._turns_on())
        self._breaker: RefusalBreaker[WriteResult] = RefusalBreaker(
            target.guards.settings.breaker_threshold, "Actito"
        )
        self._progress = Progress(logger, "Actito", runtime, lambda: self.session.waits_since)
        self._writer = Writer(
            self._table,
            create=settings.upsert_mode,
            guards=target.guards,
            breaker=self._breaker,
            progress=self._progress,
            max_concurrency=settings.max_concurrency,
            shutdown=shutdown,
            runtime=runtime,
        )
        self._events = Counts(target, self._progress, runtime.now)
        self._delivery: Delivery | None = None
        self._bulk: BulkWriter | None = None
        self._records: ImportRecords | None = None
        account = account_name(actito.base_url, structure.entity, structure.id)
        self._workspace = Workspace(account, runtime)
        writer: SingleWriter = self._writer
        if ledger is not None:
            writer = self._connect_ledger(ledger, structure)
        if settings.bulk.write_mode != "single" or ledger is not None:
            self._use_imports(structure, writer)

    def _compare_subscriptions(self, ledger: Ledger) -> None:
        """Log which subscriptions the table didn't have in earlier runs, if no mapping names them.

        They are logged until a run has got as far as writing.
        """
        known = ledger.read_fact(_SUBSCRIPTIONS, list[str])
        if known is None:
            return
        mapped = {mapping.id for mapping in self._settings.mappings}
        new = [name for name in self._subscriptions if name not in known and name not in mapped]
        self._subscriptions = sorted({*known, *self._subscriptions})
        self._target.summary.new_subscriptions = new
        for name in new:
            logger.warning(
                "%s: the table has the new subscription %s, and no mapping names it. It is never "
                "written: add a mapping if people choose it in Didomi.",
                codes.SUBSCRIPTION_NEW,
                name,
            )

    def _share_limits(self, ledger: Ledger) -> RequestLimits:
        """Return Actito's limits, which all processes with this ledger share."""
        actito = self._settings.actito
        return ledger.share_limits(
            f"{actito.base_url} {actito.entity_id}",
            calls_per_minute=actito.calls_per_minute,
            max_concurrency=self._settings.max_concurrency,
        )

    def _is_ours(self, event_id: str) -> bool:
        """Return whether an event was posted by target-didomi for the same table."""
        return self.ledger is not None and is_ours(self.ledger.scope_text, event_id)

    def _connect_ledger(self, ledger: Ledger, structure: TableStructure) -> CheckedWriter:
        """Prepare writing what the ledger says is owed."""
        settings, actito = self._settings, self._settings.actito
        translator, run = self.translator, self._runtime.token(_RUN_BYTES)
        fields = [
            mapped_field(mapping, found.opt_out, found.opt_in)
            if translator.takes_choices(number)
            else None
            for number, (mapping, found) in enumerate(
                zip(settings.mappings, translator.masks.fields, strict=True)
            )
        ]
        bits = ledger.number_fields([field for field in fields if field is not None])
        learner = Learner(fields, ledger.rules, ledger.key, bits, self._guard)
        reader = ProfileReader(
            structure,
            actito.user_unique_key,
            ledger.matching(matching_of(settings.ledger.key_matching, actito.user_unique_key)),
            actito.zone,
            learner.choice_fields,
        )
        looks = LookLearner(ledger, reader, run, learner.choice_fields, bits)
        writer = CheckedWriter(
            ledger=ledger,
            learner=learner,
            looks=looks,
            reader=reader,
            table=self._table,
            run=run,
            create=settings.upsert_mode,
            guards=self._guard.guards,
            breaker=self._breaker,
            progress=self._progress,
            client=settings.client,
            look_timeout=settings.look_timeout,
            lookup_hours=settings.lookup_hours,
            max_concurrency=settings.max_concurrency,
            shutdown=self._shutdown,
            runtime=self._runtime,
        )
        self._delivery = Delivery(
            ledger=ledger,
            learner=learner,
            looks=looks,
            writer=writer,
            run=run,
            session=self.session,
            structure=structure,
            settings=settings,
            events=self._events,
            guard=self._guard,
            trial=self._target.trial,
            shutdown=self._shutdown,
            runtime=self._runtime,
        )
        return writer

    def _turns_on(self) -> dict[Field, bool]:
        """Return, by field, the choice whose value turns it on."""
        return {
            Field(mapping.type, mapping.id): not mapping.invert or self._settings.allow_invert
            for number, mapping in enumerate(self._settings.mappings)
            if self.translator.takes_choices(number)
        }

    def _use_imports(self, structure: TableStructure, writer: SingleWriter) -> None:
        """Prepare imports; with a ledger also where none is made, for those of earlier runs."""
        settings, runtime = self._settings, self._runtime
        imports = Imports(
            self.session,
            structure,
            settings.actito.user_unique_key,
            create=settings.upsert_mode,
            etl_id=settings.bulk.bulk_etl_id,
            definition=settings.bulk.bulk_definition,
        )
        makes_imports = settings.bulk.write_mode != "single"
        if makes_imports:
            imports.check(stated=settings.bulk.bulk_etl_mode)
        records: ImportRecords
        if self._delivery is not None:
            records = self._delivery.import_records(imports, self._workspace, self._follow)
        else:
            records = SessionRecords(imports, self._workspace, runtime, self._follow)
        bulk = BulkWriter(
            imports, writer, records, settings, shutdown=self._shutdown, runtime=runtime
        )
        self._records = records
        self._bulk = bulk if makes_imports else None
        self._follower = bulk
        if self._delivery is not None:
            self._delivery.use_imports(self._bulk, records)

    def _follow(self, execution_id: str, age: float) -> Execution:
        return self._follower.follow(execution_id, age)

    # Reading

    @property
    def reads(self) -> bool:
        """Whether `take_lines` has anything to read by type."""
        return bool(self._sinks)

    def admit(self, sink: ConsentSink) -> None:
        """Read the records of a stream by type from now on."""
        if self._sinks.get(sink.stream_name) is not sink:
            self._sinks[sink.stream_name] = sink
            self._decoder.admit(sink.stream_name, sink.key_properties)
            self._validates = any(sink.validates for sink in self._sinks.values())

    def forget(self, stream: str) -> None:
        """Read no records of a stream by type."""
        if self._sinks.pop(stream, None):
            self._decoder.forget(stream)

    def take_lines(self, block: bytes) -> None:
        """Read lines of the input: records by type, and all other lines as a whole."""
        rest: bytes | None = block
        while rest is not None:
            self._update()
            lines, records, at = Lines(rest), self._decoder.messages(rest), 0
            self._sample(lines)
            self._use_arrival(self._decoder.arrival)
            rest = None
            while True:
                taken = self._take_typed(records, lines, at)
                self._target.count_lines(taken)
                at += taken
                if at == len(records):
                    break
                self._target.take_line(lines[at])
                at += 1
                if at < len(records) and self._update():
                    rest = lines.after(at)
                    break

    def _sample(self, lines: Lines) -> None:
        """Read all names of consents in some of the first records."""
        self._watch.sample(lines[at] for at in range(len(lines)))

    def take_files(self, batch: dict[str, Any]) -> None:
        """Read the files of a BATCH message, streamed.

        Raises:
            BadInputError: A file can't be read, or a line of it is not a JSON object.
        """
        summary, root = self._target.summary, self._settings.batch_root
        for url in batch["manifest"]:
            if root is None:
                raise BadInputError(
                    codes.BATCH_UNSUPPORTED,
                    "BATCH messages are read only below batch_root, which is not set. Set it to "
                    f"{show_url(url.rpartition('/')[0] or '.')}, or wherever the tap's files, and "
                    "nothing else, lie.",
                )
            if not is_below(url, root):
                raise BadInputError(
                    codes.UNREADABLE_BATCH,
                    f"The BATCH file {show_url(url)} does not lie below batch_root. Set batch_root "
                    "to the folder that the tap writes to, or correct the tap's batch_config.",
                )
            before, arrival = summary.records, arrival_of_file(url)
            self._use_arrival(arrival)
            blocks = read_batch(url, batch["encoding"], self._settings)
            for number, block in blocks:
                self._target.on_idle()
                if isinstance(block, (CutLine, LongLine)):
                    self._take_odd(
                        batch["stream"], block, f"{show_url(url)}, line {number}", arrival
                    )
                else:
                    self._take_bare(batch["stream"], url, number, block, arrival)
                self._target.after_records()
            logger.info("BATCH file read: %d records.", summary.records - before)

    def _take_bare(
        self, stream: str, url: str, number: int, block: bytes, arrival: datetime | None
    ) -> None:
        """Read lines of a file that hold bare records.

        Args:
            stream: Their stream.
            url: The file.
            number: Number of the first line.
            block: The lines.
            arrival: When they had arrived at the latest; None for now.

        Raises:
            BadInputError: One is not a JSON object.
        """
        rest: bytes | None = block
        while rest is not None:
            self._update()
            lines, at = Lines(rest), 0
            self._sample(lines)
            is_typed = stream in self._sinks
            records = self._decoder.records(rest) if is_typed else [None] * len(lines)
            rest = None
            while True:
                taken = self._take_typed(records, lines, at, stream)
                at += taken
                if at == len(records):
                    break
                if lines[at].strip():
                    self._take_odd(
                        stream, lines[at], f"{show_url(url)}, line {number + at}", arrival
                    )
                at += 1
                if at < len(records) and (
                    self._update() or is_typed is not (stream in self._sinks)
                ):
                    rest = lines.after(at)
                    number += at
                    break

    def _use_arrival(self, arrival: datetime | None) -> None:
        """Read by type only what is not dated later than the records of a block had arrived.

        Without a ledger there is nothing that it would be compared with.
        """
        if self.ledger is not None:
            self._gatherer.latest = NEVER if arrival is None else arrival + self._tolerance

    def _take_odd(self, stream: str, line: bytes, where: str, arrival: datetime | None) -> None:
        """Read a line of a file as a whole, or reject it.

        Args:
            stream: Stream of the record.
            line: The line.
            where: Where it stands.
            arrival: When it had come into being at the latest; None if that isn't known.

        Raises:
            BadInputError: It is cut off.
        """
        problem = "not a JSON object"
        if isinstance(line, LongLine):
            record = None
            problem = f"longer than {line.limit:,} bytes (max_line_bytes)"
        else:
            record = _decode_whole(line)
        if isinstance(record, dict):
            self._target.take_record(stream, record, arrival)
        elif isinstance(line, CutLine):
            raise BadInputError(
                codes.UNREADABLE_BATCH,
                f"{where}: cut off. Nothing after it is acknowledged; have the file made again.",
            )
        else:
            self._target.reject_line(line, f"{where}: {problem}.")

    def _take_typed(
        self, records: list[Any], lines: Lines, at: int, stream: str | None = None
    ) -> int:
        """Gather records up to the first that must be read as a whole.

        Args:
            records: Typed ones, or None for a line that isn't.
            lines: The lines.
            at: Where to begin.
            stream: Stream of bare records; None for messages.

        Returns:
            How many were taken.
        """
        summary, take = self._target.summary, self._gatherer.take
        if not self._validates:
            taken = take(records, at, len(records), summary.records + 1)
            summary.records += taken
            self._count(at, taken, stream)
            return taken
        for place in range(at, len(records)):
            if records[place] is None or not (
                self._fits(lines[place], stream)
                and take(records, place, place + 1, summary.records + 1)
            ):
                return place - at
            summary.records += 1
            self._count(place, 1, stream)
        return len(records) - at

    def _count(self, at: int, taken: int, stream: str | None) -> None:
        """Count records that were taken, for the SDK's metric `record_count` of their stream."""
        if not taken:
            return
        streams = self._decoder.named
        if stream is None and streams is None:
            (stream,) = self._sinks
        counts = Counter({stream: taken} if stream else (streams or [])[at : at + taken])
        for name, count in counts.items():
            if name is not None:
                self._sinks[name].record_counter_metric.increment(count)

    def _fits(self, line: bytes, stream: str | None) -> bool:
        """Return whether a record fits the schema of its stream, where that is to be checked."""
        try:
            record = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        if stream is None:
            stream, record = record["stream"], record["record"]
        sink = self._sinks[stream]
        return not sink.validates or sink.accepts(record)

    def _update(self) -> bool:
        """Use what is known by now of mappings and streams; return whether lines are read again."""
        if self.ledger is not None:
            self.collector.latest = self._runtime.now() + self._tolerance
        self._gatherer.refresh()
        if self._decoder.update():
            self._gatherer.update(self._decoder)
            return True
        return False

    def take(self, consent: ConsentRecord) -> None:
        """Gather a consent record that was decoded as a whole."""
        self._decoder.learn(consent.tree.get("consents"))
        target, collector = self._target, self.collector
        consent = self._gatherer.as_counted(consent)
        person, number = consent.person or "", target.summary.records
        origin = self._gatherer.origin_of(consent, target.arrival if self.ledger else None)
        reason = self._scope.reason_to_skip(
            person, consent.status, consent.regulation, consent.delegate
        )
        if reason:
            target.summary.skip(reason)
            if reason is codes.NOT_CONFIRMED:
                self._gatherer.note_unconfirmed(person, consent.timestamp)
            if reason is codes.DELEGATE:
                # Not to be written, but older choices must not be written over it either.
                mask, _, _ = self.translator.translate(replace(consent, metadata={}))
                collector.hold(person, consent.timestamp, mask, number, origin)
            return
        mask, more, failed = self.translator.translate(consent)
        collector.put(number, [(person, (consent.timestamp, mask, more, origin))])
        for choice in failed:
            target.reject(
                Reject(
                    code=choice.code,
                    reason=choice.reason,
                    person=person,
                    opt_out=choice.opt_out,
                    record={"target": choice.id, "timestamp": consent.timestamp, **consent.tree},
                ),
            )
        for path in self.translator.find_odd(consent.tree):
            target.reject(
                Reject(
                    code=codes.INVALID_RECORD,
                    reason=f"`{show_path(path)}` holds something other than objects with an `id` "
                    "and a choice; what is readable there is written.",
                    person=person,
                    opt_out=True,
                    record={"timestamp": consent.timestamp, **consent.tree},
                ),
            )

    # Writing

    def deliver(self) -> None:
        """Learn what is gathered into the ledger, and write all that is owed.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        if self._delivery is None:
            return
        self._delivery.note_skips(codes.NOT_CONFIRMED, self._gatherer.unconfirmed)
        self._gatherer.unconfirmed.clear()
        people = self.collector.take_layers()
        first_records = [found.first_record for found in people]
        self._target.expect(first_records)
        self._watch.count_people(people)
        self.check_mappings()
        self._delivery.write(people)
        if self.ledger is not None and self.collector.people:
            self.ledger.store_fact(_MAPPINGS, self._watch.totals)
            self.ledger.store_fact(_SUBSCRIPTIONS, self._subscriptions)
        self._target.acknowledge(*first_records)

    def finish(self) -> None:
        """Check, at the end of a run with a ledger, that no import is under way.

        Raises:
            ApiError: One is.
        """
        if self._delivery is not None:
            self._delivery.finish()

    @property
    def knows_regulation(self) -> bool:
        """Whether earlier runs met records of the regulation."""
        return self._watch.knows_people

    @property
    def suspects_mistake(self) -> bool:
        """Whether mappings look wrong so far, though too few people are known to be sure."""
        return self._watch.suspects_mistake(self.collector.people)

    def check_mappings(self) -> None:
        """See whether mappings meet values; no STATE leaves once they show a mistake."""
        found = self._watch.check(self.collector.people, is_end=self._target.has_ended)
        self._target.mistake = self._target.mistake or found

    @property
    def seen_regulations(self) -> str:
        """The regulations of the first records, in words; empty if none was named."""
        return self._watch.seen_regulations

    def write(self, changes: list[ProfileChange]) -> None:
        """Plan how to write changes, and write them; without a ledger.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        logger.info(
            "Writing the changes of people: %d, of them with an opt-out: %d.",
            len(changes),
            sum(change.opt_out for change in changes),
        )
        self._watch.count_changes(changes)
        self.check_mappings()
        kept, deferred_changes = self._guard.check(
            changes, lambda _, enough: min(enough, len(changes)), lambda: self.collector.people
        )
        if self._bulk is None or self._records is None:
            plan = plan_writes(kept, self._settings.limits)
        else:
            plan = self._bulk.plan(kept)
        logger.info("%s", plan.to_text(), extra={"plan": plan.to_dict()})
        parts = [*plan.opt_out_singles, *plan.other_singles, *plan.deferred]
        parts += [change for file in plan.files for change in file.changes]
        parts += deferred_changes
        self._target.expect(part.first_record for part in parts)
        self._events.begin(parts)
        if self._target.trial is not None:
            self._events.on_trial(kept, 0)
            return
        if deferred_changes:  # STATE stays before them
            self._events.on_deferred(len(deferred_changes))
        if self._bulk is None or self._records is None:
            self._writer.write([*plan.opt_out_singles, *plan.other_singles], self._events.on_result)
            return
        self._records.settle_earlier()
        try:
            self._bulk.write(plan, self._events.on_result, self._events.on_import)
        except ImportQuotaExceededError as error:
            self._events.on_deferred(error.deferred)
            raise

    # The end

    def close(self) -> None:
        """Count the people, log what of the metadata was left out, and close the workspace."""
        summary, translator = self._target.summary, self.translator
        self._watch.note_paths()
        summary.people = self.collector.people
        summary.unchanged = self.collector.people_unchanged
        if self.ledger is not None:
            if summary.status.startswith(("stopped", "failed")):
                summary.deferred += self._progress.left
            done = summary.updated + summary.created + summary.imported + summary.unmatched
            done += self._events.refused + summary.deferred
            summary.unchanged = max(0, summary.people - done)
        self._workspace.close()
        if count := len(translator.unknown_metadata):  # which they are may be personal data
            logger.info("Metadata keys without a matching attribute, ignored: %d.", count)
        for name, count in sorted(translator.unusable_metadata.items()):
            logger.warning("Metadata %r could not be converted. People: %d.", name, count)


def _decode_whole(line: bytes) -> Any:
    """Decode a line strictly, or else tolerantly; None where that is impossible."""
    try:
        return msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return decode_tolerantly(line)
    except ValueError:
        return None
