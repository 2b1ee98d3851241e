"""Both directions as real processes, with people acting at any time and a quarter of all killed."""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import forks
import pytest
from support import (
    MAPPINGS,
    Actito,
    Didomi,
    back_config,
    event,
    post_config,
    run_plugin,
    start_plugin,
    tap_config,
    target_config,
    with_ledger,
)

from actito_didomi.consent.records import format_timestamp

PEOPLE = ["ann", "bob", "cy"]
SUBSCRIPTIONS = {"Newsletter": "email", "SmsAlerts": "sms"}
PAIRS = {"tap-actito": "target-didomi", "tap-didomi": "target-actito"}
ROUNDS = 4
LATE_BOUND = 1.0
"""Seconds after which no write of ours can come late, nor is an opt-out repeated for one."""
SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 60))]


@dataclass
class Act:
    """A choice that a person made."""

    side: str
    at: float
    value: bool


@dataclass
class World:
    """Both sides, both pipelines as processes, and what people chose."""

    url: str
    folder: Path
    rng: random.Random
    states: dict[str, str] = field(default_factory=dict)
    acts: dict[tuple[str, str], list[Act]] = field(default_factory=dict)
    writing: list[tuple[float, float]] = field(default_factory=list)
    """When a target-actito was alive."""
    killed: int = 0

    def __post_init__(self) -> None:
        self.actito, self.didomi = Actito(self.url), Didomi(self.url)
        shared = with_ledger(self.folder, clock_tolerance=0, late_bound=LATE_BOUND)
        self.configs = {
            "tap-didomi": tap_config(self.url, **shared),
            "target-actito": target_config(self.url, self.folder, mappings=MAPPINGS[:2], **shared),
            "tap-actito": back_config(self.url, self.folder, mappings=MAPPINGS[:2], **shared),
            "target-didomi": post_config(self.url, self.folder, **shared),
        }
        self.catalogs = {tap: write_catalog(tap, self.configs[tap], self.folder) for tap in PAIRS}

    def run(self, tap: str, *, kill: bool) -> int:
        """Run a pipeline from its last state; return the target's exit status, or -9."""
        target, number = PAIRS[tap], self.rng.randrange(10**9)
        deaths = {
            name: self.rng.uniform(0, 0.4) if kill and self.rng.random() < 0.25 else None
            for name in (tap, target)
        }
        began = time.time()
        folder = self.folder / str(number)
        folder.mkdir()
        source = start_plugin(tap, self.configs[tap], folder, *self._arguments(tap, folder))
        source.stdin.close()
        sink = start_plugin(target, self.configs[target], folder, stdin=source.stdout)
        source.stdout.close()
        timers = [
            threading.Timer(after, self._kill, [process])
            for process, after in ((source, deaths[tap]), (sink, deaths[target]))
            if after is not None
        ]
        for timer in timers:
            timer.start()
        with sink.stdout:
            out = sink.stdout.read()
        # A tap whose target is gone ends by itself.
        ends = [process.wait() for process in (sink, source)]
        for timer in timers:
            timer.cancel()
        if target == "target-actito":
            self.writing.append((began, time.time()))
        states = [line for line in out.decode().split("\n")[:-1] if line.strip()]
        if states:
            self.states[tap] = states[-1]
        return ends[0] or ends[1]

    def _arguments(self, tap: str, folder: Path) -> list[str]:
        arguments = ["--catalog", str(self.catalogs[tap])]
        if tap in self.states:
            state = folder / "state.json"
            state.write_text(self.states[tap])
            arguments += ["--state", str(state)]
        return arguments

    def _kill(self, process: forks.Process) -> None:
        if process.poll() is None:
            self.killed += 1
            process.kill()

    def act(self) -> None:
        """Somebody makes a choice on one side."""
        person, name = self.rng.choice(PEOPLE), self.rng.choice(list(SUBSCRIPTIONS))
        side, value = self.rng.choice(["actito", "didomi"]), self.rng.random() < 0.5
        if side == "actito":
            if self.actito.subscriptions(person)[name] is value:
                return  # a click that changes nothing is no choice
            self.actito.change(person, **{name: value})
        else:
            given = event(person, now(), channels={SUBSCRIPTIONS[name]: value})
            given["id"] = f"{person}-{self.rng.randrange(10**12)}"
            self.didomi.say(given)
        self.acts.setdefault((person, name), []).append(Act(side, time.time(), value))

    def live(self, stop: threading.Event) -> None:
        """Act at any time until it is to stop."""
        while not stop.wait(self.rng.uniform(0.01, 0.2)):
            self.act()

    def held(self) -> dict[tuple[str, str], tuple[bool, Any]]:
        """Return what each side shows."""
        profiles = self.actito.all()
        return {
            (person, name): (
                profiles[person]["subscriptions"][name],
                self.didomi.state(person).get(channel),
            )
            for person in PEOPLE
            for name, channel in SUBSCRIPTIONS.items()
        }

    def writes(self) -> tuple[int, int]:
        """Count what was written on either side."""
        return self.actito.stats()["writes"], self.actito.stats("didomi")["writes"]

    def is_excused(self, act: Act) -> bool:
        """Return whether an opt-out in Actito fell into a run that wrote there.

        Between the look and the write of a single request no plugin that polls can see it.
        """
        return act.side == "actito" and any(
            began <= act.at <= ended + 0.1 for began, ended in self.writing
        )


