"""Typed decoding gives what careful decoding gives, whatever the records are like."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import (
    EVENT_SCHEMA,
    event,
    lines,
    record,
    rejects,
    report,
    run_target,
    schema,
    state,
    stream_of,
)

from actito_didomi.consent.coalesce import (
    EVENT,
    HELD,
    OURS,
    STATUS,
    PersonLayers,
    ProfileChange,
)
from actito_didomi.errors import MistakeFoundError, OptOutsRejectedError
from actito_didomi.http import ApiSession
from actito_didomi.plugin.sink import ConsentSink
from target_actito.target import TargetActito

EXAMPLES = int(os.environ.get("DECODE_EXAMPLES", "60"))
OURS_ID = "01234567-89ab-8def-8123-456789abcdef"
THEIRS_ID = "f1234567-89ab-8def-8123-456789abcdef"
IDS = ["email", "sms", "a", "a_b", "b", "email_enabled", "a_preferences_p"]
MAPPINGS: list[dict[str, Any]] = [
    {"id": "Newsletter", "value": "consents_channels_email_enabled"},
    {"id": "SmsAlerts", "value": "consents_channel_sms_enabled", "invert": True},
    {"id": "PartnerOffers", "value": "consents_purposes_a_b_enabled"},
    {"id": "Loyalty_Club", "value": "consents_purposes_a_b_c_enabled",
     "path": ["consents", "purposes", "a", "enabled"]},
    {"id": "WeeklyDigest", "value": "consents_purposes_a_values_freq_weekly"},
    {"id": "Surveys", "value": "consents_preferences_p_channels_email_enabled"},
    {"id": "LegacyMagazine", "value": "consents_purposes_a_channels_email_enabled"},
    {"id": "marketingConsent", "value": "consents_purposes_b_enabled_li", "type": "attribute"},
    {"id": "contactFrequency", "value": "consents_purposes_a_values_freq_value",
     "type": "attribute"},
    {"id": "vip", "value": "metadata_vip", "type": "attribute"},
    {"id": "shop", "value": "metadata_shop_name", "type": "attribute"},
    {"id": "shop", "value": "metadata_shop", "type": "attribute", "path": ["metadata", "shop"]},
    {"id": "vip", "value": "metadata_vip", "type": "attribute", "invert": True},
    {"id": "Newsletter", "value": "metadata_vip"},
    {"id": "Newsletter", "value": "consents_vendors_enabled"},
    {"id": "Newsletter", "value": "consents_purposes_a_special_enabled"},
    {"id": "PartnerOffers", "value": "consents_purposes_a_preferences_p_enabled"},
    {"id": "PartnerOffers", "value": "consents_preferences_p_enabled", "invert": True},
    {"id": "PartnerOffers", "value": "consents_vendors_v_enabled"},
    {"id": "WeeklyDigest", "value": "consents_preference_freq_values_weekly_enabled"},
    {"id": "WeeklyDigest", "value": "consents_purposes_a_values_freq_x_weekly", "invert": True},
    {"id": "WeeklyDigest", "value": "any",
     "path": ["consents", "purposes", "a", "values", "freq", "monthly"]},
    {"id": "Surveys", "value": "any", "path": ["consents", "channels", "sms"]},
    {"id": "Surveys", "value": "consents_channels_email_enabled_enabled"},
    {"id": "contactFrequency", "value": "consents_channels_sms_enabled", "type": "attribute"},
    {"id": "contactFrequency", "value": "country", "type": "attribute"},
    {"id": "loyaltyPoints", "value": "organization_user_id", "type": "attribute"},
    {"id": "loyaltyPoints", "value": "consents_channels_sms_enabled", "type": "attribute"},
    {"id": "lastVisit", "value": "created_at", "type": "attribute"},
    {"id": "firstPurchase", "value": "updated_at", "type": "attribute"},
    {"id": "averageBasket", "value": "consents_tcfcs", "type": "attribute"},
]  # fmt: skip

enabled = st.sampled_from([True, False, True, False, None, "true", 1])


def choices(**more: Any) -> Any:
    return st.lists(
        st.fixed_dictionaries({"id": st.sampled_from(IDS)}, optional={"enabled": enabled, **more}),
        max_size=3,
    )


answers = st.dictionaries(
    st.sampled_from(["freq", "freq_x"]),
    st.fixed_dictionaries(
        {}, optional={"value": st.sampled_from(["weekly", "weekly,monthly", "monthly", "", None])}
    ),
)
preferences = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from(["p", "q"])}, optional={"enabled": enabled, "channels": choices()}
    ),
    max_size=2,
)
consents = st.fixed_dictionaries(
    {},
    optional={
        "channels": st.one_of(choices(), st.none()),
        "purposes": st.one_of(
            choices(
                enabled_li=enabled, values=answers, preferences=preferences, channels=choices(),
                metadata=st.just({"enabled": True}),
                special=st.fixed_dictionaries({"enabled": enabled}),
                special_enabled=enabled,
            ),
            st.just("none"),
        ),
        "vendors": st.sampled_from(
            [{"enabled": ["v"]}, [{"id": "v", "enabled": False}], {"v": {"enabled": True}}, None]
        ),
        "tcfcs": st.sampled_from(["CPX", "12", None]),
    },
)  # fmt: skip
timestamps = st.sampled_from(
    ["2026-10-01T10:00:00Z", "2026-10-01T12:00:00+02:00", "2026-10-02T10:00:00.123Z",
     "2026-10-01T10:00:00", "yesterday", None]
)  # fmt: skip
people = st.sampled_from(["ann", "bob", "ann", "bob", 7, 0, "", None, True])
metadata = st.dictionaries(
    st.sampled_from(["firstName", "vip", "shop", "colour", "customerId", "birthDate", "shop_name"]),
    st.sampled_from(["x", "", None, True, 5, "1980-01-02", {"name": "y"}, "z" * 300]),
)
ids = st.sampled_from(["u1", "u2", OURS_ID, THEIRS_ID, "", 7, None, True])
users = st.fixed_dictionaries(
    {},
    optional={
        "id": ids,
        "organization_user_id": people,
        "metadata": st.one_of(metadata, st.none()),
        "updated_at": timestamps,
        "country": st.sampled_from(["BE", None, {"enabled": True}]),
    },
)
about = {
    "created_at": timestamps,
    "updated_at": timestamps,
    "status": st.sampled_from(["confirmed", "Confirmed", "pending_approval", None, ""]),
    "regulation": st.sampled_from(["gdpr", "GDPR", "cpra", None, ""]),
    "delegate": st.sampled_from([{"id": "actito"}, {"id": "x"}, {}, None]),
    "consents": st.one_of(consents, consents, st.none()),
}
events = st.fixed_dictionaries({"id": ids, "user": users}, optional=about)
batch_lines = st.fixed_dictionaries(
    {"id": st.just("l"), "user": users, "events": st.lists(
        st.fixed_dictionaries(
            {}, optional={"id": ids, **about, "user": st.one_of(users, st.none())}
        ),
        max_size=3,
    )}
)  # fmt: skip
whole_users = st.fixed_dictionaries(
    {"id": ids, "consents": consents},
    optional={"organization_user_id": people, "updated_at": timestamps, "created_at": timestamps,
              "metadata": metadata, "regulation": st.sampled_from(["gdpr", "cpra"])},
)  # fmt: skip
records = st.lists(st.one_of(events, events, events, batch_lines, whole_users), max_size=16)
mappings = st.lists(st.sampled_from(MAPPINGS), min_size=1, unique_by=lambda m: m["id"])


class Watched(TargetActito):
    """Keeps what it would write."""

    careful = False
    """Whether to decode all records as a whole."""
    for_ledger = False
    """Whether to keep what a ledger would learn, instead of what would be written without one."""
    written: list[ProfileChange]
    layers: list[PersonLayers]

    def open(self) -> ApiSession:
        session = super().open()
        if self.for_ledger:
            pipeline = self.pipeline
            pipeline.collector.for_ledger = pipeline._decoder._origins = True
            pipeline._gatherer._is_ours = lambda event_id: event_id == OURS_ID
        return session

    def write_gathered(self) -> None:
        if self.for_ledger:
            self.layers += self.pipeline.collector.take_layers()
        else:
            super().write_gathered()

    def write_changes(self, changes: list[ProfileChange]) -> None:
        self.written += changes

    def found_consent(self, sink: ConsentSink) -> None:
        if not self.careful:
            super().found_consent(sink)


def read(
    config: dict[str, Any],
    found: list[Any],
    folder: Path,
    *,
    careful: bool,
    for_ledger: bool = False,
) -> tuple[Any, ...]:
    """Read records one way; return all that came of it."""
    path = folder / "watched-rejects.jsonl"
    path.unlink(missing_ok=True)
    target = Watched(config={**config, "rejects_path": str(path), "max_rejects": 10_000})
    target.written = []
    target.layers = []
    target.careful, target.for_ledger = careful, for_ledger
    text = lines([schema(), *map(record, found)])
    # As one block, as a pipe would give it.
    blocks = io.TextIOWrapper(io.BytesIO(text.encode()))
    with contextlib.suppress(OptOutsRejectedError, MistakeFoundError):
        target.listen(blocks)
    stored = [
        {k: v for k, v in json.loads(line).items() if k != "rejected_at"}
        for line in (path.read_text().splitlines() if path.exists() else [])
    ]
    changes: Any = [
        (c.person, c.first_record, c.opt_out, dict(zip(c.fields, c.values, strict=True)))
        for c in target.written
    ]
    if config["max_buffered_people"] < len(found):
        # Written at other times, so what is left in the end counts.
        last: dict[str, dict[Any, Any]] = {}
        for person, _, _, values in changes:
            last.setdefault(person, {}).update(values)
        changes = last
    summary = target.summary
    target.connect()
    names = target.pipeline.translator.unknown_metadata
    target.conclude("done")
    if for_ledger:
        changes = target.layers
    return changes, summary.skipped, summary.records, summary.people, stored, names


@given(found=records, chosen=mappings, buffered=st.sampled_from([1, 2, 100]))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_typed_and_careful_decoding_give_the_same(
    found, chosen, buffered, config, tmp_path
) -> None:
    """The same changes, counts and rejects, in the same order."""
    logging.disable(logging.CRITICAL)
    try:
        given_config = {**config, "mappings": chosen, "max_buffered_people": buffered}
        given_config["allow_invert"] = True
        careful = read(given_config, found, tmp_path, careful=True)
        assert read(given_config, found, tmp_path, careful=False) == careful
        # At the end only: what is flushed when depends on how records are read.
        given_config["max_buffered_people"] = 100
        learned = [
            read(given_config, found, tmp_path, careful=way, for_ledger=True)
            for way in (False, True)
        ]
        assert learned[0] == learned[1]
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("careful", [False, True])
def test_the_ledger_learns_who_said_what_and_when(config, tmp_path, careful) -> None:
    """User, kind and time of each choice; updates and case are heeded."""
    config["mappings"] = [
        {"id": "Newsletter", "value": "consents_channels_email_enabled"},
        {"id": "SmsAlerts", "value": "consents_channels_sms_enabled"},
    ]
    config["skip_delegates"] = ["actito"]
    user = {"id": "u1", "organization_user_id": "ann"}
    email, sms = ({"channels": [{"id": n, "enabled": False}]} for n in ("email", "sms"))
    both = {"channels": [{"id": n, "enabled": True} for n in ("email", "sms")]}
    at = [f"2026-10-0{day}T00:00:00Z" for day in range(1, 8)]
    day, first = 86_400_000_000, 1_790_812_800_000_000
    found = [
        {"id": "e1", "user": user, "created_at": at[0], "updated_at": at[2], "consents": email,
         "status": "CONFIRMED", "regulation": "GDPR"},
        {"id": "e2", "user": user, "created_at": at[1], "updated_at": at[0], "consents": both},
        {"id": OURS_ID, "user": user, "created_at": at[3], "consents": sms},
        {"id": THEIRS_ID, "user": {**user, "id": "u2"}, "created_at": at[4], "consents": sms},
        {"id": "e3", "user": {**user, "id": None}, "created_at": at[0], "consents": sms},
        {"id": "u1", "organization_user_id": "ann", "updated_at": at[5], "created_at": at[0],
         "consents": both},
        {"id": "e4", "user": user, "created_at": at[6], "consents": both,
         "delegate": {"id": "actito"}},
    ]  # fmt: skip
    (layers,) = read(
        {**config, "max_buffered_people": 100}, found, tmp_path, careful=careful, for_ledger=True
    )[0]
    u1, u2 = zlib.crc32(b"u1"), zlib.crc32(b"u2")
    assert layers.layers == (
        (first + 6 * day, 0b11, 0, u1, HELD),
        (first + 5 * day, 0b11, 0, u1, STATUS),
        (first + 4 * day, 0, 0b10, u2, EVENT),
        (first + 3 * day, 0, 0b10, u1, OURS),
        (first + 2 * day, 0, 0b01, u1, EVENT),
        (first + day, 0b10, 0, u1, EVENT),
        (first, 0, 0b10, 0, EVENT),
    )


@pytest.mark.parametrize("careful", [False, True])
def test_an_event_of_ours_counts_from_its_creation(config, tmp_path, careful) -> None:
    """Not from its update, which is when it arrived at Didomi: people choose in between."""
    config["mappings"] = [{"id": "Newsletter", "value": "consents_channels_email_enabled"}]
    found = {
        "id": OURS_ID, "user": {"id": "u1", "organization_user_id": "ann"}, "status": "confirmed",
        "regulation": "gdpr", "created_at": "2026-10-01T00:00:00Z",
        "updated_at": "2026-10-03T00:00:00Z",
        "consents": {"channels": [{"id": "email", "enabled": True}]},
    }  # fmt: skip
    (layers,) = read(
        {**config, "max_buffered_people": 100}, [found], tmp_path, careful=careful, for_ledger=True
    )[0]
    assert [layer.timestamp for layer in layers.layers] == [1_790_812_800_000_000]


def test_a_value_stays_with_its_person_where_the_record_is_decoded_as_a_whole(
    config, tmp_path
) -> None:
    """What was read of a record by type, before that turned out to be impossible, is forgotten."""
    config["mappings"] = [
        {"id": "Newsletter", "value": "consents_channel_sms_enabled"},  # announced when first seen
        {"id": "contactFrequency", "value": "country", "type": "attribute"},
    ]
    found = [
        {"id": "e1", "user": {"id": name, "organization_user_id": name, **country},
         "status": "confirmed", "regulation": "gdpr", "created_at": "2026-10-01T00:00:00Z",
         "consents": {"channels": [{"id": "sms", "enabled": True}]}}
        for name, country in (("ann", {"country": "BE"}), ("bob", {}))
    ]  # fmt: skip
    layers = read(
        {**config, "max_buffered_people": 100}, found, tmp_path, careful=False, for_ledger=True
    )[0]
    assert [(each.person, [*each.attributes]) for each in layers] == [
        ("ann", ["contactFrequency"]),
        ("bob", []),
    ]


DOCUMENTED = [
    "consents_channels_email_enabled",
    "consents_channel_email_enabled",
    "consents_purposes_a_enabled",
    "consents_purposes_a_enabled_li",
    "consents_purposes_a_channels_sms_enabled",
    "consents_purposes_a_preferences_p_enabled",
    "consents_preferences_p_enabled",
    "consents_preference_p_channel_email_enabled",
    "consents_purposes_a_values_freq_weekly",
    "consents_purposes_a_preferences_freq_values_weekly_enabled",
    "consents_vendors_v_enabled",
    "metadata_opt_in",
    "country",
    "created_at",
    "metadata_unknown",
]


@pytest.mark.parametrize("value", DOCUMENTED)
@pytest.mark.parametrize("is_batch", [False, True])
def test_usual_records_are_decoded_by_type(config, tmp_path, value, is_batch) -> None:
    """Whatever a mapping names: only the first ones are decoded as a whole."""
    kind = "subscription" if value.startswith(("consents", "metadata")) else "attribute"
    mapping = {"id": "Newsletter" if kind == "subscription" else "shop", "value": value}
    target = Watched(config={**config, "mappings": [{**mapping, "type": kind}]})
    target.written = []
    found = [
        event(
            f"p{n}",
            channels={"email": True, "sms": n % 2 == 0},
            purposes={
                "a": {
                    "enabled": None,
                    "enabled_li": False,
                    "channels": [{"id": "sms", "enabled": True}],
                    "preferences": [
                        {"id": "p", "enabled": True, "channels": [{"id": "email", "enabled": True}]}
                    ],
                    "values": {"freq": {"value": "weekly" if n % 3 else ""}},
                }
            },
            metadata={"opt_in": True, "lastName": "x"},
            updated_at="2026-10-01T10:00:00Z",
        )
        for n in range(300)
    ]
    for said in found:
        said["user"]["country"] = "BE"
        said["consents"]["vendors"] = {"enabled": ["v"], "disabled": []}
        said["consents"]["tcfcs"] = "CPX"
    careful = []
    take = target.take_record if is_batch else target.take_line

    def count(*arguments: Any) -> None:
        careful.append(arguments)
        take(*arguments)

    if is_batch:
        target.take_record = count  # type: ignore[method-assign]
        path = tmp_path / "file"
        path.write_text("".join(json.dumps(e) + "\n" for e in found))
        nothing = schema(schema={"type": "object", "properties": {}}, key_properties=[])
        messages = [nothing, batch(path, compression="none")]
    else:
        target.take_line = count  # type: ignore[method-assign]
        messages = stream_of(*found)
    target.listen(io.TextIOWrapper(io.BytesIO(lines(messages).encode())))
    assert len(target.written) == 300
    assert len(careful) <= 6
    target.conclude("done")


def test_a_name_outside_of_the_known_structure_is_still_read(config, actito, tmp_path) -> None:
    """Also where it occurs late: a key that could be meant is never skipped."""
    actito.create("ann")
    config["mappings"] = [{"id": "Newsletter", "value": "consents_purposes_x_special_enabled"}]
    odd = event("ann")
    odd["consents"]["purposes"] = [{"id": "x", "special_enabled": True}]
    usual = [event(f"p{n}", purposes={"x": True, "y": None}) for n in range(500)]
    run = run_target(config, tmp_path, stream_of(*usual, odd, *usual))
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("ann")["Newsletter"] is True


def test_in_a_batch_file_a_name_outside_of_the_known_structure_is_read_too(
    config, actito, tmp_path
) -> None:
    """Other types are used from the middle of a block on."""
    config["mappings"] = [{"id": "Newsletter", "value": "consents_purposes_x_special_enabled"}]
    path = tmp_path / "file"
    with gzip.open(path, "wt") as file:
        for person in ("ann", "bob"):
            actito.create(person)
            odd = event(person)
            odd["consents"]["purposes"] = [{"id": "x", "special_enabled": True}]
            file.write(json.dumps(odd) + "\n")
    run = run_target(config, tmp_path, [schema(), batch(path)])
    assert run.exit_code == 0, run.err
    assert all(actito.subscriptions(person)["Newsletter"] for person in ("ann", "bob"))


def test_stream_maps_take_the_sdks_own_path(config, actito, tmp_path) -> None:
    """It is said once, and the maps work."""
    actito.create("ann")
    actito.create("bob")
    config["stream_maps"] = {"consent_events": {"__filter__": "record['id'] != 'event-bob-x'"}}
    events_ = [event("ann", channels={"email": True}), event("bob", channels={"email": True})]
    events_[1]["id"] = "event-bob-x"
    run = run_target(config, tmp_path, stream_of(*events_))
    assert run.exit_code == 0, run.err
    assert run.err.count("records take the SDK's own path") == 1
    assert actito.subscriptions("ann")["Newsletter"] is True
    assert actito.subscriptions("bob")["Newsletter"] is False


@pytest.mark.parametrize("validate", [True, False])
def test_schemas_are_checked_when_asked_for(config, actito, tmp_path, validate) -> None:
    """A record that its schema doesn't allow is a reject, and the others are written."""
    actito.create("ann")
    actito.create("bob")
    strict = {"properties": {**EVENT_SCHEMA["properties"], "domain": {"type": "integer"}}}
    messages = [
        schema(schema={"type": "object", **strict}),
        record(event("ann", channels={"email": True}, domain="x")),
        record(event("bob", channels={"email": True}, domain=5)),
    ]
    run = run_target({**config, "validate_records": validate}, tmp_path, messages)
    assert run.exit_code == 0, run.err
    assert actito.subscriptions("bob")["Newsletter"] is True
    assert actito.subscriptions("ann")["Newsletter"] is not validate
    assert [r["reason"] for r in rejects(config)] == (
        [
            (
                "The record does not fit its stream's schema: domain: must be a whole number, "
                "found a string."
            )
        ]
        if validate
        else []
    )


