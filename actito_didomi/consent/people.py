"""People in the ledger: who chose what, what each side holds, and what is owed to whom."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from msgspec import structs

from actito_didomi.consent.codec import FIELD, Codec
from actito_didomi.consent.drafts import Drafter, Said
from actito_didomi.consent.imports import ImportTable
from actito_didomi.consent.leases import LeaseTable
from actito_didomi.consent.looks import LookTable
from actito_didomi.consent.masks import FieldBits, fits
from actito_didomi.consent.person import Owed, Person, digest_of
from actito_didomi.consent.rows import (
    StoredNames,
    by_key,
    delete_people,
    insert_people,
    lock_people,
    owed_people,
    select_people,
    write_people,
)
from actito_didomi.consent.store import is_worth_repeating
from actito_didomi.privacy import hash_person

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.coalesce import PersonLayers
    from actito_didomi.consent.conflicts import Micros, Rules, Side
    from actito_didomi.consent.drafts import Draft, Glimpse, Start
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.looks import FoundChange
    from actito_didomi.consent.masks import ImportEnd
    from actito_didomi.consent.rows import Row
    from actito_didomi.consent.store import Store, Transaction
    from actito_didomi.runtime import Runtime

_OPT_OUTS = {Owed.ACTITO: Owed.OPT_OUT_ACTITO, Owed.DIDOMI: Owed.OPT_OUT_DIDOMI}
_CHANGED_TOGETHER = 5_000
"""People that are changed in one transaction by `change_each`."""
_BATCH_SIZE = 10_000
"""People that are read together."""
_ATTEMPTS = 5
_ALL_NAMES = 2**31


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

    def to(self, direction: Literal["forward", "reverse"]) -> int:
        """Return to how many people anything is, or may be, owed on the side of a direction."""
        if direction == "forward":
            return self.having(Owed.ACTITO | Owed.DEFERRED | Owed.IN_IMPORT)
        return self.having(Owed.DIDOMI)

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


class PeopleTable(ImportTable, LookTable, LeaseTable):
    """The people of a pair, as what is known of imports makes them.

    Args:
        store: The database, with its tables.
        scope: Number of the pair.
        runtime: Clock and locks.
        key: Key of the hashes.
        rules: Settings that decide between choices.

    Attributes:
        key: The same.
        rules: The same.
    """

    def __init__(
        self, store: Store, scope: int, runtime: Runtime, *, key: bytes, rules: Rules
    ) -> None:
        super().__init__(store, scope, runtime)
        self.key = key
        self.rules = rules
        self._names = StoredNames(scope)
        self._codec = Codec(self._names)
        self._lock = runtime.lock()

    def hash(self, person: str) -> str:
        """Return what a person is called in logs: 10 hexadecimal digits, keyed."""
        return hash_person(person, self.key)

    def digest(self, value: Any) -> bytes:
        """Return 8 bytes that stand for a value of JSON, keyed."""
        return digest_of(value, self.key)

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
        with self._store.write() as transaction:
            self._check_leases(transaction)
            with self._numbering(transaction):
                draft = self._drafter(transaction, Said(paths, None, digest, arrival)).first
                made: dict[str, tuple[str, int, int, bytes] | None] = {}
                left: list[int] = []
                for position, (key, layers) in enumerate(found):
                    if key in made:
                        left.append(position)  # after what was said of the person before
                    elif (first := draft(key, layers)) is None:
                        made[key] = None
                        left.append(position)
                    else:
                        made[key] = first.row()
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
        return left

    def write_drafts(
        self,
        people: Sequence[tuple[str, PersonLayers | None, Glimpse | None]],
        said: Said,
        begin: Callable[[list[Draft]], int] | None = None,
        start: Start | None = None,
    ) -> list[str]:
        """Learn what records and looks say of people, and begin an import, in one transaction.

        It leads to the same as `change` does; each person is read and written once.

        Args:
            people: Keys in their order, each once, with what records say and a look, as far as
                there are any.
            said: What is needed to read them.
            begin: Called with the people to whom something is due that an import can write; returns
                to how many of them, the first ones, it does. It calls no method of the ledger.
            start: The start of that import, which is recorded with the first of its people.

        Returns:
            The keys of those who are left to `change`.

        Raises:
            SettingsError: The database fails.
        """
        left: list[str] = []
        drafts: list[Draft] = []
        with self._store.write() as transaction:
            self._check_leases(transaction)
            rows: Mapping[str, Row] = {}
            if self._has_people(transaction):
                rows = self._claim(transaction, [key for key, _, _ in people])
            with self._numbering(transaction):
                drafter = self._drafter(transaction, said)
                for key, found, glimpse in people:
                    row = rows.get(key)
                    if begin is None and row and glimpse and drafter.shows_same(key, row, glimpse):
                        continue
                    draft = drafter.draft(key, row, found, glimpse) if said.may_be_new else None
                    if draft is None:
                        left.append(key)
                    else:
                        drafts.append(draft)
                if begin is not None and start is not None:
                    due = [draft for draft in drafts if draft.due]
                    due = due[: begin(due)]
                    if due and not start.number:
                        start.number = self._insert_import(
                            transaction, start.file_name, start.began
                        )
                    for draft in due:
                        draft.begin(start)
                write_people(transaction, self._scope, [draft.row() for draft in drafts])
        return left

    def count_due(self, people: Sequence[tuple[str, PersonLayers]], said: Said) -> int:
        """Return to how many people something is due, after what records say of them.

        Those of whom that can't be found quickly count.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction, self._lock:
            self._names.transaction = transaction
            rows = self._select(transaction, [key for key, _ in people])
            drafter = self._drafter(transaction, said)
            return sum(
                key not in rows
                or (draft := drafter.known(key, rows[key], found, None)) is None
                or bool(draft.due)
                for key, found in people
            )

    def held_in_actito(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the fields that hold an opt-in and an opt-out, of all people, many at a time.

        Raises:
            SettingsError: The database fails.
        """
        for rows in self._all_people():
            with self._store.read() as transaction, self._lock:
                self._names.transaction = transaction
                said = Said((), None, self.digest, 0)
                held = self._drafter(transaction, said).held
                found = [held(data) for _, data in rows if data]
            yield found

    def _drafter(self, transaction: Transaction, said: Said) -> Drafter:
        return Drafter(
            self._codec, said.paths, said.digest, said.arrival, self.rules, bits=said.bits,
            find_endings=self._endings_in(transaction), is_first_look=said.is_first_look,
        )  # fmt: skip

    def _has_people(self, transaction: Transaction) -> bool:
        """Return whether rows of people must be read; in PostgreSQL they are locked by that."""
        query = "SELECT 1 FROM ledger_people WHERE scope = ? LIMIT 1"
        return not transaction.is_sqlite or transaction.one(query, self._scope) is not None

    def number_fields(self, fields: Collection[ChoiceField]) -> FieldBits | None:
        """Return the bits of fields, which are for good; None where masks of them are too wide.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.write() as transaction, self._numbering(transaction):
            bits = [
                (
                    field,
                    self._codec.bit(field.path),
                    self._codec.field_bit(field.path, field.place),
                )
                for field in fields
            ]
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
                f"SELECT person, owed, due, data FROM {owed_people(transaction)} WHERE scope = ? "  # noqa: S608
                "AND owed > 0 "
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

    def owed_keys(self, flag: Owed, *, without: Owed, due_at: Micros) -> list[str]:
        """Return the keys of the people to whom something is owed now, in their order.

        Args:
            flag: What is owed.
            without: Only people without any of these flags.
            due_at: Only people who may be tried again at this timestamp.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                f"SELECT person FROM {owed_people(transaction)} WHERE scope = ? AND owed > 0 AND "  # noqa: S608
                "(owed & ?) <> 0 AND (owed & ?) = 0 AND due <= ? ORDER BY person",
                self._scope,
                int(flag),
                int(without),
                due_at,
            )
        return [row[0] for row in rows]

    def count_owed(self) -> OwedCounts:
        """Return to how many people something is owed.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            rows = transaction.all(
                f"SELECT owed, count(*) FROM {owed_people(transaction)} WHERE scope = ? "  # noqa: S608
                "AND owed > 0 GROUP BY owed",
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

    def _endings_in(self, transaction: Transaction) -> Callable[[set[int]], list[ImportEnd]]:
        """Return what finds the ends of those of some imports that have ended."""
        return lambda imports: self._find_endings(transaction, imports, self.rules)

    def _decode(self, transaction: Transaction, rows: dict[str, Row]) -> dict[str, Person]:
        find_endings = self._endings_in(transaction)
        with self._lock:
            self._names.transaction = transaction
            return {
                key: self._codec.decode(data, owed, find_endings, key)
                for key, (owed, _, data) in rows.items()
                if data
            }

    def _save(self, transaction: Transaction, rows: dict[str, Row], change: Change) -> None:
        with self._numbering(transaction):
            changed, emptied = self._encode(rows, change.people)
            write_people(transaction, self._scope, changed)
            delete_people(transaction, self._scope, emptied)
            self._add_found(transaction, change.found)

    @contextmanager
    def _numbering(self, transaction: Transaction) -> Iterator[None]:
        """Number names in a transaction, which is committed at the end of the block.

        If that fails, the numbers that are remembered are forgotten: nobody else has them.
        """
        with self._lock:
            self._names.transaction = transaction
            try:
                yield
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
                and any(code in {None, retry.name} for retry in person.retries.values())
            ]
            with self.change(waiting) as change:
                for person in change.people.values():
                    for side, retry in person.retries.items():
                        if code in {None, retry.name}:
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
        for rows in self._all_people():
            for key, data in rows:
                profile_id = self._codec.profile_id(data) if data else None
                if profile_id is not None and profile_id in profile_ids:
                    found[profile_id] = key
        return found

    def find_hash(self, name: str) -> str | None:
        """Return the key of the person who has this hash in logs; None if nobody has.

        Raises:
            SettingsError: The database fails.
        """
        for rows in self._all_people():
            for key, _ in rows:
                if self.hash(key) == name:
                    return str(key)
        return None

    def mapped_fields(self) -> list[tuple[Path, str]]:
        """Return the fields in Actito that hold choices: path of the choice, and place.

        These are all that were ever mapped or looked at; a field that no mapping names has a path
        that begins with `actito`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction, self._lock:
            self._names.transaction = transaction
            names = self._names.known(FIELD, _ALL_NAMES)
            return [(tuple(name[:-1]), name[-1]) for name in names]

    def _all_people(self) -> Iterator[Sequence[Any]]:
        """Yield the keys and data of all people, many at a time, in the order of their keys."""
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
                return
            yield rows
            after = rows[-1][0]

    def in_import(self, number: int) -> list[str]:
        """Return the keys of the people to whom an import may write, in their order.

        All people are read, so it is for imports that did not end as they should.

        Raises:
            SettingsError: The database fails.
        """
        return [
            key
            for rows in self._all_people()
            for key, data in rows
            if data and self._codec.is_in_import(data, number)
        ]


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
