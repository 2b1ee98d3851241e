"""Files of exports: which of them were read, and their content.

Gzip is read with Intel's library, in half the time of the standard one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from gzip import BadGzipFile
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from isal import igzip, isal_zlib

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

BROKEN = (EOFError, BadGzipFile, cast("type[Exception]", isal_zlib.error))
"""Raised on reading a file that is truncated or damaged."""
_MARK_BYTES = 6
_MARK_LENGTH = 8
_DIGITS = re.compile(r"(\d+)")


class ListedFile(NamedTuple):
    """A file as its folder lists it.

    Attributes:
        path: Where it is, for opening it.
        name: What it is called among the files of its folder or partition.
        size: Bytes; None where the file system doesn't say.
        tag: What its content is known by, such as an ETag; the size where there is none.
    """

    path: str
    name: str
    size: int | None
    tag: str

    @property
    def mark(self) -> str:
        """What stands for the file in STATE: eight characters, others once it has grown."""
        digest = hashlib.blake2b(
            f"{self.name}\n{self.tag}".encode("utf-8", "surrogateescape"), digest_size=_MARK_BYTES
        )
        return base64.urlsafe_b64encode(digest.digest()).decode()


def listed_file(name: str, info: Mapping[str, Any]) -> ListedFile:
    """Read what fsspec says of a file.

    Args:
        name: What it is called among the files of its folder or partition.
        info: An entry of `ls` or `find` with details.
    """
    size = info.get("size")
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    return ListedFile(str(info["name"]), name, size, str(tag or size))


def unread(files: Iterable[ListedFile], marks: str) -> list[ListedFile]:
    """Return the files that are new or have grown.

    Args:
        files: All files that are there.
        marks: Those that were read, as STATE holds them.

    Returns:
        The others, in natural order of their names: `changes-9` before `changes-10`.
    """
    read = set(_split(marks))
    new = [file for file in files if file.mark not in read]
    return sorted(new, key=lambda file: natural_order(file.name))


def add_marks(marks: str, files: Iterable[ListedFile]) -> str:
    """Return the marks in STATE once these files were read, too."""
    known = dict.fromkeys(_split(marks))
    return "".join(known | dict.fromkeys(file.mark for file in files))


def keep_marks(marks: str, files: Iterable[ListedFile]) -> str:
    """Return the marks without those of files that are gone or have grown."""
    present = {file.mark for file in files}
    return "".join(mark for mark in _split(marks) if mark in present)


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by their value."""
    parts = _DIGITS.split(name)
    return [(int(part), part) if number % 2 else (0, part) for number, part in enumerate(parts)]


def _split(marks: str) -> Iterator[str]:
    return (marks[at : at + _MARK_LENGTH] for at in range(0, len(marks), _MARK_LENGTH))


def open_gzip(raw: IO[bytes]) -> IO[bytes]:
    """Open a compressed file as a stream of its contents.

    Raises (on reading):
        EOFError: The file is truncated.
        BadGzipFile: It is not a gzip file, or is damaged.
        isal_zlib.error: It is damaged.
    """
    return cast("IO[bytes]", igzip.open(raw))  # type: ignore[no-untyped-call]
