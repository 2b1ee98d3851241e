"""Changes of subscriptions, from files of the "Profile changes" export.

The dialect is documented: UTF-8, header line, `;`, quote `"`, zipped, gzipped or plain. The names
of the columns are inferred, so they can be set.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NamedTuple

import fsspec
import msgspec

from actito_didomi import codes
from actito_didomi.actito._wire import FACTS
from actito_didomi.errors import BadInputError, SettingsError, how_to_install
from actito_didomi.files import (
    BROKEN,
    MAX_COMPRESSION_RATIO,
    BoundedStream,
    ExpandsTooMuchError,
    listed_file,
    natural_order,
    open_gzip,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

    from actito_didomi.actito._wire import Facts
    from actito_didomi.files import ListedFile
    from actito_didomi.runtime import Event

COLUMNS = FACTS.changes.columns()
_SEPARATORS = (",", "\t", "|")
_OPTIONAL = frozenset({"profile_id", "event", "source"})
_FILE_NAME = re.compile(r"\.(csv|csv\.gz|gz|zip)$", re.IGNORECASE)
_TIMESTAMP = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d(?::\d\d)?)?)"
    r"(?:\.(?P<fraction>\d+))? ?(?P<zone>Z|[+-]\d\d:?\d\d)?",
    re.ASCII,
)
_PRECISION = {
    len("2026-11-23"): timedelta(days=1),
    len("2026-11-23 08:00"): timedelta(minutes=1),
    len("2026-11-23 08:00:00"): timedelta(seconds=1),
}
"""What a timestamp without a fraction leaves open, by its length."""
MAX_CELL_BYTES: Final = 1 << 20
"""Default of `max_cell_bytes`."""
_CELLS = 8
"""Cells of the maximum size that a line may hold."""
_KEPT = 1 << 16
_MAX_DIGITS = 19
_MOST_NAMES = 20
_ODD = re.compile("[\ud800-\udfff]")
"""What stands for bytes that aren't UTF-8."""
_MAX_TIMESTAMPS = 10_000
"""Timestamps whose parsed form is kept."""


class SubscriptionChange(msgspec.Struct, frozen=True, gc=False):
    """A subscription that changed for one profile.

    Attributes:
        profile_id: `profileId`; None where an export doesn't hold it.
        person: Value of the key attribute; None where the profile has none.
        subscription: Its name.
        subscribed: Whether the person is subscribed now.
        changed_at: When it changed, at the latest; aware of its zone.
        changed_after: When it changed at the earliest, where only a window is known; None where
            `changed_at` is exact, or nothing is known.
        source: Where it was read, or how it came about by Actito's own word.
        kind: Whether it is a subscription, or a boolean attribute such as `marketingConsent`.
    """

    profile_id: int | None
    person: str | None
    subscription: str
    subscribed: bool
    changed_at: datetime
    changed_after: datetime | None
    source: str
    kind: Literal["subscription", "attribute"] = "subscription"


class ChangeFolder:
    """The folder that exports of profile changes arrive in.

    Args:
        url: Its URL, on any file system that fsspec knows.
        storage_options: Arguments of the file system.

    Raises:
        SettingsError: The file system isn't known, or its library isn't installed.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        try:
            self._fs, root = fsspec.url_to_fs(url, **storage_options)
        except (ImportError, ValueError) as error:
            raise SettingsError(
                codes.UNUSABLE_PATH,
                f"export_root: this kind of URL can't be read ({type(error).__name__}). For "
                f"sftp:// install paramiko, for gs:// the extra gcs, for s3:// the extra s3: "
                f"{how_to_install('s3')}.",
            ) from None
        self._root = str(root).rstrip("/")

    def names(self) -> list[str]:
        """Return the names of all files of the export, sorted.

        Raises:
            SettingsError: The folder doesn't exist.
        """
        return [file.name for file in self.files()]

    def files(self) -> list[ListedFile]:
        """Return all files of the export, in natural order of their names.

        Raises:
            SettingsError: The folder doesn't exist.
        """
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            raise SettingsError(
                codes.UNUSABLE_PATH, f"export_root: there is no folder at {self._root}."
            ) from None
        files = [listed_file(i["name"].rsplit("/", 1)[-1], i) for i in found if i["type"] == "file"]
        named = [file for file in files if _FILE_NAME.search(file.name)]
        return sorted(named, key=lambda file: natural_order(file.name))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        file: IO[bytes] = self._fs.open(f"{self._root}/{name}", "rb")
        return file

    def modified(self, name: str) -> datetime | None:
        """Return when a file last changed; None where the file system doesn't say."""
        try:
            found: datetime = self._fs.modified(f"{self._root}/{name}")
        except NotImplementedError:
            return None
        return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)

    def is_stable(self, name: str, seconds: float, now: datetime, stop: Event) -> bool:
        """Return whether a file is complete, judged by its age.

        Args:
            name: Its name.
            seconds: The file must not have changed for this long. Where the file system doesn't
                know when a file changed, its size must stay the same while this waits.
            now: The present time; aware of its zone.
            stop: Ends the wait early.
        """
        path = f"{self._root}/{name}"
        if not seconds:
            return True
        modified = self.modified(name)
        if modified is None:
            size = self._fs.size(path)
            if stop.wait(seconds):
                return False
            self._fs.invalidate_cache()
            return bool(size == self._fs.size(path))
        return bool(now - modified >= timedelta(seconds=seconds))


