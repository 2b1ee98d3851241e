"""Didomi's batch exports: partitions by day, gzip NDJSON, one line per user with its events."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import fsspec
import msgspec

from actito_didomi import codes
from actito_didomi.errors import SettingsError, how_to_install
from actito_didomi.files import (
    BROKEN,
    MAX_COMPRESSION_RATIO,
    ExpandsTooMuchError,
    listed_file,
    open_gzip,
)
from actito_didomi.lines import MAX_LINE_BYTES, LongLine, whole_lines
from actito_didomi.tolerant import decode_tolerantly, is_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from actito_didomi.files import ListedFile

_PARTITION = re.compile(
    r"(?:^|/)export-id=([^/]+)/date=([1-9]\d{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))/"
)
_DAY = re.compile(r"/date=([1-9]\d{3}-\d\d-\d\d)/")
_CHUNK = 1 << 16
_USERS = "users/"
_SUCCESS = frozenset({"_SUCCESS", f"{_USERS}_SUCCESS"})
"""Where the file lies that closes a partition. Documented is only that it comes last; one of
`proofs/` says nothing about `users/`."""


@dataclass(frozen=True)
class Partition:
    """One day of one export.

    Attributes:
        export_id: Id of the export.
        date: Day, as `yyyy-MM-dd`.
        files: Its `.json.gz` files with users, sorted.
        others: Names of other files among these, which can't be read.
        complete: Whether `_SUCCESS` is there.
    """

    export_id: str
    date: str
    files: tuple[ListedFile, ...]
    others: tuple[str, ...]
    complete: bool

    @property
    def arrived_at(self) -> datetime:
        """When its events had happened at the latest: the end of its day, in UTC."""
        return _end_of(self.date)


def arrival_of_file(url: str) -> datetime | None:
    """Return when the events of a file had happened at the latest, by the day in its path.

    Args:
        url: The file; of a partition of exports its folder is named `date=yyyy-MM-dd`.

    Returns:
        The end of that day, in UTC; None for a path that names none.
    """
    days = _DAY.findall(url)
    try:
        return _end_of(days[-1]) if days else None
    except ValueError:  # a day that no month has
        return None


def _end_of(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=timezone.utc) + timedelta(days=1)


@dataclass(frozen=True)
class Line:
    """One line of an export file.

    Attributes:
        file: Path of the file.
        number: Number of the line, from 1.
        value: The decoded line; None when it can't be read at all.
        problem: What is broken and where, for a message; holds no value of the line.
        raw: A broken line as it came; of one that is too long, the beginning.
    """

    file: str
    number: int
    value: dict[str, Any] | None
    problem: str | None = None
    raw: bytes = b""


class ExportFolder:
    """The root of batch exports, on any file system that fsspec knows.

    Args:
        root: URL, such as `s3://bucket` or `file:///folder`; with or without the `data` folder.
        storage_options: Arguments of the file system.
        max_line_bytes: Longer lines are broken ones.
        max_compression_ratio: How many times larger than a file its content may be.

    Raises:
        SettingsError: The URL can't be used; the message names the extra to install.
    """

    def __init__(
        self,
        root: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        max_line_bytes: int = MAX_LINE_BYTES,
        max_compression_ratio: float = MAX_COMPRESSION_RATIO,
    ) -> None:
        self.root = root
        self._max_line_bytes = max_line_bytes
        self._max_ratio = max_compression_ratio
        try:
            self._fs, self._path = fsspec.core.url_to_fs(root, **(storage_options or {}))
        except ImportError:
            protocol = root.split("://", 1)[0]
            extra = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}.get(protocol)
            how = how_to_install(extra) if extra else "install its fsspec library"
            raise SettingsError(
                codes.MISSING_PACKAGE, f"export_root: no library for {protocol}://. Fix: {how}."
            ) from None
        except (ValueError, TypeError):
            raise SettingsError(
                codes.UNUSABLE_PATH,
                "export_root: must be a URL of a known file system, such as s3://bucket or "
                "file:///folder, and storage_options must be arguments of that file system.",
            ) from None

    def partitions(self, export_ids: Sequence[str] | None = None) -> dict[str, list[Partition]]:
        """List partitions by export id, in order of their dates.

        Args:
            export_ids: Only these; None for all.

        Raises:
            SettingsError: The folder doesn't exist, or holds no export with one of the ids.
        """
        self._fs.invalidate_cache()
        if not self._fs.exists(self._path):
            raise SettingsError(
                codes.UNUSABLE_PATH, f"export_root: there is nothing at {self.root}."
            )
        found: dict[tuple[str, str], list[ListedFile]] = {}
        for path, info in self._fs.find(self._path, detail=True).items():
            if partition := _PARTITION.search(path):
                file = listed_file(path[partition.end() :], info)
                found.setdefault((partition[1], partition[2]), []).append(file)
        result: dict[str, list[Partition]] = {}
        for (export_id, date), files in sorted(found.items()):
            if export_ids is None or export_id in export_ids:
                result.setdefault(export_id, []).append(_partition(export_id, date, files))
        if missing := [name for name in export_ids or [] if name not in result]:
            known = ", ".join(sorted({export_id for export_id, _ in found})) or "none"
            raise SettingsError(
                codes.UNKNOWN_EXPORT,
                f"export_ids: no export {', '.join(missing)} at {self.root}. Found: {known}.",
            )
        return result

    def url(self, file: str) -> str:
        """Return the URL of a file, for other programs."""
        url: str = self._fs.unstrip_protocol(file)
        return url

    def lines(self, file: str) -> Iterator[Line]:
        """Read one file line by line, in constant memory.

        A broken line is yielded with its problem, and reading continues. A truncated file yields
        one last line with that problem.
        """
        for number, line in self.raw_lines(file):
            if isinstance(line, Line):
                yield line
            else:
                yield decode_line(file, number, line)

    def raw_lines(self, file: str) -> Iterator[tuple[int, bytes | Line]]:
        """Read one file line by line, without decoding.

        Yields:
            The number of each line, and its content; empty lines are left out. A truncated file
            yields one last `Line` with that problem.
        """
        number = 0
        try:
            with self._fs.open(file, "rb") as raw, open_gzip(raw, self._max_ratio) as content:
                chunks = iter(lambda: content.read1(_CHUNK), b"")
                for block in whole_lines(chunks, self._max_line_bytes):
                    if isinstance(block, LongLine):
                        number += 1
                        yield number, _long_line(file, number, block)
                        continue
                    for line in (block or b"").split(b"\n"):
                        number += 1
                        if line.strip():
                            yield number, line
                if number == 0 and raw.tell() == 0:  # words: allow
                    yield 1, Line(file, 1, None, f"{file}: the file is empty (0 bytes).")
        except ExpandsTooMuchError as error:
            yield number + 1, Line(file, number + 1, None, f"{file}, after line {number}: {error}.")
        except BROKEN:
            problem = (
                f"{file}: gzip stream truncated or corrupt after line {number}. Copy the file "
                "again; if its source is broken, ask Didomi for the export of that day."
            )
            yield number + 1, Line(file, number + 1, None, problem)


def _long_line(file: str, number: int, line: LongLine) -> Line:
    problem = f"{file}, line {number}: longer than {line.limit:,} bytes (max_line_bytes)."
    return Line(file, number, None, problem, bytes(line))


def decode_line(file: str, number: int, line: bytes) -> Line:
    """Decode one line, strictly or else tolerantly; see `Line` for what is wrong with a broken one.

    Of odd values in it, targets find out whether a mapping names them.
    """
    where = f"{file}, line {number}"

    def broken(problem: str) -> Line:
        return Line(file, number, None, f"{where}: {problem}.", bytes(line))

    try:
        value = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            value = decode_tolerantly(line)
        except ValueError:
            return broken("not valid JSON")
    user = value.get("user") if isinstance(value, dict) else None
    if not isinstance(user, dict) or is_unreadable(user):
        return broken("must be an object with `user`")
    events = value.get("events")
    if events is None:
        found = ", ".join(sorted(value))
        problem = f"{where}: no `events`, so what changed is unknown. Found: {found}."
        return Line(file, number, {**value, "events": []}, problem, bytes(line))
    if not isinstance(events, list) or not all(isinstance(e, dict) for e in events):
        return broken("`events` must be a list of objects")
    return Line(file, number, value)


def _partition(export_id: str, date: str, files: Sequence[ListedFile]) -> Partition:
    users = [file for file in files if file.name.startswith(_USERS)]
    users = [file for file in users if not file.name.rsplit("/", 1)[-1].startswith(("_", "."))]
    return Partition(
        export_id,
        date,
        files=tuple(sorted(file for file in users if file.name.endswith(".json.gz"))),
        others=tuple(sorted(file.name for file in users if not file.name.endswith(".json.gz"))),
        complete=any(file.name in _SUCCESS for file in files),
    )
