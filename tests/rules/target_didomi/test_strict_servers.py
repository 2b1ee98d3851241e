"""target-didomi with a ledger, against servers that are stricter or odder than the sandbox."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from between import Answer, Between, pass_on
from support import (
    Didomi,
    Run,
    event,
    feed,
    lines,
    post_config,
    report,
    run_plugin,
    start_plugin,
    stream_of,
    with_ledger,
)

PURPOSE, TOPICS = "newsletter-Kd8xQ", "topics-Zu7"


@pytest.fixture
def didomi(url: str) -> Didomi:
    """The sandbox's Didomi, past the server between."""
    return Didomi(url)


@pytest.fixture
def between(url: str) -> Iterator[Between]:
    """The server between."""
    server = Between(url, "/consents/")
    yield server
    server.close()


@pytest.fixture
def config(between: Between, tmp_path: Path) -> dict[str, Any]:
    """Settings of target-didomi with a ledger, for the server between."""
    return post_config(between.url, tmp_path, **with_ledger(tmp_path), clock_tolerance=0)


def now(seconds: float = 0) -> str:
    """Return the present time, or another."""
    when = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    return when.isoformat(timespec="milliseconds")


def said(person: str, when: str, user: str = "", **more: Any) -> dict[str, Any]:
    """An event of a Didomi user of a person, as a site stores it."""
    given = event(person, when, status="confirmed", **more)
    given["user"]["id"] = user or f"user-{person}"
    given["id"] = f"{person}-{user}-{when}"
    return given


def chosen(person: str, when: str = "", **more: Any) -> dict[str, Any]:
    """An event of tap-actito: a choice made in Actito, at a timestamp or just now."""
    return {**event(person, when or now(), **more), "delegate": {"id": "actito"}}


def post(config: dict[str, Any], folder: Path, *events: dict[str, Any], code: int = 0) -> Run:
    """Run target-didomi over events."""
    run = run_plugin("target-didomi", config, folder, stdin=lines(stream_of(*events)))
    assert run.exit_code == code, run.err
    return run


def shown(didomi: Didomi, person: str, channel: str = "email") -> dict[str, Any]:
    """The choice that each Didomi user of a person shows."""
    return {
        user["id"]: {c["id"]: c["enabled"] for c in user["consents"]["channels"]}.get(channel)
        for user in didomi.users(person)
    }


def add_user(didomi: Didomi, person: str, user: str) -> None:
    """Add a Didomi user who shows an opt-in that no event explains."""
    consents = {"channels": [{"id": "email", "enabled": True}]}
    body = {"id": user, "organization_user_id": person, "consents": consents}
    assert didomi("POST", "/consents/users", body).ok


def topics(didomi: Didomi, person: str) -> str:
    """The answer about topics of a person's only user."""
    (user,) = didomi.users(person)
    (purpose,) = (p for p in user["consents"]["purposes"] if p["id"] == PURPOSE)
    return str(purpose["values"][TOPICS]["value"])


def wanted_topics(**values: bool) -> dict[str, Any]:
    """Choices of topics, as tap-actito states them."""
    nodes = [{"id": value.replace("_", "-"), "enabled": v} for value, v in values.items()]
    return {PURPOSE: {"preferences": [{"id": TOPICS, "values": nodes}]}}


def is_post(method: str, path: str) -> bool:
    """Return whether a request posts events."""
    return method == "POST" and "/consents/events" in path


def test_b8_a_200_that_lacks_an_event_does_not_count_for_it(
    didomi, between, config, tmp_path
) -> None:
    """Of an array, Didomi stores one less than it was sent, and says so by leaving it out."""
    for person in ("ann", "bob", "eve"):
        didomi.say(said(person, "2026-10-01T10:00:00Z", channels={"email": True}))

    def rule(method: str, path: str, body: Any, ask: Callable[[Any], Answer]) -> Answer:
        if is_post(method, path) and isinstance(body, list):
            status, stored = ask([e for e in body if e["user"]["organization_user_id"] != "bob"])
            return status, [*stored, {"code": 400, "message": "refused"}]
        if is_post(method, path) and body["user"]["organization_user_id"] == "bob":
            return 422, {"message": "refused"}
        return ask(body)

    between.rule = rule
    opt_outs = [chosen(person, channels={"email": False}) for person in ("ann", "bob", "eve")]
    post(config, tmp_path, *opt_outs, code=3)
    assert report(config)["posted"] == 2
    assert report(config)["rejected"] == 1
    between.rule = pass_on
    post(config, tmp_path)
    for person in ("ann", "bob", "eve"):
        assert shown(didomi, person) == {f"user-{person}": False}
        assert len(didomi.events(person)) == 2


