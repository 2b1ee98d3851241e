"""Reads Singer messages without ever printing one, and without being blocked by a quiet tap."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from collections import Counter
from typing import IO, TYPE_CHECKING, Any

import msgspec
from singer_sdk.singerlib.encoding.base import GenericSingerReader
from singer_sdk.singerlib.exceptions import InvalidInputLine

from actito_didomi.lines import MAX_LINE_BYTES, CutLine, LongLine, whole_lines
from actito_didomi.tolerant import decode_tolerantly, readable_part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CHUNK = 1 << 16
"""What a pipe holds, and a processor's cache."""
_TICK = 0.2
"""Seconds between two looks at the clock and at signals while the tap is quiet."""


class SafeReader(GenericSingerReader[str]):
    """A message reader whose errors name the line by its number and never show it.

    Attributes:
        line_number: Number of the last line that was read.
        max_line_bytes: Longer lines are not decoded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.line_number = 0
        self.max_line_bytes = MAX_LINE_BYTES
        self._callbacks: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._counts: Counter[str] = Counter()
        self._decoder = msgspec.json.Decoder()

    @property
    def default_input(self) -> IO[str]:
        """Standard input."""
        return sys.stdin

    def blocks(self, file_input: IO[str] | None) -> Iterator[bytes | None]:
        """Yield the lines of the input, many at a time.

        Yields:
            Whole lines, without the end of the last; None several times a second while no line
            comes, so that the clock and signals are looked at.
        """
        source = file_input or self.default_input
        handle = _pipe_handle(source)
        raw = getattr(source, "buffer", None)
        if handle is not None:
            chunks = _chunks_of_pipe(handle)
        elif raw is not None:
            chunks = iter(lambda: raw.read(_CHUNK), b"")
        else:
            chunks = (line.encode("utf-8", "surrogatepass") for line in source)
        yield from whole_lines(chunks, self.max_line_bytes)

    def process_lines(
        self,
        file_input: IO[str] | None,
        callbacks: dict[str, Callable[[dict[str, Any]], None]],
    ) -> Counter[str]:
        """Read the input to its end, and pass each message to the callback of its type.

        Returns:
            How many messages of each type were passed by `process_line`.

        Raises:
            InvalidInputLine: A message lacks a key, or the last line is cut off; the message names
                the number of the line.
        """
        self._callbacks = callbacks
        for block in self.blocks(file_input):
            self.process_block(block)
        return self._counts

    def process_block(self, block: bytes | None) -> None:
        """Process lines that came together; override to process them another way.

        Args:
            block: Whole lines, without the end of the last; None several times a second while no
                line comes.
        """
        if isinstance(block, (CutLine, LongLine)):
            self.process_line(block)
            return
        for line in [] if block is None else block.split(b"\n"):
            self.process_line(line)

    def process_line(self, line: bytes) -> None:
        """Pass one message to the callback of its type.

        Raises:
            InvalidInputLine: The line can't be read, and is cut off at the end of the input.
        """
        self.line_number += 1
        if not line.strip():
            return
        try:
            message = self.deserialize_json(line)
        except InvalidInputLine as error:
            if isinstance(line, CutLine):
                raise
            self.handle_unreadable(line, str(error))
            return
        kind = message["type"]
        self._callbacks[kind](message)
        self._counts[kind] += 1

    def count_records(self, count: int) -> None:
        """Count lines with a record that were read another way."""
        self.line_number += count
        self._counts["RECORD"] += count

    def handle_unreadable(self, line: bytes, reason: str) -> None:
        """Handle a whole line that is no message; override to go on without it.

        Args:
            line: The line; of a `LongLine` the beginning.
            reason: What is wrong with it, with its number, and nothing of what it holds.

        Raises:
            InvalidInputLine: Always.
        """
        del line
        raise InvalidInputLine(reason)

    def deserialize_json(self, line: str | bytes) -> dict[str, Any]:
        """Decode a line: strictly, or else tolerantly.

        Raises:
            InvalidInputLine: It isn't a message, or one that no part may be missing of.
        """
        where = f"Line {self.line_number} of the input"
        if isinstance(line, LongLine):
            raise InvalidInputLine(f"{where} is longer than {line.limit:,} bytes (max_line_bytes).")
        raw = line.encode() if isinstance(line, str) else line
        try:
            message = self._decoder.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            message = _decode_odd(raw, where)
        kind = message.get("type") if isinstance(message, dict) else None
        if not isinstance(kind, str):
            raise InvalidInputLine(f"{where} is not a Singer message: it has no `type`.")
        if kind not in self._callbacks:
            raise InvalidInputLine(
                f"{where} is a message of unknown type. Known types: "
                "SCHEMA, RECORD, STATE, BATCH, ACTIVATE_VERSION."
            )
        if kind == "RECORD" and not (
            isinstance(message.get("record"), dict) and isinstance(message.get("stream"), str)
        ):
            raise InvalidInputLine(
                f"{where} is a RECORD message without an object `record` or a text `stream`."
            )
        found: dict[str, Any] = message
        return found

    @staticmethod
    def assert_line_requires(line_dict: dict[str, Any], requires: set[str]) -> None:
        """Check that a message has these keys.

        Raises:
            InvalidInputLine: It lacks one. The message names the key, and shows nothing else.
        """
        if missing := sorted(requires - set(line_dict)):
            kind = line_dict.get("type")
            raise InvalidInputLine(
                f"A {kind if isinstance(kind, str) else 'SCHEMA'} message lacks the required "
                f"key(s): {', '.join(missing)}."
            )


def _decode_odd(line: bytes, where: str) -> Any:
    """Decode a message that can't be decoded strictly.

    Of a RECORD only the record may hold what can't be read, and a STATE nothing: it comes back as
    it left.

    Raises:
        InvalidInputLine: That is impossible.
    """
    try:
        message = decode_tolerantly(line)
    except ValueError:
        raise InvalidInputLine(
            f"{where} is not valid JSON. Singer messages are one JSON object per line; something "
            "else writes to the tap's standard output, or the tap was cut off."
        ) from None
    if not isinstance(message, dict):
        return message
    if message.get("type") == "STATE":
        raise InvalidInputLine(f"{where} is a STATE message with something that can't be read.")
    return {
        name: part if name == "record" else readable_part(part) for name, part in message.items()
    }


def _pipe_handle(source: IO[str]) -> int | None:
    """Return the file descriptor of a source that can keep us waiting; None for files and texts."""
    try:
        handle = source.fileno()
        mode = os.fstat(handle).st_mode
    except (OSError, ValueError, io.UnsupportedOperation, AttributeError):
        return None
    return None if stat.S_ISREG(mode) or os.name != "posix" else handle


def _chunks_of_pipe(handle: int) -> Iterator[bytes | None]:
    """Yield what a pipe holds, as it comes, and None several times a second while nothing comes.

    Reading through `select` matters: Python resumes a blocked read after a signal, so a handler
    that sets a flag would not be seen before the tap writes again.
    """
    while True:
        ready, _, _ = select.select([handle], [], [], _TICK)
        if not ready:
            yield None
        elif chunk := os.read(handle, _CHUNK):
            yield chunk
        else:
            return
