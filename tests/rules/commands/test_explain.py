"""`explain`: for each outcome the right verdict, also after a kill; people by their hash."""

from __future__ import annotations

import io
import json
import time
from datetime import datetime, timezone
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import (
    Actito,
    Didomi,
    event,
    feed,
    lines,
    listen,
    post_config,
    record,
    schema,
    start_plugin,
    stream_of,
    with_ledger,
)

from actito_didomi.commands import main
from actito_didomi.errors import ActitoDidomiError
from target_didomi.target import TargetDidomi

MAIL = {"id": "Newsletter", "value": "consents_channels_email_enabled"}
DAY = "2026-10-{:02}T10:00:00Z"


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings of target-actito with a ledger, and without `baseline`."""
    return {**config, **with_ledger(tmp_path, baseline=None), "mappings": [MAIL]}


def mail(person: str, choice: bool, day: int = 1, **more: Any) -> dict[str, Any]:
    return event(person, DAY.format(day), channels={"email": choice}, **more)


def sync(config: dict[str, Any], *events: dict[str, Any]) -> int:
    """Run target-actito over events in this process; return its exit status."""
    try:
        listen(config, stream_of(*events))
    except ActitoDidomiError as error:
        return error.exit_code
    return 0


def ask(config: dict[str, Any], tmp_path, person: str, *arguments: str) -> Result:
    file = tmp_path / "explain.json"
    file.write_text(json.dumps({"ledger_url": config["ledger_url"]}))
    given = ["explain", "-", "--config", str(file), *arguments]
    return CliRunner().invoke(main, given, input=f"{person}\n")


def verdicts(config: dict[str, Any], tmp_path, person: str, *arguments: str) -> list[Any]:
    """Return the choices that the command shows of a person, newest first."""
    result = ask(config, tmp_path, person, "--output", "json", *arguments)
    assert result.exit_code in {0, 3, 5}, result.output
    assert person not in result.output
    pairs = json.loads(result.stdout)["pairs"]
    found: list[Any] = pairs[0]["choices"] if pairs else []
    return found


def test_each_outcome_has_its_verdict(config, actito: Actito, tmp_path) -> None:
    for person in ("writ-77", "una-77", "sue-77", "ned-77", "rex-77"):
        actito.create(person, Newsletter=True)
    actito.create("dee-77", Newsletter=False)
    assert sync(config, mail("sue-77", False, 1), mail("ned-77", True, 1)) == 0
    actito.change("ned-77", Newsletter=False)
    second = [
        mail("writ-77", False),
        mail("una-77", True),
        mail("sue-77", True, 2),
        mail("ned-77", True, 2),
    ]
    assert sync(config, *second, mail("nia-77", False), mail("dee-77", True)) == 4
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 422}
    actito.steer("faults", fault)
    assert sync(config, mail("rex-77", False)) == 3

    written = verdicts(config, tmp_path, "writ-77")[0]
    assert (written["outcome"], written["run"]) == ("written", 2)
    assert written["place"] == "subscription Newsletter"
    assert written["made_by"] == "2026-10-01T10:00:00Z"
    assert written["written_at"]
    assert written["sentence"] == (
        "The opt-out in Didomi of 2026-10-01T10:00:00Z was written to subscription Newsletter on "
        f"{written['written_at']} by run 2."
    )
    assert verdicts(config, tmp_path, "una-77")[0]["outcome"] == "unchanged"
    newest, before = verdicts(config, tmp_path, "sue-77")
    assert (newest["outcome"], newest["choice"]) == ("written", "opt-in")
    assert (before["outcome"], before["choice"], before["run"]) == ("superseded", "opt-out", 1)
    (newer, back) = verdicts(config, tmp_path, "ned-77")
    assert newer["outcome"] == "newer_there"
    assert "the opt-out in Actito of " in newer["sentence"]
    assert (back["direction"], back["outcome"]) == ("reverse", "not_synced")
    assert verdicts(config, tmp_path, "nia-77")[0]["outcome"] == "no_profile"
    deferred = verdicts(config, tmp_path, "dee-77")[0]
    assert (deferred["outcome"], deferred["code"]) == ("deferred", "changes_deferred")
    rejected = verdicts(config, tmp_path, "rex-77")[0]
    assert (rejected["outcome"], rejected["code"]) == ("rejected", "change_refused:422")
    assert rejected["attempts"] == 1

    people = ("writ-77", "nia-77", "dee-77", "rex-77", "who-77")
    exits = {p: ask(config, tmp_path, p).exit_code for p in people}
    assert list(exits.values()) == [0, 3, 0, 3, 5]


@pytest.mark.parametrize(
    ("baseline", "outcome"), [("didomi", "written"), ("opt_out", "newer_there")]
)
def test_a_setting_that_only_the_plugins_have_misleads_nobody(
    config, actito: Actito, tmp_path, baseline: str, outcome: str
) -> None:
    """The command is asked without `baseline`."""
    actito.create("dee-77", Newsletter=False)
    assert sync({**config, "baseline": baseline}, mail("dee-77", True)) == 0
    forward = verdicts(config, tmp_path, "dee-77")[0]
    assert (forward["direction"], forward["outcome"]) == ("forward", outcome)


def test_a_record_that_does_not_count_is_explained(config, actito: Actito, tmp_path) -> None:
    """Skipped until it is confirmed; a copy that a delegate brought is no choice."""
    actito.create("pat-77", Newsletter=True)
    pending = mail("pat-77", False, 2, status="pending_approval")
    odd = {**mail("odd-77", False, 3, status="pending_approval"), "consents": {"new": 1}}
    copied = mail("cop-77", False, 1, delegate={"id": "actito"})
    assert sync(config, pending, odd, copied) == 0
    for person, day in (("pat-77", 2), ("odd-77", 3)):
        result = ask(config, tmp_path, person, "--output", "json")
        assert result.exit_code == 0
        (skipped,) = json.loads(result.stdout)["pairs"][0]["choices"]
        assert (skipped["outcome"], skipped["code"]) == ("skipped", "not_confirmed")
        assert skipped["made_by"] == DAY.format(day)
    (copy,) = verdicts(config, tmp_path, "cop-77")
    assert (copy["outcome"], copy["code"]) == ("skipped", "delegate")
    assert "records that don't count" in ask(config, tmp_path, "pat-77").output
    assert sync(config, {**pending, "status": "confirmed", "updated_at": DAY.format(4)}) == 0
    assert [v["outcome"] for v in verdicts(config, tmp_path, "pat-77")] == ["written"]


def test_a_choice_is_found_by_its_time(config, actito: Actito, tmp_path) -> None:
    """An older choice of the same run is superseded; a newer one was not read."""
    actito.create("sue-77", Newsletter=True)
    assert sync(config, mail("sue-77", True, 1), mail("sue-77", False, 2)) == 0
    found = {
        day: verdicts(config, tmp_path, "sue-77", "--chosen", DAY.format(day))[0]
        for day in (1, 2, 3)
    }
    assert [found[day]["outcome"] for day in (1, 2, 3)] == ["superseded", "written", "not_read"]
    assert "superseded by the opt-out of 2026-10-02T10:00:00Z" in found[1]["sentence"]


def test_the_reverse_sync_is_explained(config, url: str, actito: Actito, tmp_path) -> None:
    """Unsubscribed in Actito: written to Didomi, or owed where Didomi refuses it."""
    didomi = Didomi(url)
    for person in ("ann-77", "bob-77"):
        didomi.say(
            {
                "created_at": DAY.format(1),
                "user": {"organization_user_id": person},
                "consents": {"channels": [{"id": "email", "enabled": True}]},
            }
        )
    post = {**post_config(url, tmp_path), **with_ledger(tmp_path)}

    def run(person: str) -> int:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        said = event(person, now, channels={"email": False}, delegate={"id": "actito"})
        try:
            TargetDidomi(config=post).listen(io.StringIO(lines(stream_of(said))))
        except ActitoDidomiError as error:
            return error.exit_code
        return 0

    assert run("ann-77") == 0
    fault = {"side": "didomi", "action": "status", "route": "post_events", "status": 422}
    actito.steer("faults", {**fault, "count": 20})
    assert run("bob-77") == 3
    written = [v for v in verdicts(config, tmp_path, "ann-77") if v["direction"] == "reverse"]
    assert [v["outcome"] for v in written] == ["written"]
    assert written[0]["sentence"].startswith("The opt-out in Actito of ")
    assert "was written to the Didomi user on " in written[0]["sentence"]
    owed = [v for v in verdicts(config, tmp_path, "bob-77") if v["direction"] == "reverse"]
    assert [(v["outcome"], v["code"]) for v in owed] == [("rejected", "event_refused:422")]
    assert ask(config, tmp_path, "bob-77").exit_code == 3


@pytest.mark.parametrize(("route", "calls"), [("list_profiles", 1), ("patch_profile", 4)])
def test_a_kill_makes_no_verdict_wrong(config, actito: Actito, tmp_path, route, calls) -> None:
    """What is called written is; what isn't is called owed, or under way."""
    people = [f"p{number:02}" for number in range(10)]
    actito.create_many(people)
    for person in people:
        actito.change(person, Newsletter=True)
    actito.steer("options", {"latency": 0.1})
    messages = [schema(), *(record(mail(person, False)) for person in people)]
    process = start_plugin("target-actito", {**config, "max_concurrency": 2}, tmp_path)
    feed(process, lines(messages))
    before, deadline = actito.calls(route), time.monotonic() + 30
    while actito.calls(route) < before + calls:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait(30)
    process.stdout.close()
    actito.steer("options", {"latency": 0})
    time.sleep(0.2)  # requests under way are carried out

    profiles = actito.all()
    found = {
        person: [verdict["outcome"] for verdict in verdicts(config, tmp_path, person)]
        for person in people
    }
    for person, outcomes in found.items():
        is_on = profiles[person]["subscriptions"]["Newsletter"]
        assert outcomes in ([], ["written"], ["owed"], ["under_way"]), outcomes
        if outcomes != ["under_way"]:
            assert is_on is (outcomes != ["written"])
    assert sum(outcomes == ["under_way"] for outcomes in found.values()) <= 2
    assert sync(config, *(mail(person, False) for person in people)) == 0
    for person in people:
        assert verdicts(config, tmp_path, person)[0]["outcome"] in {"written", "unchanged"}


