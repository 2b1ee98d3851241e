"""What is known of one choice of one person, and the rules by which it is learned. Pure.

An entry holds the newest act of each side, and for each place what it holds and what was begun to
be written there. A place is a field of a profile in Actito, or a user in Didomi (`places`). All
values are choices: True for an opt-in, whatever the field in Actito holds.

Looks at a place come in sequence; events and rows may come in any order, late and repeatedly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from msgspec import structs

from actito_didomi.consent.conflicts import (
    ACTITO,
    BEGINNING,
    DIDOMI,
    END,
    OPT_IN,
    OPT_OUT,
    Act,
    Micros,
    Side,
    certainly_later,
    newest,
)
from actito_didomi.consent.conflicts import winner as _winner
from actito_didomi.consent.places import is_user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actito_didomi.consent.conflicts import Rules

ORPHAN: Final = "orphan"
"""The writer of an intent whose run has died."""
_MOST_WRITES = 16


class Held(msgspec.Struct, frozen=True, gc=False):
    """The choice that a place held at some time within `began`..`ended`.

    Of a user in Didomi: the choice that they held at `ended`, whose newest known event is of
    `began`.

    Attributes:
        value: The choice; None where it shows none.
        began: When the look or the write began.
        ended: When it had ended.
        ours: Whether we wrote it.
        doubtful: Whether another change may have come after it: look again. Of a user in Didomi:
            whether the event that made the choice is not known.
    """

    value: bool | None
    began: Micros
    ended: Micros
    ours: bool = False
    doubtful: bool = False


class Intent(msgspec.Struct, frozen=True, gc=False):
    """A write that was begun and whose end is not known. On disk before the request.

    Attributes:
        value: The choice.
        began: When it was begun.
        writer: The run that makes the request; `ORPHAN` once that has died.
        import_number: The import that it is part of; None for a single request.
        until: Once it was given up: when it can no longer be carried out.
    """

    value: bool
    began: Micros
    writer: str
    import_number: int | None = None
    until: Micros = END


class Write(NamedTuple):
    """A write of ours that was carried out within `began`..`ended`."""

    value: bool
    began: Micros
    ended: Micros


class Place(msgspec.Struct, gc=False):
    """What is known of a choice in one place.

    Attributes:
        held: What it holds; None where it was never seen.
        intent: The write that is open there.
        late: Writes given up that may still be carried out.
        writes: Our writes of the last days, for rows of an export.
    """

    held: Held | None = None
    intent: Intent | None = None
    late: list[Intent] = []
    writes: list[Write] = []


class Entry(msgspec.Struct, gc=False):
    """What is known of one choice of one person.

    Attributes:
        acts: The newest act of each side.
        places: By name.
    """

    acts: dict[Side, Act] = {}
    places: dict[str, Place] = {}

    def place(self, name: str) -> Place:
        """Return a place; an empty one is added if there is none."""
        found = self.places.get(name)
        if found is None:
            found = self.places[name] = Place()
        return found


def learn(entry: Entry, act: Act) -> None:
    """Learn an act of a person."""
    entry.acts[act.side] = newest(entry.acts.get(act.side), act)


def newest_act(entry: Entry, side: Side) -> Act | None:
    """Return the newest act of a side; None if none is known.

    In Didomi, choices count that a status showed and whose events are not known.
    """
    found = entry.acts.get(side)
    if side == DIDOMI:
        for name, place in entry.places.items():
            held = place.held
            if held is not None and held.doubtful and held.value is not None and is_user(name):
                found = newest(found, Act(held.value, BEGINNING, held.ended, DIDOMI, "status"))
    return found


def winner(entry: Entry, rules: Rules) -> Act | None:
    """Return the act that all places should show; None where none is known, or it is deferred."""
    actito, didomi = entry.acts.get(ACTITO), newest_act(entry, DIDOMI)
    copied = BEGINNING
    if actito is not None and actito.source == "baseline":
        copied = _copied_at(entry)
    return _winner(actito, didomi, rules.clock_tolerance, rules.baseline, copied)


def _copied_at(entry: Entry) -> Micros:
    """Return when the newest copy of an opt-out was made that a user in Didomi shows since."""
    return max(
        (
            place.held.began
            for name, place in entry.places.items()
            if place.held is not None
            and place.held.ours
            and place.held.value is OPT_OUT
            and is_user(name)
        ),
        default=BEGINNING,
    )


def is_deferred(entry: Entry, rules: Rules) -> bool:
    """Return whether an opt-in waits until the setting `baseline` decides."""
    return bool(entry.acts) and winner(entry, rules) is None


# Didomi


def learn_event(
    entry: Entry,
    user: str,
    value: bool,
    created: Micros,
    *,
    ours: bool,
    arrival: Micros,
    rules: Rules,
) -> None:
    """Learn an event of Didomi: an act unless it is ours, also where its value is held already.

    Args:
        entry: What is known of the choice, changed here.
        user: Place of the event's user.
        value: The choice.
        created: Its timestamp.
        ours: Whether we posted it.
        arrival: When it had arrived at the latest; the same at each reading of one event.
        rules: Settings that decide.
    """
    place = entry.place(user)
    event = Held(value, created, created, ours)
    in_future = created > arrival + rules.clock_tolerance
    if in_future and place.held == event:
        return  # read again: it had arrived when it was read first
    _hold_event(entry, place, event)
    if ours:
        return
    # A timestamp in the future says nothing of the order. One that is later than the arrival by no
    # more than clocks may differ stands: made older, an opt-out would lose to an opt-in before it.
    earliest, latest = (BEGINNING, arrival) if in_future else (created, created)
    learn(entry, Act(value, earliest, latest, DIDOMI, "event"))


def _hold_event(entry: Entry, place: Place, event: Held) -> None:
    """Keep what a user in Didomi holds, after an event."""
    held, created = place.held, event.began
    is_opt_out = event.value is OPT_OUT
    if held is None or created > held.ended or (created == held.ended and is_opt_out):
        if held is not None:
            _keep_status(entry, held)
        place.held = event
    elif created > held.began or (created == held.began and is_opt_out):
        # A status showed later what the user held: this event made it, or one that is not known.
        is_known = event.value is held.value
        ours = event.ours and is_known
        place.held = Held(held.value, created, held.ended, ours, doubtful=not is_known)


def _keep_status(entry: Entry, held: Held) -> None:
    """Keep the act of a status whose event isn't known, before something newer takes its place."""
    if held.doubtful and held.value is not None:
        learn(entry, Act(held.value, BEGINNING, held.ended, DIDOMI, "status"))


