"""INFERRED: what is guessed about Actito's wire format, all of it, and nothing else.

Actito publishes no file that a program could check this against. Each item names its ground. When a
guess turns out wrong, a file of other facts replaces it (`facts_path`, read by `read_facts`); the
sandbox has a switch for those that matter.

Names are fields of the structs below, and their descriptions are the reference. A method of a
struct reads or makes what its names are about.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec.structs import force_setattr

from actito_didomi import codes
from actito_didomi.actito.values import ValueType
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TypeGuard


def _is(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


_TABLES = "/profile-table-structure/v5/entities/{entity}/profile-tables"
_PROFILES = "/profiles/v5/entities/{entity}/profile-tables/{table}/profiles"
_IMPORTS = "/mass-imports/v5/entities/{entity}"


class Paths(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Paths of requests, below the address of the API.

    Each keeps its placeholders; their values are percent-encoded as a whole, which is inferred:
    otherwise no `/`, `+` or `%` would get through.
    """

    entities: Annotated[str, _is("List of the entities (documented).")] = "/entities/v5/entities"
    tables: Annotated[str, _is("List of an entity's profile tables (documented).")] = _TABLES
    table: Annotated[str, _is("Structure of one table, by its id (documented).")] = (
        f"{_TABLES}/{{table}}"
    )
    profiles: Annotated[
        str, _is("A table's profiles (seen in a client; the prefix is documented).")
    ] = _PROFILES
    profile: Annotated[
        str,
        _is(
            "One profile, by a unique attribute (`attribute=value` is documented for V4, and "
            "shares its placeholder with V5)."
        ),
    ] = f"{_PROFILES}/{{attribute}}={{value}}"
    etl: Annotated[str, _is("A predefined ETL (documented).")] = f"{_IMPORTS}/etls/{{etl}}"
    etl_execution: Annotated[str, _is("Starts an execution of a predefined ETL (documented).")] = (
        f"{_IMPORTS}/etls/{{etl}}/trigger-execution"
    )
    executions: Annotated[
        str, _is("One-shot executions (documented); that GET lists all of them is inferred.")
    ] = f"{_IMPORTS}/etl-executions"
    execution: Annotated[str, _is("State of one execution (documented).")] = (
        f"{_IMPORTS}/etl-executions/{{execution}}"
    )
    execution_errors: Annotated[str, _is("Rows of an execution that failed (inferred).")] = (
        f"{_IMPORTS}/etl-executions/{{execution}}/errors"
    )

    def __post_init__(self) -> None:
        """Check that each path has the placeholders of the usual one.

        Raises:
            ValueError: One doesn't.
        """
        for field in msgspec.structs.fields(self):
            path, usual = getattr(self, field.name), str(field.default)
            expected = _placeholders(usual)
            try:
                found = _placeholders(path)
            except ValueError:
                found = None
            if not path.startswith("/") or found != expected:
                raise ValueError(
                    f"`{field.name}` must begin with `/` and have the placeholders of {usual!r}"
                )


def _placeholders(path: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(path) if name is not None)


