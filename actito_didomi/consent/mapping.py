"""Mappings: which consent path of Didomi goes to which subscription or attribute of Actito.

A mapping names its path by one text, such as `consents_channels_email_enabled`. Ids may hold `_`
themselves, so a name is never split: each record is flattened, and whole names are compared. A
record is looked at in the **user form** (`organization_user_id`, `metadata_KEY`, `country`,
`consents_...` at the root), events as well.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from actito_didomi import codes
from actito_didomi.consent.choices import Path, split_answer
from actito_didomi.consent.conflicts import resolve_tie
from actito_didomi.errors import InvalidMappingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Mapping as MappingABC

logger = logging.getLogger(__name__)

Kind = Literal["subscription", "attribute"]

_MIN_PREFERENCE_PATH = 4
_VALUE_PATH = 6
"""Parts of consents, purposes, PURPOSE, values, PREFERENCE, value."""
_NOT_VALUE_IDS = frozenset({"value", "from_propagation"})


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One mapping, as it stands in the setting `mappings`.

    Attributes:
        id: Name of the subscription or attribute in Actito.
        value: Name of the consent path in Didomi, flattened with `_`.
        type: Whether `id` is a subscription or an attribute.
        invert: Whether true and false change places.
        path: The path itself, for ambiguous names; array elements by their `id`.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    value: Annotated[str, msgspec.Meta(min_length=1)]
    type: Kind = "subscription"
    invert: bool = False
    path: Annotated[Path, msgspec.Meta(min_length=1)] | None = None


def check_mappings(mappings: Sequence[Mapping]) -> None:
    """Check the setting `mappings` as a whole.

    Raises:
        InvalidMappingError: An `id` occurs twice.
    """
    for mapping in mappings:
        same = [m.value for m in mappings if m.id == mapping.id]
        if len(same) > 1:
            raise InvalidMappingError(
                codes.INVALID_MAPPING,
                f"mappings: the id {mapping.id!r} occurs {len(same)} times, for "
                f"{' and '.join(same)}. Each id may have one value; keep one of them.",
            )


def flatten(tree: MappingABC[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Walk a record and give each leaf with its path.

    Arrays of objects with an `id` are keyed by it, taken as it is; other arrays are leaves.
    """
    stack: list[tuple[Path, Any]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict):
            stack.extend(((*path, str(key)), value) for key, value in node.items())
        elif (
            isinstance(node, list)
            and node
            and all(isinstance(e, dict) and isinstance(e.get("id"), str) for e in node)
        ):
            stack.extend(((*path, element["id"]), element) for element in node)
        else:
            yield path, node


def flat_name(path: Path) -> str:
    """Join a path to the name that a mapping's `value` is compared with."""
    return "_".join(path)


def show_path(path: Path) -> str:
    """Render a path for a person to read: `consents.purposes.news.enabled`."""
    return ".".join(path)


def alias_names(path: Path) -> Iterator[str]:
    """Give the other spellings of a path that Didomi's published examples use.

    `channel` and `preference` in the singular, and a preference without its purpose.
    """
    if path[0] != "consents":
        return
    bases = [path]
    if len(path) > _MIN_PREFERENCE_PATH and path[1] == "purposes" and path[3] == "preferences":
        bases.append((path[0], *path[3:]))
    for base in bases:
        # Names of arrays stand at every second place; ids between them are never touched.
        spellings = [
            (part, part[:-1]) if at % 2 and part in {"channels", "preferences"} else (part,)
            for at, part in enumerate(base)
        ]
        for variant in itertools.product(*spellings):
            if variant != path:
                yield flat_name(variant)


@dataclass(frozen=True)
class Found:
    """A choice that a record makes.

    Attributes:
        mapping: The mapping that names it.
        path: Where it stands in the record.
        value: As it stands there; never None.
    """

    mapping: Mapping
    path: Path
    value: Any


@dataclass(frozen=True)
class Unclear:
    """A mapping that reads two ways in a record.

    Attributes:
        mapping: The mapping.
        reason: What is unclear and what to do; holds no personal data.
        maybe_opt_out: Whether one of the readings is an opt-out.
    """

    mapping: Mapping
    reason: str
    maybe_opt_out: bool


