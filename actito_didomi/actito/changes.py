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
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import IO, TYPE_CHECKING, Any, Literal

import fsspec
import msgspec

from actito_didomi import codes
from actito_didomi.actito import _wire
from actito_didomi.errors import BadInputError, SettingsError, how_to_install
from actito_didomi.files import BROKEN, listed_file, natural_order, open_gzip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

    from actito_didomi.files import ListedFile
    from actito_didomi.runtime import Event

COLUMNS = _wire.CHANGE_COLUMNS
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
        raw: Its cells, with the separator between them.
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
        columns: Names of columns that differ from `COLUMNS`.
        subscriptions: Those that the table has.
        zone: Time zone of timestamps.

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
    ) -> None:
        self._name = name
        self._columns = {**COLUMNS, "person": key, **columns}
        self._subscriptions = frozenset(subscriptions)
        self._known = ", ".join(subscriptions)
        self._zone = zone
        self._windows: dict[str, tuple[datetime, datetime]] = {}
        self._states: dict[str, bool] = {}
        self._about: dict[str, bool] = {}
        self.other_lines = 0

    def read(self, raw: IO[bytes]) -> Iterator[SubscriptionChange | BrokenRow]:
        """Read the file line by line, in constant memory.

        A broken line is yielded as such, and reading continues; the caller decides.

        Raises:
            SettingsError: The columns aren't those that the settings name.
            BadInputError: The file is truncated or corrupt.
        """
        number = 1
        try:
            with (
                _unpacked(raw, self._name) as data,
                io.TextIOWrapper(data, encoding="utf-8-sig", newline="") as text,
            ):
                rows = csv.reader(text, delimiter=";", strict=True)
                header = next(rows, None)
                if header is None:
                    raise BadInputError(
                        codes.DAMAGED_FILE,
                        f"{self._name}: the file is empty; expected a header line.",
                    )
                places, width = self._places(header), len(header)
                for row in rows:
                    number = rows.line_num
                    if len(row) == width:
                        change = self._change(row, places, number)
                        if change is not None:
                            yield change
                    elif row:
                        problem = f"{len(row)} cells where the header has {width}"
                        yield self._broken(row, number, problem)
        except csv.Error as error:
            raise BadInputError(
                codes.DAMAGED_FILE,
                f"{self._name}, line {number + 1}: not valid CSV in Actito's dialect ({error}). "
                "Run the export again.",
            ) from None
        except UnicodeDecodeError:
            raise BadInputError(
                codes.DAMAGED_FILE,
                f"{self._name}, after line {number}: not valid UTF-8. Set the export's encoding to "
                "UTF-8.",
            ) from None
        except (zipfile.BadZipFile, zlib.error, *BROKEN):
            raise BadInputError(
                codes.DAMAGED_FILE,
                f"{self._name}: archive truncated or corrupt after line {number}. Upload the file "
                "again, or run the export again.",
            ) from None

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

    def _change(
        self, row: list[str], places: dict[str, int], number: int
    ) -> SubscriptionChange | BrokenRow | None:
        row.append("")  # what an absent column holds
        subscription, event = row[places["subscription"]], row[places["event"]]
        about = self._about.get(event)
        if about is None:
            about = self._about[event] = _wire.is_subscription_event(event)
        if not subscription or not about:
            self.other_lines += 1
            return None
        if subscription not in self._subscriptions:
            return self._broken(
                row[:-1],
                number,
                f"the table has no subscription {subscription!r}. It has: {self._known}. Either "
                "it was deleted in Actito, or another column holds the names (export_columns)",
                may_opt_out=_wire.read_state(row[places["subscribed"]]) is not True,
            )
        state = row[places["subscribed"]]
        subscribed = self._states.get(state)
        if subscribed is None:
            subscribed = _wire.read_state(state)
            if subscribed is None:
                return self._broken(
                    row[:-1], number, "the state must be Y or N, or a word with that meaning"
                )
            self._states[state] = subscribed
        text = row[places["timestamp"]]
        window = self._windows.get(text) or self._window(text)
        if window is None:
            return self._broken(
                row[:-1],
                number,
                "the timestamp must be a date and time such as 2026-11-23 08:00:00",
                may_opt_out=not subscribed,
            )
        profile_id = row[places["profile_id"]]
        return SubscriptionChange(
            int(profile_id) if profile_id.isdecimal() else None,
            row[places["person"]] or None,
            subscription,
            subscribed,
            window[1],
            window[0] if window[0] < window[1] else None,
            row[places["source"]] or "export",
        )

    def _window(self, text: str) -> tuple[datetime, datetime] | None:
        found = read_window(text, self._zone)
        if found is not None:
            if len(self._windows) > _MAX_TIMESTAMPS:
                self._windows.clear()
            self._windows[text] = found
        return found

    def _broken(
        self, row: list[str], number: int, problem: str, *, may_opt_out: bool = True
    ) -> BrokenRow:
        raw = ";".join(row).encode("utf-8", "surrogatepass")
        return BrokenRow(f"{self._name}, line {number}: {problem}.", number, raw, may_opt_out)


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
def _unpacked(raw: IO[bytes], name: str) -> Iterator[Any]:
    if name.endswith(".gz"):
        yield open_gzip(raw)
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
                yield file
    else:
        yield raw