@pytest.mark.parametrize("status", [400, 409])
def test_b8_says_it_exists_and_does_not(didomi, between, config, tmp_path, status) -> None:
    """The event is read back by its id: only if it is there it counts."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True}))
    between.rule = lambda method, path, body, ask: (
        (status, {"message": "Purpose x does not exist"}) if is_post(method, path) else ask(body)
    )
    post(config, tmp_path, chosen("ann", channels={"email": False}), code=3)
    assert report(config)["posted"] == 0
    between.rule = pass_on
    post(config, tmp_path)
    assert shown(didomi, "ann") == {"user-ann": False}


def test_b8_an_event_stored_without_its_choice_does_not_count(
    didomi, between, config, tmp_path
) -> None:
    """A server that passes over what it doesn't know says 200."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True, "sms": True}))

    def rule(method: str, path: str, body: Any, ask: Callable[[Any], Answer]) -> Answer:
        if is_post(method, path):
            consents = body["consents"]
            kept = [c for c in consents["channels"] if c["id"] != "sms"]
            return ask({**body, "consents": {**consents, "channels": kept}})
        return ask(body)

    between.rule = rule
    run = post(config, tmp_path, chosen("ann", channels={"email": False, "sms": False}), code=3)
    assert report(config)["written_opt_outs"] == 1
    assert "without some of its choices" in run.err
    between.rule = pass_on
    post(config, tmp_path)
    assert shown(didomi, "ann", "sms") == {"user-ann": False}
    assert len(didomi.events("ann")) == 3


def test_b9_one_refused_purpose_stops_no_other_choice(didomi, between, config, tmp_path) -> None:
    """What is refused stays owed; what is not is posted, in one run."""
    didomi.say(
        said("ann", "2026-10-01T10:00:00Z", channels={"email": True}, purposes={"surveys": True})
    )

    def rule(method: str, path: str, body: Any, ask: Callable[[Any], Answer]) -> Answer:
        if is_post(method, path) and "surveys" in json.dumps(body):
            return 400, {"message": "Purpose surveys does not exist"}
        return ask(body)

    between.rule = rule
    opt_outs = chosen("ann", channels={"email": False}, purposes={"surveys": False})
    post(config, tmp_path, opt_outs, code=3)
    assert shown(didomi, "ann") == {"user-ann": False}
    assert (report(config)["written_opt_outs"], report(config)["rejected_opt_outs"]) == (1, 1)
    before = len(didomi.events("ann"))
    post(config, tmp_path, code=3)
    assert len(didomi.events("ann")) == before


@pytest.mark.parametrize("has_ledger", [True, False])
def test_rule_5_refused_metadata_blocks_no_choice(
    didomi, between, config, tmp_path, has_ledger: bool
) -> None:
    """The choice is posted without it, in the same run."""
    config |= {} if has_ledger else {"ledger_url": "none"}
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True}))

    def rule(method: str, path: str, body: Any, ask: Callable[[Any], Answer]) -> Answer:
        if is_post(method, path) and "shoeSize" in json.dumps(body):
            return 400, {"message": "metadata.shoeSize is not allowed"}
        return ask(body)

    between.rule = rule
    opt_out = chosen("ann", channels={"email": False})
    opt_out["user"]["metadata"] = {"shoeSize": "b"}
    post(config, tmp_path, opt_out)
    assert shown(didomi, "ann") == {"user-ann": False}
    assert report(config)["rejected"] == 0


