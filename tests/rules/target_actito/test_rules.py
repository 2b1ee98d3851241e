"""The rules of meaning, each over HTTP against the sandbox."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import (
    MAPPINGS,
    Actito,
    event,
    listen,
    record,
    rejects,
    report,
    run_target,
    schema,
    state,
    stream_of,
)

from actito_didomi.errors import OptOutsRejectedError, SettingsError

OLD, MID, NEW = "2026-10-01T10:00:00Z", "2026-10-02T10:00:00Z", "2026-10-03T10:00:00Z"


def test_rule_1_absent_and_null_are_no_choice(actito: Actito, config: dict[str, Any]) -> None:
    """What an event does not name, or names with null, stays as it is in Actito."""
    actito.create("ann", Newsletter=True, SmsAlerts=True, LegacyMagazine=True)
    listen(config, stream_of(event("ann", channels={"email": None}, purposes={"surveys": False})))
    after = actito.subscriptions("ann")
    assert after["Newsletter"]
    assert after["SmsAlerts"]
    assert after["LegacyMagazine"]
    assert actito.calls("patch_profile") == 0
    assert report(config)["unchanged"] == 1


def test_rule_1_only_what_an_event_changed_is_written(
    actito: Actito, config: dict[str, Any]
) -> None:
    """A batch-export line holds the whole status; a newer choice made in Actito survives it."""
    actito.create("ann", Newsletter=False, SmsAlerts=False)
    line = {
        "user": {
            "id": "u",
            "organization_user_id": "ann",
            "updated_at": NEW,
            "metadata": {"firstName": "Ann"},
            "consents": {"channels": [{"id": "email", "enabled": True}]},  # old, and overruled
        },
        "events": [event("ann", NEW, channels={"sms": True})],
    }
    listen(config, [schema("raw", key_properties=[]), record(line, "raw"), state({})])
    after = actito.subscriptions("ann")
    assert (after["Newsletter"], after["SmsAlerts"]) == (False, True)
    assert actito.attributes("ann")["firstName"] == "Ann"


def test_rule_2_only_confirmed_records_of_one_regulation(
    actito: Actito, config: dict[str, Any]
) -> None:
    """Unapproved events, other regulations and guests are counted and skipped."""
    actito.create("ann")
    listen(
        config,
        stream_of(
            event("ann", channels={"email": True}, status="pending_approval"),
            event("ann", channels={"email": True}, regulation="cpra"),
            event(None, channels={"email": True}),
        ),
    )
    assert not actito.subscriptions("ann")["Newsletter"]
    assert report(config)["skipped"] == {
        "not_confirmed": 1,
        "other_regulation": 1,
        "guest": 1,
    }


def test_rule_2_another_regulation_can_be_the_one(actito: Actito, config: dict[str, Any]) -> None:
    """With `regulation` set, records of that one count, and gdpr ones don't."""
    actito.create("ann")
    events = [
        event("ann", channels={"email": True}, regulation="cpra"),
        event("ann", channels={"sms": True}),
    ]
    listen({**config, "regulation": "cpra"}, stream_of(*events))
    after = actito.subscriptions("ann")
    assert (after["Newsletter"], after["SmsAlerts"]) == (True, False)


@pytest.mark.parametrize("turn", [1, -1])
def test_rule_3_newest_wins_whatever_the_order(
    actito: Actito, config: dict[str, Any], turn: int
) -> None:
    """One call is made for a person, with the newest of each choice."""
    actito.create("ann")
    events = [
        event("ann", OLD, channels={"email": False, "sms": True}),
        event("ann", MID, channels={"email": True}),
        event("ann", NEW, channels={"sms": False}),
    ]
    listen(config, stream_of(*events[::turn]))
    after = actito.subscriptions("ann")
    assert (after["Newsletter"], after["SmsAlerts"]) == (True, False)
    assert actito.calls("patch_profile") == 1


@pytest.mark.parametrize("turn", [1, -1])
def test_rule_3_at_the_same_timestamp_the_opt_out_wins(
    actito: Actito, config: dict[str, Any], turn: int
) -> None:
    """An opt-out beats an opt-in of the same timestamp, in either order."""
    actito.create("ann", Newsletter=True)
    events = [event("ann", NEW, channels={"email": choice}) for choice in (True, False)]
    listen(config, stream_of(*events[::turn]))
    assert not actito.subscriptions("ann")["Newsletter"]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("path", [None, ["consents", "channels", "email", "enabled"]])
