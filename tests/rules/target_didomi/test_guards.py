"""Guards and the circuit breaker of the reverse sync: a mistake changes nobody in bulk."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from support import (
    Actito,
    Didomi,
    Run,
    event,
    lines,
    post_config,
    rejects,
    report,
    run_plugin,
    stream_of,
    with_ledger,
)

PEOPLE = [f"p{number:02}" for number in range(30)]
OLD = "2026-10-10T10:00:00Z"


@pytest.fixture
def didomi(url: str) -> Didomi:
    """The sandbox's Didomi."""
    return Didomi(url)


@pytest.fixture(params=["ledger", "none"])
def config(request, url, tmp_path) -> dict[str, Any]:
    """Settings of target-didomi, with a ledger and without."""
    more = with_ledger(tmp_path) if request.param == "ledger" else {"ledger_url": "none"}
    return post_config(url, tmp_path, clock_tolerance=0, **more)


def has_ledger(config: dict[str, Any]) -> bool:
    """Return whether these settings have a ledger."""
    return config["ledger_url"] != "none"


def say(didomi: Didomi, *people: str, email: bool) -> None:
    """Have people choose in Didomi, long ago; Didomi stores it now."""
    for person in people:
        didomi.say(event(person, OLD, channels={"email": email}, status="confirmed"))


def chosen(person: str, **channels: bool) -> dict[str, Any]:
    """A choice made in Actito just now."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return event(person, now, channels=channels, delegate={"id": "actito"})


def post(config: dict[str, Any], tmp_path, *events: dict[str, Any]) -> Run:
    """Run target-didomi over events."""
    return run_plugin("target-didomi", config, tmp_path, stdin=lines(stream_of(*events)))


def opted_in(didomi: Didomi) -> list[str]:
    """Return who is opted in."""
    known = [person for person in PEOPLE if didomi.users(person)]
    return [person for person in known if didomi.state(person)["email"]]


def test_more_opt_ins_than_allowed_wait(config, didomi, tmp_path) -> None:
    """Opt-outs are posted, also of those whose opt-in waits; `force_guards` posts the rest."""
    say(didomi, PEOPLE[0], email=True)
    say(didomi, *PEOPLE[1:], email=False)
    events = [
        chosen(PEOPLE[0], email=False),
        chosen(PEOPLE[1], email=True, sms=False),
        *(chosen(person, email=True) for person in PEOPLE[2:]),
    ]
    run = post(config, tmp_path, *events)
    assert run.exit_code == 4, run.err
    assert "people opted out of consents.channels.email.enabled would be opted in" in run.err
    assert opted_in(didomi) == []
    assert didomi.state(PEOPLE[1])["sms"] is False
    assert (report(config)["code"], report(config)["deferred"]) == ("too_many_opt_ins", 29)
    assert bool(run.states) is has_ledger(config)
    again = post({**config, "force_guards": True}, tmp_path, *([] if run.states else events))
    assert again.exit_code == 0, again.err
    assert opted_in(didomi) == PEOPLE[1:]


def test_what_didomi_shows_already_is_no_opt_in(config, didomi, tmp_path) -> None:
    """If more seems due by what the ledger knows, Didomi is asked before anything is posted."""
    if not has_ledger(config):
        pytest.skip("without a ledger the opt-ins of the records count")
    say(didomi, *PEOPLE[:25], email=True)
    say(didomi, *PEOPLE[25:], email=False)
    run = post(config, tmp_path, *(chosen(person, email=True) for person in PEOPLE))
    assert run.exit_code == 0, run.err
    assert opted_in(didomi) == PEOPLE
    assert (report(config)["equal"], report(config)["posted"]) == (25, 5)


def test_the_share_is_of_those_known_as_opted_out(config, didomi, tmp_path) -> None:
    """Of 45 people 21 are opted in."""
    if not has_ledger(config):
        pytest.skip("without a ledger it isn't known how many people are opted out")
    others = [f"q{number:02}" for number in range(24)]
    say(didomi, *PEOPLE[:21], *others, email=False)
    assert (
        post(config, tmp_path, *(chosen(person, email=False) for person in others)).exit_code == 0
    )
    run = post(config, tmp_path, *(chosen(person, email=True) for person in PEOPLE[:21]))
    assert run.exit_code == 0, run.err
    assert opted_in(didomi) == PEOPLE[:21]


def test_too_many_unknown_people_stay_owed(config, didomi, tmp_path) -> None:
    """The key is probably wrong: the run isn't green, and the next one attempts them again."""
    say(didomi, *PEOPLE[:5], email=True)
    events = [chosen(person, email=False) for person in PEOPLE]
    run = post(config, tmp_path, *events)
    assert run.exit_code == (3 if has_ledger(config) else 4), run.err
    assert "people are unknown" in run.err
    assert opted_in(didomi) == []
    assert bool(run.states) is has_ledger(config)
    for person in PEOPLE[5:]:
        didomi.say(event(person, OLD, channels={"push-app": True}, status="confirmed"))
    again = post(config, tmp_path, *([] if run.states else events))
    assert again.exit_code == 0, again.err
    assert [didomi.state(person).get("email") for person in PEOPLE] == [False] * 30


def test_people_who_chose_at_one_timestamp_are_created_apart(config, didomi, tmp_path) -> None:
    """Ids of events don't collide where no Didomi user distinguishes them."""
    first = chosen(PEOPLE[0], email=False)
    events = [{**chosen(p, email=False), "created_at": first["created_at"]} for p in PEOPLE[:3]]
    run = post({**config, "create_users": True}, tmp_path, *events)
    assert run.exit_code == 0, run.err
    assert [didomi.state(person)["email"] for person in PEOPLE[:3]] == [False] * 3


def test_no_more_users_are_created_than_allowed(config, didomi, tmp_path) -> None:
    """The others wait."""
    events = [chosen(person, email=False) for person in PEOPLE[:5]]
    run = post({**config, "create_users": True, "max_creates": 2}, tmp_path, *events)
    assert run.exit_code in {3, 4}, run.err
    assert sum(bool(didomi.users(person)) for person in PEOPLE[:5]) == 2
    again = post({**config, "create_users": True}, tmp_path, *([] if run.states else events))
    assert again.exit_code == 0, again.err
    assert all(didomi.users(person) for person in PEOPLE[:5])


@pytest.mark.parametrize("status", [400, 422])
def test_rule_13_a_uniform_refusal_concerns_the_configuration(
    config, didomi, tmp_path, url, status
) -> None:
    """Nobody is rejected, STATE stays, and the next run posts all."""
    say(didomi, *PEOPLE, email=True)
    actito = Actito(url)
    fault = {"side": "didomi", "action": "status", "route": "post_events", "status": status}
    actito.steer("faults", {**fault, "count": 1000})
    events = [chosen(person, email=False) for person in PEOPLE]
    run = post(config, tmp_path, *events)
    actito.steer("reset", {})
    assert run.exit_code == 1, run.err
    assert "AD509 uniform_refusal" in run.err
    assert run.states == []
    assert rejects(config) == []
    again = post(config, tmp_path, *events)
    assert again.exit_code == 0, again.err
    assert opted_in(didomi) == []
