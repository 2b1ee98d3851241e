"""Decoding: lines of JSON become typed envelopes, which hold only what mappings can name.

What no mapping names is skipped by the decoder at a fraction of the cost: unmapped purposes,
preferences, vendors, TCF strings. Metadata stays JSON. A line that isn't made as expected gives
None: it is decoded carefully, as a whole, and read by the same `Resolver`.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import fsspec
import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from actito_didomi import codes
from actito_didomi.consent.records import read_arrival
from actito_didomi.errors import BadInputError
from actito_didomi.files import BROKEN, ExpandsTooMuchError, open_gzip, show_url
from actito_didomi.lines import count_lines, whole_lines
from actito_didomi.tolerant import ODD_CHARACTER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.mapping import Resolver
    from target_actito.config import Settings

ROOTS = ("id", "organization_user_id", "country", "last_seen_country", "updated_at", "created_at")
"""What stands at the root of a record in the user form, next to `metadata` and `consents`."""
PURPOSE_PARTS = (
    "enabled",
    "enabled_li",
    "channels",
    "preferences",
    "preference_channels",
    "values",
)
ABSENT = msgspec.Raw(b"")
"""Stands for metadata that a record doesn't hold."""
CHUNK = 1 << 16
"""Bytes decoded at once: what fits into a processor's cache; more take half as long again."""
_COMPRESSIONS = ("gzip", "none", None)
_OTHER_MESSAGES = ("SCHEMA", "STATE", "BATCH", "ACTIVATE_VERSION")

_Timestamp = Annotated[datetime, Meta(tz=True)] | None
_Choice = bool | None
_NEVER = Literal["\ue000 never"]
"""Type of what is never decoded by type."""
_NODES = ("channels", "purposes", "vendors", "tcfcs")
_PURPOSE = (
    "enabled_li", "metadata", "propagation", "channels", "preferences", "values",
)  # fmt: skip
_PREFERENCE = ("metadata", "channels", "values")
"""Documented keys of consents, purposes, and preferences."""
_MOST_OTHERS = 30

_TYPED_PATHS = re.compile(
    "channels/[^/]*/enabled"
    "|purposes/[^/]*/(enabled|enabled_li|values/[^/]*/[^/]*|channels/[^/]*/enabled"
    "|preferences/[^/]*/enabled|preferences/[^/]*/channels/[^/]*/enabled)"
)


@dataclass
class Needs:
    """What of records can be named by mappings.

    Attributes:
        roots: Which of `ROOTS`.
        metadata: Whether metadata is.
        channels: Whether choices of channels are.
        purposes: Which parts of purposes are: `enabled`, `enabled_li`, `channels`, `raw_channels`
            (to be decoded apart), `preferences`, `preference_channels`, `values`.
        loose: Other nodes of consents, which are decoded as they are.
        all: Whether a mapping names something that isn't decoded by type at all.
        unseen: Parts of names that were not seen at any path yet: if a key is among them, something
            may be named below it.
    """

    roots: set[str] = field(default_factory=set)
    metadata: bool = False
    channels: bool = False
    purposes: set[str] = field(default_factory=set)
    loose: set[str] = field(default_factory=set)
    all: bool = False
    unseen: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, resolver: Resolver) -> Needs:
        """Return what the mappings of a resolver can name."""
        needs = cls()
        for number, mapping in enumerate(resolver.mappings):
            places = resolver.places(number)
            if mapping.path is not None:
                needs._add_name("_".join(mapping.path))
                needs._add_path(mapping.path)
            else:
                needs._add_name(mapping.value)
                if not places:
                    needs.unseen |= parts_of(mapping.value)
            for path in places:
                needs._add_path(path)
        if needs.loose & {"channels", "purposes"}:
            needs.channels = needs.channels and "channels" not in needs.loose
            needs.purposes = set() if "purposes" in needs.loose else needs.purposes
        return needs

    @property
    def loose_fields(self) -> dict[str, str]:
        """Names of fields for the keys of `loose`."""
        return {f"loose_{n}": key for n, key in enumerate(sorted(self.loose))}

    def _add_path(self, path: Path) -> None:
        if path[0] == "consents":
            if len(path) == 1:
                self.all = True
            elif not _TYPED_PATHS.fullmatch("/".join(path[1:])):
                self.loose.add(path[1])

    def _add_name(self, name: str) -> None:
        self.roots |= {root for root in ROOTS if name == root or name.startswith(f"{root}_")}
        self.metadata = self.metadata or name == "metadata" or name.startswith("metadata_")
        if name == "consents":
            self.all = True
        if not name.startswith("consents_"):
            return
        rest = name.removeprefix("consents_")
        if re.match("channels?_", rest):
            self.channels = True
            if not rest.endswith("_enabled"):
                self.loose.add("channels")
            return
        found = re.match("(purposes|preferences?)_", rest)
        if not found:
            self.loose.add(rest.split("_")[0])
            return
        parts = self.purposes
        parts |= {part for part in ("enabled", "enabled_li") if rest.endswith(f"_{part}")}
        if "_values_" in rest:
            parts.add("values")
        if not parts & {"enabled", "enabled_li", "values"}:
            self.loose.add("purposes")
        if "preference" in rest:
            parts.add("preferences")
        if re.search("_channels?_", rest):
            # Channels of a purpose whose id holds "preference" are possible, and unlikely.
            parts |= (
                {"preference_channels", "raw_channels"} if "preference" in rest else {"channels"}
            )


