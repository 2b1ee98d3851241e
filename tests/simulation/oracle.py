"""What people really did, and what must hold: at each step, and at rest.

What no design that polls can know is excused exactly there, and counted: a click between the look
and the write of that person in one run (or while an import or a late request was under way), and a
choice that was taken back between two looks. With Actito's export of changes nothing is excused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulation.kernel import Process, Violation

if TYPE_CHECKING:
    from simulation.world import World

Cell = tuple[str, int, str]
"""Person, number of the choice, and `actito` or the id of a Didomi user."""
PROCESSES = 2
"""Of a job: a tap and a target."""
TOLERANCE = 60.0
"""The setting `clock_tolerance`, as it is by default."""


@dataclass
class TrueAct:
    """What a person really did.

    Attributes:
        number: Its place in the order of all acts.
        at: When, by the clock of the world.
        place: `actito`, or the id of a Didomi user.
        value: The choice.
        excuse: Why no design that polls can know of it, or act upon it.
        repeats: Whether the place showed the same before.
    """

    number: int
    at: float
    place: str
    value: bool
    excuse: str = ""
    repeats: bool = False

    @property
    def side(self) -> str:
        """The system in which it was done."""
        return "actito" if self.place == "actito" else "didomi"

    def __str__(self) -> str:
        choice = "opt-in" if self.value else "opt-out"
        return f"{choice} in {self.side} at {self.at:.3f}" + (
            f" ({self.excuse})" * bool(self.excuse)
        )


@dataclass
class Write:
    """A request that may have changed something."""

    process: Process
    side: str
    looks: dict[str, float]
    values: dict[tuple[str, int], bool]
    late: bool = False


@dataclass
class Import:
    """An import that may be under way."""

    process: Process
    looks: dict[str, float]
    people: frozenset[str]
    opt_outs: frozenset[tuple[str, int]]
    until: float


@dataclass
class Change:
    """A change of a cell, by an act of the person or by one of our requests."""

    at: float
    value: bool | None
    kind: str = ""


@dataclass
class Look:
    """A look at a cell, by a process."""

    at: float
    process: Process
    value: bool | None


@dataclass
class Oracle:
    """Watches all cells.

    Attributes:
        world: The story.
        cells: What both systems hold now.
        acts: What people did, by person and choice.
        setter: The act that set the present value of a cell in Actito; None if one of our requests
            did.
        excuses: How often each excuse was needed.
    """

    world: World
    cells: dict[Cell, bool | None] = field(default_factory=dict)
    acts: dict[tuple[str, int], list[TrueAct]] = field(default_factory=dict)
    setter: dict[Cell, TrueAct | None] = field(default_factory=dict)
    excuses: Counter[str] = field(default_factory=Counter)
    looks: dict[int, dict[str, float]] = field(default_factory=dict)
    history: dict[Cell, list[Change]] = field(default_factory=dict)
    seen: dict[Cell, list[Look]] = field(default_factory=dict)
    commits: dict[int, float] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    doubts: dict[tuple[int, str, int], float] = field(default_factory=dict)
    troubled: set[str] = field(default_factory=set)
    calls: Counter[str] = field(default_factory=Counter)

    # What is there

    def look_around(self) -> list[Cell]:
        """Read all cells from the sandbox; return those that have changed."""
        world = self.world
        fields, channels = _names(world)
        found: dict[Cell, bool | None] = {}
        rows = world.sandbox.database.all("SELECT attributes, subscriptions FROM profile")
        for attributes, subscriptions in rows:
            person = json.loads(attributes)["customerId"]
            states = json.loads(subscriptions)
            for number, name in enumerate(fields):
                found[person, number, "actito"] = bool(states.get(name))
        for (body,) in world.sandbox.database.all("SELECT body FROM consent_user"):
            user = json.loads(body)
            said = {c["id"]: c["enabled"] for c in user["consents"]["channels"]}
            for number, name in enumerate(channels):
                found[user["organization_user_id"], number, user["id"]] = said.get(name)
        changed = [cell for cell, value in found.items() if self.cells.get(cell) is not value]
        for cell in changed:
            self._record_change(cell, found[cell])
        self.cells = found
        return changed

    def _record_change(self, cell: Cell, value: bool | None) -> None:
        world = self.world
        self.history.setdefault(cell, []).append(Change(world.hub.now, value))
        self.setter[cell] = None
        if cell[2] == "actito" and cell in self.cells:
            name = _names(world)[0][cell[1]]
            profile = world.profile_ids[cell[0]]
            world.files.changes.append((world.hub.now, profile, cell[0], name, bool(value)))

    def newest(self, person: str, choice: int) -> TrueAct | None:
        """Return what a person did last."""
        found = self.acts.get((person, choice))
        return found[-1] if found else None

    # What happens

    def acted(self, person: str, choice: int, place: str, *, value: bool) -> None:
        """Note an act that was just done."""
        acts = self.acts.setdefault((person, choice), [])
        cell = (person, choice, place)
        repeats = self.cells.get(cell) is value
        act = TrueAct(len(acts), self.world.hub.now, place, value, repeats=repeats)
        acts.append(act)
        self.look_around()
        self.setter[cell] = act
        if self.history.get(cell) and self.history[cell][-1].at == self.world.hub.now:
            self.history[cell][-1].kind = "act"

    def looks_of(self, process: Process) -> dict[str, float]:
        """Return when a process has looked at whom, as it is now; keys are side and person."""
        return dict(self.looks.get(id(process), {}))

    def looked(self, process: Process, side: str, people: list[str]) -> None:
        """Note that a response shows people."""
        now = self.world.hub.now
        own = self.looks.setdefault(id(process), {})
        for person in people:
            own[f"{side} {person}"] = now
            for cell, value in self.cells.items():
                if cell[0] == person and (cell[2] == "actito") == (side == "actito"):
                    self.seen.setdefault(cell, []).append(Look(now, process, value))
                    if side == "actito":
                        self._read_back(process, cell)

    def unanswered(self, process: Process, values: Mapping[tuple[str, int], bool]) -> None:
        """Note a request to Actito whose response does not come."""
        for (person, choice), value in values.items():
            if value is False:
                looked = self.looks_of(process).get(f"actito {person}", self.world.hub.now)
                self.doubts.setdefault((id(process), person, choice), looked)
            self.troubled.add(person)

    def _read_back(self, process: Process, cell: Cell) -> None:
        """Excuse an opt-out that looks as if it were ours, sent before and not answered."""
        sent = self.doubts.get((id(process), cell[0], cell[1]))
        act = self.setter.get(cell)
        if sent is None or act is None or act.value or act.at < sent or self.cells[cell]:
            return
        if not self._is_known(cell, act):
            self._excuse(act, "opt-out between a call without answer and its reading back")
            self.setter[cell] = None

    def committed(self, process: Process) -> None:
        """Note that a process has recorded what it knows."""
        self.commits[id(process)] = self.world.hub.now

    def began_import(
        self, execution_id: str, process: Process, execution: Any, looks: dict[str, float]
    ) -> None:
        """Note an import that has begun."""
        key = execution.definition.key
        rows = [row for _, row in execution.rows]
        opt_outs = frozenset(
            (row[key], number)
            for row in rows
            for number, name in enumerate(_names(self.world)[0])
            if row.get(name) == "N"
        )
        until = self.world.hub.now + self.world.setup.import_time + 2.0
        people = frozenset(row[key] for row in rows)
        self.imports[execution_id] = Import(process, looks, people, opt_outs, until)

    def loaded(self) -> None:
        """Check what imports have changed."""
        for cell, setter in self._changes():
            writers = [i for i in self.imports.values() if cell[0] in i.people]
            looks = [i.looks.get(f"actito {cell[0]}", 0.0) for i in writers]
            self.history[cell][-1].kind = "import"
            self._check(cell, setter, max(looks, default=0.0), "while an import was under way")

    def written(self, write: Write) -> None:
        """Check what a request has changed."""
        setters = dict(self.setter)
        changes = self._changes()
        for (person, choice), value in write.values.items():
            act = setters.get((person, choice, "actito"))
            since = write.looks.get(f"actito {person}", 0.0)
            if act is not None and act.value is value and act.at >= since:
                cell = (person, choice, "actito")
                if not self._is_known(cell, act) and not self._was_shown(cell, act):
                    self._excuse(act, "the same act as ours, between look and write")
                self.setter[person, choice, "actito"] = None
        for cell, setter in changes:
            looked = write.looks.get(f"{write.side} {cell[0]}")
            self.history[cell][-1].kind = "late" if write.late else "write"
            if write.late:
                self.troubled.add(cell[0])
            self._check(cell, setter, looked, "before a late request" if write.late else "")

    def _changes(self) -> list[tuple[Cell, TrueAct | None]]:
        """Return the cells that have changed, and the acts that had set them."""
        setters = dict(self.setter)
        return [(cell, setters.get(cell)) for cell in self.look_around()]

    def _check(
        self, cell: Cell, setter: TrueAct | None, looked: float | None, circumstance: str
    ) -> None:
        """Check a change that one of our requests made.

        Args:
            cell: What it has changed.
            setter: The act that had set the value before.
            looked: When its process had looked at the person there.
            circumstance: Why it came later than a call that is looked at first; empty for such one.
        """
        value = self.cells[cell]
        person, choice, place = cell
        newest = self.newest(person, choice)
        since = looked or 0.0
        if value is False:
            if setter is not None and setter.value and setter.at >= since:
                self._excuse(setter, "opt-in between the look and the write of an opt-out")
            return
        if value is None or newest is None or newest.value or newest.excuse:
            return
        side = "actito" if place == "actito" else "didomi"
        if newest.side != side:
            return  # not known on this side: what must hold at rest repairs it
        if circumstance:
            if setter is newest and newest.at >= since and not self._is_known(cell, newest):
                self._excuse(newest, f"opt-out {circumstance}")
            elif setter is newest and self._was_taken_back(cell, newest):
                self._excuse(newest, "changed and changed back between two looks")
            return
        if newest.at >= since and looked is not None:
            if setter is newest and not self._is_known(cell, newest):
                self._excuse(newest, "opt-out between look and write")
            return
        if side == "actito" and setter is not newest:
            return  # it was overwritten before: what must hold at rest repairs it
        if looked is not None and side == "actito" and self._was_taken_back(cell, newest):
            self._excuse(newest, "changed and changed back between two looks")
            return  # with exports, its row comes later
        what = "without a look" if looked is None else f"although looked at at {looked:.3f}"
        self.world.hub.fail(
            f"{person}: our request turns {place} on, {what}, over the newest act: {newest}"
        )

    def _excuse(self, act: TrueAct, why: str) -> None:
        """Excuse what can't be known; with Actito's export of changes everything can."""
        if not act.excuse and (self.world.setup.actito == "api" or act.side == "didomi"):
            act.excuse = why
            self.excuses[why] += 1

    def _is_known(self, cell: Cell, act: TrueAct) -> bool:
        """Return whether the ledger holds an act."""
        return self.world.ledger.knows(cell[0], cell[1], act)

    def _was_shown(self, cell: Cell, act: TrueAct) -> bool:
        """Return whether the ledger holds, by a look from after an act, what the act made."""
        held = self.world.ledger.held(*cell)
        if held is None or held.ours or held.value is not act.value:
            return False
        return held.began > self.world.ledger.micros(act)

    def _recorded(self, look: Look) -> bool:
        return self.commits.get(id(look.process), -1.0) >= look.at

    def _was_taken_back(self, cell: Cell, act: TrueAct) -> bool:
        """Return whether an act left no trace: what was known last showed the same."""
        changes = [c for c in self.history[cell] if c.at < act.at]
        known = max(
            [
                look.at
                for look in self.seen.get(cell, [])
                if look.at < act.at and self._recorded(look)
            ]
            + [c.at for c in changes if c.kind in {"write", "import"}]
            + [c.at for c in changes if self._is_exported(cell, c)],
            default=None,
        )
        if known is None:
            return self.world.setup.baseline == "didomi"
        held = [c.value for c in self.history[cell] if c.at <= known]
        return bool(held) and held[-1] is act.value and any(c.at > known for c in changes)

    def _is_exported(self, cell: Cell, change: Change) -> bool:
        """Return whether a file of Actito's export of changes holds a change."""
        files = self.world.files
        name = _names(self.world)[0][cell[1]]
        return any(
            (at, person, field) == (change.at, cell[0], name)
            for at, _, person, field, _ in files.changes[: files.exported]
        )

    # At rest

    def check_rest(self) -> None:
        """Check that both sides show the newest acts, or the opt-out where no order can be known.

        Raises:
            Violation: They do not.
        """
        for person in self.world.people:
            for choice in range(self.world.setup.choices):
                self._check_cell_at_rest(person, choice)

    def _check_cell_at_rest(self, person: str, choice: int) -> None:
        world = self.world
        newest = self.newest(person, choice)
        if newest is None or world.ledger.is_deferred(person, choice):
            return
        on_actito = self.cells[person, choice, "actito"]
        number = world.people.index(person)
        users = {user: self.cells.get((person, choice, user)) for user in world.users_of(number)}
        where = (
            f"{person}, choice {choice}: Actito {on_actito}, Didomi {users}; newest act: {newest}"
        )
        if newest.value and newest.side == "actito":
            since, _ = self._window(person, choice, newest)
            if since == 0.0 and not world.ledger.has_acts(person, choice):
                self._excuse(newest, "opt-in in Actito before the first look")
                return
            if not world.ledger.has_acts(person, choice) and self._was_taken_back(
                (person, choice, "actito"), newest
            ):
                self._excuse(newest, "changed and changed back between two looks")
                return
        agree = (True in users.values()) if on_actito else (True not in users.values())
        if not agree:
            raise Violation(f"the sides differ at rest: {where}")
        if newest.value is on_actito:
            return
        if not newest.value:
            if self._is_repeated(newest):
                self.excuses["an opt-out that a status showed before"] += 1
            elif newest.side == "actito" and self._is_in_import(person, choice, newest):
                self._excuse(newest, "the same act as ours, while an import was under way")
            if not newest.excuse and not self._is_repeated(newest):
                raise Violation(f"opted in at rest against the newest act: {where}")
            return
        if newest.excuse or person in self.troubled or self._has_rival(person, choice, newest):
            return
        if world.setup.actito == "exports" and self._has_own_row(person, choice, newest):
            return
        cell = (person, choice, "actito")
        if newest.side == "actito" and self._was_taken_back(cell, newest):
            self._excuse(newest, "changed and changed back between two looks")
            if newest.excuse:
                return
        raise Violation(f"the newest opt-in is lost at rest: {where}")

    def _is_repeated(self, act: TrueAct) -> bool:
        """Return whether an act in Didomi shows in no status: it was shown before."""
        return act.repeats and act.side == "didomi" and self.world.setup.didomi == "users"

    def _is_in_import(self, person: str, choice: int, act: TrueAct) -> bool:
        """Return whether an opt-out was made while an import was under way that wrote the same."""
        return not self._was_shown((person, choice, "actito"), act) and any(
            (person, choice) in found.opt_outs
            and found.looks.get(f"actito {person}", 0.0) <= act.at <= found.until
            for found in self.imports.values()
        )

    def _has_rival(self, person: str, choice: int, newest: TrueAct) -> bool:
        """Return whether an opt-out may be later than an opt-in, by what can be known."""
        if self.world.ledger.has_baseline(person, choice):
            return True
        earliest, _ = self._window(person, choice, newest)
        slack = 2 * TOLERANCE + abs(self.world.setup.skew_actito - self.world.setup.skew_didomi)
        for act in self.acts[person, choice]:
            if act.value or act is newest:
                continue
            if act.side == newest.side == "didomi" and (
                newest.at - act.at < 0.001 or self.world.setup.didomi == "users"
            ):
                return True  # at one timestamp, or of unknown age
            latest = self._latest(person, choice, act)
            if act.side != newest.side and latest + slack >= earliest:
                return True
            by_rows = act.side == newest.side == "actito" and self.world.setup.actito == "exports"
            if by_rows and act.at + 2.0 + slack >= newest.at:
                return True
        if newest.side == "actito" and self.world.setup.didomi == "users":
            for user in self.world.users_of(self.world.people.index(person)):
                if self._shown_off_until(person, choice, user) + slack >= earliest:
                    self.excuses["opt-in in Actito near a change of a user who is opted out"] += 1
                    return True
        return earliest == 0.0 and newest.side == "actito"  # before the first look

    def _shown_off_until(self, person: str, choice: int, user: str) -> float:
        """Return when a user last changed whose status shows an opt-out of unknown age; else -inf.

        That is the latest time at which the choice may have been made, for all who read the status.
        """
        latest = float("-inf")
        changes = [
            change.at
            for cell, found in self.history.items()
            if cell[0] == person and cell[2] == user
            for change in found
        ]
        changes += [
            act.at
            for key, acts in self.acts.items()
            if key[0] == person
            for act in acts
            if act.place == user
        ]
        learned = [
            look for look in self.seen.get((person, choice, user), []) if self._learned(look)
        ]
        shown: bool | None = None
        for look in learned:
            if look.value is False and look.value is not shown:
                latest = max(change for change in changes if change <= look.at)
            shown = look.value
        return latest

    def _learned(self, look: Look) -> bool:
        """Return whether what a job looked at was learned for certain: it ended well."""
        job = look.process.job
        codes = [code for number, _, code in self.world.exit_codes if number == job]
        return len(codes) == PROCESSES and not any(codes)

    def _has_own_row(self, person: str, choice: int, newest: TrueAct) -> bool:
        """Return whether a row of ours may be one of the person's that hides an opt-in.

        An opt-out of ours that is not certainly older counts; an opt-in at the time of an equal
        write of ours is taken for ours.
        """
        if newest.side == "actito" and self.world.ledger.is_near_own(person, choice, newest):
            self.excuses["opt-in in a row at the time of our own opt-in"] += 1
            return True
        earliest, _ = self._window(person, choice, newest)
        slack = 0.0
        if newest.side == "didomi":
            slack = TOLERANCE + abs(self.world.setup.skew_actito - self.world.setup.skew_didomi)
        hides = any(
            change.value is False
            and change.kind in {"write", "import", "late"}
            and change.at + 2.0 + slack >= earliest
            for change in self.history[person, choice, "actito"]
        )
        if hides:
            self.excuses["opt-in older than an opt-out of ours, whose row may be theirs"] += 1
        return hides

    def _latest(self, person: str, choice: int, act: TrueAct) -> float:
        """Return when an act was made at the latest, by the first look that showed it."""
        if act.side == "didomi":
            return act.at
        seen = [s.at for s in self.seen.get((person, choice, "actito"), []) if self._recorded(s)]
        return min((at for at in seen if at >= act.at), default=self.world.hub.now)

    def _window(self, person: str, choice: int, act: TrueAct) -> tuple[float, float]:
        """Return the best window of an act that a poller could have."""
        if act.side == "didomi":
            return act.at, act.at
        seen = [s.at for s in self.seen.get((person, choice, "actito"), []) if self._recorded(s)]
        before = max((at for at in seen if at < act.at), default=0.0)
        after = min((at for at in seen if at >= act.at), default=self.world.hub.now)
        if self.world.setup.actito == "exports":
            return max(before, act.at - 1.0), min(after, act.at + 1.0)
        return before, after


def _names(world: World) -> tuple[tuple[str, ...], tuple[str, ...]]:
    from simulation.view import CHANNELS, FIELDS

    return FIELDS[: world.setup.choices], CHANNELS[: world.setup.choices]
