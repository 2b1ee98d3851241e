"""One bad record among many neither stops the others nor holds STATE back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import (
    EVENT_SCHEMA,
    Actito,
    event,
    record,
    rejects,
    report,
    run_target,
    schema,
    state,
    stream_of,
)

PEOPLE = [f"p{n}" for n in range(500)]


@pytest.mark.parametrize("kind", ["not validated", "not mapped", "refused"])
def test_one_bad_record_among_five_hundred(
    actito: Actito, config: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """All good ones are written, the bad one is stored with its reason, and STATE leaves."""
    actito.create_many([*PEOPLE, "bad"])
    bad = event("bad", channels={"email": True})
    if kind == "not validated":
        bad["created_at"] = 20261001
    elif kind == "not mapped":
        bad["consents"]["channels"][0]["enabled"] = "yes"
    else:
        bad["user"]["metadata"] = {"emailAddress": "not an address"}
    events = [event(p, channels={"email": True}) for p in PEOPLE]
    run = run_target(config, tmp_path, stream_of(*events[:250], bad, *events[250:]))
    assert run.exit_code == 0, run.err[-2000:]
    assert run.states == [{"read": 501}]
    after = actito.all()
    assert all(after[p]["subscriptions"]["Newsletter"] for p in PEOPLE)
    (reject,) = rejects(config)
    assert reject["person"] == "bad"
    assert reject["reason"]
    assert (
        reject["code"]
        == {
            "not validated": "invalid_record",
            "not mapped": "invalid_value",
            "refused": "change_refused",
        }[kind]
    )
    assert f" {reject['code']}: {reject['reason']}" in run.err
    counts = report(config)
    assert (counts["rejected"], counts["rejects"]) == (1, {reject["code"]: 1})


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("more", [{}, {"status": None}, {"delegate": {"id": "x"}}])
def test_rule_4_a_placeholder_is_nobody(
    actito: Actito, config: dict[str, Any], tmp_path: Path, more: dict[str, Any], *, enabled: bool
) -> None:
    """Whichever way the record is read: a reject, and an opt-out in it is one."""
    actito.create_many(["ann", "undefined", "[object Object]"])
    ids = ["undefined", "[object Object]", " ", "NaN"]
    bad = [event(person, channels={"email": enabled}, **more) for person in ids]
    good = event("ann", channels={"email": True})
    run = run_target(config, tmp_path, stream_of(*bad, good))
    assert run.exit_code == (0 if enabled else 3), run.err[-2000:]
    assert actito.subscriptions("ann")["Newsletter"] is True
    assert actito.subscriptions("undefined")["Newsletter"] is False
    assert actito.subscriptions("[object Object]")["Newsletter"] is False
    assert report(config)["rejects"] == {"placeholder_id": 4}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"created_at": "yesterday"}, "`created_at` is no timestamp"),
        ({"created_at": None}, "`created_at` is missing"),
        ({"consents": ["x"]}, "`consents` must be an object"),
        ({"status": 7}, "`status` must be a string"),
        ({"user": {"organization_user_id": ["x"]}}, "`organization_user_id` is neither"),
        ({"delegate": "me"}, "`delegate` must be an object"),
    ],
)
def test_a_record_that_cannot_be_read_says_what_is_wrong(
    actito: Actito, config: dict[str, Any], tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    """Without validation, too, a broken record is rejected and the next one is written."""
    actito.create("ann")
    events = [{**event("bob", channels={"email": True}), **change}]
    events.append(event("ann", channels={"email": True}))
    run = run_target({**config, "validate_records": False}, tmp_path, stream_of(*events))
    (reject,) = rejects(config)
    assert reject["opt_out"] is ("consents" in change)  # what can't be read may be one
    assert run.exit_code == (3 if reject["opt_out"] else 0)
    assert run.states == [{"read": 2}]
    assert reason in reject["reason"]
    assert reject["record"]["id"] == events[0]["id"]
    assert actito.subscriptions("ann")["Newsletter"]


def test_a_record_that_cannot_be_read_but_holds_an_opt_out_fails_the_run(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Rule 8 holds for records that never became a change."""
    actito.create("ann", Newsletter=True)
    broken = {**event("ann", channels={"email": False}), "created_at": "yesterday"}
    run = run_target(config, tmp_path, stream_of(broken))
    assert run.exit_code == 3
    assert rejects(config)[0]["opt_out"]


