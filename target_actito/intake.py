"""Taking in lines of the input and of BATCH files: the short way where they can, else in full."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from actito_didomi import codes
from actito_didomi.errors import BadInputError
from target_actito.batches import read_batch
from target_actito.typed import TypedLines

if TYPE_CHECKING:
    from collections.abc import Callable

    from actito_didomi.plugin.reader import SafeReader
    from actito_didomi.plugin.sink import ConsentSink
    from target_actito.fast import ShortWay
    from target_actito.summary import ActitoSummary

logger = logging.getLogger("target-actito")


class Intake:
    """Takes in lines.

    Args:
        reader: Reads a line in full.
        summary: Counts the records.
        on_idle: Called between lines that are read in full.
        on_lines: Called after lines were taken in.
    """

    def __init__(
        self,
        reader: SafeReader,
        summary: ActitoSummary,
        *,
        on_idle: Callable[[], None],
        on_lines: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._summary = summary
        self._on_idle = on_idle
        self._on_lines = on_lines
        self._short: ShortWay | None = None
        self._streams: dict[str, ConsentSink] = {}
        self._decoder = msgspec.json.Decoder()

    def forget(self, stream: str) -> None:
        """Let the records of a stream take the full way."""
        self._streams.pop(stream, None)

    def admit(self, sink: ConsentSink, short: ShortWay) -> None:
        """Let the records of a stream take the short way, if they can."""
        if self._short is None:
            self._short = short
            self._typed = TypedLines(short.record_type)
        if short.usable and short.can_tell(sink.key_properties):
            self._streams[sink.stream_name] = sink

    def take_lines(self, block: bytes) -> None:
        """Take in lines of the input: records the short way where they can, all else in full."""
        if not self._streams:
            block = self._take_until_short(block)
        if block:
            self._take_typed(_Lines(block), self._typed.messages(block))
        self._on_lines()

    def _take_until_short(self, block: bytes) -> bytes:
        """Take in lines in full, up to the one that lets a stream take the short way.

        Returns:
            The lines behind it.
        """
        lines = block.split(b"\n")
        for at, line in enumerate(lines, start=1):
            self._on_idle()
            self._reader.process_line(line)
            if self._streams:
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
                sink = self._streams.get(stream)
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
            self._on_idle()
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
                self._streams.clear()
                return False
        return True

    def take_files(
        self,
        batch: dict[str, Any],
        options: dict[str, Any],
        process_record: Callable[[dict[str, Any]], None],
    ) -> None:
        """Take in the files of a BATCH message, streamed.

        Args:
            batch: The message.
            options: Arguments of the files' file system.
            process_record: Takes a RECORD message that must be read in full.

        Raises:
            BadInputError: A file can't be read, or a line of it is no JSON object.
        """
        stream = batch["stream"]
        for url in batch["manifest"]:
            before = self._summary.records
            blocks = read_batch(url, batch["encoding"], options)
            for number, block in blocks:
                self._on_idle()
                self._take_batch_lines(stream, url, number, block, process_record)
                self._on_lines()
            logger.info("BATCH file read: %d records.", self._summary.records - before)

    def _take_batch_lines(
        self,
        stream: str,
        url: str,
        number: int,
        block: bytes,
        process_record: Callable[[dict[str, Any]], None],
    ) -> None:
        """Take in lines of one file of a BATCH message.

        Raises:
            BadInputError: One is no JSON object.
        """
        lines, at = _Lines(block), 0
        sink = self._streams.get(stream)
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
                    codes.UNREADABLE_BATCH,
                    f"{url}, line {number + at - 1}: no JSON object. Nothing behind it is "
                    "acknowledged; have the file made again.",
                )
            process_record({"type": "RECORD", "stream": stream, "record": whole})


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