def learn_status(
    entry: Entry, user: str, value: bool, updated: Micros, *, arrival: Micros, rules: Rules
) -> None:
    """Learn a choice of the whole status of a Didomi user, which doesn't say when it was made.

    A status that shows what is held is no act. Else the choice was made when the user last changed,
    at the latest; an opt-in of unknown age never wins over an opt-out. Once the event is known that
    made the choice, the event counts instead.

    Args:
        entry: What is known of the choice, changed here.
        user: Place of the user.
        value: The choice.
        updated: When the user last changed.
        arrival: When the status had arrived at the latest.
        rules: Settings that decide.
    """
    place = entry.place(user)
    held, latest = place.held, min(updated, arrival)
    if held is None:
        place.held = Held(value, BEGINNING, latest, doubtful=True)
        return
    # What is held since a time in the future says nothing of the order.
    in_future = held.ended > arrival + rules.clock_tolerance
    is_newer = latest > held.ended or (latest == held.ended and value is OPT_OUT) or in_future
    if not is_newer:
        return
    if value is held.value:
        if not held.doubtful and not in_future:  # and was so until then
            place.held = structs.replace(held, ended=latest)
        return
    _keep_status(entry, held)
    place.held = Held(value, BEGINNING if in_future else held.began, latest, doubtful=True)


