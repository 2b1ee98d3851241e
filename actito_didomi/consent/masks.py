"""What is due to a person, and what a look shows, decided on masks. Pure.

It is what `entries` and `owing` lead to, for many choices at once: the usual person costs a few
operations, however many choices there are. People who are not simple are left to those modules:
each function here returns None, or False, without having changed anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from actito_didomi.consent.conflicts import ACTITO, BEGINNING, DIDOMI, END, OPT_IN, OPT_OUT, Act
from actito_didomi.consent.conflicts import winner as find_winner
from actito_didomi.consent.person import Owed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.conflicts import Micros, Rules, Side, Source
    from actito_didomi.consent.entries import Entry
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.groups import Family, Groups
    from actito_didomi.consent.mapping import Kind

ACT_KINDS: tuple[tuple[Side, Source], ...] = (
    ("didomi", "event"),
    ("didomi", "status"),
    ("actito", "look"),
    ("actito", "row"),
    ("actito", "baseline"),
)
"""By their number on disk: never reorder."""
_BASELINE = ACT_KINDS.index(("actito", "baseline"))
_EVENT = ACT_KINDS.index(("didomi", "event"))
_OURS, _DOUBTFUL = 1, 2
"""Flags of what is held."""
_MOST_WRITES = 16
_MOST_KEPT = 10_000
_WORD = 2**64
_ACTITO, _OPT_OUT_ACTITO = int(Owed.ACTITO), int(Owed.OPT_OUT_ACTITO)
_DIDOMI, _OPT_OUT_DIDOMI = int(Owed.DIDOMI), int(Owed.OPT_OUT_DIDOMI)
_DEFERRED, _IN_IMPORT = int(Owed.DEFERRED), int(Owed.IN_IMPORT)


class ImportEnd(Protocol):
    """The end of an import."""

    @property
    def number(self) -> int:
        """Its number."""

    @property
    def ended(self) -> Micros | None:
        """When it had ended; None if it didn't end as it should."""

    def __call__(self, entry: Entry) -> None:
        """Record the end in one choice."""


class Masks(NamedTuple):
    """All that is known of a person's choices, in groups.

    Attributes:
        acts: By kind and bounds.
        actito: The fields in Actito.
        users: The users in Didomi.
        consents: The choices that stand in consents.
    """

    acts: Groups
    actito: Family
    users: dict[int, Family]
    consents: int


class FieldBits:
    """The bits of the fields in Actito that are looked at, or owed something.

    Args:
        bits: Each field with the bit of its choice and its own.

    Attributes:
        fields: The fields with their own bits.
        all: The bits of all fields.
        has_shared_choices: Whether a choice has several fields.
    """

    def __init__(self, bits: Iterable[tuple[ChoiceField, int, int]]) -> None:
        bits = list(bits)
        self.fields = [(field, own) for field, _, own in bits]
        self._pairs = [(choice, own) for _, choice, own in bits]
        self._pairs_by_field = [(own, choice) for choice, own in self._pairs]
        self._by_path = {field.path: choice for field, choice, _ in bits}
        self._by_name: dict[tuple[Kind, str], int] = {
            (field.kind, field.name): own for field, _, own in bits
        }
        self._of_choices: dict[int, int] = {}
        self._choices: dict[int, int] = {}
        self.all = self._consents = 0
        for field, choice, own in bits:
            self.all |= own
            if field.path[0] == "consents":
                self._consents |= choice
        self.has_shared_choices = len({choice for choice, _ in self._pairs}) < len(bits)

    def consents(self, choices: int) -> int:
        """Return those of these choices that stand in consents."""
        return choices & self._consents

    def choice(self, path: Path) -> int:
        """Return the bit of a choice."""
        return self._by_path[path]

    def find(self, field: tuple[Kind, str]) -> int | None:
        """Return the bit of a field, by kind and name."""
        return self._by_name.get(field)

    def of_choices(self, choices: int) -> int:
        """Return the fields of choices."""
        return _related(self._of_choices, choices, self._pairs)

    def choices(self, fields: int) -> int:
        """Return the choices of fields."""
        return _related(self._choices, fields, self._pairs_by_field)


def _related(memo: dict[int, int], mask: int, pairs: Iterable[tuple[int, int]]) -> int:
    """Return the second bits of the pairs whose first bits are in a mask; remembered in `memo`."""
    found = memo.get(mask)
    if found is None:
        found = 0
        for bit, other in pairs:
            if bit & mask:
                found |= other
        _keep(memo, mask, found)
    return found


def fits(bits: Iterable[tuple[ChoiceField, int, int]]) -> bool:
    """Return whether masks of these fields, and of their choices, are stored as numbers."""
    return all(choice < _WORD and own < _WORD for _, choice, own in bits)