@dataclass(frozen=True)
class BrokenRow:
    """A line of the export that can't be read.

    Attributes:
        problem: File, line and what is broken, for a message; no value of the line.
        line: Its number in the file, from 1.
        raw: The line as it came.
        may_opt_out: Whether it may hold an opt-out.
    """

    problem: str
    line: int
    raw: bytes
    may_opt_out: bool


class ChangeFile:
    """One file of the export.

    Args:
        name: Its name, for messages; its ending says how the file is compressed.
        key: The key attribute, which is a column too.
        columns: Names of columns that differ from those of the facts.
        subscriptions: Those that the table has.
        zone: Time zone of timestamps.
        max_cell_bytes: Maximum size of a cell.
        max_compression_ratio: How many times larger than the file its content may be.
        facts: Names of columns, and words.

    Attributes:
        other_lines: Lines read so far that are about something else than a subscription.
    """

    def __init__(
        self,
        name: str,
        key: str,
        columns: Mapping[str, str],
        subscriptions: tuple[str, ...],
        zone: ZoneInfo,
        *,
        max_cell_bytes: int = MAX_CELL_BYTES,
        max_compression_ratio: float = MAX_COMPRESSION_RATIO,
        facts: Facts = FACTS,
    ) -> None:
        self._name = name
        self._facts = facts
        self._max_cell = max_cell_bytes
        self._max_ratio = max_compression_ratio
        self._columns = {**facts.changes.columns(), "person": key, **columns}
        self._subscriptions = frozenset(subscriptions)
        self._known = ", ".join(subscriptions)
        self._zone = zone
        self._windows: dict[str, tuple[datetime, datetime]] = {}
        self._states: dict[str, bool] = {}
        self._about: dict[str, bool] = {}
        self._unknown: set[str] = set()
        self._found = False
        self.other_lines = 0

    def read(self, raw: IO[bytes]) -> Iterator[SubscriptionChange | BrokenRow]:
        """Read the file line by line, in constant memory.

        A broken line is yielded as such, and reading continues; the caller decides.

        Raises:
            SettingsError: The columns aren't those that the settings name.
            BadInputError: The file is truncated or corrupt.
        """
        lines = _Lines()
        try:
            with (
                _unpacked(raw, self._name, self._max_ratio) as data,
                io.TextIOWrapper(
                    data, encoding="utf-8-sig", errors="surrogateescape", newline=""
                ) as text,
            ):
                csv.field_size_limit(self._max_cell)
                lines.open(text, _CELLS * self._max_cell)
                yield from self._read_rows(lines, *self._read_header(lines))
        except (zipfile.BadZipFile, zlib.error, *BROKEN):
            raise BadInputError(
                codes.DAMAGED_FILE,
                f"{self._name}: archive truncated or corrupt after line {lines.last}. Upload the "
                "file again, or run the export again.",
            ) from None
        except ExpandsTooMuchError as error:
            raise BadInputError(
                codes.DAMAGED_FILE, f"{self._name}, after line {lines.last}: {error}."
            ) from None

    def _read_header(self, lines: _Lines) -> tuple[dict[str, int], int]:
        """Return the places of the columns, and how many there are.

        Raises:
            SettingsError: They aren't those that the settings name.
            BadInputError: The file has none.
        """
        try:
            header = next(_rows(lines), None)
        except csv.Error as error:
            raise BadInputError(
                codes.DAMAGED_FILE,
                f"{self._name}, line 1: not valid CSV in Actito's dialect ({error}). Run the "
                "export again.",
            ) from None
        if header is None:
            raise BadInputError(
                codes.DAMAGED_FILE, f"{self._name}: the file is empty; expected a header line."
            )
        if any(map(_ODD.search, header)):
            raise BadInputError(
                codes.DAMAGED_FILE,
                f"{self._name}, line 1: not valid UTF-8. Set the export's encoding to UTF-8.",
            )
        return self._places(header), len(header)

    def _read_rows(
        self, lines: _Lines, places: dict[str, int], width: int
    ) -> Iterator[SubscriptionChange | BrokenRow]:
        """Yield the changes of all rows; after a broken one reading goes on with the next line."""
        rows = _rows(lines)
        while True:
            lines.begin_row()
            problem: _Problem | None = None
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                problem = _Problem(f"not valid CSV in Actito's dialect ({error})")
            else:
                if len(row) == width:
                    change = self._change(row, places)
                    if not isinstance(change, _Problem):
                        if change is not None:
                            yield change
                        continue
                    problem = change
                elif row:
                    problem = _Problem(f"{len(row)} cells where the header has {width}")
            if problem is not None:
                yield self._broken(lines, problem)
                lines.go_back()  # a stray quote may have taken the lines after it
                rows = _rows(lines)
        yield from self._check_names()

    def _check_names(self) -> Iterator[BrokenRow]:
        """Report a file of which no row names a subscription of the table."""
        if self._unknown and not self._found:
            names = ", ".join(sorted(self._unknown)[:_MOST_NAMES])
            problem = (
                f"{self._name}: the table has no subscription of those in the file ({names}). It "
                f"has: {self._known}. Either they were deleted in Actito, or another column holds "
                "the names (export_columns)."
            )
            yield BrokenRow(problem, 2, b"", may_opt_out=True)

    def _places(self, header: list[str]) -> dict[str, int]:
        if len(header) == 1 and (found := [s for s in _SEPARATORS if s in header[0]]):
            raise SettingsError(
                codes.UNEXPECTED_COLUMNS,
                f"{self._name}, line 1: the cells are separated by {found[0]!r}, not by ';'. Set "
                "the export's separator to a semicolon.",
            )
        places: dict[str, int] = {}
        for part, column in self._columns.items():
            if column in header:
                places[part] = header.index(column)
            elif part in _OPTIONAL:
                places[part] = -1  # the cell that `_change` appends
            else:
                raise SettingsError(
                    codes.UNEXPECTED_COLUMNS,
                    f"{self._name}, line 1: there is no column {column!r} for `{part}`. The file "
                    f"has: {', '.join(header)}. Name it in export_columns, such as "
                    f'{{"{part}": "{header[0]}"}}.',
                )
        return places

    def _is_known(self, subscription: str) -> bool:
        """Return whether the table has a subscription; no mapping can name any other one."""
        if subscription in self._subscriptions:
            self._found = True
            return True
        if subscription and len(self._unknown) < _MOST_NAMES:
            self._unknown.add(_ODD.sub("?", subscription))
        return False

    def _state(self, text: str) -> bool | None:
        state = self._states.get(text)
        if state is None and (state := self._facts.profiles.read_state(text)) is not None:
            self._states[text] = state
        return state

    def _is_about_subscriptions(self, event: str) -> bool:
        about = self._about.get(event)
        if about is None:
            about = self._about[event] = self._facts.changes.is_subscription_event(event)
        return about

    def _change(
        self, row: list[str], places: dict[str, int]
    ) -> SubscriptionChange | _Problem | None:
        """Return the change of a row, what is wrong with it, or None for one of something else."""
        row.append("")  # what an absent column holds
        subscription, event = row[places["subscription"]], row[places["event"]]
        if not self._is_known(subscription):
            self.other_lines += 1
            return None
        subscribed = self._state(row[places["subscribed"]])
        if subscribed is None:
            return _Problem(
                "the state must be Y or N, or a word with that meaning (facts_path names others)"
            )
        if subscribed and not self._is_about_subscriptions(event):
            text = "the event type is not one of subscriptions, so it isn't read as an opt-in"
            return _Problem(text, may_opt_out=False)
        text = row[places["timestamp"]]
        window = self._windows.get(text) or self._window(text)
        if window is None:
            problem = "the timestamp must be a date and time such as 2026-11-23 08:00:00"
            return _Problem(problem, may_opt_out=not subscribed)
        profile_id, person = row[places["profile_id"]], row[places["person"]]
        if not person.isascii() and _ODD.search(person):
            return _Problem("the key is not valid UTF-8", may_opt_out=not subscribed)
        source = row[places["source"]]
        return SubscriptionChange(
            int(profile_id) if profile_id.isdecimal() and len(profile_id) < _MAX_DIGITS else None,
            person or None,
            subscription,
            subscribed,
            window[1],
            window[0] if window[0] < window[1] else None,
            _ODD.sub("?", source) or "export",
        )

    def _window(self, text: str) -> tuple[datetime, datetime] | None:
        found = read_window(text, self._zone)
        if found is not None:
            if len(self._windows) > _MAX_TIMESTAMPS:
                self._windows.clear()
            self._windows[text] = found
        return found

    def _broken(self, lines: _Lines, problem: _Problem) -> BrokenRow:
        raw = lines.taken[0].rstrip("\r\n").encode("utf-8", "surrogateescape")
        where = f"{self._name}, line {lines.number}"
        return BrokenRow(f"{where}: {problem.text}.", lines.number, raw, problem.may_opt_out)