def forget_user(entry: Entry, user: str) -> None:
    """Forget a Didomi user who is gone; what only their status showed was chosen all the same.

    Args:
        entry: What is known of the choice, changed here.
        user: Place of the user.
    """
    place = entry.places.pop(user, None)
    if place is not None and place.held is not None:
        _keep_status(entry, place.held)


# Actito


def learn_look(
    entry: Entry,
    name: str,
    value: bool,
    *,
    began: Micros,
    ended: Micros,
    rules: Rules,
    run: str = "",
    absent_at: Micros | None = None,
) -> bool:
    """Learn the choice that a field in Actito showed within `began`..`ended`.

    Args:
        entry: What is known of the choice, changed here.
        name: The field's place.
        value: The choice it showed.
        began: When the look began; of one page, not of a listing.
        ended: When it had ended.
        rules: Settings that decide.
        run: The run that looks, if it writes to Actito.
        absent_at: When a complete look began that lacked the profile; None if there was none.

    Returns:
        Whether it made an act of the person.
    """
    place = entry.place(name)
    held, intent = place.held, place.intent
    if held is not None:  # a late write is over only when a look began after its bound
        for late in [late for late in place.late if late.until < held.began]:
            place.late.remove(late)
            _note_write(place, Write(late.value, late.began, late.until))  # its row may still come
    if held is None and intent is None:
        place.held = Held(value, began, ended)
        return _learn_first_look(entry, name, value, ended, absent_at)
    if (held is not None and began < held.ended) or (intent is not None and began < intent.began):
        return False  # overlaps a write or a newer look: shows nothing for certain
    if intent is not None:
        return _learn_outcome(entry, name, Held(value, began, ended), rules, run)
    assert held is not None  # noqa: S101 - for mypy; checked above
    is_act = False
    known = entry.acts.get(ACTITO)
    explained = held.doubtful and (value is OPT_IN or (known is not None and known.value == value))
    # An opt-in may have come after what is held: then this opt-out came after that.
    is_hidden = (
        value is OPT_OUT
        and held.doubtful
        and not held.ours
        and known is not None
        and known.value is OPT_IN
    )
    if (value is not held.value and not explained) or is_hidden:
        # An opt-out may be the person's, so it is.
        copies = [late for late in place.late if late.value is value and value is OPT_IN]
        if copies:
            place.late.remove(copies[0])
            _note_write(place, Write(value, copies[0].began, ended))
        else:
            _learn_at_field(entry, name, Act(value, held.began, ended, ACTITO, "look"), held)
            is_act = True
    place.held = Held(value, began, ended, held.ours and value is held.value)
    return is_act


def _learn_first_look(
    entry: Entry, name: str, value: bool, ended: Micros, absent_at: Micros | None
) -> bool:
    """Learn the first look at a field."""
    if absent_at is not None:
        if value is OPT_OUT:
            return False  # a new profile: its "no" was chosen by nobody
        _learn_at_field(entry, name, Act(value, absent_at, ended, ACTITO, "look"), None)
        return True
    if value is OPT_OUT:  # an opt-in of unknown age loses to anything, and is no act
        _learn_at_field(entry, name, Act(value, BEGINNING, ended, ACTITO, "baseline"), None)
    return False


def _learn_outcome(entry: Entry, name: str, seen: Held, rules: Rules, run: str) -> bool:
    """Learn a look at a field to which a write is open."""
    place = entry.place(name)
    intent, value, ended = place.intent, seen.value, seen.ended
    if intent is None or value is None:
        return False
    mine = intent.import_number is None and run != "" and intent.writer in (run, ORPHAN)
    if not mine:
        # A request is under way: nothing can be known from outside, or hardly anything.
        return intent.import_number is not None and _learn_during_import(entry, name, seen)
    is_act = False
    if value is OPT_OUT and intent.writer == ORPHAN:
        # Its run died: this is ours, or the person's since. It may be the person's, so it is.
        _learn_at_field(entry, name, Act(value, intent.began, ended, ACTITO, "look"), place.held)
        is_act = True
    place.intent = None
    if value is intent.value:
        place.held = Held(value, intent.began, ended, ours=True)  # and ours may still come
    else:
        # Not carried out, or taken back. A request of just now is presumed lost.
        place.held = seen
    _give_up(place, intent, ended, rules)
    return is_act


