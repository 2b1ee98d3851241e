"""Files of the export of profile changes: when a change was made."""

from __future__ import annotations

import gzip
import io
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actito_didomi.actito.changes import ChangeFile, SubscriptionChange, read_window
from actito_didomi.errors import BadInputError

BRUSSELS = ZoneInfo("Europe/Brussels")


def utc(text: str) -> datetime:
    """Read a timestamp in UTC."""
    return datetime.fromisoformat(f"2026-{text}+00:00")


@pytest.mark.parametrize(
    ("text", "earliest", "latest"),
    [
        ("2026-11-23 10:00:00", "11-23T09:00:00.000000", "11-23T09:00:00.999999"),
        ("2026-11-23T10:00:00Z", "11-23T10:00:00.000000", "11-23T10:00:00.999999"),
        ("2026-11-23 10:00:00+0200", "11-23T08:00:00.000000", "11-23T08:00:00.999999"),
        (" 2026-11-23 10:00 ", "11-23T09:00:00.000000", "11-23T09:00:59.999999"),
        ("2026-11-23", "11-22T23:00:00.000000", "11-23T22:59:59.999999"),
    ],
)
def test_a11_a_whole_second_is_a_window(text: str, earliest: str, latest: str) -> None:
    """So are a whole minute and a whole day: up to their last microsecond."""
    assert read_window(text, BRUSSELS) == (utc(earliest), utc(latest))


@pytest.mark.parametrize("text", ["2026-11-23 10:00:00.5", "2026-11-23 10:00:00.5000009"])
def test_a_fraction_of_a_second_is_exact(text: str) -> None:
    """Up to the microsecond."""
    exact = utc("11-23T09:00:00.500000")
    assert read_window(text, BRUSSELS) == (exact, exact)


def test_a10_a_local_hour_that_occurs_twice_is_a_window_over_both() -> None:
    """On the last Sunday of October, 02:30 is 00:30 and 01:30 in UTC."""
    found = read_window("2026-10-25 02:30:00", BRUSSELS)
    assert found == (utc("10-25T00:30:00.000000"), utc("10-25T01:30:00.999999"))


def test_a10_a_local_hour_that_never_occurs_is_a_window_over_both_readings() -> None:
    """On the last Sunday of March, 02:30 may be meant by the old clock or by the new one."""
    found = read_window("2026-03-29 02:30:00", BRUSSELS)
    assert found == (utc("03-29T00:30:00.000000"), utc("03-29T01:30:00.999999"))


@pytest.mark.parametrize(
    "text",
    ["", "soon", "2026-11-31 10:00:00", "23/11/2026", "2026-11-23 10", "0001-01-01 00:00:00",
     "9999-12-31 23:59:59-0100", "2026-11-23 10:00:00 CET", "٢٠٢٦-11-23"],
)  # fmt: skip
def test_anything_else_is_no_window(text: str) -> None:
    """Nor what lies outside of the years that UTC can name."""
    assert read_window(text, BRUSSELS) is None


