"""Histories in which an opt-out once became an opt-in, repeated with both directions.

The numbers are those of the list of faults that this project was built against.
"""

from __future__ import annotations

import json
import time
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
    feed,
    lines,
    post_config,
    run_plugin,
    run_target,
    start_plugin,
    stream_of,
    target_config,
    with_ledger,
)

from actito_didomi.consent.records import format_timestamp

LATE_BOUND = 0.5
"""Seconds after which no write of ours can come late, nor is an opt-out repeated for one."""


class Pair:
    """Both sides, and both pipelines on one ledger."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.actito, self.didomi = Actito(url), Didomi(url)
        shared = with_ledger(folder, clock_tolerance=0, late_bound=LATE_BOUND)
        self.forward_config = target_config(url, folder, mappings=MAPPINGS[:1], **shared)
        self.tap_config = back_config(url, folder, mappings=MAPPINGS[:1], **shared)
        self.post_config = post_config(url, folder, **shared)
        self.state: dict[str, Any] | None = None

    def forward(self, *events: dict[str, Any], **changes: Any) -> Run:
        """Load events into Actito, as exports of any day bring them."""
        run = run_target({**self.forward_config, **changes}, self.folder, stream_of(*events))
        assert run.exit_code == 0, run.err
        return run

    def forward_killed(self, *events: dict[str, Any], during: str, **changes: Any) -> None:
        """Load events into Actito, killed as soon as a request of a route has come in."""
        process = start_plugin("target-actito", {**self.forward_config, **changes}, self.folder)
        feed(process, lines(stream_of(*events)))
        deadline = time.monotonic() + 60
        while self.actito.calls(during) == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait()
        process.stdout.close()

    def look(self) -> Run:
        """Run tap-actito."""
        arguments = []
        if self.state is not None:
            path = self.folder / "state.json"
            path.write_text(json.dumps(self.state))
            arguments = ["--state", str(path)]
        return run_plugin("tap-actito", self.tap_config, self.folder, *arguments)

    def reverse(self) -> None:
        """Run tap-actito | target-didomi."""
        read = self.look()
        assert read.exit_code == 0, read.err
        posted = run_plugin("target-didomi", self.post_config, self.folder, stdin=read.out)
        assert posted.exit_code == 0, posted.err
        if posted.states:
            self.state = posted.states[-1]

    def say(self, value: bool, user: str = "u1") -> dict[str, Any]:
        """The person chooses in Didomi; return the event as an export brings it."""
        now = format_timestamp(datetime.now(timezone.utc))
        given = event("ann", now, channels={"email": value}, status="confirmed")
        given["user"]["id"], given["id"] = user, f"{user}-{now}-{value}"
        self.didomi.say(given)
        time.sleep(0.01)
        return given

    def click(self, value: bool) -> None:
        """The person chooses in Actito."""
        self.actito.change("ann", Newsletter=value)
        time.sleep(0.01)

    def shown(self) -> tuple[bool, set[Any]]:
        """What Actito shows, and what the person's users in Didomi show."""
        users = {
            {c["id"]: c["enabled"] for c in user["consents"]["channels"]}.get("email")
            for user in self.didomi.users("ann")
        }
        return self.actito.subscriptions("ann")["Newsletter"], users

    def rest(self) -> None:
        """Run both directions until they are quiet; the last round writes nothing."""
        for _ in range(2):
            self.reverse()
            self.forward()
        before = self.actito.stats()["writes"], self.actito.stats("didomi")["writes"]
        self.reverse()
        self.forward()
        assert (self.actito.stats()["writes"], self.actito.stats("didomi")["writes"]) == before


@pytest.fixture
def pair(url: str, tmp_path: Path) -> Pair:
    """One person with a profile, off on both sides."""
    found = Pair(url, tmp_path)
    found.actito.create("ann")
    return found


def test_a1_our_own_write_is_no_newer_choice(pair: Pair) -> None:
    """An opt-in and an opt-out in Didomi, loaded a day apart, with reverse runs between."""
    old = pair.say(value=False)
    pair.forward(old)
    pair.reverse()
    first, second = pair.say(value=True), pair.say(value=False)
    pair.reverse()
    pair.forward(first)
    pair.reverse()
    pair.forward(second)
    pair.rest()
    assert pair.shown() == (False, {False})


def test_a2_our_own_event_comes_back_and_is_no_choice(pair: Pair) -> None:
    """What target-didomi posted is read by the forward sync."""
    pair.forward(pair.say(value=True))
    pair.reverse()
    pair.click(value=False)
    pair.reverse()
    posted = pair.didomi.events("ann")
    pair.click(value=True)
    pair.reverse()
    pair.click(value=False)
    pair.forward(*posted, *pair.didomi.events("ann"))
    pair.rest()
    assert pair.shown() == (False, {False})


