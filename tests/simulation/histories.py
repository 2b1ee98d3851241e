"""Histories that are written down, since random ones rarely meet them.

Each is held as it is; and the rules that a history is written for can be switched off (`ablation`):
then it fails.
"""

from __future__ import annotations

from dataclasses import replace

from simulation.plan import Cue, Decision, Direction, JobPlan, Setup
from simulation.stories import CALM, Story, turn

FORWARD: Direction = "forward"
REVERSE: Direction = "reverse"
IN_ACTITO, OUT_OF_ACTITO = turn(True, "actito"), turn(False, "actito")
IN_DIDOMI, OUT_OF_DIDOMI = turn(True, "didomi"), turn(False, "didomi")
PROFILES = "/profile-tables/16/profiles"
"""A listing of the table, or a look at one profile."""
CHANGE = "PATCH "
"""A change of a profile."""
IMPORT = "/etl-executions"
POST = "POST /didomi/v1/consents/events"
EVENTS = "GET /didomi/v1/consents/events"
OFF = Setup(first=(False,))
ON = Setup(first=(True,))
KILL_AFTER = Decision("kill", "after")


def jobs(*directions: Direction, gap: float = 300.0, overlaps: int = 0) -> tuple[JobPlan, ...]:
    """Return jobs after the calm ones, the first of which has number 2.

    Args:
        directions: Of the jobs.
        gap: Seconds between them.
        overlaps: Number of the job that starts shortly after the one before it; 0 for none.
    """
    return (
        *CALM,
        *(
            JobPlan(number, direction, 0.4 if number == overlaps else gap, number == overlaps)
            for number, direction in enumerate(directions, len(CALM))
        ),
    )


def before(process: str, text: str, *decisions: Decision, job: int = 2, count: int = 1) -> Cue:
    """Return what happens at a step."""
    return Cue(job, process, text, decisions, count)


def after(act: Decision) -> Decision:
    """Return an act that is done after the effect of a step."""
    return act._replace(when="after")


_OFF_AND_ON = (*CALM, JobPlan(2, FORWARD, 300.0), JobPlan(3, REVERSE, 5.0))
"""Jobs of which the second reads rows of what was done at the start of both."""

