"""What became of a person's choices, with the reason, from what the ledger holds. Pure.

The ledger keeps the newest choice of each side, what each place holds, and our last writes there. A
verdict follows from these at any time, also where a run was killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from msgspec import structs

from actito_didomi import codes
from actito_didomi.consent.conflicts import (
    ACTITO,
    BEGINNING,
    DIDOMI,
    OPT_OUT,
    to_datetime,
)
from actito_didomi.consent.entries import due_at_field, due_at_users, newest_act, winner
from actito_didomi.consent.owing import known_users
from actito_didomi.consent.person import Owed
from actito_didomi.consent.places import describe_field, is_user

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.conflicts import Act, Baseline, Micros, Rules, Side
    from actito_didomi.consent.entries import Entry, Place, Write
    from actito_didomi.consent.leases import Direction
    from actito_didomi.consent.person import Person, Retry
    from actito_didomi.consent.runs import RunRow

Outcome = Literal[
    "written",
    "unchanged",
    "superseded",
    "newer_there",
    "no_profile",
    "no_user",
    "rejected",
    "deferred",
    "under_way",
    "owed",
    "not_mapped",
    "not_synced",
    "not_read",
    "skipped",
]
"""What became of a choice on the other side.

- `written`: a run wrote it.
- `unchanged`: the other side showed it already.
- `superseded`: a newer choice of the person, on the same side, took its place.
- `newer_there`: the person's own choice on the other side counts.
- `no_profile`, `no_user`: the other side doesn't know the person; the choice is owed.
- `rejected`: the other side refused it; it is owed, and attempted again.
- `deferred`: it waits for a setting, or a guard keeps it back; it is owed.
- `under_way`: a write was begun, and its end isn't known.
- `owed`: it is known, and not written yet.
- `not_mapped`: no mapping names it.
- `not_synced`: no run of the target of this direction is on record.
- `not_read`: no record read so far holds it.
- `skipped`: the record that holds it doesn't count.
"""
OWED: Final[frozenset[Outcome]] = frozenset(
    {"no_profile", "no_user", "rejected", "deferred", "under_way", "owed"}
)
"""Outcomes of choices that are yet to be written, or may be."""

_TARGETS: Final[dict[Direction, str]] = {"forward": "target-actito", "reverse": "target-didomi"}
_NAMES: Final[dict[Side, str]] = {ACTITO: "Actito", DIDOMI: "Didomi"}
_BASELINES: Final[tuple[Baseline, Baseline]] = ("didomi", "opt_out")
_SKIPS: Final = {
    codes.NOT_CONFIRMED.name: "it counts once Didomi shows it as confirmed",
}
_CLOCKS_DIFFER = 60_000_000
"""By how much the clock of an API may differ from ours, in microseconds."""


@dataclass(frozen=True)
class Verdict:
    """What became of one choice at one place of the other side.

    Attributes:
        path: The choice in Didomi.
        direction: `forward` for a choice made in Didomi, `reverse` for one made in Actito.
        choice: `opt-in` or `opt-out`.
        outcome: What became of it.
        sentence: All this in one sentence.
        place: The field in Actito or the user in Didomi; empty where none is known.
        earliest: When it was made at the earliest; None where that isn't known.
        latest: When it was made at the latest.
        written_at: When it was written, or the write was begun; None where it wasn't.
        run: Number of the run that wrote it; None where that isn't known.
        code: Name of the code of the reason; empty where there is none.
        attempts: How often it was refused in the same way.
        next_at: When it is attempted again; None for the next run.
    """

    path: Path
    direction: Direction
    choice: str
    outcome: Outcome
    sentence: str
    place: str = ""
    earliest: str | None = None
    latest: str | None = None
    written_at: str | None = None
    run: int | None = None
    code: str = ""
    attempts: int = 0
    next_at: str | None = None

    @property
    def owes_opt_out(self) -> bool:
        """Whether an opt-out is yet to be written."""
        return self.outcome in OWED and self.choice == "opt-out"


def show_time(micros: Micros | None) -> str | None:
    """Return a timestamp in UTC, to the second; None where it isn't known."""
    if micros is None or micros <= BEGINNING:
        return None
    return to_datetime(micros).isoformat(timespec="seconds").replace("+00:00", "Z")


