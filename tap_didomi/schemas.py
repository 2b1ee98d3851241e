"""Schemas of Didomi's objects: nested as they are, open where Didomi's are open.

From Didomi's OpenAPI document and its schema pages. Didomi adds fields without notice, so every
object may hold more than is named here. Any choice may be null, although the OpenAPI document says
boolean: null means that the person made none.
"""

from __future__ import annotations

from typing import Any

from singer_sdk import typing as th


def _open(*properties: th.Property[Any]) -> th.ObjectType:
    return th.ObjectType(*properties, additional_properties=True)


_FREE = _open()

_CHANNELS = th.ArrayType(
    _open(
        th.Property("id", th.StringType, required=True, description="Channel id."),
        th.Property(
            "enabled",
            th.BooleanType,
            description="The person's choice; null when none was made here.",
        ),
        th.Property("metadata", _FREE, description="Free-form metadata of the channel."),
    )
)

_PREFERENCES = th.ArrayType(
    _open(
        th.Property("id", th.StringType, required=True, description="Preference id."),
        th.Property("enabled", th.BooleanType, description="The choice; null when none was made."),
        th.Property("metadata", _FREE, description="Free-form metadata of the preference."),
        th.Property("channels", _CHANNELS, description="Choices by channel."),
    )
)

_PURPOSES = th.ArrayType(
    _open(
        th.Property("id", th.StringType, required=True, description="Purpose id."),
        th.Property("enabled", th.BooleanType, description="The choice; null when none was made."),
        th.Property(
            "enabled_li",
            th.BooleanType,
            description="Legitimate interest: false means that the person objected.",
        ),
        th.Property("metadata", _FREE, description="Free-form metadata of the purpose."),
        th.Property("propagation", th.BooleanType, description="Whether values were passed on."),
        th.Property("channels", _CHANNELS, description="Old format: choices by channel."),
        th.Property("preferences", _PREFERENCES, description="Old format: preferences."),
        th.Property(
            "values",
            _FREE,
            description="Current format: by preference id an object whose `value` holds the chosen "
            "value ids, separated by commas.",
        ),
    )
)

_VENDORS = _open(
    *(
        th.Property(name, th.ArrayType(th.StringType), description="Vendor ids.")
        for name in ("enabled", "enabled_li", "disabled", "disabled_li")
    )
)

_CONSENTS = _open(
    th.Property("channels", _CHANNELS, description="Choices by channel."),
    th.Property("purposes", _PURPOSES, description="Choices by purpose."),
    th.Property("vendors", _VENDORS, description="Choices by vendor."),
    th.Property("tcfcs", th.StringType, description="IAB TCF consent string."),
)

CONSENT_EVENTS = th.PropertiesList(
    th.Property("id", th.StringType, required=True, description="Event id, unique."),
    th.Property("organization_id", th.StringType, description="Organisation id."),
    th.Property("created_at", th.DateTimeType, description="When the choices were made."),
    th.Property("updated_at", th.DateTimeType, description="When the event last changed."),
    th.Property("regulation", th.StringType, description="Regulation; gdpr when absent."),
    th.Property(
        "status",
        th.StringType,
        description="`confirmed`, or `pending_approval`: stored, but not yet in force.",
    ),
    th.Property("domain", th.StringType, description="Domain of the preference centre."),
    th.Property("metadata", _FREE, description="Free-form metadata of the event."),
    th.Property(
        "user",
        _open(
            th.Property(
                "id",
                th.StringType,
                description="Didomi user id. It stands for a device or browser; several can stand "
                "for one person.",
            ),
            th.Property(
                "organization_user_id",
                th.StringType,
                description="The organisation's own id of the person; absent for guests.",
            ),
            th.Property("organization_user_id_type", th.StringType, description="Its type."),
            th.Property("metadata", _FREE, description="Free-form metadata of the user."),
            th.Property("country", th.StringType, description="Country, two letters."),
            th.Property("last_seen_country", th.StringType, description="Country of the event."),
        ),
        description="Whose choices they are.",
    ),
    th.Property("consents", _CONSENTS, description="What the event changed, and nothing else."),
    th.Property("proofs_id", th.ArrayType(th.StringType), description="Ids of proofs."),
    th.Property(
        "delegate",
        _open(
            th.Property("id", th.StringType, description="Id of who acted for the person."),
            th.Property("name", th.StringType, description="Name."),
            th.Property("metadata", _FREE, description="Free-form metadata."),
        ),
        description="Who acted for the person, if anyone did.",
    ),
    additional_properties=True,
).to_dict()

CONSENT_USERS = th.PropertiesList(
    th.Property(
        "id",
        th.StringType,
        required=True,
        description="Didomi user id. It stands for a device or browser.",
    ),
    th.Property("organization_id", th.StringType, description="Organisation id."),
    th.Property(
        "organization_user_id",
        th.StringType,
        description="The organisation's own id of the person; absent for guests. Several users can "
        "carry the same one; the latest `updated_at` holds the person's status.",
    ),
    th.Property("organization_user_id_type", th.StringType, description="Type of that id."),
    th.Property("version", th.NumberType, description="Version of the user, for locking."),
    th.Property("created_at", th.DateTimeType, description="When the user was created."),
    th.Property("updated_at", th.DateTimeType, description="When the user last changed."),
    th.Property("metadata", _FREE, description="Free-form metadata."),
    th.Property("country", th.StringType, description="Country, two letters."),
    th.Property("last_seen_country", th.StringType, description="Country last seen."),
    th.Property("consents", _CONSENTS, description="The whole status, under one regulation."),
    additional_properties=True,
).to_dict()

EXPORT_LINES: dict[str, Any] = {
    "type": "object",
    "properties": {
        "user": {**CONSENT_USERS, "description": "The user, with the whole status of that day."},
        "events": {
            "type": ["array", "null"],
            "items": {**CONSENT_EVENTS, "required": []},
            "description": "The events of that day, without their user.",
        },
    },
    "required": ["user"],
    "additionalProperties": True,
}
