"""Coalescing: the fold is the rule for conflicts, for any input in any order."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent import conflicts
from actito_didomi.consent.coalesce import (
    EVENT,
    HELD,
    OURS,
    STATUS,
    Collector,
    Extra,
    Field,
    MappedField,
    Masks,
    Origin,
    PersonLayers,
    ProfileChange,
    Value,
)

TIMES = [datetime(2026, 10, day, tzinfo=timezone.utc) for day in range(1, 5)]
FIELDS = [
    MappedField(Field("subscription", "A"), opt_out=False, opt_in=True),
    MappedField(Field("subscription", "Inverted"), opt_out=True, opt_in=False),
    MappedField(Field("attribute", "text"), opt_out="false", opt_in="true"),
    *(MappedField(Field("subscription", f"S{n}"), opt_out=False, opt_in=True) for n in range(10)),
]
TEXT = 2
"""Number of the field that takes values which are no choices, too."""
MASKS = Masks(FIELDS)
timestamps = st.sampled_from(TIMES)


class Names:
    """Attributes of which `bad` is no value."""

    def __init__(self) -> None:
        self.unusable = 0

    def convert_metadata(
        self, metadata: bytes, usable: dict[str, bool], *, count: bool
    ) -> list[tuple[str, Any, Any]]:
        converted = []
        for name, raw in json.loads(metadata).items():
            known = usable.get(name)
            if raw is None or known:
                continue
            value = None if raw == "bad" or name == "unknown" else raw
            self.unusable += count and known is None and raw == "bad"
            usable[name] = value is not None
            if value is not None or known is None:
                converted.append((name, raw, value))
        return converted


@dataclass
class Said:
    """What one record says."""

    person: str
    timestamp: datetime
    choices: dict[int, bool]
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    origin: Origin = ""

    @property
    def mask(self) -> int:
        mask = MASKS.value(TEXT) if self.text is not None else 0
        for number, choice in self.choices.items():
            mask |= MASKS.choice(number, choice)
        return mask

    @property
    def more(self) -> bytes | Extra | None:
        metadata = json.dumps(self.metadata).encode() if self.metadata else None
        return metadata if self.text is None else Extra(metadata, ((TEXT, self.text),))


numbers = st.integers(0, len(FIELDS) - 1)
metadata = st.dictionaries(
    st.sampled_from(["first", "last", "unknown"]), st.sampled_from(["x", "y", "bad", None])
)
said = st.builds(
    Said,
    st.sampled_from(["ann", "bob"]),
    timestamps,
    st.dictionaries(numbers, st.booleans(), max_size=4),
    st.sampled_from([None, None, "weekly", "daily"]),
    metadata,
    st.builds(
        lambda user, kind: user if kind == EVENT else (user, kind),
        st.sampled_from(["", "u1", "u1", "u2"]),
        st.sampled_from([EVENT, EVENT, OURS, STATUS]),
    ),
)
records = st.lists(said, max_size=40)


def model(found: Iterable[Said]) -> dict[str, dict[Field, Value]]:
    """Compute what counts, by `conflicts.prevails` and arrival, in the plainest way."""
    acts: dict[str, dict[int, conflicts.Act]] = {}
    others: dict[str, dict[Field, Value]] = {}
    for record in found:
        mine, theirs = acts.setdefault(record.person, {}), others.setdefault(record.person, {})
        for number, choice in record.choices.items():
            when = conflicts.to_micros(record.timestamp)
            act = conflicts.Act(choice, when, when, conflicts.DIDOMI, "event")
            if number not in mine or conflicts.prevails(act, mine[number], 3_600_000_000):
                mine[number] = act
        texts = {Field("attribute", k): v for k, v in record.metadata.items() if k != "unknown"}
        for target, text in [*texts.items(), (FIELDS[TEXT].field, record.text)]:
            before = theirs.get(target)
            if text not in {None, "bad"} and (
                before is None or before.timestamp is None or record.timestamp >= before.timestamp
            ):
                theirs[target] = Value(text, None, record.timestamp)
    result: dict[str, dict[Field, Value]] = {}
    for person, mine in acts.items():
        values = dict(others[person])
        for number, act in mine.items():
            mapped = FIELDS[number]
            before, when = values.get(mapped.field), conflicts.to_datetime(act.latest)
            if before is None or before.timestamp is None or when >= before.timestamp:
                written = mapped.opt_in if act.value else mapped.opt_out
                values[mapped.field] = Value(written, act.value, when)
        if values:
            result[person] = values
    return result


def without_timestamps(
    people: dict[str, dict[Field, Value]],
) -> dict[str, dict[Field, Value]]:
    return {
        person: {field: value._replace(timestamp=None) for field, value in values.items()}
        for person, values in people.items()
    }


def collector() -> Collector:
    return Collector(MASKS, Names())


def put(target: Collector, number: int, record: Said) -> None:
    said = record.timestamp, record.mask, record.more, record.origin
    target.put(number, [(record.person, said)])


def collect(found: Iterable[Said]) -> Collector:
    target = collector()
    for number, record in enumerate(found, start=1):
        put(target, number, record)
    return target


def result(changes: Iterable[ProfileChange]) -> dict[str, dict[Field, Value]]:
    return {change.person: by_field(change) for change in changes}


def by_field(change: ProfileChange) -> dict[Field, Value]:
    return dict(zip(change.fields, change.values, strict=True))


@given(records, st.booleans())
def test_the_fold_is_the_rule_for_conflicts(found, is_last) -> None:
    """Newest wins, opt-outs break ties, a choice goes before a text, the last text counts."""
    target = collect(found)
    people, changes = target.people, target.take(is_last=is_last)
    assert result(changes) == without_timestamps(model(found))
    assert (target.people, target.people_unchanged) == (people, people - len(changes))
    assert (target.waiting, target.oldest) == (0, None)


@given(records, st.randoms(use_true_random=False))
def test_any_order_of_the_same_choices_gives_the_same_result(found, rng) -> None:
    """Order of arrival changes nothing for choices."""
    for record in found:
        record.text, record.metadata = None, {}
    shuffled = list(found)
    rng.shuffle(shuffled)
    assert result(collect(found).take()) == result(collect(shuffled).take())


@given(records, st.sets(st.integers(1, 40)), st.booleans())
def test_writing_in_between_does_not_change_what_is_written_last(found, cuts, is_last) -> None:
    """An older choice that arrives after a newer one was written is still the older one."""
    target = collector()
    written: dict[str, dict[Field, Value]] = {}
    for number, record in enumerate(found, start=1):
        put(target, number, record)
        if number in cuts:
            for change in target.take():
                written.setdefault(change.person, {}).update(by_field(change))
    people = target.people
    for change in target.take(is_last=is_last):
        written.setdefault(change.person, {}).update(by_field(change))
    assert (target.people, target.people_unchanged) == (people, people - len(written))
    assert written == without_timestamps(model(found))


@given(records)
def test_opt_outs_are_handed_out_first(found) -> None:
    """No change with an opt-out waits after one without, and each says whether it holds one."""
    changes = collect(found).take()
    opt_outs = [change.opt_out for change in changes]
    assert opt_outs == sorted(opt_outs, reverse=True)
    assert opt_outs == [any(v.opt_out for v in change.values) for change in changes]


@given(records)
def test_the_oldest_waiting_record_is_known(found) -> None:
    """`oldest` is the least number of a record of which something waits."""
    target = collect(found)
    oldest, waiting = target.oldest, target.waiting
    speaking = {r.person: n for n, r in reversed([*enumerate(found, 1)]) if r.mask or r.metadata}
    assert oldest == min(speaking.values(), default=None)
    assert waiting == len(speaking)
    changes = target.take()
    assert all(change.first_record == speaking[change.person] for change in changes)
    assert (target.oldest, target.waiting) == (None, 0)


@given(records, st.sets(st.integers(0, 39)))
def test_what_actito_holds_is_not_written_and_nothing_older_is_written_over_it(found, held) -> None:
    """Of choices only; in whatever order it is learned."""
    for record in found:
        record.text, record.metadata = None, {}
    target = collector()
    for number, record in enumerate(found):
        if number in held:
            target.hold(record.person, record.timestamp, record.mask, number)
        else:
            put(target, number + 1, record)
    expected = model(found)
    own = model(record for number, record in enumerate(found) if number not in held)
    assert result(target.take()) == without_timestamps(
        {
            person: kept
            for person, values in own.items()
            if (kept := {k: v for k, v in values.items() if v == expected[person][k]})
        }
    )


def choices_of(layers: PersonLayers) -> dict[tuple[int, int, int], tuple[int, bool]]:
    """Return the choices of layers by origin and field; each must be there once."""
    found: dict[tuple[int, int, int], tuple[int, bool]] = {}
    for layer in layers.layers:
        for number in range(len(FIELDS)):
            opt_in, opt_out = (mask >> number & 1 for mask in (layer.opt_ins, layer.opt_outs))
            assert not opt_in & opt_out
            if opt_in or opt_out:
                at = layer.user, layer.kind, number
                assert at not in found
                found[at] = layer.timestamp, bool(opt_in)
    return found


@given(records, st.sets(st.integers(0, 39)))
def test_the_ledger_learns_the_newest_choices_of_each_user_and_kind(found, held) -> None:
    """Apart from each other; and the values and metadata that count, from all of them."""
    target = Collector(MASKS, Names(), for_ledger=True)
    expected: dict[str, dict[tuple[int, int, int], tuple[int, bool]]] = {}
    for number, record in enumerate(found):
        origin = record.origin
        user, kind = (origin, EVENT) if isinstance(origin, str) else origin
        if number in held:
            record.text, record.metadata = None, {}
            kind |= HELD
            target.hold(record.person, record.timestamp, record.mask, number, record.origin)
        else:
            put(target, number, record)
        theirs = expected.setdefault(record.person, {})
        for mapped, choice in record.choices.items():
            act = (
                conflicts.to_micros(record.timestamp),
                not choice,
            )  # at equal times an opt-out counts
            at = zlib.crc32(user.encode()), kind, mapped
            known = theirs.get(at)
            if known is None or act > (known[0], not known[1]):
                theirs[at] = act[0], choice
    speaking = {r.person: n for n, r in reversed([*enumerate(found)]) if r.mask or r.metadata}
    assert (target.waiting, target.oldest) == (
        len(speaking),
        min(speaking.values(), default=None),
    )
    people = target.people
    layers = target.take_layers()
    assert {each.person: each.first_record for each in layers} == speaking
    assert {each.person: choices_of(each) for each in layers} == {
        person: expected[person] for person in speaking
    }
    assert {
        each.person: {Field("attribute", name): said for name, said in each.attributes.items()}
        for each in layers
    } == {
        person: {
            field: (conflicts.to_micros(value.timestamp), value.value)
            for field, value in model(found).get(person, {}).items()
            if value.choice is None and value.timestamp is not None
        }
        for person in speaking
    }
    for each in layers:
        assert [*each.layers] == sorted(each.layers, key=lambda layer: -layer.timestamp)
    assert (target.waiting, target.oldest, target.people) == (0, None, people)
    assert target.take_layers() == []


def test_an_unusable_value_is_counted_once_and_holds_up_no_older_one() -> None:
    """The newest usable value is written; however often records were folded."""
    names = Names()
    target = Collector(MASKS, names)
    for number in range(30):
        value = "good" if number == 3 else "bad"
        when = TIMES[0] + timedelta(minutes=number)
        said = when, 0, json.dumps({"first": value}).encode(), ""
        target.put(number + 1, [("ann", said)])
    (change,) = target.take()
    assert change.attributes == {"first": "good"}
    assert names.unusable == 1


def test_people_without_any_choice_are_counted_as_unchanged() -> None:
    """A record without choices makes no change, but its person counts."""
    target = collector()
    on = MASKS.choice(0, choice=True)
    target.put(1, [("ann", (TIMES[1], 0, None, "")), ("bob", (TIMES[1], on, None, ""))])
    assert (target.people, target.people_unchanged) == (2, 1)
    assert [change.person for change in target.take()] == ["bob"]
    assert (target.people, target.people_unchanged) == (2, 1)


def test_what_is_held_already_is_not_handed_out() -> None:
    """Nor counted as changed, also where something was handed out before."""
    target = collector()
    on, off = MASKS.choice(0, choice=True), MASKS.choice(0, choice=False)
    hours = [TIMES[0] + timedelta(hours=hour) for hour in range(5)]
    target.put(1, [("ann", (hours[0], on, None, ""))])
    target.hold("ann", hours[1], off, 2)
    assert target.take() == []
    assert (target.waiting, target.oldest, target.people_unchanged) == (0, None, 1)
    target.put(3, [("ann", (hours[2], on, None, ""))])
    assert (target.oldest, target.people_unchanged) == (3, 0)
    assert [change.first_record for change in target.take()] == [3]
    target.put(4, [("ann", (hours[3], off, None, ""))])
    assert target.oldest == 4
    target.hold("ann", hours[4], on, 5)
    target.put(6, [("ann", (hours[0], off, None, ""))])
    assert target.take() == [], "it is older than what Actito holds"
    assert (target.people, target.people_unchanged) == (1, 0)
