"""Who changed a field of a profile in Actito last: a pipeline, or the person.

When the table is compared with a snapshot, a value that target-actito wrote looks like one that the
person chose. So target-actito records what it writes, and tap-actito what it finds that was not
written so. The first keeps an older opt-out in Didomi from coming back as a newer one in Actito,
the second keeps an older opt-in in Didomi from going over a newer opt-out in Actito.

Where an entry is missing, the order of two choices can't be known, and then the opt-out counts.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

import sqlalchemy as sa

from actito_didomi import codes
from actito_didomi.consent.conflicts import ACTITO, Act, newest, to_datetime, to_micros
from actito_didomi.consent.store import open_store
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from actito_didomi.consent.conflicts import Source
    from actito_didomi.runtime import Runtime

Origin = Literal["pipeline", "person"]
_BATCH_SIZE = 500
"""People that are read together."""

_METADATA = sa.MetaData()
_ENTRIES = sa.Table(
    "actito_ledger",
    _METADATA,
    sa.Column("scope", sa.String(500), primary_key=True),
    sa.Column("person", sa.String(500), primary_key=True),
    sa.Column("kind", sa.String(12), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("origin", sa.String(8), primary_key=True),
    sa.Column("value", sa.Boolean, nullable=False),
    sa.Column("after", sa.String(40)),
    sa.Column("at", sa.String(40), nullable=False),
)


class PersonField(NamedTuple):
    """A subscription or boolean attribute of one person's profile."""

    person: str
    kind: str
    name: str


class Entry(NamedTuple):
    """The last value that a pipeline, or the person, gave to a field.

    Attributes:
        value: In Actito's form.
        earliest: It was given at this timestamp or later; aware of its zone. Of a pipeline: when
            its write began.
        latest: It was given at this timestamp or earlier; aware of its zone. Of a pipeline: when
            its write had ended.
    """

    value: bool
    earliest: datetime
    latest: datetime

    def act(self, *, inverted: bool) -> Act:
        """Return the person's choice that the value stands for.

        Args:
            inverted: Whether true in Actito is an opt-out.
        """
        source: Source = "look" if self.earliest < self.latest else "row"
        earliest, latest = to_micros(self.earliest), to_micros(self.latest)
        return Act(self.value is not inverted, earliest, latest, ACTITO, source)


class Ledger:
    """The entries of one profile table.

    Args:
        url: Any URL that SQLAlchemy knows.
        account: What distinguishes this table from all others.
        runtime: Makes the engine.

    Raises:
        SettingsError: The database can't be used.
    """

    def __init__(self, url: str, account: Iterable[str], runtime: Runtime) -> None:
        self._scope = "/".join(account)
        self._engine = open_store(url, _METADATA, "snapshot_url", runtime)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def has(self, origin: Origin) -> bool:
        """Return whether there are entries of an origin.

        Raises:
            SettingsError: The database fails.
        """
        query = sa.select(_ENTRIES.c.person).where(
            _ENTRIES.c.scope == self._scope, _ENTRIES.c.origin == origin
        )
        try:
            with self._engine.connect() as connection:
                return connection.execute(query.limit(1)).first() is not None
        except sa.exc.SQLAlchemyError as error:
            raise _failure(error) from None

    def read(
        self, origin: Origin, people: Collection[str], since: datetime | None = None
    ) -> dict[PersonField, Entry]:
        """Read the entries of one origin about some people.

        Args:
            origin: Whether a pipeline or the person gave the values.
            people: Values of the key attribute.
            since: Only entries whose `latest` is not before this timestamp.

        Raises:
            SettingsError: The database fails.
        """
        found: dict[PersonField, Entry] = {}
        everyone = list(people)
        query = sa.select(_ENTRIES).where(
            _ENTRIES.c.scope == self._scope, _ENTRIES.c.origin == origin
        )
        if since is not None:
            query = query.where(_ENTRIES.c.at >= since.isoformat())
        try:
            with self._engine.connect() as connection:
                for start in range(0, len(everyone), _BATCH_SIZE):
                    part = everyone[start : start + _BATCH_SIZE]
                    for row in connection.execute(query.where(_ENTRIES.c.person.in_(part))):
                        latest = datetime.fromisoformat(row.at)
                        earliest = datetime.fromisoformat(row.after) if row.after else latest
                        field = PersonField(row.person, row.kind, row.name)
                        found[field] = Entry(row.value, earliest, latest)
        except sa.exc.SQLAlchemyError as error:
            raise _failure(error) from None
        return found

    def learn(
        self,
        entries: Iterable[tuple[PersonField, Entry]],
        inverted: Collection[tuple[str, str]],
    ) -> None:
        """Record what people chose themselves; of each field the newest choice is kept.

        Args:
            entries: Values of fields: rows in any order, looks in their sequence. A field may occur
                repeatedly.
            inverted: Kind and name of each field for which true in Actito is an opt-out.

        Raises:
            SettingsError: The database fails.
        """
        learned = list(entries)
        known = self.read("person", {field.person for field, _ in learned})
        changed: dict[PersonField, Entry] = {}
        for field, entry in learned:
            is_inverted = (field.kind, field.name) in inverted
            before = known.get(field)
            act = newest(
                before.act(inverted=is_inverted) if before else None,
                entry.act(inverted=is_inverted),
            )
            known[field] = Entry(
                act.value is not is_inverted, to_datetime(act.earliest), to_datetime(act.latest)
            )
            if known[field] != before:
                changed[field] = known[field]
        self._store("person", changed)

    def record_writes(self, entries: Mapping[PersonField, Entry]) -> None:
        """Record what a pipeline has written; an entry replaces the one before.

        Raises:
            SettingsError: The database fails.
        """
        self._store("pipeline", entries)

    def _store(self, origin: Origin, entries: Mapping[PersonField, Entry]) -> None:
        rows = [
            {
                "scope": self._scope,
                "origin": origin,
                **field._asdict(),
                "value": entry.value,
                "after": entry.earliest.isoformat(),
                "at": entry.latest.isoformat(),
            }
            for field, entry in entries.items()
        ]
        if not rows:
            return
        keys = [column.name for column in _ENTRIES.primary_key]
        earlier = sa.delete(_ENTRIES).where(
            *(_ENTRIES.c[k] == sa.bindparam(f"its_{k}") for k in keys)
        )
        try:
            with self._engine.begin() as connection:
                connection.execute(earlier, [{f"its_{k}": row[k] for k in keys} for row in rows])
                connection.execute(sa.insert(_ENTRIES), rows)
        except sa.exc.SQLAlchemyError as error:
            raise _failure(error) from None


def _failure(error: sa.exc.SQLAlchemyError) -> SettingsError:
    return SettingsError(
        codes.UNUSABLE_DATABASE,
        f"snapshot_url: the database fails ({type(error).__name__}). Nothing is lost: run again "
        "when it is back.",
    )
