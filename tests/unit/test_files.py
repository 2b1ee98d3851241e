"""Which files of an export were read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actito_didomi.files import (
    ListedFile,
    add_marks,
    is_below,
    keep_marks,
    listed_file,
    natural_order,
    show_url,
    unread,
)


def file(name: str, size: int = 1) -> ListedFile:
    """Make a listed file."""
    return ListedFile(f"/exports/{name}", name, size, str(size))


def test_a9_changes_9_is_read_before_changes_10() -> None:
    """Numbers in names sort by their value."""
    names = ["changes-10.csv", "changes-9.csv", "changes-1.csv", "a.csv", "9.csv", "changes.csv"]
    assert sorted(names, key=natural_order) == [
        "9.csv", "a.csv", "changes-1.csv", "changes-9.csv", "changes-10.csv", "changes.csv",
    ]  # fmt: skip


def test_b14_new_second_and_grown_files_are_read_once() -> None:
    """Whatever their order; files that are gone are forgotten."""
    marks = add_marks("", [file("a"), file("b")])
    assert unread([file("a"), file("b")], marks) == []
    assert unread([file("c"), file("b", 2), file("a")], marks) == [file("b", 2), file("c")]
    marks = add_marks(marks, [file("b", 2), file("a")])
    assert len(marks) == 3 * 8
    marks = keep_marks(marks, [file("b", 2)])
    assert marks == add_marks("", [file("b", 2)])


def test_an_etag_counts_more_than_the_size() -> None:
    """A file that was replaced by another one of the same size is read."""
    info = {"name": "bucket/x", "size": 5}
    plain, first, second = (
        listed_file("x", {**info, **e}) for e in ({}, {"ETag": "1"}, {"etag": "2"})
    )
    assert len({plain.mark, first.mark, second.mark}) == 3
    assert listed_file("x", {**info, "name": "other/x"}).mark == plain.mark


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 3)), max_size=20), st.data())
def test_what_was_marked_is_read_and_nothing_else(
    pairs: list[tuple[str, int]], data: st.DataObject
) -> None:
    """In however many steps."""
    files = [file(name, size) for name, size in pairs]
    marks = ""
    read: set[ListedFile] = set()
    for _ in range(3):
        step = data.draw(st.lists(st.sampled_from(files), max_size=5)) if files else []
        marks = add_marks(marks, step)
        read.update(step)
        assert set(unread(files, marks)) == set(files) - read
    assert len(marks) == 8 * len(read)


@pytest.mark.parametrize(
    ("url", "root", "expected"),
    [
        ("file:///data/a/b.gz", "/data", True),
        ("/data/a/b.gz", "file:///data/", True),
        ("file:///data/../etc/passwd", "/data", False),
        ("/database/b.gz", "/data", False),
        ("/etc/passwd", "/data", False),
        ("s3://bucket/in/b.gz", "s3://bucket/in", True),
        ("s3://bucket/in/../x/b.gz", "s3://bucket/in", False),
        ("s3://bucket/in/%2e%2e/x", "s3://bucket/in", False),
        ("s3://bucket/into/b.gz", "s3://bucket/in", False),
        ("s3://other/in/b.gz", "s3://bucket/in", False),
        ("http://bucket/in/b.gz", "s3://bucket/in", False),
        ("s3://bucket@evil/in/b.gz", "s3://bucket/in", False),
        ("simplecache::http://evil/x", "s3://bucket/in", False),
        ("simplecache::http://evil/x", "/", False),
        ("/etc/passwd", "s3://bucket/in", False),
        ("http://evil/x", "/", False),
    ],
)
def test_no_batch_file_lies_outside_of_its_root(url: str, root: str, *, expected: bool) -> None:
    """Whatever its URL looks like."""
    assert is_below(url, root) is expected


def test_urls_are_shown_without_query_and_credentials() -> None:
    """Signed URLs are secrets."""
    assert show_url("https://me:pass@host/a/b.gz?sig=secret#x") == "https://host/a/b.gz"
    assert show_url("/folder/x.gz") == "/folder/x.gz"
    assert show_url("file:///folder/x.gz") == "file:///folder/x.gz"
