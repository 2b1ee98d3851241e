"""What each direction knows of the other: who chose what in Actito last, a pipeline or the person.

When subscriptions are compared with a snapshot, a change that target-actito wrote looks like one
that the person made. So target-actito notes what it writes, and tap-actito what it finds that was
not written so. The one keeps an older opt-out of Didomi's from coming back as a new one of
Actito's, the other an older opt-in of Didomi's from going over a newer opt-out of Actito's.

Where a note is missing, the order of two choices can't be told, and then the opt-out wins.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

import sqlalchemy as sa

from actito_didomi import codes
from actito_didomi.consent.conflicts import Window
from actito_didomi.consent.store import open_store
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from actito_didomi.runtime import Runtime

Origin = Literal["pipeline", "person"]
_AT_ONCE = 500

_METADATA = sa.MetaData()
_NOTES = sa.Table(
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


class Place(NamedTuple):
    """Where a choice stands: a subscription or boolean attribute of one person's profile."""

    person: str
    kind: str
    name: str


class Note(NamedTuple):
    """The last choice of one origin at a place.

    Attributes:
        value: In Actito's form.
        at: When it was made at the latest; for a pipeline, when its writing had ended.
        after: It was made later than this, where only a window is known; for a pipeline, when its
            writing began.
    """

    value: bool
    at: datetime
    after: datetime | None = None

    @property
    def window(self) -> Window:
        """When it was made."""
        return Window(self.at, self.after)


class Ledger:
    """Notes about one profile table.

    Args:
        url: Any URL that SQLAlchemy knows.
        account: What tells this table from all others.
        runtime: Makes the engine.

    Raises:
        SettingsError: The database can't be used.
    """

    def __init__(self, url: str, account: Iterable[str], runtime: Runtime) -> None:
        self._scope = "/".join(account)
        self._engine = open_store(url, _METADATA, "snapshot_url", runtime)

    def close(self) -> None:
        """Give connections back."""
        self._engine.dispose()

    def has(self, origin: Origin) -> bool:
        """Tell whether there are notes of an origin: whether that side takes part.

        Raises:
            SettingsError: The database fails.
        """
        query = sa.select(_NOTES.c.person).where(
            _NOTES.c.scope == self._scope, _NOTES.c.origin == origin
        )
        try:
            with self._engine.connect() as connection:
                return connection.execute(query.limit(1)).first() is not None
        except sa.exc.SQLAlchemyError as error:
            raise _failure(error) from None

    def read(
        self, origin: Origin, people: Collection[str], since: datetime | None = None
    ) -> dict[Place, Note]:
        """Give the last notes of one origin about some people.

        Args:
            origin: Whose choices.
            people: The people.
            since: Only notes from then on.

        Raises:
            SettingsError: The database fails.
        """
        found: dict[Place, Note] = {}
        everyone = list(people)
        query = sa.select(_NOTES).where(_NOTES.c.scope == self._scope, _NOTES.c.origin == origin)
        if since is not None:
            query = query.where(_NOTES.c.at >= since.isoformat())
        try:
            with self._engine.connect() as connection:
                for start in range(0, len(everyone), _AT_ONCE):
                    part = everyone[start : start + _AT_ONCE]
                    for row in connection.execute(query.where(_NOTES.c.person.in_(part))):
                        after = datetime.fromisoformat(row.after) if row.after else None
                        found[Place(row.person, row.kind, row.name)] = Note(
                            row.value, datetime.fromisoformat(row.at), after
                        )
        except sa.exc.SQLAlchemyError as error:
            raise _failure(error) from None
        return found

    def note(self, origin: Origin, notes: dict[Place, Note]) -> None:
        """Take down what was chosen; it takes the place of earlier notes.

        Raises:
            SettingsError: The database fails.
        """
        rows = [
            {
                "scope": self._scope,
                "origin": origin,
                **place._asdict(),
                "value": note.value,
                "after": note.after.isoformat() if note.after else None,
                "at": note.at.isoformat(),
            }
            for place, note in notes.items()
        ]
        if not rows:
            return
        keys = [column.name for column in _NOTES.primary_key]
        earlier = sa.delete(_NOTES).where(*(_NOTES.c[k] == sa.bindparam(f"its_{k}") for k in keys))
        try:
            with self._engine.begin() as connection:
                connection.execute(earlier, [{f"its_{k}": row[k] for k in keys} for row in rows])
                connection.execute(sa.insert(_NOTES), rows)
        except sa.exc.SQLAlchemyError as error:
            raise _failure(error) from None


def _failure(error: sa.exc.SQLAlchemyError) -> SettingsError:
    return SettingsError(
        codes.UNUSABLE_DATABASE,
        f"snapshot_url: the database fails ({type(error).__name__}). Nothing is lost: run again "
        "when it is back.",
    )