def test_rule_3_of_a_choice_that_a_record_repeats_the_opt_out_counts(
    actito: Actito, config: dict[str, Any], first: bool, path: list[str] | None
) -> None:
    """In either order, with and without `path`: both have the same timestamp."""
    actito.create("ann", Newsletter=True)
    mapping = {"id": "Newsletter", "value": "consents_channels_email_enabled"}
    config["mappings"] = [{**mapping, "path": path} if path else mapping]
    said = event("ann")
    said["consents"] = {
        "channels": [{"id": "email", "enabled": choice} for choice in (first, not first)]
    }
    listen(config, stream_of(said))
    assert actito.subscriptions("ann")["Newsletter"] is False
    assert rejects(config) == []


def test_rule_3_a_consent_user_counts_by_its_updated_at(
    actito: Actito, config: dict[str, Any]
) -> None:
    """Events and users of one person are ordered by time, not by stream."""
    actito.create("ann")
    user = {
        "id": "u",
        "organization_user_id": "ann",
        "updated_at": MID,
        "consents": {
            "channels": [{"id": "email", "enabled": True}, {"id": "sms", "enabled": True}]
        },
    }
    messages = [
        schema(),
        schema("consent_users"),
        record(event("ann", NEW, channels={"email": False})),
        record(user, "consent_users"),
        record(event("ann", OLD, channels={"sms": False})),
    ]
    listen(config, messages)
    after = actito.subscriptions("ann")
    assert (after["Newsletter"], after["SmsAlerts"]) == (False, True)


def test_rule_4_a_missing_person_is_counted_and_never_created(
    actito: Actito, config: dict[str, Any]
) -> None:
    """Without `upsert_mode` nothing is created."""
    listen(config, stream_of(event("nobody", channels={"email": True})))
    assert actito.all() == {}
    assert report(config)["unmatched"] == 1
    assert actito.calls("put_profile") == 0


def test_rule_4_upsert_mode_creates_only_who_is_missing(
    actito: Actito, config: dict[str, Any]
) -> None:
    """Existing profiles are changed by PATCH, also with `upsert_mode`."""
    actito.create("ann", PartnerOffers=True)
    events = [
        event("ann", channels={"email": True}),
        event("bob", channels={"email": True}, metadata={"lastName": "Bob"}),
    ]
    listen({**config, "upsert_mode": True}, stream_of(*events))
    assert actito.subscriptions("ann")["Newsletter"]
    assert actito.subscriptions("ann")["PartnerOffers"]
    assert actito.subscriptions("bob")["Newsletter"]
    assert actito.calls("put_profile") == 1
    result = report(config)
    assert (result["updated"], result["created"], result["unmatched"]) == (1, 1, 0)


@pytest.mark.parametrize("put_replaces", [False, True])
def test_rule_4_without_patch_a_profile_is_read_and_put_back_whole(
    actito: Actito, config: dict[str, Any], put_replaces: bool
) -> None:
    """Whether PUT merges or replaces, nothing is lost and no one is created."""
    actito.steer("options", {"knows_patch": False, "put_replaces": put_replaces})
    actito.create("ann", PartnerOffers=True, attributes={"shop": "Gent", "loyaltyPoints": 7})
    events = [event("ann", channels={"email": True}), event("bob", channels={"email": True})]
    listen(config, stream_of(*events))
    after = actito.all()
    assert set(after) == {"ann"}
    assert after["ann"]["attributes"]["shop"] == "Gent"
    assert after["ann"]["attributes"]["loyaltyPoints"] == 7
    assert after["ann"]["subscriptions"]["Newsletter"]
    assert after["ann"]["subscriptions"]["PartnerOffers"]
    assert report(config)["unmatched"] == 1


def test_rule_4_a_profile_that_vanishes_between_get_and_put_is_not_made_again(
    actito: Actito, config: dict[str, Any]
) -> None:
    """The race is settled by the key: a PUT by `profileId` can't create."""
    actito.steer("options", {"knows_patch": False})
    actito.create("ann")
    profile_id = actito.attributes("ann")["profileId"]

    def vanish() -> None:
        while not actito.calls("put_profile"):
            time.sleep(0.02)
        actito.delete(profile_id)

    # The stall keeps the PUT waiting until the profile is gone.
    fault = {"side": "actito", "route": "put_profile", "action": "stall", "seconds": 2}
    actito.steer("faults", fault)
    thread = threading.Thread(target=vanish)
    thread.start()
    listen(config, stream_of(event("ann", channels={"email": True})))
    thread.join()
    assert actito.all() == {}
    assert actito.calls("put_profile") == 1
    assert report(config)["unmatched"] == 1