@pytest.mark.parametrize(
    "node",
    [
        {"id": 7, "enabled": True},
        {"enabled": True},
        {"id": "email", "enabled": "true"},
        "email",
        None,
    ],
)
def test_b9_an_odd_node_in_a_status_never_holds_up_an_opt_out(
    didomi, between, config, tmp_path, node
) -> None:
    """It is passed over, in the person's users and events alike."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True}))

    def rule(method: str, _path: str, body: Any, ask: Callable[[Any], Answer]) -> Answer:
        status, found = ask(body)
        if method == "GET":
            for item in found["data"]:
                item["consents"]["channels"].append(node)
                item["consents"]["purposes"].append(node)
            found["data"].append({"user": node, "consents": node})
        return status, found

    between.rule = rule
    post(config, tmp_path, chosen("ann", channels={"email": False}))
    assert shown(didomi, "ann")["user-ann"] is False


def test_b9_values_of_one_preference_stay_together(didomi, between, config, tmp_path) -> None:
    """An event states a whole answer: posted one by one, the second would undo the first."""
    answer = {PURPOSE: {"values": {TOPICS: {"value": "sport-a1,travel-b2"}}}}
    old = "2026-10-01T10:00:00Z"
    didomi.say(said("ann", old, channels={"email": True}, purposes=answer))
    between.rule = lambda method, path, body, ask: (
        (400, {"message": "no channels today"})
        if is_post(method, path) and body["consents"].get("channels")
        else ask(body)
    )
    purposes = wanted_topics(sport_a1=False, travel_b2=False)
    post(config, tmp_path, chosen("ann", channels={"email": False}, purposes=purposes), code=3)
    assert topics(didomi, "ann") == ""
    assert shown(didomi, "ann") == {"user-ann": True}


def test_what_waits_for_approval_states_no_value_that_was_opted_out_of(
    didomi, config, tmp_path
) -> None:
    """Once approved, it must not turn an opt-out of the same event back."""
    answer = {PURPOSE: {"values": {TOPICS: {"value": "sport-a1"}}}}
    didomi.say(said("ann", "2026-10-01T10:00:00Z", purposes=answer))
    config["respect_approval"] = True
    purposes = wanted_topics(sport_a1=False, travel_b2=True)
    post(config, tmp_path, chosen("ann", purposes=purposes))
    assert topics(didomi, "ann") == ""
    (waiting,) = didomi.events("ann", status="pending_approval")
    (purpose,) = waiting["consents"]["purposes"]
    assert purpose["values"][TOPICS]["value"] == "travel-b2"
    before = len(didomi.events("ann"))
    post(config, tmp_path)
    assert len(didomi.events("ann")) == before
    assert len(didomi.events("ann", status="pending_approval")) == 1


def test_an_answer_opts_out_of_what_else_didomi_holds(didomi, config, tmp_path) -> None:
    """A whole answer of any tap: the other values of the preference are not chosen any more."""
    held = {PURPOSE: {"values": {TOPICS: {"value": "sport-a1,travel-b2"}}}}
    didomi.say(said("ann", "2026-10-01T10:00:00Z", purposes=held))
    answer = {PURPOSE: {"values": {TOPICS: {"value": "travel-b2"}}}}
    post(config, tmp_path, chosen("ann", purposes=answer))
    assert topics(didomi, "ann") == "travel-b2"


def test_a1_our_own_event_is_no_act(didomi, config, tmp_path) -> None:
    """The person unsubscribed before our opt-in was posted; we learn of it after."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": False}))
    opt_in = chosen("ann", channels={"email": True})
    time.sleep(0.01)
    opt_out = chosen("ann", channels={"email": False})
    post(config, tmp_path, opt_in)
    assert shown(didomi, "ann") == {"user-ann": True}
    post(config, tmp_path, opt_out)
    assert shown(didomi, "ann") == {"user-ann": False}


def test_a7_off_on_by_us_off_by_the_person(didomi, config, tmp_path) -> None:
    """Each act of the person is newer than our events, whatever these are dated."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True}))
    for choice in (False, True, False, True, False):
        post(config, tmp_path, chosen("ann", channels={"email": choice}))
        assert shown(didomi, "ann") == {"user-ann": choice}
    assert len({e["id"] for e in didomi.events("ann")}) == 6


def test_a8_a_user_touched_later_without_a_choice_is_no_act(didomi, config, tmp_path) -> None:
    """And a user without any event, only a status, gets the opt-out as well."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", "u1", channels={"email": True}))
    add_user(didomi, "ann", "u2")
    post(config, tmp_path, chosen("ann", channels={"email": False}))
    assert shown(didomi, "ann") == {"u1": False, "u2": False}
    changed = didomi("PATCH", "/consents/users/u1", {"metadata": {"town": "Ghent"}})
    assert changed.ok, changed.text
    post(config, tmp_path)
    assert shown(didomi, "ann") == {"u1": False, "u2": False}
    assert len(didomi.events("ann")) == 3