def _learn_during_import(entry: Entry, name: str, seen: Held) -> bool:
    """Learn a look at a field that an import may write, which may take long.

    An opt-in there may be ours. An opt-out that is seen after an opt-in is the person's.
    """
    place = entry.place(name)
    held, intent = place.held, place.intent
    if intent is None or intent.value is OPT_OUT:
        return False
    if seen.value is OPT_IN:
        place.held = Held(OPT_IN, seen.began, seen.ended, ours=True)
        return False
    if held is None or held.value is not OPT_IN or held.doubtful:
        return False
    act = Act(OPT_OUT, held.began, seen.ended, ACTITO, "look")
    _learn_at_field(entry, name, act, held)
    place.held = seen
    return True


def _learn_at_field(entry: Entry, name: str, act: Act, shown: Held | None) -> None:
    """Learn an act that was made at one field in Actito.

    Looks are known to come in sequence at one field alone: where the newest act may have been made
    at another field of the choice, windows are compared.

    Args:
        entry: What is known of the choice, changed here.
        name: The field's place.
        act: The act.
        shown: What the field was known to hold before.
    """
    known = entry.acts.get(ACTITO)
    if (
        known is None
        or known.value is act.value
        or not any(place != name and not is_user(place) for place in entry.places)
    ):
        learn(entry, act)
        return
    if act.value is OPT_IN:
        in_sequence = act.source == "look" and shown is not None and _shows_after(shown, known)
        counts = in_sequence or certainly_later(act, known, 0)
    else:
        # The field showed an opt-in after this row, which isn't ours: the person's own.
        is_over = (
            act.source == "row"
            and shown is not None
            and shown.value is OPT_IN
            and not shown.ours
            and shown.began > act.latest
        )
        counts = not is_over and not certainly_later(known, act, 0)
    if counts:
        entry.acts[ACTITO] = act


def _shows_after(shown: Held, known: Act) -> bool:
    """Return whether a field held `shown` after the act for certain, or with it in one look."""
    if known.source == "row" and shown.began == known.earliest and shown.value is known.value:
        return True  # it is the row's own field
    return shown.began >= known.latest or (known.source != "row" and shown.ended == known.latest)


def learn_opt_out_of_unknown_age(entry: Entry, name: str, ended: Micros) -> None:
    """Learn that an opt-out is written to a field without a look, which may hide the person's own.

    To be called in the transaction that decides to write it.

    Args:
        entry: What is known of the choice, changed here.
        name: The field's place.
        ended: When that is decided.
    """
    place = entry.place(name)
    held = place.held
    if held is None:
        act = Act(OPT_OUT, BEGINNING, ended, ACTITO, "baseline")
    elif held.value is OPT_OUT and not held.doubtful and place.intent is None:
        return  # nothing is written
    else:
        act = Act(OPT_OUT, min(held.began, ended), ended, ACTITO, "look")
    _learn_at_field(entry, name, act, held)


