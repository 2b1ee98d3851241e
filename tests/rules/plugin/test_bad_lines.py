"""Rule 12: what is odd in a line, or a line that can't be read, stops no other line."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import forks
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from singer_sdk.exceptions import RecordsWithoutSchemaException
from support import (
    Actito,
    Didomi,
    Run,
    clean_environment,
    event,
    lines,
    post_config,
    record,
    rejects,
    report,
    schema,
    state,
    stream_of,
    target_config,
    with_ledger,
)

from actito_didomi.errors import OptOutsRejectedError
from actito_didomi.sandbox.options import SandboxOptions
from actito_didomi.sandbox.server import BackgroundSandbox
from target_actito.target import TargetActito

ODD = {
    "surrogate": rb'"\ud83d"',
    "bytes": b'"\xff\xfe"',
    "constant": b"NaN",
    "infinite": b"1e400",
    "digits": b"9" * 5000,
    "brackets": b"[" * 5000 + b"]" * 5000,
}
EXTREMES = ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"]
HERE = "@@"


def run_bytes(name: str, config: dict[str, Any], folder: Path, data: bytes) -> Run:
    """Run a plugin over bytes."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    return Run(*forks.run(name, ["--config", str(path)], data, folder, clean_environment()))


def with_odd(value: Any, odd: bytes) -> bytes:
    """Encode a record as a message, with bytes in place of `HERE`."""
    return json.dumps(record(value)).encode().replace(json.dumps(HERE).encode(), odd) + b"\n"


def opting_out(person: str, **more: Any) -> dict[str, Any]:
    return event(person, channels={"email": False}, **more)


@pytest.mark.parametrize("ledger", [False, True])
def test_rule_12_what_is_odd_and_nobody_maps_is_left_out(
    actito: Actito, config: dict[str, Any], tmp_path: Path, *, ledger: bool
) -> None:
    """Next to an opt-out; a timestamp at the ends of time is none that stops a run."""
    if ledger:
        config |= with_ledger(tmp_path)
    people = [*ODD, *(f"x-{kind}" for kind in ODD), *map(str, range(len(EXTREMES))), "last"]
    for person in people:
        actito.create(person, Newsletter=True)
    data = lines([schema()]).encode()
    for kind, odd in ODD.items():
        data += with_odd(opting_out(kind, metadata={"x": HERE, "firstName": HERE}), odd)
        data += with_odd({**opting_out(f"x-{kind}"), "proofs": [HERE], "x": {"y": HERE}}, odd)
    for number, when in enumerate(EXTREMES):
        data += lines([record(event(str(number), when, channels={"email": False}))]).encode()
    data += lines([record(opting_out("last")), state({"n": 1})]).encode()
    run = run_bytes("target-actito", config, tmp_path, data)
    after = actito.all()
    assert [p for p in people if after[p]["subscriptions"]["Newsletter"]] == []
    assert run.exit_code == 0, run.err[-2000:]
    assert run.states == [{"n": 1}]