def test_rule_5_metadata_becomes_attributes_in_their_types(
    actito: Actito, config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Known keys are converted; unknown ones are reported by name, once; technical ones never."""
    actito.create("ann", attributes={"shop": "Gent"})
    caplog.set_level("INFO")
    metadata = {
        "firstName": "Ann",
        "loyaltyPoints": "12",
        "averageBasket": 3.5,
        "vip": "true",
        "birthDate": "1980-01-31",
        "lastVisit": "2026-09-10T10:30:00Z",
        "shop": None,
        "customerId": "someone-else",
        "profileId": 999,
        "favouriteColour": "blue",
    }
    listen(config, stream_of(event("ann", metadata=metadata), event("ann", NEW, metadata=metadata)))
    after = actito.attributes("ann")
    assert {k: after[k] for k in ("firstName", "loyaltyPoints", "averageBasket", "vip")} == {
        "firstName": "Ann",
        "loyaltyPoints": 12,
        "averageBasket": 3.5,
        "vip": True,
    }
    assert after["birthDate"] == "1980-01-31"
    assert after["lastVisit"] == "2026-09-10 12:30:00"
    assert after["shop"] == "Gent"
    reports = [r.getMessage() for r in caplog.records]
    assert "Metadata keys without a matching attribute, ignored: 1." in reports
    assert not any("favouriteColour" in text for text in reports)  # keys may be data of a person


def test_rule_5_metadata_that_fits_no_type_holds_up_no_opt_out(
    actito: Actito, config: dict[str, Any]
) -> None:
    """A broken value is left out with a warning; the rest of the record is written."""
    actito.create("ann", Newsletter=True)
    metadata = {"loyaltyPoints": "many", "firstName": "Ann", "shop": "x" * 21}
    listen(config, stream_of(event("ann", channels={"email": False}, metadata=metadata)))
    assert not actito.subscriptions("ann")["Newsletter"]
    assert actito.attributes("ann")["firstName"] == "Ann"
    assert "shop" not in actito.attributes("ann")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entity_id": "demno"}, ["entity_id", "'demno'", "demo"]),
        ({"table_name": "Profile"}, ["table_name", "'Profile'", "Profiles (id 16)"]),
        ({"user_unique_key": "custId"}, ["user_unique_key", "does not exist", "customerId"]),
        ({"user_unique_key": "shop"}, ["user_unique_key", "is not unique", "customerId"]),
        (
            {"mappings": [{"id": "Newsleter", "value": "consents_channels_email_enabled"}]},
            ["'Newsleter'", "Newsletter", "SmsAlerts"],
        ),
        (
            {"mappings": [{"id": "vipp", "value": "metadata_vip", "type": "attribute"}]},
            ["attribute 'vipp'", "marketingConsent"],
        ),
        (
            {"mappings": [{"id": "updateMoment", "value": "updated_at", "type": "attribute"}]},
            ["updateMoment", "can't be written"],
        ),
    ],
)
def test_rule_6_the_configuration_is_checked_before_the_first_write(
    actito: Actito, config: dict[str, Any], changes: dict[str, Any], words: list[str]
) -> None:
    """The error names the setting, what was found, and what there is."""
    actito.create("ann")
    writes = actito.stats()["writes"]
    with pytest.raises(SettingsError) as caught:
        listen({**config, **changes}, stream_of(event("ann", channels={"email": True})))
    for word in words:
        assert word in str(caught.value)
    assert actito.stats()["writes"] == writes


def test_rule_6_a_table_can_be_given_by_id_and_unmapped_subscriptions_are_told(
    actito: Actito, config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Subscriptions that no mapping names are reported."""
    actito.create("ann")
    caplog.set_level("INFO")
    listen({**config, "table_name": "16"}, stream_of(event("ann", channels={"email": True})))
    assert actito.subscriptions("ann")["Newsletter"]
    assert any("LegacyMagazine" in r.getMessage() for r in caplog.records)


def test_rule_7_state_follows_writing(actito: Actito, config: dict[str, Any], tmp_path) -> None:
    """When writing fails, no STATE leaves that passes an unwritten record."""
    actito.create("ann")
    actito.create("bob")
    messages = [
        schema(),
        state({"at": 0}),
        record(event("ann", channels={"email": True})),
        state({"at": 1}),
        record(event("bob", channels={"email": True})),
        state({"at": 2}),
    ]
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "count": 1000}
    actito.steer("faults", {**fault, "skip": 1, "status": 503})
    run = run_target({**config, "max_concurrency": 1}, tmp_path, messages)
    assert run.exit_code == 1
    assert run.states == [{"at": 0}, {"at": 1}]
    actito.steer("reset", {})
    assert run_target(config, tmp_path, messages).states[-1] == {"at": 2}
    assert actito.subscriptions("bob")["Newsletter"]


