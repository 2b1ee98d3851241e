"""INFERRED: what is guessed about Actito's wire format, all of it, and nothing else.

Actito publishes no file that a program could check this against. Each item names its ground. When a
guess turns out wrong, this is the module to change; the sandbox has a switch for those that matter.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from actito_didomi.actito.values import ValueType

ENTITIES = "/entities/v5/entities"
"""Documented."""

CREATED = 201
"""Inferred: PUT answers 201 when it created, 200 or 204 when it updated."""

METHOD_UNKNOWN = frozenset({405, 501})
"""Documented as general statuses; that a server without PATCH answers so is inferred."""


def profile_tables(entity: str) -> str:
    """Path of the structures of an entity's profile tables (documented)."""
    name = quote(entity, safe="")
    return f"/profile-table-structure/v5/entities/{name}/profile-tables"


def profiles(entity: str, table_id: str) -> str:
    """Path of a table's profiles (seen in a client; the prefix is documented).

    Tables are addressed by id, as documented for V5; names work too in clients that were seen.
    """
    return (
        f"/profiles/v5/entities/{quote(entity, safe='')}/profile-tables/{quote(table_id, safe='')}"
        "/profiles"
    )


def profile(entity: str, table_id: str, attribute: str, value: str) -> str:
    """Path of one profile, by a unique attribute.

    `attribute=value` is documented for V4 and shares its placeholder with V5. That the value is
    percent-encoded as a whole is inferred: without that no `/`, `+` or `%` would get through.
    """
    key = f"{quote(attribute, safe='')}={quote(value, safe='')}"
    return f"{profiles(entity, table_id)}/{key}"


def patch_body(attributes: dict[str, Any], subscriptions: dict[str, bool]) -> dict[str, Any]:
    """Body of a PATCH: only what changes.

    The general rule is documented: fields given change, others stay. That the sections are called
    as in PUT is inferred.
    """
    body: dict[str, Any] = {}
    if attributes:
        body["attributes"] = attributes
    if subscriptions:
        body["subscriptions"] = subscriptions
    return body


def put_body(
    key: str, value: Any, attributes: dict[str, Any], subscriptions: dict[str, bool]
) -> dict[str, Any]:
    """Body of a create-or-update (seen in a client, which repeats the key among the attributes)."""
    repeated = {} if key == "profileId" else {key: value}
    return {
        "key": {key: value},
        "attributes": {**repeated, **attributes},
        "subscriptions": subscriptions,
    }


def tables_of(body: Any) -> list[dict[str, Any]]:
    """Unpack the list of tables: `{"profileTables": [...]}` (inferred), or a bare list."""
    if isinstance(body, dict):
        body = body.get("profileTables", body.get("tables", []))
    return [t for t in body if isinstance(t, dict)] if isinstance(body, list) else []


def subscriptions_of(table: dict[str, Any]) -> list[str]:
    """Unpack a structure's subscriptions: `[{"name": ...}]` (inferred), or bare names."""
    found = table.get("subscriptions") or []
    return [s["name"] if isinstance(s, dict) else str(s) for s in found]


def attributes_of(profile_body: Any) -> dict[str, Any]:
    """Unpack the attributes of a profile that was read.

    Inferred: a flat object under `attributes`; V4's list of `{name, value}` is read as well.
    """
    found = profile_body.get("attributes", {}) if isinstance(profile_body, dict) else {}
    if isinstance(found, list):
        return {a["name"]: a.get("value") for a in found}
    return dict(found)


_BY_SEMANTIC_TYPE = {
    "BIRTHDATE": ValueType.DATE,
    "MARKETING_CONSENT": ValueType.BOOLEAN,
}
_BY_VALUE_TYPE = {
    "INTEGER": ValueType.INTEGER,
    "LONG": ValueType.INTEGER,
    "DECIMAL": ValueType.DECIMAL,
    "FLOAT": ValueType.DECIMAL,
    "DOUBLE": ValueType.DECIMAL,
    "NUMERIC": ValueType.DECIMAL,
    "BOOLEAN": ValueType.BOOLEAN,
    "DATE": ValueType.DATE,
    "TIMESTAMP": ValueType.TIMESTAMP,
    "DATETIME": ValueType.TIMESTAMP,
    "STRING": ValueType.STRING,
}


def value_type(attribute: dict[str, Any]) -> ValueType:
    """Tell the type of an attribute.

    `INTEGER`, `TIMESTAMP` and `STRING` were seen; the other words are guesses, and an unknown one
    counts as text. `marketingConsent` is documented as a predefined boolean attribute; the word of
    its semantic type was not seen, so it is told by its name.
    """
    if attribute.get("name") == "marketingConsent":
        return ValueType.BOOLEAN
    if named := attribute.get("valueType"):
        return _BY_VALUE_TYPE.get(str(named).upper(), ValueType.STRING)
    return _BY_SEMANTIC_TYPE.get(str(attribute.get("type", "")).upper(), ValueType.STRING)