def test_rule_12_what_is_odd_and_mapped_is_a_reject(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """A choice, a person, a time, a key or a whole part that can't be read may hide an opt-out."""
    for person in ("ann", "bob"):
        actito.create(person, Newsletter=True)
    data = lines([schema()]).encode()
    cases = 0
    for odd in ODD.values():
        choice = {"id": "email", "enabled": HERE}
        for consents in (
            {"channels": [choice]},
            {"channels": [{"id": HERE, "enabled": False}]},
            {"channels": [HERE]},
            {"channels": HERE},
            HERE,
        ):
            data += with_odd({**event("ann"), "consents": consents}, odd)
            cases += 1
        nobody = {"user": {"organization_user_id": HERE}}
        for change in ({"created_at": HERE}, {"user": HERE}, nobody):
            data += with_odd({**opting_out("ann"), **change}, odd)
            cases += 1
    key = json.dumps(record(opting_out("ann"))).encode().replace(b'"enabled"', b'"enab\xffled"')
    data += key + b"\n" + lines([record(opting_out("bob")), state({"n": 1})]).encode()
    run = run_bytes("target-actito", config, tmp_path, data)
    assert run.exit_code == 3, run.err[-2000:]
    assert run.states == [{"n": 1}]
    assert not actito.subscriptions("bob")["Newsletter"]
    found = rejects(config)
    assert len(found) >= cases + 1
    assert all(reject["opt_out"] for reject in found)


@pytest.mark.parametrize("name", ["target-actito", "target-didomi"])
def test_rule_12_a_line_that_cannot_be_read_is_a_reject_with_its_bytes(
    url: str, actito: Actito, config: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """An opt-out is assumed; a damaged STATE is not passed on; the run goes on."""
    actito.create("ann", Newsletter=True)
    if name == "target-didomi":
        config = post_config(url, tmp_path, create_users=True)
    bad = [
        b"INFO something else",
        b"\xff\xfe\x00",
        b'{"type":"RECORD","stream":"consent_events","record":{"id":"e"',
        b'{"type":"RECORD","stream":"consent_events","record":[1]}',
        b'{"type":"RECORD","stream":NaN,"record":{}}',
        b'{"type":"RECORDS"}',
        b'{"type":NaN}',
        b"[]",
        b"[" * 100_000,
        b'{"type":"STATE","value":{"n":NaN}}',
    ]
    data = lines([schema()]).encode() + b"\n".join(bad) + b"\n"
    data += lines([record(opting_out("ann")), state({"n": 1})]).encode()
    run = run_bytes(name, config, tmp_path, data)
    assert run.exit_code == 3, run.err[-2000:]
    assert run.states == [{"n": 1}]
    found = rejects(config)
    assert [(r["code"], r["opt_out"]) for r in found] == [("unreadable_line", True)] * len(bad)
    assert report(config)["rejects"] == {"unreadable_line": len(bad)}
    assert "Line 3 of the input" in found[1]["reason"]
    if name == "target-actito":
        assert not actito.subscriptions("ann")["Newsletter"]
    else:
        assert len(Didomi(url).events("ann")) == 1


def test_rule_12_a_long_line_is_a_reject(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """`max_line_bytes` bounds the memory that a line takes; of a longer one the beginning stays."""
    actito.create("ann", Newsletter=True)
    long = {**opting_out("ann"), "x": "y" * 300_000}
    fits = {**opting_out("ann"), "x": "y" * 90_000}
    data = lines([schema(), record(long), record(fits), state({"n": 2})])
    run = run_bytes("target-actito", {**config, "max_line_bytes": 100_000}, tmp_path, data.encode())
    assert run.exit_code == 3
    assert run.states == [{"n": 2}]
    (reject,) = rejects(config)
    assert "longer than 100,000 bytes (max_line_bytes)" in reject["reason"]
    assert len(reject["raw"]) < 100_000
    assert not actito.subscriptions("ann")["Newsletter"]


@pytest.mark.parametrize("declared", [True, False])
def test_rule_12_a_bad_line_of_a_batch_file_is_a_reject(
    actito: Actito, config: dict[str, Any], tmp_path: Path, *, declared: bool
) -> None:
    """The lines after it are read; only one that is cut off ends the run."""
    for person in ("ann", "bob"):
        actito.create(person, Newsletter=True)
    odd = json.dumps(opting_out("ann", metadata={"x": HERE})).replace(json.dumps(HERE), "NaN")
    whole = "\n".join([odd, "{broken", "[]", json.dumps(opting_out("bob"))])
    path = tmp_path / "batch.jsonl.gz"
    batch = {
        "type": "BATCH",
        "stream": "consent_events",
        "encoding": {"format": "jsonl", "compression": "gzip"},
        "manifest": [path.as_uri()],
    }
    loose = schema() if declared else schema(schema={"type": "object", "properties": {}})
    messages = lines([loose, batch, state({"n": 1})]).encode()
    path.write_bytes(gzip.compress(whole.encode()))
    run = run_bytes("target-actito", config, tmp_path, messages)
    assert run.exit_code == 3, run.err[-2000:]
    assert run.states == [{"n": 1}]
    assert [r["code"] for r in rejects(config)] == ["unreadable_line"] * 2
    after = actito.all()
    assert not after["ann"]["subscriptions"]["Newsletter"]
    assert not after["bob"]["subscriptions"]["Newsletter"]
    path.write_bytes(gzip.compress(whole.encode()[:-20]))
    run = run_bytes("target-actito", config, tmp_path, messages)
    assert run.exit_code == 1
    assert "line 4: cut off" in run.err
    assert run.states == []


LINE = json.dumps(record(opting_out("ann"))).encode()


def damaged(place: int, length: int, junk: bytes) -> bytes:
    place %= len(LINE)
    return LINE[:place] + junk + LINE[place + length :]


def test_rule_12_for_any_bytes_between_two_records_the_second_is_written(tmp_path: Path) -> None:
    """Whatever stands between them, as long as it is a line of its own."""
    with BackgroundSandbox(SandboxOptions(limits=False)) as sandbox:
        actito = Actito(sandbox.url)
        actito.create_many(["first", "second"])
        config = {**target_config(sandbox.url, tmp_path), "max_rejects": 1_000_000}
        run = [0]

        @settings(max_examples=40)
        @given(
            st.binary(max_size=60)
            | st.builds(damaged, st.integers(0), st.integers(0, 30), st.binary(max_size=5))
        )
        def carries_out(junk: bytes) -> None:
            run[0] += 1
            when = f"2026-10-01T10:{run[0] // 60:02}:{run[0] % 60:02}Z"
            wanted = bool(run[0] % 2)
            first, second, end = (
                lines([message]).encode()
                for message in (
                    record(event("first", when, channels={"email": wanted})),
                    record(event("second", when, channels={"email": wanted})),
                    state({"n": run[0]}),
                )
            )
            data = lines([schema()]).encode() + first + junk + b"\n" + second + end
            target = TargetActito(config=dict(config))
            try:
                target.listen(io.TextIOWrapper(io.BytesIO(data)))
            except OptOutsRejectedError:
                pass  # the line is assumed to hold one
            except RecordsWithoutSchemaException:
                return  # the damage made another stream's name
            for person in ("first", "second"):
                assert actito.subscriptions(person)["Newsletter"] is wanted

        carries_out()


def test_b5_an_opt_out_in_an_odd_form_is_carried_out(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """What looks like an opt-in is rejected; what says neither may be an opt-out."""
    outs, ins, unknown = ["false", 0, "No", " OFF ", 0.0], ["true", 1, "yes"], ["maybe", 7, ""]
    people = [f"p{n}" for n in range(len([*outs, *ins, *unknown]))]
    for number, person in enumerate(people):
        actito.create(person, Newsletter=number < len(outs))
    events = [
        event(person, channels={"email": value})
        for person, value in zip(people, [*outs, *ins, *unknown], strict=True)
    ]
    run = run_bytes("target-actito", config, tmp_path, lines(stream_of(*events)).encode())
    assert run.exit_code == 3
    after = actito.all()
    assert [p for p in people if after[p]["subscriptions"]["Newsletter"]] == []
    assert [r["opt_out"] for r in rejects(config)] == [False] * len(ins) + [True] * len(unknown)
    assert run.err.count("odd_boolean") == 1


def test_b5_metadata_of_an_odd_form_holds_up_no_choice(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """`[]`, a text or a number in place of the object."""
    odd: list[Any] = [[], "x", 7]
    events = []
    for number, metadata in enumerate(odd):
        actito.create(str(number), Newsletter=True)
        found = opting_out(str(number))
        found["user"]["metadata"] = metadata
        events.append(found)
    run = run_bytes("target-actito", config, tmp_path, lines(stream_of(*events)).encode())
    assert (run.exit_code, rejects(config)) == (0, [])
    assert [p for p, found in actito.all().items() if found["subscriptions"]["Newsletter"]] == []


def test_b5_b9_target_didomi_posts_what_is_readable_next_to_what_is_odd(
    url: str, tmp_path: Path
) -> None:
    """An odd opt-out is posted; what looks like an opt-in, or can't be read, is rejected."""
    config = post_config(url, tmp_path, create_users=True)
    odd: list[tuple[Any, list[bool]]] = [
        ("false", []), (0, []), ("true", [False]), ("maybe", [True]), ({"x": 1}, [True]),
    ]  # fmt: skip
    events = [
        event(f"p{number}", channels={"email": value, "sms": False})
        for number, (value, _) in enumerate(odd)
    ]
    for number, broken in enumerate([["x"], [{"id": 7}], "x"], start=len(odd)):
        found = event(f"p{number}", channels={"sms": False})
        found["consents"]["purposes"] = broken
        events.append(found)
        odd.append((broken, [True]))
    data = lines([schema(), *map(record, events)]).encode()
    data += with_odd({**opting_out("p9"), "proofs": [HERE], "metadata": {"x": HERE}}, b"NaN")
    data += with_odd(
        {**opting_out("p10"), "consents": {"channels": [{"id": "email", "enabled": HERE}]}}, b"NaN"
    )
    run = run_bytes("target-didomi", config, tmp_path, data + lines([state({"n": 1})]).encode())
    assert run.exit_code == 3, run.err[-2000:]
    assert run.states == [{"n": 1}]
    didomi = Didomi(url)
    for number in range(len(odd)):
        assert didomi.state(f"p{number}")["sms"] is False
    assert [didomi.state(f"p{n}").get("email") for n in (0, 1, 2, 3)] == [False, False, None, None]
    assert didomi.state("p9")["email"] is False
    assert [r["opt_out"] for r in rejects(config)] == [
        *(opt_out for _, found in odd for opt_out in found), True,
    ]  # fmt: skip


def test_a_batch_file_outside_of_batch_root_ends_the_run(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing of it is read, and the message shows no query."""
    actito.create("ann", Newsletter=True)
    inside = tmp_path / "in" / "batch.jsonl"
    inside.parent.mkdir()
    inside.write_text(json.dumps(opting_out("ann")) + "\n")
    config["batch_root"] = str(inside.parent)
    batch = {"type": "BATCH", "stream": "consent_events", "encoding": {"format": "jsonl"}}
    manifest = [f"https://evil.example{inside}?signature=hush"]
    messages = lines([schema(), {**batch, "manifest": manifest}, state({"n": 1})])
    run = run_bytes("target-actito", config, tmp_path, messages.encode())
    assert (run.exit_code, run.states) == (1, [])
    assert "does not lie below batch_root" in run.err
    assert "hush" not in run.err
    messages = lines([schema(), {**batch, "manifest": [inside.as_uri()]}, state({"n": 1})])
    run = run_bytes("target-actito", config, tmp_path, messages.encode())
    assert (run.exit_code, run.states) == (0, [{"n": 1}])
    assert not actito.subscriptions("ann")["Newsletter"]
    del config["batch_root"]
    run = run_bytes("target-actito", config, tmp_path, messages.encode())
    assert (run.exit_code, run.states) == (1, [])
    assert f"batch_root, which is not set. Set it to {inside.parent.as_uri()}" in run.err


def test_b20_opt_outs_before_the_last_reject_are_written(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """Although the run stops there, and the next one would stop there again."""
    actito.create("ann", Newsletter=True)
    data = lines([schema(), record(opting_out("ann"))]).encode() + b"x\n" * 3
    data += lines([state({"n": 1})]).encode()
    run = run_bytes("target-actito", {**config, "max_rejects": 2}, tmp_path, data)
    assert (run.exit_code, run.states) == (1, [])
    assert "max_rejects" in run.err
    assert not actito.subscriptions("ann")["Newsletter"]


def test_no_empty_summary_stands_before_an_error(
    actito: Actito, config: dict[str, Any], tmp_path: Path
) -> None:
    """The reason comes last, and alone."""
    config["table_name"] = "Gone"
    run = run_bytes("target-actito", config, tmp_path, lines([schema()]).encode())
    assert run.exit_code == 1
    assert "Summary" not in run.err
    assert "Gone" in run.err.splitlines()[-1]
    assert actito.stats()["routes"]
    assert report(config)["status"] == "failed"