def parts_of(name: str) -> set[str]:
    """Return all parts of a name that may be keys: what stands between any two `_`."""
    tokens = name.split("_")
    return {
        "_".join(tokens[start:end])
        for start in range(1, len(tokens))
        for end in range(start + 1, len(tokens) + 1)
    }


def keys_of(consents: Any) -> Iterator[str]:
    """Yield the keys of consents, and of what is documented below them."""
    if not isinstance(consents, dict):
        return
    yield from consents
    nodes = [*_objects(consents.get("channels")), *_objects(consents.get("purposes"))]
    for node in nodes:
        yield from node
        for name in ("channels", "preferences"):
            nodes += _objects(node.get(name))
        values = node.get("values")
        for answer in values.values() if isinstance(values, dict) else ():
            if isinstance(answer, dict):
                yield from answer


def _objects(nodes: Any) -> list[dict[str, Any]]:
    return [n for n in nodes if isinstance(n, dict)] if isinstance(nodes, list) else []


def _struct(
    name: str, fields: list[tuple[str, Any, Any]], *, required: Iterable[str] = (), **more: Any
) -> type[Struct]:
    """Make a type whose fields have defaults, unless they are required."""
    return msgspec.defstruct(
        name,
        [(n, kind) if n in required else (n, kind, default) for n, kind, default in fields],
        kw_only=True,
        gc=False,
        **more,
    )


