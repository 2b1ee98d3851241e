"""The streams: profiles, changes of subscriptions, and the same as Didomi consent events."""

from __future__ import annotations

import time
import uuid
from collections import Counter, OrderedDict
from datetime import datetime, timedelta, timezone
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, cast

from singer_sdk import typing as th
from singer_sdk.helpers.types import Context  # noqa: TC002 - the SDK reads annotations
from singer_sdk.singerlib.catalog import REPLICATION_INCREMENTAL

from actito_didomi.actito import ValueType
from actito_didomi.actito.listing import list_profiles
from actito_didomi.consent.choices import to_consents
from actito_didomi.consent.records import format_timestamp
from actito_didomi.errors import SettingsError
from actito_didomi.plugin.tap import CheckpointStream
from tap_actito.config import missing_for_sync
from tap_actito.sources import read_api, read_exports

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from actito_didomi.actito import Attribute, TableStructure
    from actito_didomi.actito.changes import SubscriptionChange
    from tap_actito.tap import TapActito

_NAMESPACE = uuid.UUID("6f0c2b1e-7d0a-5d53-9a55-0f5c2f0f6b1d")
"""Of the ids of consent events; it never changes, or events would be posted twice."""
_OVERLAP = timedelta(minutes=5)
_MOST_OPEN = 10_000
"""Groups of changes of one person and timestamp that are kept open at a time."""
_PROGRESS_INTERVAL = 30.0

_TYPES: dict[ValueType, dict[str, Any]] = {
    ValueType.STRING: {"type": ["string", "null"]},
    ValueType.INTEGER: {"type": ["integer", "null"]},
    ValueType.DECIMAL: {"type": ["number", "null"]},
    ValueType.BOOLEAN: {"type": ["boolean", "null"]},
    ValueType.DATE: {"type": ["string", "null"], "format": "date"},
    ValueType.TIMESTAMP: {"type": ["string", "null"], "format": "date-time"},
}


class ActitoStream(CheckpointStream):
    """A stream of tap-actito."""

    raw = True

    @property
    def actito(self) -> TapActito:
        """The tap."""
        return cast("TapActito", self._tap)


class Profiles(ActitoStream):
    """The profile table, a record a profile: attributes, subscriptions, segmentations.

    Actito's list knows no order and no documented filter, so every run reads all profiles; those
    whose `updateMoment` is older than the bookmark are left out.
    """

    name = "profiles"
    primary_keys = ("profileId",)
    replication_key = "updateMoment"

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The table as a JSON schema; an open one where it isn't known which table is meant."""
        try:
            return schema_of(self.actito.structure)
        except SettingsError as error:
            if not missing_for_sync(self.actito.settings):
                raise
            self.logger.warning("%s Until then its attributes are not listed.", error)
            properties = dict.fromkeys(("updateMoment",), _TYPES[ValueType.TIMESTAMP])
            properties["profileId"] = {"type": ["integer", "null"]}
            return {"type": "object", "properties": properties, "additionalProperties": True}

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Give the profiles that were updated since the bookmark."""
        since = self.get_starting_timestamp(context)
        started = datetime.now(timezone.utc)
        newest = since
        structure, read, last = self.actito.structure, 0, time.monotonic()
        pages = list_profiles(self.actito.session, structure, self.config["page_size"])
        for page in pages:
            for profile in page.profiles:
                self.actito.shutdown.check()
                record = self._record(structure, profile)
                updated = record.get("updateMoment")
                if updated:
                    timestamp = datetime.fromisoformat(updated.replace("Z", "+00:00"))
                    if since and timestamp < since:
                        continue
                    newest = max(newest or timestamp, timestamp)
                yield record
            read += len(page.profiles)
            if time.monotonic() - last > _PROGRESS_INTERVAL:
                last = time.monotonic()
                self.logger.info("Profiles: %d read.", read)
        if newest:
            # A profile that changes behind the scan is given by the next one.
            bookmark = min(newest, started - _OVERLAP)
            if since is None or bookmark > since:
                self.stream_state["replication_key"] = self.replication_key
                self.stream_state["replication_key_value"] = format_timestamp(bookmark)
        self.emit_state()

    def _record(self, structure: TableStructure, profile: Any) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for name, attribute in structure.attributes.items():
            if (value := profile.attributes.get(name)) is not None:
                record[name] = self._value(attribute, value)
        record["profileId"] = profile.id
        for name in structure.subscriptions:
            record[f"subscription_{name}"] = profile.subscriptions.get(name)
        for name in structure.segmentations:
            record[f"segmentation_{name}"] = profile.segmentations.get(name)
        return record

    def _value(self, attribute: Attribute, value: Any) -> Any:
        if attribute.type is ValueType.TIMESTAMP and isinstance(value, str):
            try:
                timestamp = datetime.fromisoformat(value.replace("Z", "+00:00"))
            except ValueError:
                return None
            if timestamp.tzinfo is None:
                timestamp = timestamp.replace(tzinfo=self.actito.zone)
            return format_timestamp(timestamp)
        return value


def schema_of(structure: TableStructure) -> dict[str, Any]:
    """Make the JSON schema of a table's profiles."""
    properties: dict[str, Any] = {
        name: {"type": ["array", "null"]} if attribute.multi_valued else _TYPES[attribute.type]
        for name, attribute in structure.attributes.items()
    }
    properties["profileId"] = {"type": ["integer", "null"]}
    properties.setdefault("updateMoment", _TYPES[ValueType.TIMESTAMP])
    for name in structure.subscriptions:
        properties[f"subscription_{name}"] = {"type": ["boolean", "null"]}
    for name in structure.segmentations:
        properties[f"segmentation_{name}"] = {"type": ["string", "boolean", "null"]}
    return {"type": "object", "properties": properties}