def _keep(memo: dict[int, int], key: int, value: int) -> None:
    if len(memo) >= _MOST_KEPT:
        memo.clear()
    memo[key] = value


class Decision(NamedTuple):
    """What is owed to a person.

    Attributes:
        due: Acts, each with the fields in Actito that are to show it.
        owed: Flags of what is owed to either side, attributes apart.
        has_users: Whether a user in Didomi is known.
    """

    due: list[tuple[Act, int]]
    owed: int
    has_users: bool


def decide(masks: Masks, bits: FieldBits, rules: Rules) -> Decision | None:
    """Return what is owed to a person; None where this is to be found out choice by choice."""
    if any(number is None and ins for (_, _, number, _, _), (ins, _) in masks.actito[2].items()):
        return None  # an opt-in of ours that was given up may still come
    found = _find_winners(masks, rules)
    if found is None:
        return None
    winners, deferred = found
    shown_ins, shown_outs, in_import = _shown(masks.actito)
    due: list[tuple[Act, int]] = []
    owed = _owed_to_didomi(masks, winners)
    if in_import & bits.all:
        owed |= _IN_IMPORT
    if deferred and bits.of_choices(deferred):
        owed |= _DEFERRED
    for act, choices in winners:
        shown = shown_ins if act.value else shown_outs
        fields = bits.of_choices(choices) & ~shown
        if fields:
            due.append((act, fields))
            owed |= _ACTITO if act.value else _ACTITO | _OPT_OUT_ACTITO
    return Decision(due, owed, bool(masks.users))


def _find_winners(masks: Masks, rules: Rules) -> tuple[list[tuple[Act, int]], int] | None:
    """Return the acts that win, each with its choices, and the choices that are deferred."""
    if any(key[0] & _DOUBTFUL for family in masks.users.values() for key in family[0]):
        return None
    actito, didomi = _acts(masks.acts)
    if not actito:
        return didomi, 0
    in_actito = in_didomi = deferred = 0
    for _, choices in actito:
        in_actito |= choices
    for _, choices in didomi:
        in_didomi |= choices
    winners = [(act, alone) for act, choices in actito if (alone := choices & ~in_didomi)]
    winners += [(act, alone) for act, choices in didomi if (alone := choices & ~in_actito)]
    for act, choices in didomi:
        for other, others in actito:
            both = choices & others
            copied = both and _copied_since(masks, other, act) & both
            for found, at in ((copied, act.latest), (both & ~copied, BEGINNING)):
                if found:
                    best = find_winner(other, act, rules.clock_tolerance, rules.baseline, at)
                    if best is None:
                        deferred |= found
                    else:
                        winners.append((best, found))
    return winners, deferred


def _copied_since(masks: Masks, actito: Act, didomi: Act) -> int:
    """Return the choices of which a user in Didomi shows a copy of an opt-out since an opt-in."""
    copied = 0
    if actito.source == "baseline" and didomi.value:
        for family in masks.users.values():
            for (flags, began, _), (_, opt_outs, _) in family[0].items():
                if flags & _OURS and began >= didomi.latest:
                    copied |= opt_outs
    return copied


def _acts(groups: Groups) -> tuple[list[tuple[Act, int]], list[tuple[Act, int]]]:
    """Return the newest acts in Actito, and those in Didomi, each with its choices."""
    actito: list[tuple[Act, int]] = []
    didomi: list[tuple[Act, int]] = []
    for (kind, earliest, latest), (opt_ins, opt_outs) in groups.items():
        side, source = ACT_KINDS[kind]
        acts = actito if side == ACTITO else didomi
        if opt_ins:
            acts.append((Act(OPT_IN, earliest, latest, side, source), opt_ins))
        if opt_outs:
            acts.append((Act(OPT_OUT, earliest, latest, side, source), opt_outs))
    return actito, didomi


def _shown(actito: Family) -> tuple[int, int, int]:
    """Return the fields that show an opt-in, or will, or an opt-out.

    After them those that an overtaken import may write.
    """
    shown_ins = shown_outs = in_import = 0
    for key, (opt_ins, opt_outs, _) in actito[0].items():
        if not key[0] & _DOUBTFUL:
            shown_ins |= opt_ins
            shown_outs |= opt_outs
    for opt_ins, opt_outs in actito[1].values():
        shown_ins &= ~(opt_ins | opt_outs)
        shown_outs &= ~(opt_ins | opt_outs)
    for (_, number, _, _), (opt_ins, opt_outs) in actito[1].items():
        if number is not None:
            shown_ins |= opt_ins
            shown_outs |= opt_outs
    for (_, _, number, _, _), (opt_ins, opt_outs) in actito[2].items():
        if number is not None:
            in_import |= opt_ins | opt_outs
    return shown_ins, shown_outs, in_import


