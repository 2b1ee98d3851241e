"""Names of the places that hold a choice: fields of a profile in Actito, and users in Didomi."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from actito_didomi.consent.mapping import Kind

_ACTITO = "a:"
_DIDOMI = "d:"
_INVERTED = "!"


def field_place(kind: Kind, name: str, *, inverted: bool) -> str:
    """Return the place of a field in Actito.

    Inverted and not inverted are two places: what was seen under one meaning of the field shows
    nothing under the other.

    Args:
        kind: Kind of the field.
        name: Its name.
        inverted: Whether true in Actito is an opt-out.
    """
    return f"{_ACTITO}{kind}:{name}{_INVERTED if inverted else ''}"


def describe_field(place: str) -> str:
    """Return the kind and name of the field of a place in Actito, for people to read."""
    kind, _, name = place.removeprefix(_ACTITO).partition(":")
    return f"{kind} {name.removesuffix(_INVERTED)}"


def user_place(user_key: int) -> str:
    """Return the place of a Didomi user.

    Args:
        user_key: What `user_key` returns; 0 where an event names no user.
    """
    return f"{_DIDOMI}{user_key:08x}"


def user_key(user_id: str) -> int:
    """Return a short key of a Didomi user's id; it need only differ among the users of a person."""
    return zlib.crc32(user_id.encode("utf-8", "surrogatepass"))


def is_user(place: str) -> bool:
    """Return whether a place is a Didomi user."""
    return place.startswith(_DIDOMI)


def users_of(places: Iterable[str]) -> list[str]:
    """Return the Didomi users among places, in order."""
    return sorted(place for place in places if is_user(place))