class Statuses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HTTP statuses with a meaning of their own."""

    created: Annotated[
        int,
        _is("PUT created a profile (inferred); 200 or 204 when it updated one."),
    ] = 201
    method_unknown: Annotated[
        frozenset[int],
        _is(
            "The server has no PATCH for profiles (documented as general statuses; that a server "
            "without PATCH answers so is inferred)."
        ),
    ] = frozenset({405, 501})


class TableFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entities, the list of tables, and the structure of a table."""

    entities: Annotated[str, _is("The list in the response about entities (documented).")] = (
        "entities"
    )
    entity_name: Annotated[str, _is("Name of an entity (documented).")] = "name"
    lists: Annotated[
        tuple[str, ...],
        _is("The list in the response about tables: the first that is there (inferred)."),
    ] = ("profileTables", "tables")
    id: Annotated[str, _is("Id of a table (documented).")] = "id"
    name: Annotated[str, _is("Name of a table (documented).")] = "name"
    known: Annotated[
        dict[str, str],
        _is(
            "Ids of tables by their names, where the list of tables can't be read: for a "
            "`table_name` among these names or ids it isn't requested."
        ),
    ] = {}
    attributes: Annotated[str, _is("The list of attributes in a structure (documented).")] = (
        "attributes"
    )
    attribute_name: Annotated[str, _is("Name of an attribute (documented).")] = "name"
    attribute_unique: Annotated[str, _is("Whether it is unique (documented).")] = "unique"
    attribute_mandatory: Annotated[str, _is("Whether it is mandatory (documented).")] = "mandatory"
    attribute_multi_valued: Annotated[str, _is("Whether it holds a list (documented).")] = (
        "multiValued"
    )
    attribute_value_type: Annotated[
        str, _is("Word for the type of its values (documented), see `value_types`.")
    ] = "valueType"
    attribute_semantic_type: Annotated[
        str, _is("Word for its meaning (documented), see `semantic_types`.")
    ] = "type"
    attribute_restriction: Annotated[str, _is("What its values keep to (documented).")] = (
        "valueRestriction"
    )
    attribute_max_length: Annotated[str, _is("Longest text in that, in characters (inferred).")] = (
        "maxLength"
    )
    subscriptions: Annotated[
        str,
        _is("The list of subscriptions in a structure: objects, or bare names (inferred)."),
    ] = "subscriptions"
    subscription_name: Annotated[str, _is("Name of a subscription (inferred).")] = "name"
    known_subscriptions: Annotated[
        tuple[str, ...] | None,
        _is("The table's subscriptions, where its structure doesn't list them; `[]` for none."),
    ] = None
    segmentations: Annotated[
        str,
        _is(
            "The list of segmentations in a structure (that they are there was read; their shape "
            "not)."
        ),
    ] = "segmentations"
    segmentation_name: Annotated[str, _is("Name of a segmentation (inferred).")] = "name"
    value_types: Annotated[
        dict[str, ValueType],
        _is(
            "Type by the word of a structure, in capitals: `text`, `whole number`, `number`, "
            "`boolean`, `date` or `timestamp`. `INTEGER`, `TIMESTAMP` and `STRING` were seen, the "
            "others are guesses; an unknown one counts as `text`."
        ),
    ] = msgspec.field(
        default_factory=lambda: {
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
    )
    semantic_types: Annotated[
        dict[str, ValueType],
        _is("Type by the word for an attribute's meaning, where no type is named (inferred)."),
    ] = msgspec.field(
        default_factory=lambda: {
            "BIRTHDATE": ValueType.DATE,
            "MARKETING_CONSENT": ValueType.BOOLEAN,
        }
    )

    def entities_of(self, body: Any) -> list[str] | None:
        """Unpack the names of the entities; None where the response isn't that list."""
        return _names(_list_in(body, self.entities), self.entity_name)

    def tables_of(self, body: Any) -> list[tuple[str, str]] | None:
        """Unpack the list of tables, as ids and names; None where the response isn't one."""
        found = body
        if isinstance(body, dict):
            found = next((body[name] for name in self.lists if name in body), None)
        if not isinstance(found, list):
            return None
        if not all(isinstance(table, dict) and _is_id(table.get(self.id)) for table in found):
            return None
        return [(str(t[self.id]), str(t.get(self.name, t[self.id]))) for t in found]

    def known_table(self, table: str) -> tuple[str, str] | None:
        """Return id and name of a table of which the facts know the id."""
        return next((k for n, i in self.known.items() if table in (k := (i, n))), None)

    def attributes_of(self, body: Any) -> list[dict[str, Any]] | None:
        """Unpack the attributes of a structure; None where the response isn't a structure."""
        found = body.get(self.attributes) if isinstance(body, dict) else None
        if _names(found, self.attribute_name) is None:
            return None
        return [a for a in found if isinstance(a, dict)] if isinstance(found, list) else None

    def subscriptions_of(self, body: Mapping[str, Any]) -> list[str] | None:
        """Unpack the subscriptions of a structure; None where it doesn't list them."""
        if self.known_subscriptions is not None:
            return list(self.known_subscriptions)
        return _names(body.get(self.subscriptions), self.subscription_name)

    def segmentations_of(self, body: Mapping[str, Any]) -> list[str] | None:
        """Unpack the segmentations of a structure; None where it doesn't list them."""
        return _names(body.get(self.segmentations), self.segmentation_name)

    def value_type(self, attribute: Mapping[str, Any]) -> ValueType:
        """Return the type of an attribute.

        `marketingConsent` is documented as a predefined boolean attribute; the word of its semantic
        type was not seen, so its name decides.
        """
        if attribute.get(self.attribute_name) == "marketingConsent":
            return ValueType.BOOLEAN
        if named := attribute.get(self.attribute_value_type):
            return self.value_types.get(str(named).upper(), ValueType.STRING)
        meaning = str(attribute.get(self.attribute_semantic_type, "")).upper()
        return self.semantic_types.get(meaning, ValueType.STRING)

    def max_length(self, attribute: Mapping[str, Any]) -> int | None:
        """Return the longest text that an attribute takes; None where nothing says so."""
        restriction = attribute.get(self.attribute_restriction)
        if not isinstance(restriction, dict):
            return None
        found = restriction.get(self.attribute_max_length)
        return found if _is_count(found) else None


class ProfileFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Profiles: their list, and what one holds."""

    profiles: Annotated[
        str, _is("The list in a page of profiles (inferred); a bare list is read as well.")
    ] = "profiles"
    total: Annotated[
        str, _is("Number of profiles on all pages, where a page names it (inferred).")
    ] = "total"
    page: Annotated[
        str,
        _is(
            "Query parameter for the number of a page. It and the next two are documented for "
            "V4's list of webhooks, the only paging that is; that profiles take them is inferred."
        ),
    ] = "page"
    first_page: Annotated[int, _is("Number of the first page.")] = 0
    page_size: Annotated[str, _is("Query parameter for the number of profiles per page.")] = (
        "pageSize"
    )
    updated_since: Annotated[
        str,
        _is(
            "Query parameter of the filter on `updateMoment` (inferred); used with "
            "`trust_update_moment` only."
        ),
    ] = "updateMoment"
    updated_since_form: Annotated[
        str, _is("Value of that parameter (inferred), with the placeholder `{since}`.")
    ] = ">={since}"
    id: Annotated[
        str,
        _is("A profile's id, among its attributes or next to them (documented; place inferred)."),
    ] = "profileId"
    attributes: Annotated[
        str,
        _is(
            "A profile's attributes: a flat object (inferred), or V4's list; the same in requests."
        ),
    ] = "attributes"
    attribute_name: Annotated[str, _is("Name in that list (V4).")] = "name"
    attribute_value: Annotated[str, _is("Value in that list (V4).")] = "value"
    subscriptions: Annotated[
        str,
        _is(
            "A profile's subscriptions: a flat object (inferred), or V4's list; the same in "
            "requests."
        ),
    ] = "subscriptions"
    subscription_name: Annotated[str, _is("Name in that list (V4).")] = "name"
    subscription_states: Annotated[
        tuple[str, ...], _is("State in that list: the first that is there (V4).")
    ] = ("subscribe", "value")
    segmentations: Annotated[str, _is("A profile's segmentations (inferred).")] = "segmentations"
    key: Annotated[
        str, _is("Key of the profile in a create-or-update request (seen in a client).")
    ] = "key"
    written: Annotated[
        tuple[str, ...],
        _is(
            "Fields of a response to PATCH or PUT, of which one must be there unless the response "
            "is empty (`profileId` was seen in V4): another one is not a confirmation. `[]` takes "
            "any."
        ),
    ] = ("profileId", "id", "attributes", "key")
    subscribed: Annotated[
        frozenset[str],
        _is(
            "Words for yes, in any case. Webhooks and clients show booleans, 1 and 0, and texts; "
            "imports take Y and N (documented). How exports spell it was not seen."
        ),
    ] = frozenset({"y", "true", "1", "yes", "subscribe", "subscribed", "subscription"})
    unsubscribed: Annotated[frozenset[str], _is("Words for no, in any case.")] = frozenset(
        {"n", "false", "0", "no", "unsubscribe", "unsubscribed", "unsubscription"}
    )

    def __post_init__(self) -> None:
        """Compare words without case, and check that none says both.

        Raises:
            ValueError: One does, or the form of the filter is another one.
        """
        for name in ("subscribed", "unsubscribed"):
            words = frozenset(word.strip().lower() for word in getattr(self, name))
            force_setattr(self, name, words)
        if both := sorted(self.subscribed & self.unsubscribed):
            raise ValueError(f"`subscribed` and `unsubscribed` both hold {', '.join(both)}")
        if "{since}" not in self.updated_since_form:
            raise ValueError("`updated_since_form` must hold `{since}`")

    def patch_body(
        self, attributes: dict[str, Any], subscriptions: dict[str, bool]
    ) -> dict[str, Any]:
        """Return the body of a PATCH: only what changes.

        The general rule is documented: fields given change, others stay. That the sections are
        called as in PUT is inferred.
        """
        body: dict[str, Any] = {}
        if attributes:
            body[self.attributes] = attributes
        if subscriptions:
            body[self.subscriptions] = subscriptions
        return body

    def put_body(
        self, key: str, value: Any, attributes: dict[str, Any], subscriptions: dict[str, bool]
    ) -> dict[str, Any]:
        """Return the body of a create-or-update.

        Seen in a client, which repeats the key among the attributes; not the id, which can't be
        written.
        """
        repeated = {} if key == self.id else {key: value}
        return {
            self.key: {key: value},
            self.attributes: {**repeated, **attributes},
            self.subscriptions: subscriptions,
        }

    def confirms(self, body: Any) -> bool:
        """Return whether the response to a write may be Actito's."""
        if body in (None, "", {}) or not self.written:
            return True
        return isinstance(body, dict) and any(name in body for name in self.written)

    def attributes_of(self, profile: Any) -> dict[str, Any] | None:
        """Unpack the attributes of a profile; None where the response isn't a profile."""
        found = profile.get(self.attributes) if isinstance(profile, dict) else None
        if isinstance(found, list):
            name, value = self.attribute_name, self.attribute_value
            if not all(isinstance(a, dict) and isinstance(a.get(name), str) for a in found):
                return None
            return {a[name]: a.get(value) for a in found}
        return dict(found) if isinstance(found, dict) else None

    def id_of(self, profile: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
        """Return the id of a profile as it is; None where it names none."""
        return attributes.get(self.id, profile.get(self.id))

    def page_query(self, page: int, size: int, since: str | None) -> dict[str, Any]:
        """Return the query of one page of a table's profiles.

        Args:
            page: Its number, from 0.
            size: Profiles per page.
            since: Only those updated since. Not even the form of that filter is known: where it is
                ignored, all profiles come.
        """
        query: dict[str, Any] = {self.page: page + self.first_page, self.page_size: size}
        if since is not None:
            query[self.updated_since] = self.updated_since_form.replace("{since}", since)
        return query

    def profiles_of(self, body: Any) -> list[dict[str, Any]] | None:
        """Unpack a page of profiles; None for anything else, such as the page of a proxy."""
        found = _list_in(body, self.profiles)
        if not isinstance(found, list) or not all(isinstance(profile, dict) for profile in found):
            return None
        return found

    def total_of(self, body: Any) -> int | None:
        """Return how many profiles there are on all pages, where a page says so."""
        total = body.get(self.total) if isinstance(body, dict) else None
        return total if _is_count(total) else None

    def lists_off(self, profile: dict[str, Any]) -> bool:
        """Return whether a profile lists subscriptions that are off, not only those that are on."""
        states = self._raw_states(profile)
        return states is not None and any(
            self.read_state(value) is False for value in states.values()
        )

    def _raw_states(self, profile: dict[str, Any]) -> dict[str, Any] | None:
        """Unpack a profile's subscriptions as they are; None where it holds none."""
        found = profile.get(self.subscriptions)
        if isinstance(found, list):
            found = {
                s[self.subscription_name]: next(
                    (s[name] for name in self.subscription_states if name in s), None
                )
                for s in found
                if isinstance(s, dict) and self.subscription_name in s
            }
        return found if isinstance(found, dict) and found else None

    def states_of(
        self, profile: dict[str, Any], names: Sequence[str], *, lists_off: bool
    ) -> dict[str, bool] | None:
        """Unpack a profile's subscriptions: a flat object (inferred), or V4's list.

        Args:
            profile: The profile.
            names: The subscriptions of the table. One whose value can't be read is left out.
            lists_off: Whether responses list those that are off: then nothing is known of one that
                isn't there. Else it is off: a client was seen that lists only those that are on.

        Returns:
            By name; None where the profile holds no subscriptions at all although the table has
            some: then nothing is known of them.
        """
        found = self._raw_states(profile)
        if found is None:
            return None if names else {}
        states: dict[str, bool] = {}
        if not lists_off:
            states = dict.fromkeys((name for name in names if name not in found), False)
        for name, value in found.items():
            if (state := self.read_state(value)) is not None:
                states[name] = state
        return states

    def read_state(self, value: Any) -> bool | None:
        """Read whether somebody is subscribed, in any spelling; None for any other value."""
        if value is True or value is False:
            return value
        text = str(value).strip().lower()
        if text in self.subscribed:
            return True
        return False if text in self.unsubscribed else None


class ChangeFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Columns of the "Profile changes" export, except the key attribute. None of them was seen."""

    profile_id: Annotated[str, _is("Id of the profile.")] = "profileId"
    event: Annotated[str, _is("What kind of change it is.")] = "eventType"
    subscription: Annotated[str, _is("Name of the subscription.")] = "subscription"
    subscribed: Annotated[str, _is("Its new state.")] = "subscribed"
    timestamp: Annotated[str, _is("When it changed.")] = "timestamp"
    source: Annotated[str, _is("How it came about.")] = "source"
    event_contains: Annotated[
        str,
        _is(
            "Part of the words for changes of subscriptions, in any case. The export also holds "
            "changes of marketing consent and segments, and deletions (documented); its words for "
            "them were not seen. Webhooks say `UPDATED_SUBSCRIPTION`."
        ),
    ] = "SUBSCRI"

    def columns(self) -> dict[str, str]:
        """Return the names of the columns by what they hold."""
        return {
            name: getattr(self, name) for name in self.__struct_fields__ if name != "event_contains"
        }

    def is_subscription_event(self, event: str) -> bool:
        """Return whether a line of that export is about a subscription."""
        return not event or self.event_contains.upper() in event.upper()


class ImportFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bulk imports.

    Documented: the two POST requests, that they are multipart, the path of an execution, `SUCCESS`
    and `WITH_ERROR`. Everything else is inferred.
    """

    data_part: Annotated[
        str, _is("Part of the request that holds the file (seen in a client, for V4).")
    ] = "inputFile"
    definition_part: Annotated[
        str, _is("Part of the request that holds a one-shot definition (a guess).")
    ] = "etlDefinition"
    update: Annotated[str, _is("Import mode that creates no profiles (documented for V4).")] = (
        "UPDATE_ONLY"
    )
    create_update: Annotated[
        str, _is("Import mode that also creates profiles (documented for V4).")
    ] = "CREATE_UPDATE"
    other_modes: Annotated[tuple[str, ...], _is("Other import modes (documented for V4).")] = (
        "CREATE_ONLY",
    )
    mode_contains: Annotated[
        str,
        _is("Part of the name of the field with the mode of a predefined ETL, in any case."),
    ] = "mode"
    definition: Annotated[
        dict[str, Any],
        _is(
            "Template of a one-shot definition (a guess: only its contents are documented). "
            '`"$table"`, `"$key"` and `"$mode"` are replaced, and `"$columns"` by a list of '
            '`{"column", "field"}`. The setting `bulk_definition` wins over it.'
        ),
    ] = msgspec.field(
        default_factory=lambda: {
            "profileTableId": "$table",
            "keyColumn": "$key",
            "mode": "$mode",
            "fileFormat": {
                "separator": ";",
                "quote": '"',
                "encoding": "UTF-8",
                "compression": "ZIP",
            },
            "columns": "$columns",
        }
    )
    column_name: Annotated[str, _is("Name of a column in the definition.")] = "column"
    column_field: Annotated[str, _is("Field of the profile in the definition.")] = "field"
    ids: Annotated[tuple[str, ...], _is("Id of an execution: the first that is there.")] = (
        "id",
        "executionId",
    )
    lists: Annotated[
        tuple[str, ...],
        _is(
            "The list of executions, or of rows in error: the first that is there. With `[]` it "
            "is the first list under any name; a bare list is read as well."
        ),
    ] = ()
    status: Annotated[str, _is("Status of an execution.")] = "status"
    end: Annotated[str, _is("When an execution ended.")] = "endMoment"
    success: Annotated[frozenset[str], _is("Statuses of one that succeeded.")] = frozenset(
        {"SUCCESS"}
    )
    with_errors: Annotated[
        frozenset[str], _is("Statuses of one that succeeded but for some rows.")
    ] = frozenset({"WITH_ERROR"})
    failed: Annotated[frozenset[str], _is("Statuses of one that failed as a whole.")] = frozenset(
        {"FAILURE", "FAILED", "ERROR", "CANCELLED", "CANCELED", "ABORTED", "REJECTED"}
    )
    reasons: Annotated[
        tuple[str, ...], _is("Why an execution failed: the first that is there.")
    ] = ("message", "error", "errorMessage", "reason")
    rows_in_error: Annotated[str, _is("How many rows are in error.")] = "rowsInError"
    rows_created: Annotated[str, _is("How many profiles were created.")] = "rowsCreated"
    rows_updated: Annotated[str, _is("How many profiles were updated.")] = "rowsUpdated"
    error_key: Annotated[str, _is("Value of the key attribute of a row in error.")] = "key"
    error_line: Annotated[str, _is("Line of a row in error, from 1, the header.")] = "line"
    error_message: Annotated[str, _is("Why a row is in error.")] = "message"

    def __post_init__(self) -> None:
        """Compare statuses without case, and check that each says one thing.

        Raises:
            ValueError: One doesn't, or the definition lacks a placeholder.
        """
        sets = ("success", "with_errors", "failed")
        for name in sets:
            force_setattr(self, name, frozenset(word.upper() for word in getattr(self, name)))
        words = [word for name in sets for word in getattr(self, name)]
        if twice := sorted({word for word in words if words.count(word) > 1}):
            raise ValueError(
                f"`success`, `with_errors` and `failed` say different things of {', '.join(twice)}"
            )
        if self.update.upper() == self.create_update.upper():
            raise ValueError("`update` and `create_update` must differ")
        if wrong := check_definition(self.definition):
            raise ValueError(f"`definition`: {wrong}")

    def mode(self, *, create: bool) -> str:
        """Return the import mode, by whether profiles may be created."""
        return self.create_update if create else self.update

    def fill_definition(
        self, template: Any, table: str, key: str, mode: str, columns: Sequence[str]
    ) -> dict[str, Any]:
        """Put table, key, mode and columns into the template of a definition."""
        values = {
            "$table": table,
            "$key": key,
            "$mode": mode,
            "$columns": [{self.column_name: name, self.column_field: name} for name in columns],
        }

        def fill(node: Any) -> Any:
            if isinstance(node, dict):
                return {name: fill(part) for name, part in node.items()}
            if isinstance(node, list):
                return [fill(part) for part in node]
            return values.get(node, node) if isinstance(node, str) else node

        filled: dict[str, Any] = fill(dict(template))
        return filled

    def mode_of(self, etl: Any) -> str | None:
        """Return the import mode of a predefined ETL, wherever its definition names one."""
        known = {m.upper(): m for m in (self.update, self.create_update, *self.other_modes)}
        if isinstance(etl, dict):
            for name, value in etl.items():
                is_mode = self.mode_contains.lower() in name.lower()
                if is_mode and isinstance(value, str) and value.upper() in known:
                    return known[value.upper()]
            etl = list(etl.values())
        if isinstance(etl, list):
            return next((found for part in etl if (found := self.mode_of(part))), None)
        return None

    def id_of(self, body: Any) -> str | None:
        """Read the id of an execution; None where there is none."""
        found = None
        if isinstance(body, dict):
            found = next((body[name] for name in self.ids if name in body), None)
        return str(found) if _is_id(found) else None

    def list_of(self, body: Any) -> list[dict[str, Any]] | None:
        """Unpack the list of executions, or of rows in error; None where there is none.

        A row in error has a key or a line, and a message.
        """
        if isinstance(body, dict):
            names = self.lists or [name for name, part in body.items() if isinstance(part, list)]
            body = next((body[name] for name in names if name in body), None)
        if not isinstance(body, list) or not all(isinstance(item, dict) for item in body):
            return None
        return body

    def is_execution(self, body: Any) -> bool:
        """Return whether a response shows how an execution stands."""
        return isinstance(body, dict) and isinstance(body.get(self.status), str)

    def _status(self, execution: Mapping[str, Any]) -> str:
        return str(execution.get(self.status, "")).upper()

    def is_failed(self, execution: Mapping[str, Any]) -> bool:
        """Return whether an execution has failed as a whole."""
        # An unknown word together with an end timestamp can't be taken for a success.
        status = self._status(execution)
        is_known = status in self.success or status in self.with_errors
        return status in self.failed or (not is_known and bool(execution.get(self.end)))

    def is_finished(self, execution: Mapping[str, Any]) -> bool:
        """Return whether an execution has ended; unknown words count as running."""
        status = self._status(execution)
        return status in self.success or status in self.with_errors or self.is_failed(execution)

    def has_errors(self, execution: Mapping[str, Any]) -> bool:
        """Return whether rows of a finished execution are in error."""
        in_error = bool(execution.get(self.rows_in_error))
        return in_error or self._status(execution) in self.with_errors

    def error_count(self, execution: Mapping[str, Any]) -> int | None:
        """Read how many rows are in error; None if the response does not say."""
        found = execution.get(self.rows_in_error)
        return found if _is_count(found) else None

    def row_counts(self, execution: Mapping[str, Any]) -> tuple[int, int] | None:
        """Read how many rows were created and updated; None if the response does not say."""
        created, updated = execution.get(self.rows_created), execution.get(self.rows_updated)
        if _is_count(created) and _is_count(updated):
            return created, updated
        return None

    def failure_of(self, execution: Mapping[str, Any]) -> str:
        """Read why an execution failed."""
        for name in self.reasons:
            if isinstance(execution.get(name), str):
                return str(execution[name])
        return f"status {execution.get(self.status)}"


PLACEHOLDERS = ("$table", "$key", "$mode")
"""Texts that the definition of an import must hold, for what the settings say."""


def check_definition(definition: Any) -> str | None:
    """Return what is wrong with a user's definition of one-shot imports, or None.

    Any JSON object is accepted if table, key and mode come from the settings: a literal mode could
    create profiles against `upsert_mode`.
    """
    if not isinstance(definition, dict):
        return "expected an object"
    text = msgspec.json.encode(definition).decode()
    missing = [name for name in PLACEHOLDERS if f'"{name}"' not in text]
    if missing:
        return (
            f'the placeholder(s) {", ".join(missing)} are missing. Write "$table", "$key", '
            '"$mode" and, where it lists columns, "$columns" in place of the values'
        )
    return None


class Facts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All facts."""

    paths: Paths = Paths()
    statuses: Statuses = Statuses()
    tables: TableFacts = TableFacts()
    profiles: ProfileFacts = ProfileFacts()
    changes: ChangeFacts = ChangeFacts()
    imports: ImportFacts = ImportFacts()


FACTS = Facts()
"""The facts as they are shipped."""


def read_facts(path: str) -> Facts:
    """Read a JSON file of other facts; what it doesn't name is as shipped.

    Args:
        path: The file; empty for none.

    Raises:
        SettingsError: It can't be read, or doesn't fit; the message names the path inside of it.
    """
    if not path:
        return FACTS
    try:
        content = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
        return msgspec.json.decode(content, type=Facts)
    except OSError as error:
        problem = f"{path} can't be read: {error.strerror}"
    except msgspec.ValidationError as error:
        problem = f"{path}: {_explain(str(error))}"
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = f"{path} is not valid JSON: {error}"
    raise SettingsError(
        codes.INVALID_SETTING,
        f"facts_path: {problem}. The file must be an object as in docs/reference/facts.md.",
    )


def _explain(problem: str) -> str:
    """Return a message of msgspec with the place first, and the names that are known there."""
    text, _, place = problem.partition(" - at `")
    place = place.removesuffix("`") or "$"
    if unknown := re.search(r"unknown field `(.+)`", text):
        known = _names_at(place)
        near = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean `{near[0]}`" if near else f"known are {', '.join(known)}"
        text = f"there is no fact `{unknown[1]}`; {hint}"
    elif "enum" in text:
        text += f"; expected one of {', '.join(kind.value for kind in ValueType)}"
    return f"`{place}`: {text}"


def _names_at(place: str) -> list[str]:
    """Return the names of the facts at a place such as `$.tables`."""
    node: Any = FACTS
    for part in place.split(".")[1:]:
        node = getattr(node, part)
    return list(node.__struct_fields__)


def groups() -> Iterator[tuple[str, type[msgspec.Struct], list[tuple[str, Any, str]]]]:
    """Yield the groups of facts for the reference: name, struct, and facts.

    A fact is its name, its value as shipped, and its description.
    """
    for group in Facts.__struct_fields__:
        facts = getattr(FACTS, group)
        described = [
            (field.name, getattr(facts, field.name), field.type.__metadata__[0].description)
            for field in msgspec.structs.fields(facts)
        ]
        yield group, type(facts), described


def _list_in(body: Any, name: str) -> Any:
    """Return the list of that name in an object; what isn't an object as it is."""
    return body.get(name) if isinstance(body, dict) else body


def _names(items: Any, name: str) -> list[str] | None:
    """Return the names of objects, or of bare names; None for anything else."""
    if not isinstance(items, list):
        return None
    found = [item.get(name) if isinstance(item, dict) else item for item in items]
    texts = [text for text in found if isinstance(text, str) and text]
    return texts if len(texts) == len(found) else None


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool) and value != ""


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