def test_one_bad_event_of_a_line_leaves_the_others(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """The events of a batch-export line stand each for itself."""
    actito.create("ann")
    events = [
        event("ann", "2026-10-01T10:00:00Z", channels={"email": True}),
        {**event("ann", channels={"email": True}), "created_at": None},
        {**event("ann", "2026-10-02T10:00:00Z", channels={"sms": True}), "user": None},
    ]
    line = {"user": {"id": "u", "organization_user_id": "ann"}, "events": events}
    messages = [schema("raw", key_properties=[]), record(line, "raw"), state({"n": 1})]
    run = run_target(config, tmp_path, messages)
    assert run.exit_code == 0
    after = actito.subscriptions("ann")
    assert (after["Newsletter"], after["SmsAlerts"]) == (True, True)
    assert len(rejects(config)) == 1


def test_a_line_without_a_user_is_rejected(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """The reason names the part."""
    line = {"user": "ann", "events": []}
    loose = {"type": "object", "properties": {"user": {}, "events": {}}}
    messages = [
        schema("raw", key_properties=[], schema=loose),
        record(line, "raw"),
        state({"n": 1}),
    ]
    run = run_target(config, tmp_path, messages)
    assert run.states == [{"n": 1}]
    assert "`user` must be an object" in rejects(config)[0]["reason"]


def test_a_record_of_no_known_shape_in_a_consent_stream_is_rejected(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """It is neither event, user nor line; the reason says what these look like."""
    run = run_target(config, tmp_path, [schema(), record({"id": "1"}), state({"n": 1})])
    assert run.exit_code == 0
    assert run.states == [{"n": 1}]
    assert "no consent event" in rejects(config)[0]["reason"]


def test_streams_without_consents_are_skipped_with_one_warning(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """They are counted; no call is made for them."""
    plain = {"type": "object", "properties": {"id": {"type": "integer"}}}
    messages = [schema("orders", schema=plain)]
    messages += [record({"id": n}, "orders") for n in range(10)]
    run = run_target(config, tmp_path, [*messages, state({"n": 10})])
    assert run.exit_code == 0
    assert run.states == [{"n": 10}]
    assert run.err.count("holds no consent records") == 1
    assert report(config)["skipped"] == {"no_consent": 10}
    assert actito.stats()["calls"] == 0


def test_a_record_without_its_key_property_is_rejected_in_a_consent_stream(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Elsewhere it ends the run, as the SDK has it."""
    actito.create("ann")
    keyless = event("bob", channels={"email": True})
    del keyless["id"]
    run = run_target(config, tmp_path, stream_of(keyless, event("ann", channels={"email": True})))
    assert run.exit_code == 0
    assert "key properties" in rejects(config)[0]["reason"]
    assert actito.subscriptions("ann")["Newsletter"]


def test_a_half_written_reject_spoils_no_later_one(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """After a run that was killed within a line, the next reject has a line of its own."""
    Path(config["rejects_path"]).write_text('{"person": "x", "rea')
    run_target(config, tmp_path, stream_of({**event("ann"), "created_at": "?"}))
    lines = Path(config["rejects_path"]).read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith('{"rejected_at"')


def test_a_rejects_file_that_cannot_be_written_is_told_before_anything_is_done(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Not when the first reject comes."""
    missing = str(tmp_path / "nowhere" / "rejects.jsonl")
    run = run_target({**config, "rejects_path": missing}, tmp_path, stream_of(event("ann")))
    assert run.exit_code == 1
    assert "rejects_path" in run.err
    assert actito.stats()["calls"] == 0


def test_stream_maps_work(actito: Actito, config: dict[str, Any], tmp_path: Path) -> None:
    """Records renamed and filtered by the SDK's stream maps arrive as they are mapped."""
    actito.create("ann")
    maps = {"choices": {"__alias__": "consent_events", "__filter__": "status == 'good'"}}
    declared = {**EVENT_SCHEMA, "properties": {**EVENT_SCHEMA["properties"], "status": {}}}
    messages = [
        schema("choices", schema=declared),
        record({**event("ann", channels={"email": True}), "status": "bad"}, "choices"),
        state({"n": 1}),
    ]
    run = run_target({**config, "stream_maps": maps}, tmp_path, messages)
    assert run.exit_code == 0
    assert run.states == [{"n": 1}]
    assert not actito.subscriptions("ann")["Newsletter"]


@pytest.mark.parametrize("odd", [None, "x", [], {"enabled": True}, {"id": 5, "enabled": True}])
@pytest.mark.parametrize("node", ["channels", "purposes", "preferences"])
def test_an_odd_element_hides_no_opt_out(
    actito: Actito, config: dict[str, Any], tmp_path: Path, node: str, odd: Any
) -> None:
    """What is readable next to it is written; it is rejected, since it may be an opt-out."""
    actito.create("ann", Newsletter=True)
    actito.create("bob")

    def consents(*nodes: Any) -> dict[str, Any]:
        if node == "preferences":
            return {"purposes": [{"id": "p", "preferences": [*nodes]}]}
        return {node: [*nodes]}

    below = "purposes_p_preferences" if node == "preferences" else node
    config["mappings"] = [{"id": "Newsletter", "value": f"consents_{below}_x_enabled"}]
    events = [
        {**event("ann"), "consents": consents(odd, {"id": "x", "enabled": False})},
        {**event("bob"), "consents": consents({"id": "x", "enabled": True})},
    ]
    run = run_target(config, tmp_path, stream_of(*events))
    assert run.exit_code == 3
    assert run.states == [{"read": 2}]
    assert not actito.subscriptions("ann")["Newsletter"]
    assert actito.subscriptions("bob")["Newsletter"]
    (reject,) = rejects(config)
    assert (reject["person"], reject["code"], reject["opt_out"]) == ("ann", "invalid_record", True)


@pytest.mark.parametrize(
    "consents",
    [
        {"channels": {"id": "email", "enabled": False}},
        {"channels": {"email": False}},
        {"channels": "x"},
        {"channels": [{"id": "email", "enabled": {"value": False}}]},
    ],
)
def test_choices_in_an_unknown_form_may_be_opt_outs(
    actito: Actito, config: dict[str, Any], tmp_path: Path, consents: Any
) -> None:
    """They are rejected as such; nothing ends in silence."""
    actito.create("ann", Newsletter=True)
    run = run_target(config, tmp_path, stream_of({**event("ann"), "consents": consents}))
    assert run.exit_code == 3
    assert [r["opt_out"] for r in rejects(config)] == [True]


def test_an_odd_node_that_no_mapping_names_is_passed_over(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """It can't be an opt-out of anything that is written here."""
    actito.create("ann", Newsletter=True)
    config = {**config, "mappings": config["mappings"][:1]}
    odd = event("ann", channels={"email": False})
    odd["consents"]["purposes"] = ["x", {"enabled": 7}]
    run = run_target(config, tmp_path, stream_of(odd))
    assert (run.exit_code, rejects(config)) == (0, [])
    assert not actito.subscriptions("ann")["Newsletter"]


@pytest.mark.parametrize("events", [[], None])
def test_an_event_with_an_empty_list_of_events_is_an_event(
    actito: Actito, config: dict[str, Any], tmp_path: Path, events: Any
) -> None:
    """Some taps pad what is absent."""
    actito.create("ann", Newsletter=True)
    padded = {**event("ann", channels={"email": False}), "events": events}
    run = run_target(config, tmp_path, stream_of(padded))
    assert (run.exit_code, rejects(config)) == (0, [])
    assert not actito.subscriptions("ann")["Newsletter"]


def test_a_line_that_has_choices_of_its_own_is_read_as_both(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Its own choices, and those of its events; the newest counts."""
    actito.create("ann", Newsletter=True, SmsAlerts=False)
    own = event("ann", "2026-10-02T10:00:00Z", channels={"email": False})
    other = event("ann", "2026-10-01T10:00:00Z", channels={"email": True, "sms": True})
    run = run_target(config, tmp_path, stream_of({**own, "events": [other]}))
    assert (run.exit_code, rejects(config)) == (0, [])
    found = actito.subscriptions("ann")
    assert (found["Newsletter"], found["SmsAlerts"]) == (False, True)


@pytest.mark.parametrize(
    "broken",
    [
        {"data": {"consents": {"channels": [{"id": "email", "enabled": False}]}}},
        {"user": {"organization_user_id": "ann"}, "events": '[{"consents": {}}]'},
        {"user": 7, "events": [{"consents": {"channels": [{"id": "email", "enabled": False}]}}]},
    ],
)
def test_what_cannot_be_read_may_be_an_opt_out(
    actito: Actito, config: dict[str, Any], tmp_path: Path, broken: Any
) -> None:
    """Unless it is readable that it isn't."""
    run = run_target(config, tmp_path, stream_of(broken))
    assert run.exit_code == 3
    assert [r["opt_out"] for r in rejects(config)] == [True]
