"""The target: gathers consent records, and writes them as profile changes."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities

from actito_didomi import codes
from actito_didomi.actito import Imports, ProfileTable, Written, open_session, read_table
from actito_didomi.consent.coalesce import Collector
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.scope import Scope
from actito_didomi.errors import ImportQuotaExceededError, RequestRejectedError
from actito_didomi.plugin.connector import unfold_connector
from actito_didomi.plugin.rejects import Reject
from actito_didomi.plugin.sink import ConsentSink
from actito_didomi.plugin.target import ConsentTarget
from target_actito.bulk import BulkWriter
from target_actito.config import Settings, find_problems
from target_actito.fast import ShortWay
from target_actito.intake import Intake
from target_actito.known import NewerChoices
from target_actito.plan import plan_writes
from target_actito.single import Writer, WriteResult
from target_actito.summary import ActitoSummary
from target_actito.translate import Translator
from target_actito.workspace import Workspace, account_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.consent.records import ConsentRecord
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.runtime import Runtime
    from target_actito.bulk import ImportResult

logger = logging.getLogger("target-actito")

_ETL_MODES = {"update": "UPDATE_ONLY", "create_update": "CREATE_UPDATE"}


class TargetActito(ConsentTarget):
    """Singer target for Actito: writes consent records to subscriptions and attributes of profiles.

    It takes Didomi's consent events, consent users and batch-export lines from any tap.
    """

    name = "target-actito"
    system = "Actito"
    summary_class = ActitoSummary
    settings_class = Settings
    settings: Settings
    compare_first = 200
    """Records at the beginning that are read both the short and the full way."""
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        *ConsentTarget.capabilities,
        PluginCapabilities.BATCH,
    ]
    summary: ActitoSummary

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._scope = Scope(self.settings.regulation, frozenset(self.settings.skip_delegates))
        self._collector = Collector()
        self._connected: _Connected | None = None
        self._counted: set[str] = set()
        self._short: ShortWay | None = None
        self._intake = Intake(
            self._reader, self.summary, on_idle=self._on_idle, on_lines=self.after_records
        )
        if self._config.get("stream_maps"):
            logger.info("Stream maps are set: records take the SDK's own path, which takes longer.")
        else:
            self._reader.on_lines = self._intake.take_lines

    # Settings

    @classmethod
    def unfold_settings(cls, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Unfold a pasted connector object."""
        return unfold_connector(config, cls.full_schema()["properties"])

    def find_problems(self) -> list[str]:
        """Check the typed settings for what a JSON schema can't say."""
        return find_problems(self.settings)

    # Messages

    def _process_schema_message(self, message_dict: dict[str, Any]) -> None:
        super()._process_schema_message(message_dict)
        stream = message_dict["stream"]
        self._intake.forget(stream)
        sink = self._sinks_active.get(stream)
        if self._connected and isinstance(sink, ConsentSink) and sink.declares_consent:
            self._short = self._short or ShortWay(
                self._connected.translator,
                self._collector,
                self.summary,
                scope=self._scope,
                compare_first=self.compare_first,
            )
            self._intake.admit(sink, self._short)

    def _process_batch_message(self, message_dict: dict[str, Any]) -> None:
        self._assert_line_requires(message_dict, requires={"stream", "encoding", "manifest"})
        self._assert_sink_exists(message_dict["stream"])
        self._intake.take_files(
            message_dict, self.settings.storage_options, self._process_record_message
        )

    # Gathering

    def open(self) -> ApiSession:
        """Open the session and check the configuration against the table."""
        self._connected = _Connected(self.settings, self.shutdown, self.runtime)
        return self._connected.session

    @property
    def connected(self) -> _Connected:
        """What exists once Actito is needed."""
        if self._connected is None:
            raise RuntimeError("records are taken and written only once the API is open")
        return self._connected

    @property
    def waiting(self) -> int:
        """How many people have changes gathered."""
        return self._collector.waiting

    @property
    def oldest_waiting(self) -> int | None:
        """Number of the earliest record of which something is gathered."""
        return self._collector.oldest

    def may_opt_out(self, part: dict[str, Any]) -> bool:
        """Tell whether one that could not be read may hold an opt-out that is mapped."""
        return self.connected.translator.may_opt_out(part.get("consents"))

    def take(self, consent: ConsentRecord, part: Mapping[str, Any]) -> None:
        """Gather what a consent record says."""
        del part
        translator = self.connected.translator
        reason = self._scope.reason_to_skip(
            consent.person, consent.status, consent.regulation, consent.delegate
        )
        if reason:
            self.summary.skip(reason)
            if reason is codes.DELEGATE:
                # Not to be written, but older choices must not be written over it either.
                values, _ = translator.translate(replace(consent, metadata={}))
                number = self.summary.records
                self._collector.add(consent.person or "", number, values, written=True)
            return
        person = consent.person or ""
        values, failed = translator.translate(consent)
        self._collector.add(person, self.summary.records, values)
        for choice in failed:
            self.reject(
                Reject(
                    code=choice.code,
                    reason=choice.reason,
                    person=person,
                    opt_out=choice.opt_out,
                    record={"target": choice.id, "timestamp": consent.timestamp, **consent.tree},
                ),
            )

    # Writing

    def write_gathered(self) -> None:
        """Write the changes of all people gathered."""
        if changes := self._collector.take():
            self.write_changes(changes)

    def write_changes(self, changes: list[ProfileChange]) -> None:
        """Plan how to write these changes, and do it."""
        connected = self.connected
        if connected.newer_choices:
            changes, newer = connected.newer_choices.drop_superseded(changes)
            self.summary.superseded += newer
            if not changes:
                return
        logger.info(
            "Writing the changes of %d people, %d of them with an opt-out.",
            len(changes),
            sum(change.opt_out for change in changes),
        )
        if connected.bulk is None:
            plan = plan_writes(changes, self.settings.limits)
        else:
            plan = connected.bulk.plan(changes)
        logger.info("%s", plan.to_text())
        parts = [*plan.opt_out_singles, *plan.other_singles, *plan.deferred]
        parts += [change for file in plan.files for change in file.changes]
        self.expect(part.first_record for part in parts)
        self._counted.clear()
        if connected.bulk is None:
            connected.writer.write(
                [*plan.opt_out_singles, *plan.other_singles], self._handle_result
            )
            return
        try:
            connected.bulk.write(plan, self._handle_result, self._handle_import)
        except ImportQuotaExceededError as error:
            self.summary.deferred = error.deferred
            raise

    def _handle_import(self, imported: ImportResult) -> None:
        """Record the rows that an import has written or found without a profile.

        Where a person's change was spread over several imports, they count in the first one.
        """
        summary = self.summary
        summary.imports += 1
        self._note(imported.changes, imported.began)
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
        self.acknowledge(*(change.first_record for change in imported.changes))

    def _handle_result(self, result: WriteResult) -> None:
        summary, change, outcome = self.summary, result.change, result.outcome
        if isinstance(outcome, RequestRejectedError):
            self.reject(
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
        elif outcome is Written.UPDATED:
            summary.updated += 1
            self._note([change], result.began)
        elif outcome is Written.CREATED:
            summary.created += 1
            self._note([change], result.began)
        elif outcome is Written.UNMATCHED:
            self.note_unmatched(change.person)
        self.acknowledge(change.first_record)

    def _note(self, changes: Sequence[ProfileChange], began: datetime) -> None:
        if newer_choices := self.connected.newer_choices:
            newer_choices.record_writes(changes, began, datetime.now(timezone.utc))

    def close(self) -> None:
        """Count the people, say what of the metadata was left out, and close the workspace."""
        self.summary.people = self._collector.people
        self.summary.unchanged = self._collector.people_unchanged
        if self._connected is None:
            return
        if self._connected.workspace:
            self._connected.workspace.close()
        if self._connected.newer_choices:
            self._connected.newer_choices.close()
        translator = self._connected.translator
        if names := sorted(translator.unknown_metadata):
            logger.info(
                "Metadata that is no attribute of the table, left out: %s.", ", ".join(names)
            )
        for name, count in sorted(translator.unusable_metadata.items()):
            logger.warning("Metadata %r could not be converted in %d records.", name, count)


class _Connected:
    """What exists once Actito is needed: session, table, translator, writers."""

    def __init__(self, settings: Settings, shutdown: Shutdown, runtime: Runtime) -> None:
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
        self.writer = Writer(
            ProfileTable(self.session, structure, actito.user_unique_key),
            create=settings.upsert_mode,
            max_concurrency=settings.max_concurrency,
            shutdown=shutdown,
            runtime=runtime,
        )
        account = (actito.base_url, structure.entity, structure.id)
        self.newer_choices: NewerChoices | None = None
        if settings.snapshot_url:
            ledger = Ledger(settings.snapshot_url, account, runtime)
            self.newer_choices = NewerChoices(ledger)
        self.bulk: BulkWriter | None = None
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
            self.bulk = BulkWriter(
                imports,
                self.writer,
                self.workspace,
                settings,
                shutdown=shutdown,
                runtime=runtime,
            )
