"""The streams: profiles, changes of subscriptions, and the same as Didomi consent events."""

from __future__ import annotations

import uuid
from collections import Counter, OrderedDict
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from singer_sdk import typing as th
from singer_sdk.helpers.types import Context  # noqa: TC002 - the SDK reads annotations

from actito_didomi import codes
from actito_didomi.actito import ValueType
from actito_didomi.actito.listing import list_profiles
from actito_didomi.consent.choices import to_consents
from actito_didomi.consent.conflicts import resolve_tie
from actito_didomi.consent.records import format_timestamp
from actito_didomi.errors import SettingsError
from actito_didomi.plugin.source import PROGRESS_INTERVAL
from actito_didomi.plugin.tap import CheckpointStream
from tap_actito.config import NEEDS_LEDGER, missing_for_sync
from tap_actito.found import FoundChanges
from tap_actito.sources import LearnedExportSource, LookSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from zoneinfo import ZoneInfo

    from actito_didomi.actito import Attribute, TableStructure
    from actito_didomi.actito.changes import SubscriptionChange
    from actito_didomi.actito.listing import Profile
    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.reverse_mapping import ReverseMapping
    from actito_didomi.plugin.shutdown import Shutdown
    from actito_didomi.plugin.source import BrokenLines
    from actito_didomi.runtime import Runtime
    from tap_actito.config import Settings
    from tap_actito.sources import ChangeSource, ExportSource, TableLook

_NAMESPACE = uuid.UUID("6f0c2b1e-7d0a-5d53-9a55-0f5c2f0f6b1d")
"""Of the ids of consent events; it never changes, or events would be posted twice."""
_OVERLAP = timedelta(minutes=5)
_MAX_OPEN_GROUPS = 10_000
"""Groups of changes of one person and timestamp that are kept open at a time."""

_TYPES: dict[ValueType, dict[str, Any]] = {
    ValueType.STRING: {"type": ["string", "null"]},
    ValueType.INTEGER: {"type": ["integer", "null"]},
    ValueType.DECIMAL: {"type": ["number", "null"]},
    ValueType.BOOLEAN: {"type": ["boolean", "null"]},
    ValueType.DATE: {"type": ["string", "null"], "format": "date"},
    ValueType.TIMESTAMP: {"type": ["string", "null"], "format": "date-time"},
}


class ActitoTap(Protocol):
    """What the streams need of the tap."""

    settings: Settings
    shutdown: Shutdown

    @property
    def runtime(self) -> Runtime:
        """Clock and streams."""

    @property
    def broken_lines(self) -> BrokenLines:
        """What to do about broken lines of exports."""

    @property
    def session(self) -> ActitoSession:
        """The session with Actito."""

    @property
    def structure(self) -> TableStructure:
        """Structure of the profile table."""

    @property
    def zone(self) -> ZoneInfo:
        """Time zone of timestamps in Actito."""

    @property
    def account(self) -> Sequence[str]:
        """What distinguishes this table from all others."""

    @property
    def ledger(self) -> Ledger | None:
        """The ledger; None without one."""

    @property
    def exports(self) -> ExportSource:
        """The exports of profile changes."""

    @property
    def table_look(self) -> TableLook:
        """The look at the table of this run."""

    @property
    def reverse_mappings(self) -> Mapping[tuple[str, str], ReverseMapping]:
        """The reverse mappings, checked against the table."""


class ActitoStream(CheckpointStream):
    """A stream of tap-actito."""

    @property
    def actito(self) -> ActitoTap:
        """The tap."""
        return cast("ActitoTap", self._tap)


class Profiles(ActitoStream):
    """The profile table, one record per profile: attributes, subscriptions, segmentations.

    Actito's list has no order and no documented filter, so every run reads all profiles; those
    whose `updateMoment` is older than the bookmark are left out.
    """

    name = "profiles"
    uses_ledger = False
    primary_keys = ("profileId",)
    replication_key = "updateMoment"

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The table as a JSON schema; an open one while the settings name no table."""
        try:
            return schema_of(self.actito.structure)
        except SettingsError as error:
            if not missing_for_sync(self.actito.settings):
                raise
            self.logger.warning("%s Until then the attributes are not listed.", error)
            properties = dict.fromkeys(("updateMoment",), _TYPES[ValueType.TIMESTAMP])
            properties["profileId"] = {"type": ["integer", "null"]}
            return {"type": "object", "properties": properties, "additionalProperties": True}

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Yield the profiles that were updated since the bookmark."""
        del context
        actito, runtime = self.actito, self.actito.runtime
        bookmark = self.resume_state.get("replication_key_value")
        since = _parse(bookmark) if bookmark else None
        started = runtime.now()
        newest = since
        structure, read, unknown, last = actito.structure, 0, 0, runtime.monotonic()
        for page in list_profiles(actito.session, structure, actito.settings.page_size, runtime):
            for profile in page.profiles:
                actito.shutdown.check()
                record = self._record(structure, profile)
                timestamp = _timestamp(record.get("updateMoment"), actito.zone)
                if timestamp is not None:
                    if since and timestamp < since:
                        continue
                    newest = max(newest or timestamp, timestamp)
                yield record
            read += len(page.profiles)
            unknown += page.unknown
            if runtime.monotonic() - last > PROGRESS_INTERVAL:
                last = runtime.monotonic()
                self.logger.info("Profiles: %d read.", read)
        state: dict[str, Any] = {}
        if newest and not unknown:  # else the next run reads those that lacked subscriptions again
            # The next run reads again what changed during this scan, after its place was read.
            reached = min(newest, started - _OVERLAP)
            if since is None or reached > since:
                state["replication_key"] = self.replication_key
                state["replication_key_value"] = format_timestamp(reached)
        self.checkpoint(state)

    def _record(self, structure: TableStructure, profile: Profile) -> dict[str, Any]:
        record: dict[str, Any] = {}
        for name, attribute in structure.attributes.items():
            if (value := profile.attributes.get(name)) is not None:
                record[name] = self._value(attribute, value)
        record["profileId"] = profile.id
        for name in structure.subscriptions:
            record[f"subscription_{name}"] = (profile.subscriptions or {}).get(name)
        for name in structure.segmentations:
            record[f"segmentation_{name}"] = profile.segmentations.get(name)
        return record

    def _value(self, attribute: Attribute, value: Any) -> Any:
        if attribute.type is ValueType.TIMESTAMP and isinstance(value, str):
            timestamp = _timestamp(value, self.actito.zone)
            return None if timestamp is None else format_timestamp(timestamp)
        return value


