"""What the table looked like when it was last read, and the changes found since.

Changes are stored in the same transaction that moves the snapshot, before they are emitted, and are
deleted once a STATE that passes them comes back. So wherever a process is killed, they are emitted
again: the tap between two steps, or the target before it has written.

Nothing is decided inside a transaction: rows are read, compared elsewhere, and written only if no
other run has changed them in between.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from actito_didomi import codes
from actito_didomi.actito.changes import SubscriptionChange
from actito_didomi.consent.store import open_store
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from actito_didomi.actito.listing import Profile
    from actito_didomi.runtime import Runtime

States = dict[str, bool]
_BATCH_SIZE = 1000
"""Stored changes that are read together."""

_METADATA = sa.MetaData()
_SCANS = sa.Table(
    "actito_snapshot",
    _METADATA,
    sa.Column("scope", sa.String(500), primary_key=True),
    sa.Column("id", sa.String(36), nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False),
    sa.Column("last_number", sa.BigInteger, nullable=False),
    sa.Column("newest_update", sa.String(40)),
)
_PROFILES = sa.Table(
    "actito_snapshot_profile",
    _METADATA,
    sa.Column("scope", sa.String(500), primary_key=True),
    sa.Column("profile_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("states", sa.Text, nullable=False),
    sa.Column("looked_at", sa.String(40), nullable=False),
)
_CHANGES = sa.Table(
    "actito_snapshot_change",
    _METADATA,
    sa.Column("scope", sa.String(500), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("change", sa.Text, nullable=False),
)

Numbered = tuple[int, SubscriptionChange]


class SnapshotRow(NamedTuple):
    """A profile, and what the snapshot holds of it.

    Attributes:
        profile: The profile now.
        before: Its states at the last look; None where the snapshot doesn't hold it.
        last_look: When that look began: a later change may not have been seen.
    """

    profile: Profile
    before: States | None
    last_look: datetime | None


class Snapshot:
    """The snapshot of one table, for one stream.

    Args:
        url: Any URL that SQLAlchemy knows.
        scope: Names the account, the table and the stream.
        runtime: Makes the engine and the id of a new snapshot.

    Attributes:
        id: Differs for each snapshot that was ever made.
        complete: Whether the whole table has been read at least once.
        newest_update: The newest `updateMoment` of the last complete read, as Actito writes it.

    Raises:
        SettingsError: The database can't be used.
    """

    def __init__(self, url: str, scope: str, runtime: Runtime) -> None:
        self._scope = scope
        self._engine = open_store(url, _METADATA, "snapshot_url", runtime)
        with self._engine.begin() as connection:
            found = connection.execute(self._own(sa.select(_SCANS), _SCANS)).first()
            if found is None:
                values = {"scope": scope, "id": runtime.uuid(), "last_number": 0}
                connection.execute(sa.insert(_SCANS).values(**values, complete=False))
                found = connection.execute(self._own(sa.select(_SCANS), _SCANS)).one()
        self.id: str = found.id
        self.complete: bool = found.complete
        self.newest_update: str | None = found.newest_update
        self._last_number: int = found.last_number

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def forget(self, number: int) -> None:
        """Delete the changes up to this number: a target has acknowledged them."""
        with self._engine.begin() as connection:
            connection.execute(
                self._own(sa.delete(_CHANGES), _CHANGES).where(_CHANGES.c.number <= number)
            )

    def pending(self, after: int) -> list[Numbered]:
        """Return the next stored changes with a number above this one, in order."""
        query = self._own(sa.select(_CHANGES), _CHANGES).where(_CHANGES.c.number > after)
        with self._engine.connect() as connection:
            found = connection.execute(query.order_by(_CHANGES.c.number).limit(_BATCH_SIZE))
            return [
                (row.number, msgspec.json.decode(row.change, type=SubscriptionChange))
                for row in found
            ]

    def rows(self, profiles: Iterable[Profile]) -> list[SnapshotRow]:
        """Read what the snapshot holds of some profiles; each profile once."""
        unique = list({profile.id: profile for profile in profiles}.values())
        with self._engine.connect() as connection:
            return self._rows(connection, unique)

    def store(
        self,
        rows: Sequence[SnapshotRow],
        states: Sequence[States],
        changes: Sequence[SubscriptionChange],
        looked_at: datetime,
    ) -> list[Numbered]:
        """Move the snapshot, and store the changes, in one transaction.

        Args:
            rows: What `rows` returned.
            states: The states now, one for each row.
            changes: What changed between `rows` and `states`.
            looked_at: When the look began that found `states`; aware of its zone.

        Returns:
            The changes, numbered.

        Raises:
            SettingsError: Another run has moved the snapshot since `rows` was called. Nothing
                is stored then.
        """
        numbered = list(enumerate(changes, start=self._last_number + 1))
        last_number = self._last_number + len(numbered)
        with self._engine.begin() as connection:
            # A write comes first: it takes the lock that keeps other runs out until the commit.
            scan = self._own(sa.update(_SCANS), _SCANS)
            scan = scan.where(_SCANS.c.last_number == self._last_number)
            moved = connection.execute(scan.values(last_number=last_number)).rowcount != 1
            if moved or self._rows(connection, [row.profile for row in rows]) != list(rows):
                raise SettingsError(
                    codes.SNAPSHOT_IN_USE,
                    "snapshot_url: another run of tap-actito has used this snapshot at the same "
                    "time. Nothing is lost: run again once it has ended, and run one job per "
                    "snapshot at a time.",
                )
            self._write_profiles(connection, rows, states, looked_at.isoformat())
            if numbered:
                connection.execute(
                    sa.insert(_CHANGES),
                    [
                        {
                            "scope": self._scope,
                            "number": number,
                            "change": msgspec.json.encode(change).decode(),
                        }
                        for number, change in numbered
                    ],
                )
        self._last_number = last_number
        return numbered

    def finish(self, newest_update: str | None) -> None:
        """Record that the whole table has been read.

        Args:
            newest_update: The newest `updateMoment` that was seen, as Actito writes it.
        """
        values: dict[str, Any] = {"complete": True}
        if newest_update is not None:
            values["newest_update"] = newest_update
        with self._engine.begin() as connection:
            connection.execute(self._own(sa.update(_SCANS), _SCANS).values(**values))
        self.complete = True

    def _rows(self, connection: sa.Connection, profiles: Sequence[Profile]) -> list[SnapshotRow]:
        here = _PROFILES.c.profile_id.in_([profile.id for profile in profiles])
        query = self._own(sa.select(_PROFILES), _PROFILES).where(here)
        known = {row.profile_id: row for row in connection.execute(query)}
        rows = []
        for profile in profiles:
            if (row := known.get(profile.id)) is None:
                rows.append(SnapshotRow(profile, None, None))
            else:
                before = msgspec.json.decode(row.states, type=States)
                looked_at = datetime.fromisoformat(row.looked_at)
                rows.append(SnapshotRow(profile, before, looked_at))
        return rows

    def _write_profiles(
        self,
        connection: sa.Connection,
        rows: Sequence[SnapshotRow],
        all_states: Sequence[States],
        looked_at: str,
    ) -> None:
        new: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        known: list[int] = []
        for row, states in zip(rows, all_states, strict=True):
            text = msgspec.json.encode(states).decode()
            if row.before is None:
                new.append({"scope": self._scope, "profile_id": row.profile.id,
                            "states": text, "looked_at": looked_at})  # fmt: skip
                continue
            known.append(row.profile.id)
            if states != row.before:
                changed.append({"its_id": row.profile.id, "its_states": text})
        update = self._own(sa.update(_PROFILES), _PROFILES)
        if known:
            here = _PROFILES.c.profile_id.in_(known)
            connection.execute(update.where(here).values(looked_at=looked_at))
        if changed:
            one = update.where(_PROFILES.c.profile_id == sa.bindparam("its_id"))
            connection.execute(one.values(states=sa.bindparam("its_states")), changed)
        if new:
            connection.execute(sa.insert(_PROFILES), new)

    def _own(self, statement: Any, table: sa.Table) -> Any:
        return statement.where(table.c.scope == self._scope)
