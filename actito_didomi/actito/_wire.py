"""INFERRED: what is guessed about Actito's wire format, all of it, and nothing else.

Actito publishes no file that a program could check this against. Each item names its ground. When a
guess turns out wrong, this is the module to change; the sandbox has a switch for those that matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actito_didomi.actito.values import ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENTITIES = "/entities/v5/entities"
"""Documented."""
TABLES = "/profile-table-structure/v5/entities/{entity}/profile-tables"
"""Structures of an entity's profile tables (documented)."""
TABLE = f"{TABLES}/{{table}}"
"""Structure of one table, by its id (documented)."""
PROFILES = "/profiles/v5/entities/{entity}/profile-tables/{table}/profiles"
"""A table's profiles (seen in a client; the prefix is documented).

Tables are addressed by id, as documented for V5; names work too in clients that were seen.
"""
PROFILE = f"{PROFILES}/{{attribute}}={{value}}"
"""One profile, by a unique attribute.

`attribute=value` is documented for V4 and shares its placeholder with V5. That each part is
percent-encoded as a whole is inferred: otherwise no `/`, `+` or `%` would get through.
"""
_IMPORTS = "/mass-imports/v5/entities/{entity}"
ETL = f"{_IMPORTS}/etls/{{etl}}"
"""A predefined ETL (documented)."""
ETL_EXECUTION = f"{ETL}/trigger-execution"
"""Starts an execution of a predefined ETL (documented)."""
EXECUTIONS = f"{_IMPORTS}/etl-executions"
"""One-shot executions (documented); that GET lists all executions is inferred."""
EXECUTION = f"{EXECUTIONS}/{{execution}}"
"""State of one execution (documented)."""
EXECUTION_ERRORS = f"{EXECUTION}/errors"
"""Rows of an execution that failed (inferred)."""

CREATED = 201
"""Inferred: PUT answers 201 when it created, 200 or 204 when it updated."""

METHOD_UNKNOWN = frozenset({405, 501})
"""Documented as general statuses; that a server without PATCH answers so is inferred."""


def patch_body(attributes: dict[str, Any], subscriptions: dict[str, bool]) -> dict[str, Any]:
    """Body of a PATCH: only what changes.

    The general rule is documented: fields given change, others stay. That the sections are called
    as in PUT is inferred.
    """
    body: dict[str, Any] = {}
    if attributes:
        body["attributes"] = attributes
    if subscriptions:
        body["subscriptions"] = subscriptions
    return body


def put_body(
    key: str, value: Any, attributes: dict[str, Any], subscriptions: dict[str, bool]
) -> dict[str, Any]:
    """Body of a create-or-update (seen in a client, which repeats the key among the attributes)."""
    repeated = {} if key == "profileId" else {key: value}
    return {
        "key": {key: value},
        "attributes": {**repeated, **attributes},
        "subscriptions": subscriptions,
    }


def tables_of(body: Any) -> list[dict[str, Any]]:
    """Unpack the list of tables: `{"profileTables": [...]}` (inferred), or a bare list."""
    if isinstance(body, dict):
        body = body.get("profileTables", body.get("tables", []))
    return [t for t in body if isinstance(t, dict)] if isinstance(body, list) else []


def subscriptions_of(table: dict[str, Any]) -> list[str]:
    """Unpack a structure's subscriptions: `[{"name": ...}]` (inferred), or bare names."""
    found = table.get("subscriptions") or []
    return [s["name"] if isinstance(s, dict) else str(s) for s in found]


def attributes_of(profile_body: Any) -> dict[str, Any]:
    """Unpack the attributes of a profile that was read.

    Inferred: a flat object under `attributes`; V4's list of `{name, value}` is read as well.
    """
    found = profile_body.get("attributes", {}) if isinstance(profile_body, dict) else {}
    if isinstance(found, list):
        return {a["name"]: a.get("value") for a in found}
    return dict(found)


def segmentations_of(table: dict[str, Any]) -> list[str]:
    """Unpack a structure's segmentations (that they are there was read; their shape not)."""
    found = table.get("segmentations") or []
    return [s["name"] if isinstance(s, dict) else str(s) for s in found]


def page_query(page: int, size: int, since: str | None) -> dict[str, Any]:
    """Query of one page of a table's profiles.

    `page` (from 0) and `pageSize` are documented for V4's list of webhooks, the only paging that
    is; that profiles take them too is inferred. So is the filter on `updateMoment`, of which not
    even the form is known: where it is ignored, all profiles come.
    """
    query: dict[str, Any] = {"page": page, "pageSize": size}
    if since is not None:
        query["updateMoment"] = f">={since}"
    return query


