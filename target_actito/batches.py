"""Reads the files of BATCH messages, many lines at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fsspec

from actito_didomi import codes
from actito_didomi.errors import BadInputError
from actito_didomi.files import BROKEN, open_gzip
from actito_didomi.plugin.reader import whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CHUNK = 1 << 16
"""What fits into a processor's cache: larger blocks take half as long again."""
_COMPRESSIONS = ("gzip", "none", None)


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
            codes.UNREADABLE_BATCH,
            f"BATCH files of format {encoding.get('format')!r} with compression {compression!r} "
            "can't be read. Set the tap's batch_config to format jsonl, compression gzip or none.",
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
            codes.UNREADABLE_BATCH,
            f"The BATCH file {url} can't be opened ({type(error).__name__}). It must be reachable "
            "from this machine; credentials go into storage_options.",
        ) from None
    except BROKEN:
        raise BadInputError(
            codes.UNREADABLE_BATCH,
            f"{url}: the gzip breaks off or is damaged behind line {number - 1}. Have the file "
            "made again; nothing behind it is acknowledged.",
        ) from None
