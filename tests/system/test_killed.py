"""Killed at any timestamp: nothing is lost, and nothing is claimed that isn't so."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import forks
import pytest
from support import Actito, event, feed, lines, record, run_target, schema, start_plugin, state

STATE_EVERY = 50


def long_input(count: int) -> tuple[list[str], list[Any]]:
    """Make people with two choices each, and STATE every 50 events.

    People come in any order, each with the older event first: across runs the order of arrival is
    all that a target has.
    """
    people = [f"person{n}@example.com" for n in range(count)]
    rng = random.Random(7)
    events = []
    for person in people:
        places = sorted(rng.random() for _ in range(2))
        for hour, place in enumerate(places):
            when = f"2026-10-01T{hour:02d}:00:00Z"
            channels = {"email": rng.random() < 0.5, "sms": rng.random() < 0.5}
            events.append((place, event(person, when, channels=channels)))
    events = [item for _, item in sorted(events, key=lambda pair: pair[0])]
    messages: list[Any] = [schema()]
    for number, item in enumerate(events, start=1):
        messages.append(record(item))
        if number % STATE_EVERY == 0:
            messages.append(state({"n": number}))
    return people, messages


def rest_of(messages: list[Any], acknowledged: int) -> list[Any]:
    """Return what a tap would send after this state."""
    if not acknowledged:
        return messages
    at = messages.index(state({"n": acknowledged}))
    return [messages[0], *messages[at + 1 :]]


def wanted(messages: list[Any]) -> dict[str, dict[str, bool]]:
    """Work out what one clean run gives: the later of two events wins."""
    result: dict[str, tuple[str, dict[str, bool]]] = {}
    for message in messages:
        if message["type"] == "RECORD":
            value = message["record"]
            person = value["user"]["organization_user_id"]
            choices = {c["id"]: c["enabled"] for c in value["consents"]["channels"]}
            if person not in result or value["created_at"] > result[person][0]:
                result[person] = (value["created_at"], choices)
    names = {"email": "Newsletter", "sms": "SmsAlerts"}
    return {p: {names[c]: v for c, v in choices.items()} for p, (_, choices) in result.items()}


def found(actito: Actito) -> dict[str, dict[str, bool]]:
    """Read what Actito holds."""
    return {
        person: {n: profile["subscriptions"][n] for n in ("Newsletter", "SmsAlerts")}
        for person, profile in actito.all().items()
    }


def last_state(process: forks.Process) -> int:
    """Read what a process that ended had acknowledged."""
    printed = [line for line in process.stdout.read().splitlines() if line.endswith(b"}")]
    process.stdout.close()
    return int(json.loads(printed[-1])["n"]) if printed else 0


@pytest.mark.parametrize(
    ("count", "kills"), [(600, 5), pytest.param(2000, 10, marks=pytest.mark.long)]
)
def test_sigkill_at_random_times_loses_nothing(
    actito: Actito, config: dict[str, Any], tmp_path: Path, count: int, kills: int
) -> None:
    """Killed and taken up from the last STATE, the result is that of one clean run."""
    people, messages = long_input(count)
    actito.create_many(people)
    rng, pauses = random.Random(3), random.Random()
    # Small flushes, so that the timestamps fall into reading, writing and printing alike.
    config = {**config, "max_buffered_people": 150}
    acknowledged, timestamps = 0, []
    for _ in range(kills):
        process = start_plugin("target-actito", config, tmp_path)
        calls = actito.calls("patch_profile")
        goal = calls + rng.randrange(5, count // kills * 2)
        feeder = threading.Thread(
            target=feed, args=(process, lines(rest_of(messages, acknowledged)))
        )
        feeder.start()
        deadline = time.monotonic() + 30
        while (
            actito.calls("patch_profile") < goal
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.02 + pauses.random() / 20)
        process.kill()
        process.wait(30)
        feeder.join(30)
        said = last_state(process)
        assert said >= acknowledged or said == 0
        acknowledged = max(acknowledged, said)
        timestamps.append(acknowledged)
        expected = (
            wanted(messages[: messages.index(state({"n": acknowledged}))]) if acknowledged else {}
        )
        now = found(actito)
        newest = wanted(messages)
        for person, choices in expected.items():
            assert now[person] in (choices, newest[person])
    run = run_target(config, tmp_path, rest_of(messages, acknowledged))
    assert run.exit_code == 0
    assert found(actito) == wanted(messages)
    assert len(set(timestamps)) > kills // 3, timestamps  # they were killed in the midst of it


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_writing_ends_the_run_in_time_and_honestly(
    actito: Actito, config: dict[str, Any], tmp_path: Path, number: int, code: int, times: int
) -> None:
    """Exit 143 or 130, never 0, also when it comes twice; no STATE beyond what is written."""
    people = [f"p{n}" for n in range(60)]
    actito.create_many(people)
    actito.steer("options", {"latency": 0.2})
    messages: list[Any] = [schema()]
    for at, person in enumerate(people, start=1):
        messages += [record(event(person, channels={"email": True})), state({"n": at})]
    process = start_plugin("target-actito", {**config, "max_concurrency": 2}, tmp_path)
    feed(process, lines(messages))
    while actito.calls("patch_profile") < 5:
        time.sleep(0.02)
    asked = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.05)
    assert process.wait(30) == code
    assert time.monotonic() - asked < 30
    acknowledged = last_state(process)
    written = {p for p, v in actito.all().items() if v["subscriptions"]["Newsletter"]}
    assert 0 < acknowledged < len(people)
    assert set(people[:acknowledged]) <= written


def test_a_signal_while_waiting_on_stdin_ends_the_run(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """A target that waits for a silent tap ends at once, and acknowledges nothing unwritten."""
    actito.create("ann")
    process = start_plugin("target-actito", config, tmp_path)
    waiting = [schema(), record(event("ann", channels={"email": True})), state({"n": 1})]
    feed(process, lines(waiting), close=False)
    while not actito.calls("table"):  # it has read the SCHEMA, and goes on to wait for more
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stdin.close()
    assert last_state(process) == 0
    assert not actito.subscriptions("ann")["Newsletter"]


def test_a_call_that_hangs_is_given_up_within_the_grace(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """The watchdog does not wait for a server that doesn't answer."""
    actito.create("ann")
    fault = {"side": "actito", "route": "patch_profile", "action": "stall", "seconds": 6}
    actito.steer("faults", fault)
    process = start_plugin("target-actito", {**config, "shutdown_grace": 2}, tmp_path)
    feed(
        process, lines([schema(), record(event("ann", channels={"email": True})), state({"n": 1})])
    )
    while not actito.calls("patch_profile"):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert last_state(process) == 0