def profiles_of(body: Any) -> list[dict[str, Any]] | None:
    """Unpack a page of profiles: `{"profiles": [...]}` (inferred), or a bare list.

    None for anything else, such as the page of a proxy.
    """
    if isinstance(body, dict):
        body = body.get("profiles")
    if not isinstance(body, list) or not all(isinstance(profile, dict) for profile in body):
        return None
    return body


def total_of(body: Any) -> int | None:
    """Return how many profiles there are on all pages, where a page says so (inferred)."""
    total = body.get("total") if isinstance(body, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) else None


def lists_off(profile_body: dict[str, Any]) -> bool:
    """Return whether a profile lists subscriptions that are off, and not only those that are on."""
    states = _raw_states(profile_body)
    return states is not None and any(read_state(value) is False for value in states.values())


def _raw_states(profile_body: dict[str, Any]) -> dict[str, Any] | None:
    """Unpack a profile's subscriptions as they are; None where it holds none."""
    found = profile_body.get("subscriptions")
    if isinstance(found, list):
        found = {
            s["name"]: s.get("subscribe", s.get("value"))
            for s in found
            if isinstance(s, dict) and "name" in s
        }
    return found if isinstance(found, dict) and found else None


def states_of(
    profile_body: dict[str, Any], names: Sequence[str], *, lists_off: bool
) -> dict[str, bool] | None:
    """Unpack a profile's subscriptions: a flat object (inferred), or V4's list.

    Args:
        profile_body: The profile.
        names: The subscriptions of the table. One whose value can't be read is left out.
        lists_off: Whether responses list those that are off: then nothing is known of one that
            isn't there. Else it is off: a client was seen that lists only those that are on.

    Returns:
        By name; None where the profile holds no subscriptions at all although the table has some:
        then nothing is known of them.
    """
    found = _raw_states(profile_body)
    if found is None:
        return None if names else {}
    states: dict[str, bool] = {}
    if not lists_off:
        states = dict.fromkeys((name for name in names if name not in found), False)
    for name, value in found.items():
        if (state := read_state(value)) is not None:
            states[name] = state
    return states


_SUBSCRIBED = frozenset({"y", "true", "1", "yes", "subscribe", "subscribed", "subscription"})
_UNSUBSCRIBED = frozenset(
    {"n", "false", "0", "no", "unsubscribe", "unsubscribed", "unsubscription"}
)


def read_state(value: Any) -> bool | None:
    """Read whether somebody is subscribed, in any spelling that was seen; None for any other.

    Webhooks and clients show booleans, 1 and 0, and texts; imports take Y and N (documented). How
    exports spell it was not seen.
    """
    if value is True or value is False:
        return value
    text = str(value).strip().lower()
    if text in _SUBSCRIBED:
        return True
    return False if text in _UNSUBSCRIBED else None


CHANGE_COLUMNS = {
    "profile_id": "profileId",
    "event": "eventType",
    "subscription": "subscription",
    "subscribed": "subscribed",
    "timestamp": "timestamp",
    "source": "source",
}
"""Columns of the "Profile changes" export, except the key attribute. None of them was seen."""


def is_subscription_event(event: str) -> bool:
    """Return whether a line of that export is about a subscription.

    The export also holds changes of marketing consent and segments, and deletions (documented); its
    words for them were not seen. Webhooks say `UPDATED_SUBSCRIPTION`.
    """
    return not event or "SUBSCRI" in event.upper()


_BY_SEMANTIC_TYPE = {
    "BIRTHDATE": ValueType.DATE,
    "MARKETING_CONSENT": ValueType.BOOLEAN,
}
_BY_VALUE_TYPE = {
    "INTEGER": ValueType.INTEGER,
    "LONG": ValueType.INTEGER,
    "DECIMAL": ValueType.DECIMAL,
    "FLOAT": ValueType.DECIMAL,
    "DOUBLE": ValueType.DECIMAL,
    "NUMERIC": ValueType.DECIMAL,
    "BOOLEAN": ValueType.BOOLEAN,
    "DATE": ValueType.DATE,
    "TIMESTAMP": ValueType.TIMESTAMP,
    "DATETIME": ValueType.TIMESTAMP,
    "STRING": ValueType.STRING,
}


def value_type(attribute: dict[str, Any]) -> ValueType:
    """Return the type of an attribute.

    `INTEGER`, `TIMESTAMP` and `STRING` were seen; the other words are guesses, and an unknown one
    counts as text. `marketingConsent` is documented as a predefined boolean attribute; the word of
    its semantic type was not seen, so its name decides.
    """
    if attribute.get("name") == "marketingConsent":
        return ValueType.BOOLEAN
    if named := attribute.get("valueType"):
        return _BY_VALUE_TYPE.get(str(named).upper(), ValueType.STRING)
    return _BY_SEMANTIC_TYPE.get(str(attribute.get("type", "")).upper(), ValueType.STRING)


