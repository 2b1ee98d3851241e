"""An Actito with other names than the sandbox's, and the facts that describe it.

What is asked in the usual names is refused, as a server would that has never heard of them.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from between import Answer, Ask

NAMES = {
    "entities": "units",
    "profileTables": "tableList",
    "unique": "isUnique",
    "mandatory": "isRequired",
    "multiValued": "isMany",
    "valueType": "format",
    "valueRestriction": "bounds",
    "maxLength": "longest",
    "attributes": "fields",
    "subscriptions": "optIns",
    "segmentations": "segments",
    "profiles": "people",
    "total": "count",
    "key": "match",
    "profileId": "rowNumber",
    "status": "phase",
    "endMoment": "endedAt",
    "rowsCreated": "added",
    "rowsUpdated": "changed",
    "rowsInError": "broken",
    "errors": "problems",
    "line": "rank",
    "message": "why",
    "profileTableId": "into",
    "keyColumn": "by",
    "columns": "cells",
    "column": "head",
    "field": "goesTo",
}
"""Names of the sandbox, and other ones."""
_BACK = {other: name for name, other in NAMES.items()}
_WORDS = {"INTEGER": "WHOLE", "BOOLEAN": "YES_NO", "SUCCESS": "DONE", "WITH_ERROR": "PARTLY"}
_PATHS = [
    ("/people-data/v9/", "/profiles/v5/"),
    ("/people-schema/v9/", "/profile-table-structure/v5/"),
    ("/loads/v9/", "/mass-imports/v5/"),
]
_QUERY = {"number": "page", "size": "pageSize"}
_FLAT = ("attributes", "subscriptions")
"""Objects whose keys are names of the table."""

FACTS: dict[str, Any] = {
    "paths": {
        "tables": "/people-schema/v9/entities/{entity}/profile-tables",
        "table": "/people-schema/v9/entities/{entity}/profile-tables/{table}",
        "profiles": "/people-data/v9/entities/{entity}/profile-tables/{table}/profiles",
        "profile": (
            "/people-data/v9/entities/{entity}/profile-tables/{table}/profiles/{attribute}={value}"
        ),
        "executions": "/loads/v9/entities/{entity}/etl-executions",
        "execution": "/loads/v9/entities/{entity}/etl-executions/{execution}",
        "execution_errors": "/loads/v9/entities/{entity}/etl-executions/{execution}/errors",
    },
    "tables": {
        "entities": "units",
        "lists": ["tableList"],
        "attributes": "fields",
        "attribute_unique": "isUnique",
        "attribute_mandatory": "isRequired",
        "attribute_multi_valued": "isMany",
        "attribute_value_type": "format",
        "attribute_restriction": "bounds",
        "attribute_max_length": "longest",
        "subscriptions": "optIns",
        "segmentations": "segments",
        "value_types": {"WHOLE": "whole number", "YES_NO": "boolean"},
    },
    "profiles": {
        "profiles": "people",
        "total": "count",
        "page": "number",
        "first_page": 1,
        "page_size": "size",
        "id": "rowNumber",
        "attributes": "fields",
        "subscriptions": "optIns",
        "segmentations": "segments",
        "key": "match",
        "written": ["rowNumber"],
        "subscribed": ["in"],
        "unsubscribed": ["out"],
    },
    "imports": {
        "definition": {
            "into": "$table",
            "by": "$key",
            "mode": "$mode",
            "fileFormat": {
                "separator": ";",
                "quote": '"',
                "encoding": "UTF-8",
                "compression": "ZIP",
            },
            "cells": "$columns",
        },
        "column_name": "head",
        "column_field": "goesTo",
        "lists": ["executions", "problems"],
        "status": "phase",
        "end": "endedAt",
        "success": ["Done"],
        "with_errors": ["Partly"],
        "rows_in_error": "broken",
        "rows_created": "added",
        "rows_updated": "changed",
        "error_key": "match",
        "error_line": "rank",
        "error_message": "why",
    },
}
"""What a file of facts says about it."""


def other_names(_method: str, path: str, body: Any, ask: Ask) -> Answer:
    """Answer as an Actito with other names."""
    asked = urlsplit(path)
    inner, query = asked.path, dict(parse_qsl(asked.query))
    if any(usual in inner for _, usual in _PATHS) or set(query) & set(_QUERY.values()):
        return 404, {"why": "unknown path or parameter"}
    for other, usual in _PATHS:
        inner = inner.replace(other, usual)
    named = {_QUERY.get(name, name): value for name, value in query.items()}
    if "page" in named:
        named["page"] = str(int(named["page"]) - 1)
    inner += f"?{urlencode(named)}" if named else ""
    if isinstance(body, bytes):
        sent: Any = body
        for other, usual in (("into", "profileTableId"), ("by", "keyColumn"), ("cells", "columns")):
            sent = sent.replace(f'"{other}":'.encode(), f'"{usual}":'.encode())
        sent = sent.replace(b'"head":', b'"column":').replace(b'"goesTo":', b'"field":')
    elif _uses(body, set(NAMES)):
        return 400, {"why": "unknown fields"}
    else:
        sent = _renamed(body, _BACK)
    status, answer = ask(sent, inner)
    return status, _renamed(answer, NAMES, words=_WORDS)


def _uses(node: Any, names: set[str]) -> bool:
    return isinstance(node, dict) and bool(set(node) & names)


def _renamed(node: Any, names: dict[str, str], words: dict[str, str] | None = None) -> Any:
    """Return a body with other names, down to objects whose keys are names of the table."""
    if isinstance(node, list):
        return [_renamed(item, names, words) for item in node]
    if isinstance(node, str):
        return (words or {}).get(node, node)
    if not isinstance(node, dict):
        return node
    renamed: dict[str, Any] = {}
    for name, part in node.items():
        is_flat = isinstance(part, dict) and {name, names.get(name)} & set(_FLAT)
        found = dict(part) if is_flat else _renamed(part, names, words)
        if is_flat and words is not None:
            found = {k: _say(v) if name == "subscriptions" else v for k, v in found.items()}
            if "profileId" in found:
                found["rowNumber"] = found.pop("profileId")
        renamed[names.get(name, name)] = found
    return renamed


def _say(state: Any) -> Any:
    return {True: "In", False: "Out"}.get(state, state)
