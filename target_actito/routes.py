"""Routes of choices: for each id, once worked out, where its choice goes.

What a mapping's name stands for depends on the names seen, so routes are those of the translator's
resolver, and what they gave is forgotten when that learns something new.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET

from actito_didomi.consent.choices import split_answer
from actito_didomi.consent.coalesce import NO_CHOICES, Choices, Field, Value
from actito_didomi.consent.mapping import Found
from target_actito.translate import Untranslatable
from target_actito.typed import consents_type, is_covered

if TYPE_CHECKING:
    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.coalesce import Collector
    from target_actito.translate import Translator

_MOST_KEPT = 20_000
"""Different consents whose meaning is kept."""
_ANY_MOMENT = datetime.min.replace(tzinfo=timezone.utc)
"""Stands for the timestamp while consents are read: what they say doesn't depend on it."""
_READING = 2
"""Rank of a value of a preference that is read out of a mapping's name."""
_new = tuple.__new__


class Route(NamedTuple):
    """Where a choice goes.

    Attributes:
        at: Number of the mapping.
        exact: Whether the path is named as it is, not by another spelling.
        slot: Place of the target in an entry.
        invert: Whether true and false change places.
        plain: Whether a boolean is written as it is (but for `invert`).
        path: Path of the choice.
    """

    at: int
    exact: bool
    slot: int
    invert: bool
    plain: bool
    path: Path


Hit = tuple[Route, Any]


class FullWayError(Exception):
    """This record must be read in full."""


