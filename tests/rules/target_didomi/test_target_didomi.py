"""target-didomi against the sandbox: what is posted, what is left alone, and what is kept."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from support import (
    Didomi,
    event,
    feed,
    lines,
    post_config,
    record,
    rejects,
    report,
    run_plugin,
    schema,
    start_plugin,
    state,
    stream_of,
)

OLD, EARLY, NOON, LATE = (f"2026-10-01T{h}:00:00Z" for h in ("08", "10", "12", "14"))
JUST_OLDER = "2026-10-01T07:59:59.999Z"
FREQUENCY, TOPICS = "frequency-Hj3", "topics-Zu7"


@pytest.fixture
def didomi(url: str) -> Didomi:
    """The sandbox's Didomi."""
    return Didomi(url)


@pytest.fixture
def config(url: str, tmp_path: Path) -> dict[str, Any]:
    """Settings of target-didomi for the sandbox."""
    return post_config(url, tmp_path)


def run(config: dict[str, Any], folder: Path, *events: Any, code: int = 0) -> dict[str, Any]:
    """Run target-didomi over events; give its report."""
    done = run_plugin("target-didomi", config, folder, stdin=lines(stream_of(*events)))
    assert done.exit_code == code, done.err
    assert done.states == [{"read": len(events)}]
    for said in events:
        person = ((said.get("user") or {}).get("organization_user_id")) or "nobody at all"
        assert not re.search(rf"\b{person}\b", done.err)
    return report(config)


def value(purpose: str, preference: str, **values: bool) -> dict[str, Any]:
    """Make a purpose as tap-actito does, with values of one preference."""
    nodes = [{"id": k.replace("_", "-"), "enabled": v} for k, v in values.items()]
    return {purpose: {"preferences": [{"id": preference, "values": nodes}]}}


@pytest.mark.parametrize("regulation", ["gdpr", "GDPR"])
def test_the_regulation_is_sent_as_didomi_writes_it(
    didomi, config, tmp_path, regulation: str
) -> None:
    """However the setting is written."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    run(
        {**config, "regulation": regulation},
        tmp_path,
        event("ann", NOON, channels={"email": False}),
    )
    assert didomi.state("ann") == {"email": False}
    assert didomi.events("ann")[-1]["regulation"] == "gdpr"


def test_only_what_differs_is_posted(didomi, config, tmp_path, actito) -> None:
    """Equal choices are left out; the rest arrives once, marked, past Didomi's integrations."""
    didomi.say(event("ann", OLD, channels={"email": True, "sms": False}))
    posted = event("ann", NOON, channels={"email": False, "sms": False, "push-app": True})
    notified = actito.stats("didomi")["notified"]
    said = run(config, tmp_path, posted)
    stored = didomi.events("ann")[-1]
    assert stored["id"] == posted["id"]
    assert stored["created_at"] == "2026-10-01T12:00:00.000Z"
    assert stored["delegate"] == {"id": "actito"}
    assert stored["status"] == "confirmed"
    assert {c["id"]: c["enabled"] for c in stored["consents"]["channels"]} == {
        "email": False,
        "push-app": True,
    }
    assert didomi.state("ann") == {"email": False, "sms": False, "push-app": True}
    assert (said["written"], said["written_opt_outs"], said["equal"]) == (2, 1, 1)
    assert actito.stats("didomi")["notified"] == notified
    before = actito.stats("didomi")["writes"]
    again = run(config, tmp_path, posted)
    assert actito.stats("didomi")["writes"] == before
    assert (again["posted"], again["unchanged"]) == (0, 1)


