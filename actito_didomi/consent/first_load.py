"""The form on disk of people of whom events are the first thing learned. Pure.

It is what `entries.learn_event` and `owing` lead to, computed on masks: a first load learns of a
million people, one by one. People of whom more is said are left to those functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actito_didomi.consent.coalesce import EVENT
from actito_didomi.consent.codec import ATTRIBUTE, THE_KEY, pack_parts
from actito_didomi.consent.person import Owed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.coalesce import PersonLayers
    from actito_didomi.consent.codec import Codec
    from actito_didomi.consent.conflicts import Micros

_DIDOMI_EVENT = 0
"""Number of this kind of acts on disk."""
_SEEN = 0
"""Flags on disk of what a place holds: neither ours nor doubtful."""
_WORD = 2**64
_OWED = int(Owed.ACTITO)
_OPT_OUT_OWED = int(Owed.ACTITO | Owed.OPT_OUT_ACTITO)


class FirstPeople:
    """Encodes people whom the ledger doesn't know yet.

    Args:
        codec: Numbers of names.
        paths: The choice of each mapped field, by the numbers of the fields in masks; None for a
            field that holds other values than choices.
        digest: Returns what stands for the value of an attribute.
    """

    def __init__(
        self, codec: Codec, paths: Sequence[Path | None], digest: Callable[[Any], bytes]
    ) -> None:
        self._codec = codec
        self._digest = digest
        self._bits = [codec.bit(path) if path is not None else 0 for path in paths]
        self._version = codec.version()
        self._masks: dict[int, int] = {0: 0}

    def encode(
        self, key: str, found: PersonLayers, arrival: Micros
    ) -> tuple[str, int, int, bytes] | None:
        """Return the row of a person.

        Args:
            key: The person's key.
            found: What records say, the newest first.
            arrival: When they had arrived.

        Returns:
            Person, what is owed, when to try again, and data; None if they can't be encoded here.
        """
        choices = self._choices(found, arrival)
        if choices is None:
            return None
        values: list[int] = []
        acts: list[Any] = []
        held: list[Any] = []
        owed = 0
        for index, (timestamp, opt_ins, opt_outs) in enumerate(reversed(choices)):
            values.append(timestamp - values[0] if values else timestamp)
            acts += (_DIDOMI_EVENT, index, index, opt_ins, opt_outs)
            held += (_SEEN, index, index, opt_ins, opt_outs, 0)
            owed |= _OPT_OUT_OWED if opt_outs else _OWED
        attributes = None
        if found.attributes:
            attributes = self._attributes(found.attributes)
            owed |= _OWED
        parts = [
            self._version,
            values,
            acts,
            [],
            [found.layers[0].user, [held]] if held else [],
            attributes,
            THE_KEY if key and found.person == key else found.person,
        ]
        return key, owed, 0, pack_parts(parts)

    def _choices(
        self, found: PersonLayers, arrival: Micros
    ) -> list[tuple[Micros, int, int]] | None:
        """Return timestamps and masks of choices, the newest first; None if they aren't simple.

        Simple are events of one user, each choice in one of them, none from the future.
        """
        choices: list[tuple[Micros, int, int]] = []
        masks = self._masks
        seen = 0
        user_key, last = None, arrival + 1
        for timestamp, opt_ins, opt_outs, user, kind in found.layers:
            if user_key is None:
                user_key = user
            if kind != EVENT or user != user_key or timestamp >= last:
                return None
            last = timestamp
            ins, outs = masks.get(opt_ins), masks.get(opt_outs)
            if ins is None or outs is None:
                ins, outs = self._translate(opt_ins), self._translate(opt_outs)
            said = ins | outs
            if seen & said or ins & outs or said >= _WORD:
                return None
            seen |= said
            if said:
                choices.append((timestamp, ins, outs))
        return choices

    def _translate(self, mask: int) -> int:
        """Return the bits of choices of a mask of fields."""
        known = self._masks.get(mask)
        if known is None:
            known, rest, number = 0, mask, 0
            while rest:
                if rest & 1:
                    known |= self._bits[number]
                rest >>= 1
                number += 1
            self._masks[mask] = known
        return known

    def _attributes(self, attributes: Mapping[str, tuple[int, Any]]) -> list[Any]:
        flat: list[Any] = []
        numbered = [(self._codec.number(ATTRIBUTE, (name,)), name) for name in attributes]
        for number, name in sorted(numbered):
            timestamp, value = attributes[name]
            flat += (number, [timestamp, self._digest(value), value])
        return flat
