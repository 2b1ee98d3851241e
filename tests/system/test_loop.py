"""Both directions in turn: they agree, they stop, and nobody who opted out is opted in again."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support import (
    MAPPINGS,
    Actito,
    Didomi,
    Run,
    back_config,
    event,
    post_config,
    run_plugin,
    tap_config,
    target_config,
    with_ledger,
)

from actito_didomi.consent.records import format_timestamp

PEOPLE = [f"p{n:02}" for n in range(12)]
SUBSCRIPTIONS = {
    "Newsletter": ("channels", "email"),
    "SmsAlerts": ("channels", "sms"),
    "PartnerOffers": ("purposes", "partner_offers"),
}
ROUNDS = 7


@dataclass
class Choice:
    """A choice by a person."""

    side: str
    timestamp: datetime
    value: bool
    round: int


@dataclass
class World:
    """Both sides, both pipelines, and what people chose."""

    url: str
    folder: Path
    states: dict[str, Any] = field(default_factory=dict)
    choices: dict[tuple[str, str], list[Choice]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.actito, self.didomi = Actito(self.url), Didomi(self.url)
        ledger = with_ledger(self.folder, clock_tolerance=0.1)  # here is one clock only
        (self.folder / "back").mkdir()
        self.configs = {
            "tap-didomi": tap_config(self.url, **ledger),
            "target-actito": target_config(self.url, self.folder, mappings=MAPPINGS[:3], **ledger),
            "tap-actito": back_config(self.url, self.folder, mappings=MAPPINGS[:3], **ledger),
            "target-didomi": post_config(self.url, self.folder / "back", **ledger),
        }

    def pipe(self, tap: str, target: str) -> None:
        """Run one direction, from its last state to its next."""
        path = self.folder / f"{tap}-catalog.json"
        if not path.exists():
            path.write_text(self._catalog(tap))
        arguments = ["--catalog", str(path)]
        if tap in self.states:
            state = self.folder / f"{tap}-state.json"
            state.write_text(json.dumps(self.states[tap]))
            arguments += ["--state", str(state)]
        read = self._finish(run_plugin(tap, self.configs[tap], self.folder, *arguments))
        written = self._finish(
            run_plugin(target, self.configs[target], self.folder, stdin=read.out)
        )
        if written.states:
            self.states[tap] = written.states[-1]

    def _catalog(self, tap: str) -> str:
        """Select consent events."""
        catalog = json.loads(run_plugin(tap, self.configs[tap], self.folder, "--discover").out)
        for stream in catalog["streams"]:
            selected = stream["stream"] == "consent_events"
            for entry in stream["metadata"]:
                if entry["breadcrumb"] == []:
                    entry["metadata"]["selected"] = selected
        return json.dumps(catalog)

    def _finish(self, run: Run) -> Run:
        assert run.exit_code == 0, run.err
        return run

    def both(self) -> None:
        """Run the reverse sync, then the forward sync."""
        self.pipe("tap-actito", "target-didomi")
        self.pipe("tap-didomi", "target-actito")

    def choose(self, side: str, person: str, name: str, value: bool, number: int) -> None:
        """Make a choice of a person on one side."""
        timestamp = datetime.now(timezone.utc)
        if side == "actito":
            # Who is unsubscribed already can't unsubscribe again: nothing happens there. And what a
            # person takes back before the next look can't be seen in a table, as the README says.
            seen = any(c.side == side and c.round == number for c in self.choices[person, name])
            if seen or self.actito.subscriptions(person)[name] is value:
                return
            self.actito.change(person, **{name: value})
        else:
            kind, consent = SUBSCRIPTIONS[name]
            given = event(person, format_timestamp(timestamp), **{kind: {consent: value}})
            given["id"] += f"-{name}-{number}"
            self.didomi.say(given)
        self.choices[person, name].append(Choice(side, timestamp, value, number))

    def writes(self) -> tuple[int, int]:
        """Count what was written on either side."""
        return self.actito.stats()["writes"], self.actito.stats("didomi")["writes"]

    def held(self) -> dict[tuple[str, str], tuple[bool, bool | None]]:
        """Return what each side holds of each choice."""
        profiles = self.actito.all()
        found = {}
        for person in PEOPLE:
            state = self.didomi.state(person)
            for name, (_, consent) in SUBSCRIPTIONS.items():
                found[person, name] = profiles[person]["subscriptions"][name], state.get(consent)
        return found

    def story(self, person: str, name: str) -> str:
        """Return what happened to one choice, as text."""
        held = self.held()[person, name]
        made = "\n".join(map(str, self.choices[person, name]))
        log = "\n".join(
            f"{e['created_at']} {e.get('delegate', {}).get('id')} {e['consents']}"
            for e in self.didomi.events(person)
        )
        return f"{person} {name}: Actito, Didomi {held}\n{made}\n{log}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1])
def test_both_directions_agree_and_come_to_rest(url: str, tmp_path: Path, seed: int) -> None:
    """After seven rounds of choices, two more bring both sides together; the third writes nothing.

    What differs from a person's newest choice is an opt-out that was made on the other side between
    the same two looks.
    """
    world, rng = World(url, tmp_path), random.Random(seed)
    world.actito.create_many(PEOPLE)
    start = (datetime.now(timezone.utc) - timedelta(days=1)).isoformat()
    for person in PEOPLE:
        choices = {
            "channels": {"email": False, "sms": False},
            "purposes": {"partner_offers": False},
        }
        world.didomi.say(event(person, start, **choices))
    world.both()
    for number in range(ROUNDS):
        for _ in range(rng.randint(4, 12)):
            side = rng.choice(["actito", "didomi"])
            name = rng.choice(list(SUBSCRIPTIONS))
            world.choose(side, rng.choice(PEOPLE), name, rng.random() < 0.5, number)
        contested = rng.choice(PEOPLE), rng.choice(list(SUBSCRIPTIONS))
        for side in rng.sample(["actito", "didomi"], 2):
            world.choose(side, *contested, rng.random() < 0.5, number)
        world.both()
    world.both()
    world.both()
    before = world.writes()
    world.both()
    assert world.writes() == before
    conflicts = 0
    for (person, name), (in_actito, in_didomi) in world.held().items():
        assert in_actito is in_didomi, world.story(person, name)
        made = world.choices[person, name]
        if made and made[-1].value is not in_actito:
            conflicts += 1
            newest = made[-1]
            assert newest.value, f"an opt-out was turned back: {world.story(person, name)}"
            assert any(
                not other.value and other.round == newest.round and other.side != newest.side
                for other in made
            ), f"an opt-in was lost for no opt-out: {world.story(person, name)}"
    assert sum(len(made) for made in world.choices.values()) > 40