@pytest.mark.parametrize(
    ("didomis", "when", "after", "ours", "expected"),
    [
        (True, LATE, None, False, True),  # a newer choice of Didomi's stays
        (False, LATE, OLD, True, False),
        (True, EARLY, None, False, False),  # an older one doesn't
        (False, EARLY, None, True, True),
        (False, OLD, OLD, True, False),  # both ends belong to the window
        (False, JUST_OLDER, OLD, True, True),
        (False, EARLY, OLD, True, False),  # in the window: the opt-out wins
        (True, EARLY, OLD, False, False),
        (False, NOON, None, True, False),  # at the same timestamp: likewise
        (True, NOON, None, False, False),
    ],
)
def test_the_newest_choice_counts(
    didomi, config, tmp_path, didomis, when, after, ours, expected
) -> None:
    """Newer wins; where the order can't be known, the opt-out does."""
    didomi.say(event("ann", when, channels={"email": didomis}))
    window = {"changed_after": after} if after else {}
    run(config, tmp_path, {**event("ann", NOON, channels={"email": ours}), "id": "x", **window})
    assert didomi.state("ann")["email"] is expected


def test_a_choice_without_an_event_is_of_unknown_age(didomi, config, tmp_path) -> None:
    """At its user's last change at the latest: no opt-in goes over it, and every opt-out does."""
    for person, held in (("ann", False), ("bob", False), ("cy", True)):
        user = {
            "organization_user_id": person,
            "consents": {"channels": [{"id": "email", "enabled": held}]},
        }
        assert didomi("POST", "/consents/users", user).ok
    old = event("ann", NOON, channels={"email": True})
    future = event("bob", "2099-01-01T00:00:00Z", channels={"email": True})
    said = run(config, tmp_path, old, future, event("cy", OLD, channels={"email": False}))
    assert didomi.state("ann") == {"email": False}
    assert didomi.state("bob") == {"email": True}
    assert didomi.state("cy") == {"email": False}
    assert said["tied"] == 1


def test_events_of_one_person_go_in_order_of_time(didomi, config, tmp_path) -> None:
    """The last choice holds, however they come in; what one changes the next one sees."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    run(
        config,
        tmp_path,
        event("ann", LATE, channels={"email": False}),
        event("ann", EARLY, channels={"email": False}),
        event("ann", NOON, channels={"email": True}),
    )
    found = [(e["created_at"][11:13], e["consents"]["channels"][0]["enabled"])
            for e in didomi.events("ann")]  # fmt: skip
    assert found == [("08", True), ("10", False), ("12", True), ("14", False)]
    assert didomi.state("ann") == {"email": False}


def test_unknown_people_are_left_alone_unless_told(didomi, config, tmp_path, actito) -> None:
    """Nobody who was erased comes back by an old event."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    assert didomi("DELETE", f"/consents/users/{didomi.users('ann')[0]['id']}").ok
    writes = actito.stats("didomi")["writes"]
    given = event("ann", NOON, channels={"email": False})
    del given["user"]["id"]
    said = run(config, tmp_path, given)
    assert said["unmatched"] == 1
    assert actito.stats("didomi")["writes"] == writes
    assert didomi.users("ann") == []
    said = run({**config, "create_users": True}, tmp_path, given)
    assert (said["created"], said["updated"]) == (1, 1)
    assert didomi.state("ann") == {"email": False}


def test_of_several_users_the_latest_counts(didomi, config, tmp_path) -> None:
    """Its state is compared, and it is written to; the others stay as they are."""
    for user, choice in (("phone", False), ("laptop", True)):
        given = event("ann", OLD, channels={"email": choice})
        given["user"]["id"] = user
        didomi.say(given, id=f"of-{user}")
        time.sleep(0.01)
    run(config, tmp_path, event("ann", NOON, channels={"email": False}))
    states = {u["id"]: u["consents"]["channels"][0]["enabled"] for u in didomi.users("ann")}
    assert states == {"phone": False, "laptop": False}
    assert didomi.events("ann")[-1]["user"]["id"] == "laptop"


@pytest.mark.parametrize("status", [409, 400])
def test_an_event_that_exists_counts_as_done(didomi, config, tmp_path, actito, status) -> None:
    """Whatever the response is, alone or in an array, and the others of the array arrive."""
    actito.steer("options", {"duplicate_event_status": status})
    people = [f"p{n}" for n in range(30)]
    for person in people:
        didomi.say(event(person, OLD, channels={"email": True}))
    # It is there, but waits for approval: the list of events doesn't show it.
    held = event("p7", NOON, channels={"email": False})
    didomi.say(held, status="pending_approval")
    given = [event(person, NOON, channels={"email": False}) for person in people]
    said = run(config, tmp_path, *given)
    assert (said["posted"], said["existed"], said["rejected"]) == (29, 1, 0)
    assert all(didomi.state(p)["email"] is (p == "p7") for p in people)


