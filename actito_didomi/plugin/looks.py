"""Looks at Actito: what profiles show, learned into the ledger, by either pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import structs

from actito_didomi.actito import ConversionError, ValueType, convert
from actito_didomi.consent.conflicts import ACTITO, DIDOMI, OPT_IN, OPT_OUT, Act, to_micros
from actito_didomi.consent.drafts import Glimpse, Said
from actito_didomi.consent.entries import (
    Entry,
    Place,
    learn,
    learn_look,
    newest_act,
    orphan,
)
from actito_didomi.consent.identity import is_placeholder, keyless_row, match_key, profile_of
from actito_didomi.consent.looks import FoundChange
from actito_didomi.consent.masks import Seen
from actito_didomi.consent.moves import ProfilePart, attach_profile, detach_profile
from actito_didomi.consent.owing import flag
from actito_didomi.consent.person import Owed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from zoneinfo import ZoneInfo

    from actito_didomi.actito import TableStructure
    from actito_didomi.actito.listing import Profile, ProfilePage
    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.fields import ChoiceField
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.looks import Look
    from actito_didomi.consent.masks import FieldBits
    from actito_didomi.consent.person import Person

_PEOPLE_AT_ONCE = 5_000
_QUICKLY = 20_000
"""People whose looks are learned on masks in one transaction."""
_MOST_SEARCHES = 20
"""How often the whole ledger is searched for profiles that have another key now; per run."""
_ZONES = 26 * 3600 * 1_000_000
"""How far times of different zones are apart at most: that of `creationMoment` isn't documented."""
_IN_IMPORT = Owed.IN_IMPORT


@dataclass(frozen=True)
class ProfileReader:
    """Reads choices from profiles.

    Attributes:
        structure: The table.
        key: The key attribute.
        matching: How keys are compared: `exact` or `folded`.
        zone: Time zone of timestamps in Actito.
        fields: The fields that are looked at.
    """

    structure: TableStructure
    key: str
    matching: Any
    zone: ZoneInfo
    fields: Sequence[ChoiceField]

    def spelling(self, attributes: Mapping[str, Any]) -> str | None:
        """Return the value of a profile's key attribute; None where it has none that is a key."""
        found = attributes.get(self.key)
        return None if found is None or is_placeholder(str(found)) else str(found)

    def created(self, attributes: Mapping[str, Any]) -> int | None:
        """Return when a profile was created at the earliest, in microseconds; None if unknown.

        Attribute and form are documented: whole seconds of a local time.
        """
        found = attributes.get("creationMoment")
        try:
            timestamp = datetime.fromisoformat(str(found).replace("Z", "+00:00"))
        except ValueError:
            return None
        return to_micros(timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=self.zone))

    def choices(
        self, attributes: Mapping[str, Any], subscriptions: Mapping[str, bool] | None
    ) -> dict[ChoiceField, bool]:
        """Return the choices that a profile shows; what it doesn't show is absent.

        Where the response holds no subscriptions at all, it doesn't show that they are off.
        """
        shown: dict[ChoiceField, bool] = {}
        for field in self.fields:
            if field.kind == "subscription":
                state = None if subscriptions is None else subscriptions.get(field.name)
                if state is not None:
                    shown[field] = state is field.opt_in
                continue
            choice = self._attribute(field, attributes.get(field.name))
            if choice is not None:
                shown[field] = choice
        return shown

    def _attribute(self, field: ChoiceField, raw: Any) -> bool | None:
        """Return the choice that the value of an attribute stands for; None if there is none."""
        if raw is None:
            return None
        known = self.structure.attributes.get(field.name)
        kind = ValueType.BOOLEAN if known is None else known.type
        try:
            return field.choice(convert(raw, kind, self.zone))
        except ConversionError:
            return None


@dataclass(frozen=True)
class Sight:
    """A look at one profile.

    Attributes:
        spelling: The value of its key attribute; None for a profile without a key.
        profile_id: Its `profileId`, as text; None where the response doesn't name it.
        choices: What it shows.
        began: When the request was made, in microseconds.
        ended: When the response had come, in microseconds.
        created: When the profile was created at the earliest; None if it isn't known.
    """

    spelling: str | None
    profile_id: str | None
    choices: Mapping[ChoiceField, bool]
    began: int
    ended: int
    created: int | None = None