HISTORIES: dict[str, Story] = {
    "off, then on in Didomi within the tolerance": Story(
        replace(ON, jobs=jobs(FORWARD, FORWARD, gap=10.0)),
        {2: (OUT_OF_DIDOMI,), 3: (IN_DIDOMI,)},
    ),
    "off, then on in Actito, each seen by a look": Story(
        replace(ON, jobs=jobs(REVERSE, REVERSE)), {2: (OUT_OF_ACTITO,), 3: (IN_ACTITO,)}
    ),
    "off again in Didomi, where it was off, after an opt-in in Actito": Story(
        replace(OFF, jobs=jobs(REVERSE, FORWARD, REVERSE, gap=900.0)),
        {2: (IN_ACTITO,), 3: (OUT_OF_DIDOMI,)},
        cues=(before("target-didomi", "/consents/users", Decision("kill")),),
    ),
    "a look shows what was there before our write": Story(
        replace(ON, jobs=jobs(REVERSE, FORWARD, REVERSE, overlaps=4)),
        {2: (OUT_OF_DIDOMI,)},
        cues=(
            before("target-actito", CHANGE, Decision("slow", value=10.0), job=3),
            before("tap-actito", PROFILES, Decision("slow", "after", 40.0), job=4),
        ),
    ),
    "off in Actito after an opt-in whose run was killed": Story(
        replace(OFF, jobs=jobs(FORWARD, FORWARD)),
        {2: (IN_DIDOMI,), 3: (OUT_OF_ACTITO,)},
        cues=(before("target-actito", CHANGE, KILL_AFTER),),
    ),
    "a late opt-in of ours after an opt-out in Actito": Story(
        replace(OFF, jobs=jobs(FORWARD, REVERSE)),
        {2: (IN_DIDOMI,), 3: (OUT_OF_ACTITO,)},
        cues=(before("target-actito", CHANGE, Decision("late", value=3000.0)),),
    ),
    "off in Actito, while an opt-out of ours may come late": Story(
        replace(ON, jobs=jobs(FORWARD, REVERSE, REVERSE, REVERSE)),
        {2: (OUT_OF_DIDOMI,), 4: (IN_ACTITO,), 5: (OUT_OF_ACTITO,)},
        cues=(before("target-actito", CHANGE, Decision("late", value=3500.0)),),
    ),
    "off in Didomi before an import has written an opt-in": Story(
        replace(
            OFF, actito="exports", writing="bulk", import_time=400.0, jobs=jobs(FORWARD, REVERSE)
        ),
        {2: (IN_DIDOMI,)},
        cues=(before("target-actito", IMPORT, after(OUT_OF_DIDOMI)),),
    ),
    "on in Didomi between the look and the write of an opt-out": Story(
        replace(ON, jobs=jobs(FORWARD)),
        {2: (OUT_OF_DIDOMI,)},
        cues=(before("target-actito", CHANGE, IN_DIDOMI),),
    ),
    "a look while an opt-in of ours is under way, and then off": Story(
        replace(OFF, jobs=jobs(FORWARD, REVERSE, FORWARD, overlaps=3)),
        {2: (IN_DIDOMI,), 4: (OUT_OF_ACTITO,)},
        cues=(before("target-actito", CHANGE, Decision("slow", value=20.0)),),
    ),
    "our opt-in, whose run was killed, and an opt-out of before that comes late": Story(
        replace(
            OFF,
            didomi="exports",
            jobs=(
                *CALM,
                JobPlan(2, REVERSE),
                JobPlan(3, REVERSE, 5000.0),
                JobPlan(4, FORWARD, 30.0),
                JobPlan(5, REVERSE),
            ),
        ),
        {2: (IN_DIDOMI,), 3: (OUT_OF_DIDOMI,)},
        cues=(before("target-actito", CHANGE, KILL_AFTER, job=4),),
    ),
    "off in Didomi before our opt-in is posted there": Story(
        replace(OFF, jobs=jobs(REVERSE)),
        {2: (IN_ACTITO,)},
        cues=(before("tap-actito", PROFILES, after(OUT_OF_DIDOMI)),),
    ),
    "on in Didomi just after our opt-out was posted there": Story(
        replace(ON, jobs=jobs(REVERSE, FORWARD, gap=10.0)),
        {2: (OUT_OF_ACTITO,)},
        cues=(before("target-didomi", POST, after(IN_DIDOMI)),),
    ),
    "off in Actito while we write the same, and an opt-in of before in a later export": Story(
        replace(
            ON,
            actito="exports",
            jobs=(
                *_OFF_AND_ON,
                JobPlan(4, REVERSE, 300.0),
                JobPlan(5, FORWARD),
                JobPlan(6, REVERSE),
            ),
        ),
        {2: (OUT_OF_ACTITO,), 3: (IN_ACTITO,), 4: (OUT_OF_ACTITO,)},
        cues=(
            before("target-didomi", POST, after(IN_ACTITO), job=4),
            before("target-actito", CHANGE, OUT_OF_ACTITO, job=5),
        ),
    ),
    "rows off and on within the tolerance, and then off": Story(
        replace(ON, actito="exports", jobs=(*_OFF_AND_ON, JobPlan(4, FORWARD, 300.0))),
        {2: (OUT_OF_ACTITO,), 3: (IN_ACTITO,), 4: (OUT_OF_ACTITO,)},
    ),
    "an import of a killed run, with a newer opt-out in Didomi": Story(
        replace(OFF, writing="bulk", import_time=3000.0, jobs=jobs(FORWARD, FORWARD)),
        {2: (IN_DIDOMI,), 3: (OUT_OF_DIDOMI,)},
        cues=(before("target-actito", IMPORT, KILL_AFTER),),
    ),
    "an import whose response is lost": Story(
        replace(OFF, writing="bulk", jobs=jobs(FORWARD)),
        {2: (IN_DIDOMI,)},
        cues=(before("target-actito", IMPORT, Decision("lost_after")),),
    ),
    "off in Actito while an import runs, in a field that Didomi never changed": Story(
        replace(
            OFF,
            choices=2,
            first=(False, True),
            writing="bulk",
            import_time=200.0,
            jobs=jobs(FORWARD, REVERSE),
        ),
        {2: (IN_DIDOMI,)},
        cues=(before("target-actito", IMPORT, after(turn(False, "actito", 0, 1))),),
    ),
    "on and off in Actito while an import runs": Story(
        replace(OFF, writing="bulk", import_time=200.0, jobs=jobs(FORWARD, REVERSE)),
        {2: (IN_DIDOMI,)},
        cues=(
            before("target-actito", IMPORT, after(IN_ACTITO)),
            before("target-actito", IMPORT, OUT_OF_ACTITO, count=2),
        ),
    ),
    "on and off in Actito while an import runs, with Actito's export": Story(
        replace(
            OFF, actito="exports", writing="bulk", import_time=200.0, jobs=jobs(FORWARD, REVERSE)
        ),
        {2: (IN_DIDOMI,)},
        cues=(
            before("target-actito", IMPORT, after(IN_ACTITO)),
            before("target-actito", IMPORT, OUT_OF_ACTITO, count=2),
        ),
    ),
    "on and off in Actito between two looks": Story(
        replace(OFF, jobs=jobs(FORWARD, REVERSE)),
        {2: (IN_DIDOMI,)},
        cues=(
            before("tap-didomi", EVENTS, IN_ACTITO),
            before("tap-didomi", "output", OUT_OF_ACTITO, count=3),
        ),
    ),
    "on and off in Actito between two looks, with Actito's export": Story(
        replace(OFF, actito="exports", jobs=jobs(FORWARD, REVERSE)),
        {2: (IN_DIDOMI,)},
        cues=(
            before("tap-didomi", EVENTS, IN_ACTITO),
            before("tap-didomi", "output", OUT_OF_ACTITO, count=3),
        ),
    ),
    "off in Actito, for two users in Didomi, of whom one turns on at once": Story(
        replace(ON, users=2, jobs=jobs(REVERSE, FORWARD, gap=10.0)),
        {2: (OUT_OF_ACTITO,)},
        cues=(before("target-didomi", POST, turn(True, "didomi", user=1)),),
    ),
    "on in Actito, a second later off in Didomi, by three clocks": Story(
        replace(
            OFF, skew_actito=25.0, skew_didomi=-25.0, skew_here=7200.0, jobs=jobs(REVERSE, FORWARD)
        ),
        {2: (IN_ACTITO,)},
        cues=(before("tap-actito", PROFILES, after(OUT_OF_DIDOMI)),),
    ),
    "the same direction twice at once": Story(
        replace(OFF, jobs=jobs(FORWARD, FORWARD, overlaps=3)),
        {2: (IN_DIDOMI,)},
        cues=(before("target-actito", CHANGE, OUT_OF_DIDOMI),),
    ),
    "killed within STATE": Story(
        replace(ON, jobs=jobs(FORWARD, FORWARD, REVERSE)),
        {2: (OUT_OF_DIDOMI,), 3: (IN_DIDOMI,), 4: (OUT_OF_ACTITO,)},
        cues=(
            before("target-actito", "output", Decision("kill", "within"), count=2),
            before("tap-actito", "output", Decision("kill", "within"), job=4, count=2),
        ),
    ),
    "all exports again, from the beginning": Story(
        replace(
            OFF,
            didomi="exports",
            actito="exports",
            jobs=(
                *jobs(FORWARD, REVERSE, gap=5000.0),
                JobPlan(4, FORWARD, 5000.0, state="lost"),
                JobPlan(5, REVERSE, state="lost"),
                JobPlan(6, FORWARD, state="old"),
            ),
        ),
        {2: (IN_DIDOMI,), 3: (OUT_OF_ACTITO,), 4: (IN_ACTITO,), 5: (OUT_OF_DIDOMI,)},
    ),
    "on in Didomi with a timestamp of next year, then off in Actito": Story(
        replace(OFF, jobs=jobs(FORWARD, REVERSE, FORWARD)),
        {2: (IN_DIDOMI._replace(ahead=31_000_000.0),), 3: (OUT_OF_ACTITO,)},
    ),
    "off in Didomi, with a lost response of Actito": Story(
        replace(ON, jobs=jobs(FORWARD, REVERSE)),
        {2: (OUT_OF_DIDOMI,)},
        cues=(before("target-actito", CHANGE, Decision("lost_after")),),
    ),
    "off in Actito, with a lost response of Didomi": Story(
        replace(ON, jobs=jobs(REVERSE, FORWARD)),
        {2: (OUT_OF_ACTITO,)},
        cues=(before("target-didomi", POST, Decision("lost_after")),),
    ),
}
"""By what happens; each is held by what the rules make of it."""

