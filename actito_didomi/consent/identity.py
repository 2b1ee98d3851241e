"""Who is who: how keys of people are compared, and which texts are no keys. Pure."""

from __future__ import annotations

import unicodedata
from typing import Literal

Matching = Literal["exact", "folded"]

_KEYLESS = "\x1fprofileId="
"""No key of a person begins so."""
_PLACEHOLDERS = frozenset({"", "undefined", "null", "nan", "none", "[object object]"})
"""What programs write where they have no key, in lower case."""
SUSPECTS = frozenset(
    {"u", "U", "n", "N", "[", _KEYLESS[0], *filter(str.isspace, map(chr, range(0x3001)))}
)
"""First characters of all placeholders but the empty text, for a quick test before."""


def match_key(text: str, matching: Matching) -> str:
    """Return what a key is compared by.

    Args:
        text: The key as it came.
        matching: `exact`, or `folded`: blanks around it, case and the form of its accents don't
            count.
    """
    if matching == "exact":
        return text
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text.strip()).casefold())


def matching_of(setting: Matching | None, key_attribute: str) -> Matching:
    """Return how keys are compared: as the setting says, else e-mail addresses are folded.

    Args:
        setting: The setting `key_matching`; None if it is not set.
        key_attribute: Name of the key attribute.
    """
    if setting is not None:
        return setting
    return "folded" if "email" in key_attribute.lower().replace("-", "") else "exact"


def is_placeholder(text: str) -> bool:
    """Return whether a text only stands in the place of a key, or is kept for other rows."""
    return text.strip().lower() in _PLACEHOLDERS or text.startswith(_KEYLESS)


def keyless_row(profile_id: str) -> str:
    """Return what a profile without a usable key is called in the ledger, in place of a person.

    Args:
        profile_id: Its `profileId`.
    """
    return _KEYLESS + profile_id


def profile_of(key: str) -> str | None:
    """Return the `profileId` of a row of a profile without a key; None for a person."""
    return key[len(_KEYLESS) :] if key.startswith(_KEYLESS) else None


def keyless_range() -> tuple[str, str]:
    """Return texts between which the rows of all profiles without a key stand."""
    return _KEYLESS, _KEYLESS + ":"