def test_a8_a_user_that_appears_later_gets_the_opt_out(didomi, config, tmp_path) -> None:
    """An older opt-in under a new device: nobody asked for mail again."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", "u1", channels={"email": True}))
    post(config, tmp_path, chosen("ann", channels={"email": False}))
    add_user(didomi, "ann", "u2")
    post(config, tmp_path, chosen("ann", channels={"sms": False}))
    assert shown(didomi, "ann") == {"u1": False, "u2": False}


def test_a12_an_opt_in_dated_2099_loses_to_an_opt_out_of_now(didomi, config, tmp_path) -> None:
    """On either side; and the opt-out is dated later than it."""
    didomi.say(said("ann", "2099-01-01T00:00:00Z", channels={"email": True}))
    post(config, tmp_path, chosen("ann", channels={"email": False}))
    assert shown(didomi, "ann") == {"user-ann": False}
    didomi.say(said("bob", "2026-10-01T10:00:00Z", channels={"email": True}))
    post(config, tmp_path, chosen("bob", "2099-01-01T00:00:00Z", channels={"email": True}))
    didomi.say(said("bob", now(), channels={"email": False}))
    post(config, tmp_path, chosen("bob", channels={"sms": False}))
    assert shown(didomi, "bob") == {"user-bob": False}


def test_a22_the_same_channel_twice_is_an_opt_out(didomi, config, tmp_path) -> None:
    """Whichever stands first, in what comes and in what Didomi holds."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True}))
    for first in (True, False):
        twice = chosen("ann")
        twice["consents"]["channels"] = [
            {"id": "email", "enabled": first},
            {"id": "email", "enabled": not first},
        ]
        post(config, tmp_path, twice)
        assert shown(didomi, "ann") == {"user-ann": False}


def test_a23_out_and_in_again_before_the_next_run(didomi, config, tmp_path) -> None:
    """The order of the looks counts, also where both come in one run: the opt-in arrives."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True}))
    post(config, tmp_path, chosen("ann", channels={"email": False}))
    time.sleep(3.2)  # what follows was chosen after that
    first, second = now(-2), now(-1)
    post(
        config,
        tmp_path,
        {**chosen("ann", first, channels={"email": False}), "changed_after": now(-3)},
        {**chosen("ann", second, channels={"email": True}), "changed_after": first},
    )
    assert shown(didomi, "ann") == {"user-ann": True}


def test_b18_the_same_event_again_replaces_what_is_there_now(didomi, config, tmp_path) -> None:
    """A second snapshot states the same choice: another event, since it replaces another."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True}))
    opt_out = chosen("ann", channels={"email": False})
    post(config, tmp_path, opt_out)
    add_user(didomi, "ann", "u2")
    assert didomi(
        "PATCH",
        "/consents/users/user-ann",
        {"consents": {"channels": [{"id": "email", "enabled": True}]}},
    ).ok
    post(config, tmp_path, opt_out, chosen("ann", channels={"sms": False}))
    assert shown(didomi, "ann") == {"user-ann": False, "u2": False}
    assert len({e["id"] for e in didomi.events("ann")}) == 4


def test_lost_and_late_responses_make_no_second_event(didomi, between, config, tmp_path) -> None:
    """Stored, but answered with 500 each time: it is read back, and counts."""
    people = [f"p{n}" for n in range(4)]
    for person in people:
        didomi.say(said(person, "2026-10-01T10:00:00Z", channels={"email": True}))

    def rule(method: str, path: str, body: Any, ask: Callable[[Any], Answer]) -> Answer:
        answer = ask(body)
        return (500, {"message": "gone"}) if is_post(method, path) else answer

    between.rule = rule
    post(config, tmp_path, *(chosen(person, channels={"email": False}) for person in people))
    for person in people:
        assert shown(didomi, person) == {f"user-{person}": False}
        assert len(didomi.events(person)) == 2
    between.posts.clear()
    between.rule = pass_on
    post(config, tmp_path)
    assert between.posts == []