@dataclass
class Resolver:
    """Finds the choices that a record makes for a set of mappings.

    It remembers which readings it has told, and which preferences and values it has seen.

    Attributes:
        mappings: The mappings.
        version: Grows when it has learned something that changes how names are read.
    """

    mappings: Sequence[Mapping]
    version: int = 0
    _announced: set[tuple[str, Path]] = field(default_factory=set)
    _readings: dict[str, dict[Path, list[str]]] = field(default_factory=dict)
    _proven: dict[str, set[tuple[Path, str]]] = field(default_factory=dict)

    def resolve(self, tree: MappingABC[str, Any]) -> tuple[list[Found], list[Unclear]]:
        """Look all mappings up in one record in the user form.

        Absent and null choices give nothing: neither is a choice.
        """
        leaves = list(flatten(tree))
        names: dict[str, list[tuple[Path, Any]]] = {}
        for path, value in leaves:
            names.setdefault(flat_name(path), []).append((path, value))
        aliases: dict[str, list[tuple[Path, Any]]] | None = None
        found: list[Found] = []
        unclear: list[Unclear] = []
        for mapping in self.mappings:
            if mapping.path is not None:
                hits = _at(tree, mapping.path)
            else:
                hits = names.get(mapping.value, [])
                if not hits:
                    if aliases is None:
                        aliases = _aliases(leaves)
                    hits = aliases.get(mapping.value, [])
                if not hits:
                    hits = self._preference_value(mapping, leaves)
            hits = _merge_repeated(hits)
            if len(hits) > 1:
                unclear.append(_two_ways(mapping, hits))
            elif hits and hits[0][1] is not None:
                path, value = hits[0]
                self.announce(mapping, path)
                found.append(Found(mapping, path, value))
        return found, unclear

    def announce(self, mapping: Mapping, path: Path) -> None:
        """Warn, once a path, where a name was read in another way than by flattening."""
        one_value = len(path) == _VALUE_PATH and path[3] == "values" and path[5] != "value"
        if mapping.path is not None or (flat_name(path) == mapping.value and not one_value):
            return
        if (mapping.id, path) not in self._announced:
            self._announced.add((mapping.id, path))
            logger.warning(
                "Mapping %s: %r is read as %s.", mapping.id, mapping.value, show_path(path)
            )

    def _preference_value(
        self, mapping: Mapping, leaves: list[tuple[Path, Any]]
    ) -> list[tuple[Path, Any]]:
        """Read a mapping as one value of a preference in the current format.

        The value is chosen when its id is in the comma list, and not chosen when the preference was
        answered without it. Of all preferences seen so far whose ids fit the name, the longest id
        is meant, unless a value was seen chosen that says otherwise.
        """
        answers: dict[Path, list[str]] = {}
        for path, text in leaves:
            if _is_answer(path, text):
                chosen = split_answer(text)
                # Of an answer that is repeated, a value that is not in each is an opt-out.
                answers[path] = [v for v in answers.get(path, chosen) if v in chosen]
        readings = self._readings.setdefault(mapping.id, {})
        proven = self._proven.setdefault(mapping.id, set())
        for path, chosen in answers.items():
            if path not in readings:
                readings[path] = _value_ids(mapping.value, path)
                self.version += bool(readings[path])
            new = {(path, v) for v in readings[path] if v in chosen} - proven
            proven |= new
            self.version += bool(new)
        return [
            ((*path[:-1], value_id), value_id in answers[path])
            for path, value_id in self._fitting(mapping)
            if path in answers
        ]

    def _fitting(self, mapping: Mapping) -> list[tuple[Path, str]]:
        """Give the answers and values that a mapping's name is read as, by what is known so far."""
        readings = self._readings.get(mapping.id, {})
        fitting = self._proven.get(mapping.id) or {
            (path, v) for path, values in readings.items() for v in values
        }
        shortest = min((len(value_id) for _, value_id in fitting), default=0)
        return sorted(pair for pair in fitting if len(pair[1]) == shortest)

    def rank(self, mapping: Mapping, path: Path) -> int | None:
        """Tell how a mapping names a path: 0 as it is, 1 by another spelling, None not at all."""
        if mapping.path is not None:
            return 0 if mapping.path == path else None
        if flat_name(path) == mapping.value:
            return 0
        return 1 if mapping.value in alias_names(path) else None

    def knows(self, mapping: Mapping, path: Path, answer: str) -> bool:
        """Tell whether an answer at this path teaches nothing new about a mapping."""
        values = self._readings.get(mapping.id, {}).get(path)
        if values is None:
            return not _value_ids(mapping.value, path)
        proven = self._proven.get(mapping.id, set())
        chosen = split_answer(answer)
        return all((path, v) in proven for v in values if v in chosen)

    def read_answer(self, mapping: Mapping, path: Path, answer: str) -> list[tuple[Path, bool]]:
        """Read a mapping as one value of the preference answered at this path."""
        chosen = split_answer(answer)
        return [
            ((*path[:-1], value_id), value_id in chosen)
            for where, value_id in self._fitting(mapping)
            if where == path
        ]