class Explainer:
    """Explains what became of the choices of people.

    Args:
        rules: Settings that decide between choices.
        runs: All runs on record, newest first.
        mapped: The mapped fields in Actito: path of the choice, and place.
    """

    def __init__(
        self, rules: Rules, runs: Sequence[RunRow], mapped: Iterable[tuple[Path, str]]
    ) -> None:
        self._rules = rules
        self._runs = runs
        self._plugins = {run.plugin for run in runs}
        self._fields: dict[Path, list[str]] = {}
        for path, place in mapped:
            self._fields.setdefault(path, []).append(place)

    def explain(self, person: Person) -> list[Verdict]:
        """Return what became of each choice of a person, in the order of their paths.

        Of each choice and place the newest verdict comes first; what a later choice has superseded
        follows.
        """
        found: list[Verdict] = []
        for path in sorted(person.entries):
            entry = person.entries[path]
            best = self._winner(entry, person)
            in_didomi = newest_act(entry, DIDOMI)
            if in_didomi is not None:
                found += self._forward(path, entry, person, in_didomi, best)
            in_actito = entry.acts.get(ACTITO)
            if in_didomi is None and in_actito is None:
                found += self._copies(path, entry)
            if in_actito is not None and path[0] == "consents":
                found += self._reverse(path, entry, person, in_actito, best)
        return found

    def explain_at(self, person: Person, made_at: Micros) -> list[Verdict]:
        """Return what became of choices that a person made in Didomi at a known time.

        Only the newest choice of each is kept: an older one is superseded by it, and one that is
        newer than all was not read yet.

        Args:
            person: The person.
            made_at: When the choices were made, to the second.
        """
        found: list[Verdict] = []
        for path in sorted(person.entries):
            entry = person.entries[path]
            act = newest_act(entry, DIDOMI)
            if act is None:
                continue
            if made_at <= act.latest < made_at + 1_000_000:
                found += self._forward(path, entry, person, act, self._winner(entry, person))
                continue
            is_older = made_at < act.latest
            when = f"A choice made in Didomi on {show_time(made_at)}"
            sentence = (
                f"{when} is superseded by the {_choice(act.value)} of {_when(act)}."
                if is_older
                else f"{when} was not read: the newest one that was is the "
                f"{_choice(act.value)} of {_when(act)}."
            )
            found.append(
                Verdict(
                    path=path,
                    direction="forward",
                    choice="unknown",
                    earliest=show_time(made_at),
                    latest=show_time(made_at),
                    outcome="superseded" if is_older else "not_read",
                    sentence=sentence,
                )
            )
        return found

    def explain_skips(self, person: Person, skips: Mapping[str, Micros]) -> list[Verdict]:
        """Return what became of records that were skipped, unless a newer choice is known.

        Args:
            person: The person.
            skips: Timestamps of skipped records, by the name of the reason's code.
        """
        newest = max(
            (act.latest for e in person.entries.values() if (act := newest_act(e, DIDOMI))),
            default=BEGINNING,
        )
        return [
            Verdict(
                path=(),
                direction="forward",
                choice="unknown",
                outcome="skipped",
                latest=show_time(at),
                code=code,
                sentence=f"A record of {show_time(at)} was skipped ({code}): "
                f"{_SKIPS.get(code, 'it does not count')}.",
            )
            for code, at in skips.items()
            if at > newest
        ]

    @staticmethod
    def _copies(path: Path, entry: Entry) -> Iterator[Verdict]:
        """Yield choices in Didomi that are no choice of the person there, but copies."""
        for name, place in sorted(entry.places.items()):
            held = place.held
            if is_user(name) and held is not None and held.ours and held.value is not None:
                yield Verdict(
                    path=path,
                    direction="forward",
                    choice=_choice(held.value),
                    outcome="skipped",
                    earliest=show_time(held.began),
                    latest=show_time(held.ended),
                    code=codes.DELEGATE.name,
                    sentence=f"The {_choice(held.value)} in Didomi of {show_time(held.began)} was "
                    "skipped (delegate): it was brought there from Actito.",
                )

    def _winner(self, entry: Entry, person: Person) -> Act | None:
        """Return the act that counts, also where `baseline` is set for the plugins alone.

        What is flagged as deferred waits for it; of all else it follows from what Actito shows.
        """
        best = winner(entry, self._rules)
        if best is not None or not entry.acts or person.owed & Owed.DEFERRED:
            return best
        didomi, actito = (
            winner(entry, structs.replace(self._rules, baseline=setting)) for setting in _BASELINES
        )
        fields = [name for name in entry.places if not is_user(name)]
        is_done = all(due_at_field(entry, name, didomi) is None for name in fields)
        return didomi if is_done or person.owed & Owed.ACTITO else actito

    # Didomi to Actito

    def _forward(
        self, path: Path, entry: Entry, person: Person, act: Act, best: Act | None
    ) -> Iterator[Verdict]:
        places = {name for name in entry.places if not is_user(name)}
        places.update(self._fields.get(path, ()))
        said = _Said(path, "forward", act)
        if path[0] == "actito":
            return
        if "target-actito" not in self._plugins:
            yield said.verdict("not_synced", "", f"{said.text}: no run of target-actito is known.")
            return
        if not places:
            yield said.verdict("not_mapped", "", f"{said.text} is in no mapping.")
            return
        for name in sorted(places):
            place = entry.places.get(name)
            field = describe_field(name)
            due = due_at_field(entry, name, best)
            yield self._at_field(said, person, field, place=place, best=best, due=due)
            yield from self._superseded(said, field, place)
        yield from self._other_users(said, entry)

    def _at_field(
        self,
        said: _Said,
        person: Person,
        field: str,
        *,
        place: Place | None,
        best: Act | None,
        due: Act | None,
    ) -> Verdict:
        """Return what became of a choice at one field in Actito."""
        act, text = said.act, said.text
        if best is None:
            return said.verdict(
                "deferred",
                field,
                f"{text} waits for the setting `baseline`: Actito showed an opt-out at the first "
                "look, and nobody knows since when.",
                code=codes.CHANGES_DEFERRED.name,
            )
        if best.value is not act.value:
            return self._newer_there(said, field, best)
        intent = place.intent if place is not None else None
        if place is not None and due is None and intent is None:
            return self._shown(said, field, place)
        if intent is not None and intent.value is act.value:
            return self._under_way(said, field, intent.began, intent.import_number)
        return self._owed(said, person, field)

    def _shown(self, said: _Said, field: str, place: Place) -> Verdict:
        """Return how it came that a field shows a choice."""
        write, held = _write_of(place, said.act), place.held
        if write is not None:
            return self._written(said, field, write.began)
        if held is not None and held.ours and held.ended >= said.act.earliest:
            return said.verdict(
                "written",
                field,
                f"{said.text} was written to {field} by {show_time(held.ended)} at the latest: a "
                "look found it there after a write whose end wasn't known.",
            )
        return said.verdict(
            "unchanged", field, f"{said.text} was not written: {field} showed it already."
        )

    def _newer_there(self, said: _Said, place: str, best: Act) -> Verdict:
        there = _NAMES[best.side]
        if best.source == "baseline":
            reason = (
                f"{there} showed an opt-out at the first look, and the setting `baseline` prefers "
                "it."
            )
        elif best.value is OPT_OUT and best.earliest <= said.act.latest:
            reason = (
                f"the {_choice(best.value)} in {there} of {_when(best)} counts, since the order of "
                "the two can't be known."
            )
        else:
            reason = f"the {_choice(best.value)} in {there} of {_when(best)} is newer."
        return said.verdict("newer_there", place, f"{said.text} was not written: {reason}")

    def _written(self, said: _Said, place: str, began: Micros) -> Verdict:
        run = self._run_at(said.direction, began)
        return said.verdict(
            "written",
            place,
            f"{said.text} was written to {place} on {show_time(began)} {_by(run)}.",
            written_at=show_time(began),
            run=None if run is None else run.number,
        )

    def _under_way(
        self, said: _Said, place: str, began: Micros, import_number: int | None
    ) -> Verdict:
        run = self._run_at(said.direction, began)
        means = "a request" if import_number is None else f"import {import_number}"
        ends = "the next run finds out whether it was carried out"
        if run is not None and run.ended is None:
            ends = f"if that run is over, {ends}"
        return said.verdict(
            "under_way",
            place,
            f"{said.text} is being written to {place} by {means} since {show_time(began)} "
            f"{_by(run)}; {ends}.",
            written_at=show_time(began),
            run=None if run is None else run.number,
        )

    def _owed(self, said: _Said, person: Person, place: str) -> Verdict:
        """Return why a choice is yet to be written."""
        side: Side = ACTITO if said.direction == "forward" else DIDOMI
        there, text = _NAMES[side], said.text
        is_owed = person.owed & (Owed.ACTITO if side == ACTITO else Owed.DIDOMI)
        if not is_owed:
            return said.verdict(
                "not_mapped", place, f"{text} was not written to {place}: no mapping asks for it."
            )
        retry = person.retries.get(side)
        missing = person.owed & (Owed.NO_PROFILE if side == ACTITO else Owed.NO_USER)
        if missing or (retry is not None and retry.name == codes.UNMATCHED.name):
            name: Outcome = "no_profile" if side == ACTITO else "no_user"
            return said.verdict(
                name,
                place,
                f"{text} was not written: {there} doesn't know the person. It is owed, and written "
                f"once {there} does; {_next(retry)}.",
                retry=retry,
            )
        if retry is not None:
            is_refused = retry.name.endswith("_refused")
            verb = "was refused by" if is_refused else "was not written to"
            return said.verdict(
                "rejected" if is_refused else "deferred",
                place,
                f"{text} {verb} {there} ({retry.code}), {_times(retry.attempts)}. It is owed; "
                f"{_next(retry)}.",
                retry=retry,
            )
        return said.verdict(
            "owed", place, f"{text} is not written yet. It is owed; the next run writes it."
        )

    def _superseded(self, said: _Said, field: str, place: Place | None) -> Iterator[Verdict]:
        """Yield what was written before, and a newer choice has superseded."""
        for write in reversed(place.writes if place is not None else ()):
            if write.value is said.act.value:
                continue
            run = self._run_at(said.direction, write.began)
            yield Verdict(
                path=said.path,
                direction=said.direction,
                choice=_choice(write.value),
                place=field,
                outcome="superseded",
                written_at=show_time(write.began),
                run=None if run is None else run.number,
                sentence=f"An {_choice(write.value)} was written to {field} on "
                f"{show_time(write.began)} {_by(run)}; it is superseded by the "
                f"{_choice(said.act.value)} of {_when(said.act)}.",
            )

    @staticmethod
    def _other_users(said: _Said, entry: Entry) -> Iterator[Verdict]:
        """Yield older choices of the person's other users in Didomi."""
        for name, place in sorted(entry.places.items()):
            held = place.held
            if (
                is_user(name)
                and held is not None
                and not held.ours
                and held.value is not None
                and held.value is not said.act.value
            ):
                yield Verdict(
                    path=said.path,
                    direction=said.direction,
                    choice=_choice(held.value),
                    earliest=show_time(held.began),
                    latest=show_time(held.ended),
                    outcome="superseded",
                    sentence=f"The {_choice(held.value)} of another Didomi user of the person, of "
                    f"{show_time(held.ended)}, is superseded by the {_choice(said.act.value)} of "
                    f"{_when(said.act)}.",
                )

    # Actito to Didomi

    def _reverse(
        self, path: Path, entry: Entry, person: Person, act: Act, best: Act | None
    ) -> Iterator[Verdict]:
        said = _Said(path, "reverse", act)
        if act.source == "baseline" and (best is None or best.side == DIDOMI):
            return  # nobody's choice, and nothing follows from it
        if "target-didomi" not in self._plugins:
            yield said.verdict("not_synced", "", f"{said.text}: no run of target-didomi is known.")
            return
        if best is not None and best.value is not act.value:
            yield self._newer_there(said, "", best)
            return
        users = known_users(person)
        due = due_at_users(entry, users, best)
        if not users:
            yield self._at_no_user(said, person)
            return
        for number, user in enumerate(users, 1):
            name = "the Didomi user" if len(users) == 1 else f"Didomi user {number}"
            place = entry.places.get(user)
            held = place.held if place is not None else None
            if user in due:
                yield self._owed(said, person, name)
            elif held is not None and held.ours and held.value is act.value:
                yield self._written(said, name, held.began)
            else:
                yield said.verdict("unchanged", name, _unchanged_text(said, name, held is not None))

    def _at_no_user(self, said: _Said, person: Person) -> Verdict:
        if said.act.source == "baseline":
            return said.verdict(
                "unchanged", "", f"{said.text} needs no event: the person chose nothing in Didomi."
            )
        return self._owed(said, person, "Didomi")

    # Runs

    def _run_at(self, direction: Direction, at: Micros) -> RunRow | None:
        """Return the run that wrote at a time; None where it is no longer on record."""
        runs = [run for run in self._runs if run.plugin == _TARGETS[direction]]
        for margin in (0, _CLOCKS_DIFFER):
            for run in runs:
                if run.began - margin <= at and (run.ended is None or at <= run.ended + margin):
                    return run
        return None


