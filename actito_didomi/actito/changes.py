"""Changes of subscriptions, out of files of the "Profile changes" export.

The dialect is documented: UTF-8, header line, `;`, quote `"`, zipped, gzipped or plain. The columns
were not seen, so they can be set.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any, Literal

import msgspec

from actito_didomi import codes
from actito_didomi.actito import _wire
from actito_didomi.errors import BadInputError, SettingsError
from actito_didomi.files import BROKEN, open_gzip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from zoneinfo import ZoneInfo

COLUMNS = _wire.CHANGE_COLUMNS
_SEPARATORS = (",", "\t", "|")
_OPTIONAL = frozenset({"profile_id", "event", "source"})


class SubscriptionChange(msgspec.Struct, frozen=True, gc=False):
    """A subscription that changed for one profile.

    Attributes:
        profile_id: `profileId`; None where an export doesn't hold it.
        person: Value of the key attribute; None where the profile has none.
        subscription: Its name.
        subscribed: Whether the person is subscribed now.
        changed_at: When it changed, or was seen changed; aware of its zone.
        changed_after: It changed after that timestamp, where only a window is known; None where
            `changed_at` is exact, or nothing is known.
        source: Where that was read, or what Actito says of how it came about.
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


class ChangeFile:
    """One file of the export.

    Args:
        name: Its name, for messages and by its ending for the way it is packed.
        key: The key attribute, which is a column too.
        columns: Names of the columns that aren't called as in `COLUMNS`.
        subscriptions: Those that the table has.
        zone: Time zone of timestamps.
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
        self._parsed: dict[str, datetime] = {}
        self._states: dict[str, bool] = {}
        self._about: dict[str, bool] = {}
        self.other_lines = 0

    def read(self, raw: IO[bytes]) -> Iterator[SubscriptionChange | BadInputError]:
        """Read the file a line at a time, however large it is.

        A broken line is given as the error that it is, and reading goes on; the caller decides.

        Raises:
            SettingsError: The columns aren't those that the settings name.
            BadInputError: The file is damaged or truncated.
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
                        codes.DAMAGED_FILE, f"{self._name}: the file is empty; not even a header."
                    )
                places, width = self._places(header), len(header)
                for row in rows:
                    number = rows.line_num
                    if len(row) == width:
                        change = self._change(row, places, number)
                        if change is not None:
                            yield change
                    elif row:
                        yield self._broken(number, f"{len(row)} cells where the header has {width}")
        except csv.Error as error:
            raise BadInputError(
                codes.DAMAGED_FILE,
                f"{self._name}, line {number + 1}: no CSV as Actito writes it ({error}). Have the "
                "file made again.",
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
                f"{self._name}, after line {number}: the archive is truncated or damaged. Have "
                "the file made again, or upload it again.",
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
                places[part] = -1  # after the last cell
            else:
                raise SettingsError(
                    codes.UNEXPECTED_COLUMNS,
                    f"{self._name}, line 1: there is no column {column!r} for `{part}`. The file "
                    f"has: {', '.join(header)}. Say in export_columns which one it is, such as "
                    f'{{"{part}": "{header[0]}"}}.',
                )
        return places

    def _change(
        self, row: list[str], places: dict[str, int], number: int
    ) -> SubscriptionChange | BadInputError | None:
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
                number,
                f"the table has no subscription {subscription!r}. It has: {self._known}. Either "
                "it was deleted in Actito, or another column holds the names (export_columns)",
            )
        state = row[places["subscribed"]]
        subscribed = self._states.get(state)
        if subscribed is None:
            subscribed = _wire.read_state(state)
            if subscribed is None:
                return self._broken(number, "whether it is a subscription can't be read")
            self._states[state] = subscribed
        text = row[places["timestamp"]]
        timestamp = self._parsed.get(text) or self._timestamp(text)
        if timestamp is None:
            return self._broken(number, "the timestamp is none, such as 2026-11-23 08:00:00")
        profile_id = row[places["profile_id"]]
        return SubscriptionChange(
            int(profile_id) if profile_id.isdecimal() else None,
            row[places["person"]] or None,
            subscription,
            subscribed,
            timestamp,
            None,
            row[places["source"]] or "export",
        )

    def _timestamp(self, text: str) -> datetime | None:
        try:
            found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        except ValueError:
            return None
        if found.tzinfo is None:
            found = found.replace(tzinfo=self._zone)
        found = found.astimezone(timezone.utc)
        if len(self._parsed) > _MAX_PARSED:
            self._parsed.clear()
        self._parsed[text] = found
        return found

    def _broken(self, number: int, problem: str) -> BadInputError:
        return BadInputError(codes.INVALID_LINE, f"{self._name}, line {number}: {problem}.")


_MAX_PARSED = 10_000


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
                    f"{name}: the archive holds {len(inner)} files where one is expected. Take out "
                    "of export_root what isn't an export of profile changes.",
                )
            with archive.open(inner[0]) as file:
                yield file
    else:
        yield raw
