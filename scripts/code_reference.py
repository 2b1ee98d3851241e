"""Composes docs/reference/codes.md from the table of codes."""

from __future__ import annotations

import ast
import inspect
import itertools

from actito_didomi import codes
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
- A **warning** is logged; nothing is left out.
- A **skip** is a record (for `unmatched`, a person) that is left out on purpose; the summary counts
  it.
"""


def read_texts() -> dict[str, tuple[str, str]]:
    """Read meaning and remedy of each code: the text below its declaration, by its name."""
    nodes = ast.parse(inspect.getsource(codes)).body
    texts = {}
    for declared, text in itertools.pairwise(nodes):
        match declared, text:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="Code"))),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                meaning, remedy = (" ".join(part.split()) for part in words.split("\n\n"))
                texts[name.lower()] = (meaning, remedy)
    return texts


def codes_page() -> str:
    """Compose the page: a table for each group of codes."""
    parts, texts = [_HEAD], read_texts()
    for hundred, title in GROUPS.items():
        parts.append(f"\n## AD{hundred}xx: {title}\n\n| Code | Kind | Meaning | Remedy |\n")
        parts.append("| --- | --- | --- | --- |\n")
        parts += [
            f"| AD{code.number} `{code.name}` | {code.kind} | {' | '.join(texts[code.name])} |\n"
            for code in TABLE
            if code.number // 100 == hundred
        ]
    return "".join(parts)