class _Said:
    """A choice of a person, in words.

    Args:
        path: The choice in Didomi.
        direction: Where it is to be brought.
        act: The choice.
    """

    def __init__(self, path: Path, direction: Direction, act: Act) -> None:
        self.path = path
        self.direction = direction
        self.act = act
        where = f" in {_NAMES[act.side]}"
        self.text = f"The {_choice(act.value)}{where} of {_when(act)}"

    def verdict(
        self,
        outcome: Outcome,
        place: str,
        sentence: str,
        *,
        written_at: str | None = None,
        run: int | None = None,
        code: str = "",
        retry: Retry | None = None,
    ) -> Verdict:
        """Return a verdict on this choice."""
        return Verdict(
            path=self.path,
            direction=self.direction,
            choice=_choice(self.act.value),
            earliest=show_time(self.act.earliest),
            latest=show_time(self.act.latest),
            place=place,
            outcome=outcome,
            written_at=written_at,
            run=run,
            code=code if retry is None else retry.code,
            attempts=0 if retry is None else retry.attempts,
            next_at=None if retry is None else show_time(retry.next_at),
            sentence=sentence,
        )


def owes_opt_out(verdicts: Collection[Verdict]) -> bool:
    """Return whether an opt-out among these is yet to be written."""
    return any(verdict.owes_opt_out for verdict in verdicts)


