"""A profile that gets another key."""

from __future__ import annotations

from actito_didomi.consent.conflicts import ACTITO, BEGINNING, DIDOMI, Act, Rules
from actito_didomi.consent.entries import Held, Intent, Place, Write
from actito_didomi.consent.moves import attach_profile, detach_profile
from actito_didomi.consent.person import Person

PATH = ("consents", "channels", "email", "enabled")
FIELD, USER = "a:subscription:Newsletter", "d:00000001"
RULES = Rules()


def person(*acts: Act, **places: Place) -> Person:
    """Return a person with one choice."""
    found = Person(profile_id="7", spelling="ann")
    entry = found.entry(PATH)
    entry.acts.update({act.side: act for act in acts})
    entry.places.update({FIELD if name == "field" else USER: p for name, p in places.items()})
    return found


def test_what_belongs_to_the_profile_moves_and_what_belongs_to_the_user_stays() -> None:
    """Acts in Actito and fields move; users in Didomi and their opt-ins stay."""
    chosen = Act(True, 1, 2, ACTITO, "look")
    said = Act(True, 3, 3, DIDOMI, "event")
    old = person(chosen, said, field=Place(Held(True, 1, 2)), user=Place(Held(True, 3, 3)))
    part = detach_profile(old, 10, RULES)
    assert old.entries[PATH].acts == {DIDOMI: said}
    assert list(old.entries[PATH].places) == [USER]
    assert (old.profile_id, old.spelling) == (None, None)
    new = Person()
    assert attach_profile(new, part) == [(PATH, chosen)]
    assert new.entries[PATH].acts == {ACTITO: chosen}
    assert new.entries[PATH].places == {FIELD: Place(Held(True, 1, 2))}


def test_an_opt_out_in_didomi_is_taken_along() -> None:
    """The profile holds it, and must go on to."""
    said = Act(False, 3, 3, DIDOMI, "event")
    old = person(said, field=Place(Held(False, 1, 2, ours=True)))
    new = person(Act(True, 1, 1, DIDOMI, "event"))
    assert attach_profile(new, detach_profile(old, 10, RULES)) == []
    assert old.entries[PATH].acts == {DIDOMI: said}
    assert new.entries[PATH].acts == {DIDOMI: said}


def test_a_baseline_moves_and_is_no_news() -> None:
    """Nobody knows when it was chosen."""
    baseline = Act(False, BEGINNING, 2, ACTITO, "baseline")
    new = Person()
    assert attach_profile(new, detach_profile(person(baseline), 10, RULES)) == []
    assert new.entries[PATH].acts == {ACTITO: baseline}


def test_open_writes_of_both_keys_may_come_late() -> None:
    """The person made them can't end them under the new key."""
    single, imported = Intent(True, 5, "1"), Intent(False, 6, "1", 3)
    old = person(field=Place(Held(True, 1, 2), single, writes=[Write(True, 1, 2)]))
    new = person(field=Place(Held(False, 3, 4), late=[imported], writes=[Write(False, 0, 1)]))
    attach_profile(new, detach_profile(old, 10, RULES))
    place = new.entries[PATH].places[FIELD]
    assert place.held == Held(True, 1, 2)
    assert place.intent is None
    assert [late.until for late in place.late] == [imported.until, 10 + RULES.late_bound]
    assert place.writes == [Write(False, 0, 1), Write(True, 1, 2)]
