"""How a setting is declared: once, as a typed field that carries its own documentation.

A field `name: Annotated[type, setting(...)] = default` of a `msgspec.Struct` is all there is about
a setting: JSON schema, documentation, Meltano definition, redaction and the typed value follow.
"""

from __future__ import annotations

from typing import Any

import msgspec

NO_BLANKS = r"^(?![\s\S]*\s)"
"""Pattern of a text without blanks and line breaks, such as a key."""


def setting(
    title: str,
    description: str,
    *,
    secret: bool = False,
    advanced: bool = False,
    **limits: Any,
) -> msgspec.Meta:
    """Declare what a setting means; it is the metadata of an `Annotated` field.

    Args:
        title: Label, in a few words, with the unit if there is one.
        description: What it does, in Markdown, with the unit of numbers.
        secret: Whether it is never shown; of an object, all texts inside are secret.
        advanced: Whether most users never need it; documents list it after the common ones.
        limits: What `msgspec.Meta` checks: `ge`, `gt`, `le`, `lt`, `min_length`, `pattern`.
    """
    marks = {"secret": True, "writeOnly": True} if secret else {}
    marks |= {"advanced": True} if advanced else {}
    return msgspec.Meta(
        title=title, description=description, extra_json_schema=marks or None, **limits
    )
