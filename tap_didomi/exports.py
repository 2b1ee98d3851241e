"""Streams out of batch exports."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from singer_sdk.helpers.types import Context  # noqa: TC002 - the SDK reads annotations
from singer_sdk.singerlib.catalog import REPLICATION_INCREMENTAL

from actito_didomi.didomi.exports import broken
from actito_didomi.didomi.records import events_of_line
from tap_didomi import schemas
from tap_didomi.base import DidomiStream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from actito_didomi.didomi.exports import ExportFolder, Line, Partition

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
        folder = self.didomi.export_folder
        bookmarks: dict[str, str] = self.stream_state.setdefault("exports", {})
        start = str(self.config.get("start_date") or "")[:10]
        for export_id, partitions in folder.partitions(self.config.get("export_ids")).items():
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
                yield from self._read(folder, partition)
                bookmarks[export_id] = partition.date
                self.emit_state()

    def records_of(self, line: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Give the records that a line holds."""
        raise NotImplementedError

    def _write_starting_replication_value(self, context: Context | None) -> None:
        """Write none: the bookmarks are dates of partitions."""

    def _read(self, folder: ExportFolder, partition: Partition) -> Iterator[dict[str, Any]]:
        lines, last = 0, time.monotonic()
        for number, file in enumerate(partition.files, start=1):
            for line in folder.lines(file):
                self.didomi.shutdown.check()
                lines += 1
                if line.value is None:
                    self._broken(line)
                    continue
                yield from self.records_of(line.value)
                if time.monotonic() - last > _PROGRESS_INTERVAL:
                    last = time.monotonic()
                    self.logger.info(
                        "Export %s, %s: file %d of %d, %d lines read.",
                        partition.export_id,
                        partition.date,
                        number,
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

    def _broken(self, line: Line) -> None:
        if self.config.get("on_bad_line") != "skip":
            raise broken(line)
        self.didomi.skipped_lines += 1
        self.logger.error("Skipped: %s", line.problem)


class ExportEvents(ExportStream):
    """Consent events of batch exports."""

    name = "consent_events"
    primary_keys = ("id",)
    schema = schemas.CONSENT_EVENTS

    def records_of(self, line: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Give the events of a line, each with its user."""
        return events_of_line(line)


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
