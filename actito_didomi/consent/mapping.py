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
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from actito_didomi import codes
from actito_didomi.consent.choices import CHOICES, Path, split_answer
from actito_didomi.consent.conflicts import resolve_tie
from actito_didomi.errors import InvalidMappingError
from actito_didomi.tolerant import ODD_CHARACTER, is_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Mapping as MappingABC

logger = logging.getLogger(__name__)

Kind = Literal["subscription", "attribute"]

_MIN_PREFERENCE_PATH = 4
_NODES = ("channels", "purposes", "preferences")
_VALUE_PATH = 6
"""Parts of consents, purposes, PURPOSE, values, PREFERENCE, value."""
_MOST_PATHS = 50_000
"""Paths of which is remembered what names them: keys of metadata may be without number."""
_NOT_VALUE_IDS = frozenset({"value", "from_propagation"})


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One mapping, as it stands in the setting `mappings`.

    Attributes:
        id: Name of the subscription or attribute in Actito.
        value: Name of the consent path in Didomi, flattened with `_`.
        type: Whether `id` is a subscription or an attribute.
        invert: Whether true and false change places.
        path: The path itself, for ambiguous names; array elements by their `id`.
        may_be_silent: Whether it is well that no record holds a value for it.
    """

    id: Annotated[str, msgspec.Meta(min_length=1)]
    value: Annotated[str, msgspec.Meta(min_length=1)]
    type: Kind = "subscription"
    invert: bool = False
    path: Annotated[Path, msgspec.Meta(min_length=1)] | None = None
    may_be_silent: bool = False


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


def check_inverted(mappings: Sequence[Mapping], *, allowed: bool) -> None:
    """Check that most mappings are not inverted.

    Args:
        mappings: The mappings.
        allowed: Whether it is meant.

    Raises:
        InvalidMappingError: More than half of them are inverted.
    """
    inverted = [mapping.id for mapping in mappings if mapping.invert]
    if not allowed and len(inverted) * 2 > len(mappings):
        raise InvalidMappingError(
            codes.TOO_MANY_INVERTED,
            f"mappings: {len(inverted)} of {len(mappings)} are inverted: "
            f"{', '.join(inverted)}. An inverted mapping turns the field on for an opt-out in "
            "Didomi. Remove `invert`, or set allow_invert to true if this is meant.",
        )


def flatten(tree: MappingABC[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Walk a record and yield each leaf with its path.

    Arrays of objects with an `id` are keyed by it, taken as it is, and other elements among them
    are passed over (see `odd_nodes`); other arrays are leaves.
    """
    stack: list[tuple[Path, Any]] = [((), tree)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict) and not is_unreadable(node):
            stack.extend(((*path, str(key)), value) for key, value in node.items())
        elif isinstance(node, list) and (elements := _identified(node)):
            stack.extend(((*path, element["id"]), element) for element in elements)
        else:
            yield path, node


def odd_nodes(consents: MappingABC[str, Any]) -> Iterator[Path]:
    """Find the nodes of consents that are not as documented, and may hide a choice.

    Nodes must be lists of objects with an `id`; `enabled` must not hold objects or lists, answers
    must be texts, and keys must be readable.

    Returns:
        Their paths. What is readable in such a node is still read.
    """
    stack: list[tuple[Path, MappingABC[str, Any]]] = [(("consents",), consents)]
    while stack:
        path, node = stack.pop()
        if is_unreadable(node) or any(ODD_CHARACTER in key for key in node):
            yield path
        yield from _odd_answers(path, node.get("values"))
        for name in _NODES:
            below = node.get(name)
            if isinstance(below, list):
                elements = _identified(below)
                if len(elements) < len(below):
                    yield (*path, name)
                for element in elements:
                    own = (*path, name, element["id"])
                    if any(_is_odd_choice(element.get(key)) for key in CHOICES):
                        yield own
                    stack.append((own, element))
            elif below is not None and not _is_keyed(below):
                yield (*path, name)


def _is_odd_choice(value: Any) -> bool:
    """Return whether a choice holds others; one that is merely unreadable is a value."""
    return isinstance(value, (dict, list)) and not is_unreadable(value)


def _odd_answers(path: Path, values: Any) -> Iterator[Path]:
    """Find answers of the current format that can't be read, in both spellings of their path."""
    if not isinstance(values, dict):
        return
    for preference, answer in values.items():
        text = answer.get("value", "") if isinstance(answer, dict) else None
        if is_unreadable(text) or is_unreadable(answer):
            yield (*path, "values", preference)
            yield (*path, "preferences", preference)
    if is_unreadable(values) or any(ODD_CHARACTER in preference for preference in values):
        yield (*path, "values")
        yield (*path, "preferences")