class _Problem(NamedTuple):
    """What is wrong with a row.

    Attributes:
        text: For a message; no value of the row.
        may_opt_out: Whether the row may hold an opt-out.
    """

    text: str
    may_opt_out: bool = True


class _Lines:
    """Lines of a file, of which those after a broken row can be read again.

    Attributes:
        number: Number of the first line of the row that is read.
        taken: The lines of that row so far.
    """

    def __init__(self) -> None:
        self.number = 1
        self.taken: list[str] = []
        self._again: deque[str] = deque()

    def open(self, text: IO[str], limit: int) -> None:
        """Read from a file; of a longer line than `limit` characters, parts are read as lines."""
        self._read, self._limit = text.readline, limit

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read(self._limit)
        if not line:
            raise StopIteration
        self.taken.append(line)
        return line

    @property
    def last(self) -> int:
        """Number of the last line that was read."""
        return self.number + len(self.taken) - 1

    def begin_row(self) -> None:
        """Begin a row with the next line."""
        self.number += len(self.taken)
        self.taken.clear()

    def go_back(self) -> None:
        """Read the lines after the first one of the row again."""
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _rows(lines: Iterator[str]) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=";", strict=True)


def read_window(text: str, zone: ZoneInfo) -> tuple[datetime, datetime] | None:
    """Return when something happened, at the earliest and at the latest, both included.

    Actito writes whole seconds of a local time (documented for imports, inferred for exports). A
    whole second, minute or day is a window up to its last microsecond. A local time that occurs
    twice, or never, when the clocks are changed may mean either reading, so the window holds both.

    Args:
        text: Date and time in ISO 8601 form, with `T` or a blank between them.
        zone: Zone of a time that names none.

    Returns:
        Both ends, in UTC; None for any other text.
    """
    form = _TIMESTAMP.fullmatch(text.strip())
    if form is None:
        return None
    written, fraction, offset = form["time"], form["fraction"], form["zone"]
    try:
        first = datetime.fromisoformat(written)
        if fraction:
            first += timedelta(microseconds=int(fraction[:6].ljust(6, "0")))
            last = first
        else:
            last = first + _PRECISION[len(written)] - timedelta(microseconds=1)
        if offset:
            shift = datetime.strptime(offset, "%z").tzinfo
            return _in_utc(first.replace(tzinfo=shift)), _in_utc(last.replace(tzinfo=shift))
        readings = [
            (first.replace(tzinfo=zone, fold=n), last.replace(tzinfo=zone, fold=n)) for n in (0, 1)
        ]
        return min(_in_utc(r[0]) for r in readings), max(_in_utc(r[1]) for r in readings)
    except (ValueError, OverflowError):
        return None


def _in_utc(timestamp: datetime) -> datetime:
    return timestamp.astimezone(timezone.utc)


@contextmanager
def _unpacked(raw: IO[bytes], name: str, max_ratio: float) -> Iterator[Any]:
    if name.endswith(".gz"):
        yield open_gzip(raw, max_ratio)
    elif name.endswith(".zip"):
        with zipfile.ZipFile(raw) as archive:
            inner = [item for item in archive.infolist() if not item.is_dir()]
            if len(inner) != 1:
                raise BadInputError(
                    codes.DAMAGED_FILE,
                    f"{name}: the archive holds {len(inner)} files, expected one. Remove from "
                    "export_root what isn't an export of profile changes.",
                )
            with archive.open(inner[0]) as file:
                yield BoundedStream(file, max_ratio, lambda: inner[0].compress_size)
    else:
        yield raw