def test_a3_killed_between_the_request_and_its_record(pair: Pair) -> None:
    """The opt-in was written; then the person unsubscribes, and both directions run."""
    pair.forward()
    given = pair.say(value=True)
    pair.actito.steer(
        "faults", {"side": "actito", "action": "stall", "route": "patch_profile", "seconds": 5}
    )
    pair.forward_killed(given, during="patch_profile")
    pair.actito.steer("reset", {})
    pair.actito.change("ann", Newsletter=True)
    pair.click(value=False)
    time.sleep(LATE_BOUND)
    pair.rest()
    assert pair.shown()[0] is False


def test_a4_an_unsubscribe_after_the_look_of_the_reverse_run(pair: Pair) -> None:
    """On again in Didomi; reverse run; unsubscribe in Actito; forward run."""
    pair.forward(pair.say(value=True))
    again = pair.say(value=True)
    pair.reverse()
    pair.click(value=False)
    pair.forward(again)
    pair.rest()
    assert pair.shown() == (False, {False})


def test_a6_the_ledger_is_on_by_default(pair: Pair) -> None:
    """Yesterday's export with the opt-in arrives after the unsubscribe."""
    pair.click(value=True)
    pair.forward()
    first = pair.say(value=True)
    pair.reverse()
    pair.click(value=False)
    pair.reverse()
    pair.forward(first)
    pair.rest()
    assert pair.shown() == (False, {False})


def test_a7_off_on_by_us_and_off_by_the_person(pair: Pair) -> None:
    """The last value is the one that the reverse run saw before; it is a choice all the same."""
    pair.forward()
    pair.reverse()
    pair.forward(pair.say(value=True))
    assert pair.shown() == (True, {True})
    pair.click(value=False)
    pair.rest()
    assert pair.shown() == (False, {False})


def test_a8_a_touch_of_another_user_is_no_choice(pair: Pair) -> None:
    """Two Didomi users; an opt-out in Actito reaches both; a whole status is read later."""
    one, other = pair.say(value=True, user="u1"), pair.say(value=True, user="u2")
    pair.forward(one, other)
    pair.reverse()
    pair.click(value=False)
    pair.reverse()
    assert pair.shown() == (False, {False})
    later = format_timestamp(datetime.now(timezone.utc) + timedelta(seconds=1))
    for user in pair.didomi.users("ann"):
        status = {**user, "updated_at": later}
        pair.forward(status)
    pair.rest()
    assert pair.shown() == (False, {False})


def test_a19_a_write_of_unknown_outcome_is_read_back(pair: Pair) -> None:
    """The response of the opt-in is lost; nothing newer is hidden by its repetition."""
    pair.forward()
    pair.actito.steer(
        "faults",
        {"side": "actito", "action": "drop_after", "route": "patch_profile", "count": 1},
    )
    pair.forward(pair.say(value=True))
    assert pair.shown()[0] is True
    assert pair.actito.calls("patch_profile") == 1
    pair.click(value=False)
    time.sleep(LATE_BOUND)
    pair.rest()
    assert pair.shown() == (False, {False})


def test_a23_out_and_in_again_before_the_next_look(pair: Pair) -> None:
    """Nothing differs in Actito, so nothing is to be synced, and both sides agree."""
    pair.forward(pair.say(value=True))
    pair.reverse()
    pair.click(value=False)
    pair.click(value=True)
    pair.rest()
    assert pair.shown() == (True, {True})


def test_a24_both_directions_at_once(pair: Pair) -> None:
    """tap-actito has seen the opt-out, and target-actito writes: the look before the write wins."""
    pair.forward(pair.say(value=False))
    pair.reverse()
    given = pair.say(value=True)
    pair.click(value=True)
    pair.click(value=False)
    read = pair.look()
    pair.forward(given)
    posted = run_plugin("target-didomi", pair.post_config, pair.folder, stdin=read.out)
    assert posted.exit_code == 0, posted.err
    pair.rest()
    in_actito, in_didomi = pair.shown()
    assert {in_actito} == in_didomi


def test_a25_an_opt_out_before_the_very_first_look(pair: Pair) -> None:
    """It is an opt-out of unknown age: with `baseline: opt_out` it stands on both sides."""
    given = pair.say(value=True)
    for config in (pair.forward_config, pair.tap_config, pair.post_config):
        config["baseline"] = "opt_out"
    pair.reverse()
    pair.forward(given)
    pair.rest()
    assert pair.shown() == (False, {False})


def test_a17_a_killed_import_that_executes_late(pair: Pair) -> None:
    """Its end is awaited by a run that makes no imports, and the newer opt-out is written again."""
    pair.actito.create_many(f"p{n}" for n in range(10))
    pair.forward()
    pair.actito.steer("options", {"etl_rows_per_second": 2})
    events = [event(f"p{n}", channels={"email": True}) for n in range(10)]
    pair.forward_killed(*events, during="execution", write_mode="bulk", bulk_poll_interval=0.1)
    newer = event("p1", "2026-10-02T10:00:00Z", channels={"email": False})
    pair.forward(newer, write_mode="single", bulk_poll_interval=0.1)
    found = pair.actito.all()
    assert found["p1"]["subscriptions"]["Newsletter"] is False
    assert all(found[f"p{n}"]["subscriptions"]["Newsletter"] for n in range(10) if n != 1)