def test_the_text_names_nobody(config, actito: Actito, tmp_path) -> None:
    actito.create("ann@example.com", Newsletter=True)
    assert sync(config, mail("ann@example.com", False)) == 0
    result = ask(config, tmp_path, "ann@example.com")
    assert "✓ written: The opt-out in Didomi of" in result.output
    assert "ann@example.com" not in result.output
    named = json.loads(ask(config, tmp_path, "ann@example.com", "--output", "json").stdout)
    by_hash = ask(config, tmp_path, "", "--hash", named["pairs"][0]["person"])
    assert by_hash.output == result.output
    assert ask(config, tmp_path, "", "--hash", "ann").exit_code == 2
    assert ask(config, tmp_path, "").exit_code == 2


def test_only_recent_choices_are_shown(config, actito: Actito, tmp_path) -> None:
    actito.create("ann-77", Newsletter=True)
    actito.create("una-77", Newsletter=True)
    assert sync(config, mail("ann-77", False), mail("una-77", True)) == 0
    assert verdicts(config, tmp_path, "ann-77", "--since", "1d")  # written just now
    assert not verdicts(config, tmp_path, "una-77", "--since", "1d")
    assert verdicts(config, tmp_path, "una-77", "--since", "2026-10-01")
    assert ask(config, tmp_path, "ann-77", "--since", "lately").exit_code == 2