# Bulk imports. Documented: the two POST calls, that they are multipart, the path of an execution,
# `SUCCESS` and `WITH_ERROR`. Everything else is inferred.

DATA_PART = "inputFile"
"""Name of the part that holds the file (seen in a client, for V4)."""

DEFINITION_PART = "etlDefinition"
"""Name of the part that holds a one-shot definition (a guess)."""

MODES: Mapping[bool, str] = {False: "UPDATE_ONLY", True: "CREATE_UPDATE"}
"""Import mode, by whether profiles may be created (documented for V4)."""

ONE_SHOT_DEFINITION: Mapping[str, Any] = {
    "profileTableId": "$table",
    "keyColumn": "$key",
    "mode": "$mode",
    "fileFormat": {"separator": ";", "quote": '"', "encoding": "UTF-8", "compression": "ZIP"},
    "columns": "$columns",
}
"""Template of a one-shot definition (a guess: only its contents are documented).

`$table`, `$key` and `$mode` are replaced, and `$columns` by a list of `{"column", "field"}`.
"""

_FAILED = frozenset({"FAILURE", "FAILED", "ERROR", "CANCELLED", "CANCELED", "ABORTED", "REJECTED"})
_FINISHED = frozenset({"SUCCESS", "WITH_ERROR"})


def fill_definition(
    template: Any, table: str, key: str, mode: str, columns: Sequence[str]
) -> dict[str, Any]:
    """Put table, key, mode and columns into the template of a definition."""
    values = {
        "$table": table,
        "$key": key,
        "$mode": mode,
        "$columns": [{"column": name, "field": name} for name in columns],
    }

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: fill(part) for name, part in node.items()}
        if isinstance(node, list):
            return [fill(part) for part in node]
        return values.get(node, node) if isinstance(node, str) else node

    filled: dict[str, Any] = fill(dict(template))
    return filled


def mode_of(etl: Any) -> str | None:
    """Return the import mode of a predefined ETL, wherever its definition names one (a guess)."""
    if isinstance(etl, dict):
        for name, value in etl.items():
            if isinstance(value, str) and "mode" in name.lower() and value.upper() in _KNOWN_MODES:
                return value.upper()
        etl = list(etl.values())
    if isinstance(etl, list):
        return next((found for part in etl if (found := mode_of(part))), None)
    return None


_KNOWN_MODES = frozenset({"CREATE_ONLY", *MODES.values()})


def execution_id(body: Any) -> str | None:
    """Read the id out of the answer to a call that starts an execution."""
    found = body.get("id", body.get("executionId")) if isinstance(body, dict) else None
    return None if found is None else str(found)


def executions_of(body: Any) -> list[dict[str, Any]]:
    """Unpack the list of executions: under any name, or bare."""
    if isinstance(body, dict):
        body = next((part for part in body.values() if isinstance(part, list)), [])
    return [e for e in body if isinstance(e, dict)] if isinstance(body, list) else []


def is_failed(execution: Mapping[str, Any]) -> bool:
    """Return whether an execution has failed as a whole."""
    status = str(execution.get("status", "")).upper()
    # An unknown word together with an end timestamp can't be taken for a success.
    return status in _FAILED or (status not in _FINISHED and bool(execution.get("endMoment")))


def is_finished(execution: Mapping[str, Any]) -> bool:
    """Return whether an execution has ended; unknown words count as running."""
    status = str(execution.get("status", "")).upper()
    return status in _FINISHED or is_failed(execution)


def has_errors(execution: Mapping[str, Any]) -> bool:
    """Return whether rows of a finished execution are in error."""
    return str(execution.get("status")).upper() == "WITH_ERROR" or bool(
        execution.get("rowsInError")
    )


def error_count(execution: Mapping[str, Any]) -> int | None:
    """Read how many rows are in error; None if the response does not say."""
    found = execution.get("rowsInError")
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def row_counts(execution: Mapping[str, Any]) -> tuple[int, int] | None:
    """Read how many rows were created and updated; None if the response does not say."""
    created, updated = execution.get("rowsCreated"), execution.get("rowsUpdated")
    if isinstance(created, int) and isinstance(updated, int):
        return created, updated
    return None


def failure_of(execution: Mapping[str, Any]) -> str:
    """Read why an execution failed."""
    for name in ("message", "error", "errorMessage", "reason"):
        if isinstance(execution.get(name), str):
            return str(execution[name])
    return f"status {execution.get('status')}"


def row_errors(body: Any) -> list[dict[str, Any]]:
    """Unpack the rows in error: each with `key` or `line` (from 1, the header), and `message`."""
    return executions_of(body)
