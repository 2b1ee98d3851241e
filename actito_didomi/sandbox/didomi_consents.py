"""Consent events and users of the sandbox's Didomi, stored."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from actito_didomi.consent.records import parse_timestamp
from actito_didomi.sandbox.database import Database, dump
from actito_didomi.sandbox.didomi_state import empty_consents, merge_consents, merge_metadata

if TYPE_CHECKING:
    from actito_didomi.runtime import Runtime
    from actito_didomi.sandbox.options import SandboxOptions

DEFAULT_REGULATION = "gdpr"


class DuplicateEventError(Exception):
    """An event with this id exists."""


class Consents:
    """Stores events, and each user's state, which follows from the confirmed events.

    There is one user per regulation.

    Args:
        database: The database to keep them in.
        options: Behaviour where Didomi's is unknown.
        runtime: Clock, and what ids are drawn from.
    """

    def __init__(self, database: Database, options: SandboxOptions, runtime: Runtime) -> None:
        self._db = database
        self._options = options
        self._runtime = runtime

    def now(self) -> str:
        """Return the current time in Didomi's form."""
        return self._runtime.now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"

    def add_event(
        self, organization: str, posted: dict[str, Any], at: str | None = None
    ) -> dict[str, Any]:
        """Store an event; confirmed, it changes the user's state. Unknown users are created.

        Args:
            organization: Organisation id.
            posted: The event as posted.
            at: Time of arrival; None for now.

        Raises:
            DuplicateEventError: An event with this id exists.
        """
        at = at or self.now()
        user = dict(posted.get("user") or {})
        regulation = posted.get("regulation") or DEFAULT_REGULATION
        event_id = posted.get("id") or self._runtime.uuid()
        if self.find_event(organization, event_id):
            raise DuplicateEventError
        known = self._known_user(organization, user)
        user["id"] = known["id"] if known else user.get("id") or self._runtime.uuid()
        if known and known.get("organization_user_id") and not user.get("organization_user_id"):
            user["organization_user_id"] = known["organization_user_id"]
        event = {
            **{k: v for k, v in posted.items() if k not in {"proofs", "organization_id"}},
            "id": event_id,
            "organization_id": organization,
            "created_at": posted.get("created_at") or at,
            "updated_at": at,
            "regulation": regulation,
            "status": posted.get("status") or "confirmed",
            "user": user,
            "consents": {
                **(posted.get("consents") or {}),
                "vendors": (posted.get("consents") or {}).get("vendors") or {},
            },
        }
        self._db.run(
            "INSERT INTO consent_event "
            "(organization_id, id, user_id, regulation, created_at, body) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            organization,
            event_id,
            user["id"],
            regulation,
            event["created_at"],
            dump(event),
        )
        self.recompute(organization, user["id"], regulation, user, at)
        return event

    def find_event(self, organization: str, event_id: str) -> dict[str, Any] | None:
        """Return an event by its id, or None."""
        row = self._db.one(
            "SELECT body FROM consent_event WHERE organization_id = ? AND id = ?",
            organization,
            event_id,
        )
        return json.loads(row[0]) if row else None

    def events(
        self,
        organization: str,
        user_ids: list[str],
        *,
        statuses: list[str],
        regulations: list[str],
    ) -> list[dict[str, Any]]:
        """Return the events of users, in order of arrival."""
        found = []
        for user_id in user_ids:
            rows = self._db.all(
                "SELECT arrival, body FROM consent_event WHERE organization_id = ? "
                "AND user_id = ? ORDER BY arrival",
                organization,
                user_id,
            )
            found += [(arrival, json.loads(body)) for arrival, body in rows]
        return [
            event
            for _, event in sorted(found, key=lambda item: item[0])
            if event["status"] in statuses and event["regulation"] in regulations
        ]

    def change_event(
        self, organization: str, event: dict[str, Any], changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Change an event's status, consents, proofs or delegate, and the state that follows."""
        at = self.now()
        after = {**event, **changes, "updated_at": at}
        self._db.run(
            "UPDATE consent_event SET body = ? WHERE organization_id = ? AND id = ?",
            dump(after),
            organization,
            event["id"],
        )
        self.recompute(organization, event["user"]["id"], event["regulation"], {}, at)
        return after

    def delete_events(self, organization: str, events: list[dict[str, Any]]) -> None:
        """Delete events; the state becomes what it would be without them."""
        for event in events:
            self._db.run(
                "DELETE FROM consent_event WHERE organization_id = ? AND id = ?",
                organization,
                event["id"],
            )
        for user_id, regulation in {(e["user"]["id"], e["regulation"]) for e in events}:
            self.recompute(organization, user_id, regulation, {}, self.now())

    def recompute(
        self,
        organization: str,
        user_id: str,
        regulation: str,
        seen: dict[str, Any],
        at: str,
    ) -> None:
        """Compute a user's state again from the confirmed events."""
        row = self._db.one(
            "SELECT base, body FROM consent_user "
            "WHERE organization_id = ? AND id = ? AND regulation = ?",
            organization,
            user_id,
            regulation,
        )
        base = json.loads(row[0]) if row else {"consents": empty_consents(), "metadata": {}}
        before = json.loads(row[1]) if row else {}
        rows = self._db.all(
            "SELECT body FROM consent_event WHERE organization_id = ? AND user_id = ? "
            "AND regulation = ? ORDER BY arrival",
            organization,
            user_id,
            regulation,
        )
        events = [json.loads(body) for (body,) in rows]
        events = [e for e in events if e["status"] == "confirmed"]
        if not self._options.late_events_last:
            events.sort(key=lambda e: parse_timestamp(e["created_at"], "created_at"))
        consents, metadata = base["consents"], base["metadata"]
        for event in events:
            consents = merge_consents(consents, event["consents"])
            metadata = merge_metadata(metadata, event["user"].get("metadata"))
        person = before.get("organization_user_id") or seen.get("organization_user_id")
        after = {
            **before,
            "id": user_id,
            "organization_id": organization,
            **({"organization_user_id": person} if person else {}),
            "version": before.get("version", 0) + 1,
            "created_at": min(before.get("created_at", at), at),
            "updated_at": max(before.get("updated_at", at), at),
            "metadata": metadata,
            **{k: seen[k] for k in ("country", "last_seen_country") if seen.get(k)},
            "consents": consents,
        }
        self._store_user(organization, regulation, base, after)

    def add_user(self, organization: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Create a user without an event."""
        at = self.now()
        base = {
            "consents": merge_consents(empty_consents(), fields.get("consents") or {}),
            "metadata": fields.get("metadata") or {},
        }
        user = {
            "id": fields.get("id") or self._runtime.uuid(),
            "organization_id": organization,
            **{
                k: fields[k]
                for k in ("organization_user_id", "country", "last_seen_country")
                if fields.get(k)
            },
            "version": 1,
            "created_at": at,
            "updated_at": at,
            **base,
        }
        self._store_user(organization, DEFAULT_REGULATION, base, user)
        return user

    def change_user(
        self, organization: str, regulation: str, user: dict[str, Any], changes: dict[str, Any]
    ) -> dict[str, Any]:
        """Change a user's own fields; metadata is merged."""
        row = self._db.one(
            "SELECT base FROM consent_user WHERE organization_id = ? AND id = ? AND regulation = ?",
            organization,
            user["id"],
            regulation,
        )
        base = json.loads(row[0]) if row else {"consents": empty_consents(), "metadata": {}}
        base["metadata"] = merge_metadata(base["metadata"], changes.get("metadata"))
        base["consents"] = merge_consents(base["consents"], changes.get("consents") or {})
        fields = ("organization_user_id", "country", "last_seen_country")
        after = {
            **user,
            **{k: changes[k] for k in fields if k in changes},
            "metadata": merge_metadata(user.get("metadata") or {}, changes.get("metadata")),
            "consents": merge_consents(user["consents"], changes.get("consents") or {}),
            "version": user["version"] + 1,
            "updated_at": self.now(),
        }
        self._store_user(organization, regulation, base, after)
        return after

    def delete_user(self, organization: str, user_id: str) -> None:
        """Delete a user of all regulations, with the events."""
        for table, column in (("consent_event", "user_id"), ("consent_user", "id")):
            self._db.run(
                f"DELETE FROM {table} WHERE organization_id = ? AND {column} = ?",  # noqa: S608
                organization,
                user_id,
            )

    def users(
        self,
        organization: str,
        *,
        regulations: list[str],
        person: str | None = None,
        user_id: str | None = None,
        after: int = 0,
        limit: int = 1_000_000,
    ) -> list[tuple[int, dict[str, Any]]]:
        """Return users with their numbers, in order of creation."""
        marks = ",".join("?" * len(regulations))
        where, values = f"regulation IN ({marks})", [*regulations]
        if person is not None:
            where, values = f"{where} AND organization_user_id = ?", [*values, person]
        if user_id is not None:
            where, values = f"{where} AND id = ?", [*values, user_id]
        rows = self._db.all(
            f"SELECT number, body FROM consent_user WHERE organization_id = ? AND {where} "  # noqa: S608
            "AND number > ? ORDER BY number LIMIT ?",
            organization,
            *values,
            after,
            limit,
        )
        return [(number, json.loads(body)) for number, body in rows]

    def count_users(self, organization: str, regulations: list[str]) -> int:
        """Count the users of an organisation."""
        marks = ",".join("?" * len(regulations))
        row = self._db.one(
            f"SELECT COUNT(*) FROM consent_user WHERE organization_id = ? "  # noqa: S608
            f"AND regulation IN ({marks})",
            organization,
            *regulations,
        )
        return int(row[0]) if row else 0

    def dates(self, organization: str) -> list[str]:
        """Return the days with events, in order."""
        rows = self._db.all(
            "SELECT DISTINCT substr(created_at, 1, 10) FROM consent_event "
            "WHERE organization_id = ? AND regulation = 'gdpr' ORDER BY 1",
            organization,
        )
        return [row[0] for row in rows]

    def events_of_day(self, organization: str, day: str) -> list[dict[str, Any]]:
        """Return the GDPR events of one day, in order of arrival."""
        rows = self._db.all(
            "SELECT body FROM consent_event WHERE organization_id = ? AND regulation = 'gdpr' "
            "AND created_at >= ? AND created_at < ? ORDER BY arrival",
            organization,
            day,
            f"{day}U",  # sorts after every "<day>T..."
        )
        return [json.loads(row[0]) for row in rows]

    def _known_user(self, organization: str, user: dict[str, Any]) -> dict[str, Any] | None:
        """Return the user of an event: by Didomi id, else by organisation user id."""
        if user.get("id"):
            column, value = "id", user["id"]
        elif user.get("organization_user_id"):
            column, value = "organization_user_id", user["organization_user_id"]
        else:
            return None
        row = self._db.one(
            f"SELECT body FROM consent_user WHERE organization_id = ? AND {column} = ? "  # noqa: S608
            "ORDER BY number DESC LIMIT 1",
            organization,
            value,
        )
        return json.loads(row[0]) if row else None

    def _store_user(
        self, organization: str, regulation: str, base: dict[str, Any], body: dict[str, Any]
    ) -> None:
        self._db.run(
            "INSERT INTO consent_user "
            "(organization_id, id, regulation, organization_user_id, base, body) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (organization_id, id, regulation) DO UPDATE SET "
            "organization_user_id = excluded.organization_user_id, base = excluded.base, "
            "body = excluded.body",
            organization,
            body["id"],
            regulation,
            body.get("organization_user_id"),
            dump(base),
            dump(body),
        )
