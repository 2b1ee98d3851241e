"""STATE: what leaves, and when; also when the SDK would do otherwise."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support import (
    EVENT_SCHEMA,
    Actito,
    event,
    feed,
    lines,
    listen,
    record,
    report,
    run_plugin,
    run_target,
    schema,
    start_plugin,
    state,
    stream_of,
)

OLD, NEW = "2026-10-01T10:00:00Z", "2026-10-03T10:00:00Z"


def test_twenty_states_each_leave_behind_their_records(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """None is lost, all are in order; the run writes when two people wait, so some leave early."""
    people = [f"p{n}" for n in range(20)]
    actito.create_many(people)
    messages = [schema()]
    for number, person in enumerate(people, start=1):
        messages += [record(event(person, channels={"email": True})), state({"n": number})]
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 503}
    actito.steer("faults", {**fault, "skip": 10, "count": 1000})
    quick = {**config, "max_buffered_people": 2, "max_concurrency": 1}
    first = run_target(quick, tmp_path, messages)
    assert first.exit_code == 1
    assert first.states == [{"n": n} for n in range(1, 11)]
    written = [p for p, v in actito.all().items() if v["subscriptions"]["Newsletter"]]
    assert sorted(written) == sorted(people[:10])
    actito.steer("reset", {})
    second = run_target(quick, tmp_path, messages)
    assert second.states == [{"n": n} for n in range(1, 21)]


def test_state_leaves_while_a_long_run_is_writing(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """STATE comes out between two writes of one flush, not at its end only."""
    people = [f"p{n}" for n in range(6)]
    actito.create_many(people)
    actito.steer("options", {"latency": 0.4})
    messages: list[Any] = [schema()]
    for number, person in enumerate(people, start=1):
        messages += [record(event(person, channels={"email": True})), state({"n": number})]
    process = start_plugin("target-actito", {**config, "max_concurrency": 1}, tmp_path)
    feed(process, lines(messages))
    first = json.loads(process.stdout.readline())
    written = actito.calls("patch_profile")
    rest = [json.loads(line) for line in process.stdout]
    process.wait(30)
    process.stdout.close()
    assert first == {"n": 1}
    assert written < len(people)
    assert [s["n"] for s in rest] == [2, 3, 4, 5, 6]


def test_a_changed_schema_changes_no_order(actito: Actito, config: dict[str, Any]) -> None:
    """Records before and after a SCHEMA change are coalesced by their own time."""
    actito.create("ann", Newsletter=True)
    changed = {**EVENT_SCHEMA, "properties": {**EVENT_SCHEMA["properties"], "new": {}}}
    messages = [
        schema(),
        record(event("ann", NEW, channels={"email": False})),
        state({"n": 1}),
        schema(schema=changed),
        record(event("ann", OLD, channels={"email": True})),
        state({"n": 2}),
    ]
    listen(config, messages)
    assert not actito.subscriptions("ann")["Newsletter"]
    assert actito.calls("patch_profile") == 1


@pytest.mark.parametrize("newest", ["a", "b"])
def test_two_streams_about_one_person_are_one_change(
    actito: Actito, config: dict[str, Any], newest: str
) -> None:
    """One collector serves all streams, so that none can overwrite the other."""
    actito.create("ann")
    timestamps = {"a": NEW if newest == "a" else OLD, "b": NEW if newest == "b" else OLD}
    messages = [schema("a"), schema("b")]
    messages += [
        record(event("ann", timestamps["a"], channels={"email": True}), "a"),
        record(event("ann", timestamps["b"], channels={"email": False}), "b"),
        state({"n": 2}),
    ]
    listen(config, messages)
    assert actito.subscriptions("ann")["Newsletter"] is (newest == "a")
    assert actito.calls("patch_profile") == 1


def test_an_older_choice_after_a_flush_does_not_win(actito: Actito, config: dict[str, Any]) -> None:
    """What is written is remembered for the run."""
    actito.create("ann")
    actito.create("bob")
    events = [
        event("ann", NEW, channels={"email": False}),
        event("bob", NEW, channels={"email": True}),
        event("ann", OLD, channels={"email": True}),
    ]
    listen({**config, "max_buffered_people": 2}, stream_of(*events))
    assert not actito.subscriptions("ann")["Newsletter"]
    assert actito.calls("patch_profile") == 2


def test_a_quiet_tap_delays_neither_writing_nor_state(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """After `flush_interval` changes are written although the pipe stays open and silent."""
    actito.create("ann")
    process = start_plugin("target-actito", {**config, "flush_interval": 0.5}, tmp_path)
    feed(process, lines(stream_of(event("ann", channels={"email": True}))), close=False)
    assert json.loads(process.stdout.readline()) == {"read": 1}
    assert actito.subscriptions("ann")["Newsletter"]
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()


def test_what_came_before_broken_input_is_written(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """A line that is cut off ends the run with its number; what is whole is kept."""
    actito.create("ann")
    messages = lines(stream_of(event("ann", channels={"email": True})))
    cut = f'{messages}{{"type": "RECORD", "stre'
    run = run_plugin("target-actito", config, tmp_path, stdin=cut)
    assert run.exit_code == 1
    assert "Line 4 of the input is not valid JSON" in run.err
    assert run.states == [{"read": 1}]
    assert actito.subscriptions("ann")["Newsletter"]


def test_a_batch_file_that_is_not_there_ends_the_run(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Rather than drop what a BATCH refers to, the run ends, and nothing is acknowledged."""
    actito.create("ann")
    batch = {
        "type": "BATCH",
        "stream": "consent_events",
        "encoding": {"format": "jsonl"},
        "manifest": [(tmp_path / "nowhere.jsonl").as_uri()],
    }
    run = run_target(config, tmp_path, [schema(), batch, state({"n": 1})])
    assert run.exit_code == 1
    assert run.states == []
    assert "nowhere.jsonl can't be opened" in run.err


def test_a_report_is_written_also_when_the_run_fails(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """The report says how the run ended."""
    actito.create("ann")
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 503}
    actito.steer("faults", {**fault, "count": 100})
    began = time.time()
    run = run_target(config, tmp_path, stream_of(event("ann", channels={"email": True})))
    assert run.exit_code == 1
    result = report(config)
    assert (result["status"], result["code"]) == ("failed", "api_unavailable")
    assert result["retries"] == 2
    assert Path(config["report_path"]).stat().st_mtime >= began - 1
