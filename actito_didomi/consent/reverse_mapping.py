"""Reverse mappings: from a subscription or attribute in Actito to a choice in Didomi.

In the forward sync names are never split, since ids may hold `_`. In the reverse sync the path must
be known: from the name if it stands for one path only, else from the mapping's `path`.
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
    """A mapping for the reverse sync.

    Attributes:
        mapping: The mapping.
        path: Where its choice stands; a path to a value of a preference ends in the value's id.
    """

    mapping: Mapping
    path: Path

    def choice(self, value: bool) -> bool:
        """Return the choice that a value in Actito stands for."""
        return value is not self.mapping.invert


def reverse_mappings(mappings: Sequence[Mapping]) -> dict[tuple[str, str], ReverseMapping]:
    """Return the reverse mappings.

    Args:
        mappings: The mappings, in which no `id` occurs twice.

    Returns:
        The reverse mappings, by kind and name of the field in Actito.

    Raises:
        InvalidMappingError: A mapping has no path or several, or two mappings have the same path.
    """
    found: dict[Path, ReverseMapping] = {}
    for mapping in mappings:
        reverse = ReverseMapping(mapping, _path_of(mapping))
        if other := found.get(reverse.path):
            raise InvalidMappingError(
                codes.INVALID_MAPPING,
                f"mappings: {other.mapping.id!r} ({other.mapping.value}) and {mapping.id!r} "
                f"({mapping.value}) both stand for {show_path(reverse.path)}. In the reverse sync "
                "a path must have one source: remove one of them from tap-actito's mappings.",
            )
        found[reverse.path] = reverse
    return {(reverse.mapping.type, reverse.mapping.id): reverse for reverse in found.values()}


def find_path(mapping: Mapping) -> Path:
    """Return the path under which the ledger keeps the choice of a mapping.

    Where the path isn't known before a record shows it, the mapping's `value` stands for it: such a
    choice is kept for the forward sync alone.
    """
    try:
        return _path_of(mapping)
    except InvalidMappingError:
        return mapping.path or ("value", mapping.value)


def _path_of(mapping: Mapping) -> Path:
    where = f"mappings, {mapping.id!r} ({mapping.value})"
    if mapping.path is not None:
        path = _without_spelling(mapping.path)
        if path is None:
            raise InvalidMappingError(
                codes.INVALID_MAPPING,
                f"{where}: the path {show_path(mapping.path)} can't be synced to Didomi. Expected "
                "the path of `enabled` of a channel, a purpose or a preference, or of a value of a "
                "preference. Correct it, or remove this mapping from tap-actito's mappings.",
            )
        return path
    readings = sorted(set(_readings(mapping.value)))
    if not readings:
        raise InvalidMappingError(
            codes.INVALID_MAPPING,
            f"{where} can't be synced to Didomi: the name must be that of a channel, a purpose "
            "or a value of a preference. Add `path` to this mapping, such as "
            '["consents", "purposes", "ID", "enabled"], or remove it from tap-actito\'s mappings.',
        )
    if len(readings) > 1:
        raise InvalidMappingError(
            codes.AMBIGUOUS_MAPPING,
            f"Ambiguous name: {where} matches {' and '.join(show_path(r) for r in readings)}. Add "
            f"`path` to this mapping, such as {list(readings[0])}.",
        )
    return readings[0]


def _readings(name: str) -> Iterator[Path]:
    """Yield all paths that a name may stand for."""
    for pattern, shape in _FORMS:
        for ids in _splits(pattern.split("(.+)"), name):
            if shape[-2:] == ("1", "2") and ids[-1] in {"value", "from_propagation"}:
                continue
            yield ("consents", *(ids[int(p)] if p.isdigit() else p for p in shape))


def _splits(fixed: list[str], name: str) -> Iterator[tuple[str, ...]]:
    """Yield the ids of each split of a name into fixed parts with ids between them."""
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
    """Return a path in the form of events; None if it doesn't lead to a choice."""
    for _, shape in _FORMS:
        if len(path) == len(shape) + 1 and path[0] == "consents":
            pairs = zip(shape, path[1:], strict=True)
            if all(part.isdigit() or part == own for part, own in pairs):
                return path
    return None
