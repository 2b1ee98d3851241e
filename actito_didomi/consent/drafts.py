"""What a batch teaches about people, made into their new rows in one step. Pure.

It is what `entries` and `owing` lead to, computed on masks: events are learned, then a look, then
it is decided what is due, and an import that writes it may begin. So a person is read once and
written once. People who are not simple are left to those modules: nothing is changed then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from actito_didomi.consent.coalesce import EVENT
from actito_didomi.consent.codec import ATTRIBUTE, PROFILE_ID, THE_KEY, VERSION, pack_parts
from actito_didomi.consent.groups import (
    ACTS,
    FOREVER,
    NEVER,
    Times,
    flatten,
    flatten_family,
    read_times,
    regroup,
    regroup_family,
    union,
)
from actito_didomi.consent.masks import (
    ACT_KINDS,
    Masks,
    Seen,
    confirm_held,
    decide,
    end_imports,
    learn_event,
    learn_first_look,
    shows_what_is_held,
)
from actito_didomi.consent.owing import flags_after
from actito_didomi.consent.person import Owed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.coalesce import PersonLayers
    from actito_didomi.consent.codec import Codec, Endings
    from actito_didomi.consent.conflicts import Micros, Rules
    from actito_didomi.consent.masks import FieldBits, ImportEnd
    from actito_didomi.consent.rows import Row

_DIDOMI_EVENT = ACT_KINDS.index(("didomi", "event"))
_BASELINE = ACT_KINDS.index(("actito", "baseline"))
_SEEN, _DOUBTFUL = 0, 2
"""Flags on disk of what a place holds; the first: neither ours nor doubtful."""
_WORD = 2**64
_OWED = int(Owed.ACTITO)
_OPT_OUT_OWED = int(Owed.ACTITO | Owed.OPT_OUT_ACTITO)
_OPT_OUT_DIDOMI = int(Owed.DIDOMI | Owed.OPT_OUT_DIDOMI)
_DEFERRED, _NO_PROFILE = int(Owed.DEFERRED), int(Owed.NO_PROFILE)
_TIMES, _ACTS, _ACTITO, _USERS, _ATTRIBUTES, _SPELLING, _RETRIES = 1, 2, 3, 4, 5, 6, 8
"""Positions of the parts of a row."""
_INTENTS, _LATE = 1, 2
"""Positions of groups of places."""
_UNOWED = 2
"""Parts of the state of an attribute that is not owed."""

_decode = msgspec.msgpack.Decoder().decode


class Glimpse(NamedTuple):
    """A look at a profile that shows all fields.

    Attributes:
        seen: What it shows, and when.
        spelling: The key as the profile spells it.
        profile_id: Its id.
        created: When it was created, as Actito says it; None where it doesn't.
    """

    seen: Seen
    spelling: str
    profile_id: str
    created: str | None = None


class Due(NamedTuple):
    """Fields to be written with choices that were made at one time.

    Attributes:
        timestamp: When they were made, at the latest.
        opt_ins: Fields that are to show an opt-in.
        opt_outs: Fields that are to show an opt-out.
    """

    timestamp: Micros
    opt_ins: int
    opt_outs: int


@dataclass(frozen=True)
class Said:
    """What is needed to read what records and looks say of people.

    Attributes:
        paths: The choice of each mapped field, by the numbers of the fields in masks; None for a
            field that holds other values than choices.
        bits: The bits of the fields; None where people are new, and no look is learned.
        digest: Returns what stands for the value of an attribute.
        arrival: When the records had arrived.
        is_first_look: Whether no complete look at the table came before.
        may_be_new: Whether the plugin may learn of a look more than that it shows nothing new.
    """

    paths: Sequence[Path | None]
    bits: FieldBits | None
    digest: Callable[[Any], bytes]
    arrival: Micros
    is_first_look: bool = False
    may_be_new: bool = True


@dataclass
class Start:
    """The start of an import.

    Attributes:
        file_name: Name of its file.
        writer: The run that makes it, as it stands on disk.
        began: When it began.
        number: Its number; 0 as long as nobody is part of it, so that it isn't recorded yet.
    """

    file_name: str
    writer: str | int
    began: Micros
    number: int = 0


class Draft(msgspec.Struct, gc=False):
    """The new row of a person.

    Attributes:
        key: The person's key.
        spelling: The key as it is written to Actito.
        parts: The parts of the form on disk.
        owed: What is owed.
        due: What an import may write; empty where more than choices is due.
    """

    key: str
    spelling: str
    parts: list[Any]
    owed: int
    due: list[Due]

    def begin(self, start: Start) -> None:
        """Record that an import is to write what is due."""
        parts, opt_ins, opt_outs = self.parts, 0, 0
        for _, ins, outs in self.due:
            opt_ins |= ins
            opt_outs |= outs
        times = parts[_TIMES]
        at = len(times)
        times.append(start.began - times[0] if times else start.began)
        actito = parts[_ACTITO]
        if not actito:
            actito.append([])
        intent = [start.writer, start.number, at, FOREVER, opt_ins, opt_outs]
        if len(actito) > _INTENTS:
            actito[_INTENTS] = intent
        else:
            actito.append(intent)
        self.owed &= ~_OPT_OUT_OWED

    def row(self) -> tuple[str, int, int, bytes]:
        """Return the row: person, what is owed, when to try again, and data."""
        return self.key, self.owed, 0, pack_parts(self.parts)


class Drafter:
    """Makes drafts of people.

    Args:
        codec: Numbers of names.
        paths: The choice of each mapped field, by the numbers of the fields in masks; None for a
            field that holds other values than choices.
        digest: Returns what stands for the value of an attribute.
        arrival: When what is said had arrived.
        rules: Settings that decide.
        bits: The bits of the fields; None where people are new, and no look is learned.
        find_endings: Returns what is to be done for those of some imports that have ended.
        is_first_look: Whether no complete look came before.
    """

    def __init__(
        self,
        codec: Codec,
        paths: Sequence[Path | None],
        digest: Callable[[Any], bytes],
        arrival: Micros,
        rules: Rules,
        *,
        bits: FieldBits | None = None,
        find_endings: Callable[[set[int]], Endings] | None = None,
        is_first_look: bool = False,
    ) -> None:
        self._codec = codec
        self._digest = digest
        self._arrival = arrival
        self._rules = rules
        self._field_bits = bits
        self._find_endings = find_endings
        self._is_first_look = is_first_look
        self._bits = [codec.bit(path) if path is not None else 0 for path in paths]
        self._version = codec.version()
        self._masks: dict[int, int] = {0: 0}
        self._ends: dict[int | None, ImportEnd | None] = {None: None}

    def draft(
        self, key: str, row: Row | None, found: PersonLayers | None, glimpse: Glimpse | None
    ) -> Draft | None:
        """Return the new row of a person; None if it can't be made here.

        Args:
            key: The person's key.
            row: Their row; None, or one without data, if they have none.
            found: What records say, the newest first; None if they say nothing.
            glimpse: A look at the profile; None if it wasn't looked at.
        """
        if row is None or not row[2]:
            return self.first(key, found, glimpse)
        return self.known(key, row, found, glimpse)

    # People whom the ledger doesn't know

    def first(
        self, key: str, found: PersonLayers | None, glimpse: Glimpse | None = None
    ) -> Draft | None:
        """Return the row of a person of whom nothing is known; None if it can't be made here.

        Args:
            key: The person's key.
            found: What records say, the newest first; None if they say nothing.
            glimpse: A look at the profile; None if it wasn't looked at.
        """
        choices = self._choices(found) if found is not None else ()
        if choices is None:
            return None
        bits = self._field_bits
        values: list[int] = []
        acts: list[Any] = []
        held: list[Any] = []
        due: list[Due] = []
        owed = shown_ins = shown_outs = base = 0
        if glimpse is not None:
            if bits is None or not self._is_first_look or bits.has_shared_choices:
                return None
            shown_ins, shown_outs = glimpse.seen[:2]
            base = bits.choices(shown_outs)
        for index, (timestamp, opt_ins, opt_outs) in enumerate(reversed(choices)):
            values.append(timestamp - values[0] if values else timestamp)
            acts += (_DIDOMI_EVENT, index, index, opt_ins, opt_outs)
            held += (_SEEN, index, index, opt_ins, opt_outs, 0)
            if bits is None:
                owed |= _OPT_OUT_OWED if opt_outs else _OWED
                continue
            if glimpse is not None and (both := opt_ins & base):
                lost, flags = self._meet_baseline(timestamp, both, glimpse.seen.ended)
                owed |= flags
                opt_ins &= ~lost  # noqa: PLW2901
            ins = bits.of_choices(opt_ins) & ~shown_ins if opt_ins else 0
            outs = bits.of_choices(opt_outs) & ~shown_outs if opt_outs else 0
            if ins or outs:
                due.append(Due(timestamp, ins, outs))
                owed |= _OPT_OUT_OWED if outs else _OWED
        actito: list[Any] = []
        spelling = "" if found is None else found.person
        if glimpse is not None:
            spelling = glimpse.spelling
            actito.append(_add_first_look(values, acts, glimpse.seen, base))
        attributes = None
        if found is not None and found.attributes:
            attributes = self._attributes(found.attributes)
            owed |= _OWED
            due = []
        parts = [
            self._version,
            values,
            acts,
            actito,
            [found.layers[0].user, [held]] if held and found is not None else [],
            attributes,
            THE_KEY if key and spelling == key else spelling,
            None if glimpse is None else glimpse.profile_id,
        ]
        return Draft(key, spelling, parts, owed, due)

    def _meet_baseline(self, timestamp: Micros, both: int, ended: Micros) -> tuple[int, int]:
        """Return which opt-ins an opt-out of unknown age keeps back, and what is owed for it."""
        rules, bits = self._rules, self._field_bits
        if rules.baseline == "didomi" or timestamp - ended > rules.clock_tolerance:
            return 0, 0
        if rules.baseline is None:
            return both, _DEFERRED
        return both, _OPT_OUT_DIDOMI if bits is not None and bits.consents(both) else 0

    def _choices(self, found: PersonLayers) -> list[tuple[Micros, int, int]] | None:
        """Return timestamps and masks of choices, the newest first; None if they aren't simple.

        Simple are events of one user, each choice in one of them, none from the future.
        """
        choices: list[tuple[Micros, int, int]] = []
        masks = self._masks
        seen = 0
        user_key, last = None, self._arrival + 1
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

    # People whom it knows

    def shows_same(self, key: str, row: Row, glimpse: Glimpse) -> bool:
        """Return whether a look shows just what is known for certain of a person."""
        owed, _, data = row
        if owed & _NO_PROFILE or not data:
            return False
        parts = _decode(data)
        if parts[0] != VERSION or len(parts) <= PROFILE_ID:
            return False
        spelling = key if parts[_SPELLING] is True else parts[_SPELLING]
        if parts[PROFILE_ID] != glimpse.profile_id or spelling != glimpse.spelling:
            return False
        return self._shows_held(parts[_ACTITO], glimpse.seen)

    def held(self, data: bytes) -> tuple[int, int]:
        """Return the fields that hold an opt-in, and those that hold an opt-out."""
        parts = _decode(data)
        if parts[0] != VERSION or len(parts) <= _ACTITO or not parts[_ACTITO]:
            return 0, 0
        actito = parts[_ACTITO]
        opt_ins = opt_outs = 0
        held = actito[0]
        for at in range(0, len(held), 6):
            opt_ins |= held[at + 3]
            opt_outs |= held[at + 4]
        if len(actito) > _INTENTS:
            intents = actito[_INTENTS]
            for at in range(0, len(intents), 6):
                _, number, _, _, ins, outs = intents[at : at + 6]
                if self._end_of(number) is not None:
                    opt_ins = opt_ins & ~outs | ins
                    opt_outs = opt_outs & ~ins | outs
        return opt_ins, opt_outs

    def _shows_held(self, actito: Sequence[Any], seen: Seen) -> bool:
        """Return whether a look shows just what fields hold for certain, on groups as on disk."""
        opt_ins, opt_outs = seen[:2]
        written = 0
        if len(actito) > _INTENTS:
            if len(actito) > _LATE and actito[_LATE]:
                return False
            intents = actito[_INTENTS]
            for at in range(0, len(intents), 6):
                _, number, _, _, ins, outs = intents[at : at + 6]
                if self._end_of(number) is None:
                    return False
                opt_ins &= ~ins
                opt_outs &= ~outs
                written |= ins | outs
        held = actito[0] if actito else ()
        for at in range(0, len(held), 6):
            flags, _, _, ins, outs, _ = held[at : at + 6]
            if not flags & _DOUBTFUL:
                opt_ins &= ~(ins & ~written)
                opt_outs &= ~(outs & ~written)
        return not opt_ins | opt_outs

    def _end_of(self, number: int | None) -> ImportEnd | None:
        """Return the end of an import; None if it isn't known to have ended well."""
        if number in self._ends:
            return self._ends[number]
        end = None
        if number is not None and self._find_endings is not None:  # it is no single request
            found = self._find_endings({number})
            end = found[0] if found and found[0].ended is not None else None
        self._ends[number] = end
        return end

    def known(
        self, key: str, row: Row, found: PersonLayers | None, glimpse: Glimpse | None
    ) -> Draft | None:
        """Return the new row of a person; None if it can't be made here.

        Args:
            key: The person's key.
            row: The row.
            found: What records say, the newest first; None if they say nothing.
            glimpse: A look at the profile; None if it wasn't looked at.
        """
        owed, _, data = row
        bits = self._field_bits
        parts = _decode(data)
        if bits is None or owed & _NO_PROFILE or not _is_simple(parts, found):
            return None
        parts += [None] * (_RETRIES - len(parts))
        masks = self._read_masks(parts)
        if masks is not None and found is not None:
            masks = self._learn(masks, found, bits)
        if masks is not None and glimpse is not None:
            masks = self._look(masks, parts, glimpse, bits)
            if masks is not None and found is not None:
                masks = confirm_held(masks, glimpse.seen)
        decision = None if masks is None else decide(masks, bits, self._rules)
        if masks is None or decision is None:
            return None
        if decision.due and any(flags & _DOUBTFUL for flags, _, _ in masks.actito[0]):
            return None  # it must be seen before it is written
        spelling = key if parts[_SPELLING] is True else parts[_SPELLING]
        if glimpse is not None:
            spelling, parts[PROFILE_ID] = glimpse.spelling, glimpse.profile_id
        elif spelling is None and found is not None:
            spelling = found.person
        parts[_SPELLING] = THE_KEY if spelling == key else spelling
        _write_masks(parts, masks)
        due = [
            Due(act.latest, fields, 0) if act.value else Due(act.latest, 0, fields)
            for act, fields in decision.due
        ]
        return Draft(key, spelling or key, parts, flags_after(owed, decision), due)

    def _read_masks(self, parts: Sequence[Any]) -> Masks | None:
        """Return what is known; None where a write is open."""
        times = read_times(parts[_TIMES] or ())
        flat_acts, flat_actito = parts[_ACTS] or (), parts[_ACTITO] or ()
        actito = regroup_family(flat_actito, times)
        if actito[_LATE]:
            return None
        if actito[_INTENTS]:
            ends = [self._end_of(number) for number in {key[1] for key in actito[_INTENTS]}]
            known = [end for end in ends if end is not None]
            ended = None if len(known) < len(ends) else end_imports(actito, known)
            if ended is None:
                return None
            actito = ended
        flat_users = parts[_USERS] or ()
        return Masks(
            regroup(flat_acts, ACTS, times),
            actito,
            {
                flat_users[at]: regroup_family(flat_users[at + 1], times)
                for at in range(0, len(flat_users), 2)
            },
            self._codec.consents(union(flat_acts, ACTS)),
        )

    def _learn(self, masks: Masks, found: PersonLayers, bits: FieldBits) -> Masks | None:
        """Learn events that are newer than what is known."""
        known: Masks | None = masks
        for timestamp, opt_ins, opt_outs, user, kind in found.layers:
            if kind != EVENT or timestamp > self._arrival or known is None:
                return None
            ins, outs = self._translate(opt_ins), self._translate(opt_outs)
            if ins | outs:
                known = learn_event(
                    known, user, ins, outs, created=timestamp, consents=bits.consents(ins | outs)
                )
        return known

    def _look(
        self, masks: Masks, parts: Sequence[Any], glimpse: Glimpse, bits: FieldBits
    ) -> Masks | None:
        """Learn a look that shows what is held, or the first one at all."""
        is_known = parts[PROFILE_ID] == glimpse.profile_id
        if not is_known and (parts[PROFILE_ID] is not None or not self._is_first_look):
            return None
        seen = glimpse.seen
        if shows_what_is_held(masks, seen):
            return masks
        return learn_first_look(masks, seen, bits) if self._is_first_look else None


