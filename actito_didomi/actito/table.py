"""Structure of a profile table, and the check that it is the one the settings speak of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito import _wire
from actito_didomi.errors import RequestRejectedError, SettingsError

if TYPE_CHECKING:
    from actito_didomi.actito.values import ValueType
    from actito_didomi.http import ApiSession

TECHNICAL_ATTRIBUTES = frozenset(
    {
        "profileId",
        "creationMoment",
        "updateMoment",
        "lastMailTargetingMoment",
        "lastMailActivityStatus",
        "lastMailOpeningMoment",
        "lastMailClickMoment",
        "lastDevice",
        "lastUserAgent",
        "blacklistMoment",
    }
)
"""Attributes that Actito keeps itself (documented); they are never written."""

_NOT_FOUND = 404


@dataclass(frozen=True)
class Attribute:
    """An attribute of a profile table.

    Attributes:
        name: Technical name, case-sensitive.
        type: Type of its values.
        unique: Whether it can be a key.
        mandatory: Whether a new profile needs it.
        max_length: Longest text, in characters; None where nothing says so.
        multi_valued: Whether it holds a list; such attributes are not written.
    """

    name: str
    type: ValueType
    unique: bool = False
    mandatory: bool = False
    max_length: int | None = None
    multi_valued: bool = False

    @property
    def writable(self) -> bool:
        """Whether metadata and mappings may write it."""
        return self.name not in TECHNICAL_ATTRIBUTES and not self.multi_valued


@dataclass(frozen=True)
class TableStructure:
    """A profile table: its attributes and subscriptions.

    Attributes:
        entity: Name of the entity.
        id: Technical id; a text.
        name: Name of the table.
        attributes: By name.
        subscriptions: Names.
        segmentations: Names.
    """

    entity: str
    id: str
    name: str
    attributes: dict[str, Attribute]
    subscriptions: tuple[str, ...]
    segmentations: tuple[str, ...] = ()

    @property
    def key(self) -> dict[str, str]:
        """Values of the placeholders in routes that lead to this table."""
        return {"entity": self.entity, "table": self.id}


def read_table(session: ApiSession, entity: str, table: str, key: str) -> TableStructure:
    """Read a table's structure, and check that entity, table and key attribute are usable.

    Args:
        session: Session with Actito.
        entity: Name of the entity.
        table: Name or id of the table.
        key: Attribute that people are matched by.

    Raises:
        SettingsError: Entity, table or attribute don't exist, or the attribute isn't unique;
            the message lists those that do.
    """
    names = _entities(session)
    if names and entity not in names:
        raise SettingsError(
            codes.UNKNOWN_ENTITY,
            f"entity_id: Actito has no entity {entity!r} for this key. "
            f"It has: {', '.join(names)}. Entities are given by name.",
        )
    try:
        tables = _tables(session, entity)
    except RequestRejectedError as error:
        if error.status != _NOT_FOUND:
            raise
        raise SettingsError(
            codes.UNKNOWN_ENTITY,
            f"entity_id: Actito doesn't know the entity {entity!r}, or the key may not read its "
            "tables.",
        ) from None
    found = next((t for t in tables if table in (str(t.get("id")), t.get("name"))), None)
    if found is None:
        known = ", ".join(f"{t.get('name')} (id {t.get('id')})" for t in tables) or "none"
        raise SettingsError(
            codes.UNKNOWN_TABLE,
            f"table_name: the entity {entity!r} has no profile table {table!r}. It has: {known}.",
        )
    structure = _structure(session, entity, found)
    attribute = structure.attributes.get(key)
    if attribute is None or not attribute.unique:
        unique = ", ".join(a.name for a in structure.attributes.values() if a.unique) or "none"
        problem = "does not exist" if attribute is None else "is not unique"
        raise SettingsError(
            codes.UNSUITABLE_KEY,
            f"user_unique_key: the attribute {key!r} {problem} in table {structure.name!r}. "
            f"Unique attributes there: {unique}.",
        )
    return structure


def find_only_table(session: ApiSession, entity: str | None, table: str | None) -> TableStructure:
    """Read the structure of the one table that the key sees, for discovery.

    Args:
        session: Session with Actito.
        entity: Name of the entity, where it is known.
        table: Name or id of the table, where it is known.

    Raises:
        SettingsError: It sees none or several; the message lists them.
    """
    entities = [entity] if entity else _entities(session)
    found = [
        (name, known)
        for name in entities
        for known in _tables(session, name)
        if table in (None, str(known.get("id")), known.get("name"))
    ]
    if len(found) != 1:
        shown = ", ".join(f"{n}/{t.get('name')}" for n, t in found) or "none"
        raise SettingsError(
            codes.AMBIGUOUS_TABLE,
            f"entity_id and table_name: the key sees {len(found)} profile tables ({shown}); say "
            "which one is meant.",
        )
    return _structure(session, *found[0])


def _tables(session: ApiSession, entity: str) -> list[dict[str, Any]]:
    return _wire.tables_of(session.request("GET", _wire.TABLES, {"entity": entity}).body)


def _structure(session: ApiSession, entity: str, table: dict[str, Any]) -> TableStructure:
    values = {"entity": entity, "table": str(table["id"])}
    return parse_structure(entity, session.request("GET", _wire.TABLE, values).body)


def _entities(session: ApiSession) -> list[str]:
    """List the entities' names; empty when the key may not see them."""
    try:
        body = session.request("GET", _wire.ENTITIES).body
    except RequestRejectedError:
        return []
    found = body.get("entities", []) if isinstance(body, dict) else []
    return [str(e["name"]) for e in found if isinstance(e, dict) and "name" in e]


def parse_structure(entity: str, body: Any) -> TableStructure:
    """Turn the answer about one table into a `TableStructure`; unknown fields are ignored.

    Raises:
        SettingsError: The answer is no structure of a table.
    """
    if not isinstance(body, dict) or "attributes" not in body:
        raise SettingsError(
            codes.UNEXPECTED_RESPONSE,
            "table_name: Actito's response about the table holds no attributes. Check `api_url`, "
            "and that the key may read the structure of tables.",
        )
    attributes = {
        a["name"]: Attribute(
            name=a["name"],
            type=_wire.value_type(a),
            unique=bool(a.get("unique")),
            mandatory=bool(a.get("mandatory")),
            max_length=(a.get("valueRestriction") or {}).get("maxLength"),
            multi_valued=bool(a.get("multiValued")),
        )
        for a in body["attributes"]
    }
    return TableStructure(
        entity=entity,
        id=str(body["id"]),
        name=str(body.get("name", body["id"])),
        attributes=attributes,
        subscriptions=tuple(_wire.subscriptions_of(body)),
        segmentations=tuple(_wire.segmentations_of(body)),
    )