@dataclass
class _Closed:
    """Makes types of which all keys are known: a line with another key is decoded as a whole.

    Ids may hold `_`, so a name can be read in many ways: `consents_purposes_a_b_enabled` is also
    key `b` or `b_enabled` of a purpose `a`. What the documents don't have is never skipped.

    Attributes:
        needs: What is decoded.
        others: Undocumented keys that no mapping can name anything below.
    """

    needs: Needs
    others: set[str]

    def struct(
        self,
        name: str,
        fields: list[tuple[str, Any, Any]],
        documented: Iterable[str],
        *,
        rename: Mapping[str, str] | None = None,
        required: Iterable[str] = (),
        namespace: dict[str, Any] | None = None,
    ) -> type[Struct]:
        """Make a type that holds some keys, and knows all documented ones."""
        renamed = dict(rename or {})
        known = {renamed.get(place, place) for place, *_ in fields}
        left = sorted((set(documented) - self.needs.unseen | self.others) - known)
        skipped = {f"skipped_{n}": key for n, key in enumerate(left)}
        return _struct(
            name,
            [*fields, *((place, msgspec.Raw, ABSENT) for place in skipped)],
            required=required,
            rename=renamed | skipped,
            forbid_unknown_fields=True,
            namespace=namespace or {},
        )

    def choices(self) -> Any:
        """Make the type of channels."""
        fields = [("id", str, ""), ("enabled", _Choice, None)]
        choice = self.struct("Choice", fields, ("metadata",), required=["id"])
        return list[choice] | None  # type: ignore[valid-type]

    def consents(self, choices: Any, purpose: Any) -> Any:
        """Make the type of consents; what isn't named is None, and JSON that is absent is empty."""
        needs = self.needs
        fields: list[tuple[str, Any, Any]] = []
        absent: dict[str, Any] = {"channels": None, "purposes": None}
        if needs.channels:
            fields.append(("channels", choices, None if choices is not msgspec.Raw else ABSENT))
            del absent["channels"]
        if needs.purposes:
            fields.append(("purposes", list[purpose] | None, absent.pop("purposes")))
        fields += [(name, Any, UNSET) for name in needs.loose_fields]
        return self.struct("Consents", fields, _NODES, rename=needs.loose_fields, namespace=absent)

    def purpose(self, choices: Any) -> type[Struct]:
        """Make the type of purposes."""
        parts = self.needs.purposes
        below: list[tuple[str, Any, Any]] = [("id", str, ""), ("enabled", _Choice, None)]
        purpose = list(below)
        if "preference_channels" in parts:
            below.append(("channels", choices, None))
        preference = self.struct("Preference", below, _PREFERENCE, required=["id"])
        answer = self.struct("Answer", [("value", str | None, None)], ("from_propagation",))
        kinds: dict[str, Any] = {
            "enabled_li": _Choice,
            "channels": choices,
            "preferences": list[preference] | None,  # type: ignore[valid-type]
            "values": dict[str, answer] | None,  # type: ignore[valid-type]
        }
        purpose += [(part, kind, None) for part, kind in kinds.items() if part in parts]
        if "raw_channels" in parts and "channels" not in parts:
            purpose.append(("channels", msgspec.Raw, ABSENT))
        return self.struct("Purpose", purpose, _PURPOSE, required=["id"])


def _record_type(
    needs: Needs, consents: Any, keys: Iterable[str], *, origins: bool
) -> type[Struct]:
    """Make the type of records, whatever their shape; these keys must be there."""
    times: Any = {n: Any if n in needs.roots else _Timestamp for n in ("created_at", "updated_at")}
    owner: list[tuple[str, Any, Any]] = [
        *((root, Any, UNSET) for root in ROOTS if root in needs.roots and root not in times),
        ("metadata", msgspec.Raw, ABSENT),
        *((name, kind, None) for name, kind in times.items()),
        ("regulation", str | None, None),
    ]
    if "organization_user_id" not in needs.roots:
        owner.insert(0, ("organization_user_id", str | int | None, None))
    ids: list[tuple[str, Any, Any]] = [("id", str | None, None)] if origins else []
    absent = {} if origins else {"id": None}
    if "id" not in needs.roots:
        owner = [*ids, *owner]
    about: list[tuple[str, Any, Any]] = [
        ("status", str | None, None),
        ("delegate", _struct("Delegate", [("id", str | None, None)]) | None, None),
        ("consents", consents, UNSET),
    ]
    user = _struct("User", owner, namespace=absent)
    event = _struct(
        "Event",
        [
            *ids,
            *((name, kind, None) for name, kind in times.items()),
            ("regulation", str | None, None),
            *about,
            ("user", user | None | UnsetType, UNSET),
        ],
        namespace=absent,
    )
    fields = [
        *owner,
        ("user", user | UnsetType, UNSET),
        *about,
        ("events", list[event] | UnsetType, UNSET),  # type: ignore[valid-type]
    ]
    known = {name for name, *_ in fields}
    others = {f"key_{n}": key for n, key in enumerate(sorted(set(keys) - known))}
    fields += [(name, msgspec.Raw, ABSENT) for name in others]
    return _struct("Record", fields, required={*others, *keys}, rename=others, namespace=absent)


