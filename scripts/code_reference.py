"""Composes docs/reference/codes.md from the table of codes."""

from __future__ import annotations

from actito_didomi.codes import GROUPS, TABLE

_HEAD = """\
# Codes

<!-- Made by `make generate` from actito_didomi/codes.py; don't edit by hand. -->

Every error, reject and skip has a number and a name. Log lines show both, as in
`AD107 unknown_table: ...`; reports and rejects hold the name. Texts may change; numbers, names and
their meaning never do.

- An **error** ends the run.
- A **reject** concerns one record or change. A target keeps it with its reason and continues; a
  tap, which keeps no rejects, ends with it. A reject holds the code of an error if that error
  concerned one person only, such as `unexpected_response`.
- A **skip** is a record that is left out on purpose; the summary counts it.
"""


def codes_page() -> str:
    """Compose the page: a table for each group of codes."""
    parts = [_HEAD]
    for hundred, title in GROUPS.items():
        parts.append(f"\n## AD{hundred}xx: {title}\n\n| Code | Kind | Meaning | Remedy |\n")
        parts.append("| --- | --- | --- | --- |\n")
        parts += [
            f"| AD{code.number} `{code.name}` | {code.kind} | {code.meaning} | {code.remedy} |\n"
            for code in TABLE
            if code.number // 100 == hundred
        ]
    return "".join(parts)
