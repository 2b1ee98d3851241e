"""Guards and the circuit breaker: a mistake in the settings changes nobody in bulk."""

from __future__ import annotations

from typing import Any

import pytest
from support import Actito, Run, event, rejects, report, run_target, stream_of, with_ledger

PEOPLE = [f"p{number:02}" for number in range(30)]


@pytest.fixture(params=["ledger", "none"])
def config(request, config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings of target-actito with the guards as they are by default."""
    own = {name: value for name, value in config.items() if not name.startswith("max_")}
    return {**own, **(with_ledger(tmp_path) if request.param == "ledger" else {})}


def has_ledger(config: dict[str, Any]) -> bool:
    """Return whether these settings have a ledger."""
    return config["ledger_url"] != "none"


def sync(config: dict[str, Any], tmp_path, *events: dict[str, Any]) -> Run:
    """Run target-actito over events."""
    return run_target(config, tmp_path, stream_of(*events))


def mail(person: str, choice: Any, **more: Any) -> dict[str, Any]:
    """An event about mail."""
    return event(person, channels={"email": choice}, **more)


def subscribed(actito: Actito) -> list[str]:
    """Return who gets mail."""
    return [person for person in actito.all() if actito.subscriptions(person)["Newsletter"]]


def test_more_opt_ins_than_allowed_wait(config, actito, tmp_path) -> None:
    """Opt-outs are written; `force_guards` lets the rest through, once."""
    actito.create_many(PEOPLE)
    actito.change(PEOPLE[0], Newsletter=True)
    events = [mail(PEOPLE[0], choice=False), *(mail(p, choice=True) for p in PEOPLE[1:])]
    run = sync(config, tmp_path, *events)
    assert run.exit_code == 4, run.err
    assert "people opted out of Newsletter would be opted in" in run.err
    assert subscribed(actito) == []
    assert report(config)["code"] == "too_many_opt_ins"
    assert bool(run.states) is has_ledger(config)
    again = sync({**config, "force_guards": True}, tmp_path, *([] if run.states else events))
    assert again.exit_code == 0, again.err
    assert subscribed(actito) == PEOPLE[1:]


def test_fewer_opt_ins_than_allowed_are_written(config, actito, tmp_path) -> None:
    """Of 60 people 25 are opted in: less than half. With few opt-ins nothing is asked at all."""
    if not has_ledger(config):
        pytest.skip("without a ledger it isn't known how many people are opted out")
    more = [f"q{number:02}" for number in range(30)]
    actito.create_many([*PEOPLE, *more])
    run = sync(config, tmp_path, *(mail(person, choice=True) for person in PEOPLE[:25]))
    assert run.exit_code == 0, run.err
    assert subscribed(actito) == PEOPLE[:25]
    run = sync({**config, "max_opt_in_pct": 1}, tmp_path, *(mail(p, choice=True) for p in more[:9]))
    assert run.exit_code == 0, run.err


def test_a20_an_inverted_mapping_subscribes_nobody(config, actito, tmp_path) -> None:
    """Opt-outs of Didomi that turn a field on count as opt-ins where they are written."""
    actito.create_many(PEOPLE)
    inverted = [{**config["mappings"][0], "invert": True}, *config["mappings"][1:]]
    run = sync({**config, "mappings": inverted}, tmp_path, *(mail(p, choice=False) for p in PEOPLE))
    assert run.exit_code in {3, 4}, run.err
    assert "whether `invert` is swapped" in run.err
    assert subscribed(actito) == []


def test_a20_more_than_half_inverted_is_an_error(config, actito, tmp_path) -> None:
    """Unless `allow_invert` says that it is meant."""
    actito.create_many(PEOPLE[:1])
    inverted = [{**mapping, "invert": True} for mapping in config["mappings"]]
    run = sync({**config, "mappings": inverted}, tmp_path, mail(PEOPLE[0], choice=False))
    assert run.exit_code == 1
    assert "AD123 too_many_inverted" in run.err
    meant = {**config, "mappings": inverted, "allow_invert": True}
    run = sync(meant, tmp_path, mail(PEOPLE[0], choice=False))
    assert run.exit_code == 0, run.err
    assert subscribed(actito) == PEOPLE[:1]


def test_each_inverted_mapping_is_logged_in_words(config, actito, tmp_path) -> None:
    """At start, so that it is seen before anything is written."""
    actito.create_many(PEOPLE[:1])
    inverted = [{**config["mappings"][0], "invert": True}, *config["mappings"][1:]]
    run = sync({**config, "mappings": inverted}, tmp_path)
    assert "an opt-out in Didomi (consents_channels_email_enabled) turns Newsletter on" in run.err


def test_b3_a_wrong_key_makes_nobody_unmatched(config, actito, tmp_path) -> None:
    """They stay owed, so that the run isn't green, and are written once the key is right."""
    actito.create_many(PEOPLE[:5])
    for person in PEOPLE[:5]:
        actito.change(person, Newsletter=True)
    events = [mail(person, choice=False) for person in PEOPLE]
    run = sync(config, tmp_path, *events)
    assert run.exit_code == (3 if has_ledger(config) else 4), run.err
    assert "people are unknown" in run.err
    assert bool(run.states) is has_ledger(config)
    for person in PEOPLE[5:]:
        actito.create(person, Newsletter=True)
    again = sync(config, tmp_path, *([] if run.states else events))
    assert again.exit_code == 0, again.err
    assert subscribed(actito) == []


def test_b3_no_more_requests_for_unknown_people(config, actito, tmp_path) -> None:
    """Once too many are unknown, the key is wrong: the rest need not be asked for."""
    people = [f"r{number:03}" for number in range(300)]
    run = sync(
        {**config, "write_mode": "single"}, tmp_path, *(mail(p, choice=True) for p in people)
    )
    assert run.exit_code == 4, run.err
    assert actito.calls("read_profile") + actito.calls("patch_profile") < 60


@pytest.mark.parametrize("status", [400, 403, 404])
def test_rule_13_a_uniform_refusal_concerns_the_configuration(
    config, actito, tmp_path, status
) -> None:
    """B2: nobody is rejected, STATE stays, and the next run writes all."""
    actito.create_many(PEOPLE)
    for person in PEOPLE:
        actito.change(person, Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": status}
    actito.steer("faults", {**fault, "count": 1000})
    events = [mail(person, choice=False) for person in PEOPLE]
    run = sync({**config, "write_mode": "single"}, tmp_path, *events)
    actito.steer("reset", {})
    if status == 404 and not has_ledger(config):
        assert run.exit_code == 4, run.err  # without a look nobody is known to exist
    else:
        assert run.exit_code == 1, run.err
        assert "AD509 uniform_refusal" in run.err
    assert run.states == []
    assert rejects(config) == []
    again = sync({**config, "write_mode": "single"}, tmp_path, *events)
    assert again.exit_code == 0, again.err
    assert subscribed(actito) == []


def test_rule_13_a_refusal_after_a_success_concerns_one_person(config, actito, tmp_path) -> None:
    """One forbidden person is rejected, and the others are written."""
    actito.create_many(PEOPLE[:9])
    for person in PEOPLE[:9]:
        actito.change(person, Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 403}
    actito.steer("faults", {**fault, "count": 1, "skip": 3})
    one = {**config, "max_concurrency": 1, "write_mode": "single"}
    run = sync(one, tmp_path, *(mail(person, choice=False) for person in PEOPLE[:9]))
    assert run.exit_code == 3, run.err
    assert len(rejects(config)) == 1
    assert len(subscribed(actito)) == 1


def test_a_limit_on_created_profiles(config, actito, tmp_path) -> None:
    """Beyond it nobody is created, and who is missing waits."""
    limited = {**config, "upsert_mode": True, "max_creates": 3, "max_unmatched_pct": 100}
    events = [mail(p, choice=True, metadata={"lastName": "Lee"}) for p in PEOPLE[:9]]
    run = sync(limited, tmp_path, *events)
    assert run.exit_code == 4, run.err
    assert len(actito.all()) == 3
    again = sync({**limited, "force_guards": True}, tmp_path, *([] if run.states else events))
    assert again.exit_code == 0, again.err
    assert len(actito.all()) == 9
