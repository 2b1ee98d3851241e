"""What several choices of a person have in common, once, with masks of the choices. Pure.

A group is a key, whose last two parts are timestamps, and masks: of opt-ins, of opt-outs, and for
what places hold also of those that hold nothing. On disk groups are one flat list, in which indexes
stand for timestamps (`Times`). The functions here are on the path of each person, so they work on
these lists as they are.

| Groups | Parts of the key | Masks |
| --- | --- | --- |
| acts | kind, earliest, latest | choices |
| held | flags, began, ended | places |
| intents | writer, number of the import, began, until | places |
| late | position, writer, number of the import, began, until | places |
| writes | position, began, ended | places |

A family is the groups of places, each with a bit: all fields in Actito, or one user in Didomi.
Its four kinds of groups stand in one list; empty ones at the end are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actito_didomi.consent.conflicts import BEGINNING, END
from actito_didomi.consent.entries import Held, Intent, Place, Write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from actito_didomi.consent.conflicts import Micros

    Flat = Sequence[Any]
    """Groups on disk."""
    Groups = dict[tuple[Any, ...], list[int]]
    """Masks by key."""
    Family = list[Groups]
    FlatFamily = Sequence[Flat]

ACTS = (5, 3)
"""Parts of a group of acts on disk, and parts of its key."""
_HELD, _INTENTS, _LATE, _WRITES = 6, 6, 7, 5
"""Parts of a group on disk."""
_WIDTHS = ((_HELD, 3), (_INTENTS, 4), (_LATE, 5), (_WRITES, 3))
"""For each kind of groups of a family: parts of a group, and parts of its key."""
_OURS, _DOUBTFUL = 1, 2
NEVER, FOREVER = -1, -2
"""What stands for the beginning and the end of time, in place of the index of a timestamp."""
_WORD = 2**64
_MOST_DIGITS = 17


class Times:
    """The timestamps of one person, each once: the first, then differences from it.

    Attributes:
        values: The form on disk.
    """

    __slots__ = ("_indexes", "values")

    def __init__(self) -> None:
        self.values: list[int] = []
        self._indexes = {BEGINNING: NEVER, END: FOREVER}

    def add(self, timestamp: Micros) -> int:
        """Return the index of a timestamp."""
        index = self._indexes.get(timestamp)
        if index is None:
            values = self.values
            index = self._indexes[timestamp] = len(values)
            values.append(timestamp - values[0] if values else timestamp)
        return index


def read_times(values: Sequence[int]) -> list[Micros]:
    """Return timestamps by their index; those for no bound are counted from the end."""
    if not values:
        return [END, BEGINNING]
    first = values[0]
    return [first, *[first + value for value in values[1:]], END, BEGINNING]


def new_family() -> Family:
    """Return a family without places."""
    return [{}, {}, {}, {}]


def add_to_group(groups: Groups, key: tuple[Any, ...], bit: int, value: bool) -> None:
    """Add a bit to the opt-ins or the opt-outs of a group."""
    masks = groups.get(key)
    if masks is None:
        groups[key] = [bit, 0] if value else [0, bit]
    else:
        masks[not value] |= bit


def add_place(family: Family, bit: int, place: Place) -> None:
    """Add a place to a family."""
    held = place.held
    if held is not None:
        flags = (_OURS if held.ours else 0) | (_DOUBTFUL if held.doubtful else 0)
        key: tuple[Any, ...] = (flags, held.began, held.ended)
        masks = family[0].get(key)
        if masks is None:
            masks = family[0][key] = [0, 0, 0]
        masks[2 if held.value is None else not held.value] |= bit
    intent = place.intent
    if intent is not None:
        add_to_group(family[1], _intent_key(intent), bit, intent.value)
    if place.late:
        for position, late in enumerate(place.late):
            add_to_group(family[2], (position, *_intent_key(late)), bit, late.value)
    if place.writes:
        for position, (value, began, ended) in enumerate(place.writes):
            add_to_group(family[3], (position, began, ended), bit, value)


def flatten(groups: Groups, times: Times) -> list[Any]:
    """Return groups in their form on disk; equal ones always in the same."""
    flat: list[Any] = []
    for key in _in_order(groups) if len(groups) > 1 else groups:
        flat += key[:-2]
        flat.append(times.add(key[-2]))
        flat.append(times.add(key[-1]))
        masks = groups[key]
        flat += masks if max(masks) < _WORD else map(pack, masks)
    return flat


def flatten_family(family: Family, times: Times) -> list[list[Any]]:
    """Return a family in its form on disk."""
    held, intents, late, writes = family
    flat = [flatten(held, times)]
    if intents or late or writes:
        flat.append(flatten(intents, times))
        if late or writes:
            flat.append(flatten(late, times))
            if writes:
                flat.append(flatten(writes, times))
    elif not held:
        return []
    return flat


def union(flat: Flat, widths: tuple[int, int]) -> int:
    """Return the bits of all groups of a flat list."""
    bits = 0
    width, key = widths
    for at in range(0, len(flat), width):
        for mask in flat[at + key : at + width]:
            bits |= mask
    return bits


def union_of_family(family: FlatFamily) -> int:
    """Return the bits of all places of a family."""
    bits = 0
    for flat, widths in zip(family, _WIDTHS):  # noqa: B905 - the end may be missing
        bits |= union(flat, widths)
    return bits


def imports_of(family: FlatFamily) -> set[int]:
    """Return the numbers of the imports that may still write to a place of a family."""
    if len(family) < 2:  # noqa: PLR2004
        return set()
    numbers = set(family[1][1::_INTENTS])
    if len(family) > 2:  # noqa: PLR2004
        numbers.update(family[2][2::_LATE])
    return numbers - {None}


def keep(
    groups: Groups, flat: Flat, widths: tuple[int, int], bits: int, times: list[Micros]
) -> None:
    """Add to groups what a flat list has in some bits."""
    width, key = widths
    for at in range(0, len(flat), width):
        masks = [mask & bits for mask in flat[at + key : at + width]]
        if any(masks):
            *parts, began, ended = flat[at : at + key]
            common = (*parts, times[began], times[ended])
            groups[common] = masks


def regroup(flat: Flat, widths: tuple[int, int], times: list[Micros]) -> Groups:
    """Return the groups of a flat list."""
    width, key = widths
    rest = key - 2
    return {
        (*flat[at : at + rest], times[flat[at + rest]], times[flat[at + rest + 1]]): list(
            flat[at + key : at + width]
        )
        for at in range(0, len(flat), width)
    }


def regroup_family(flat: FlatFamily, times: list[Micros]) -> Family:
    """Return the family of a flat one."""
    family = [regroup(one, widths, times) for one, widths in zip(flat, _WIDTHS)]  # noqa: B905
    while len(family) < len(_WIDTHS):
        family.append({})
    return family


def keep_family(family: Family, flat: FlatFamily, bits: int, times: list[Micros]) -> None:
    """Add to a family what a flat one has in some bits."""
    for groups, one, widths in zip(family, flat, _WIDTHS):  # noqa: B905 - may be shorter
        keep(groups, one, widths, bits, times)


def read_place(family: FlatFamily, bit: int, times: list[Micros]) -> Place:
    """Return the place of a bit."""
    place = Place()
    flat = family[0]
    for at in range(0, len(flat), _HELD):
        flags, began, ended, opt_ins, opt_outs, nothing = flat[at : at + _HELD]
        if (opt_ins | opt_outs | nothing) & bit:
            value = None if nothing & bit else opt_ins & bit != 0
            place.held = Held(
                value, times[began], times[ended], flags & _OURS != 0, flags & _DOUBTFUL != 0
            )
            break
    if len(family) > 1:
        _read_writes(place, family, bit, times)
    return place


def _read_writes(place: Place, family: FlatFamily, bit: int, times: list[Micros]) -> None:
    """Read what was written to a place, or may be."""
    for intent in _read_intents(family[1], _INTENTS, bit, times):
        place.intent = intent
    if len(family) > 2:  # noqa: PLR2004
        place.late.extend(_read_intents(family[2], _LATE, bit, times))
    if len(family) > 3:  # noqa: PLR2004
        flat = family[3]
        for at in range(0, len(flat), _WRITES):
            _, began, ended, opt_ins, opt_outs = flat[at : at + _WRITES]
            if (opt_ins | opt_outs) & bit:
                place.writes.append(Write(opt_ins & bit != 0, times[began], times[ended]))


def _read_intents(flat: Flat, width: int, bit: int, times: list[Micros]) -> Iterator[Intent]:
    for at in range(0, len(flat), width):
        *_, writer, number, began, until, opt_ins, opt_outs = flat[at : at + width]
        if (opt_ins | opt_outs) & bit:
            yield Intent(opt_ins & bit != 0, times[began], str(writer), number, times[until])


def unpack(flat: Flat) -> list[Any]:
    """Return a flat list with masks of more than 64 bits as numbers."""
    return [int.from_bytes(x, "little") if isinstance(x, bytes) else x for x in flat]


def pack(mask: int) -> int | bytes:
    """Return a mask as msgpack can have it, which has integers of 64 bits only."""
    return mask if mask < _WORD else mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def _intent_key(intent: Intent) -> tuple[Any, ...]:
    return (shorten(intent.writer), intent.import_number, intent.began, intent.until)


def shorten(writer: str) -> str | int:
    """Return a number in place of a writer that is one."""
    if writer.isascii() and writer.isdigit() and len(writer) <= _MOST_DIGITS:
        number = int(writer)
        return number if str(number) == writer else writer
    return writer


def _in_order(groups: Groups) -> Sequence[tuple[Any, ...]]:
    """Return keys in the order of `_order`, which numbers alone have by themselves."""
    try:
        return sorted(groups)
    except TypeError:
        return sorted(groups, key=_order)


def _order(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([(isinstance(part, str), part is not None, part or 0) for part in key])
