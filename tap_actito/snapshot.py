"""What the table looked like when it was last read, and the changes found since.

Changes are stored in the same transaction that moves the snapshot, before they are emitted, and are
forgotten once a STATE that passes them comes back. So whatever is killed, and wherever, they come
again: the tap between two steps, or the target before it has written.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa

from actito_didomi.actito.changes import SubscriptionChange
from actito_didomi.consent.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from actito_didomi.actito.listing import Profile, ProfilePage
    from actito_didomi.runtime import Runtime

States = dict[str, bool]
_AT_ONCE = 1000
"""Changes that are given again together."""

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
    """A profile, and what the snapshot knows of it.

    Attributes:
        profile: The profile now.
        before: Its states at the last look; None where it is new.
        last_look: When that began: whatever changed later may not have been seen.
    """

    profile: Profile
    before: States | None
    last_look: datetime | None


def _look(profile: Profile, row: Any) -> SnapshotRow:
    if row is None:
        return SnapshotRow(profile, None, None)
    before = msgspec.json.decode(row.states, type=States)
    return SnapshotRow(profile, before, datetime.fromisoformat(row.looked_at))


class Snapshot:
    """The snapshot of one table, for one stream.

    Args:
        url: Any URL that SQLAlchemy knows.
        scope: Names the account, the table and the stream.
        runtime: Makes the engine and the snapshot's id.

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
        """Give connections back."""
        self._engine.dispose()

    def forget(self, number: int) -> None:
        """Forget the changes up to this one: a target has settled them."""
        with self._engine.begin() as connection:
            connection.execute(
                self._own(sa.delete(_CHANGES), _CHANGES).where(_CHANGES.c.number <= number)
            )

    def pending(self, after: int) -> list[Numbered]:
        """Give the next changes behind this one that were found and not settled, in order."""
        query = self._own(sa.select(_CHANGES), _CHANGES).where(_CHANGES.c.number > after)
        with self._engine.connect() as connection:
            found = connection.execute(query.order_by(_CHANGES.c.number).limit(_AT_ONCE))
            return [
                (row.number, msgspec.json.decode(row.change, type=SubscriptionChange))
                for row in found
            ]

    def take(
        self,
        page: ProfilePage,
        compare: Callable[[list[SnapshotRow]], tuple[list[States], list[SubscriptionChange]]],
    ) -> list[Numbered]:
        """Compare a page of profiles with the snapshot, and move the snapshot.

        Args:
            page: The page.
            compare: Gives for some profiles their states now, and the changes.

        Returns:
            The changes, numbered, stored already.
        """
        looked_at = page.asked_at.isoformat()
        profiles = {profile.id: profile for profile in page.profiles}
        here = _PROFILES.c.profile_id.in_(profiles)
        new: list[dict[str, Any]] = []
        changed: list[dict[str, Any]] = []
        with self._engine.begin() as connection:
            query = self._own(sa.select(_PROFILES), _PROFILES).where(here)
            known = {row.profile_id: row for row in connection.execute(query)}
            looks = [_look(profile, known.get(profile.id)) for profile in profiles.values()]
            all_states, changes = compare(looks)
            for look, states in zip(looks, all_states, strict=True):
                text = msgspec.json.encode(states).decode()
                if look.before is None:
                    new.append({"scope": self._scope, "profile_id": look.profile.id,
                                "states": text, "looked_at": looked_at})  # fmt: skip
                elif states != look.before:
                    changed.append({"b_id": look.profile.id, "b_states": text})
            if known:
                connection.execute(
                    self._own(sa.update(_PROFILES), _PROFILES).where(here).values(
                        looked_at=looked_at
                    )
                )  # fmt: skip
            if changed:
                update = self._own(sa.update(_PROFILES), _PROFILES)
                update = update.where(_PROFILES.c.profile_id == sa.bindparam("b_id"))
                connection.execute(update.values(states=sa.bindparam("b_states")), changed)
            if new:
                connection.execute(sa.insert(_PROFILES), new)
            numbered = self._store(connection, changes)
        self._last_number += len(changes)
        return numbered

    def _store(
        self, connection: sa.Connection, changes: Sequence[SubscriptionChange]
    ) -> list[Numbered]:
        numbered = list(enumerate(changes, start=self._last_number + 1))
        if numbered:
            connection.execute(
                sa.insert(_CHANGES),
                [
                    {"scope": self._scope, "number": n, "change": msgspec.json.encode(c).decode()}
                    for n, c in numbered
                ],
            )
            connection.execute(
                self._own(sa.update(_SCANS), _SCANS).values(last_number=numbered[-1][0])
            )
        return numbered

    def finish(self, newest_update: str | None) -> None:
        """Take note that the whole table has been read.

        Args:
            newest_update: The newest `updateMoment` that was seen, as Actito gives it.
        """
        values: dict[str, Any] = {"complete": True}
        if newest_update is not None:
            values["newest_update"] = newest_update
        with self._engine.begin() as connection:
            connection.execute(self._own(sa.update(_SCANS), _SCANS).values(**values))
        self.complete = True

    def _own(self, statement: Any, table: sa.Table) -> Any:
        return statement.where(table.c.scope == self._scope)
