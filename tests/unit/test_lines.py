"""Lines cut from chunks, and what can't be decoded strictly."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.consent.records import raw_events
from actito_didomi.didomi.exports import ExportFolder, decode_line
from actito_didomi.files import ExpandsTooMuchError, open_gzip
from actito_didomi.lines import CutLine, LongLine, count_lines, whole_lines
from actito_didomi.tolerant import (
    UNREADABLE,
    decode_tolerantly,
    has_unreadable,
    is_unreadable,
    readable_part,
)

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


@given(st.lists(st.binary(max_size=30)), st.integers(10, 40))
def test_lines_are_whole_wherever_chunks_end(chunks: list[bytes], limit: int) -> None:
    """The last one is a line that is cut if it has no end; long ones keep their places."""
    data = b"".join(chunks)
    lines: list[bytes] = []
    for block in whole_lines(chunks, limit):
        assert block is not None
        is_one = isinstance(block, (CutLine, LongLine))
        lines += [block] if is_one else block.split(b"\n")
        assert is_one or count_lines(block) == block.count(b"\n") + 1
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert len(lines) == len(expected)
    for line, whole in zip(lines, expected, strict=True):
        if isinstance(line, LongLine) or len(line) < len(whole):
            assert len(whole) > limit
            assert whole.startswith(line)
        else:
            assert line == whole
    assert isinstance(lines[-1] if lines else b"", CutLine) is (data[-1:] not in {b"", b"\n"})


@given(JSON)
def test_what_is_valid_is_decoded_the_same(value: Any) -> None:
    """Tolerance changes nothing that can be read."""
    assert decode_tolerantly(json.dumps(value).encode()) == value
    assert has_unreadable(value) is (readable_part(value) != value)


@given(st.binary())
def test_decoding_any_bytes_ends_in_a_value_or_an_error(data: bytes) -> None:
    """And the value can be emitted."""
    try:
        found = decode_tolerantly(data)
    except ValueError:
        return
    json.dumps(found, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        (rb'"\ud83d"', UNREADABLE),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (b'"\xff"', UNREADABLE),
        (b"NaN", UNREADABLE),
        (b"-1e400", UNREADABLE),
        (b"9" * 5000, UNREADABLE),
        (b'{"\xff":1}', {"\ufffd": 1}),
        (b'"tab\t"', "tab\t"),
    ],
)
def test_what_is_odd_is_marked(odd: bytes, expected: Any) -> None:
    """It is no value of any choice or attribute."""
    assert decode_tolerantly(b'{"a":[%s],"b":1}' % odd) == {"a": [expected], "b": 1}


def test_brackets_without_end_are_marked_or_refused() -> None:
    """Whatever their number."""
    deep = decode_tolerantly(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b',"b":1}')
    assert deep["b"] == 1
    assert has_unreadable(deep["a"])
    with pytest.raises(ValueError, match="cut off"):
        decode_tolerantly(b"[" * 100_000)


def test_rule_12_an_odd_line_of_an_export_is_read_all_the_same() -> None:
    """Targets find out whether a mapping names what can't be read."""
    line = b'{"user":{"id":"u"},"events":[{"id":"e","user":{"metadata":{"x":%s}}}]}'
    for odd in (b"NaN", rb'"\ud83d"', b'"\xff"', b"[" * 5000 + b"]" * 5000):
        assert raw_events(line % odd) is None
        found = decode_line("file", 1, line % odd)
        assert (found.problem, found.raw) == (None, b"")
        assert found.value is not None
        metadata = found.value["events"][0]["user"]["metadata"]
        assert is_unreadable(metadata["x"]) or has_unreadable(metadata["x"])
    broken = decode_line("file", 1, b"{x")
    assert (broken.value, broken.raw) == (None, b"{x")


def test_a_long_line_and_a_bomb_in_an_export_are_problems(tmp_path: Path) -> None:
    """`max_line_bytes` and `max_compression_ratio` bound what is held in memory."""
    file = tmp_path / "part.json.gz"
    file.write_bytes(gzip.compress(b'{"user":{},"events":[]}\n' + b"x" * 300_000 + b"\n{}\n"))
    folder = ExportFolder(f"file://{tmp_path}", max_line_bytes=70_000)
    lines = list(folder.lines(str(file)))
    assert [line.number for line in lines] == [1, 2, 3]
    assert "longer than 70,000 bytes (max_line_bytes)" in str(lines[1].problem)
    file.write_bytes(gzip.compress(b"0" * 50_000_000 + b"\n"))
    (line,) = ExportFolder(f"file://{tmp_path}").lines(str(file))
    assert "max_compression_ratio" in str(line.problem)


def test_content_may_expand_after_the_first_mebibyte_only_within_the_ratio() -> None:
    """A small file of blanks is no bomb."""
    raw = io.BytesIO(gzip.compress(b"0" * (1 << 20)))
    assert len(open_gzip(raw, 1).read()) == 1 << 20
    raw = io.BytesIO(gzip.compress(b"0" * (1 << 21)))
    with pytest.raises(ExpandsTooMuchError):
        open_gzip(raw, 200).read()