def test_rule_8_a_rejected_opt_out_fails_the_run_after_all_else_is_written(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """STATE leaves, the reject is stored for its owner only, and the exit status is 3."""
    for person in ("ann", "bob", "cy"):
        actito.create(person, Newsletter=True)
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 400}
    actito.steer("faults", fault)
    events = [
        event("ann", channels={"email": False}),
        event("bob", channels={"email": True, "sms": True}),
        event("cy", channels={"sms": True}),
    ]
    run = run_target({**config, "max_concurrency": 1}, tmp_path, stream_of(*events))
    assert run.exit_code == 3
    assert run.states == [{"read": 3}]
    (reject,) = rejects(config)
    assert reject["person"] == "ann"
    assert reject["change"] == {"attributes": {}, "subscriptions": {"Newsletter": False}}
    assert (reject["status"], reject["opt_out"]) == (400, True)
    assert Path(config["rejects_path"]).stat().st_mode & 0o777 == 0o600
    assert actito.subscriptions("bob")["SmsAlerts"]
    assert actito.subscriptions("cy")["SmsAlerts"]
    assert "opt-out" in run.err


def test_rule_8_other_rejects_are_counted_and_do_not_fail_the_run(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """A rejected opt-in is stored; the run ends well."""
    actito.create("ann")
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 409}
    actito.steer("faults", fault)
    run = run_target(config, tmp_path, stream_of(event("ann", channels={"email": True})))
    assert run.exit_code == 0
    assert [r["status"] for r in rejects(config)] == [409]
    assert report(config)["rejected"] == 1


def test_rule_8_in_this_process_the_error_is_one_of_ours(
    actito: Actito, config: dict[str, Any]
) -> None:
    """A program that embeds the target can distinguish it from other failures."""
    actito.create("ann")
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 409}
    actito.steer("faults", fault)
    with pytest.raises(OptOutsRejectedError, match="rejects"):
        listen(config, stream_of(event("ann", channels={"email": False})))


def test_rule_9_events_that_came_from_actito_are_skipped(
    actito: Actito, config: dict[str, Any]
) -> None:
    """The delegate decides; other delegates count."""
    actito.create("ann")
    events = [
        event("ann", channels={"email": True}, delegate={"id": "actito", "name": "Actito"}),
        event("ann", channels={"sms": True}, delegate={"id": "call-centre"}),
    ]
    listen(config, stream_of(*events))
    after = actito.subscriptions("ann")
    assert (after["Newsletter"], after["SmsAlerts"]) == (False, True)
    assert report(config)["skipped"] == {"delegate": 1}


def test_rule_9_the_delegates_can_be_chosen(actito: Actito, config: dict[str, Any]) -> None:
    """An empty list skips none."""
    actito.create("ann")
    with_delegate = event("ann", channels={"email": True}, delegate={"id": "actito"})
    listen({**config, "skip_delegates": []}, stream_of(with_delegate))
    assert actito.subscriptions("ann")["Newsletter"]


def test_rule_10_people_are_hashed_and_keys_are_masked(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """At debug level neither the person nor the key is printed, though both are at work."""
    actito.create("ann@example.com")
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "status": 400}
    actito.steer("faults", fault)
    events = [event("ann@example.com", channels={"email": False}), event("bob@x.be")]
    run = run_target(config, tmp_path, stream_of(*events), LOGLEVEL="DEBUG")
    assert run.exit_code == 3
    for secret in ("ann@example.com", "ann%40example.com", "bob@x.be", config["api_key"]):
        assert secret not in run.err
        assert secret not in run.out
    assert "person " in run.err


