"""Streams out of batch exports."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from singer_sdk.helpers._batch import BaseBatchFileEncoding, BatchConfig
from singer_sdk.helpers.types import Context  # noqa: TC002 - the SDK reads annotations
from singer_sdk.singerlib.catalog import REPLICATION_INCREMENTAL

from actito_didomi import codes
from actito_didomi.consent.records import events_of_line, raw_events
from actito_didomi.didomi.exports import Line, broken, decode_line
from tap_didomi import schemas
from tap_didomi.streams import DidomiStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from actito_didomi.didomi.exports import Partition

_PROGRESS_INTERVAL = 30.0


class ExportStream(DidomiStream):
    """Reads finished partitions in order of their dates, each once.

    The bookmark of an export id is the date of its last partition that was read to the end, so a
    run that is killed reads the one it was in again.
    """

    @property
    def replication_method(self) -> str:
        """Incremental, by partition; there is no replication key in the records."""
        return REPLICATION_INCREMENTAL

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Give the records of all partitions that are new and complete."""
        del context
        for partition in self.new_partitions():
            for file, number, line in self.lines_of(partition):
                if (decoded := self.decode(file, number, line)) is not None:
                    yield from self.records_of(decoded)

    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        """Give none: records go out one by one."""
        del config
        return None

    def records_of(self, line: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Give the records that a line holds."""
        raise NotImplementedError

    def _write_starting_replication_value(self, context: Context | None) -> None:
        """Write none: the bookmarks are dates of partitions."""

    def new_partitions(self) -> Iterator[Partition]:
        """Give the partitions that are new and complete.

        When the next one is asked for, the one before has been read to its end: the state says so.
        """
        bookmarks: dict[str, str] = self.stream_state.setdefault("exports", {})
        start = str(self.config.get("start_date") or "")[:10]
        found = self.didomi.export_folder.partitions(self.config.get("export_ids"))
        for export_id, partitions in found.items():
            done = bookmarks.get(export_id, "")
            new = [p for p in partitions if p.date > done and p.date >= start]
            self.logger.info(
                "Export %s: %d partition(s), %d of them new.", export_id, len(partitions), len(new)
            )
            for partition in new:
                if not partition.complete:
                    self.logger.info(
                        "Export %s: the partition of %s has no _SUCCESS yet. This run ends before "
                        "it, so that none is skipped; the next one goes on here.",
                        export_id,
                        partition.date,
                    )
                    break
                yield partition
                bookmarks[export_id] = partition.date
                self.emit_state()

    def lines_of(self, partition: Partition) -> Iterator[tuple[str, int, bytes | Line]]:
        """Give the lines of a partition, not decoded, with file and number."""
        lines, last = 0, time.monotonic()
        folder = self.didomi.export_folder
        for at, file in enumerate(partition.files, start=1):
            for number, line in folder.raw_lines(file):
                self.didomi.shutdown.check()
                lines += 1
                yield file, number, line
                if time.monotonic() - last > _PROGRESS_INTERVAL:
                    last = time.monotonic()
                    self.logger.info(
                        "Export %s, %s: file %d of %d, %d lines read.",
                        partition.export_id,
                        partition.date,
                        at,
                        len(partition.files),
                        lines,
                    )
        self.logger.info(
            "Export %s, %s: done, %d lines in %d file(s).",
            partition.export_id,
            partition.date,
            lines,
            len(partition.files),
        )

    def decode(self, file: str, number: int, line: bytes | Line) -> dict[str, Any] | None:
        """Decode a line; None for a broken one, where the settings say to go on."""
        decoded = line if isinstance(line, Line) else decode_line(file, number, line)
        if decoded.value is None:
            self._broken(decoded)
        return decoded.value

    def _broken(self, line: Line) -> None:
        if self.config.get("on_bad_line") != "skip":
            raise broken(line)
        self.didomi.skipped_lines += 1
        self.logger.error("Skipped: %s: %s", codes.INVALID_LINE, line.problem)


class ExportEvents(ExportStream):
    """Consent events of batch exports."""

    name = "consent_events"
    primary_keys = ("id",)
    schema = schemas.CONSENT_EVENTS
    raw = True

    def records_of(self, line: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Give the events of a line, each with its user."""
        return events_of_line(line)

    def raw_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Give the events with their parts not decoded."""
        del context
        for partition in self.new_partitions():
            for file, number, line in self.lines_of(partition):
                events = raw_events(line) if isinstance(line, bytes) else None
                if events is None:
                    decoded = self.decode(file, number, line)
                    events = [] if decoded is None else events_of_line(decoded)
                yield from events


class ExportLines(ExportStream):
    """Batch exports as they are: their files are named in BATCH messages, and not read here.

    A record is a line: a user with the events of a day. It is the same stream as `ExportEvents`
    with the same state, so that `batch_config` can be set and taken out at any time.
    """

    name = "consent_events"
    schema = schemas.EXPORT_LINES

    def records_of(self, line: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Give the line."""
        return [line]

    def get_batch_config(self, config: Mapping[str, Any]) -> BatchConfig | None:
        """Give the setting."""
        return BatchConfig.from_dict(config["batch_config"])

    def get_batches(
        self, batch_config: BatchConfig, context: Context | None = None
    ) -> Iterable[tuple[BaseBatchFileEncoding, list[str]]]:
        """Name the files of each partition; its state follows when they are named."""
        del context
        folder = self.didomi.export_folder
        for partition in self.new_partitions():
            self.didomi.shutdown.check()
            if partition.files:
                yield batch_config.encoding, [folder.url(file) for file in partition.files]


class ExportUsers(ExportStream):
    """Users of batch exports, each with the whole status of that day.

    Read only when a catalog selects it: written to Actito, a whole status would overwrite newer
    choices that were made there.
    """

    name = "consent_users"
    primary_keys = ("id",)
    schema = schemas.CONSENT_USERS
    off_without_catalog = True

    def records_of(self, line: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Give the user of a line."""
        return [line["user"]]
