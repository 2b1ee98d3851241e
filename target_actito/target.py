"""The target: gathers consent records, and writes them as profile changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from singer_sdk.helpers.capabilities import CapabilitiesEnum, PluginCapabilities

from actito_didomi.consent.schema import LedgerScope
from actito_didomi.plugin.connector import unfold_connector
from actito_didomi.plugin.guards import Guards
from actito_didomi.plugin.target import ConsentTarget
from target_actito.config import Settings, find_problems
from target_actito.decode import Lines
from target_actito.pipeline import Pipeline
from target_actito.summary import ActitoSummary

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from actito_didomi.consent.coalesce import ProfileChange
    from actito_didomi.consent.records import ConsentRecord
    from actito_didomi.http import ApiSession
    from actito_didomi.plugin.sink import ConsentSink

logger = logging.getLogger("target-actito")


class TargetActito(ConsentTarget):
    """Singer target for Actito: writes consent records to subscriptions and attributes of profiles.

    It takes Didomi's consent events, consent users and batch-export lines from any tap.
    """

    name = "target-actito"
    system = "Actito"
    direction = "forward"
    summary_class = ActitoSummary
    settings_class = Settings
    settings: Settings
    capabilities: ClassVar[list[CapabilitiesEnum]] = [
        *ConsentTarget.capabilities,
        PluginCapabilities.BATCH,
    ]
    summary: ActitoSummary
    guards: Guards

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.guards = Guards(self.settings.guards)
        self._pipeline: Pipeline | None = None
        self._has_maps = bool(self._config.get("stream_maps"))
        if self._has_maps:
            logger.info("Stream maps are set: records take the SDK's own path, which takes longer.")

    # Settings

    @classmethod
    def unfold_settings(cls, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Unfold a pasted connector object."""
        return unfold_connector(config, cls.full_schema()["properties"])

    def find_problems(self) -> list[str]:
        """Check the typed settings for what a JSON schema can't say."""
        return find_problems(self.settings)

    # Messages

    def take_lines(self, block: bytes) -> None:
        """Read lines: by type as soon as a stream holds consent records."""
        rest: bytes | None = block
        if not self._reads_by_type:
            rest = self._take_lines_until_typed(block)
        if rest is not None:
            self.pipeline.take_lines(rest)
        self.after_records()

    @property
    def _reads_by_type(self) -> bool:
        return self._pipeline is not None and self._pipeline.reads

    def _take_lines_until_typed(self, block: bytes) -> bytes | None:
        """Read lines as a whole until a SCHEMA allows to read by type; return those after it."""
        lines = Lines(block)
        for at in range(len(lines)):
            self.take_line(lines[at])
            if self._reads_by_type and at + 1 < len(lines):
                return lines.after(at + 1)
        return None

    def take_record(
        self, stream: str, record: dict[str, Any], arrival: datetime | None = None
    ) -> None:
        """Read a record as a whole.

        Args:
            stream: Its stream.
            record: The record.
            arrival: When it had arrived at the latest; None for now.
        """
        self._process_record_message(
            {"type": "RECORD", "stream": stream, "record": record, "time_extracted": arrival}
        )

    def found_consent(self, sink: ConsentSink) -> None:
        """Read a stream's records by type, unless the SDK changes them."""
        if not self._has_maps:
            self.pipeline.admit(sink)

    def _process_schema_message(self, message_dict: dict[str, Any]) -> None:
        if self._pipeline is not None:
            self._pipeline.forget(message_dict.get("stream", ""))
        super()._process_schema_message(message_dict)

    def _process_batch_message(self, message_dict: dict[str, Any]) -> None:
        self._assert_line_requires(message_dict, requires={"stream", "encoding", "manifest"})
        self._assert_sink_exists(message_dict["stream"])
        self.connect()
        self.pipeline.take_files(message_dict)

    # Gathering

    def open(self) -> ApiSession:
        """Open the session and check the configuration against the table."""
        self._pipeline = Pipeline(self.settings, self, self.ledger, self.shutdown, self.runtime)
        return self._pipeline.session

    def ledger_scope(self) -> LedgerScope:
        """Return the pair as far as it is known here: the table in Actito."""
        actito = self.settings.actito
        return LedgerScope(
            regulation=self.settings.regulation,
            entity=actito.entity_id,
            table=actito.table_name,
        )

    @property
    def pipeline(self) -> Pipeline:
        """What exists once Actito is needed."""
        if self._pipeline is None:
            raise RuntimeError("records are taken and written only once the API is open")
        return self._pipeline

    @property
    def waiting(self) -> int:
        """How many people have changes gathered."""
        return 0 if self._pipeline is None else self._pipeline.collector.waiting

    @property
    def oldest_waiting(self) -> int | None:
        """Number of the earliest record of which something is gathered."""
        return None if self._pipeline is None else self._pipeline.collector.oldest

    def may_opt_out(self, part: dict[str, Any]) -> bool:
        """Return whether a record that could not be read may hold an opt-out that is mapped."""
        return self.pipeline.translator.may_opt_out(part.get("consents"))

    def take(self, consent: ConsentRecord, part: Mapping[str, Any]) -> None:
        """Gather what a consent record says that was decoded as a whole."""
        del part
        self.pipeline.take(consent)

    # Writing

    def write_gathered(self) -> None:
        """Write the changes of all people gathered, and what the ledger says is owed."""
        pipeline = self.pipeline
        if self.ledger is not None:
            with self.collecting_garbage():
                pipeline.deliver()
        elif changes := pipeline.collector.take(is_last=self.has_ended):
            with self.collecting_garbage():
                self.write_changes(changes)
        else:
            pipeline.check_mappings()

    def write_changes(self, changes: list[ProfileChange]) -> None:
        """Plan how to write these changes, and do it; without a ledger."""
        self.pipeline.write(changes)

    def finish(self) -> None:
        """Check that no import is under way."""
        if self._pipeline is not None:
            self._pipeline.finish()

    @property
    def regulation(self) -> str:
        """The regulation whose consents are synced."""
        return self.settings.regulation

    @property
    def knows_regulation(self) -> bool:
        """Whether earlier runs met records of the regulation."""
        return self._pipeline is not None and self._pipeline.knows_regulation

    @property
    def suspects_mistake(self) -> bool:
        """Whether mappings look wrong so far."""
        return self._pipeline is not None and self._pipeline.suspects_mistake

    @property
    def seen_regulations(self) -> str:
        """The regulations of records, in words."""
        return "" if self._pipeline is None else self._pipeline.seen_regulations

    def close(self) -> None:
        """Fill in the summary, and close what is open."""
        if self._pipeline is not None:
            self._pipeline.close()
