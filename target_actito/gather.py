"""Gathering: what typed records say becomes bits, and goes to the person it is about.

For each id that occurs the bits of its choices are worked out once, by the `Resolver`. Where it
can't say what a choice means without the rest of the record (two paths of one name, a spelling that
wasn't announced yet, a preference that wasn't seen yet), and where a value has no form in Actito,
the bit `careful` is set: the record is then decoded as a whole.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from actito_didomi import codes
from actito_didomi.consent.coalesce import EVENT, OURS, STATUS, Extra, late_origin
from actito_didomi.consent.identity import SUSPECTS, is_placeholder
from actito_didomi.consent.mapping import flatten, is_answer
from actito_didomi.consent.records import (
    CONFIRMED,
    DEFAULT_REGULATION,
    Shape,
    parse_timestamp,
    time_of_event,
    user_text,
)
from actito_didomi.errors import BadInputError
from target_actito.decode import ABSENT
from target_actito.translate import Untranslatable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from actito_didomi.codes import Code
    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.coalesce import Collector, Layer, Origin
    from actito_didomi.consent.records import ConsentRecord
    from actito_didomi.consent.scope import Scope
    from actito_didomi.plugin.summary import Summary
    from target_actito.decode import Decoder, Needs
    from target_actito.translate import Translator

Route = dict[Any, int]
"""Bits for an opt-in (True), an opt-out (False) and null (None)."""
_NOWHERE: Route = {True: 0, False: 0, None: 0}
"""Route of a choice that no mapping names."""
_Part = tuple["Code | None", str, datetime, int, "bytes | Extra | None", "Origin"]
"""What a record says at one timestamp: why it is skipped, person, timestamp, mask, more, origin."""
_NO_ORIGIN: Origin = ""
_AT_VERSION = slice(14, 15)
"""Where the version of a UUID stands."""
_OUR_VERSION = "8"
_MOST_KEPT = 10_000
"""Ids, paths and answers whose meaning is kept."""
_MOST_NODES = 4096
"""Nodes whose meaning is kept: channels, and purposes."""
_INHERITED = frozenset({"id", "organization_user_id"})
"""What an event of a batch-export line takes over from the line's user, metadata apart."""
_OBJECT = ord("{")
_NULL = b"null"
_NO_METADATA = frozenset({b"", _NULL, b"{}"})
_SHORTEST = 5
"""Bytes of metadata that may hold something."""
NEVER = datetime.max.replace(tzinfo=timezone.utc)
"""Later than any record."""
_metadata = msgspec.json.Decoder(dict[str, Any])


class CarefulError(Exception):
    """A record must be decoded as a whole."""


class _Known(dict[Any, Any]):
    """Meanings, each worked out when its key occurs first.

    Args:
        find: Finds a meaning.
    """

    def __init__(self, find: Callable[[Any], Any]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, key: Any) -> Any:
        if len(self) >= _MOST_KEPT:
            self.clear()
        found = self[key] = self._find(key)
        return found


class _Nodes(dict[bytes, int]):
    """What nodes of consents say, by their JSON.

    Args:
        read: Reads a node, and keeps what it says here if that holds for the same JSON again.
    """

    def __init__(self, read: Callable[[bytes], int]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, node: bytes) -> int:
        return self._read(node)