@pytest.mark.parametrize("per_item", [False, True])
def test_one_bad_event_harms_no_other(didomi, config, tmp_path, actito, per_item) -> None:
    """It is rejected with Didomi's reason; an opt-out in it fails the run, after all else."""
    actito.steer("options", {"array_per_item": per_item})
    people = [f"p{n}" for n in range(30)]
    for person in people:
        didomi.say(event(person, OLD, channels={"email": True}))
    given = [event(person, NOON, channels={"email": False}) for person in people]
    given[11]["consents"]["purposes"] = [{"id": "never-heard-of", "enabled": True}]
    said = run({**config, "unknown_ids": "send"}, tmp_path, *given, code=3)
    assert (said["posted"] + said["existed"], said["rejected_opt_outs"]) == (29, 1)
    kept = rejects(config)[0]
    assert (kept["person"], kept["status"]) == ("p11", 400)
    assert kept["code"] == "event_refused"
    assert "never-heard-of" in kept["response"]
    assert kept["record"]["id"] == given[11]["id"]
    assert all(didomi.state(p)["email"] is (p == "p11") for p in people)


def test_a_rejected_opt_in_does_not_fail_the_run(didomi, config, tmp_path) -> None:
    """It is kept and counted; nobody gets mail for it."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    said = run(config, tmp_path, event("ann", NOON, purposes={"never-heard-of": True}))
    assert (said["rejected"], said["rejected_opt_outs"]) == (1, 0)


def test_values_are_written_back_as_the_whole_answer(didomi, config, tmp_path) -> None:
    """The other values stay; where one only may be chosen, a new one takes its place."""
    first = {
        "newsletter-Kd8xQ": {
            "values": {FREQUENCY: {"value": "weekly-1a2b"}, TOPICS: {"value": "sport-a1"}}
        }
    }
    didomi.say(event("ann", OLD, purposes=first))
    mixed = value("newsletter-Kd8xQ", TOPICS, travel_b2=True)
    mixed["newsletter-Kd8xQ"]["preferences"] += value(
        "newsletter-Kd8xQ", FREQUENCY, monthly_3c4d=True
    )["newsletter-Kd8xQ"]["preferences"]
    run(config, tmp_path, event("ann", EARLY, purposes=mixed))
    assert didomi.state("ann") == {FREQUENCY: "monthly-3c4d", TOPICS: "sport-a1,travel-b2"}
    run(
        config,
        tmp_path,
        event("ann", NOON, purposes=value("newsletter-Kd8xQ", TOPICS, sport_a1=False)),
        event("ann", LATE, purposes=value("newsletter-Kd8xQ", FREQUENCY, monthly_3c4d=False)),
    )
    assert didomi.state("ann") == {FREQUENCY: "", TOPICS: "travel-b2"}


def test_a_value_not_chosen_is_not_answered_for_anybody(didomi, config, tmp_path, actito) -> None:
    """Nobody who never answered gets an empty answer for a value that they didn't choose."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    writes = actito.stats("didomi")["writes"]
    run(
        config,
        tmp_path,
        event("ann", NOON, purposes=value("newsletter-Kd8xQ", TOPICS, sport_a1=False)),
    )
    assert actito.stats("didomi")["writes"] == writes


def test_approval_is_respected(didomi, config, tmp_path, actito) -> None:
    """Opt-ins wait, opt-outs count at once, and both arrive once."""
    didomi.say(event("ann", OLD, channels={"email": False, "sms": True}))
    given = event("ann", NOON, channels={"email": True, "sms": False})
    said = run({**config, "respect_approval": True}, tmp_path, given)
    assert didomi.state("ann") == {"email": False, "sms": False}
    assert (said["posted"], said["pending"]) == (2, 1)
    waits = didomi.events("ann", status="pending_approval")
    assert [e["consents"]["channels"] for e in waits] == [[{"id": "email", "enabled": True}]]
    writes = actito.stats("didomi")["writes"]
    run({**config, "respect_approval": True}, tmp_path, given)
    assert actito.stats("didomi")["writes"] == writes