def _owed_to_didomi(masks: Masks, winners: Sequence[tuple[Act, int]]) -> int:
    owed = 0
    consents = masks.consents
    if not masks.users:
        for act, choices in winners:
            if choices & consents and act.side == ACTITO and act.source != "baseline":
                owed |= _DIDOMI if act.value else _DIDOMI | _OPT_OUT_DIDOMI
        return owed
    held = [_held_by_user(family) for family in masks.users.values()]
    for act, choices in winners:
        wanted, due = choices & consents, 0
        if act.value:
            lacking = wanted
            for opt_ins, _, ours in held:
                lacking &= ~opt_ins
                due |= wanted & ours
            due |= lacking
        else:
            for opt_ins, opt_outs, _ in held:
                spoken = opt_ins | opt_outs if act.source == "baseline" else wanted
                due |= wanted & spoken & ~opt_outs
        if due:
            owed |= _DIDOMI if act.value else _DIDOMI | _OPT_OUT_DIDOMI
    return owed


def _held_by_user(family: Family) -> tuple[int, int, int]:
    """Return a user's opt-ins, opt-outs, and opt-outs of ours."""
    all_ins = all_outs = ours = 0
    for key, (opt_ins, opt_outs, _) in family[0].items():
        all_ins |= opt_ins
        all_outs |= opt_outs
        if key[0] & _OURS:
            ours |= opt_outs
    return all_ins, all_outs, ours


# Events


def learn_event(
    masks: Masks, user: int, opt_ins: int, opt_outs: int, *, created: Micros, consents: int
) -> Masks | None:
    """Learn an event of a person that had arrived, and is newer than what is known.

    Args:
        masks: What is known.
        user: Key of the Didomi user.
        opt_ins: Choices.
        opt_outs: Other choices.
        created: Its timestamp.
        consents: Those of the choices that stand in consents.

    Returns:
        What is known then; None where this is to be learned choice by choice.
    """
    said = opt_ins | opt_outs
    if opt_ins & opt_outs:
        return None
    acts: Groups = {}
    for key, (ins, outs) in masks.acts.items():
        kind, _, latest = key
        if (ins | outs) & said and ACT_KINDS[kind][0] == DIDOMI:
            if latest >= created:
                return None
            if not (ins | outs) & ~said:
                continue
            acts[key] = [ins & ~said, outs & ~said]
        else:
            acts[key] = [ins, outs]
    held: Groups = {}
    family = masks.users.get(user) or [{}, {}, {}, {}]
    for key, group in family[0].items():
        flags, _, ended = key
        if flags & _DOUBTFUL or (ended >= created and any(mask & said for mask in group)):
            return None
        if any(left := [mask & ~said for mask in group]):
            held[key] = left
    return masks._replace(
        acts=_with(acts, (_EVENT, created, created), (opt_ins, opt_outs)),
        users={
            **masks.users,
            user: [_with(held, (0, created, created), (opt_ins, opt_outs, 0)), *family[1:]],
        },
        consents=masks.consents | consents,
    )


# Looks


class Seen(NamedTuple):
    """A look at a profile.

    Attributes:
        opt_ins: The fields that show an opt-in.
        opt_outs: The fields that show an opt-out.
        began: When the request was made.
        ended: When the response had come.
    """

    opt_ins: int
    opt_outs: int
    began: Micros
    ended: Micros


def shows_what_is_held(masks: Masks, seen: Seen) -> bool:
    """Return whether a look shows only what is held for certain, and no write is open."""
    return not _unseen(masks, seen)


def _unseen(masks: Masks, seen: Seen) -> int:
    """Return the fields of a look that don't show what is held for certain."""
    held, intents, late, _ = masks.actito
    rest_ins, rest_outs = seen.opt_ins, seen.opt_outs
    for key, (opt_ins, opt_outs, _) in held.items():
        if not key[0] & _DOUBTFUL:
            rest_ins &= ~opt_ins
            rest_outs &= ~opt_outs
    rest = rest_ins | rest_outs
    if intents or late:
        for groups in (intents, late):
            for opt_ins, opt_outs in groups.values():
                rest |= (opt_ins | opt_outs) & (seen.opt_ins | seen.opt_outs)
    return rest


def confirm_held(masks: Masks, seen: Seen) -> Masks:
    """Learn a look that shows what is held, of a person whose row is written in any case."""
    shown = seen.opt_ins | seen.opt_outs
    held: Groups = {}
    for key, group in masks.actito[0].items():
        flags, _, ended = key
        if flags & _DOUBTFUL or ended > seen.began:
            held = _with(held, key, group)
            continue
        if any(kept := [mask & ~shown for mask in group]):
            held = _with(held, key, kept)
        if any(confirmed := [mask & shown for mask in group]):
            held = _with(held, (flags, seen.began, seen.ended), confirmed)
    return masks._replace(actito=[held, *masks.actito[1:]])