class Routes:
    """What choices mean by where they stand.

    Args:
        translator: Knows mappings and table.

    Attributes:
        version: Changes when what was found doesn't hold any more.
        careful: The bit of a record that must be decoded as a whole.
        channels: By id of a channel the route of its choice.
        purposes: By id of a purpose the routes of `enabled` and `enabled_li`, and what is below:
            routes of channels, of preferences (each with routes of channels), and meanings of
            answers; None where no mapping names any of it.
        paths: Routes by path.
        roots: By name of what stands at the root of a record, meanings of texts.
        metadata: By key of metadata, meanings of texts; None where no mapping names any of it.
    """

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._resolver = translator.resolver
        self._masks = translator.masks
        self.careful = translator.masks.limit
        self._careful_route: Route = dict.fromkeys((True, False, None), self.careful)
        self.channels = _Known(lambda key: self.route(("consents", "channels", key, "enabled")))
        self.purposes = _Known(self._purpose)
        self.paths = _Known(self.route)
        self.roots = _Known(lambda name: self._texts((name,)))
        self.metadata = _Known(self._below_metadata)
        self._parts: set[str] = set()
        self.version = self._resolver.version

    def use(self, needs: Needs) -> None:
        """Find what stands in records of other types from now on."""
        self._parts = needs.purposes
        self.version = -1
        self.update()

    def update(self) -> None:
        """Forget what doesn't hold any more, since the resolver has learned something."""
        if self.version != self._resolver.version:
            self.version = self._resolver.version
            self.channels.clear()
            self.purposes.clear()
            self.paths.clear()
            self.roots.clear()
            self.metadata.clear()

    def route(self, path: Path) -> Route:
        """Find the route of the choice at a path."""
        reading = self._resolver.read_path(path)
        self.update()
        if reading is None:
            return self._careful_route
        if not reading.mappings:
            return _NOWHERE
        opt_in = opt_out = 0
        for number in reading.mappings:
            if reading.announced and self._translator.takes_choices(number):
                opt_in |= self._masks.choice(number, choice=True)
                opt_out |= self._masks.choice(number, choice=False)
            else:
                opt_in |= self.careful
                opt_out |= self.careful
        return {True: opt_in, False: opt_out, None: 0}

    def _purpose(self, key: str) -> tuple[Any, ...] | None:
        path: Path = ("consents", "purposes", key)
        parts = self._parts
        channels = preferences = answers = None
        if parts & {"channels", "raw_channels"}:
            channels = self._below((*path, "channels"), self._choices)
        if parts & {"preferences", "values"}:
            preferences = self._below((*path, "preferences"), self._preferences)
        if "values" in parts and (
            preferences is not None or self._resolver.may_name_below((*path, "values"))
        ):  # preferences are another spelling
            answers = self._answers((*path, "values"))
        if "preferences" not in parts:
            preferences = None
        enabled = self.route((*path, "enabled"))
        legitimate: Route | None = self.route((*path, "enabled_li"))
        if legitimate is _NOWHERE or "enabled_li" not in parts:
            legitimate = None
        below = channels, preferences, answers
        if below == (None, None, None):
            is_named = enabled is not _NOWHERE or legitimate is not None
            return (enabled, legitimate, None) if is_named else None
        return enabled, legitimate, below

    def _below(self, path: Path, make: Callable[[Path], _Known]) -> _Known | None:
        return make(path) if self._resolver.may_name_below(path) else None

    def _choices(self, path: Path) -> _Known:
        return _Known(lambda key: self.route((*path, key, "enabled")))

    def _preferences(self, path: Path) -> _Known:
        return _Known(
            lambda key: (
                self.route((*path, key, "enabled")),
                self._below((*path, key, "channels"), self._choices)
                if "preference_channels" in self._parts
                else None,
            )
        )

    def _below_metadata(self, key: str) -> _Known | None:
        path = ("metadata", key)
        is_named = self.paths[path] is not _NOWHERE or self._resolver.may_name_below(path)
        return self._texts(path) if is_named else None

    def _texts(self, path: Path) -> _Known:
        """Return what texts at a path say."""
        return _Known(lambda text: self.leaf(path, text))

    def _answers(self, path: Path) -> _Known:
        return _Known(
            lambda key: _Known(lambda answer: self._answer((*path, key, "value"), answer))
        )

    def _answer(self, path: Path, answer: str) -> tuple[int, tuple[tuple[int, Any], ...]]:
        """Find what an answer to a preference says: bits, and values that are no choices."""
        found = self._resolver.read_answer(path, answer)
        self.update()
        if found is None or not found[1]:
            return self.careful, ()
        return self.say([(number, where, value) for number, where, value in found[0]])

    def say(
        self, places: Sequence[tuple[int, Path, Any]]
    ) -> tuple[int, tuple[tuple[int, Any], ...]]:
        """Find what values say, each to a mapping: bits, and values that are no choices."""
        mask = 0
        values: list[tuple[int, Any]] = []
        for number, path, value in places:
            said = self._translator.translate_choice(number, path, value)
            if isinstance(said, Untranslatable):
                return self.careful, ()
            mask |= said.mask
            values += said.values
        return mask, tuple(values)

    def leaf(self, path: Path, value: Any) -> tuple[int, tuple[tuple[int, Any], ...]]:
        """Find what a value of any type at any path says."""
        if is_answer(path, value):
            return self._answer(path, value)
        route = self.paths[path]
        if route is _NOWHERE:
            return 0, ()
        if value is None or value is True or value is False:
            return route[value], ()
        reading = self._resolver.read_path(path)
        if reading is None or not reading.announced:
            return self.careful, ()
        return self.say([(number, path, value) for number in reading.mappings])