def _write_of(place: Place, act: Act) -> Write | None:
    """Return our write that brought a choice to a field; None where none did."""
    later = [w for w in place.writes if w.value is act.value and w.ended >= act.earliest]
    return min(later, key=lambda write: write.began, default=None)


def _unchanged_text(said: _Said, place: str, shows: bool) -> str:
    if shows:
        return f"{said.text} was not written: {place} showed it already."
    return f"{said.text} needs no event: another user of the person shows it."


def _choice(value: bool) -> str:
    return "opt-out" if value is OPT_OUT else "opt-in"


def _when(act: Act) -> str:
    """Return when a choice was made, as far as that is known."""
    if act.earliest == act.latest:
        return str(show_time(act.latest))
    if act.earliest <= BEGINNING:
        return f"{show_time(act.latest)} or earlier"
    return f"{show_time(act.earliest)} to {show_time(act.latest)}"


def _by(run: RunRow | None) -> str:
    return "by a run that is no longer on record" if run is None else f"by run {run.number}"


def _times(attempts: int) -> str:
    return "once" if attempts == 1 else f"{attempts} times"


def _next(retry: Retry | None) -> str:
    if retry is None or retry.next_at <= 0:
        return "the next run attempts it again"
    return f"next attempt by the first run after {show_time(retry.next_at)}"
