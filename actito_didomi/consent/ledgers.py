"""The consent ledger: who chose what, when, on which side; what each side holds and is owed.

All plugins of a pair of Didomi organisation and Actito table share it. Each method is one short
transaction; no request, no output and no wait may happen inside of `Ledger.change`.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec import structs

from actito_didomi import codes
from actito_didomi.consent.choices import Path
from actito_didomi.consent.codec import Codec
from actito_didomi.consent.conflicts import Micros, Rules, to_datetime, to_micros
from actito_didomi.consent.entries import drop_intent, end_import, give_up_import
from actito_didomi.consent.first_load import FirstPeople
from actito_didomi.consent.limits import SharedLimits
from actito_didomi.consent.masks import FieldBits, fits
from actito_didomi.consent.person import Owed, Person
from actito_didomi.consent.rejects import RejectTable
from actito_didomi.consent.rows import (
    StoredNames,
    advance,
    by_key,
    delete_people,
    insert_people,
    lock_people,
    select_people,
    write_people,
)
from actito_didomi.consent.schema import LedgerScope, find_pair, open_database
from actito_didomi.consent.store import is_worth_repeating
from actito_didomi.errors import DirectionInUseError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from actito_didomi.consent.coalesce import PersonLayers
    from actito_didomi.consent.config import LedgerSettings
    from actito_didomi.consent.conflicts import Act, Side
    from actito_didomi.consent.entries import Entry
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.identity import Matching
    from actito_didomi.consent.rows import Row
    from actito_didomi.consent.schema import Prepared
    from actito_didomi.consent.store import Locks, Store, Transaction
    from actito_didomi.runtime import Event, Runtime

logger = logging.getLogger(__name__)

__all__ = ["Change", "FoundChange", "ImportRow", "Ledger", "LedgerScope", "Look"]

Direction = Literal["forward", "reverse"]
ImportState = Literal["prepared", "started", "ended", "never_received", "unknown"]

_OPEN: tuple[ImportState, ...] = ("prepared", "started")
_OPT_OUTS = {Owed.ACTITO: Owed.OPT_OUT_ACTITO, Owed.DIDOMI: Owed.OPT_OUT_DIDOMI}
_CHANGED_TOGETHER = 5_000
"""People that are changed in one transaction by `change_each`."""
_BATCH_SIZE = 10_000
"""People that are read together."""
_ATTEMPTS = 5
_SECOND = 1_000_000
_LEASE_POLL = 0.5
"""Seconds."""


class Look(msgspec.Struct, frozen=True):
    """A complete look at all profiles of the table, within `began`..`ended`.

    Attributes:
        began: When it began.
        ended: When it had ended.
        places: The fields that it looked at, by the names of their places.
        profiles: How many profiles the table had.
    """

    began: Micros
    ended: Micros
    places: frozenset[str] = frozenset()
    profiles: int = 0


class ImportRow(msgspec.Struct, frozen=True):
    """A bulk import.

    Attributes:
        number: What `Intent.import_number` names.
        file_name: Name of its file, by which Actito's list of executions is searched.
        execution: Actito's id of it; None if it isn't known.
        state: `prepared` before the request, `started` once Actito has received it, and how it
            ended: `ended`, or `never_received`. `unknown` if neither can be learned now.
        began: When it was prepared.
        ended: When it had ended at the latest, or was given up; None before.
    """

    number: int
    file_name: str
    execution: str | None
    state: ImportState
    began: Micros
    ended: Micros | None


class FoundChange(msgspec.Struct, frozen=True, array_like=True):
    """A change in Actito that a look found.

    Attributes:
        person: The key, as the profile spells it.
        profile_id: Id of the profile.
        kind: `subscription` or `attribute`.
        name: Name of the field.
        path: Path of the choice.
        choice: True for an opt-in.
        earliest: It was made at this timestamp or later.
        latest: It was made at this timestamp or earlier.
        seen_value: The raw value of the field.
        found_at: When it was found.
        source: How it became known: `look` or `row`.
    """

    person: str
    profile_id: str | None
    kind: str
    name: str
    path: Path
    choice: bool
    earliest: Micros
    latest: Micros
    seen_value: Any = None
    found_at: Micros = 0
    source: str = "look"

    @classmethod
    def of(
        cls,
        act: Act,
        field: ChoiceField,
        *,
        person: str | None,
        profile_id: str | None,
        found_at: Micros,
    ) -> FoundChange:
        """Return the change that an act is, in the field in which it was found."""
        return cls(
            person or "",
            profile_id,
            field.kind,
            field.name,
            field.path,
            act.value,
            act.earliest,
            act.latest,
            field.value(act.value),
            found_at,
            act.source,
        )


class OwedCounts:
    """To how many people something is owed.

    Args:
        people: By all flags of a person together.
    """

    def __init__(self, people: Mapping[Owed, int]) -> None:
        self._people = people

    def having(self, flag: Owed, without: Owed = Owed.NONE) -> int:
        """Return how many people have one flag and not another."""
        return sum(n for owed, n in self._people.items() if owed & flag and not owed & without)

    def opt_outs(self, direction: Literal["forward", "reverse"]) -> int:
        """Return to how many people an opt-out is owed for another reason than being unknown."""
        if direction == "forward":
            return self.having(Owed.OPT_OUT_ACTITO, Owed.NO_PROFILE)
        return self.having(Owed.OPT_OUT_DIDOMI, Owed.NO_USER)

    @property
    def deferred(self) -> int:
        """How many people have opt-ins that wait for the setting `baseline`."""
        return self.having(Owed.DEFERRED)


class Change:
    """What is changed in one transaction.

    Attributes:
        people: Those asked for, by their key; an empty one for whom the ledger doesn't know.
            Change them in place, or put others in their place.
        found: Changes in Actito to append; see `add_found`.
    """

    def __init__(self, people: dict[str, Person]) -> None:
        self.people = people
        self.found: list[FoundChange] = []

    def add_found(self, change: FoundChange) -> None:
        """Append a change that a look found; it gets its number when the transaction ends."""
        self.found.append(change)


class Ledger(RejectTable):
    """The ledger of one pair of Didomi organisation and Actito table.

    Args:
        store: The database, with its tables.
        ready: Its ids.
        rules: Settings that decide between choices.
        runtime: Clock and lock.

    Attributes:
        id: Id of the ledger, and of the pair if it has a name; STATE carries it.
        is_new: Whether nothing was known there when it was opened.
        rules: Settings that decide between choices.
    """

    def __init__(self, store: Store, ready: Prepared, rules: Rules, runtime: Runtime) -> None:
        super().__init__(store, ready.scope, runtime)
        self.id = ready.ledger_id
        self.is_new = ready.is_new
        self.rules = rules
        self.key = hashlib.sha256(ready.key.encode()).digest()
        self._names = StoredNames(ready.scope)
        self._codec = Codec(self._names)
        self._lock = runtime.lock()
        self._endings: dict[int, _Ending] = {}
        self._event_text = ""
        self._leases: list[Locks] = []
        self._limits: list[SharedLimits] = []

    @classmethod
    def open(cls, settings: LedgerSettings, scope: LedgerScope, runtime: Runtime) -> Ledger:
        """Open the ledger of a pair; it is made, or brought to the newest version, if needed.

        Raises:
            SettingsError: It can't be used, is of a newer version, is missing although it is
                required, or belongs to another pair.
        """
        store, key = open_database(settings, runtime)
        try:
            ready = find_pair(store, settings, scope, key)
        except BaseException:
            store.close()
            raise
        rules = Rules(
            clock_tolerance=round(settings.clock_tolerance * _SECOND),
            baseline=settings.baseline,
            late_bound=round(settings.late_bound * _SECOND),
        )
        return cls(store, ready, rules, runtime)

    def close(self) -> None:
        """Release leases and limits, and close all connections."""
        for limits in self._limits:
            limits.close()
        for locks in self._leases:
            locks.close()
        self._store.close()

    def check_state(self, ledger_id: str | None, *, on_lost: Literal["fail", "baseline"]) -> bool:
        """Compare the ledger with the one that a STATE names.

        Args:
            ledger_id: What STATE names; None if there is no STATE, or it names none.
            on_lost: The setting `on_lost_ledger`.

        Returns:
            Whether bookmarks of the STATE may be used: a ledger that knows nothing yet must learn
            all that was read before.

        Raises:
            SettingsError: STATE names another ledger, and `on_lost` is `fail`.
        """
        if ledger_id == self.id:
            return True
        if ledger_id is None:
            return not self.is_new
        if on_lost == "baseline":
            logger.warning(
                "STATE names another ledger than ledger_url holds. on_lost_ledger is `baseline`: "
                "all is read again, and compared with a new look at the whole table."
            )
            return False
        raise SettingsError(
            codes.LEDGER_MISSING,
            "ledger_url: STATE names another ledger than the one there, which "
            f"{'is empty' if self.is_new else 'belongs to other plugins, or is a copy'}. Set the "
            "same ledger_url (and ledger_scope) in all plugins, from the same folder if it is a "
            "relative path, or restore the ledger. If it is lost for good, set "
            "`on_lost_ledger: baseline` for one run.",
        )

    @property
    def scope_text(self) -> str:
        """What the ids of our events derive from: the same for good, once it was used.

        Read it when an event is to be posted or recognised, not before: until then the plugins of
        both sides complete the pair.

        Raises:
            SettingsError: The database fails.
        """
        if not self._event_text:
            with self._store.write() as transaction:
                transaction.execute(
                    "UPDATE ledger_scopes SET event_text = organization || '/' || regulation || "
                    "'/' || entity || '/' || table_name WHERE number = ? AND "
                    "event_text IS NULL",
                    self._scope,
                )
                row = transaction.one(
                    "SELECT event_text FROM ledger_scopes WHERE number = ?", self._scope
                )
            self._event_text = str(row[0])
        return self._event_text

    def matching(self, own: Matching | None = None) -> Matching:
        """Return how keys of people are compared; the plugins of Actito record it.

        Args:
            own: What a plugin of Actito compares them by; None for one of Didomi.

        Raises:
            SettingsError: The database fails.
        """
        if own is not None:
            with self._store.write() as transaction:
                transaction.execute(
                    "UPDATE ledger_scopes SET matching = ? WHERE number = ? AND "
                    "(matching IS NULL OR matching <> ?)",
                    own,
                    self._scope,
                    own,
                )
            return own
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT matching FROM ledger_scopes WHERE number = ?", self._scope
            )
        return "folded" if row is not None and row[0] == "folded" else "exact"

    # What it holds

    def describe_database(self) -> dict[str, Any]:
        """Return `id`, `version` of the tables, and when it was `created`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            ledger_id, created = transaction.one("SELECT id, created FROM ledger_info")
            version = transaction.one("SELECT version_num FROM ledger_version")[0]
        return {
            "id": ledger_id,
            "version": version,
            "created": to_datetime(created).isoformat(timespec="seconds"),
        }

    def describe_pair(self) -> dict[str, str]:
        """Return the parts of the pair by their names; those that no plugin knew yet are empty.

        Raises:
            SettingsError: The database fails.
        """
        names = ("organization", "regulation", "entity", "table_name")
        with self._store.read() as transaction:
            row = transaction.one(
                f"SELECT {', '.join(names)} FROM ledger_scopes WHERE number = ?",  # noqa: S608
                self._scope,
            )
        return dict(zip(names, row, strict=True))

    def count_people(self) -> int:
        """Return the number of people whom the ledger knows.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one("SELECT count(*) FROM ledger_people WHERE scope = ?", self._scope)
        return int(row[0])

    # People

    def hash(self, person: str) -> str:
        """Return what a person is called in logs: 10 hexadecimal digits, keyed."""
        return hashlib.blake2s(person.encode(), key=self.key, digest_size=5).hexdigest()

    def digest(self, value: Any) -> bytes:
        """Return 8 bytes that stand for a value of JSON, keyed."""
        encoded = msgspec.json.encode(value, order="sorted")
        return hashlib.blake2s(encoded, key=self.key, digest_size=8).digest()

    def read(self, people: Collection[str]) -> dict[str, Person]:
        """Return the people of these keys whom the ledger knows.

        Imports that have ended are part of them: what they were to write is held.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            return self._decode(transaction, self._select(transaction, sorted(set(people))))

    def change_each(self, people: Sequence[str], work: Callable[[str, Person], None]) -> None:
        """Change people in transactions of many, one after the other.

        Args:
            people: Keys of those to be changed.
            work: Called for each, with the key; changes the person. As for `change`, it calls no
                other method of the ledger.

        Raises:
            SettingsError: The database fails.
        """
        for start in range(0, len(people), _CHANGED_TOGETHER):
            with self.change(people[start : start + _CHANGED_TOGETHER]) as change:
                for key, person in change.people.items():
                    work(key, person)

    @contextmanager
    def change(self, people: Collection[str]) -> Iterator[Change]:
        """Change people in one transaction; nobody else can change them meanwhile.

        At its end the rows that differ are written; an exception leaves all as it was. No other
        method of the ledger may be called in the block.

        Args:
            people: Keys of those to be changed.

        Raises:
            SettingsError: The database fails.
        """
        keys = sorted(set(people))
        with self._store.write() as transaction:
            self._check_leases(transaction)
            rows = self._claim(transaction, keys)
            found = self._decode(transaction, rows)
            change = Change({key: found.get(key) or Person() for key in keys})
            yield change
            self._save(transaction, rows, change)

    def learn_new(
        self,
        found: Sequence[tuple[str, PersonLayers]],
        paths: Sequence[Path | None],
        arrival: Micros,
        digest: Callable[[Any], bytes],
    ) -> list[int]:
        """Learn events of people whom the ledger doesn't know yet, in one transaction.

        It is the quick way of a first load, and leads to the same as `change` does.

        Args:
            found: Keys of people, and what records say of them.
            paths: The choice of each mapped field, by the numbers of the fields in masks; None for
                a field that holds other values than choices.
            arrival: When the records had arrived.
            digest: Returns what stands for the value of an attribute.

        Returns:
            Positions in `found` of those who are left to `change`: people whom the ledger knows,
            who occur repeatedly, or of whom more than events is said.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction, self._lock:
            self._check_leases(transaction)
            self._names.transaction = transaction
            try:
                encode = FirstPeople(self._codec, paths, digest).encode
                made: dict[str, tuple[str, int, int, bytes] | None] = {}
                left: list[int] = []
                for position, (key, layers) in enumerate(found):
                    if key in made:
                        left.append(position)  # after what was said of the person before
                    elif (row := encode(key, layers, arrival)) is None:
                        made[key] = None
                        left.append(position)
                    else:
                        made[key] = row
                rows = sorted([row for row in made.values() if row is not None])
                if not insert_people(transaction, self._scope, rows):
                    there = self._select(transaction, [row[0] for row in rows])
                    known = {row[0] for row in rows if there.get(row[0]) != row[1:]}
                    waiting = set(left)
                    left = [
                        position
                        for position, (key, _) in enumerate(found)
                        if key in known or position in waiting
                    ]
                transaction.connection.commit()
            except BaseException:
                self._names.forget()
                self._codec.forget()
                raise
        return left

    def number_fields(self, fields: Collection[ChoiceField]) -> FieldBits | None:
        """Return the bits of fields, which are for good; None where masks of them are too wide.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction, self._lock:
            self._names.transaction = transaction
            try:
                bits = [
                    (
                        field,
                        self._codec.bit(field.path),
                        self._codec.field_bit(field.path, field.place),
                    )
                    for field in fields
                ]
                transaction.connection.commit()
            except BaseException:
                self._names.forget()
                self._codec.forget()
                raise
        return FieldBits(bits) if fits(bits) else None

    def owed(
        self,
        flag: Owed,
        *,
        after: str | None = None,
        limit: int = 1000,
        opt_outs_only: bool = False,
        due_at: Micros | None = None,
    ) -> list[tuple[str, Person]]:
        """Return people to whom something is owed, in the order of their keys.

        Args:
            flag: What is owed, or why it waits; several flags stand for any of them.
            after: Only people after this key.
            limit: Maximum number of people.
            opt_outs_only: Only people to whom an opt-out is owed, on the sides of `flag`.
            due_at: Only people who may be tried again at this timestamp.

        Raises:
            SettingsError: The database fails.
        """
        wanted, also = int(flag), -1
        if opt_outs_only:
            also = sum(int(opt_out) for side, opt_out in _OPT_OUTS.items() if side & flag)
            also = also or sum(map(int, _OPT_OUTS.values()))
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT person, owed, due, data FROM ledger_people WHERE scope = ? AND owed > 0 "
                "AND (owed & ?) <> 0 AND (owed & ?) <> 0 AND person > ? AND due <= ? "
                "ORDER BY person LIMIT ?",
                self._scope,
                wanted,
                also,
                after or "",
                due_at if due_at is not None else 2**62,
                limit,
            )
            return list(self._decode(transaction, by_key(rows)).items())

    def count_owed(self) -> OwedCounts:
        """Return to how many people something is owed.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT owed, count(*) FROM ledger_people WHERE scope = ? AND owed > 0 "
                "GROUP BY owed",
                self._scope,
            )
        return OwedCounts({Owed(owed): people for owed, people in rows})

    def _select(self, transaction: Transaction, keys: list[str]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for start in range(0, len(keys), _BATCH_SIZE):
            part = keys[start : start + _BATCH_SIZE]
            rows |= by_key(select_people(transaction, self._scope, part))
        return rows

    def _claim(self, transaction: Transaction, keys: list[str]) -> dict[str, Row]:
        """Read rows so that nobody else can write them before the transaction ends."""
        if transaction.is_sqlite:  # has one writer at a time
            return self._select(transaction, keys)
        for attempt in range(_ATTEMPTS):
            try:
                return lock_people(transaction, self._scope, keys)
            except sa.exc.DBAPIError as error:
                if not is_worth_repeating(error) or attempt == _ATTEMPTS - 1:
                    raise
                transaction.connection.rollback()
        raise AssertionError

    def _decode(self, transaction: Transaction, rows: dict[str, Row]) -> dict[str, Person]:
        def find_endings(imports: set[int]) -> list[_ImportEnd]:
            endings = [(number, self._ending(transaction, number)) for number in sorted(imports)]
            return [
                _ImportEnd(
                    number, ending.at if ending.state == "ended" else None, ending, self.rules
                )
                for number, ending in endings
                if ending is not None
            ]

        with self._lock:
            self._names.transaction = transaction
            return {
                key: self._codec.decode(data, owed, find_endings, key)
                for key, (owed, _, data) in rows.items()
                if data
            }

    def _ending(self, transaction: Transaction, number: int) -> _Ending | None:
        """Return how an import has ended; None while it has not."""
        if number not in self._endings:
            row = transaction.one(
                "SELECT state, ended FROM ledger_imports WHERE scope = ? AND number = ?",
                self._scope,
                number,
            )
            if row is None or row[0] in _OPEN:
                return None
            ending = _Ending(row[0], row[1] or 0)
            if ending.state == "unknown":
                return ending  # which may become known
            self._endings[number] = ending
        return self._endings[number]

    def _save(self, transaction: Transaction, rows: dict[str, Row], change: Change) -> None:
        with self._lock:
            self._names.transaction = transaction
            try:
                changed, emptied = self._encode(rows, change.people)
                write_people(transaction, self._scope, changed)
                delete_people(transaction, self._scope, emptied)
                self._add_found(transaction, change.found)
                transaction.connection.commit()
            except BaseException:
                self._names.forget()
                self._codec.forget()
                raise

    def _encode(
        self, rows: dict[str, Row], people: dict[str, Person]
    ) -> tuple[list[tuple[str, int, int, bytes]], list[str]]:
        """Return the rows to write, in the order of their keys, and the people to delete."""
        changed, emptied = [], []
        nobody = (0, 0, self._codec.encode(Person()))
        for key, person in people.items():
            row = (
                int(person.owed),
                _due(person),
                self._codec.encode(person, key),
            )
            before = rows.get(key)
            if row == nobody:
                if before is not None:
                    emptied.append(key)
            elif row != before:
                changed.append((key, *row))
        return changed, emptied

    def retry_people(self, keys: Collection[str] | None = None, *, code: str | None = None) -> int:
        """Make what is owed to people due at once, though it was refused; return how many.

        Args:
            keys: Only these people; None for all.
            code: Only what was refused with the code of this name.

        Raises:
            SettingsError: The database fails.
        """
        count, after = 0, None
        while found := self.owed(Owed.ACTITO | Owed.DIDOMI, after=after):
            after = found[-1][0]
            waiting = [
                key
                for key, person in found
                if (keys is None or key in keys)
                and any(code in {None, retry.code} for retry in person.retries.values())
            ]
            with self.change(waiting) as change:
                for person in change.people.values():
                    for side, retry in person.retries.items():
                        if code in {None, retry.code}:
                            person.retries[side] = structs.replace(retry, next_at=0)
            count += len(waiting)
        return count

    def between(self, first: str, last: str, limit: int) -> list[tuple[str, Person]]:
        """Return people whose keys are greater than `first` and less than `last`, in their order.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT person, owed, due, data FROM ledger_people WHERE scope = ? AND person > ? "
                "AND person < ? ORDER BY person LIMIT ?",
                self._scope,
                first,
                last,
                limit,
            )
            return list(self._decode(transaction, by_key(rows)).items())

    def find_profiles(self, profile_ids: Collection[str]) -> dict[str, str]:
        """Return the keys of people by the ids of their profiles, as far as these are known.

        All people are read, so it is for what is rare.

        Raises:
            SettingsError: The database fails.
        """
        found: dict[str, str] = {}
        after = ""
        while True:
            with self._store.read() as transaction:
                rows = transaction.all(
                    "SELECT person, data FROM ledger_people WHERE scope = ? AND person > ? "
                    "ORDER BY person LIMIT ?",
                    self._scope,
                    after,
                    _BATCH_SIZE,
                )
            if not rows:
                return found
            for key, data in rows:
                profile_id = self._codec.profile_id(data) if data else None
                if profile_id is not None and profile_id in profile_ids:
                    found[profile_id] = key
            after = rows[-1][0]

    # Looks, and the changes that they find

    def last_look(self) -> Look | None:
        """Return the last complete look at the whole table: who hasn't changed was seen then.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT began, ended, places, profiles FROM ledger_looks WHERE scope = ?",
                self._scope,
            )
        if row is None:
            return None
        return Look(row[0], row[1], frozenset(row[2].split("\n")), row[3])

    def record_look(
        self, began: Micros, ended: Micros, places: Collection[str], profiles: int
    ) -> None:
        """Record a complete look; an older one than is known is ignored.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "INSERT INTO ledger_looks (scope, began, ended, places, profiles) VALUES "
                "(?, ?, ?, ?, ?) ON CONFLICT (scope) DO UPDATE SET began = excluded.began, "
                "ended = excluded.ended, places = excluded.places, profiles = excluded.profiles "
                "WHERE ledger_looks.began < excluded.began",
                self._scope,
                began,
                ended,
                "\n".join(sorted(places)),
                profiles,
            )

    def found_after(self, number: int, limit: int) -> list[tuple[int, FoundChange]]:
        """Return the changes that looks found after this number, with their own numbers.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT number, data FROM ledger_found WHERE scope = ? AND number > ? "
                "ORDER BY number LIMIT ?",
                self._scope,
                number,
                limit,
            )
        return [(row[0], msgspec.msgpack.decode(row[1], type=FoundChange)) for row in rows]

    def last_found(self) -> int:
        """Return the number of the last change that looks found; 0 if there is none yet.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one("SELECT found FROM ledger_scopes WHERE number = ?", self._scope)
        return int(row[0])

    def prune_found(self, before: int) -> None:
        """Delete the changes with a number of less than `before`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "DELETE FROM ledger_found WHERE scope = ? AND number < ?", self._scope, before
            )

    def _add_found(self, transaction: Transaction, found: list[FoundChange]) -> None:
        if not found:
            return
        last = advance(transaction, self._scope, "found", len(found))
        transaction.execute_many(
            "INSERT INTO ledger_found (scope, number, data) VALUES (?, ?, ?)",
            [
                (self._scope, number, msgspec.msgpack.encode(change))
                for number, change in enumerate(found, last - len(found) + 1)
            ],
        )

    # Imports

    def add_import(self, file_name: str, began: Micros) -> int:
        """Record an import before its request, in the state `prepared`; return its number.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            number = advance(transaction, self._scope, "imports")
            transaction.execute(
                "INSERT INTO ledger_imports (scope, number, file_name, state, began) "
                "VALUES (?, ?, ?, 'prepared', ?)",
                self._scope,
                number,
                file_name,
                began,
            )
        return number

    def set_import(
        self,
        number: int,
        *,
        state: ImportState,
        execution: str | None = None,
        ended: Micros | None = None,
    ) -> None:
        """Record what has become of an import; one that has ended stays as it is.

        `ended` makes all that it was to write held, for everybody who reads it from then on. Take
        the rows that Actito refused out of it before: `entries.drop_intent`.

        Args:
            number: Its number.
            state: What has become of it.
            execution: Actito's id of it, once it is known.
            ended: When it had ended at the latest, or, with the state `unknown`, when it was given
                up; required with these two.

        Raises:
            ValueError: `ended` is missing.
            SettingsError: The database fails.
        """
        if state in {"ended", "unknown"} and ended is None:
            raise ValueError("An import that has ended, or is given up, needs a timestamp.")
        with self._store.write() as transaction:
            transaction.execute(
                "UPDATE ledger_imports SET state = ?, execution = coalesce(?, execution), "
                "ended = ? WHERE scope = ? AND number = ? AND state NOT IN "
                "('ended', 'never_received')",
                state,
                execution,
                ended,
                self._scope,
                number,
            )

    def end_import_of(self, number: int, people: Collection[str]) -> list[str]:
        """Record that an import which has ended is open no longer for people, as far as it is easy.

        What it wrote counts as held for everybody who reads it, and then just that is owed which
        was owed in addition to it. So only the flag is taken away, in one transaction.

        Args:
            number: Its number; `set_import` has recorded its end.
            people: Keys of people whom it wrote.

        Returns:
            The keys of those who are left to `change`.

        Raises:
            SettingsError: The database fails.
        """
        keys, left = sorted(set(people)), []
        with self._store.write() as transaction:
            self._check_leases(transaction)
            rows = self._claim(transaction, keys)
            ended: list[tuple[str, int, int, bytes]] = []
            for key in keys:
                owed, due, data = rows.get(key, (0, 0, b""))
                if owed & Owed.IN_IMPORT and self._codec.is_alone(data, number):
                    ended.append((key, owed & ~int(Owed.IN_IMPORT), due, data))
                else:
                    left.append(key)
            write_people(transaction, self._scope, ended)
            transaction.connection.commit()
        return left

    def open_imports(self) -> list[ImportRow]:
        """Return the imports whose end isn't known, oldest first.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                "SELECT number, file_name, execution, state, began, ended FROM ledger_imports "
                "WHERE scope = ? AND state NOT IN ('ended', 'never_received') ORDER BY number",
                self._scope,
            )
        return [ImportRow(*row) for row in rows]

    def imports_today(self, now: datetime) -> int:
        """Return how many imports of the table were begun today, as far as Actito received them.

        Args:
            now: The present time, in the zone whose day counts.

        Raises:
            SettingsError: The database fails.
        """
        begin = now.replace(hour=0, minute=0, second=0, microsecond=0)
        end = (begin + timedelta(days=1)).replace(tzinfo=now.tzinfo)
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT count(*) FROM ledger_imports WHERE scope = ? AND began >= ? AND began < ? "
                "AND state <> 'never_received'",
                self._scope,
                to_micros(begin),
                to_micros(end),
            )
        return int(row[0])

    # Other processes

    @contextmanager
    def lease(
        self, direction: Direction, wait: float, *, holder: str = "", stop: Event | None = None
    ) -> Iterator[None]:
        """Be the only run that writes in a direction, in all processes with this ledger.

        It ends with the process, however that ends; in PostgreSQL with the connection that holds
        it, and `change` fails from then on.

        Args:
            direction: Of the pair.
            wait: Maximum time to wait for another run to end, in seconds.
            holder: What others are shown while they wait, such as the name of the plugin.
            stop: Set to end the waiting at once.

        Raises:
            DirectionInUseError: Another run has it.
            SettingsError: The database fails.
        """
        locks = self._store.locks(self._runtime)
        lock = locks.lock(f"{self._scope}-{direction}")
        stop = stop or self._runtime.event()
        until = self._runtime.monotonic() + wait
        try:
            while not lock.acquire():
                if self._runtime.monotonic() >= until or stop.is_set():
                    raise self._in_use(direction, wait)
                stop.wait(min(_LEASE_POLL, wait))
            try:
                self._name_holder(direction, holder)
                self._leases.append(locks)
                yield
            finally:
                if locks in self._leases:
                    self._leases.remove(locks)
                lock.release()
        finally:
            locks.close()

    def _check_leases(self, transaction: Transaction) -> None:
        if not all(locks.holds(transaction) for locks in self._leases):
            raise DirectionInUseError(
                "The connection that kept other runs of this direction out is lost. Nothing is "
                "lost: run again."
            )

    def _name_holder(self, direction: Direction, holder: str) -> None:
        since = self._runtime.now().isoformat(timespec="seconds")
        named = ", ".join(filter(None, [holder, self._runtime.process_name(), f"since {since}"]))
        with self._store.write() as transaction:
            transaction.execute(
                "INSERT INTO ledger_leases (scope, direction, holder) VALUES (?, ?, ?) "
                "ON CONFLICT (scope, direction) DO UPDATE SET holder = excluded.holder",
                self._scope,
                direction,
                named,
            )

    def _in_use(self, direction: Direction, wait: float) -> DirectionInUseError:
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT holder FROM ledger_leases WHERE scope = ? AND direction = ?",
                self._scope,
                direction,
            )
        return DirectionInUseError(
            f"Another run writes in the direction `{direction}` ({row[0] if row else 'unknown'}), "
            f"and has not ended within lease_wait ({wait:g} s). Nothing was written. Run again "
            "when it has ended; schedule one job per direction."
        )

    def share_limits(
        self, account: str, *, calls_per_minute: int, max_concurrency: int
    ) -> SharedLimits:
        """Return limits on requests that all processes with this ledger share.

        Args:
            account: What has the limits: the address of the API and the entity.
            calls_per_minute: Maximum requests in any minute.
            max_concurrency: Maximum requests at once.
        """
        limits = SharedLimits(
            self._store, account, calls_per_minute, max_concurrency, self._runtime
        )
        self._limits.append(limits)
        return limits

    # Runs

    def start_run(self, plugin: str, direction: str) -> str:
        """Record the start of a run; return its id, which intents name as their writer.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            number = advance(transaction, self._scope, "runs")
            transaction.execute(
                "INSERT INTO ledger_runs (scope, number, plugin, direction, process, began) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                self._scope,
                number,
                plugin,
                direction,
                self._runtime.process_name(),
                to_micros(self._runtime.now()),
            )
        return str(number)

    def last_runs(self) -> list[dict[str, Any]]:
        """Return the last run of each plugin; timestamps are microseconds since 1970.

        Raises:
            SettingsError: The database fails.
        """
        names = ("number", "plugin", "direction", "process", "began", "ended", "outcome")
        with self._store.read() as transaction:
            rows = transaction.all(
                f"SELECT {', '.join(names)} FROM ledger_runs WHERE scope = ? AND number IN "  # noqa: S608
                "(SELECT max(number) FROM ledger_runs WHERE scope = ? GROUP BY plugin) "
                "ORDER BY number",
                self._scope,
                self._scope,
            )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def end_run(self, run: str, outcome: str) -> None:
        """Record the end of a run, in words such as `exit 0`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction:
            transaction.execute(
                "UPDATE ledger_runs SET ended = ?, outcome = ? WHERE scope = ? AND number = ?",
                to_micros(self._runtime.now()),
                outcome,
                self._scope,
                int(run),
            )


class _Ending(NamedTuple):
    """How an import has ended, and by when at the latest."""

    state: ImportState
    at: Micros


class _ImportEnd(NamedTuple):
    """The end of an import, for all that it was to write of a person."""

    number: int
    ended: Micros | None
    ending: _Ending
    rules: Rules

    def __call__(self, entry: Entry) -> None:
        """Record it in one choice."""
        number, ending = self.number, self.ending
        for name, place in list(entry.places.items()):
            if ending.state == "ended":
                end_import(entry, name, number, ending.at)
            elif ending.state == "never_received":
                place.late = [late for late in place.late if late.import_number != number]
                if place.intent is not None and place.intent.import_number == number:
                    drop_intent(entry, name)
            else:  # it may have been carried out, or may be yet
                give_up_import(entry, name, number, ending.at, self.rules)


def _due(person: Person) -> Micros:
    """Return when something may be tried again; 0 for at any time."""
    if not person.retries:
        return 0
    sides: list[Side] = []
    if person.owed & Owed.ACTITO:
        sides.append("actito")
    if person.owed & Owed.DIDOMI:
        sides.append("didomi")
    times = [person.retries[side].next_at if side in person.retries else 0 for side in sides]
    return min(times, default=0)
