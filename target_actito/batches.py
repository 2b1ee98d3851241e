"""Reads many lines at a time: of the input as typed messages, of BATCH files as typed records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fsspec
import msgspec
from msgspec import UNSET, UnsetType

from actito_didomi.compression import BROKEN, open_gzip
from actito_didomi.errors import BadInputError
from actito_didomi.singer.reader import whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CHUNK = 1 << 16
"""What fits into a processor's cache: larger blocks take half as long again."""
_COMPRESSIONS = ("gzip", "none", None)


class TypedLines:
    """Decodes lines by the types that are expected; None stands for a line that isn't so.

    Args:
        record_type: Type of records.
    """

    def __init__(self, record_type: type[msgspec.Struct]) -> None:
        message_type = msgspec.defstruct(
            "Message",
            [
                ("type", str),
                ("stream", str, ""),
                ("record", record_type | UnsetType, UNSET),
            ],
            gc=False,
        )
        self._messages: msgspec.json.Decoder[Any] = msgspec.json.Decoder(message_type)
        self._records: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record_type)

    def messages(self, block: bytes) -> list[Any]:
        """Decode Singer messages; of others than RECORD only type and stream are of use."""
        return _decode(self._messages, block)

    def records(self, block: bytes) -> list[Any]:
        """Decode bare records."""
        return _decode(self._records, block)


def _decode(decoder: msgspec.json.Decoder[Any], block: bytes) -> list[Any]:
    try:
        found = decoder.decode_lines(block)
        if len(found) == block.count(b"\n") + 1:
            return found
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    return [_decode_one(decoder, line) for line in block.split(b"\n")]


def _decode_one(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_batch(
    url: str, encoding: Mapping[str, Any], storage_options: Mapping[str, Any]
) -> Iterator[tuple[int, bytes]]:
    """Read one file of a BATCH message as a stream, however large it is.

    Args:
        url: Any URL that fsspec knows, or a path.
        encoding: `format` must be `jsonl`, `compression` `gzip` or `none`.
        storage_options: Arguments of the file system.

    Returns:
        Whole lines, many at a time, with the number of the first.

    Raises:
        BadInputError: The file isn't there, is damaged, or is encoded otherwise.
    """
    compression = encoding.get("compression")
    if encoding.get("format") != "jsonl" or compression not in _COMPRESSIONS:
        raise BadInputError(
            f"BATCH files of format {encoding.get('format')!r} with compression {compression!r} "
            "can't be read. Set the tap's batch_config to format jsonl, compression gzip or none."
        )
    number = 1
    try:
        with fsspec.open(url, "rb", **storage_options) as raw:
            source = open_gzip(raw) if compression == "gzip" else raw
            for block in whole_lines(iter(lambda: source.read(_CHUNK), b"")):
                yield number, block
                number += block.count(b"\n") + 1
    except (FileNotFoundError, PermissionError, ImportError, ValueError) as error:
        raise BadInputError(
            f"The BATCH file {url} can't be opened ({type(error).__name__}). It must be reachable "
            "from this machine; credentials go into storage_options."
        ) from None
    except BROKEN:
        raise BadInputError(
            f"{url}: the gzip breaks off or is damaged behind line {number - 1}. Have the file "
            "made again; nothing behind it is acknowledged."
        ) from None