class Routes:
    """Reads consents by the routes of their choices.

    Args:
        translator: Knows mappings and table.
        collector: Gives targets their places.

    Attributes:
        usable: Whether all that mappings name is decoded.
        known: What consents said before, by their bytes.
    """

    def __init__(self, translator: Translator, collector: Collector) -> None:
        self._translator = translator
        self._resolver = translator.resolver
        self._mappings = tuple(translator.resolver.mappings)
        self._slots = [collector.slot(Field(m.type, m.id)) for m in self._mappings]
        self.usable = all(is_covered(m.value, m.path) for m in self._mappings)
        names = [m.value if m.path is None else "_".join(m.path) for m in self._mappings]
        self._reads_values = any("_values_" in name for name in names)
        self.maps_metadata = any(name.startswith("metadata_") for name in names)
        consents = consents_type(names, values=self._reads_values)
        self._consents = msgspec.json.Decoder(consents | None)
        self._channels: dict[str, tuple[Route, ...]] = {}
        self._purposes: dict[str, tuple[tuple[Route, ...], tuple[Route, ...]]] = {}
        self._nested: dict[Path, tuple[Route, ...]] = {}
        self._answers: dict[tuple[str, str, str | None], list[tuple[int, int, Any, Path]]] = {}
        self.known: dict[bytes, Choices] = {}
        self._version = -1

    @property
    def current(self) -> bool:
        """Whether `known` still holds: the resolver has learned nothing new since."""
        return self._version == self._resolver.version

    def look_up(self, consents: bytes) -> Choices:
        """Give what consents say; the same consents are read once.

        Raises:
            FullWayError: They must be read in full.
        """
        version = self._resolver.version
        if version != self._version or len(self.known) > _MOST_KEPT:
            self.known.clear()
            self._answers.clear()
            self._version = version
        values = self.known.get(consents)
        if values is None:
            try:
                values = self._read(self._consents.decode(consents))
            except msgspec.MsgspecError:
                raise FullWayError from None
            self.known[consents] = values
        return values

    def _read(self, consents: Any) -> Choices:
        """Read consents.

        Raises:
            FullWayError: They must be read in full.
        """
        if consents is None:
            return NO_CHOICES
        hits: list[Hit] = []
        if channels := consents.channels:
            known = self._channels
            for choice in channels:
                routes = known.get(choice.id)
                if routes is None:
                    routes = known[choice.id] = self.routes(
                        ("consents", "channels", choice.id, "enabled")
                    )
                if routes and choice.enabled is not UNSET:
                    hits += [(route, choice.enabled) for route in routes]
        if purposes := consents.purposes:
            known_purposes = self._purposes
            for purpose in purposes:
                both = known_purposes.get(purpose.id)
                if both is None:
                    start = ("consents", "purposes", purpose.id)
                    both = known_purposes[purpose.id] = (
                        self.routes((*start, "enabled")),
                        self.routes((*start, "enabled_li")),
                    )
                if both[0] and purpose.enabled is not UNSET:
                    hits += [(route, purpose.enabled) for route in both[0]]
                if both[1] and purpose.enabled_li is not UNSET:
                    hits += [(route, purpose.enabled_li) for route in both[1]]
                if purpose.nested:
                    self._read_nested(purpose, hits)
        values: list[tuple[int, Value]] = []
        self.settle(hits, _ANY_MOMENT, values)
        if self._reads_values and purposes:
            self._read_answers(purposes, hits, _ANY_MOMENT, values)
        return Choices.of(values)

    def settle(self, hits: list[Hit], timestamp: datetime, values: list[tuple[int, Value]]) -> None:
        """Turn hits into values: a name as it is goes before another spelling of it."""
        seen = 0
        for route, choice in hits:
            if route.exact:
                bit = 1 << route.at
                if seen & bit:
                    raise FullWayError
                seen |= bit
                if choice is None:
                    continue
                if route.plain and (choice is True or choice is False):
                    value = _new(Value, (timestamp, choice is not route.invert, choice))
                else:
                    value = self._convert(route.at, route.path, choice, timestamp)
                values.append((route.slot, value))
        if seen.bit_count() == len(hits):
            return
        others = 0
        for route, choice in hits:
            bit = 1 << route.at
            if route.exact or seen & bit:
                continue
            if others & bit:
                raise FullWayError
            others |= bit
            if choice is not None:
                self._announce(route.at, route.path)
                values.append((route.slot, self._convert(route.at, route.path, choice, timestamp)))

    def _announce(self, at: int, path: Path) -> None:
        self._resolver.announce(self._mappings[at], path)

    def _convert(self, at: int, path: Path, choice: Any, timestamp: datetime) -> Value:
        result = self._translator.convert_choice(Found(self._mappings[at], path, choice), timestamp)
        if isinstance(result, Untranslatable):
            raise FullWayError
        return result

    def _read_nested(self, purpose: Any, hits: list[Hit]) -> None:
        """Read the choices below a purpose: its channels, preferences, and theirs."""
        start: Path = ("consents", "purposes", purpose.id)
        found: list[tuple[Path, Any]] = []
        if purpose.channels:
            found += [((*start, "channels", c.id, "enabled"), c.enabled) for c in purpose.channels]
        for preference in purpose.preferences or ():
            below = (*start, "preferences", preference.id)
            found.append(((*below, "enabled"), preference.enabled))
            if preference.channels:
                found += [
                    ((*below, "channels", c.id, "enabled"), c.enabled) for c in preference.channels
                ]
        for path, choice in found:
            routes = self._nested.get(path)
            if routes is None:
                routes = self._nested[path] = self.routes(path)
            if routes and choice is not UNSET:
                hits += [(route, choice) for route in routes]

    def _read_answers(
        self,
        purposes: list[Any],
        hits: list[Hit],
        timestamp: datetime,
        values: list[tuple[int, Value]],
    ) -> None:
        """Read answers to preferences of the current format.

        What an answer means to each mapping depends on what the resolver has seen, so it is kept
        for as long as the resolver learns nothing new.
        """
        taken = 0
        for route, _ in hits:
            taken |= 1 << route.at
        found: dict[int, tuple[int, Any, Path]] = {}
        for purpose in purposes:
            if not purpose.values:
                continue
            for preference, answer in purpose.values.items():
                if answer.value is UNSET:
                    continue
                key = (purpose.id, preference, answer.value)
                meanings = self._answers.get(key)
                if meanings is None:
                    meanings = self._answers[key] = self._mean(key)
                for at, rank, value, path in meanings:
                    if taken & 1 << at:
                        if rank < _READING:
                            raise FullWayError
                        continue
                    before = found.get(at)
                    if before is None or rank < before[0]:
                        found[at] = rank, value, path
                    elif rank == before[0]:
                        raise FullWayError
        for at, (_, value, path) in found.items():
            if value is not None:
                self._announce(at, path)
                values.append((self._slots[at], self._convert(at, path, value, timestamp)))

    def _mean(self, key: tuple[str, str, str | None]) -> list[tuple[int, int, Any, Path]]:
        """Work out what one answer says: for each mapping its rank (the least counts) and value."""
        purpose, preference, text = key
        path: Path = ("consents", "purposes", purpose, "values", preference, "value")
        meanings: list[tuple[int, int, Any, Path]] = []
        for at, mapping in enumerate(self._mappings):
            rank = self._resolver.rank(mapping, path)
            if rank is not None:
                meanings.append((at, rank, text, path))
            elif mapping.path is not None:
                if mapping.path[:-1] == path[:-1] and text is not None:
                    chosen = mapping.path[-1] in split_answer(text)
                    meanings.append((at, 0, chosen, mapping.path))
            elif text is not None:
                if not self._resolver.knows(mapping, path, text):
                    raise FullWayError  # the full way learns it
                meanings += [
                    (at, _READING, chosen, where)
                    for where, chosen in self._resolver.read_answer(mapping, path, text)
                ]
        return meanings

    def routes(self, path: Path) -> tuple[Route, ...]:
        """Work out where the choice at a path goes."""
        routes = []
        for at, mapping in enumerate(self._mappings):
            rank = self._resolver.rank(mapping, path)
            if rank is not None:
                plain = mapping.type == "subscription" or self._translator.is_boolean(mapping.id)
                routes.append(Route(at, rank == 0, self._slots[at], mapping.invert, plain, path))
        return tuple(routes)
