"""Files of exports: which of them were read, and their content.

Gzip is read with Intel's library, in half the time of the standard one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from isal import igzip, isal_zlib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

BROKEN = (EOFError, BadGzipFile, cast("type[Exception]", isal_zlib.error))
"""Raised on reading a file that is truncated or damaged."""
MAX_COMPRESSION_RATIO: Final = 200.0
"""Default of `max_compression_ratio`."""
_FREE = 1 << 20
_LOCAL = "file://"
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


class ExpandsTooMuchError(Exception):
    """The content of a file is larger than `max_compression_ratio` allows."""


class BoundedStream(io.BufferedIOBase):
    """The content of a compressed file, as long as it isn't much larger than the file.

    Args:
        source: The content.
        max_ratio: How many times larger it may be, after the first MiB.
        compressed: Returns how many bytes of the file it was made from.
    """

    def __init__(self, source: IO[bytes], max_ratio: float, compressed: Callable[[], int]) -> None:
        self._source = source
        self._max_ratio = max_ratio
        self._compressed = compressed
        self._read = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes.

        Raises:
            ExpandsTooMuchError: There are too many.
        """
        return self._count(self._source.read(-1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        """Read bytes as `read` does, as many as there are for now."""
        return self._count(self._source.read1(size))  # type: ignore[attr-defined]

    def _count(self, data: bytes) -> bytes:
        self._read += len(data)
        if self._read > _FREE and self._read - _FREE > self._max_ratio * self._compressed():
            raise ExpandsTooMuchError(
                f"the content is more than {self._max_ratio:g} times larger than the file "
                "(max_compression_ratio)"
            )
        return data


def open_gzip(raw: IO[bytes], max_ratio: float) -> BoundedStream:
    """Open a compressed file as a stream of its contents.

    Args:
        raw: The file.
        max_ratio: How many times larger than the file its content may be, after the first MiB.

    Raises (on reading):
        EOFError: The file is truncated.
        BadGzipFile: It is not a gzip file, or is damaged.
        isal_zlib.error: It is damaged.
        ExpandsTooMuchError: The content is too large.
    """
    opened = cast("IO[bytes]", igzip.open(raw))  # type: ignore[no-untyped-call]
    return BoundedStream(opened, max_ratio, raw.tell)  # words: allow


def show_url(url: str) -> str:
    """Return a URL for messages: without query and credentials, which may be signed or secret."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def is_below(url: str, root: str) -> bool:
    """Return whether a file lies in a folder or below it, whatever tricks its URL plays.

    Args:
        url: The file: a path, or a URL as fsspec takes it.
        root: The folder, likewise.
    """
    if "::" in url:  # fsspec opens one URL inside of another
        return False
    if _is_local(url) or _is_local(root):
        if not (_is_local(url) and _is_local(root)):
            return False
        folder = Path(root.removeprefix(_LOCAL)).resolve()
        return folder in Path(url.removeprefix(_LOCAL)).resolve().parents
    found, expected = urlsplit(url), urlsplit(root)
    steps = unquote(found.path).split("/")
    return (
        (found.scheme, found.netloc) == (expected.scheme, expected.netloc)
        and found.path.startswith(expected.path.rstrip("/") + "/")
        and not {"..", "."} & set(steps)
        and "\\" not in url
    )


def _is_local(url: str) -> bool:
    return url.startswith(_LOCAL) or "://" not in url