class Decoder:
    """Decodes lines by type; None stands for one that can't be.

    Args:
        resolver: Knows the mappings, and what was seen of them.
        origins: Whether it is decoded where records come from: ids of events and users also where
            no mapping names them, and when they arrived.

    Attributes:
        needs: What is decoded.
        keeps_nodes: Whether the channels of consents, and each purpose, stay JSON: the same ones
            occur again and again, and what they say is remembered. To be set to false where there
            are too many different ones for that.
        choices: Decodes channels that aren't decoded with what they stand in.
        purpose: Decodes a purpose that wasn't decoded with its consents.
        arrival: When the records of the last `messages` had arrived, as far as these say it: the
            earliest `time_extracted`; None without origins, where nothing depends on it.
        named: The stream of each of the last `messages`, None for what is no record; None for all
            where records of only one stream are decoded.
    """

    def __init__(self, resolver: Resolver, *, origins: bool) -> None:
        self._resolver = resolver
        self._origins = origins
        self._streams: dict[str, tuple[str, ...]] = {}
        self._seen: tuple[Any, ...] | None = None
        self._others: set[str] = set()
        names = (m.value for m in resolver.mappings if m.path is None)
        self._parts = set().union(*map(parts_of, names))
        self.needs = Needs()
        self.arrival: datetime | None = None
        self.named: list[str | None] | None = None
        self.keeps_nodes = True
        self.choices: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        self.purpose: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        self._messages: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
        self._records: msgspec.json.Decoder[Any] = msgspec.json.Decoder()

    @property
    def streams(self) -> Iterable[str]:
        """Streams whose records are decoded by type."""
        return self._streams

    def admit(self, stream: str, keys: Iterable[str]) -> None:
        """Decode the records of a stream by type; they must hold these key properties."""
        self._streams[stream] = tuple(keys)
        self._seen = None

    def forget(self, stream: str) -> None:
        """Decode no records of a stream."""
        if self._streams.pop(stream, None) is not None:
            self._seen = None

    def learn(self, consents: Any) -> None:
        """Learn the keys of a record that was decoded as a whole: those that can be skipped."""
        self._others |= {
            key
            for key in keys_of(consents)
            if key not in self._parts
            and ODD_CHARACTER not in key
            and len(self._others) < _MOST_OTHERS
        }

    def messages(self, block: bytes) -> list[Any]:
        """Decode lines that are Singer messages: records of the streams, None for all others."""
        found = _decode(self._messages, block)
        if self._origins:
            arrivals = map(read_arrival, set(map(_arrival_of, found)))  # of most blocks just one
            self.arrival = min((at for at in arrivals if at is not None), default=None)
        self.named = list(map(_stream_of, found)) if len(self._streams) > 1 else None
        return list(map(_record_of, found))

    def records(self, block: bytes) -> list[Any]:
        """Decode lines that are bare records."""
        return [None if r is _NOTHING else r for r in _decode(self._records, block)]

    def update(self) -> bool:
        """Make new types if more is known about the mappings, or other streams are there."""
        seen = self._resolver.places_known, len(self._others), self.keeps_nodes
        if self._seen == seen:
            return False
        self._seen = seen
        self.needs = Needs.of(self._resolver)
        keys = {key for found in self._streams.values() for key in found}
        closed = _Closed(self.needs, self._others)
        choices = closed.choices()
        self.choices = msgspec.json.Decoder(choices)
        purpose: Any = closed.purpose(choices)
        self.purpose = msgspec.json.Decoder(purpose)
        consents: Any = _NEVER
        if not self.needs.all:
            if self.keeps_nodes:
                choices, purpose = msgspec.Raw, msgspec.Raw
            consents = closed.consents(choices, purpose) | None
        record = _record_type(self.needs, consents | UnsetType, keys, origins=self._origins)
        stream = Literal[tuple(self._streams)] if self._streams else _NEVER
        parts: list[Any] = [("stream", stream), ("record", record)]
        if self._origins:
            parts.append(("time_extracted", str | None, None))
        union: Any = msgspec.defstruct(
            "RecordMessage", parts, tag_field="type", tag="RECORD", gc=False
        )
        for tag in _OTHER_MESSAGES:
            union |= msgspec.defstruct(
                tag.title(), [], tag_field="type", tag=tag, namespace=_NO_RECORD
            )
        self._messages = msgspec.json.Decoder(union)
        self._records = msgspec.json.Decoder(record)
        return True