EXCUSED: dict[str, dict[str, int]] = {
    "on and off in Actito while an import runs": {"opt-out while an import was under way": 1},
    "on and off in Actito between two looks": {"changed and changed back between two looks": 1},
}
"""What is excused in a history, and how often."""

FAILS: dict[str, str] = {
    "one_clock_a_side": "off, then on in Didomi within the tolerance",
    "looks_in_sequence": "off, then on in Actito, each seen by a look",
    "equal_events_are_acts": "off again in Didomi, where it was off, after an opt-in in Actito",
    "stale_looks_are_ignored": "a look shows what was there before our write",
    "orphans_yield_to_opt_out": "off in Actito after an opt-in whose run was killed",
    "late_copies_are_no_acts": "a late opt-in of ours after an opt-out in Actito",
    "opt_out_seen_is_an_act": "off in Actito, while an opt-out of ours may come late",
    "own_rows_are_no_acts": "off in Didomi before an import has written an opt-in",
    "opt_out_in_a_row_is_an_act": (
        "off in Actito while we write the same, and an opt-in of before in a later export"
    ),
    "doubtful_hides_no_opt_out": "rows off and on within the tolerance, and then off",
    "look_before_opt_in": "off in Actito after an opt-in whose run was killed",
    "look_before_opt_out": "on in Didomi between the look and the write of an opt-out",
    "only_the_writer_closes": "a look while an opt-in of ours is under way, and then off",
    "intent_before_call": (
        "our opt-in, whose run was killed, and an opt-out of before that comes late"
    ),
    "look_at_didomi_before_opt_in": "off in Didomi before our opt-in is posted there",
    "event_id_names_what_it_replaces": "on in Didomi just after our opt-out was posted there",
}
"""The history that fails while a rule is switched off."""