@given(
    st.integers(946_684_800, 2_208_988_800),
    st.sampled_from([BRUSSELS, ZoneInfo("America/Sao_Paulo"), ZoneInfo("Australia/Lord_Howe")]),
)
def test_what_is_written_in_local_time_lies_in_its_window(second: int, zone: ZoneInfo) -> None:
    """In every zone, at any time of the years 2000 to 2039."""
    at = datetime.fromtimestamp(second, timezone.utc)
    found = read_window(at.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S"), zone)
    assert found is not None
    assert found[0] <= at <= found[1]
    assert found[1] - found[0] < timedelta(hours=1, seconds=1)


def test_a_line_carries_its_window() -> None:
    """An exact timestamp has no `changed_after`."""
    rows = (
        b"profileId;eventType;subscription;subscribed;timestamp;source;key\n"
        b"1;subscription;News;N;2026-10-25 02:30:00;mail;ann\n"
        b"1;subscription;News;N;2026-10-25 12:30:00.25;mail;ann\n"
    )
    file = ChangeFile("changes.csv", "key", {}, ("News",), BRUSSELS)
    first, second = file.read(io.BytesIO(rows))
    assert isinstance(first, SubscriptionChange)
    assert isinstance(second, SubscriptionChange)
    assert first.changed_after == utc("10-25T00:30:00.000000")
    assert first.changed_at == utc("10-25T01:30:00.999999")
    assert second.changed_after is None
    assert second.changed_at == utc("10-25T11:30:00.250000")


HEADER = b"profileId;eventType;subscription;subscribed;timestamp;source;key\n"


def row(person: bytes, *, subscription: bytes = b"News", source: bytes = b"mail") -> bytes:
    line = b"1;subscription;%s;N;2026-10-25 12:30:00;%s;%s\n"
    return line % (subscription, source, person)


def read(content: bytes, **bounds: Any) -> tuple[list[str | None], list[str]]:
    """Return the people of the rows that can be read, and what is wrong with the others."""
    file = ChangeFile("x.csv", "key", {}, ("News",), BRUSSELS, **bounds)
    found = list(file.read(io.BytesIO(content)))
    people = [c.person for c in found if isinstance(c, SubscriptionChange)]
    return people, [c.problem for c in found if not isinstance(c, SubscriptionChange)]


@pytest.mark.parametrize(
    "broken",
    [
        b'1;subscription;"News;N;x\n',
        b'1;subscription;News;N;2026-10-25 12:30:00;"a"b";c\n',
        b"\xff\xfe\x00\n",
        row(b"\xff\xfe"),
        row(b"x" * 2_000_000),
        b"1;2\n",
        b'"\n',
    ],
)
def test_b17_a_broken_row_hides_no_other(broken: bytes) -> None:
    """A stray quote takes no lines with it; a huge cell or other bytes concern one line."""
    people, problems = read(HEADER + row(b"a") + broken + row(b"b") + row(b"c"))
    assert people == ["a", "b", "c"]
    assert problems
    assert problems[0].startswith("x.csv, line 3: ")


def test_b17_only_what_is_needed_must_be_readable() -> None:
    """What stands in other cells does no harm; unknown subscriptions are left out."""
    odd = [b"caf\xe9", b"y" * 500_000, b'"two\nlines"', b'"a;b"']
    rows = b"".join(row(b"%d" % n, source=cell) for n, cell in enumerate(odd))
    people, problems = read(HEADER + rows + row(b"x", subscription=b"Gone"))
    assert (people, problems) == (["0", "1", "2", "3"], [])
    _, problems = read(HEADER + row(b"x", subscription=b"Gone"))
    assert "no subscription of those in the file (Gone)" in problems[0]


def test_b17_an_unknown_event_type_hides_no_opt_out() -> None:
    """An opt-out counts whatever the word; an opt-in of an unknown word is reported."""
    out = row(b"a").replace(b"subscription", b"FOO")
    into = out.replace(b";N;", b";Y;")
    people, problems = read(HEADER + out + into)
    assert people == ["a"]
    assert "event type" in problems[0]


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_rule_12_for_any_bytes_between_two_rows_the_second_is_read(junk: bytes) -> None:
    """Whatever stands between them."""
    people, _ = read(HEADER + row(b"first") + junk + b"\n" + row(b"second"))
    assert people[0] == "first"
    assert people[-1] == "second"


def test_a_bomb_is_not_read_on() -> None:
    """`max_compression_ratio` bounds what a small file can become."""
    bomb = gzip.compress(HEADER + row(b"a") * 200_000)
    file = ChangeFile("x.csv.gz", "key", {}, ("News",), BRUSSELS, max_compression_ratio=5)
    with pytest.raises(BadInputError, match="max_compression_ratio"):
        list(file.read(io.BytesIO(bomb)))
