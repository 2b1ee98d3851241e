"""The ids of purposes, preferences and values that exist, by Didomi's configuration tree. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from actito_didomi.consent.choices import CHOICES, is_value
from actito_didomi.consent.mapping import flat_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.mapping import Mapping as ConsentMapping

_MOST_NEAR = 3
_KINDS = {
    "purposes": "purpose",
    "preferences": "preference",
    "values": "preference",
    "channels": "channel",
}
"""What ids below a node are."""
_PREFERENCE_NODES = ("values", "preferences", "preference")
_NODES = (*_PREFERENCE_NODES, "channels", "channel", "metadata")


class UnknownId(NamedTuple):
    """An id that the tree should hold and doesn't.

    Attributes:
        kind: `purpose`, `preference` or `value`.
        id: The id.
        nearest: The most similar ids that there are.
    """

    kind: str
    id: str
    nearest: tuple[str, ...]

    def to_text(self) -> str:
        """Return what is wrong, in words."""
        near = f" (there are: {', '.join(self.nearest)})" if self.nearest else ""
        return f"Didomi's configuration tree has no {self.kind} {self.id!r}{near}"


class UnknownName(NamedTuple):
    """A mapping whose name can't stand for anything in the tree.

    Attributes:
        mapping: The mapping.
        nearest: The most similar names that the tree has.
    """

    mapping: ConsentMapping
    nearest: tuple[str, ...]

    def to_text(self) -> str:
        """Return what is wrong, in words."""
        near = f" Similar names: {', '.join(self.nearest)}." if self.nearest else ""
        return (
            f"mappings: {self.mapping.id!r} has the value {self.mapping.value!r}, which Didomi's "
            f"configuration tree doesn't hold.{near}"
        )


@dataclass(frozen=True)
class KnownIds:
    """The ids of a tree. What it doesn't cover, such as channels and vendors, is never unknown.

    Attributes:
        purposes: Ids of purposes; empty if nothing is known.
        values: Ids of preferences, each with the ids of its values.
        single_choice: Preferences that allow a single value.
    """

    purposes: frozenset[str] = frozenset()
    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    single_choice: frozenset[str] = frozenset()

    @classmethod
    def read(cls, tree: Any) -> KnownIds:
        """Read a tree, of which only the nesting is documented.

        The id that events carry may also stand in `namespaces` of a purpose (inferred).

        Args:
            tree: A tree or a list of trees, as Didomi's API returns it.
        """
        purposes: set[str] = set()
        values: dict[str, frozenset[str]] = {}
        single: set[str] = set()
        for node in _objects_in(tree):
            purpose, preference = node.get("purpose"), node.get("preference")
            if isinstance(purpose, dict) or "purpose_id" in node:
                purposes |= _purpose_ids(node)
            if isinstance(preference, dict) and preference.get("id") is not None:
                found = str(preference["id"])
                below = preference.get("values")
                ids = {_id_of(value) for value in below} if isinstance(below, list) else set()
                values[found] = values.get(found, frozenset()) | (ids - {""})
                if preference.get("type") == "single":
                    single.add(found)
        return cls(frozenset(purposes - {""}), values, frozenset(single))

    def find_unknown(
        self, path: Path, seen: Collection[tuple[str, str]] = frozenset()
    ) -> UnknownId | None:
        """Return the id in the path of a choice that doesn't exist; None if all do, or may.

        Args:
            path: The path.
            seen: Ids that Didomi holds choices of, as `ids_in` returns them: a former purpose is
                no longer in the tree.
        """
        if not self.purposes:
            return None
        for kind, found in ids_in(path):
            if kind == "purpose":
                known: Collection[str] = self.purposes
            elif kind == "preference":
                known = self.values
            elif kind == "value":
                known = self.values.get(path[4], ())
            else:
                continue
            if known and found not in known and (kind, found) not in seen:
                return UnknownId(kind, found, _nearest(found, known))
        return None

    def find_unknown_names(self, mappings: Sequence[ConsentMapping]) -> list[UnknownName]:
        """Return the mappings whose name or path can't stand for anything in the tree."""
        return [
            UnknownName(mapping, _nearest(mapping.value, list(self.names())))
            for mapping in mappings
            if not self._may_name(mapping)
        ]

    def _may_name(self, mapping: ConsentMapping) -> bool:
        name = mapping.value if mapping.path is None else flat_name(mapping.path)
        if mapping.path is not None and self.find_unknown(mapping.path) is not None:
            return False
        if not self.purposes:
            return True
        for node in ("preferences", "preference"):
            if name.startswith(f"consents_{node}_"):
                return self._may_name_preference(name[len(f"consents_{node}_") :])
        if not name.startswith("consents_purposes_"):
            return True
        rest = name[len("consents_purposes_") :]
        return any(
            self._may_name_below(rest[len(purpose) + 1 :])
            for purpose in self.purposes
            if rest.startswith(f"{purpose}_")
        )

    def _may_name_below(self, rest: str) -> bool:
        """Return whether something below a purpose has the rest of a name."""
        if rest in CHOICES:
            return True
        for node in _NODES:
            if rest.startswith(f"{node}_"):
                below = rest[len(node) + 1 :]
                return node not in _PREFERENCE_NODES or self._may_name_preference(below)
        return False

    def _may_name_preference(self, rest: str) -> bool:
        """Return whether something at or below a preference has the rest of a name."""
        if not self.values:
            return True
        for preference, values in self.values.items():
            if not rest.startswith(f"{preference}_"):
                continue
            below = rest[len(preference) + 1 :]
            if below == "value" or not values or below.startswith(("channels_", "channel_")):
                return True
            if below in CHOICES or below in values:
                return True
            if any(below == f"values_{value}_enabled" for value in values):
                return True
        return False

    def names(self) -> Iterator[str]:
        """Yield the usual names of all choices in the tree."""
        for purpose in sorted(self.purposes):
            yield f"consents_purposes_{purpose}_enabled"
            for preference, values in self.values.items():
                stem = f"consents_purposes_{purpose}_values_{preference}"
                yield f"{stem}_value"
                for value in sorted(values):
                    yield f"{stem}_{value}"


def ids_in(path: Path) -> list[tuple[str, str]]:
    """Return the ids in the path of a choice, each with its kind, such as `purpose`."""
    found = [
        (_KINDS[node], id_)
        for node, id_ in zip(path[1::2], path[2::2], strict=False)
        if node in _KINDS
    ]
    return [*found, ("value", path[-1])] if is_value(path) else found


def _objects_in(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield all objects in a tree, at any depth."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _purpose_ids(node: Mapping[str, Any]) -> set[str]:
    purpose = node.get("purpose")
    ids = {str(node.get("purpose_id") or "")}
    if isinstance(purpose, dict):
        namespaces = purpose.get("namespaces")
        ids.add(_id_of(purpose))
        if isinstance(namespaces, dict):
            ids |= {str(name) for name in namespaces.values() if isinstance(name, (str, int))}
    return ids


def _id_of(node: Any) -> str:
    return str(node.get("id") or "") if isinstance(node, dict) else ""


def _nearest(name: str, names: Collection[str]) -> tuple[str, ...]:
    return tuple(difflib.get_close_matches(name, sorted(names), n=_MOST_NEAR, cutoff=0.5))
