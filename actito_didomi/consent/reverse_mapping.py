"""Mappings read backwards: from a subscription or attribute of Actito to a choice in Didomi.

Names are never split on the way to Actito, since ids may hold `_`; on the way back the path must be
known. It is taken from the name where that reads one way only, else from the mapping's `path`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actito_didomi import codes
from actito_didomi.consent.mapping import show_path
from actito_didomi.errors import InvalidMappingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.mapping import Mapping

_FORMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("consents_channels?_(.+)_enabled", ("channels", "0", "enabled")),
    ("consents_purposes_(.+)_enabled", ("purposes", "0", "enabled")),
    ("consents_purposes_(.+)_enabled_li", ("purposes", "0", "enabled_li")),
    (
        "consents_purposes_(.+)_channels?_(.+)_enabled",
        ("purposes", "0", "channels", "1", "enabled"),
    ),
    (
        "consents_purposes_(.+)_preferences?_(.+)_enabled",
        ("purposes", "0", "preferences", "1", "enabled"),
    ),
    (
        "consents_purposes_(.+)_preferences?_(.+)_channels?_(.+)_enabled",
        ("purposes", "0", "preferences", "1", "channels", "2", "enabled"),
    ),
    ("consents_purposes_(.+)_values_(.+)_(.+)", ("purposes", "0", "values", "1", "2")),
    (
        "consents_purposes_(.+)_preferences?_(.+)_values_(.+)_enabled",
        ("purposes", "0", "values", "1", "2"),
    ),
)
"""How names are made, and the paths they stand for; digits stand for ids."""


@dataclass(frozen=True)
class ReverseMapping:
    """A mapping read backwards.

    Attributes:
        mapping: The mapping.
        path: Where its choice stands; a path to a value of a preference ends in the value's id.
    """

    mapping: Mapping
    path: Path

    def choice(self, value: bool) -> bool:
        """Give the choice that a value in Actito stands for."""
        return value is not self.mapping.invert


def reverse_mappings(mappings: Sequence[Mapping]) -> dict[tuple[str, str], ReverseMapping]:
    """Read mappings backwards.

    Args:
        mappings: The mappings, in which no `id` occurs twice.

    Returns:
        A way for each kind and name of Actito's.

    Raises:
        InvalidMappingError: A mapping can't be read backwards, or two lead to one path.
    """
    ways: dict[Path, ReverseMapping] = {}
    for mapping in mappings:
        way = ReverseMapping(mapping, _path_of(mapping))
        if other := ways.get(way.path):
            raise InvalidMappingError(
                codes.INVALID_MAPPING,
                f"mappings: {other.mapping.id!r} ({other.mapping.value}) and {mapping.id!r} "
                f"({mapping.value}) both stand for {show_path(way.path)}. On the way back one path "
                "may have one source: take one of them out of tap-actito's mappings.",
            )
        ways[way.path] = way
    return {(way.mapping.type, way.mapping.id): way for way in ways.values()}


def _path_of(mapping: Mapping) -> Path:
    where = f"mappings, {mapping.id!r} ({mapping.value})"
    if mapping.path is not None:
        path = _without_spelling(mapping.path)
        if path is None:
            raise InvalidMappingError(
                codes.INVALID_MAPPING,
                f"{where}: the path {show_path(mapping.path)} is no choice that an event can hold, "
                "so it can't be read backwards. Choices are `enabled` of a channel, a purpose or a "
                "preference, or a value of a preference. Take it out of tap-actito's mappings.",
            )
        return path
    readings = sorted(set(_readings(mapping.value)))
    if not readings:
        raise InvalidMappingError(
            codes.INVALID_MAPPING,
            f"{where} can't be read backwards: the name isn't that of a channel, a purpose or a "
            "value of a preference. Give the mapping its `path`, such as "
            '["consents", "purposes", "ID", "enabled"], or take it out of tap-actito\'s mappings.',
        )
    if len(readings) > 1:
        raise InvalidMappingError(
            codes.AMBIGUOUS_MAPPING,
            f"{where} reads {len(readings)} ways backwards: "
            f"{' or '.join(show_path(r) for r in readings)}. Give the mapping the `path` that is "
            f"meant, such as {list(readings[0])}.",
        )
    return readings[0]


def _readings(name: str) -> Iterator[Path]:
    """Give all paths that a name may stand for."""
    for pattern, shape in _FORMS:
        for ids in _splits(pattern.split("(.+)"), name):
            if shape[-2:] == ("1", "2") and ids[-1] in {"value", "from_propagation"}:
                continue
            yield ("consents", *(ids[int(p)] if p.isdigit() else p for p in shape))


def _splits(fixed: list[str], name: str) -> Iterator[tuple[str, ...]]:
    """Give every way in which a name is made of fixed parts with ids between them."""
    head = re.match(fixed[0], name)
    if not head:
        return
    rest = name[head.end() :]
    if len(fixed) == 2:  # noqa: PLR2004 - one id is left, and what follows it
        tail = re.search(f"(?:{fixed[1]})$" if fixed[1] else "$", rest)
        if tail and rest[: tail.start()]:
            yield (rest[: tail.start()],)
        return
    for found in re.finditer(f"(?={fixed[1]})", rest):
        if found.start():
            for more in _splits(fixed[1:], rest[found.start() :]):
                yield (rest[: found.start()], *more)


def _without_spelling(path: Path) -> Path | None:
    """Give a path as events have it; None where it is no choice."""
    for _, shape in _FORMS:
        if len(path) == len(shape) + 1 and path[0] == "consents":
            pairs = zip(shape, path[1:], strict=True)
            if all(part.isdigit() or part == own for part, own in pairs):
                return path
    return None
