"""Which partitions of a batch export are to be read, and how far its bookmark may move. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING

from actito_didomi.files import add_marks, unread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from actito_didomi.didomi.exports import Partition
    from actito_didomi.files import ListedFile

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Reading:
    """What is to be read of one partition.

    Attributes:
        partition: The partition.
        files: Its files that are new or have grown.
        problems: What is missing in it, for messages.
    """

    partition: Partition
    files: tuple[ListedFile, ...]
    problems: tuple[str, ...]


@dataclass
class Progress:
    """What was read of one export, and what must be read before its bookmark moves.

    The bookmark is a day up to which everything was read. Files of later days, and of the last
    `late_days` before, are remembered by their marks: a late partition, a second file or a grown
    one is read although the bookmark has passed its day.

    Attributes:
        bookmark: Day as `yyyy-MM-dd`; empty before the first one.
        marks: Marks of the files that were read, by day.
        late_days: Number of days before the newest one of which late files are read.
        start_date: First day to read, as `yyyy-MM-dd`; empty for all days.
    """

    bookmark: str
    marks: dict[str, str]
    late_days: int
    start_date: str
    _held: set[str] = field(default_factory=set)
    _floor: str = ""

    @classmethod
    def from_state(
        cls, state: Mapping[str, Mapping[str, object]], export_id: str, days: int, start_date: str
    ) -> Progress:
        """Read the progress of one export from the state of a stream.

        Args:
            state: State of the stream: `exports` holds bookmarks, `files` marks by day.
            export_id: The export.
            days: `late_days`.
            start_date: First day to read.
        """
        marks = (state.get("files") or {}).get(export_id)
        return cls(
            str((state.get("exports") or {}).get(export_id) or ""),
            {str(day): str(text) for day, text in marks.items()} if isinstance(marks, dict) else {},
            days,
            start_date,
        )

    def plan(self, partitions: Sequence[Partition], *, skips: bool) -> list[Reading]:
        """Return what is to be read, in order of the days, and note what holds the bookmark.

        Args:
            partitions: All partitions of the export, in order of their days.
            skips: Whether what is broken is skipped: it doesn't hold the bookmark then.
        """
        wanted = [p for p in partitions if p.date >= self.start_date]
        newest = max([self.bookmark, *(p.date for p in wanted)])
        floor = _earlier(newest, self.late_days)
        self._floor = floor
        self._forget()
        self._held = {day for day in self.missing(wanted) if day >= floor}
        readings = []
        for partition in wanted:
            day = partition.date
            if day <= self.bookmark and day < floor:
                continue
            if not partition.complete:
                self._held.add(day)
                continue
            problems = tuple(_problems_of(partition))
            if problems and not skips:
                self._held.add(day)
            files = unread(partition.files, self.marks.get(day, ""))
            files = [file for file in files if file.size != 0]
            if files or problems or day > self.bookmark:
                readings.append(Reading(partition, tuple(files), problems))
        return readings

    def missing(self, partitions: Sequence[Partition]) -> list[str]:
        """Return the days between the first and the last partition that have none.

        Exports are made every day (documented).
        """
        days = {partition.date for partition in partitions}
        if not days:
            return []
        first, last = date.fromisoformat(min(days)), date.fromisoformat(max(days))
        between = (first + _DAY * number for number in range((last - first).days))
        return [day for day in map(date.isoformat, between) if day not in days]

    def finish(self, reading: Reading, broken: Sequence[ListedFile]) -> None:
        """Note that a partition was read.

        Args:
            reading: What was to be read of it.
            broken: Its files that couldn't be read as a whole: they are read again.
        """
        day = reading.partition.date
        done = [file for file in reading.files if file not in broken]
        self.marks[day] = add_marks(self.marks.get(day, ""), done)
        if broken:
            self._held.add(day)
        if day > self.bookmark and not any(held <= day for held in self._ahead()):
            self.bookmark = day
            self._forget()

    def _forget(self) -> None:
        """Forget the marks of days that aren't read again."""
        kept = min(self.bookmark, self._floor)
        self.marks = {day: marks for day, marks in self.marks.items() if day >= kept}

    def _ahead(self) -> Iterator[str]:
        return (day for day in self._held if day > self.bookmark)


def is_day(text: str) -> bool:
    """Return whether a text is a day, as `yyyy-MM-dd`."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _problems_of(partition: Partition) -> Iterator[str]:
    where = f"Export {partition.export_id}, {partition.date}:"
    if partition.others:
        names = ", ".join(partition.others[:3])
        yield f"{where} files with another ending than .json.gz can't be read: {names}."
    for file in partition.files:
        if file.size == 0:
            yield f"{where} {file.name} is empty (0 bytes)."
    if not partition.files and not partition.others:
        yield f"{where} the partition is finished, and holds no file of users."


def _earlier(day: str, days: int) -> str:
    return (date.fromisoformat(day) - _DAY * days).isoformat() if day else ""