def _is_simple(parts: Sequence[Any], found: PersonLayers | None) -> bool:
    """Return whether nothing but choices is owed, or was refused."""
    if parts[0] != VERSION or len(parts) > _RETRIES or (found is not None and found.attributes):
        return False
    states = parts[_ATTRIBUTES] if len(parts) > _ATTRIBUTES else None
    return not states or all(len(state) <= _UNOWED for state in states[1::2])


def _write_masks(parts: list[Any], masks: Masks) -> None:
    """Put what is known into the parts of a row."""
    times = Times()
    parts[_ACTS] = flatten(masks.acts, times)
    parts[_ACTITO] = flatten_family(masks.actito, times)
    users: list[Any] = []
    known = masks.users
    for user in sorted(known) if len(known) > 1 else known:
        if flat := flatten_family(known[user], times):
            users += (user, flat)
    parts[_USERS] = users
    parts[_TIMES] = times.values


def _add_first_look(values: list[int], acts: list[Any], seen: Seen, base: int) -> list[Any]:
    """Return what fields hold after the first look; opt-outs are acts of unknown age."""
    first = values[0] if values else seen.ended
    ended = len(values)
    values.append(seen.ended - first if values else first)
    began = len(values)
    values.append(seen.began - first)
    if base:
        acts += (_BASELINE, NEVER, ended, 0, base)
    return [_SEEN, began, ended, seen.opt_ins, seen.opt_outs, 0]
