"""Find expressions that the project's style forbids: `make words` runs this.

One thing has one word, in plain standard English. A line that must keep a forbidden expression
ends with the comment `words: allow`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parent.parent
SUFFIXES = frozenset({".py", ".md", ".yml"})
ALLOW = "words: allow"
EXEMPT = frozenset(
    {
        "scripts/check_words.py",
        "tests/unit/test_check_words.py",
        "tests/simulation/ledger_model.py",
    }
)
"""Files that must quote what is forbidden, and the specification of the rules, kept as it is."""
_GAP = r'(?:[ \t]*\n[ \t]*(?:#:?[ \t]*)?|[ \t]*"[ \t]*\n[ \t]*f?"|[ \t]+)'
"""One space of an expression: also a line break in a paragraph, a comment or split strings."""
_PER = (
    "person|people|user|minute|second|hour|day|year|run|page|column|mapping|command|field|profile"
    "|table|stream|event|subscription|licence|regulation|line|row|file|call|request|pipeline"
)


class Rule(NamedTuple):
    """One forbidden expression.

    Attributes:
        pattern: Regular expression; each space stands for any white space.
        better: What to write.
        names: Whether it is about names in code: case counts, and Markdown isn't searched.
    """

    pattern: str
    better: str
    names: bool = False


class Finding(NamedTuple):
    """A place where a forbidden expression was found.

    Attributes:
        line: Number of the line, from 1.
        found: The text that was found.
        better: What to write.
    """

    line: int
    found: str
    better: str


RULES = (
    # Words of which the project has another one.
    Rule(r"\b(?:short|full) way\b", "fast path, slow path"),
    Rule(r"\bway (?:back|forward)\b", "the reverse sync, the forward sync"),
    Rule(r"\b(?:read )?backwards?\b", "reverse, reverse mapping"),
    Rule(r"(?<![a-zA-Z])(?<!update_)moments?(?![a-zA-Z])", "timestamp, or time"),
    Rule(r"\banew\b", "again"),
    Rule(r"\bat will\b", "optional"),
    Rule(r"\bbesides?\b", "next to, in addition to"),
    Rule(r"\bbehind\b", "after"),
    Rule(r"\bwhoever\b", "the person or program, by name"),
    Rule(r"\bso many\b", "the number that is meant: this many, at most N"),
    Rule(r"\b(?:tells?|told|telling)\b", "log, report, state, show, distinguish"),
    Rule(r"\breckon(?:s|ed|ing)?\b", "estimate"),
    Rule(r"\bgiv(?:e|es|en|ing) up on\b", "cancel"),
    Rule(r"\bsee to (?:it|these|them)\b", "resolve, make sure"),
    Rule(r"\b(?:is|are) said in\b", "is logged"),
    Rule(r"\b(?:take|takes|took) note\b", "record"),
    Rule(r"\b(?:hand|hands|handed|handing) on\b", "pass"),
    Rule(r"\blets? out\b", "emit"),
    Rule(r"\bheld back\b", "deferred"),
    Rule(r"\btries\b", "attempts, retries"),
    Rule(r"\b(?:most|fewest|least) (?:calls?|tries|requests|profiles)\b", "maximum, minimum"),
    Rule(r"\bat once a licence\b", "concurrent requests per licence"),
    # Servers respond to requests.
    Rule(r"\bsingle calls?\b", "single requests"),
    Rule(r"\b(?:HTTP|API|token) calls?\b", "request"),
    Rule(r"\bcalls? to (?:Actito|Didomi|the API|an API)\b", "request"),
    Rule(r"\bcalls? at (?:once|the same time)\b", "concurrent requests"),
    Rule(r"\b(?:Actito|Didomi|API|server)(?:'s)? answers?\b", "response, responds"),
    Rule(r"\bwait(?:s|ed|ing)? for an answer\b", "wait for a response"),
    Rule(r"\b(?:no|an|the) usable answer\b", "response"),
    Rule(r"\b(?:is|are) answered [1-5]\d\d\b", "gets the response"),
    # "Per".
    Rule(
        rf"\b(?:a|an|one) (?:call|request|line|row|event|column|file|change|import|page) an?"
        rf" (?:{_PER})\b",
        "one ... per ...",
    ),
    Rule(
        r"\b(?:calls|requests|rows|profiles|imports|executions|attempts) an?"
        r" (?:minute|day|second|hour|call|request|page|licence|run)\b",
        "... per ...",
    ),
    Rule(rf"\b(?:once|one) an? (?:{_PER})\b", "once per ..."),
    # What a value must be.
    Rule(
        r"(?<!there\s)\b(?:is|are|was|were|it's|be) no (?:JSON|objects?|lists?|texts?|dates?"
        r"|numbers?|strings?|integers?|booleans?|arrays?|events?|attributes?|files?|gzip|URL|CSV|UTF-8)\b",
        "is not valid ..., must be a ...",
    ),
    Rule(r"\bno date or\b", "must be a date or"),
    # Sentences that were hard to understand.
    Rule(r"\bworth of an import\b", "bulk threshold"),
    Rule(r"\bstill be on its way\b", "still be uploading"),
    Rule(r"\bbreaks off\b", "is truncated"),
    Rule(r"\bthere is no setting\b", "unknown setting"),
    Rule(r"\breads? two ways\b", "is ambiguous"),
    Rule(r"\bgave no\b", "returned no"),
    Rule(r"\bthat (?:is|are) no (?:attribute|event)s?\b", "without a matching attribute; not an"),
    # Names.
    Rule(r"\b(?:ShortWay|FullWayError|Way|OtherDirection)\b", "see the glossary", True),
    Rule(r"\bread_backwards?\b|\bleave_out\b|\bwrite_moment\b", "see the glossary", True),
    Rule(r"\b(?:ImportsSpentError|concerns_one|_NoImports)\b", "see the glossary", True),
    Rule(r"\b(?:CheckedPlugin|CheckedTap|OwnStateStream|on_tick)\b", "see the glossary", True),
    Rule(r"\bclass (?:Target|Note|Answer|Given)\b", "see the glossary", True),
    Rule(r"\bsettle\(", "acknowledge, prevails, handle_result, is_stable, clear", True),
    # Docstrings.
    Rule(
        r'""" *(?:Give|Tell|Take|Hand|Let|See to|Take note)\b',
        "Return, Record, Pass, Emit, Check, Read",
        True,
    ),
)


