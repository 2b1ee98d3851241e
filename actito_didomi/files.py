"""Read gzip with Intel's library, in half the time of the standard one."""

from __future__ import annotations

from gzip import BadGzipFile
from typing import IO, cast

from isal import igzip, isal_zlib

BROKEN = (EOFError, BadGzipFile, cast("type[Exception]", isal_zlib.error))
"""Raised on reading a file that is truncated or damaged."""


def open_gzip(raw: IO[bytes]) -> IO[bytes]:
    """Open a compressed file as a stream of its contents.

    Raises (on reading):
        EOFError: The file is truncated.
        BadGzipFile: It is not a gzip file, or is damaged.
        isal_zlib.error: It is damaged.
    """
    return cast("IO[bytes]", igzip.open(raw))  # type: ignore[no-untyped-call]