def _identified(nodes: list[Any]) -> list[dict[str, Any]]:
    return [e for e in nodes if isinstance(e, dict) and isinstance(e.get("id"), str)]


def _is_keyed(node: Any) -> bool:
    """Return whether a node holds objects by their ids, another readable form."""
    return isinstance(node, dict) and all(isinstance(part, dict) for part in node.values())


def flat_name(path: Path) -> str:
    """Join a path to the name that a mapping's `value` is compared with."""
    return "_".join(path)


def show_path(path: Path) -> str:
    """Render a path for a person to read: `consents.purposes.news.enabled`."""
    return ".".join(path)


def alias_names(path: Path) -> Iterator[str]:
    """Yield the other spellings of a path that Didomi's published examples use.

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
    """A mapping that is ambiguous in a record.

    Attributes:
        mapping: The mapping.
        reason: What is unclear and what to do; holds no personal data.
        maybe_opt_out: Whether one of the readings is an opt-out.
    """

    mapping: Mapping
    reason: str
    maybe_opt_out: bool


class PathReading(NamedTuple):
    """Mappings for which a choice at a path counts, whatever else a record holds.

    Attributes:
        mappings: Their numbers.
        announced: Whether all warnings about the path have been logged.
    """

    mappings: tuple[int, ...]
    announced: bool


@dataclass
class Resolver:
    """Finds the choices that a record makes for a set of mappings: what their names mean.

    It remembers which warnings it has logged, which paths it has seen for which mapping, and which
    preferences and values.

    `resolve` reads a whole record. `read_path` and `read_answer` say the same of a single path,
    where that can be said without the rest of the record. It holds until `version` grows.

    Attributes:
        mappings: The mappings.
        version: Grows when it has learned something that changes how names are read.
    """

    mappings: Sequence[Mapping]
    version: int = 0
    _announced: set[tuple[str, Path]] = field(default_factory=set)
    _named: dict[Path, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    _places: dict[int, set[Path]] = field(default_factory=dict)
    _readings: dict[str, dict[Path, list[str]]] = field(default_factory=dict)
    _proven: dict[str, set[tuple[Path, str]]] = field(default_factory=dict)

    def resolve(self, tree: MappingABC[str, Any]) -> tuple[list[Found], list[Unclear]]:
        """Look all mappings up in one record in the user form.

        Absent and null choices give nothing: neither is a choice. Of a choice that stands there
        twice the opt-out counts.
        """
        exact: dict[int, list[tuple[Path, Any]]] = {}
        spelt: dict[int, list[tuple[Path, Any]]] = {}
        answers: dict[Path, list[str]] = {}
        for path, value in flatten(tree):
            for number, rank in self._names(path):
                (spelt if rank else exact).setdefault(number, []).append((path, value))
            if is_answer(path, value):
                chosen = split_answer(value)
                # Of an answer that is repeated, a value that is not in each is an opt-out.
                answers[path] = [v for v in answers.get(path, chosen) if v in chosen]
        found: list[Found] = []
        unclear: list[Unclear] = []
        for number, mapping in enumerate(self.mappings):
            if mapping.path is not None:
                hits = _at(tree, mapping.path)
            else:
                hits = (
                    exact.get(number)
                    or spelt.get(number)
                    or self._preference_value(mapping, answers)
                )
            self._note_places([(number, path) for path, _ in hits])
            hits = _merge_repeated(hits)
            if len(hits) > 1:
                unclear.append(_two_ways(mapping, hits))
            elif hits and hits[0][1] is not None:
                path, value = hits[0]
                self._announce(mapping, path)
                found.append(Found(mapping, path, value))
        return found, unclear

    @property
    def places_known(self) -> int:
        """How many paths have been seen at which a choice counts for a mapping."""
        return sum(map(len, self._places.values()))

    def places(self, number: int) -> frozenset[Path]:
        """Return the paths at which choices for a mapping have been seen."""
        return frozenset(self._places.get(number, ()))

    def read_path(self, path: Path) -> PathReading | None:
        """Return for which mappings a choice at this path counts.

        Returns:
            None where it depends on the rest of the record: a mapping was seen elsewhere, too.
        """
        if any(_is_entangled(path, mapping.path) for mapping in self.mappings if mapping.path):
            return None
        return self._note_places([(number, path) for number, _ in self._names(path)])

    def may_name_below(self, path: Path) -> bool:
        """Return whether a mapping may name something below a path that ends in a node's name."""
        below = (*path, "")
        starts = tuple({flat_name(below), *alias_names(below)})
        return any(
            mapping.value.startswith(starts)
            if mapping.path is None
            else mapping.path[: len(path)] == path
            for mapping in self.mappings
        )

    def read_answer(
        self, path: Path, answer: str
    ) -> tuple[list[tuple[int, Path, Any]], bool] | None:
        """Return what an answer to a preference says to which mappings.

        Args:
            path: Path of the answer; it ends in `value`.
            answer: Its text.

        Returns:
            For each mapping its number, the path and value found, and whether all warnings were
            logged; None where it depends on the rest of the record.
        """
        named = {number for number, _ in self._names(path)}
        chosen = split_answer(answer)
        meaning: list[tuple[int, Path, Any]] = []
        for number, mapping in enumerate(self.mappings):
            if number in named:
                meaning.append((number, path, answer))
            elif mapping.path is not None:
                if mapping.path[:-1] == path[:-1]:
                    meaning.append((number, mapping.path, mapping.path[-1] in chosen))
            elif not self._knows(mapping, path, chosen):
                return None
            else:
                meaning += [
                    (number, (*path[:-1], value_id), value_id in chosen)
                    for where, value_id in self._fitting(mapping)
                    if where == path
                ]
        reading = self._note_places([(number, where) for number, where, _ in meaning])
        return None if reading is None else (meaning, reading.announced)

    def _note_places(self, places: list[tuple[int, Path]]) -> PathReading | None:
        alone = announced = True
        for number, path in places:
            known = self._places.setdefault(number, set())
            if path not in known:
                known.add(path)
                self.version += len(known) == 2  # noqa: PLR2004 - until now there was one
            alone = alone and len(known) == 1
            announced = announced and self._is_announced(self.mappings[number], path)
        return PathReading(tuple(number for number, _ in places), announced) if alone else None

    def _names(self, path: Path) -> tuple[tuple[int, int], ...]:
        """Return the numbers of mappings that name a path: as it is (0) or otherwise spelt (1)."""
        named = self._named.get(path)
        if named is None:
            name, others = flat_name(path), set(alias_names(path))
            ranks = [
                (number, 0 if name == mapping.value else 1)
                for number, mapping in enumerate(self.mappings)
                if mapping.path is None and (mapping.value == name or mapping.value in others)
            ]
            ranks += [(n, 0) for n, mapping in enumerate(self.mappings) if mapping.path == path]
            if len(self._named) >= _MOST_PATHS:
                self._named.clear()
            named = self._named[path] = tuple(sorted(ranks))
        return named

    def _is_announced(self, mapping: Mapping, path: Path) -> bool:
        """Return whether there is nothing to log about a name that is read as this path."""
        one_value = len(path) == _VALUE_PATH and path[3] == "values" and path[5] != "value"
        return (
            mapping.path is not None
            or (flat_name(path) == mapping.value and not one_value)
            or (mapping.id, path) in self._announced
        )

    def _announce(self, mapping: Mapping, path: Path) -> None:
        """Warn, once for each path, where a name was read in another way than by flattening."""
        if not self._is_announced(mapping, path):
            self._announced.add((mapping.id, path))
            self.version += 1
            logger.warning(
                "Mapping %s: %r is read as %s.", mapping.id, mapping.value, show_path(path)
            )

    def _preference_value(
        self, mapping: Mapping, answers: dict[Path, list[str]]
    ) -> list[tuple[Path, Any]]:
        """Read a mapping as one value of a preference in the current format.

        The value is chosen when its id is in the comma list, and not chosen when the preference was
        answered without it. Of all preferences seen so far whose ids fit the name, the longest id
        is meant, unless a value was seen chosen that says otherwise.
        """
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
        """Return the answers and values that a mapping's name is read as, as far as is known."""
        readings = self._readings.get(mapping.id, {})
        fitting = self._proven.get(mapping.id) or {
            (path, v) for path, values in readings.items() for v in values
        }
        shortest = min((len(value_id) for _, value_id in fitting), default=0)
        return sorted(pair for pair in fitting if len(pair[1]) == shortest)

    def _knows(self, mapping: Mapping, path: Path, chosen: list[str]) -> bool:
        """Return whether an answer at this path teaches nothing new about a mapping."""
        values = self._readings.get(mapping.id, {}).get(path)
        if values is None:
            return not _value_ids(mapping.value, path)
        proven = self._proven.get(mapping.id, set())
        return all((path, v) in proven for v in values if v in chosen)


def is_answer(path: Path, text: Any) -> bool:
    """Return whether this is an answer to a preference in the current format."""
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


def _is_entangled(path: Path, other: Path) -> bool:
    """Return whether a mapping's path leads past a leaf at `path`, above or below it."""
    return path != other and (
        other[: len(path)] == path
        or path[: len(other)] == other
        or (path[-1] == "value" and "values" in other and path[:-1] == other[:-1])
    )


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
