"""Ids of the events that we post to Didomi: derived, and recognised again without any memory. Pure.

An id is a UUID of version 8, whose form RFC 9562 leaves to its maker. Its first half derives from
what the event says and replaces, so that the same posting has the same id after a crash, and
another one where the same act must be posted again. Its second half derives from the first and from
the pair of organisation and table, so that an event of ours is known wherever it comes from.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTH = 36
_VERSION_AT = 14
_VERSION = "8"
_VARIANTS = "89abAB"
_VARIANT_AT = 19


def make_event_id(scope: str, acts: Iterable[str], user_id: str, replaces: str) -> str:
    """Return the id of an event.

    Args:
        scope: The pair of organisation and table (`Ledger.scope_text`).
        acts: Ids of the acts that it states, in any order.
        user_id: Id of the Didomi user; empty for one that is to be made.
        replaces: Id of the event that set the user's present choices; empty if there is none.
    """
    text = repr([scope, user_id, replaces, *sorted(acts)])
    first = bytearray(hashlib.blake2b(text.encode(), digest_size=8).digest())
    first[6] = 0x80 | first[6] & 0x0F
    second = _second_half(scope, bytes(first))
    return str(uuid.UUID(bytes=bytes(first) + second))


def is_ours(scope: str, event_id: object) -> bool:
    """Return whether an event of this id was posted by us for this pair.

    Args:
        scope: The pair of organisation and table (`Ledger.scope_text`).
        event_id: The id, of any type.
    """
    if not isinstance(event_id, str) or len(event_id) != _LENGTH:
        return False
    if event_id[_VERSION_AT] != _VERSION or event_id[_VARIANT_AT] not in _VARIANTS:
        return False
    try:
        found = uuid.UUID(event_id).bytes
    except ValueError:
        return False
    return found[8:] == _second_half(scope, found[:8])


def _second_half(scope: str, first: bytes) -> bytes:
    """Return the eight bytes that show that an id is ours, with the variant's two bits."""
    half = bytearray(hashlib.blake2b(first, key=_key(scope), digest_size=8).digest())
    half[0] = 0x80 | half[0] & 0x3F
    return bytes(half)


def _key(scope: str) -> bytes:
    return hashlib.blake2b(f"actito-didomi\n{scope}".encode("utf-8", "surrogatepass")).digest()