class Gatherer:
    """Brings typed records to a collector.

    Args:
        translator: Knows mappings and table.
        collector: Takes what records say.
        summary: Counts what is skipped.
        scope: Says which records count.
        is_ours: Says of the id of an event, a UUID of version 8, whether we posted the event.

    Attributes:
        unconfirmed: When the newest record of a person was made that isn't confirmed.
    """

    def __init__(
        self,
        translator: Translator,
        collector: Collector,
        summary: Summary,
        scope: Scope,
        is_ours: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._is_ours = is_ours
        self._collector = collector
        self._summary = summary
        self._scope = scope
        self._routes = Routes(translator)
        self._careful = self._routes.careful
        self._channels = self._routes.channels
        self._purposes = self._routes.purposes
        self._values: tuple[tuple[int, Any], ...] = ()
        self.latest = NEVER
        self.unconfirmed: dict[str, datetime] = {}
        """Records that are dated later are decoded as a whole: they had arrived before."""
        self._channels_nodes = _Nodes(self._read_channels_node)
        self._purpose_nodes = _Nodes(self._read_purpose_node)

    def update(self, decoder: Decoder) -> None:
        """Read records as they are decoded from now on."""
        needs = decoder.needs
        self._routes.use(needs)
        self._forget_nodes()
        self._decoder = decoder
        self._read_consents = self._read_json if decoder.keeps_nodes else self._read_typed
        self._roots = sorted(needs.roots)
        self._reads_metadata = needs.metadata
        self._loose = needs.loose_fields
        self._decode_choices, self._decode_purpose = decoder.choices.decode, decoder.purpose.decode
        self._has_more = bool(needs.roots or needs.metadata)

    def refresh(self) -> None:
        """Use what was learned from a record that was decoded as a whole."""
        before = self._routes.version
        self._routes.update()
        if self._routes.version != before:
            self._forget_nodes()

    def _forget_nodes(self) -> None:
        self._channels_nodes.clear()
        self._purpose_nodes.clear()

    def take(self, records: Sequence[Any], at: int, end: int, number: int) -> int:
        """Gather records up to the first that must be decoded as a whole.

        Args:
            records: Typed ones, or None for one that isn't.
            at: Where to begin.
            end: Where to end at the latest.
            number: Number of the first record.

        Returns:
            How many were taken.
        """
        start = at
        while at < end:
            self._values = ()  # of a record that could not be read by type
            at = self._take_events(records, at, end, number - start)
            if at == end:
                break
            if records[at] is None or not self._take_any(records[at], number - start + at):
                break
            at += 1
        return at - start

    def _take_events(self, records: Sequence[Any], at: int, end: int, number: int) -> int:
        """Gather events as most are: the same as `_take_any`, without its detours.

        Args:
            records: The records.
            at: Where to begin.
            end: Where to end at the latest.
            number: Number of the first record of all.

        Returns:
            Where it ended: before a record that isn't such an event.
        """
        said: list[tuple[str, Layer]] = []
        add, read = said.append, self._read_consents
        careful, regulation, has_more = self._careful, self._scope.regulation, self._has_more
        latest = self.latest
        has_origins, origin = self._collector.for_ledger, _NO_ORIGIN
        for record in records[at:end]:
            if (
                record is None
                or record.regulation != regulation
                or record.status != CONFIRMED
                or record.delegate is not None
                or record.events is not UNSET
            ):
                break
            user, consents = record.user, record.consents
            timestamp = record.created_at if record.updated_at is None else _latest(record)
            if not user or not consents or type(timestamp) is not datetime:
                break
            person = user.organization_user_id
            # Copied, since a part of the block would keep the whole block.
            more: Any = bytes(user.metadata)
            if (
                type(person) is not str
                or not person
                or (person[0] in SUSPECTS and is_placeholder(person))
            ):
                break
            if (len(more) < _SHORTEST or more[0] != _OBJECT) and more not in _NO_METADATA:
                break
            mask = read(consents) | (self._read_more(record, user, more) if has_more else 0)
            if mask >= careful:
                break
            if self._values or len(more) < _SHORTEST:
                more = self._take_values(more)
            if has_origins:
                if timestamp > latest:
                    break
                origin = self._origin_of_event(record.id, user.id)
            add((person, (timestamp, mask, more, origin)))
        self._collector.put(number + at, said)
        return at + len(said)

    def _take_values(self, metadata: bytes) -> bytes | Extra | None:
        """Return what a record says in addition to choices, and forget its values."""
        more = metadata if metadata not in _NO_METADATA else None
        if not self._values:
            return more
        extra = Extra(more, self._values)
        self._values = ()
        return extra

    def _take_any(self, record: Any, number: int) -> bool:
        """Gather a record of any shape; return whether that was possible."""
        self._values = ()
        try:
            parts = self._read(record)
        except (CarefulError, BadInputError):
            return False
        if any(part[2] > self.latest for part in parts):
            return False
        for reason, person, timestamp, mask, more, origin in parts:
            if reason is None:
                self._collector.put(number, [(person, (timestamp, mask, more, origin))])
                continue
            self._summary.skip(reason)
            if reason is codes.NOT_CONFIRMED:
                self.note_unconfirmed(person, timestamp)
            if reason is codes.DELEGATE:
                # Not to be written, but older choices must not be written over it either.
                self._collector.hold(person, timestamp, mask, number, origin)
        return True

    def note_unconfirmed(self, person: str, timestamp: datetime) -> None:
        """Note that a record of a person was skipped since it isn't confirmed; the newest one."""
        known = self.unconfirmed.get(person)
        if known is None or known < timestamp:
            self.unconfirmed[person] = timestamp

    # Origins

    def as_counted(self, consent: ConsentRecord) -> ConsentRecord:
        """Return a record as it counts: an event of ours from its creation, as in `_read_event`.

        Didomi orders events by their creation. It writes the arrival of one that we post as its
        update, and a person may have chosen something between the two.
        """
        created = consent.tree.get("created_at")
        if consent.shape is not Shape.EVENT or created is None:
            return consent
        if not _is_own(self._origin(consent.event_id, consent.user_id, is_status=False)):
            return consent
        return replace(consent, timestamp=parse_timestamp(created, "created_at"))

    def origin_of(self, consent: ConsentRecord, arrival: datetime | None) -> Origin:
        """Return the origin of a record that was decoded as a whole; see `Collector.put`.

        Args:
            consent: The record.
            arrival: When it had arrived at the latest; None for now.
        """
        is_status = consent.shape is Shape.USER
        origin = self._origin(consent.event_id, consent.user_id, is_status=is_status)
        is_late = arrival is not None and consent.timestamp > arrival
        return late_origin(origin, arrival) if arrival is not None and is_late else origin

    def _origin_of_event(self, event_id: Any, user_id: Any) -> Origin:
        """Return the origin of an event; most are of a Didomi user, and not ours."""
        if type(user_id) is str and type(event_id) is str and event_id[_AT_VERSION] != _OUR_VERSION:
            return user_id
        return self._origin(event_id, user_id, is_status=False)

    def _origin(self, event_id: Any, user_id: Any, *, is_status: bool) -> Origin:
        kind = EVENT
        if is_status:
            kind = STATUS
        elif (
            event_id.__class__ is str
            and event_id[_AT_VERSION] == _OUR_VERSION
            and self._is_ours(event_id)
        ):
            kind = OURS
        user = user_text(user_id)
        return user if kind == EVENT else (user, kind)

    # Choices

    def _read_json(self, consents: Any) -> int:
        """Return what consents say whose nodes are JSON; see `_read_typed`."""
        mask = 0
        channels = consents.channels
        if channels is not None and channels is not ABSENT:
            mask = self._channels_nodes[bytes(channels)]
        if consents.purposes:
            nodes = self._purpose_nodes
            for node in consents.purposes:
                mask |= nodes[bytes(node)]
        return mask | self._read_loose(consents) if self._loose else mask

    def _read_channels_node(self, node: bytes) -> int:
        return self._read_node(
            node, self._channels_nodes, self._decode_choices, self._read_channels
        )

    def _read_purpose_node(self, node: bytes) -> int:
        return self._read_node(
            node,
            self._purpose_nodes,
            self._decode_purpose,
            lambda purpose: self._read_purposes([purpose]),
        )

    def _read_node(
        self,
        node: bytes,
        nodes: _Nodes,
        decode: Callable[[bytes], Any],
        read: Callable[[Any], int],
    ) -> int:
        """Return what a node says, and keep that if it is choices whose meaning is certain."""
        values, version = len(self._values), self._routes.version
        try:
            mask = read(decode(node))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._careful
        if self._routes.version != version:
            self._forget_nodes()
        elif mask < self._careful and len(self._values) == values:
            if len(nodes) < _MOST_NODES:
                nodes[node] = mask
            else:
                self._decoder.keeps_nodes = False
        return mask

    def _read_typed(self, consents: Any) -> int:
        """Return what consents say; values that are no choices go to `_values`."""
        mask = self._read_channels(consents.channels) if consents.channels else 0
        if consents.purposes:
            mask |= self._read_purposes(consents.purposes)
        return mask | self._read_loose(consents) if self._loose else mask

    def _read_channels(self, channels: Any) -> int:
        """Return what choices of channels say."""
        mask = 0
        routes = self._channels
        for choice in channels or ():
            mask |= routes[choice.id][choice.enabled]
        return mask

    def _read_purposes(self, found: Any) -> int:
        """Return what purposes say."""
        mask = 0
        purposes = self._purposes
        for purpose in found:
            meaning = purposes[purpose.id]
            if meaning is not None:
                route, route_li, below = meaning
                mask |= route[purpose.enabled]
                if route_li is not None:
                    mask |= route_li[purpose.enabled_li]
                if below is not None:
                    mask |= self._read_below(purpose, below)
        return mask

    def _read_choices(self, choices: Any, routes: _Known) -> int:
        """Return what choices of channels below a purpose or preference say."""
        if choices.__class__ is msgspec.Raw:
            try:
                choices = self._decode_choices(choices) if bytes(choices) else None
            except msgspec.MsgspecError:
                return self._careful
        mask = 0
        for choice in choices or ():
            mask |= routes[choice.id][choice.enabled]
        return mask

    def _read_below(self, purpose: Any, below: tuple[Any, Any, Any]) -> int:
        """Return what the channels, preferences and answers of a purpose say."""
        mask = 0
        channels, preferences, answers = below
        if channels is not None:
            mask = self._read_choices(purpose.channels, channels)
        if preferences is not None and purpose.preferences:
            for preference in purpose.preferences:
                route, routes = preferences[preference.id]
                mask |= route[preference.enabled]
                if routes is not None and preference.channels:
                    mask |= self._read_choices(preference.channels, routes)
        if answers is not None and purpose.values:
            mask |= self._read_answers(purpose, answers)
        return mask

    def _read_answers(self, purpose: Any, answers: _Known) -> int:
        """Return what answers to preferences of the current format say."""
        mask = 0
        for key, answer in purpose.values.items():
            if answer.value is None:
                path = ("consents", "purposes", purpose.id, "values", key, "value")
                mask |= self._add(self._routes.leaf(path, None))
            else:
                mask |= self._add(answers[key][answer.value])
        return mask

    def _add(self, meaning: tuple[int, tuple[tuple[int, Any], ...]]) -> int:
        """Keep the values of a meaning, and return its bits."""
        bits, values = meaning
        if values:
            if self._values and any(number in dict(self._values) for number, _ in values):
                return self._careful  # twice in one record
            self._values += values
        return bits

    def _read_loose(self, consents: Any) -> int:
        """Return what nodes say that are decoded as they are."""
        mask = 0
        for place, name in self._loose.items():
            node = getattr(consents, place)
            if node is not UNSET:
                mask |= self._read_tree(("consents", name), node)
        return mask

    def _read_tree(self, path: Path, tree: Any) -> int:
        """Return what a part of a record says that is decoded as it is."""
        mask = 0
        for below, value in flatten(tree):
            mask |= self._add(self._routes.leaf((*path, *below), value))
        return mask

    def _read_more(self, event: Any, user: Any, metadata: bytes) -> int:
        """Return what an event says next to its consents."""
        mask = 0
        if self._reads_metadata and len(metadata) >= _SHORTEST:
            mask = self._read_metadata(metadata)
        for name in self._roots:
            value = getattr(event if name == "created_at" else user, name)
            if value is not UNSET:
                mask |= self._read_root(name, value)
        return mask

    def _read_root(self, name: str, value: Any) -> int:
        """Return what a value says that stands at the root of a record."""
        if value.__class__ is str:
            return self._add(self._routes.roots[name][value])
        return self._read_tree((name,), value)

    # Records of any shape

    def _read(self, record: Any) -> list[_Part]:
        """Read a record: a consent event, a consent user, or a batch-export line.

        Raises:
            CarefulError: The record must be decoded as a whole.
            BadInputError: A timestamp can't be read; likewise.
        """
        owner, events = record.user, record.events
        if events is UNSET:
            if owner is UNSET:
                if record.consents is UNSET:
                    raise CarefulError
                return [self._read_user(record, record.consents)]
            return [self._read_event(record, owner, self._roots_of(owner))]
        if owner is UNSET or record.consents is not UNSET:
            raise CarefulError
        parts = []
        inherited = {n: v for n, v in self._roots_of(owner).items() if n in _INHERITED}
        user_id = owner.id
        for event in events:
            own = event.user
            if own is None or own is UNSET:
                parts.append(self._read_event(event, owner, inherited, user_id=user_id))
                continue
            roots = inherited | {n: v for n, v in self._roots_of(own).items() if v is not None}
            person = own.organization_user_id
            if person is None or person is UNSET:
                person = owner.organization_user_id
            own_id = user_id if own.id is None or own.id is UNSET else own.id
            parts.append(self._read_event(event, own, roots, person=person, user_id=own_id))
        if bytes(owner.metadata) not in _NO_METADATA:
            parts.append(self._read_user(owner, None))
        return parts

    def _roots_of(self, owner: Any) -> dict[str, Any]:
        """Return what stands at the root of a record in the user form, but for `created_at`."""
        return {
            name: value
            for name in self._roots
            if name != "created_at" and (value := getattr(owner, name)) is not UNSET
        }

    def _read_event(
        self,
        event: Any,
        owner: Any,
        roots: dict[str, Any],
        *,
        person: Any = UNSET,
        user_id: Any = UNSET,
    ) -> _Part:
        if event.consents is UNSET:
            raise CarefulError
        delegate = None if event.delegate is None else event.delegate.id
        if "created_at" in self._roots:
            roots = {**roots, "created_at": event.created_at}
        timestamp = _as_timestamp(event.created_at)
        origin = self._origin(event.id, owner.id if user_id is UNSET else user_id, is_status=False)
        if event.updated_at is not None and not _is_own(origin):
            timestamp = time_of_event(timestamp, _as_timestamp(event.updated_at))
        return self._read_part(
            person=owner.organization_user_id if person is UNSET else person,
            origin=origin,
            timestamp=timestamp,
            about=(event.status, event.regulation or DEFAULT_REGULATION, delegate),
            consents=event.consents,
            metadata=bytes(owner.metadata),
            roots=roots,
        )

    def _read_user(self, user: Any, consents: Any) -> _Part:
        roots = self._roots_of(user)
        if "created_at" in self._roots:
            roots["created_at"] = user.created_at
        return self._read_part(
            person=user.organization_user_id,
            origin=self._origin(None, user.id, is_status=True),
            timestamp=user.created_at if user.updated_at is None else user.updated_at,
            about=(None, user.regulation, None),
            consents=consents,
            metadata=bytes(user.metadata),
            roots=roots,
        )

    def _read_part(
        self,
        *,
        person: Any,
        origin: Origin,
        timestamp: Any,
        about: tuple[str | None, str | None, str | None],
        consents: Any,
        metadata: bytes,
        roots: Mapping[str, Any],
    ) -> _Part:
        """Read what a record says at one timestamp.

        Args:
            person: Text or a whole number; None or empty for a guest.
            origin: Where it comes from; see `Collector.put`.
            timestamp: Of whatever type it was decoded as.
            about: Status, regulation and delegate.
            consents: The consents; None for none.
            metadata: Metadata as JSON, null or nothing.
            roots: What stands at the root of the record in the user form.
        """
        timestamp, person = _as_timestamp(timestamp), _as_person(person)
        has_metadata = metadata not in _NO_METADATA
        if has_metadata and metadata[0] != _OBJECT:
            raise CarefulError
        reason = self._scope.reason_to_skip(person, *about)
        if reason is not None and reason is not codes.DELEGATE:
            return reason, person, timestamp, 0, None, origin
        mask = 0 if consents is None else self._read_consents(consents)
        if has_metadata and self._reads_metadata:
            mask |= self._read_metadata(metadata)
        for name, value in roots.items():
            mask |= self._read_root(name, value)
        if mask >= self._careful:
            raise CarefulError
        return reason, person, timestamp, mask, self._take_values(metadata), origin

    def _read_metadata(self, metadata: bytes) -> int:
        """Return what metadata says that mappings name."""
        try:
            found = _metadata.decode(metadata)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._careful
        mask = 0
        routes = self._routes.metadata
        for key, value in found.items():
            texts = routes[key]
            if texts is None:
                continue
            if value.__class__ is str:
                mask |= self._add(texts[value])
            else:
                mask |= self._read_tree(("metadata", key), value)
        return mask


def _is_own(origin: Origin) -> bool:
    """Return whether an event is one of ours."""
    return origin.__class__ is tuple and origin[1] == OURS


def _latest(event: Any) -> datetime | None:
    """Return the later of an event's timestamps; None where that isn't certain to count.

    It doesn't for an event of ours, nor where one wasn't decoded as a timestamp.
    """
    created, updated, event_id = event.created_at, event.updated_at, event.id
    if type(created) is not datetime or type(updated) is not datetime:
        return None
    if type(event_id) is str and event_id[_AT_VERSION] == _OUR_VERSION:
        return None
    return time_of_event(created, updated)


def _as_timestamp(value: Any) -> datetime:
    """Return a timestamp of whatever type it was decoded as.

    Raises:
        CarefulError: There is none.
        BadInputError: It is none.
    """
    if value.__class__ is datetime:
        found: datetime = value
        return found
    if value is None:
        raise CarefulError
    return parse_timestamp(value, "created_at")


def _as_person(value: Any) -> str:
    """Return a person's key, empty for a guest.

    Raises:
        CarefulError: It is neither text nor a whole number.
    """
    if value is None or value is UNSET:
        return ""
    if value.__class__ is not str and value.__class__ is not int:
        raise CarefulError
    return str(value)
