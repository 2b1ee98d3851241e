"""Stories that are written down: who acts when, and which jobs run.

`at_every_point` runs such a story once for each step of it and each thing that can go wrong there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from simulation.explorer import Result, run
from simulation.plan import Cue, Decision, JobPlan, Kind, Place, Plan, Setup

CALM = (JobPlan(0, "reverse", 60.0), JobPlan(1, "forward", 60.0))
FORWARD = (*CALM, JobPlan(2, "forward", 600.0))
REVERSE = (*CALM, JobPlan(2, "reverse", 600.0))
BOTH = (*CALM, JobPlan(2, "forward", 600.0), JobPlan(3, "reverse", 0.4, overlaps=True))


def turn(
    value: bool, side: Literal["actito", "didomi"], person: int = 0, choice: int = 0, user: int = 0
) -> Decision:
    """Return an act."""
    return Decision("act", "before", value, person, choice, side, user)


@dataclass(frozen=True)
class Story:
    """A story.

    Attributes:
        setup: What is the same throughout.
        acts: What people do when a job starts, by its number.
        anywhere: What a person does at any point in addition; each is tried at each point.
        cues: What happens at steps that are found by what they do.
    """

    setup: Setup
    acts: Mapping[int, tuple[Decision, ...]] = field(default_factory=dict)
    anywhere: tuple[Decision, ...] = ()
    cues: tuple[Cue, ...] = ()

    @property
    def decisions(self) -> dict[Place, tuple[Decision, ...]]:
        """What happens where."""
        return {(job, "start", 0): acts for job, acts in self.acts.items()}


_ONE = Setup(jobs=FORWARD)
_TWO = replace(_ONE, people=2, first=(False, True))
STORIES: dict[str, Story] = {
    "opt-in in Didomi": Story(
        _ONE, {2: (turn(True, "didomi"),)}, (turn(False, "didomi"), turn(True, "actito"))
    ),
    "opt-out in Didomi": Story(
        replace(_ONE, first=(True,)),
        {2: (turn(False, "didomi"),)},
        (turn(True, "didomi"), turn(False, "actito")),
    ),
    "opt-in in Actito": Story(
        replace(_ONE, jobs=REVERSE),
        {2: (turn(True, "actito"),)},
        (turn(False, "actito"), turn(False, "didomi")),
    ),
    "opt-out in Actito, with two users in Didomi": Story(
        replace(_ONE, first=(True,), users=2, jobs=REVERSE),
        {2: (turn(False, "actito"),)},
        (turn(True, "didomi", user=1), turn(True, "actito")),
    ),
    "opt-in in Didomi, then opt-out in Actito, both directions at once": Story(
        replace(_ONE, jobs=BOTH), {2: (turn(True, "didomi"),)}, (turn(False, "actito"),)
    ),
    "opt-out in Didomi, then opt-in in Actito, both directions at once": Story(
        replace(_ONE, first=(True,), jobs=BOTH),
        {2: (turn(False, "didomi"),)},
        (turn(True, "actito"), turn(True, "didomi")),
    ),
    "an import, and an opt-out in Actito": Story(
        replace(_TWO, writing="bulk", import_time=20.0),
        {2: (turn(True, "didomi"), turn(False, "didomi", 1))},
        (turn(False, "actito"), turn(True, "actito", 1)),
    ),
    "an import of two choices, of which one changes in Actito only": Story(
        replace(_TWO, choices=2, first=(False, True, True, False), writing="bulk"),
        {2: (turn(True, "didomi"), turn(True, "didomi", 1, 1))},
        (turn(False, "actito", 0, 1), turn(False, "actito", 1)),
    ),
    "changes by Actito's export": Story(
        replace(_ONE, actito="exports", jobs=BOTH),
        {2: (turn(True, "didomi"),), 3: (turn(True, "actito"),)},
        (turn(False, "actito"), turn(False, "didomi")),
    ),
    "events by Didomi's export": Story(
        replace(_ONE, didomi="exports", jobs=BOTH),
        {2: (turn(True, "didomi"),)},
        (turn(False, "actito"), turn(False, "didomi")),
    ),
    "statuses of Didomi's users": Story(
        replace(_ONE, didomi="users", users=2, jobs=BOTH),
        {2: (turn(True, "didomi", user=1),)},
        (turn(False, "actito"), turn(False, "didomi")),
    ),
}

FATES: dict[Kind, tuple[Decision, ...]] = {
    "read": (Decision("kill", "within"), Decision("lost_after")),
    "write": (
        Decision("kill", "before"),
        Decision("kill", "within"),
        Decision("kill", "after"),
        Decision("lost_before"),
        Decision("lost_after"),
        Decision("late", value=200.0),
        Decision("late", value=3000.0),
    ),
    "import": (
        Decision("kill", "before"),
        Decision("kill", "within"),
        Decision("kill", "after"),
        Decision("lost_before"),
        Decision("lost_after"),
        Decision("late", value=200.0),
    ),
    "commit": (Decision("kill", "before"), Decision("kill", "after")),
    "flush": (Decision("kill", "before"), Decision("kill", "within"), Decision("kill", "after")),
}
"""What can go wrong at a step, by its kind."""


def run_story(story: Story, more: Mapping[Place, tuple[Decision, ...]] | None = None) -> Result:
    """Run a story, in which more happens."""
    decisions = dict(story.decisions)
    for place, found in (more or {}).items():
        decisions[place] = (*decisions.get(place, ()), *found)
    return run(Plan(0, story.setup, given=decisions, cues=story.cues))


def points_of(story: Story) -> list[tuple[Place, Kind]]:
    """Return the steps of a story after its first, calm jobs."""
    return [point for point in run_story(story).plan.met if point[0][0] >= len(CALM)]


def at_every_point(
    story: Story, *, step: int = 1, first: int = 0
) -> Iterator[tuple[Place, Decision, Result]]:
    """Run a story once for each step and each thing that can go wrong, or be done, there.

    Args:
        story: The story.
        step: Only every n-th of these runs.
        first: The first of them.
    """
    runs = [
        (place, decision)
        for place, kind in points_of(story)
        for decision in (*FATES.get(kind, ()), *story.anywhere)
    ]
    for place, decision in runs[first::step]:
        yield place, decision, run_story(story, {place: (decision,)})