def write_catalog(tap: str, config: dict[str, Any], folder: Path) -> Path:
    """Discover the streams of a tap, and select consent events alone."""
    catalog = json.loads(run_plugin(tap, config, folder, "--discover").out)
    for stream in catalog["streams"]:
        for entry in stream["metadata"]:
            if entry["breadcrumb"] == []:
                entry["metadata"]["selected"] = stream["stream"] == "consent_events"
    path = folder / f"{tap}-catalog.json"
    path.write_text(json.dumps(catalog))
    return path


def now() -> str:
    """Return the present time as Didomi writes it."""
    return format_timestamp(datetime.now(timezone.utc))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_opt_out_is_turned_back_however_often_processes_die(
    url: str, tmp_path: Path, seed: int
) -> None:
    """At rest both sides agree, on the opt-out wherever it is the newest choice."""
    world = World(url, tmp_path, random.Random(seed))
    for person in PEOPLE:
        world.actito.create(person, Newsletter=True, SmsAlerts=False)
        world.didomi.say(
            event(person, "2026-10-01T10:00:00Z", channels={"email": True, "sms": False})
        )
    for tap in PAIRS:
        assert world.run(tap, kill=False) == 0
    for _ in range(ROUNDS):
        stop = threading.Event()
        people = threading.Thread(target=world.live, args=[stop])
        people.start()
        taps = list(PAIRS)
        if world.rng.random() < 0.5:
            runs = [
                threading.Thread(target=world.run, args=[tap], kwargs={"kill": True})
                for tap in taps
            ]
            for run in runs:
                run.start()
            for run in runs:
                run.join()
        else:
            for tap in taps:
                world.run(tap, kill=True)
        stop.set()
        people.join()
    time.sleep(LATE_BOUND)
    for _ in range(3):
        statuses = [world.run(tap, kill=False) for tap in PAIRS]
    assert statuses == [0, 0]
    before = world.writes()
    assert [world.run(tap, kill=False) for tap in PAIRS] == [0, 0]
    assert world.writes() == before, "at rest, one more round writes"
    for place, (in_actito, in_didomi) in world.held().items():
        made = world.acts.get(place, [])
        story = f"{place}: Actito {in_actito}, Didomi {in_didomi}: {made}"
        assert in_actito is bool(in_didomi), story
        if made and not made[-1].value and in_actito:
            assert world.is_excused(made[-1]), story
    assert world.acts