def test_opt_ins_that_wait_for_approval_follow_after_a_crash(didomi, config, tmp_path) -> None:
    """Killed after the opt-outs of an event, the next run still sends its opt-ins."""
    didomi.say(event("ann", OLD, channels={"email": False, "sms": True}))
    whole = event("ann", NOON, channels={"email": True, "sms": False})
    didomi.say(event("ann", NOON, channels={"sms": False}), id=whole["id"])
    said = run({**config, "respect_approval": True}, tmp_path, whole)
    assert (said["posted"], said["pending"]) == (1, 1)
    assert len(didomi.events("ann", status="pending_approval")) == 1


def test_what_is_no_event_of_ours_is_counted(didomi, config, tmp_path, actito) -> None:
    """Guests, other regulations, pending events and whole users write nothing."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    writes = actito.stats("didomi")["writes"]
    no = {"channels": {"email": False}}
    said = run(
        config,
        tmp_path,
        event(None, NOON, **no),
        event("ann", NOON, **no, regulation="cpra"),
        event("ann", NOON, **no, status="pending_approval"),
        {"id": "u", "organization_user_id": "ann", "updated_at": NOON, "consents": {}},
    )
    assert said["skipped"] == {
        "not_confirmed": 1,
        "other_regulation": 1,
        "guest": 1,
        "not_an_event": 1,
    }
    assert actito.stats("didomi")["writes"] == writes


def test_a_record_that_cannot_be_read_is_kept(didomi, config, tmp_path) -> None:
    """With an opt-out in it, it fails the run."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    broken = event("ann", NOON, channels={"email": False})
    broken["consents"]["purposes"] = [{"id": 7, "enabled": True}]
    run(config, tmp_path, broken, code=3)
    assert "`consents.purposes` holds something that can't be read" in rejects(config)[0]["reason"]
    run(config, tmp_path, {**event("ann", NOON), "changed_after": "yesterday"})
    assert "changed_after" in rejects(config)[1]["reason"]


def test_rule_4_a_placeholder_is_nobody(didomi, config, tmp_path) -> None:
    """Didomi would create a user for it."""
    run(config, tmp_path, event("NaN", NOON, channels={"email": True}))
    assert rejects(config)[0]["code"] == "placeholder_id"
    assert didomi.users("NaN") == []
    run(config, tmp_path, event("NULL", NOON, channels={"email": False}), code=3)


