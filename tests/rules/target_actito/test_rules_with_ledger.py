"""The rules of meaning, one by one, as target-actito keeps them with a ledger."""

from __future__ import annotations

from typing import Any

import pytest
from support import Actito, Run, event, rejects, report, run_target, stream_of, with_ledger

EARLIER, LATER = "2026-10-01T10:00:00Z", "2026-10-02T10:00:00Z"


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings of target-actito with a ledger."""
    return {**config, **with_ledger(tmp_path), "lookup_hours": 0}


def sync(config: dict[str, Any], tmp_path, *events: dict[str, Any]) -> Run:
    """Run target-actito over events."""
    return run_target(config, tmp_path, stream_of(*events))


def mail(person: str, choice: Any, when: str = EARLIER, **more: Any) -> dict[str, Any]:
    """An event about mail."""
    return event(person, when, channels={"email": choice}, **more)


def is_on(actito: Actito, person: str) -> bool:
    """Return whether a person gets mail."""
    return actito.subscriptions(person)["Newsletter"]


def test_rule_1_absent_and_null_are_not_false(config, actito, tmp_path) -> None:
    """Neither turns anything off, and a field that no mapping names is left alone."""
    actito.create("ann", Newsletter=True, LegacyMagazine=True)
    run = sync(
        config, tmp_path, mail("ann", None), event("ann", LATER, channels={"push-app": False})
    )
    assert run.exit_code == 0, run.err
    shown = actito.subscriptions("ann")
    assert (shown["Newsletter"], shown["LegacyMagazine"]) == (True, True)
    assert actito.calls("patch_profile") == 0


def test_rule_2_only_confirmed_of_one_regulation(config, actito, tmp_path) -> None:
    """Both compared without case; others are counted, and teach nothing."""
    for person in ("ann", "bob", "cy"):
        actito.create(person, Newsletter=True)
    run = sync(
        config,
        tmp_path,
        mail("ann", choice=False, status="Confirmed", regulation="GDPR"),
        mail("bob", choice=False, status="pending_approval"),
        mail("cy", choice=False, regulation="cpra"),
    )
    assert run.exit_code == 0, run.err
    assert [is_on(actito, person) for person in ("ann", "bob", "cy")] == [False, True, True]
    assert report(config)["skipped"] == {"not_confirmed": 1, "other_regulation": 1}


def test_rule_2_an_event_counts_from_its_update(config, actito, tmp_path) -> None:
    """B19: the same event, corrected after another one."""
    actito.create("ann", Newsletter=True)
    first = mail("ann", choice=True, when=EARLIER)
    corrected = {**mail("ann", choice=False, when=EARLIER), "updated_at": "2026-10-03T10:00:00Z"}
    assert sync(config, tmp_path, first, mail("ann", choice=True, when=LATER)).exit_code == 0
    assert sync(config, tmp_path, corrected).exit_code == 0
    assert not is_on(actito, "ann")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_rule_3_the_newest_wins_and_at_ties_the_opt_out(config, actito, tmp_path, order) -> None:
    """Within a run and across runs, in any order of arrival."""
    actito.create("ann")
    actito.create("bob")
    given = [
        [mail("ann", choice=False, when=EARLIER), mail("bob", choice=True, when=EARLIER)],
        [mail("ann", choice=True, when=LATER), mail("bob", choice=False, when=EARLIER)],
    ]
    for number in order:
        run = sync(config, tmp_path, *given[number])
        assert run.exit_code == 0, run.err
    assert is_on(actito, "ann")
    assert not is_on(actito, "bob")


def test_rule_4_nobody_is_created_unless_asked_for(config, actito, tmp_path) -> None:
    """Not by a run that finds nobody, nor by the one after it; with `upsert_mode` at once."""
    for _ in range(2):
        given = mail("ann", choice=True, metadata={"lastName": "Lee"})
        assert sync(config, tmp_path, given).exit_code == 0
        assert actito.all() == {}
    run = sync({**config, "upsert_mode": True}, tmp_path)
    assert run.exit_code == 0, run.err
    assert is_on(actito, "ann")


@pytest.mark.parametrize("person", ["undefined", "null", "NaN", "[object Object]", " "])
def test_rule_4_a_placeholder_is_nobody(config, actito, tmp_path, person) -> None:
    """It is rejected, and as an opt-out may be in it, the run says so."""
    actito.create("ann", Newsletter=True)
    run = sync(config, tmp_path, mail(person, choice=False))
    assert run.exit_code == 3, run.err
    assert [reject["code"] for reject in rejects(config)] == ["placeholder_id"]
    assert is_on(actito, "ann")


def test_rule_5_a_refused_attribute_blocks_no_choice(config, actito, tmp_path) -> None:
    """Actito refuses them together; the choice alone is written, the attribute alone rejected."""
    actito.create("ann", Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 400}
    actito.steer("faults", {**fault, "count": 1})
    run = sync(config, tmp_path, mail("ann", choice=False, metadata={"firstName": "Ann"}))
    assert run.exit_code == 0, run.err
    assert not is_on(actito, "ann")
    (reject,) = rejects(config)
    assert (reject["opt_out"], reject["change"]) == (
        False,
        {"attributes": {"firstName": "Ann"}, "subscriptions": {}},
    )


def test_rule_7_state_follows_writing(config, actito, tmp_path) -> None:
    """While Actito is down no STATE leaves; the next run writes without the records."""
    actito.create("ann", Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 503}
    actito.steer("faults", {**fault, "count": 1000})
    run = sync(config, tmp_path, mail("ann", choice=False))
    assert (run.exit_code, run.states) == (1, [])
    actito.steer("reset", {})
    again = sync(config, tmp_path)
    assert again.exit_code == 0, again.err
    assert not is_on(actito, "ann")


def test_rule_8_opt_outs_are_sacred(config, actito, tmp_path) -> None:
    """Exit 3 in each run until it is written; a person without a profile waits quietly."""
    actito.create("ann", Newsletter=True)
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 409}
    actito.steer("faults", {**fault, "count": 2})
    events = [mail("ann", choice=False), mail("nobody", choice=False)]
    assert [sync(config, tmp_path, *events).exit_code for _ in range(3)] == [3, 3, 0]
    assert not is_on(actito, "ann")


def test_rule_8_what_can_not_be_read_may_be_an_opt_out(config, actito, tmp_path) -> None:
    """It is owed as it came, once, whatever run reads it again."""
    actito.create("ann", Newsletter=True)
    broken = {**mail("ann", choice=False), "created_at": "yesterday"}
    for _ in range(2):
        run = sync(config, tmp_path, broken)
        assert run.exit_code == 3, run.err
        assert "1 opt-out(s)" in run.err


def test_rule_14_one_person_has_one_key(config, actito, tmp_path) -> None:
    """Exact where the key is no e-mail address; a setting decides otherwise."""
    actito.create("Ann", Newsletter=True)
    assert sync(config, tmp_path, mail("ann", choice=False)).exit_code == 0
    assert is_on(actito, "Ann")
    folded = {**config, "key_matching": "folded", "ledger_url": config["ledger_url"] + "2"}
    run = sync(folded, tmp_path, mail("ann ", choice=False))
    assert run.exit_code == 0, run.err
    assert not is_on(actito, "Ann")