class ChangeStream(ActitoStream):
    """Changes of subscriptions, from either source; what a record is, the streams say."""

    @property
    def replication_method(self) -> str:
        """Incremental, by the source's own state; there is no replication key in the records."""
        return REPLICATION_INCREMENTAL

    def _write_starting_replication_value(self, context: Context | None) -> None:
        """Write none: the state names files, or changes of the snapshot."""

    def batches(self) -> Iterator[Iterable[SubscriptionChange]]:
        """Give the changes, in batches between which the state moves."""
        source = read_exports if self.config["change_source"] == "exports" else read_api
        return source(self)

    @property
    def attributes_wanted(self) -> tuple[str, ...]:
        """Attributes whose changes count as well."""
        return ()


class SubscriptionChanges(ChangeStream):
    """A record for each subscription that changed."""

    name = "subscription_changes"
    primary_keys = ("profileId", "subscription", "changed_at")
    schema = th.PropertiesList(
        th.Property("profileId", th.IntegerType),
        th.Property("key", th.StringType, description="Value of the key attribute."),
        th.Property("subscription", th.StringType),
        th.Property("subscribed", th.BooleanType),
        th.Property("changed_at", th.DateTimeType),
        th.Property("changed_after", th.DateTimeType),
        th.Property("source", th.StringType),
    ).to_dict()

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Give the changes."""
        del context
        for batch in self.batches():
            for change in batch:
                yield {
                    "profileId": change.profile_id,
                    "key": change.person,
                    "subscription": change.subscription,
                    "subscribed": change.subscribed,
                    "changed_at": format_timestamp(change.changed_at),
                    "changed_after": format_timestamp(change.changed_after)
                    if change.changed_after
                    else None,
                    "source": change.source,
                }


_CHOICE = th.ArrayType(
    th.ObjectType(
        th.Property("id", th.StringType),
        th.Property("enabled", th.BooleanType),
        additional_properties=True,
    )
)


class ConsentEvents(ChangeStream):
    """The same changes as Didomi consent events, through the mappings read backwards."""

    name = "consent_events"
    primary_keys = ("id",)
    schema = th.PropertiesList(
        th.Property("id", th.StringType),
        th.Property("created_at", th.DateTimeType),
        th.Property("changed_after", th.DateTimeType),
        th.Property("user", th.ObjectType(th.Property("organization_user_id", th.StringType))),
        th.Property(
            "consents",
            th.ObjectType(
                th.Property("channels", _CHOICE),
                th.Property("purposes", _CHOICE),
            ),
        ),
        th.Property(
            "delegate",
            th.ObjectType(th.Property("id", th.StringType), th.Property("name", th.StringType)),
        ),
    ).to_dict()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.unmapped: Counter[str] = Counter()
        self.without_key = 0
        self._account: list[str] = []

    @property
    def attributes_wanted(self) -> tuple[str, ...]:
        """The attributes that mappings name."""
        return tuple(name for kind, name in self.actito.reverse_mappings if kind == "attribute")

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Give an event for all changes of one person at one timestamp."""
        del context
        reverse_mappings, self._account = self.actito.reverse_mappings, self.actito.account
        for group in self._groups():
            choices: dict[tuple[str, ...], bool] = {}
            for change in group:
                way = reverse_mappings.get((change.kind, change.subscription))
                if way is None:
                    self.unmapped[change.subscription] += 1
                elif change.person is None:
                    self.without_key += 1
                else:
                    # Exports tell timestamps to the second: at equal times an opt-out counts.
                    choices[way.path] = choices.get(way.path, True) and way.choice(
                        change.subscribed
                    )
            if choices:
                yield self._event(group[0], choices)

    def _groups(self) -> Iterator[list[SubscriptionChange]]:
        """Give the changes of a person at one timestamp together."""
        for batch in self.batches():
            open_groups: OrderedDict[tuple[Any, ...], list[SubscriptionChange]] = OrderedDict()
            for change in batch:
                key = (change.profile_id, change.person, change.changed_at, change.changed_after)
                open_groups.setdefault(key, []).append(change)
                if len(open_groups) > _MOST_OPEN:
                    yield open_groups.popitem(last=False)[1]
            yield from open_groups.values()

    def _event(
        self, change: SubscriptionChange, choices: dict[tuple[str, ...], bool]
    ) -> dict[str, Any]:
        said, consents = _say(tuple(choices.items()))
        window = "after" if change.changed_after else "at"
        timestamp = format_timestamp(change.changed_after or change.changed_at)
        name = "\n".join([*self._account, change.person or "", window, timestamp, said])
        event: dict[str, Any] = {
            "id": str(uuid.uuid5(_NAMESPACE, name)),
            "created_at": format_timestamp(change.changed_at),
            "user": {"organization_user_id": change.person},
            "consents": consents,
            "delegate": {"id": "actito", "name": "Actito"},
        }
        if change.changed_after:
            event["changed_after"] = format_timestamp(change.changed_after)
        return event


@lru_cache(maxsize=1024)
def _say(choices: tuple[tuple[tuple[str, ...], bool], ...]) -> tuple[str, dict[str, Any]]:
    """Give choices as a text that is the same in whatever order they came, and as consents."""
    said = sorted(f"{'/'.join(path)}={choice}" for path, choice in choices)
    return "\n".join(said), to_consents(sorted(choices))