class LookLearner:
    """Learns looks into the ledger.

    Args:
        ledger: The ledger.
        reader: Reads choices from profiles.
        run: Id of this run where it writes to Actito; empty otherwise.
        mapped: The fields that may be owed something.
        bits: Their bits, if they are all fields that are looked at.
    """

    def __init__(
        self,
        ledger: Ledger,
        reader: ProfileReader,
        run: str,
        mapped: Sequence[ChoiceField],
        bits: FieldBits | None = None,
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._run = run
        self._mapped = mapped
        self._bits = bits
        self._subscriptions = [
            (field.name, field.opt_in, own)
            for field, own in (() if bits is None else bits.fields)
            if field.kind == "subscription"
        ]
        self._searches_left = _MOST_SEARCHES
        self.uncounted = 0
        """Looks at fields that showed nothing for certain, since a write was under way."""

    @property
    def look_names(self) -> frozenset[str]:
        """What is recorded of a complete look: the fields it looked at."""
        return frozenset(field.look_name for field in self._reader.fields)

    def covers(self, last: Look | None) -> bool:
        """Return whether a complete look has shown all fields that this one looks at."""
        return last is not None and self.look_names <= last.places

    # A page of the table

    def learn_page(self, page: ProfilePage, last: Look | None) -> list[str]:
        """Learn a page of profiles.

        Args:
            page: The page.
            last: The last complete look before this one.

        Returns:
            The keys of the people on it, for comparing.
        """
        glimpses = self.glimpse(page)
        self.learn_glimpses(glimpses, last)
        return [key for key in glimpses if profile_of(key) is None]

    def glimpse(self, page: ProfilePage) -> dict[str, list[Glimpse | Sight]]:
        """Return what a page shows, by the keys of rows; usually one look for each."""
        began, ended = to_micros(page.asked_at), to_micros(page.read_at)
        found: dict[str, list[Glimpse | Sight]] = {}
        for profile in page.profiles:
            spelling = self._reader.spelling(profile.attributes)
            key = self._key(spelling, str(profile.id))
            seen = self._see(profile, began, ended, spelling) or self.sight(profile, began, ended)
            found.setdefault(key, []).append(seen)
        return found

    def learn_glimpses(
        self, glimpses: Mapping[str, Sequence[Glimpse | Sight]], last: Look | None
    ) -> None:
        """Learn looks at profiles.

        Args:
            glimpses: What `glimpse` returned, of any number of pages.
            last: The last complete look before this one.
        """
        bits, keys = self._bits, sorted(glimpses)
        unclear: list[Sight] = []
        if bits is not None:
            keys = self._learn_quickly(keys, glimpses, bits, last)
        for start in range(0, len(keys), _PEOPLE_AT_ONCE):
            part = keys[start : start + _PEOPLE_AT_ONCE]
            with self._ledger.change(part) as change:
                for key in part:
                    person = change.people[key]
                    for seen in glimpses[key]:
                        sight = self._in_full(seen)
                        if self._is_unclear(person, sight, last):
                            unclear.append(sight)
                            continue
                        for item in self.learn(person, sight, last, whole=False):
                            change.add_found(item)
        if unclear:
            self._learn_unclear(unclear, last)

    def _learn_quickly(
        self,
        keys: Sequence[str],
        glimpses: Mapping[str, Sequence[Glimpse | Sight]],
        bits: FieldBits,
        last: Look | None,
    ) -> list[str]:
        """Learn looks on masks: what is held, or what nothing is known of; return who is left."""
        people: list[tuple[str, None, Glimpse]] = []
        left: list[str] = []
        for key in keys:
            seen = glimpses[key][0]
            if isinstance(seen, Glimpse) and len(glimpses[key]) == 1:
                people.append((key, None, seen))
            else:
                left.append(key)
        said = self.said(bits, (), last)
        for start in range(0, len(people), _QUICKLY):
            left += self._ledger.write_drafts(people[start : start + _QUICKLY], said)
        return sorted(left)

    def said(
        self, bits: FieldBits, paths: Sequence[Path | None], last: Look | None, arrival: int = 0
    ) -> Said:
        """Return what is needed to read what records and looks say.

        Args:
            bits: The bits of the fields.
            paths: The choices of mapped fields, by their numbers; empty for looks alone.
            last: The last complete look.
            arrival: When the records had arrived.
        """
        digest, may_be_new = self._ledger.digest, bool(self._run)
        return Said(paths, bits, digest, arrival, last is None, may_be_new)

    def _in_full(self, seen: Glimpse | Sight) -> Sight:
        """Return a look with its choices by field."""
        if isinstance(seen, Sight) or self._bits is None:
            assert isinstance(seen, Sight)  # noqa: S101 - without bits there is nothing else
            return seen
        opt_ins, _, began, ended = seen.seen
        choices = {field: bool(opt_ins & own) for field, own in self._bits.fields}
        created = self._reader.created({"creationMoment": seen.created})
        return Sight(seen.spelling, seen.profile_id, choices, began, ended, created)

    def sight(self, profile: Profile, began: int, ended: int) -> Sight:
        """Return the look at a profile of a page."""
        return Sight(
            self._reader.spelling(profile.attributes),
            str(profile.id),
            self._reader.choices(profile.attributes, profile.subscriptions),
            began,
            ended,
            self._reader.created(profile.attributes),
        )

    def _row(self, sight: Sight) -> str:
        """Return the key of the row that a look belongs to."""
        return self._key(sight.spelling, sight.profile_id or "")

    def _key(self, spelling: str | None, profile_id: str) -> str:
        if spelling is None:
            return keyless_row(profile_id)
        return match_key(spelling, self._reader.matching)

    def _see(
        self, profile: Profile, began: int, ended: int, spelling: str | None
    ) -> Glimpse | None:
        """Return what a profile shows; None unless all fields are subscriptions that it shows."""
        states, bits = profile.subscriptions, self._bits
        if bits is None or states is None or spelling is None:
            return None
        opt_ins = opt_outs = 0
        for name, opt_in, own in self._subscriptions:
            state = states.get(name)
            if state is None:
                return None
            if state is opt_in:
                opt_ins |= own
            else:
                opt_outs |= own
        if opt_ins | opt_outs != bits.all:
            return None  # there are attributes as well
        created = profile.attributes.get("creationMoment")
        created = None if created is None else str(created)
        seen = Seen(opt_ins, opt_outs, began, ended)
        return Glimpse(seen, spelling, str(profile.id), created)

    # Profiles that get, lose or change their key

    def _is_unclear(self, person: Person, sight: Sight, last: Look | None) -> bool:
        """Return whether a profile may have had another key, or isn't the only one with its key."""
        if sight.profile_id is None or person.profile_id == sight.profile_id:
            return False
        if person.profile_id is not None:
            return True
        if last is None:
            return False
        if _was_there(sight, last):
            return True
        return sight.created < last.began if sight.created is not None else last.highest_id is None

    def _is_new(self, sight: Sight, last: Look | None) -> bool:
        """Return whether a profile that isn't known needn't have existed at the last look.

        A look may miss one: the pages shift when profiles are deleted meanwhile.
        """
        if last is None:
            return True
        if _was_there(sight, last):
            return False
        if sight.created is None:
            return last.highest_id is not None
        return sight.created >= last.began - _ZONES

    def _learn_unclear(self, sights: Sequence[Sight], last: Look | None) -> None:
        """Learn looks at profiles under their keys of now, with what is known of them."""
        before = self._find_rows({sight.profile_id or "" for sight in sights})
        keys = {self._row(sight) for sight in sights}
        keys |= {keyless_row(sight.profile_id or "") for sight in sights} | set(before.values())
        now, rules = max(sight.ended for sight in sights), self._ledger.rules
        with self._ledger.change(sorted(keys)) as change:
            people, parts, rows = change.people, {}, {}
            for sight in sights:
                profile_id, row = sight.profile_id or "", self._row(sight)
                if self._is_another(people[row], sight, before):
                    row = keyless_row(profile_id)
                rows[profile_id] = row
                old = before.get(profile_id)
                if old is not None and old != row and people[old].profile_id == profile_id:
                    parts[profile_id] = detach_profile(people[old], now, rules)
                    self.flag(old, people[old])
            for sight in sights:
                profile_id = sight.profile_id or ""
                row = rows[profile_id]
                for item in self._learn_moved(people[row], sight, last, parts.get(profile_id)):
                    change.add_found(item)
                if row != self._row(sight):
                    self._pass_on(people[row], people[self._row(sight)])
                    self.flag(self._row(sight), people[self._row(sight)])
                self.flag(row, people[row])

    def _find_rows(self, profile_ids: set[str]) -> dict[str, str]:
        """Return the keys of the rows in which profiles stand, by their ids."""
        known = self._ledger.read([keyless_row(profile_id) for profile_id in profile_ids])
        found = {p.profile_id: key for key, p in known.items() if p.profile_id is not None}
        missing = profile_ids - found.keys()
        if missing and self._searches_left:
            self._searches_left -= 1
            found |= self._ledger.find_profiles(missing)
        return found

    def _is_another(self, person: Person, sight: Sight, leaving: Collection[str]) -> bool:
        """Return whether a key stands for several profiles, which differ in its spelling."""
        if sight.spelling is None or person.profile_id in (None, sight.profile_id):
            return False
        is_left = person.profile_id in leaving or bool(person.owed & Owed.NO_PROFILE)
        return person.spelling != sight.spelling and not is_left

    def _learn_moved(
        self, person: Person, sight: Sight, last: Look | None, part: ProfilePart | None
    ) -> list[FoundChange]:
        found: list[FoundChange] = []
        if part is not None:
            names = {field.path: field for field in self._reader.fields}
            for path, act in attach_profile(person, part):
                if (field := names.get(path)) is not None:
                    found.append(_found(sight, field, act))
        found += self.learn(person, sight, last)
        return found

    def _pass_on(self, other: Person, person: Person) -> None:
        """Learn the opt-outs of one more profile of a person."""
        for path in list(other.entries):
            act = other.entries[path].acts.get(ACTITO)
            if act is not None and act.value is OPT_OUT:
                learn(person.entry(path), act)

    def flag(self, key: str, person: Person) -> None:
        """Set the flags of what is owed; a profile without a key is owed nothing yet."""
        if profile_of(key) is not None:
            person.owed = Owed.NONE
            return
        rules, before = self._ledger.rules, person.owed
        flag(person, self._mapped, rules, self._bits)
        if not self._run:  # only who writes to Actito knows all fields that may be owed something
            person.owed |= before & (Owed.ACTITO | Owed.OPT_OUT_ACTITO | Owed.DEFERRED | _IN_IMPORT)

    # One profile

    def learn(
        self, person: Person, sight: Sight, last: Look | None, *, whole: bool = False
    ) -> list[FoundChange]:
        """Learn what a look at a person's profile shows.

        Args:
            person: The person's row, changed here.
            sight: The look.
            last: The last complete look before this one.
            whole: Whether the row is written in any case: then the times of the look are kept even
                where it shows what is held.

        Returns:
            What the person changed.
        """
        was_known = person.profile_id is not None and person.profile_id == sight.profile_id
        if not whole or (person.profile_id is None and self._is_new(sight, last)):
            person.profile_id = sight.profile_id or person.profile_id
        found: list[FoundChange] = []
        learned = bool(person.owed & Owed.NO_PROFILE)
        if sight.spelling is not None:
            person.spelling = sight.spelling
            person.owed &= ~Owed.NO_PROFILE
        for field, choice in sight.choices.items():
            place = person.entry(field.path).places.get(field.place)
            if place is not None and not whole and _is_held(place, choice):
                continue
            learned = True
            act = self._learn_field(person, field, choice, sight, last, was_known=was_known)
            if act is not None:
                found.append(_found(sight, field, act))
            elif place is not None and not whole:
                self._note_uncounted(place, sight)
        if not whole and len(sight.choices) < len(self._reader.fields):
            self._note_not_shown(person, sight)
        if learned:
            self.flag(self._row(sight), person)
        return found

    def _learn_field(
        self,
        person: Person,
        field: ChoiceField,
        choice: bool,
        sight: Sight,
        last: Look | None,
        *,
        was_known: bool,
    ) -> Act | None:
        """Learn what a field shows; return the act that the person made, if it is news."""
        entry = person.entry(field.path)
        place, before = entry.places.get(field.place), entry.acts.get(ACTITO)
        absent_at = None
        if place is not None:
            self._prepare(entry, field, place, last)
        elif last is not None and field.look_name in last.places:
            # A subscription of a known profile is always there, so it wasn't shown by mistake.
            was_absent = field.kind == "attribute" if was_known else self._is_new(sight, last)
            absent_at = last.began if was_absent else None
            if not was_known and choice is OPT_IN and _waits_for_profile(entry):
                absent_at = None
        is_act = learn_look(
            entry,
            field.place,
            choice,
            began=sight.began,
            ended=sight.ended,
            rules=self._ledger.rules,
            run=self._run,
            absent_at=absent_at,
        )
        if absent_at is not None and was_known and choice is OPT_OUT:
            # Not a new profile, but an attribute that had no value: somebody set it.
            learn(entry, Act(OPT_OUT, absent_at, sight.ended, ACTITO, "look"))
            is_act = True
        act = entry.acts.get(ACTITO)
        return act if is_act and act != before else None

    def _note_uncounted(self, place: Place, sight: Sight) -> None:
        """Record that a look counted for nothing, although the look at the table is complete.

        Else what is held would count as seen by it.
        """
        held = place.held
        if place.intent is None and held is not None and held.ended == sight.ended:
            return
        self.uncounted += 1
        if held is not None:
            place.held = structs.replace(held, ended=max(held.ended, sight.ended + 1))

    def _note_not_shown(self, person: Person, sight: Sight) -> None:
        """Record which subscriptions a response lacks, though the look at the table is complete."""
        for field in self._reader.fields:
            if field.kind == "subscription" and field not in sight.choices:
                entry = person.entries.get(field.path)
                place = None if entry is None else entry.places.get(field.place)
                if place is not None:
                    self._note_uncounted(place, sight)

    def _prepare(self, entry: Entry, field: ChoiceField, place: Place, last: Look | None) -> None:
        """Bring what is held up to date before something else is learned.

        A write whose run has died is an orphan: there is one writer at a time, and this run is it.
        """
        refresh_held(place, field, last)
        intent = place.intent
        if intent is None or intent.import_number is not None or not self._run:
            return
        if intent.writer != self._run:
            orphan(entry, field.place)


def _was_there(sight: Sight, last: Look) -> bool:
    """Return whether a profile existed at the last look, by its id: ids grow (inferred)."""
    profile_id, highest_id = sight.profile_id or "", last.highest_id
    return highest_id is not None and profile_id.isdecimal() and int(profile_id) <= highest_id


def _waits_for_profile(entry: Entry) -> bool:
    """Return whether an opt-out of Didomi waited for the profile: it is written once that is there.

    That a new profile begins as subscribed may be the person's choice, or a default. Which one it
    is can't be known, so the opt-out counts.
    """
    act = newest_act(entry, DIDOMI)
    return act is not None and act.value is OPT_OUT


def refresh_held(place: Place, field: ChoiceField, last: Look | None) -> None:
    """Bring what a place holds up to date: a complete look that showed it wrote nothing.

    Args:
        place: The place, changed here.
        field: The field that it is.
        last: The last complete look.
    """
    held = place.held
    if held is None or last is None or field.look_name not in last.places:
        return
    if last.began >= held.ended and place.intent is None and not held.doubtful:
        place.held = structs.replace(
            held, began=max(held.began, last.began), ended=max(held.ended, last.ended)
        )


def _is_held(place: Place, choice: bool) -> bool:
    """Return whether a look at a place shows what is held for certain."""
    held = place.held
    return (
        held is not None
        and held.value is choice
        and not held.doubtful
        and place.intent is None
        and not place.late
    )


def _found(sight: Sight, field: ChoiceField, act: Act) -> FoundChange:
    return FoundChange.of(
        act, field, person=sight.spelling, profile_id=sight.profile_id, found_at=sight.ended
    )