def test_an_event_without_an_id_gets_one_that_stays(didomi, config, tmp_path) -> None:
    """So that it is written once, however often it comes."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    given = event("ann", NOON, channels={"email": False})
    del given["id"]
    messages = lines([schema(key_properties=[]), record(given)])
    for _ in range(2):
        done = run_plugin("target-didomi", config, tmp_path, stdin=messages)
        assert done.exit_code == 0, done.err
        # As if Didomi had lost the state: only the id shows that it was written.
        user = didomi.users("ann")[0]
        consents = {"channels": [{"id": "email", "enabled": True}]}
        assert didomi("PATCH", f"/consents/users/{user['id']}", {"consents": consents}).ok
    assert len(didomi.events("ann")) == 2


def test_wrong_access_ends_the_run_with_what_to_do(didomi, config, tmp_path) -> None:
    """Nothing is rejected for it, and no STATE leaves."""
    given = lines(stream_of(event("ann", NOON, channels={"email": False})))
    for change, said in (
        ({"api_secret": "wrong"}, "Private API keys"),
        ({"organization_id": "another"}, "Check organization_id"),
    ):
        done = run_plugin("target-didomi", {**config, **change}, tmp_path, stdin=given)
        assert done.exit_code == 1
        assert said in done.err
        assert done.states == []
        assert rejects(config) == []
    done = run_plugin("target-didomi", {"api_url": "x"}, tmp_path, stdin=given)
    assert done.exit_code == 1
    for name in ("api_key is missing", "api_secret is missing", "organization_id is missing"):
        assert name in done.err
    assert "api_url must begin" in done.err


def test_files_are_refused_rather_than_lost(config, tmp_path) -> None:
    """It takes no BATCH messages, and no STATE passes one."""
    batch = {
        "type": "BATCH",
        "stream": "consent_events",
        "encoding": {"format": "jsonl", "compression": "gzip"},
        "manifest": ["file:///nowhere.gz"],
    }
    done = run_plugin(
        "target-didomi", config, tmp_path, stdin=lines([schema(), batch, state({"read": 1})])
    )
    assert (done.exit_code, done.states) == (1, [])
    assert "takes no BATCH messages" in done.err


def test_an_outage_loses_nothing(didomi, config, tmp_path, actito) -> None:
    """No STATE passes what isn't written, and the next run writes it."""
    didomi.say(event("ann", OLD, channels={"email": True}))
    given = event("ann", NOON, channels={"email": False})
    fault = {"side": "didomi", "route": "post_events", "action": "status", "status": 503}
    actito.steer("faults", {**fault, "count": 100})
    done = run_plugin("target-didomi", config, tmp_path, stdin=lines(stream_of(given)))
    assert (done.exit_code, done.states) == (1, [])
    actito.steer("reset", {})
    run(config, tmp_path, given)
    assert didomi.state("ann") == {"email": False}


def test_no_more_calls_at_once_than_set(didomi, config, tmp_path, actito) -> None:
    """Though Didomi sets no limit there."""
    people = [f"p{n}" for n in range(200)]
    given = [event(person, NOON, channels={"email": False}) for person in people]
    actito.steer("options", {"latency": 0.005})
    run({**config, "create_users": True, "max_concurrency": 3}, tmp_path, *given)
    assert 2 <= actito.stats("didomi")["most_at_once"] <= 3
    assert all(didomi.state(p) == {"email": False} for p in people[::20])


def test_killed_at_any_time_nothing_is_lost_or_doubled(didomi, config, tmp_path, actito) -> None:
    """Taken up from the last STATE each time, the end is that of one clean run."""
    people = [f"p{n}" for n in range(150)]
    for person in people:
        didomi.say(event(person, OLD, channels={"email": True}))
    messages: list[Any] = [schema()]
    for number, person in enumerate(people, start=1):
        messages += [
            record(event(person, EARLY, channels={"email": False})),
            record(event(person, NOON, channels={"sms": number % 2 == 0})),
            state({"read": number}),
        ]
    config |= {"max_concurrency": 2, "max_buffered_people": 40}
    actito.steer("options", {"latency": 0.002})
    done, killed = 0, 0
    while done < len(people):
        process = start_plugin("target-didomi", config, tmp_path)
        feed(process, lines([messages[0], *messages[1 + 3 * done :]]))
        with process.stdout:
            for line in process.stdout:
                done = max(done, json.loads(line)["read"])
                if killed < 3 and done >= 40 * (killed + 1):
                    killed += 1
                    process.kill()
                    break
            process.stdout.read()
        process.wait()
    assert killed == 3
    for number, person in enumerate(people, start=1):
        assert didomi.state(person) == {"email": False, "sms": number % 2 == 0}
        assert len(didomi.events(person)) == 3


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("buffered", [1, 1000])
def test_the_newest_choice_of_a_run_counts_over_all_flushes(
    didomi, config, tmp_path, buffered, newest
) -> None:
    """Also one that Didomi held already: what is older is not posted after it."""
    didomi.say(event("ann", OLD, channels={"email": newest}))
    run(
        {**config, "max_buffered_people": buffered},
        tmp_path,
        event("ann", NOON, channels={"email": newest}),
        event("bob", NOON, channels={"email": True}),
        event("ann", EARLY, channels={"email": not newest}),
    )
    assert didomi.state("ann") == {"email": newest}