class Lines:
    """The lines of a block, cut apart only when one is asked for."""

    def __init__(self, block: bytes) -> None:
        self._block = block
        self._lines: list[bytes] | None = None

    def __getitem__(self, at: int) -> bytes:
        if self._lines is None:
            self._lines = self._block.split(b"\n")
        return self._lines[at]

    def __len__(self) -> int:
        return count_lines(self._block)

    def after(self, at: int) -> bytes:
        """Return the lines from a number on, as a block."""
        return self._block.split(b"\n", at)[at]


def _decode(decoder: msgspec.json.Decoder[Any], block: bytes) -> list[Any]:
    try:
        found = decoder.decode_lines(block)
        if len(found) == count_lines(block):
            return found
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    return [_decode_one(decoder, line) for line in block.split(b"\n")]


def _decode_one(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NOTHING


class _Nothing:
    """What a line gives that can't be decoded by type."""

    record = None
    stream = None
    time_extracted = None


_NOTHING = _Nothing()
_NO_RECORD: dict[str, Any] = {"record": None, "stream": None, "time_extracted": None}
_record_of = operator.attrgetter("record")
_stream_of = operator.attrgetter("stream")
_arrival_of = operator.attrgetter("time_extracted")


def read_batch(
    url: str, encoding: Mapping[str, Any], settings: Settings
) -> Iterator[tuple[int, bytes]]:
    """Read one file of a BATCH message as a stream, however large it is.

    Args:
        url: Any URL that fsspec knows, or a path.
        encoding: `format` must be `jsonl`, `compression` `gzip` or `none`.
        settings: Arguments of the file system, and bounds.

    Returns:
        Whole lines, many at a time, with the number of the first.

    Raises:
        BadInputError: The file isn't there, is damaged, or is encoded otherwise.
    """
    compression = encoding.get("compression")
    if encoding.get("format") != "jsonl" or compression not in _COMPRESSIONS:
        raise BadInputError(
            codes.UNREADABLE_BATCH,
            f"BATCH files of format {encoding.get('format')!r} with compression {compression!r} "
            "can't be read. Set the tap's batch_config to format jsonl, compression gzip or none.",
        )
    number, shown = 1, show_url(url)
    try:
        with fsspec.open(url, "rb", **settings.storage_options) as raw:
            is_gzip = compression == "gzip"
            source = open_gzip(raw, settings.max_compression_ratio) if is_gzip else raw
            chunks = iter(lambda: source.read(CHUNK), b"")
            for block in whole_lines(chunks, settings.target.max_line_bytes):
                if block is not None:
                    yield number, block
                    number += count_lines(block)
            if number == 1 and raw.tell() == 0:  # words: allow
                raise BadInputError(
                    codes.UNREADABLE_BATCH,
                    f"{shown}: the file is empty (0 bytes). Have the file made again.",
                )
    except (FileNotFoundError, PermissionError, ImportError, ValueError) as error:
        raise BadInputError(
            codes.UNREADABLE_BATCH,
            f"The BATCH file {shown} can't be opened ({type(error).__name__}). It must be "
            "reachable from this machine; credentials go into storage_options.",
        ) from None
    except ExpandsTooMuchError as error:
        raise BadInputError(codes.UNREADABLE_BATCH, f"{shown}: {error}.") from None
    except BROKEN:
        raise BadInputError(
            codes.UNREADABLE_BATCH,
            f"{shown}: gzip stream truncated or corrupt after line {number - 1}. Have the file "
            "made again; nothing after it is acknowledged.",
        ) from None
