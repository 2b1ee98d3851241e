"""Types of what is read the short way, made from what mappings can name, and lines read by them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

if TYPE_CHECKING:
    from actito_didomi.consent.choices import Path

_ENDS = ("_enabled", "_enabled_li", "_value")
_OPEN = ("_metadata", "_vendors", "_tcfcs", "_propagation")
"""Parts of names that lead out of what is decoded."""
ABSENT = msgspec.Raw(b"")
"""Stands for raw parts that a record doesn't hold."""

_Timestamp = Annotated[datetime, Meta(tz=True)] | UnsetType
_Text = str | None | UnsetType
_Choice = bool | None | UnsetType


def is_covered(name: str, path: Path | None) -> bool:
    """Tell whether all that a mapping can name is decoded."""
    if path is not None:
        name = "_".join(path)
        return path[0] == "consents" and not any(part in name for part in _OPEN)
    if name.startswith("metadata_"):
        return True
    if not name.startswith("consents_") or any(part in name for part in _OPEN):
        return False
    return name.endswith(_ENDS) or "_values_" in name


def consents_type(names: list[str], *, values: bool) -> type[Struct]:
    """Make the type of consents that holds what mappings can name, and nothing else."""
    below = any(
        "_channel" in name.removeprefix("consents_channel") or "_preference" in name
        for name in names
    )
    choice = msgspec.defstruct("Choice", [("id", str), ("enabled", _Choice, UNSET)], gc=False)
    choices = list[choice] | None  # type: ignore[valid-type]
    preference = msgspec.defstruct(
        "Preference",
        [
            ("id", str),
            ("enabled", _Choice, UNSET),
            ("channels", choices, None),
        ],
        gc=False,
    )
    answer = msgspec.defstruct("Answer", [("value", _Text, UNSET)], gc=False)
    fields: list[Any] = [
        ("id", str),
        ("enabled", _Choice, UNSET),
        ("enabled_li", _Choice, UNSET),
    ]
    if below:
        fields += [("channels", choices, None), ("preferences", list[preference] | None, None)]  # type: ignore[valid-type]
    if values:
        fields += [("values", dict[str, answer] | None, None)]  # type: ignore[valid-type]
    purpose = msgspec.defstruct("Purpose", fields, gc=False, namespace={"nested": below})
    return msgspec.defstruct(
        "Consents",
        [
            ("channels", choices, None),
            ("purposes", list[purpose] | None, None),  # type: ignore[valid-type]
        ],
        gc=False,
    )


def record_type() -> type[Struct]:
    """Make the type of records: the envelope of consents, whatever kind of record it is."""
    owner: list[Any] = [
        ("organization_user_id", _Text | int, UNSET),
        ("metadata", dict[str, Any] | None, None),
        ("created_at", _Timestamp, UNSET),
        ("updated_at", _Timestamp, UNSET),
    ]
    user = msgspec.defstruct("User", owner, gc=False)
    delegate = msgspec.defstruct("Delegate", [("id", str | None, None)], gc=False)
    event: list[Any] = [
        ("status", str | None, None),
        ("regulation", str | None, None),
        ("delegate", delegate | None, None),
        ("consents", msgspec.Raw, ABSENT),
    ]
    part = msgspec.defstruct(
        "Event",
        [*event, ("user", msgspec.Raw, ABSENT), ("created_at", _Timestamp, UNSET)],
        gc=False,
    )
    return msgspec.defstruct(
        "Record",
        [
            ("id", msgspec.Raw, ABSENT),
            *event,
            *owner,
            ("user", user | UnsetType, UNSET),
            ("events", list[part] | UnsetType, UNSET),  # type: ignore[valid-type]
        ],
        gc=False,
    )


class TypedLines:
    """Decodes lines by the types that are expected; None stands for a line that isn't so.

    Args:
        record_type: Type of records.
    """

    def __init__(self, record_type: type[msgspec.Struct]) -> None:
        message_type = msgspec.defstruct(
            "Message",
            [
                ("type", str),
                ("stream", str, ""),
                ("record", record_type | UnsetType, UNSET),
            ],
            gc=False,
        )
        self._messages: msgspec.json.Decoder[Any] = msgspec.json.Decoder(message_type)
        self._records: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record_type)

    def messages(self, block: bytes) -> list[Any]:
        """Decode Singer messages; of others than RECORD only type and stream are of use."""
        return _decode(self._messages, block)

    def records(self, block: bytes) -> list[Any]:
        """Decode bare records."""
        return _decode(self._records, block)


def _decode(decoder: msgspec.json.Decoder[Any], block: bytes) -> list[Any]:
    try:
        found = decoder.decode_lines(block)
        if len(found) == block.count(b"\n") + 1:
            return found
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    return [_decode_one(decoder, line) for line in block.split(b"\n")]


def _decode_one(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