def test_one_event_that_breaks_the_server_holds_up_nobody_else(
    didomi, between, config, tmp_path
) -> None:
    """500 for each array and event that holds it."""
    for person in ("ann", "bob", "eve"):
        didomi.say(said(person, "2026-10-01T10:00:00Z", channels={"email": True}))
    between.rule = lambda method, path, body, ask: (
        (500, {"message": "broken"})
        if is_post(method, path) and '"bob"' in json.dumps(body)
        else ask(body)
    )
    opt_outs = [chosen(person, channels={"email": False}) for person in ("ann", "bob", "eve")]
    post(config, tmp_path, *opt_outs, code=3)
    assert shown(didomi, "ann") == {"user-ann": False}
    assert shown(didomi, "eve") == {"user-eve": False}
    between.rule = pass_on
    post(config, tmp_path)
    assert shown(didomi, "bob") == {"user-bob": False}


def test_one_person_who_cannot_be_read_holds_up_nobody_else(
    didomi, between, config, tmp_path
) -> None:
    """Their opt-in waits; opt-outs are posted all the same to people with a known user."""
    for person in ("ann", "bob", "eve"):
        didomi.say(said(person, "2026-10-01T10:00:00Z", channels={"email": False}))
    everybody = [chosen(person, channels={"email": True}) for person in ("ann", "bob", "eve")]
    post(config, tmp_path, *everybody)
    between.rule = lambda method, path, body, ask: (
        (400, {"message": "odd id"}) if method == "GET" and "=bob" in path else ask(body)
    )
    everybody = [chosen(person, channels={"email": False}) for person in ("ann", "bob", "eve")]
    post(config, tmp_path, *everybody)
    for person in ("ann", "bob", "eve"):
        assert shown(didomi, person) == {f"user-{person}": False}
    everybody = [chosen(person, channels={"email": True}) for person in ("ann", "bob", "eve")]
    post(config, tmp_path, *everybody)
    assert shown(didomi, "bob") == {"user-bob": False}
    assert shown(didomi, "eve") == {"user-eve": True}
    between.rule = pass_on
    post(config, tmp_path)
    assert shown(didomi, "bob") == {"user-bob": True}


def test_while_didomi_shows_nobody_opt_outs_are_posted_and_opt_ins_wait(
    didomi, between, config, tmp_path
) -> None:
    """The run fails, its STATE stays; what is owed is tried again."""
    for person, choice in (("ann", True), ("bob", False)):
        didomi.say(said(person, "2026-10-01T10:00:00Z", channels={"email": choice}))
        post(config, tmp_path, chosen(person, channels={"email": choice}))
    between.rule = lambda method, _path, body, ask: (
        (503, {"message": "down"}) if method == "GET" else ask(body)
    )
    opt_out, opt_in = (
        chosen("ann", channels={"email": False}),
        chosen("bob", channels={"email": True}),
    )
    run = post(config, tmp_path, opt_out, opt_in, code=1)
    assert run.states == []
    assert shown(didomi, "ann") == {"user-ann": False}
    assert shown(didomi, "bob") == {"user-bob": False}
    between.rule = pass_on
    post(config, tmp_path)
    assert shown(didomi, "bob") == {"user-bob": True}
    assert len(didomi.events("ann")) == 2


def test_a15_users_under_another_spelling_are_found(didomi, config, tmp_path) -> None:
    """The profile is spelled with capitals, the user in Didomi without."""
    config["key_matching"] = "folded"
    didomi.say(said("ann@ex.com", "2026-10-01T10:00:00Z", "u1", channels={"email": True}))
    didomi.say(said("Ann@Ex.com", "2026-10-01T10:00:00Z", "u2", channels={"email": True}))
    post(config, tmp_path, chosen("Ann@Ex.com", channels={"email": False}))
    assert shown(didomi, "ann@ex.com") == {"u1": False}
    assert shown(didomi, "Ann@Ex.com") == {"u2": False}


def test_one_who_had_no_user_is_tried_as_soon_as_one_acts(didomi, config, tmp_path) -> None:
    """A new choice doesn't wait for the day that the old one waits."""
    post(config, tmp_path, chosen("ann", channels={"email": False}))
    add_user(didomi, "ann", "u1")
    post(config, tmp_path, chosen("ann", channels={"sms": False}))
    assert shown(didomi, "ann") == {"u1": False}


