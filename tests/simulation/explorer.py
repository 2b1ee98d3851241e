"""Run stories, make those that fail small, and show them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from simulation.kernel import Violation
from simulation.plan import Decision, Place, Plan, Setup
from simulation.world import World, stage


@dataclass
class Result:
    """What became of a story.

    Attributes:
        plan: Its decisions; `made` holds those that were met.
        violation: What does not hold; None if all does.
        story: What happened, in lines.
        digest: Of the trace of all steps.
        excuses: What was excused.
    """

    plan: Plan
    violation: str | None
    story: list[str]
    trace: list[str]
    digest: str
    excuses: Counter[str] = field(default_factory=Counter)
    points: int = 0


def run(plan: Plan, prepare: Callable[[World], None] | None = None) -> Result:
    """Run a story."""
    violation = None
    with stage(plan) as world:
        if prepare is not None:
            prepare(world)
        try:
            world.run()
        except Violation as error:
            violation = str(error)
        digest = hashlib.sha256("\n".join([*world.trace, *world.story]).encode()).hexdigest()
        points = sum(1 for line in world.trace if not line.startswith("  "))
        return Result(
            plan,
            violation,
            list(world.story),
            list(world.trace),
            digest,
            world.oracle.excuses,
            points,
        )


def run_seed(seed: int) -> Result:
    """Run the story of a seed."""
    return run(Plan.drawn(seed))


def run_given(seed: int, setup: Setup, decisions: Mapping[Place, tuple[Decision, ...]]) -> Result:
    """Run a story with these decisions and no others."""
    return run(Plan(seed, setup, given=decisions))


# Making a story small


def shrink(result: Result, most: int = 120) -> Result:
    """Leave out jobs and decisions as long as a story still fails; return the smallest found."""
    best, runs = result, 0
    decisions = dict(best.plan.made)
    setup = best.plan.setup
    calm = replace(setup, acts=0.0)
    found = run_given(best.plan.seed, calm, decisions)
    if found.violation is None:
        return best  # its decisions alone don't show it
    best = found
    progress = True
    while progress and runs < most:
        progress = False
        for smaller_setup, smaller in _smaller(best.plan.setup, dict(best.plan.given or {})):
            runs += 1
            found = run_given(best.plan.seed, smaller_setup, smaller)
            if found.violation is not None:
                best, progress = found, True
                break
            if runs >= most:
                break
    return best


def _smaller(
    setup: Setup, decisions: dict[Place, tuple[Decision, ...]]
) -> Iterator[tuple[Setup, dict[Place, tuple[Decision, ...]]]]:
    """Yield what is a little smaller, the largest cuts first."""
    for job in reversed(setup.jobs):
        rest = tuple(j for j in setup.jobs if j is not job)
        kept = {p: d for p, d in decisions.items() if p[0] != job.number}
        yield replace(setup, jobs=rest), kept
    places = list(decisions)
    half = len(places) // 2
    if half > 1:
        for part in (places[:half], places[half:]):
            yield setup, {p: d for p, d in decisions.items() if p not in part}
    for place in places:
        yield setup, {p: d for p, d in decisions.items() if p != place}
        if len(decisions[place]) > 1:
            for number in range(len(decisions[place])):
                fewer = tuple(d for n, d in enumerate(decisions[place]) if n != number)
                yield setup, {**decisions, place: fewer}
    if setup.people > 1:
        one = replace(
            setup, people=setup.people - 1, first=setup.first[: (setup.people - 1) * setup.choices]
        )
        yield one, decisions
    if setup.choices > 1:
        yield replace(setup, choices=1, first=setup.first[: setup.people]), decisions
    if setup.users > 1:
        yield replace(setup, users=1), decisions
    for name in ("skew_actito", "skew_didomi", "skew_here"):
        if getattr(setup, name):
            yield replace(setup, **{name: 0.0}), decisions  # type: ignore[arg-type]
    for job in setup.jobs:
        if job.overlaps or job.state != "last":
            changed = tuple(
                replace(j, overlaps=False, state="last") if j is job else j for j in setup.jobs
            )
            yield replace(setup, jobs=changed), decisions


def describe(result: Result, *, everything: bool = False) -> str:
    """Return a story as text."""
    lines = [f"seed {result.plan.seed}: {result.violation or 'holds'}", f"{result.plan.setup}"]
    lines += sorted(result.story + result.trace) if everything else result.story
    if result.excuses:
        lines.append(f"excused: {dict(result.excuses)}")
    return "\n".join(lines)