def seen_fields(masks: Masks, looked_at: Micros) -> int:
    """Return the fields that a look which began then has shown, and which counted."""
    held, intents, late, _ = masks.actito
    seen = 0
    for (flags, began, ended), (opt_ins, opt_outs, _) in held.items():
        if not flags & _DOUBTFUL and not began < looked_at < ended:
            seen |= opt_ins | opt_outs
    for opt_ins, opt_outs in intents.values():
        seen &= ~(opt_ins | opt_outs)
    for (_, _, number, _, _), (opt_ins, opt_outs) in late.items():
        if number is not None:
            seen &= ~(opt_ins | opt_outs)
    return seen


def learn_first_look(masks: Masks, seen: Seen, bits: FieldBits) -> Masks | None:
    """Learn the first look at fields of which nothing is known, when no look came before.

    Returns:
        What is known then; None where this is to be learned choice by choice.
    """
    if bits.has_shared_choices:
        return None
    rest = _unseen(masks, seen)
    for groups in masks.actito:
        for group in groups.values():
            for mask in group:
                if mask & rest:
                    return None
    opt_ins, opt_outs = seen.opt_ins & rest, seen.opt_outs & rest
    choices = bits.choices(opt_outs)
    acts = masks.acts
    if choices:
        for (kind, _, _), group in acts.items():
            if ACT_KINDS[kind][0] == ACTITO and (group[0] | group[1]) & choices:
                return None
        acts = _with(acts, (_BASELINE, BEGINNING, seen.ended), (0, choices))
    held = _with(masks.actito[0], (0, seen.began, seen.ended), (opt_ins, opt_outs, 0))
    return masks._replace(
        acts=acts,
        actito=[held, *masks.actito[1:]],
        consents=masks.consents | bits.consents(choices),
    )


def _with(groups: Groups, key: tuple[Any, ...], added: Sequence[int]) -> Groups:
    """Return groups with one more, or with more in one."""
    known = groups.get(key)
    masks = list(added) if known is None else [a | b for a, b in zip(known, added, strict=True)]
    return {**groups, key: masks}


# Imports


def begin_import(
    masks: Masks, opt_ins: int, opt_outs: int, *, writer: str | int, number: int, began: Micros
) -> Masks | None:
    """Record that an import is to write fields.

    Returns:
        What is known then; None where a write is open there already.
    """
    fields = opt_ins | opt_outs
    for group in masks.actito[1].values():
        if (group[0] | group[1]) & fields:
            return None
    intents = _with(masks.actito[1], (writer, number, began, END), (opt_ins, opt_outs))
    held, _, late, writes = masks.actito
    return masks._replace(actito=[held, intents, late, writes])


def end_imports(actito: Family, ends: Sequence[ImportEnd]) -> Family | None:
    """Record the ends of imports.

    Returns:
        The fields; None where this is to be done choice by choice.
    """
    by_number: Mapping[int | None, Micros | None] = {end.number: end.ended for end in ends}
    held, intents, late, writes = actito
    if any(key[2] in by_number for key in late):
        return None
    if any(by_number.get(key[1], 0) is None for key in intents):
        return None
    held = {key: list(group) for key, group in held.items()}
    left: Groups = {}
    for key, group in intents.items():
        _, number, began, _ = key
        ended = by_number.get(number)
        if ended is None:
            left[key] = group
            continue
        opt_ins, opt_outs = group
        fields = opt_ins | opt_outs
        for known in held.values():
            known[:] = [mask & ~fields for mask in known]
        held = _with(held, (_OURS, began, ended), (opt_ins, opt_outs, 0))
        more = _add_writes(writes, began, ended, opt_ins, opt_outs)
        if more is None:
            return None
        writes = more
    return [{key: group for key, group in held.items() if any(group)}, left, late, writes]


def _add_writes(
    writes: Groups, began: Micros, ended: Micros, opt_ins: int, opt_outs: int
) -> Groups | None:
    """Add a write to fields; None where one has as many as are kept."""
    taken: dict[int, int] = {}
    for (position, _, _), (ins, outs) in writes.items():
        taken[position] = taken.get(position, 0) | ins | outs
    for position in range(_MOST_WRITES):
        there = taken.get(position, 0)
        if fields := (opt_ins | opt_outs) & ~there:
            added = (opt_ins & fields, opt_outs & fields)
            writes = _with(writes, (position, began, ended), added)
        opt_ins, opt_outs = opt_ins & there, opt_outs & there
        if not opt_ins | opt_outs:
            return writes
    return None
