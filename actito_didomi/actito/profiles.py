"""Read and write single profiles."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito import _wire
from actito_didomi.actito.table import TECHNICAL_ATTRIBUTES
from actito_didomi.actito.values import ValueType
from actito_didomi.errors import RequestRejectedError, SettingsError

if TYPE_CHECKING:
    from actito_didomi.actito.table import TableStructure
    from actito_didomi.http import ApiSession

_NOT_FOUND = 404


class Written(enum.Enum):
    """What became of a write."""

    UPDATED = "updated"
    CREATED = "created"
    UNMATCHED = "unmatched"
    UNCHANGED = "unchanged"
    """A look just before showed that nothing differs."""
    POSTPONED = "postponed"
    """No look was possible, and without one only opt-outs are written."""


@dataclass(frozen=True)
class Shown:
    """What a response shows of one profile.

    Attributes:
        profile_id: `profileId` as text; None where the response doesn't name it.
        attributes: Values as Actito returns them, by name.
        subscriptions: By name; None where the response holds none although the table has some, so
            that nothing is known of them. One whose value can't be read is absent.
    """

    profile_id: str | None
    attributes: dict[str, Any]
    subscriptions: dict[str, bool] | None


class ProfileTable:
    """Write profiles of one table, found by one unique attribute.

    Args:
        session: Session with Actito.
        structure: The table.
        key: The unique attribute that people are matched by.
    """

    def __init__(self, session: ApiSession, structure: TableStructure, key: str) -> None:
        self.structure = structure
        self._session = session
        self._key = key
        self._knows_patch = True
        self._lists_off = False

    def write(
        self,
        person: str,
        attributes: dict[str, Any],
        subscriptions: dict[str, bool],
        *,
        create: bool,
        once: bool = False,
    ) -> Written:
        """Change the given parts of one person's profile, and nothing else.

        An existing profile is changed by `PATCH`. If the server has no `PATCH`, the profile is
        read and put back as a whole. The create-or-update request is used only for a person who
        turned out to be missing, and only with `create`.

        Args:
            person: Value of the key attribute.
            attributes: Values in Actito's form, by name.
            subscriptions: True to subscribe, False to unsubscribe, by name.
            create: Whether a missing profile may be created.
            once: Whether a write that may have been carried out is not repeated.

        Raises:
            RequestRejectedError: Actito refuses the change for good.
            SettingsError: The API behaves differently than expected; nothing more is written.
            ApiError: As `ApiSession.request`.
        """
        if self._knows_patch:
            try:
                self._session.request(
                    "PATCH",
                    _wire.PROFILE,
                    self._key_of(person),
                    json=_wire.patch_body(attributes, subscriptions),
                    once=once,
                )
            except RequestRejectedError as error:
                if error.status in _wire.METHOD_UNKNOWN:
                    self._knows_patch = False
                elif error.status != _NOT_FOUND:
                    raise
                else:
                    return self._missing(
                        person, attributes, subscriptions, create=create, once=once
                    )
            else:
                return Written.UPDATED
        return self._get_and_put(person, attributes, subscriptions, create=create, once=once)

    def read(self, person: str, *, patience: float | None = None) -> dict[str, Any] | None:
        """Read one person's profile as Actito returns it; return None if there is none.

        Args:
            person: Value of the key attribute.
            patience: Seconds to wait for a response, retries included; None as for any request.

        Raises:
            ApiError: As `ApiSession.request`.
        """
        try:
            body = self._session.request(
                "GET", _wire.PROFILE, self._key_of(person), patience=patience
            ).body
        except RequestRejectedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        return body if isinstance(body, dict) else {}

    def look(self, person: str, *, patience: float | None = None) -> Shown | None:
        """Look at one person's profile; return None if there is none.

        Args:
            person: Value of the key attribute.
            patience: Seconds to wait for a response, retries included; None as for any request.

        Raises:
            ApiError: As `ApiSession.request`.
        """
        body = self.read(person, patience=patience)
        if body is None:
            return None
        attributes = _wire.attributes_of(body)
        profile_id = attributes.get("profileId", body.get("profileId"))
        self._lists_off = self._lists_off or _wire.lists_off(body)
        return Shown(
            None if profile_id is None else str(profile_id),
            attributes,
            _wire.states_of(body, self.structure.subscriptions, lists_off=self._lists_off),
        )

    def _key_of(self, person: str) -> dict[str, str]:
        """Return the values of the route to a profile."""
        return {**self.structure.key, "attribute": self._key, "value": person}

    def _missing(
        self,
        person: str,
        attributes: dict[str, Any],
        subscriptions: dict[str, bool],
        *,
        create: bool,
        once: bool,
    ) -> Written:
        if not create:
            return Written.UNMATCHED
        key = self.structure.attributes[self._key]
        value = int(person) if key.type is ValueType.INTEGER and person.isdecimal() else person
        self._put(_wire.put_body(self._key, value, attributes, subscriptions), once=once)
        return Written.CREATED

    def _get_and_put(
        self,
        person: str,
        attributes: dict[str, Any],
        subscriptions: dict[str, bool],
        *,
        create: bool,
        once: bool,
    ) -> Written:
        """Change a profile on a server without PATCH.

        PUT may replace all attributes (undocumented), so all are sent back. Subscriptions that
        aren't named stay (inferred, strongly), so no other is sent: one that changed in between
        would be undone. The key is the `profileId`, which can't create a profile: if the profile
        is deleted in between, nothing is created.
        """
        profile = self.read(person)
        if profile is None:
            return self._missing(person, attributes, subscriptions, create=create, once=once)
        found = _wire.attributes_of(profile)
        profile_id = found.get("profileId", profile.get("profileId"))
        if profile_id is None:
            raise SettingsError(
                codes.UNEXPECTED_RESPONSE,
                "Actito returned a profile without profileId, so it can't be changed without the "
                "risk of creating another one. This API isn't the expected one.",
            )
        kept = {
            name: value
            for name, value in found.items()
            if name not in TECHNICAL_ATTRIBUTES and value is not None
        }
        try:
            status = self._put(
                _wire.put_body("profileId", int(profile_id), {**kept, **attributes}, subscriptions),
                once=once,
            )
        except RequestRejectedError as error:
            if error.status != _NOT_FOUND:
                raise
            return self._missing(person, attributes, subscriptions, create=create, once=once)
        if status == _wire.CREATED:
            raise SettingsError(
                codes.PROFILE_CREATED,
                "Actito created a profile where an existing one was to be changed. The run stops "
                "to prevent more; look for a new profile without a key attribute.",
            )
        return Written.UPDATED

    def _put(self, body: dict[str, Any], *, once: bool) -> int:
        return self._session.request(
            "PUT", _wire.PROFILES, self.structure.key, json=body, once=once
        ).status
