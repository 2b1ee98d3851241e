"""The check for forbidden expressions finds them, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.check_words import find_words, tracked_files

FORBIDDEN = [
    ("The way back goes first.", "way back"),
    ("It takes the short way.", "short way"),
    ("a text that is no date or moment", "moment"),
    ("def write_moment(value): ...", "moment"),
    ("at most 100 calls a minute", "calls a minute"),
    ("a call a person would take long", "a call a person"),
    ("reported once a run", "once a run"),
    ("The body is no JSON.", "is no JSON"),
    ("It can't be told to Didomi.", "told"),
    ("Nobody tells which.", "tells"),
    ("Whoever reads the output has gone.", "Whoever"),
    ("The rows behind it wait.", "behind"),
    ("few rows go by single calls", "single calls"),
    ("after five tries", "tries"),
    ("The server answers at once.", "server answers"),
]


@pytest.mark.parametrize(("text", "found"), FORBIDDEN)
def test_an_expression_is_found(text: str, found: str) -> None:
    """Whatever its case."""
    assert found in [finding.found for finding in find_words(text, code=True)]


@pytest.mark.parametrize(
    "text",
    [
        "The attribute `updateMoment` keeps its name; so does `trust_update_moment`.",
        "`retry_tries` and `calls_per_minute` are settings.",
        "Someone who changes a subscription imports a file.",
        "At most 100 requests per minute, 5 concurrent.",
        "foretold, momentum, besieged",
        "There is no list of executions.",
        "function calls are cheap",
        'self.url = "/actito"\nanswer = 1',
    ],
)
def test_plain_words_pass(text: str) -> None:
    """Also names of settings and of Actito's attributes."""
    assert find_words(text, code=True) == []


def test_an_expression_is_found_across_lines() -> None:
    """In a paragraph, in a comment, and in a string that is split."""
    for text in (
        "The way\nback goes first.",
        "# The way\n# back goes first.",
        '    "The way "\n    "back goes first."',
        '    f"The way "\n    f"back goes first."',
    ):
        [finding] = find_words(text, code=True)
        assert (finding.line, finding.found) == (1, "way back")


def test_names_count_in_code_only() -> None:
    """A text may say what code may not be called."""
    assert find_words("Given a file, settle(it).", code=False) == []
    assert [f.found for f in find_words("class Given: ...", code=True)] == ["class Given"]
    assert [f.found for f in find_words('"""Give a name."""', code=True)] == ["Give"]
    assert find_words('"""Return what Give would give."""', code=True) == []


def test_a_line_can_be_allowed() -> None:
    """By a comment on that line, in code and in Markdown."""
    assert find_words('column = "moment"  # words: allow', code=True) == []
    assert find_words("not *moment* <!-- words: allow -->", code=False) == []
    assert len(find_words('column = "moment"  # words: allow\nmoment = 1', code=True)) == 1


def test_without_a_repository_all_files_are_read(tmp_path: Path) -> None:
    """As in an unpacked source distribution; hidden folders are left out."""
    for name in ("a.py", "docs/b.md", "c.txt", ".venv/d.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    assert [p.relative_to(tmp_path).as_posix() for p in tracked_files(tmp_path)] == [
        "a.py",
        "docs/b.md",
    ]