def learn_row(
    entry: Entry,
    name: str,
    value: bool,
    *,
    earliest: Micros,
    latest: Micros,
    arrival: Micros,
    rules: Rules,
) -> bool:
    """Learn a row of Actito's export of changes, which holds our own writes as well.

    A row with the value and the time of a write of ours is ours or the person's: where both wrote
    the same, there is one row. An opt-out may be the person's, so it is; an opt-in is ours.

    Args:
        entry: What is known of the choice, changed here.
        name: The field's place.
        value: The choice that the row says.
        earliest: When the change was made at the earliest.
        latest: When it was made at the latest.
        arrival: When the row had arrived at the latest.
        rules: Settings that decide.

    Returns:
        Whether it is no write of ours for certain.
    """
    place = entry.place(name)
    margin = rules.clock_tolerance
    open_writes = [*place.late, *([place.intent] if place.intent is not None else [])]
    spans = [*place.writes, *(Write(i.value, i.began, i.until) for i in open_writes)]
    is_ours = any(
        write.value is value and earliest <= write.ended + margin and latest >= write.began - margin
        for write in spans
    )
    held = place.held
    in_future = earliest > arrival + margin  # says nothing of the order
    if held is not None and value is not held.value:
        if earliest > held.ended + margin and not in_future:
            place.held = Held(value, earliest, latest + margin)
        elif latest + margin >= held.began:
            place.held = structs.replace(held, doubtful=True)  # before or after what is held
    if not is_ours or value is OPT_OUT:
        begins = BEGINNING if in_future else min(earliest, arrival)
        _learn_at_field(entry, name, Act(value, begins, min(latest, arrival), ACTITO, "row"), held)
    return not is_ours


# What is due


def due_actito(entry: Entry, name: str, rules: Rules) -> Act | None:
    """Return the act that is to be written to a field; None where nothing is."""
    return due_at_field(entry, name, winner(entry, rules))


def due_at_field(entry: Entry, name: str, best: Act | None) -> Act | None:
    """Return the winner of an entry if it is to be written to a field; else None."""
    if best is None:
        return None
    place = entry.places.get(name)
    if place is None:
        return best
    held, intent = place.held, place.intent
    if held is not None and held.value is best.value and not held.doubtful and intent is None:
        return None
    if intent is not None and intent.import_number is not None and intent.value is best.value:
        return None  # under way
    return best


def may_be_overwritten(entry: Entry, name: str) -> bool:
    """Return whether an opt-in of ours that was given up may come after what a field shows.

    An import that is still awaited doesn't count: its end is known one day.
    """
    place = entry.places.get(name)
    return place is not None and any(
        late.value is OPT_IN
        and late.import_number is None
        and (place.held is None or late.until >= place.held.began)
        for late in place.late
    )


def is_seen(place: Place | None, looked_at: Micros) -> bool:
    """Return whether a look that began then has shown a field as it is held, and counted.

    Args:
        place: The field.
        looked_at: When the look began; of a listing, its first page.
    """
    if place is None or place.intent is not None or place.held is None or place.held.doubtful:
        return False
    if any(late.import_number is not None for late in place.late):
        return False
    return not place.held.began < looked_at < place.held.ended


def due_didomi(entry: Entry, users: Sequence[str], rules: Rules) -> list[str]:
    """Return the Didomi users to whom the winner is to be posted.

    An opt-out goes to every user that doesn't say it; one of the baseline only to users that have
    made a choice. An opt-in goes where an opt-out of ours stands, and to the user heard of last if
    no user says yes.

    Args:
        entry: What is known of the choice.
        users: Places of all users of the person; at least one.
        rules: Settings that decide.
    """
    return due_at_users(entry, users, winner(entry, rules))


def due_at_users(entry: Entry, users: Sequence[str], best: Act | None) -> list[str]:
    """Return the Didomi users to whom the winner of an entry is to be posted; see `due_didomi`."""
    if best is None or not users:
        return []
    if len(users) == 1:  # as are most
        alone = _held(entry, users[0])
        if alone is not None and alone.value is best.value:
            return []
    nothing = Held(None, BEGINNING, BEGINNING)
    held = {user: _held(entry, user) or nothing for user in users}
    if best.value is OPT_OUT:
        spoken = list(users)
        if best.source == "baseline":
            spoken = [user for user in users if held[user].value is not None]
        return [user for user in spoken if held[user].value is not OPT_OUT]
    wanted = [user for user in users if held[user].value is OPT_OUT and held[user].ours]
    if not any(found.value is OPT_IN for found in held.values()):
        wanted.append(max(users, key=lambda user: (_heard_of(held[user]), user)))
    return sorted(set(wanted))


def _heard_of(held: Held) -> Micros:
    """Return when a user in Didomi was heard of last."""
    return held.ended if held.doubtful else held.began