def _is_answer(path: Path, text: Any) -> bool:
    return (
        len(path) == _VALUE_PATH
        and path[1] == "purposes"
        and path[3] == "values"
        and path[5] == "value"
        and isinstance(text, str)
    )


def _value_ids(name: str, path: Path) -> list[str]:
    """Read a mapping's name as a value of the preference at this path; usually one reading."""
    _, _, purpose, _, preference, _ = path
    stems = [(f"consents_purposes_{purpose}_values_{preference}_", "")]
    for word in ("preferences", "preference"):
        stems += [
            (f"consents_purposes_{purpose}_{word}_{preference}_values_", "_enabled"),
            (f"consents_{word}_{preference}_values_", "_enabled"),
        ]
    found = []
    for prefix, suffix in stems:
        if name.startswith(prefix) and name.endswith(suffix):
            value_id = name[len(prefix) : len(name) - len(suffix)]
            if value_id and value_id not in _NOT_VALUE_IDS:
                found.append(value_id)
    return found


def _aliases(leaves: list[tuple[Path, Any]]) -> dict[str, list[tuple[Path, Any]]]:
    names: dict[str, list[tuple[Path, Any]]] = {}
    for path, value in leaves:
        if path:
            for name in alias_names(path):
                names.setdefault(name, []).append((path, value))
    return names


def _at(tree: Any, path: Path) -> list[tuple[Path, Any]]:
    """Return what stands at a path that the user gave: several hits where an `id` is repeated.

    A path to a value of a preference ends in the value's id, in place of `value`.
    """
    nodes = [tree]
    for at, part in enumerate(path):
        below: list[Any] = []
        for node in nodes:
            if isinstance(node, list):
                below += [e for e in node if isinstance(e, dict) and e.get("id") == part]
            elif isinstance(node, dict) and part in node:
                below.append(node[part])
            elif isinstance(node, dict) and at == len(path) - 1 and "values" in path:
                answer = node.get("value")
                if isinstance(answer, str):
                    below.append(part in split_answer(answer))
        nodes = below
    return [(path, node) for node in nodes]


def _merge_repeated(hits: list[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """Return one hit where a record repeats a choice: the opt-out, if one of them is.

    Other values that differ stay apart, and so do different paths.
    """
    values = [value for _, value in hits if value is not None]
    if len(hits) < 2 or len({path for path, _ in hits}) > 1:  # noqa: PLR2004 - repeated or not
        return hits
    path, merged = hits[0][0], values[0] if values else None
    for value in values[1:]:
        if isinstance(value, bool) and isinstance(merged, bool):
            merged = resolve_tie(merged, value)
        elif type(value) is not type(merged) or value != merged:
            return hits
    return [(path, merged)]


def _two_ways(mapping: Mapping, hits: list[tuple[Path, Any]]) -> Unclear:
    if len({path for path, _ in hits}) == 1:
        return Unclear(
            mapping,
            f"{mapping.value}: the record has different values at {show_path(hits[0][0])}. "
            "Expected one value, or only true and false.",
            maybe_opt_out=hits[0][0][0] == "consents",
        )
    paths = " and ".join(show_path(path) for path, _ in hits)
    return Unclear(
        mapping,
        f"{mapping.value} fits {paths}. Give the mapping the `path` that is meant, such as "
        f"{list(hits[0][0])}.",
        maybe_opt_out=any(value is False for _, value in hits),
    )
