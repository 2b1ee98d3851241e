"""Reads gzip, by Intel's library: half the time of the standard one."""

from __future__ import annotations

from gzip import BadGzipFile
from typing import IO, cast

from isal import igzip, isal_zlib

BROKEN = (EOFError, BadGzipFile, cast("type[Exception]", isal_zlib.error))
"""Raised on reading a file that breaks off or is damaged."""


def open_gzip(raw: IO[bytes]) -> IO[bytes]:
    """Read what a file holds, compressed, as a stream.

    Raises (on reading):
        EOFError: The file breaks off.
        BadGzipFile: It is no gzip, or damaged.
        isal_zlib.error: It is damaged.
    """
    return cast("IO[bytes]", igzip.open(raw))  # type: ignore[no-untyped-call]