def batch(*files: Path, compression: str = "gzip") -> dict[str, Any]:
    return {
        "type": "BATCH",
        "stream": "consent_events",
        "encoding": {"format": "jsonl", "compression": compression},
        "manifest": [f.as_uri() for f in files],
    }


@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_batch_files_are_read_and_state_follows_them(config, actito, tmp_path, compression) -> None:
    """Events and batch-export lines, in files; STATE leaves once they are written."""
    for person in ("ann", "bob", "cy"):
        actito.create(person)
    bare = event("bob", channels={"email": True})
    user = bare.pop("user")
    found = [event("ann", channels={"email": True}), {"user": user, "events": [bare]}]
    first, second = tmp_path / "first", tmp_path / "second"
    opener = gzip.open if compression == "gzip" else open
    with opener(first, "wt") as file:
        file.write("".join(json.dumps(e) + "\n" for e in found) + "\n")
    with opener(second, "wt") as file:
        file.write(json.dumps(event("cy", channels={"email": True})))
    run = run_target(
        config,
        tmp_path,
        [schema(key_properties=[]), batch(first, second, compression=compression), state("done")],
    )
    assert run.exit_code == 0, run.err
    assert run.states == ["done"]
    assert report(config)["records"] == 3
    assert all(actito.subscriptions(p)["Newsletter"] for p in ("ann", "bob", "cy"))


@pytest.mark.parametrize("maps", [None, {"consent_events": {"domain": "'x'"}}])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"not gzip", "gzip stream truncated or corrupt"),
        (b"", "0 bytes"),
    ],
)
def test_a_broken_batch_file_ends_the_run(config, actito, tmp_path, content, problem, maps) -> None:
    """What came before it is written, nothing after it is acknowledged, and the place is named."""
    actito.create("ann")
    path = tmp_path / "file"
    path.write_bytes(content)
    if maps:
        config["stream_maps"] = maps
    run = run_target(config, tmp_path, [schema(), state(1), batch(path), state(2)])
    assert run.exit_code == 1
    assert run.states == [1]
    assert problem in run.err
    assert "ann" not in run.err.replace("command-line", "")


def test_other_batch_formats_are_told_apart(config, tmp_path) -> None:
    """Only JSON lines are read."""
    message = batch(tmp_path / "x")
    message["encoding"] = {"format": "parquet"}
    run = run_target(config, tmp_path, [schema(), message])
    assert run.exit_code == 1
    assert "format 'parquet'" in run.err
