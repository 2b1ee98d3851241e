"""Profiles of the sandbox's Actito, stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from actito_didomi.sandbox import actito_tables as tables
from actito_didomi.sandbox.database import Database, dump

if TYPE_CHECKING:
    from datetime import datetime

    from actito_didomi.runtime import Runtime
    from actito_didomi.sandbox.options import SandboxOptions


class RefusedError(Exception):
    """A request that is refused, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Profiles:
    """Reads and changes profiles.

    Args:
        database: The database to keep them in.
        options: Behaviour where Actito's is unknown.
        runtime: Clock.
    """

    def __init__(self, database: Database, options: SandboxOptions, runtime: Runtime) -> None:
        self._db = database
        self._runtime = runtime
        self._options = options

    def find(self, table: dict[str, Any], key: str) -> int | None:
        """Return a profile's id by `profileId` or by `attribute=value`.

        Raises:
            RefusedError: The key has neither form, or the attribute isn't unique (400).
        """
        if key.isdecimal():
            return self._by_id(table, key)
        attribute, separator, value = key.partition("=")
        if not separator:
            raise RefusedError(400, "The profile key is neither a profileId nor attribute=value")
        return self.find_by(table, attribute, value)

    def find_by(self, table: dict[str, Any], attribute: str, value: Any) -> int | None:
        """Return a profile's id by a unique attribute.

        Raises:
            RefusedError: The attribute doesn't exist or isn't unique (400).
        """
        if attribute not in tables.unique_attributes(table):
            raise RefusedError(400, f"Attribute {attribute} does not exist or is not unique")
        if attribute == "profileId":
            return self._by_id(table, str(value))
        row = self._db.one(
            "SELECT profile_id FROM profile_key WHERE table_id = ? AND attribute = ? AND value = ?",
            table["id"],
            attribute,
            str(value),
        )
        return int(row[0]) if row else None

    def read(self, profile_id: int) -> dict[str, Any]:
        """Return one profile in the form of a response (the form is a guess)."""
        row = self._db.one(
            "SELECT id, attributes, subscriptions FROM profile WHERE id = ?", profile_id
        )
        if row is None:
            raise RefusedError(404, "No such profile")
        return _to_response(*row)

    def page(
        self, table: dict[str, Any], filters: dict[str, str], page: int, size: int
    ) -> tuple[int, list[dict[str, Any]]]:
        """Return the total and one page of profiles; filters compare attributes."""
        where, values = "table_id = ?", [table["id"]]
        since = filters.get("updateMoment", "")
        if self._options.knows_update_filter and since.startswith(">="):
            filters = {k: v for k, v in filters.items() if k != "updateMoment"}
            where += " AND json_extract(attributes, '$.updateMoment') >= ?"
            values.append(since.removeprefix(">="))
        for name, value in filters.items():
            where += " AND CAST(json_extract(attributes, ?) AS TEXT) = ?"
            values += [f'$."{name}"', value]
        counted = self._db.one(f"SELECT COUNT(*) FROM profile WHERE {where}", *values)  # noqa: S608
        rows = self._db.all(
            f"SELECT id, attributes, subscriptions FROM profile WHERE {where} "  # noqa: S608
            "ORDER BY id LIMIT ? OFFSET ?",
            *values,
            size,
            page * size,
        )
        return int(counted[0]) if counted else 0, [_to_response(*row) for row in rows]

    def create(
        self, table: dict[str, Any], attributes: dict[str, Any], subscriptions: dict[str, bool]
    ) -> int:
        """Create a profile.

        Raises:
            RefusedError: A value is wrong or a mandatory one is missing (400), or a unique one is
                taken (409).
        """
        attributes = self._checked(table, attributes, subscriptions)
        if missing := tables.missing_attributes(table, attributes):
            raise RefusedError(400, f"Mandatory attributes are missing: {', '.join(missing)}")
        self._check_unique(table, attributes, None)
        now = to_local_text(self._runtime.now())
        profile_id = self._db.run(
            "INSERT INTO profile (table_id, attributes, subscriptions) VALUES (?, ?, ?)",
            table["id"],
            "{}",
            dump({s["name"]: subscriptions.get(s["name"], False) for s in table["subscriptions"]}),
        )
        stored = {
            "profileId": profile_id,
            "creationMoment": now,
            "updateMoment": now,
            **{k: v for k, v in attributes.items() if v is not None},
        }
        self._store(table, profile_id, stored, None)
        return profile_id

    def change(
        self,
        table: dict[str, Any],
        profile_id: int,
        attributes: dict[str, Any],
        subscriptions: dict[str, bool],
        *,
        replace: bool = False,
    ) -> None:
        """Change a profile: only the given values, or with `replace` all attributes.

        Raises:
            RefusedError: A value is wrong (400), or a unique one belongs to another profile
                (409).
        """
        attributes = self._checked(table, attributes, subscriptions)
        self._check_unique(table, attributes, profile_id)
        row = self._db.one("SELECT attributes, subscriptions FROM profile WHERE id = ?", profile_id)
        if row is None:
            raise RefusedError(404, "No such profile")
        before, subscribed = json.loads(row[0]), json.loads(row[1])
        kept = {k: v for k, v in before.items() if k in tables.TECHNICAL} if replace else before
        after = {**kept, **attributes}
        after = {k: v for k, v in after.items() if v is not None}
        if missing := tables.missing_attributes(table, after):
            raise RefusedError(400, f"Mandatory attributes are missing: {', '.join(missing)}")
        if after != before or (
            self._options.subscription_moves_update_moment
            and {**subscribed, **subscriptions} != subscribed
        ):
            after["updateMoment"] = to_local_text(self._runtime.now())
        self._store(table, profile_id, after, {**subscribed, **subscriptions})

    def delete(self, profile_id: int) -> None:
        """Delete a profile."""
        self._db.run("DELETE FROM profile_key WHERE profile_id = ?", profile_id)
        self._db.run("DELETE FROM profile WHERE id = ?", profile_id)

    def _by_id(self, table: dict[str, Any], key: str) -> int | None:
        row = self._db.one("SELECT id FROM profile WHERE table_id = ? AND id = ?", table["id"], key)
        return int(row[0]) if row else None

    def _checked(
        self, table: dict[str, Any], attributes: dict[str, Any], subscriptions: dict[str, bool]
    ) -> dict[str, Any]:
        technical = tables.TECHNICAL & set(attributes)
        if technical and self._options.strict_technical:
            raise RefusedError(400, f"System attributes: {', '.join(sorted(technical))}")
        attributes = {k: v for k, v in attributes.items() if k not in technical}
        if problem := tables.check_attributes(table, attributes):
            raise RefusedError(400, problem)
        known = {s["name"] for s in table["subscriptions"]}
        for name, value in subscriptions.items():
            if name not in known:
                raise RefusedError(400, f"Unknown subscription {name}")
            if not isinstance(value, bool):
                raise RefusedError(400, f"Subscription {name}: must be a boolean")
        return attributes

    def _check_unique(
        self, table: dict[str, Any], attributes: dict[str, Any], own: int | None
    ) -> None:
        for name in tables.unique_attributes(table):
            value = attributes.get(name)
            if value is None:
                continue
            found = self.find_by(table, name, value)
            if found is not None and found != own:
                raise RefusedError(
                    self._options.conflict_status, f"{name} belongs to another profile"
                )

    def _store(
        self,
        table: dict[str, Any],
        profile_id: int,
        attributes: dict[str, Any],
        subscriptions: dict[str, bool] | None,
    ) -> None:
        if subscriptions is None:
            self._db.run(
                "UPDATE profile SET attributes = ? WHERE id = ?", dump(attributes), profile_id
            )
        else:
            self._db.run(
                "UPDATE profile SET attributes = ?, subscriptions = ? WHERE id = ?",
                dump(attributes),
                dump(subscriptions),
                profile_id,
            )
        self._db.run("DELETE FROM profile_key WHERE profile_id = ?", profile_id)
        for name in tables.unique_attributes(table):
            if name != "profileId" and attributes.get(name) is not None:
                self._db.run(
                    "INSERT INTO profile_key VALUES (?, ?, ?, ?)",
                    table["id"],
                    name,
                    str(attributes[name]),
                    profile_id,
                )


def _to_response(profile_id: int, attributes: str, subscriptions: str) -> dict[str, Any]:
    return {
        "profileId": profile_id,
        "attributes": json.loads(attributes),
        "subscriptions": json.loads(subscriptions),
        "segmentations": {},
    }


def to_local_text(timestamp: datetime) -> str:
    """Return a time in Actito's form."""
    return timestamp.strftime("%Y-%m-%d %H:%M:%S")