def _compile(rule: Rule) -> re.Pattern[str]:
    return re.compile(rule.pattern.replace(" ", _GAP), 0 if rule.names else re.IGNORECASE)


_COMPILED = [(rule, _compile(rule)) for rule in RULES]


def find_words(text: str, *, code: bool) -> list[Finding]:
    """Return the forbidden expressions in a text, in order of their lines.

    Args:
        text: The file's text.
        code: Whether it is code: rules about names hold.
    """
    lines = text.split("\n")
    findings = set()
    for rule, pattern in _COMPILED:
        if rule.names and not code:
            continue
        for match in pattern.finditer(text):
            first = text.count("\n", 0, match.start())
            last = text.count("\n", 0, match.end())
            if not any(ALLOW in line for line in lines[first : last + 1]):
                found = re.sub(_GAP, " ", match[0]).strip('" ')
                findings.add(Finding(first + 1, found, rule.better))
    return sorted(findings)


def tracked_files(root: Path) -> list[Path]:
    """Return the files to check: those that git tracks, or all where there is no repository."""
    done = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - git as it is installed
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    names: Iterable[Path] = (root / name for name in done.stdout.split("\0") if name)
    if done.returncode:
        names = (
            path
            for path in root.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(root).parts)
        )
    return sorted(
        path
        for path in names
        if path.suffix in SUFFIXES
        and path.is_file()
        and path.relative_to(root).as_posix() not in EXEMPT
    )


def main() -> int:
    """Print what was found, one line per place; return 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="only these files or folders")
    chosen = [path.resolve() for path in parser.parse_args().paths]
    count = 0
    for path in tracked_files(ROOT):
        if chosen and not any(path == c or c in path.parents for c in chosen):
            continue
        text = path.read_text(encoding="utf-8")
        for finding in find_words(text, code=path.suffix == ".py"):
            count += 1
            place = f"{path.relative_to(ROOT)}:{finding.line}"
            print(f"{place}: {finding.found!r}: write {finding.better}")
    if count:
        print(f"{count} forbidden expression(s). See docs/reference/glossary.md.")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
