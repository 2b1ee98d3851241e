"""Read and write single profiles."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.actito.session import unexpected
from actito_didomi.actito.table import TECHNICAL_ATTRIBUTES
from actito_didomi.actito.values import ValueType
from actito_didomi.errors import RequestRejectedError, SettingsError, UnexpectedResponseError

if TYPE_CHECKING:
    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.actito.table import TableStructure
    from actito_didomi.http import Response

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

    def __init__(self, session: ActitoSession, structure: TableStructure, key: str) -> None:
        self.structure = structure
        self._session = session
        self._facts = session.facts.profiles
        self._paths = session.facts.paths
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
            UnexpectedResponseError: The response confirms nothing; the profile may be written.
            ApiError: As `ApiSession.request`.
        """
        if self._knows_patch:
            try:
                response = self._session.request(
                    "PATCH",
                    self._paths.profile,
                    self._key_of(person),
                    json=self._facts.patch_body(attributes, subscriptions),
                    once=once,
                )
            except RequestRejectedError as error:
                if error.status in self._session.facts.statuses.method_unknown:
                    self._knows_patch = False
                elif error.status != _NOT_FOUND:
                    raise
                else:
                    return self._missing(
                        person, attributes, subscriptions, create=create, once=once
                    )
            else:
                self._check_confirmed("PATCH", response)
                return Written.UPDATED
        return self._get_and_put(person, attributes, subscriptions, create=create, once=once)

    def _read(
        self, person: str, *, patience: float | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Read one person's profile as Actito returns it, and its attributes; None if none exists.

        Raises:
            UnexpectedResponseError: The response is not a profile.
            ApiError: As `ApiSession.request`.
        """
        try:
            body = self._session.request(
                "GET", self._paths.profile, self._key_of(person), patience=patience
            ).body
        except RequestRejectedError as error:
            if error.status == _NOT_FOUND:
                return None
            raise
        attributes = self._facts.attributes_of(body)
        if attributes is None:
            expected = f"an object with `{self._facts.attributes}`"
            raise UnexpectedResponseError(unexpected("a profile", expected, body))
        return body, attributes

    def look(self, person: str, *, patience: float | None = None) -> Shown | None:
        """Look at one person's profile; return None if there is none.

        Args:
            person: Value of the key attribute.
            patience: Seconds to wait for a response, retries included; None as for any request.

        Raises:
            UnexpectedResponseError: The response is not a profile.
            ApiError: As `ApiSession.request`.
        """
        found = self._read(person, patience=patience)
        if found is None:
            return None
        body, attributes = found
        profile_id = self._facts.id_of(body, attributes)
        self._lists_off = self._lists_off or self._facts.lists_off(body)
        return Shown(
            None if profile_id is None else str(profile_id),
            attributes,
            self._facts.states_of(body, self.structure.subscriptions, lists_off=self._lists_off),
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
        self._put(self._facts.put_body(self._key, value, attributes, subscriptions), once=once)
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
        profile = self._read(person)
        if profile is None:
            return self._missing(person, attributes, subscriptions, create=create, once=once)
        body, found = profile
        profile_id = self._facts.id_of(body, found)
        if profile_id is None:
            raise SettingsError(
                codes.UNEXPECTED_RESPONSE,
                "A profile can't be changed without the risk of creating another one: "
                + unexpected("a profile", f"an object with `{self._facts.id}`", body),
            )
        kept = {
            name: value
            for name, value in found.items()
            if name not in TECHNICAL_ATTRIBUTES and value is not None
        }
        try:
            status = self._put(
                self._facts.put_body(
                    self._facts.id, int(profile_id), {**kept, **attributes}, subscriptions
                ),
                once=once,
            )
        except RequestRejectedError as error:
            if error.status != _NOT_FOUND:
                raise
            return self._missing(person, attributes, subscriptions, create=create, once=once)
        if status == self._session.facts.statuses.created:
            raise SettingsError(
                codes.PROFILE_CREATED,
                "Actito created a profile where an existing one was to be changed. The run stops "
                "to prevent more; look for a new profile without a key attribute.",
            )
        return Written.UPDATED

    def _put(self, body: dict[str, Any], *, once: bool) -> int:
        response = self._session.request(
            "PUT", self._paths.profiles, self.structure.key, json=body, once=once
        )
        self._check_confirmed("PUT", response)
        return response.status

    def _check_confirmed(self, method: str, response: Response) -> None:
        """Check that a response to a write may be Actito's.

        Raises:
            UnexpectedResponseError: It may not, such as the page of a proxy.
        """
        if not self._facts.confirms(response.body):
            names = ", ".join(f"`{name}`" for name in self._facts.written)
            raise UnexpectedResponseError(
                unexpected(
                    f"the {method} of a profile",
                    f"empty or an object with one of {names}",
                    response.body,
                ),
                status=response.status,
            )