def _parse(timestamp: str) -> datetime:
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00"))


def _timestamp(value: Any, zone: ZoneInfo) -> datetime | None:
    """Return a timestamp, aware of its zone; None for any other value."""
    try:
        timestamp = _parse(value)
    except (AttributeError, ValueError):
        return None
    return timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=zone)


def schema_of(structure: TableStructure) -> dict[str, Any]:
    """Return the JSON schema of a table's profiles."""
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
    """Changes of subscriptions, from either source; subclasses say what a record is."""

    emits_acts: ClassVar[bool] = False
    """Whether only what people changed is emitted of exports, without our own writes."""

    @property
    def compared_attributes(self) -> Sequence[str]:
        """Boolean attributes whose changes count as well."""
        return ()

    def batches(self) -> Iterator[Iterable[SubscriptionChange]]:
        """Yield the changes in batches, and write STATE after each."""
        yield from self.follow(self.source(self.resume_state).read(self.resume_state))

    def source(self, state: Mapping[str, Any]) -> ChangeSource:
        """Return where the changes come from.

        Args:
            state: State of the stream, as the last run left it.
        """
        actito, ledger = self.actito, self.actito.ledger
        if actito.settings.change_source == "api":
            return self._looks(state)
        if self.compared_attributes:
            self.logger.info(
                "Exports of profile changes hold no changes of attributes (%s); use "
                "change_source api for these.",
                ", ".join(self.compared_attributes),
            )
        exports = actito.exports
        if ledger is None or not self.emits_acts:
            return exports
        found = self._found(ledger, state)
        learner = exports.learner
        if learner is None:
            return exports
        return LearnedExportSource(exports, found, actito.table_look, learner)

    def _looks(self, state: Mapping[str, Any]) -> LookSource:
        actito, ledger = self.actito, self.actito.ledger
        if ledger is None:
            raise SettingsError(codes.INVALID_SETTING, NEEDS_LEDGER)
        return LookSource(
            self._found(ledger, state), actito.table_look, actito.settings.trust_update_moment
        )

    def _found(self, ledger: Ledger, state: Mapping[str, Any]) -> FoundChanges:
        found = FoundChanges(ledger, state)
        found.check(self.actito.settings.ledger.late_days)
        return found


class SubscriptionChanges(ChangeStream):
    """One record for each subscription that changed."""

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
        """Yield the changes."""
        del context
        for batch in self.batches():
            for change in batch:
                if change.kind != "subscription":
                    continue
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
    """The same changes as Didomi consent events, through the reverse mappings.

    Attributes:
        unmapped: By subscription, how many changes no mapping names.
        without_key: How many changes are of profiles without the key attribute.
    """

    name = "consent_events"
    emits_acts = True
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
        self._account: Sequence[str] = ()

    @property
    def compared_attributes(self) -> Sequence[str]:
        """The attributes that mappings name."""
        return tuple(name for kind, name in self.actito.reverse_mappings if kind == "attribute")

    def get_records(self, context: Context | None) -> Iterable[dict[str, Any]]:
        """Yield one event for all changes of one person at one timestamp."""
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
                    # Exports hold timestamps in whole seconds: at equal times the opt-out counts.
                    choice = way.choice(change.subscribed)
                    choices[way.path] = resolve_tie(choices.get(way.path), choice)
            if choices:
                yield self._event(group[0], choices)

    def _groups(self) -> Iterator[list[SubscriptionChange]]:
        """Yield the changes of a person at one timestamp together."""
        for batch in self.batches():
            open_groups: OrderedDict[tuple[Any, ...], list[SubscriptionChange]] = OrderedDict()
            for change in batch:
                key = (change.profile_id, change.person, change.changed_at, change.changed_after)
                open_groups.setdefault(key, []).append(change)
                if len(open_groups) > _MAX_OPEN_GROUPS:
                    yield open_groups.popitem(last=False)[1]
            yield from open_groups.values()

    def _event(
        self, change: SubscriptionChange, choices: dict[tuple[str, ...], bool]
    ) -> dict[str, Any]:
        said, consents = _say(tuple(choices.items()))
        after = format_timestamp(change.changed_after) if change.changed_after else ""
        name = "\n".join(
            [*self._account, change.person or "", after, format_timestamp(change.changed_at), said]
        )
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
    """Return choices as a text that doesn't depend on their order, and as consents."""
    said = sorted(f"{'/'.join(path)}={choice}" for path, choice in choices)
    return "\n".join(said), to_consents(sorted(choices))