def _held(entry: Entry, name: str) -> Held | None:
    place = entry.places.get(name)
    return None if place is None else place.held


# Writes


def begin_write(entry: Entry, name: str, intent: Intent, rules: Rules) -> None:
    """Record an intent, in the transaction that decided it.

    A write that is open already may still be carried out, late.
    """
    place = entry.place(name)
    if place.intent is not None:
        _give_up(place, place.intent, intent.began, rules)
    place.intent = intent


def end_write(entry: Entry, name: str, ended: Micros) -> None:
    """Record the known success of the open write, by `ended` at the latest."""
    place = entry.place(name)
    intent = place.intent
    if intent is None:
        return  # its end is known already
    place.held = Held(intent.value, intent.began, ended, ours=True)
    place.intent = None
    _note_write(place, Write(intent.value, intent.began, ended))


def end_import(entry: Entry, name: str, number: int, ended: Micros) -> None:
    """Record that an import has ended: known where it is the newest write, else overtaken."""
    place = entry.place(name)
    if place.intent is not None and place.intent.import_number == number:
        end_write(entry, name, ended)
    for late in [late for late in place.late if late.import_number == number]:
        place.late.remove(late)
        _note_write(place, Write(late.value, late.began, ended))
        if place.held is not None and place.held.value is not late.value:
            place.held = structs.replace(place.held, doubtful=True)


def drop_intent(entry: Entry, name: str) -> None:
    """Forget the open write: it certainly wasn't carried out."""
    entry.place(name).intent = None


def drop_import(entry: Entry, name: str, number: int) -> None:
    """Forget the write of an import, which certainly wasn't carried out."""
    place = entry.place(name)
    place.late = [late for late in place.late if late.import_number != number]
    if place.intent is not None and place.intent.import_number == number:
        place.intent = None


def give_up_intent(entry: Entry, name: str, now: Micros, rules: Rules) -> None:
    """Stop waiting for the open write, which may have been carried out, or may be yet."""
    place = entry.place(name)
    if place.intent is not None:
        _give_up(place, structs.replace(place.intent, import_number=None), now, rules)
        place.intent = None


def overtake_import(entry: Entry, name: str, number: int) -> None:
    """Stop waiting for an opt-out of an import that takes too long: it is due again.

    What the import still does is awaited all the same.
    """
    place = entry.place(name)
    intent = place.intent
    if intent is not None and intent.import_number == number and intent.value is OPT_OUT:
        place.late.append(intent)
        place.intent = None
        doubt(entry, name)


def doubt(entry: Entry, name: str) -> None:
    """Record that what a place holds may have changed, and isn't known until it is seen."""
    place = entry.place(name)
    if place.held is not None:
        place.held = structs.replace(place.held, doubtful=True)


def give_up_import(entry: Entry, name: str, number: int, now: Micros, rules: Rules) -> None:
    """Stop waiting for an import whose end can't be known, also where it was overtaken."""
    place = entry.place(name)
    if place.intent is not None and place.intent.import_number == number:
        give_up_intent(entry, name, now, rules)
        doubt(entry, name)
    until = now + rules.late_bound
    if any(late.import_number == number for late in place.late):
        doubt(entry, name)
    place.late[:] = [
        structs.replace(late, import_number=None, until=until)
        if late.import_number == number
        else late
        for late in place.late
    ]


def orphan(entry: Entry, name: str) -> None:
    """Record that the run has died that made the open request."""
    place = entry.place(name)
    if place.intent is not None:
        place.intent = structs.replace(place.intent, writer=ORPHAN)


def _give_up(place: Place, intent: Intent, now: Micros, rules: Rules) -> None:
    """Stop waiting for a write that may still be carried out; an import until its end is known."""
    if intent.import_number is None:
        intent = structs.replace(intent, until=now + rules.late_bound)
    place.late.append(intent)


def _note_write(place: Place, write: Write) -> None:
    place.writes.append(write)
    del place.writes[:-_MOST_WRITES]
