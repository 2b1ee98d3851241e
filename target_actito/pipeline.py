"""The pipeline: from lines to gathered people, and from their changes to writes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from actito_didomi import codes
from actito_didomi.actito import Imports, ProfileTable, Written, open_session, read_table
from actito_didomi.consent.coalesce import Collector
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.mapping import show_path
from actito_didomi.consent.scope import Scope
from actito_didomi.errors import BadInputError, ImportQuotaExceededError, RequestRejectedError
from actito_didomi.plugin.rejects import Reject
from target_actito.bulk import BulkWriter
from target_actito.decode import Decoder, Lines, read_batch
from target_actito.gather import Gatherer
from target_actito.known import NewerChoices
from target_actito.plan import plan_writes
from target_actito.single import Writer, WriteResult
from target_actito.translate import Translator
from target_actito.workspace import Workspace, account_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.consent.records import ConsentRecord
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.sink import ConsentSink
    from actito_didomi.runtime import Runtime
    from target_actito.bulk import ImportResult
    from target_actito.config import Settings
    from target_actito.summary import ActitoSummary

logger = logging.getLogger("target-actito")

_ETL_MODES = {"update": "UPDATE_ONLY", "create_update": "CREATE_UPDATE"}


class HasIntake(Protocol):
    """What a pipeline needs of its target."""

    summary: ActitoSummary

    def on_idle(self) -> None:
        """Look at signals and at the clock."""

    def after_records(self) -> None:
        """See whether it is time to write."""

    def take_line(self, line: bytes) -> None:
        """Accept a line as a whole."""

    def take_record(self, stream: str, record: dict[str, Any]) -> None:
        """Accept a record as a whole."""

    def count_lines(self, count: int) -> None:
        """Record that lines were taken in."""

    def reject(self, reject: Reject) -> None:
        """Store a reject."""

    def expect(self, first_records: Iterable[int]) -> None:
        """Record what is about to be written."""

    def acknowledge(self, *first_records: int) -> None:
        """Record that parts are written or rejected."""

    def note_unmatched(self, person: str) -> None:
        """Count a person who has no profile."""


class Pipeline:
    """What exists once Actito is needed: session and table, reading, gathering, writing.

    Args:
        settings: The settings.
        target: The target.
        shutdown: Says when to stop.
        runtime: Clock, threads and transport.

    Raises:
        SettingsError: The settings don't fit the table.
        ActitoDidomiError: Actito can't be reached.
    """

    def __init__(
        self, settings: Settings, target: HasIntake, shutdown: Shutdown, runtime: Runtime
    ) -> None:
        self._settings = settings
        self._target = target
        self._runtime = runtime
        self.session: ApiSession = open_session(
            settings.actito,
            settings.client,
            max_concurrency=settings.max_concurrency,
            stop=shutdown.requested,
            runtime=runtime,
        )
        actito = settings.actito
        structure = read_table(
            self.session, actito.entity_id, actito.table_name, actito.user_unique_key
        )
        self.translator = Translator(
            structure, actito.user_unique_key, settings.mappings, actito.zone
        )
        self.collector = Collector(self.translator.masks, self.translator)
        self._scope = Scope(settings.regulation, frozenset(settings.skip_delegates))
        self._decoder = Decoder(self.translator.resolver)
        self._gatherer = Gatherer(self.translator, self.collector, target.summary, self._scope)
        self._sinks: dict[str, ConsentSink] = {}
        self._validates = False
        self._counted: set[str] = set()
        self._writer = Writer(
            ProfileTable(self.session, structure, actito.user_unique_key),
            create=settings.upsert_mode,
            max_concurrency=settings.max_concurrency,
            shutdown=shutdown,
            runtime=runtime,
        )
        account = (actito.base_url, structure.entity, structure.id)
        self._newer_choices: NewerChoices | None = None
        if settings.snapshot_url:
            self._newer_choices = NewerChoices(Ledger(settings.snapshot_url, account, runtime))
        self._bulk: BulkWriter | None = None
        self.workspace: Workspace | None = None
        if settings.bulk.write_mode != "single":
            imports = Imports(
                self.session,
                structure,
                actito.user_unique_key,
                create=settings.upsert_mode,
                etl_id=settings.bulk.bulk_etl_id,
                definition=settings.bulk.bulk_definition,
            )
            imports.check(stated_mode=_ETL_MODES.get(settings.bulk.bulk_etl_mode or ""))
            self.workspace = Workspace(account_name(*account), runtime)
            self._bulk = BulkWriter(
                imports,
                self._writer,
                self.workspace,
                settings,
                shutdown=shutdown,
                runtime=runtime,
            )

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

    def take_files(self, batch: dict[str, Any]) -> None:
        """Read the files of a BATCH message, streamed.

        Raises:
            BadInputError: A file can't be read, or a line of it is not a JSON object.
        """
        summary = self._target.summary
        for url in batch["manifest"]:
            before = summary.records
            blocks = read_batch(url, batch["encoding"], self._settings.storage_options)
            for number, block in blocks:
                self._target.on_idle()
                self._take_bare(batch["stream"], url, number, block)
                self._target.after_records()
            logger.info("BATCH file read: %d records.", summary.records - before)

    def _take_bare(self, stream: str, url: str, number: int, block: bytes) -> None:
        """Read lines of a file that hold bare records.

        Raises:
            BadInputError: One is not a JSON object.
        """
        rest: bytes | None = block
        while rest is not None:
            self._update()
            lines, at = Lines(rest), 0
            is_typed = stream in self._sinks
            records = self._decoder.records(rest) if is_typed else [None] * len(lines)
            rest = None
            while True:
                taken = self._take_typed(records, lines, at, stream)
                at += taken
                if at == len(records):
                    break
                if lines[at].strip():
                    self._target.take_record(stream, _object(lines[at], url, number + at))
                at += 1
                if at < len(records) and (
                    self._update() or is_typed is not (stream in self._sinks)
                ):
                    rest = lines.after(at)
                    number += at
                    break

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
            return taken
        for place in range(at, len(records)):
            if records[place] is None or not (
                self._fits(lines[place], stream)
                and take(records, place, place + 1, summary.records + 1)
            ):
                return place - at
            summary.records += 1
        return len(records) - at

    def _fits(self, line: bytes, stream: str | None) -> bool:
        """Return whether a record fits the schema of its stream, where that is to be checked."""
        record = msgspec.json.decode(line)
        if stream is None:
            stream, record = record["stream"], record["record"]
        sink = self._sinks[stream]
        return not sink.validates or sink.accepts(record)

    def _update(self) -> bool:
        """Use what is known by now of mappings and streams; return whether lines are read again."""
        self._gatherer.refresh()
        if self._decoder.update():
            self._gatherer.update(self._decoder)
            return True
        return False

    def take(self, consent: ConsentRecord) -> None:
        """Gather a consent record that was decoded as a whole."""
        self._decoder.learn(consent.tree.get("consents"))
        target, collector = self._target, self.collector
        person, number = consent.person or "", target.summary.records
        origin = self._gatherer.origin_of(consent)
        reason = self._scope.reason_to_skip(
            person, consent.status, consent.regulation, consent.delegate
        )
        if reason:
            target.summary.skip(reason)
            if reason is codes.DELEGATE:
                # Not to be written, but older choices must not be written over it either.
                mask, _, _ = self.translator.translate(replace(consent, metadata={}))
                collector.hold(person, consent.timestamp, mask, number, origin)
            return
        mask, more, failed = self.translator.translate(consent)
        collector.put(person, number, consent.timestamp, mask, more, origin)
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
        for path in self.translator.find_odd(consent.tree.get("consents")):
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

    def write(self, changes: list[ProfileChange]) -> None:
        """Plan how to write changes, and write them.

        Raises:
            StoppedError: The process is to stop.
            ActitoDidomiError: Writing can't go on.
        """
        if self._newer_choices:
            changes, newer = self._newer_choices.drop_superseded(changes)
            self._target.summary.superseded += newer
            if not changes:
                return
        logger.info(
            "Writing the changes of people: %d, of them with an opt-out: %d.",
            len(changes),
            sum(change.opt_out for change in changes),
        )
        if self._bulk is None:
            plan = plan_writes(changes, self._settings.limits)
        else:
            plan = self._bulk.plan(changes)
        logger.info("%s", plan.to_text())
        parts = [*plan.opt_out_singles, *plan.other_singles, *plan.deferred]
        parts += [change for file in plan.files for change in file.changes]
        self._target.expect(part.first_record for part in parts)
        self._counted.clear()
        if self._bulk is None:
            self._writer.write([*plan.opt_out_singles, *plan.other_singles], self._handle_result)
            return
        try:
            self._bulk.write(plan, self._handle_result, self._handle_import)
        except ImportQuotaExceededError as error:
            self._target.summary.deferred = error.deferred
            raise

    def _handle_import(self, imported: ImportResult) -> None:
        """Record the rows that an import has written or rejected.

        Where a person's change was spread over several imports, they count in the first one.
        """
        summary = self._target.summary
        summary.imports += 1
        self._note_written(imported.changes, imported.began)
        rows = len(imported.changes)
        new = 0
        for change in imported.changes:
            new += change.person not in self._counted
            self._counted.add(change.person)
        if imported.counts is None:
            summary.imported += new
        elif rows:
            created, updated = (round(count * new / rows) for count in imported.counts)
            summary.created += created
            summary.updated += updated
            summary.unmatched += new - created - updated
        self._target.acknowledge(*(change.first_record for change in imported.changes))

    def _handle_result(self, result: WriteResult) -> None:
        """Record what became of a change written by a single request."""
        target, change, outcome = self._target, result.change, result.outcome
        if isinstance(outcome, RequestRejectedError):
            target.reject(
                Reject(
                    code=codes.CHANGE_REFUSED,
                    reason=outcome.message,
                    person=change.person,
                    opt_out=change.opt_out,
                    change={
                        "attributes": change.attributes,
                        "subscriptions": change.subscriptions,
                    },
                    status=outcome.status,
                    response=outcome.body,
                ),
            )
        elif outcome is Written.UNMATCHED:
            target.note_unmatched(change.person)
        else:
            target.summary.updated += outcome is Written.UPDATED
            target.summary.created += outcome is Written.CREATED
            self._note_written([change], result.began)
        target.acknowledge(change.first_record)

    def _note_written(self, changes: Sequence[ProfileChange], began: datetime) -> None:
        if self._newer_choices:
            self._newer_choices.record_writes(changes, began, self._runtime.now())

    # The end

    def close(self) -> None:
        """Count the people, log what of the metadata was left out, and close the workspace."""
        summary, translator = self._target.summary, self.translator
        summary.people = self.collector.people
        summary.unchanged = self.collector.people_unchanged
        if self.workspace:
            self.workspace.close()
        if self._newer_choices:
            self._newer_choices.close()
        if names := sorted(translator.unknown_metadata):
            logger.info(
                "Metadata keys without a matching attribute, ignored: %s.", ", ".join(names)
            )
        for name, count in sorted(translator.unusable_metadata.items()):
            logger.warning("Metadata %r could not be converted. People: %d.", name, count)


def _object(line: bytes, url: str, number: int) -> dict[str, Any]:
    """Decode a line of a file as a whole.

    Raises:
        BadInputError: It is not a JSON object.
    """
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        record = None
    if not isinstance(record, dict):
        raise BadInputError(
            codes.UNREADABLE_BATCH,
            f"{url}, line {number}: not a JSON object. Nothing after it is acknowledged; have the "
            "file made again.",
        )
    return record