def test_mappings_to_attributes_and_inverted_ones(actito: Actito, config: dict[str, Any]) -> None:
    """A mapping may name an attribute of any type, and may swap true and false."""
    actito.create("ann", LegacyMagazine=False)
    mappings = [
        *MAPPINGS[1:],
        {"id": "LegacyMagazine", "value": "consents_channels_email_enabled", "invert": True},
        {
            "id": "marketingConsent",
            "value": "consents_purposes_surveys_enabled",
            "type": "attribute",
        },
        {"id": "contactFrequency", "value": "metadata_frequency", "type": "attribute"},
        {"id": "firstPurchase", "value": "metadata_since", "type": "attribute"},
        {"id": "loyaltyPoints", "value": "metadata_points", "type": "attribute"},
    ]
    metadata = {"frequency": "weekly", "since": "2020-01-05T12:00:00Z", "points": "41"}
    choices = event("ann", channels={"email": False}, purposes={"surveys": True}, metadata=metadata)
    listen({**config, "mappings": mappings}, stream_of(choices))
    assert actito.subscriptions("ann")["LegacyMagazine"]
    after = actito.attributes("ann")
    assert after["marketingConsent"] is True
    assert after["contactFrequency"] == "weekly"
    assert after["firstPurchase"] == "2020-01-05"
    assert after["loyaltyPoints"] == 41


def test_an_inverted_opt_out_is_an_opt_out(actito: Actito, config: dict[str, Any]) -> None:
    """At the same timestamp the person's `false` wins, whatever it becomes in Actito."""
    actito.create("ann")
    mappings = [
        {"id": "LegacyMagazine", "value": "consents_channels_email_enabled", "invert": True}
    ]
    events = [event("ann", NEW, channels={"email": choice}) for choice in (False, True)]
    listen({**config, "mappings": mappings, "allow_invert": True}, stream_of(*events))
    assert actito.subscriptions("ann")["LegacyMagazine"]


def test_a_value_that_is_no_boolean_is_rejected_by_name(
    actito: Actito, config: dict[str, Any]
) -> None:
    """Only that choice is rejected; the others of the record are written."""
    actito.create("ann", SmsAlerts=True)
    listen(config, stream_of(event("ann", channels={"email": "yes", "sms": False})))
    assert not actito.subscriptions("ann")["SmsAlerts"]
    (reject,) = rejects(config)
    assert "consents_channels_email_enabled" in reject["reason"]
    assert "must be a boolean" in reject["reason"]
    assert reject["person"] == "ann"


def test_too_many_rejects_stop_the_run(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """`max_rejects` ends a run that is plainly wrong; no STATE passes what is left."""
    people = [f"p{n}" for n in range(40)]
    actito.create_many(people)
    fault = {"side": "actito", "route": "patch_profile", "action": "status", "count": 1000}
    actito.steer("faults", {**fault, "status": 400})
    events = [event(p, channels={"email": True}) for p in people]
    limits = {"max_rejects": 5, "breaker_threshold": 0}
    run = run_target({**config, **limits}, tmp_path, stream_of(*events))
    assert run.exit_code == 1
    assert run.states == []
    assert "max_rejects (5)" in run.err
    assert 6 <= len(rejects(config)) <= 6 + 10
    assert actito.calls("patch_profile") < 30


def test_an_older_choice_is_not_written_over_what_came_from_actito(config, actito) -> None:
    """In whatever order they arrive; a newer one is written."""
    own = event("ann", "2026-10-01T10:00:00Z", channels={"email": True, "sms": True})
    back = event(
        "ann", "2026-10-01T10:05:00Z", channels={"email": False}, delegate={"id": "actito"}
    )
    newer = event("bob", "2026-10-01T10:10:00Z", channels={"email": True})
    theirs = event("bob", "2026-10-01T10:05:00Z", channels={"email": False},
                   delegate={"id": "actito"})  # fmt: skip
    only = event("eve", "2026-10-01T10:05:00Z", channels={"email": True}, delegate={"id": "actito"})
    for order in ([own, back, newer, theirs, only], [theirs, newer, only, back, own]):
        for person in ("ann", "bob", "eve"):
            if person in actito.all():
                actito.delete(actito.all()[person]["profileId"])
            actito.create(person)
        listen(config, stream_of(*order))
        assert actito.subscriptions("ann")["Newsletter"] is False
        assert actito.subscriptions("ann")["SmsAlerts"] is True
        assert actito.subscriptions("bob")["Newsletter"] is True
        assert actito.subscriptions("eve")["Newsletter"] is False
        found = report(config)
        assert (found["people"], found["updated"], found["unchanged"]) == (3, 2, 1)
        assert found["skipped"] == {"delegate": 3}
