"""What happens where: drawn from a seed, or given.

A place is a step of a process of a job: (job, process, number of the step within the process). So
leaving one decision out moves few others, which is what makes a story small.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

Place = tuple[int, str, int]
Direction = Literal["forward", "reverse"]
Kind = Literal["read", "write", "import", "commit", "flush", "start"]


class Decision(NamedTuple):
    """One thing that happens at a place.

    Attributes:
        what: `act`; `kill`, `term`; or what becomes of a request: `lost_before`, `lost_after`,
            `late`, `timeout`, `status`, `refused`, `half`, `slow`.
        when: `before`, `within` (sent, but not carried out) or `after` the effect of the step; of
            `slow`: on which side of the effect the time passes.
        value: Seconds, a status, or the choice made.
        person, choice, side, user: Of an act.
        ahead: Seconds by which the timestamp of an act in Didomi is in the future.
    """

    what: str
    when: str = "before"
    value: float = 0
    person: int = 0
    choice: int = 0
    side: str = ""
    user: int = 0
    ahead: float = 0


class Cue(NamedTuple):
    """What happens at a step that is found by what it does.

    Attributes:
        job: The number of the job.
        process: The name of the plugin.
        text: What the step's text holds: a method and a path, `commit`, or `output`.
        decisions: What happens.
        count: The how many-th such step it is.
    """

    job: int
    process: str
    text: str
    decisions: tuple[Decision, ...]
    count: int = 1


@dataclass(frozen=True)
class JobPlan:
    """A job: a tap and a target.

    Attributes:
        number: Its number; that of a job stays when others are left out.
        direction: Of the sync.
        gap: Seconds from the end of the job before it to its start.
        overlaps: Whether it starts while the job before it runs; `gap` counts from its start then.
        state: The STATE that it starts from: the last one, an older one, or none.
    """

    number: int
    direction: Direction
    gap: float = 10.0
    overlaps: bool = False
    state: Literal["last", "old", "lost"] = "last"


@dataclass(frozen=True)
class Setup:
    """What is the same throughout a story. Times are in seconds; rates are per step.

    Attributes:
        people: Number of people; each has a profile in Actito.
        choices: Number of choices of each.
        users: Didomi users of each person.
        didomi: What tap-didomi reads.
        actito: What tap-actito reads.
        writing: How target-actito writes.
        empty_cells: What it knows of empty cells in a file.
        import_time: How long an import takes.
        skew_actito: How far Actito's clock is ahead of the world's.
        skew_didomi: The same of Didomi.
        skew_here: The same of the machine that the plugins run on.
        first: What Actito holds at first, by person and choice.
        baseline: The setting of this name.
        spoken: Whether the first user of each person has made all choices, as Actito holds them.
        acts: How often people act.
        kills: How often a process is killed.
        faults: How often a request fails.
        slow: How often a request is slow.
        calm: Number of first jobs during which nothing happens.
        directions: Of the jobs that bring all to rest.
        jobs: The jobs; those that bring all to rest follow.
    """

    people: int = 1
    choices: int = 1
    users: int = 1
    didomi: Literal["events", "users", "exports"] = "events"
    actito: Literal["api", "exports"] = "api"
    writing: Literal["single", "bulk"] = "single"
    empty_cells: Literal["unknown", "unchanged"] = "unchanged"
    import_time: float = 5.0
    skew_actito: float = 0.0
    skew_didomi: float = 0.0
    skew_here: float = 0.0
    first: tuple[bool, ...] = (False,)
    baseline: Literal["opt_out", "didomi"] | None = "opt_out"
    spoken: bool = True
    acts: float = 0.0
    kills: float = 0.0
    faults: float = 0.0
    slow: float = 0.0
    calm: int = 0
    directions: tuple[Direction, ...] = ("reverse", "forward")
    jobs: tuple[JobPlan, ...] = ()


PEOPLE = ("ada.lovelace@example.org", "ben.nevis@example.org", "cy.twombly@example.org")


def draw(seed: int, *key: object) -> random.Random:
    """Return a source of randomness for one thing; what is drawn elsewhere does not change it."""
    return random.Random(f"{seed}/{'/'.join(map(str, key))}")


def draw_setup(seed: int) -> Setup:
    """Draw what is the same throughout a story, and its jobs."""
    rng = draw(seed, "setup")
    people = rng.choice([1, 1, 2, 3])
    choices = rng.choice([1, 1, 2])
    skews = [0.0, 0.0, 0.0, -3.0, 2.0, 25.0, -25.0]  # within `clock_tolerance` of each other
    setup = Setup(
        people=people,
        choices=choices,
        users=rng.choice([1, 1, 2]),
        didomi=rng.choice(["events", "events", "users", "exports"]),
        actito=rng.choice(["api", "api", "exports"]),
        writing=rng.choice(["single", "single", "bulk"]),
        empty_cells=draw(seed, "empty cells").choice(["unknown", "unchanged"]),
        import_time=rng.choice([1.0, 5.0, 60.0, 400.0]),
        skew_actito=rng.choice(skews),
        skew_didomi=rng.choice(skews),
        skew_here=rng.choice([0.0, 0.0, 7200.0, -5000.0]),
        first=tuple(rng.random() < 0.5 for _ in range(people * choices)),
        baseline=rng.choice(["opt_out", "opt_out", "opt_out", "didomi", None]),
        spoken=rng.random() < 0.8,
        acts=rng.choice([0.01, 0.04, 0.12]),
        kills=rng.choice([0.0, 0.0, 0.01, 0.03]),
        faults=rng.choice([0.0, 0.0, 0.02, 0.08]),
        slow=rng.choice([0.0, 0.0, 0.02]),
    )
    calm = rng.random() < 0.7
    jobs: list[JobPlan] = []
    for direction in ("reverse", "forward") if calm else ():
        jobs.append(JobPlan(len(jobs), direction, 120.0))  # type: ignore[arg-type]
    for _ in range(rng.choice([1, 2, 2, 3, 4, 6])):
        jobs.append(
            JobPlan(
                len(jobs),
                rng.choice(["forward", "reverse"]),
                rng.choice([1.0, 5.0, 30.0, 300.0, 5000.0]),
                overlaps=rng.random() < 0.4,
                state=rng.choice(["last"] * 8 + ["old", "lost"]),
            )
        )
    return replace(setup, jobs=tuple(jobs), calm=2 if calm else 0)


@dataclass
class Plan:
    """The decisions of a story.

    Attributes:
        seed: What it is drawn from; paces are always drawn.
        setup: What is the same throughout.
        given: The decisions, by place; None to draw them.
        cues: Further decisions, of which each is made once.
        made: The decisions that were found on the way.
        rest: Whether nothing happens any more.
        met: The places that were come to before that, and what they are.
    """

    seed: int
    setup: Setup
    given: Mapping[Place, tuple[Decision, ...]] | None = None
    cues: tuple[Cue, ...] = ()
    made: dict[Place, tuple[Decision, ...]] = field(default_factory=dict)
    rest: bool = False
    met: list[tuple[Place, Kind]] = field(default_factory=list)
    _counts: Counter[Cue] = field(default_factory=Counter)

    @classmethod
    def drawn(cls, seed: int) -> Plan:
        """Draw a story."""
        return cls(seed, draw_setup(seed))

    @property
    def unmet_cues(self) -> list[Cue]:
        """The cues whose step never came."""
        return [cue for cue in self.cues if self._counts[cue] < cue.count]

    def decide(self, place: Place, kind: Kind, text: str = "") -> tuple[Decision, ...]:
        """Return what happens at a place, where a step with this text is."""
        if self.rest:
            return ()
        self.met.append((place, kind))
        if self.given is not None:
            found = (*self.given.get(place, ()), *self._cued(place, text))
        elif place[0] < self.setup.calm:
            return ()
        else:
            found = self._draw(place, kind)
        if found:
            self.made[place] = found
        return found

    def _cued(self, place: Place, text: str) -> Iterator[Decision]:
        for cue in self.cues:
            if (cue.job, cue.process) == place[:2] and cue.text in text:
                self._counts[cue] += 1
                if self._counts[cue] == cue.count:
                    yield from cue.decisions

    def _draw(self, place: Place, kind: Kind) -> tuple[Decision, ...]:
        rng = draw(self.seed, "decide", *place)
        setup = self.setup
        found: list[Decision] = []
        if rng.random() < (max(0.3, setup.acts) if kind == "start" else setup.acts):
            found += [
                self.draw_act(rng, rng.choice(["before", "after"]))
                for _ in range(rng.choice([1, 1, 1, 2]))
            ]
        if kind == "start":
            return tuple(found)
        if rng.random() < setup.kills:
            when = rng.choice(["before", "after"] + ["within"] * (kind not in {"commit", "flush"}))
            found.append(Decision(rng.choice(["kill"] * 5 + ["term"]), when))
        elif kind in {"read", "write", "import"}:
            faults = setup.faults * (3 if kind != "read" else 1)
            if rng.random() < faults:
                found.append(self._draw_fault(rng, kind))
            elif rng.random() < setup.slow:
                found.append(Decision("slow", value=rng.choice([5.0, 50.0])))
        return tuple(found)

    def draw_act(self, rng: random.Random, when: str) -> Decision:
        """Draw an act."""
        setup = self.setup
        return Decision(
            "act",
            when,
            rng.random() < 0.5,
            rng.randrange(setup.people),
            rng.randrange(setup.choices),
            rng.choice(["actito", "didomi"]),
            rng.randrange(setup.users),
        )

    @staticmethod
    def _draw_fault(rng: random.Random, kind: Kind) -> Decision:
        whats = ["lost_before", "lost_after", "timeout", "status", "refused", "half"]
        if kind != "read":
            whats += ["late", "lost_after"]
        what = rng.choice(whats)
        value = 0.0
        if what == "late":
            value = rng.choice([70.0, 200.0, 1000.0, 3000.0])
        elif what in {"status", "refused"}:
            value = rng.choice([429, 500, 503])
        return Decision(what, "after", value)

    def pace(self, place: Place) -> tuple[float, float]:
        """Return how long a step takes until its effect, and from there to its end."""
        rng = draw(self.seed, "pace", *place)
        return 0.02 + rng.random() * 0.2, 0.02 + rng.random() * 0.2