def test_one_user_costs_two_reads_and_one_post(didomi, between, config, tmp_path) -> None:
    """Of one person; and nothing for what is there."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", channels={"email": True, "sms": True}))
    opt_outs = chosen("ann", channels={"email": False, "sms": False})
    post(config, tmp_path, opt_outs)
    assert (between.reads, len(between.posts)) == (2, 1)
    post(config, tmp_path, opt_outs)
    assert (between.reads, len(between.posts)) == (2, 1)


@pytest.mark.parametrize("seed", range(2))
def test_random_histories_end_with_the_opt_out_everywhere(
    didomi, between, config, tmp_path, seed
) -> None:
    """Acts on both sides, refusals, lost responses: at last each user shows what counts."""
    rng = random.Random(seed)
    users = ["u1", "u2", "u3"][: rng.randint(1, 3)]
    newest: dict[str, bool] = {}
    for user in users:
        didomi.say(said("ann", now(), user, channels={"email": True}))

    def odd(method: str, path: str, body: Any, ask: Callable[[Any], Answer]) -> Answer:
        fate = rng.random()
        if is_post(method, path) and fate < 0.3:
            return 422, {"message": "no"}
        answer = ask(body)
        return (500, {"message": "lost"}) if is_post(method, path) and fate < 0.5 else answer

    for _ in range(5):
        choice, side = rng.random() < 0.5, rng.choice(["actito", "didomi"])
        newest = {"email": choice}
        time.sleep(0.01)
        if side == "didomi":
            didomi.say(said("ann", now(), rng.choice(users), channels=newest))
            continue
        between.rule = odd
        run_plugin(
            "target-didomi",
            config,
            tmp_path,
            stdin=lines(stream_of(chosen("ann", channels=newest))),
        )
    between.rule = pass_on
    time.sleep(0.01)
    if rng.random() < 0.5:
        newest = {"email": False}
    post(config, tmp_path, chosen("ann", channels=newest))
    found = shown(didomi, "ann")
    if newest["email"]:
        assert True in found.values()
    else:
        assert set(found.values()) == {False}
    before = len(between.posts)
    post(config, tmp_path, chosen("ann", channels={"sms": False}))
    assert len(between.posts) == before + 1  # for what is new alone
    assert shown(didomi, "ann") == found


@pytest.mark.parametrize("stage", range(6))
def test_a3_a_kill_at_any_request_leaves_no_second_event(
    didomi, between, config, tmp_path, stage
) -> None:
    """SIGKILL before or after a request: the next run completes what is owed."""
    for person in ("ann", "bob"):
        didomi.say(said(person, "2026-10-01T10:00:00Z", channels={"email": True}))
    number, after = divmod(stage, 2)
    hit = threading.Event()
    routes = ["users", "events?", "POST"]

    def rule(method: str, path: str, body: Any, ask: Callable[[Any], Answer]) -> Answer:
        matches = (
            is_post(method, path) if number == 2 else method == "GET" and routes[number] in path
        )
        if not matches:
            return ask(body)
        answer = ask(body) if after else (503, {"message": "too late"})
        hit.set()
        time.sleep(1)
        return answer

    between.rule = rule
    process = start_plugin("target-didomi", config, tmp_path)
    opt_outs = [chosen(person, channels={"email": False}) for person in ("ann", "bob")]
    feed(process, lines(stream_of(*opt_outs)))
    assert hit.wait(30)
    process.kill()
    with process.stdout:
        assert process.stdout.read() == b""
    assert process.wait() == -signal.SIGKILL
    between.rule = pass_on
    post(config, tmp_path)
    for person in ("ann", "bob"):
        assert shown(didomi, person) == {f"user-{person}": False}
        assert len(didomi.events(person)) == 2


def test_a8_without_a_ledger_an_opt_out_reaches_every_user_too(didomi, config, tmp_path) -> None:
    """A second run has nothing to post."""
    didomi.say(said("ann", "2026-10-01T10:00:00Z", "u1", channels={"email": True}))
    didomi.say(said("ann", "2026-10-01T11:00:00Z", "u2", channels={"email": True}))
    config["ledger_url"] = "none"
    opt_out = chosen("ann", channels={"email": False})
    post(config, tmp_path, opt_out)
    assert shown(didomi, "ann") == {"u1": False, "u2": False}
    post(config, tmp_path, opt_out)
    assert len(didomi.events("ann")) == 4
