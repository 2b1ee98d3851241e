"""Structure of a profile table, and the check that it is the one the settings speak of."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito.session import unexpected
from actito_didomi.errors import RequestRejectedError, SettingsError
from actito_didomi.privacy import shape_of

if TYPE_CHECKING:
    from actito_didomi.actito._wire import TableFacts
    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.actito.values import ValueType

logger = logging.getLogger(__name__)

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
        problem: Why nothing is known of the table's subscriptions; None if they are known.
    """

    entity: str
    id: str
    name: str
    attributes: dict[str, Attribute]
    subscriptions: tuple[str, ...]
    segmentations: tuple[str, ...] = ()
    problem: str | None = None

    def require_subscriptions(self) -> None:
        """Check that the table's subscriptions are known.

        Raises:
            SettingsError: They aren't.
        """
        if self.problem is not None:
            raise SettingsError(codes.UNEXPECTED_RESPONSE, self.problem)

    @property
    def key(self) -> dict[str, str]:
        """Values of the placeholders in routes that lead to this table."""
        return {"entity": self.entity, "table": self.id}


def read_table(session: ActitoSession, entity: str, table: str, key: str) -> TableStructure:
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
        found = session.facts.tables.known_table(table)
        tables = [found] if found else _tables(session, entity)
    except RequestRejectedError as error:
        if error.status != _NOT_FOUND:
            raise
        raise SettingsError(
            codes.UNKNOWN_ENTITY,
            f"entity_id: Actito doesn't know the entity {entity!r}, or the key may not read its "
            "tables.",
        ) from None
    found = next((known for known in tables if table in known), None)
    if found is None:
        shown = ", ".join(f"{name} (id {number})" for number, name in tables) or "none"
        raise SettingsError(
            codes.UNKNOWN_TABLE,
            f"table_name: the entity {entity!r} has no profile table {table!r}. It has: {shown}.",
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


def find_only_table(
    session: ActitoSession, entity: str | None, table: str | None
) -> TableStructure:
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
        if table is None or table in known
    ]
    if len(found) != 1:
        shown = ", ".join(f"{entity}/{name}" for entity, (_, name) in found) or "none"
        raise SettingsError(
            codes.AMBIGUOUS_TABLE,
            f"entity_id and table_name: the key sees {len(found)} profile tables ({shown}); say "
            "which one is meant.",
        )
    return _structure(session, *found[0])


def _tables(session: ActitoSession, entity: str) -> list[tuple[str, str]]:
    """Return id and name of each table of an entity.

    Raises:
        SettingsError: The response must be a list of tables, and isn't.
    """
    facts = session.facts
    body = session.request("GET", facts.paths.tables, {"entity": entity}).body
    found = facts.tables.tables_of(body)
    if found is None:
        names = " or ".join(f"`{name}`" for name in facts.tables.lists)
        expected = (
            f"a list of objects with `{facts.tables.id}`, or an object with such a list as {names}"
        )
        raise SettingsError(
            codes.UNEXPECTED_RESPONSE, unexpected("the profile tables", expected, body)
        )
    return found


def _structure(session: ActitoSession, entity: str, table: tuple[str, str]) -> TableStructure:
    values = {"entity": entity, "table": table[0]}
    body = session.request("GET", session.facts.paths.table, values).body
    return parse_structure(session.facts.tables, entity, table, body)


def _entities(session: ActitoSession) -> list[str]:
    """List the entities' names; empty when the key may not see them, or the response is odd."""
    facts = session.facts
    try:
        body = session.request("GET", facts.paths.entities).body
    except RequestRejectedError:
        return []
    found = facts.tables.entities_of(body)
    if found is None:
        expected = (
            f"an object with a list `{facts.tables.entities}` of objects with "
            f"`{facts.tables.entity_name}`"
        )
        logger.warning(
            "%s: %s entity_id isn't checked.",
            codes.UNEXPECTED_RESPONSE,
            unexpected("the entities", expected, body),
        )
    return found or []


def parse_structure(
    facts: TableFacts, entity: str, table: tuple[str, str], body: Any
) -> TableStructure:
    """Turn the response about one table into a `TableStructure`; unknown fields are ignored.

    Args:
        facts: Names of its fields.
        entity: Name of the entity.
        table: Id and name of the table.
        body: The response. Where it doesn't list subscriptions, that is logged: only who needs
            them can't go on.

    Raises:
        SettingsError: It is no structure of a table.
    """
    found = facts.attributes_of(body)
    if found is None:
        expected = (
            f"an object with a list `{facts.attributes}` of objects with `{facts.attribute_name}`"
        )
        raise SettingsError(
            codes.UNEXPECTED_RESPONSE,
            unexpected("the structure of the table (table_name)", expected, body),
        )
    attributes = [
        Attribute(
            name=a[facts.attribute_name],
            type=facts.value_type(a),
            unique=bool(a.get(facts.attribute_unique)),
            mandatory=bool(a.get(facts.attribute_mandatory)),
            max_length=facts.max_length(a),
            multi_valued=bool(a.get(facts.attribute_multi_valued)),
        )
        for a in found
    ]
    subscriptions = facts.subscriptions_of(body)
    problem = None
    if subscriptions is None:
        problem = (
            f"table_name: Actito's structure of the table must have a list `{facts.subscriptions}` "
            f"of names, or of objects with `{facts.subscription_name}`, and is {shape_of(body)}. "
            "List the table's subscriptions, or name the list, in a file of facts (`facts_path`)."
        )
        logger.warning("%s: %s", codes.UNEXPECTED_RESPONSE, problem)
    return TableStructure(
        entity=entity,
        id=table[0],
        name=table[1],
        attributes={attribute.name: attribute for attribute in attributes},
        subscriptions=tuple(subscriptions or ()),
        segmentations=tuple(facts.segmentations_of(body) or ()),
        problem=problem,
    )
