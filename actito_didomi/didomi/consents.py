"""Requests to the Consents API about one person, and posting of events."""

from __future__ import annotations

import logging
import unicodedata
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.didomi.lists import pages, read_page, with_id
from actito_didomi.errors import ApiError, RequestRejectedError, UnexpectedResponseError
from actito_didomi.privacy import shape_of

if TYPE_CHECKING:
    from actito_didomi.http import ApiSession

logger = logging.getLogger(__name__)

MAX_EVENTS = 100
"""Events per request (documented)."""
_USERS = "/consents/users"
_EVENTS = "/consents/events"
_EVENT = "/consents/events/{event}"
_TREES = "/config-trees"
_FORBIDDEN, _NOT_FOUND, _BAD_REQUEST = 403, 404, 400
_NO_TREE = frozenset({_BAD_REQUEST, _FORBIDDEN, _NOT_FOUND})


class ConsentApi:
    """The consents of one organisation under one regulation.

    Args:
        session: Session with Didomi.
        organization_id: Id of the organisation.
        regulation: Id of the regulation.
    """

    def __init__(self, session: ApiSession, organization_id: str, regulation: str) -> None:
        self._session = session
        self._own = {"organization_id": organization_id}
        self._regulation = regulation
        self._was_read = False
        self._was_posted = False

    def users(self, person: str) -> list[dict[str, Any]]:
        """Return the Didomi users of a person; an empty list if the person is unknown.

        Raises:
            RequestRejectedError: Didomi refuses to show them; see `check_access`.
            UnexpectedResponseError: The response shows something else, or somebody else.
            ApiError: They can't be read.
        """
        return self._list(_USERS, person)

    def events(self, person: str) -> list[dict[str, Any]]:
        """Return the confirmed events of a person, of all Didomi users of theirs.

        Raises:
            RequestRejectedError: Didomi refuses to show them; see `check_access`.
            UnexpectedResponseError: The response shows something else, or somebody else.
            ApiError: They can't be read.
        """
        return self._list(_EVENTS, person)

    def check_access(self, error: RequestRejectedError) -> None:
        """Check that a refused reading concerns one person: another one's was read.

        Raises:
            ApiError: Nothing could be read yet.
        """
        if not self._was_read:
            raise _access_refused(error)

    def post(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Store events, without triggering the organisation's integrations.

        Args:
            events: 1 to 100 events, each with its `id`. Whether Didomi stores some of an array
                that it refuses isn't documented.

        Returns:
            The events that the response holds, as Didomi stored them.

        Raises:
            RequestRejectedError: Didomi refuses one of them.
            ApiError: Didomi refuses all events, or can't be used.
        """
        body = [{**self._own, **event} for event in events]
        try:
            response = self._session.request(
                "POST",
                _EVENTS,
                params={**self._own, "$disable_integrations": "true"},
                json=body if len(body) > 1 else body[0],
            )
        except RequestRejectedError as error:
            may_concern_all = error.status in {_FORBIDDEN, _NOT_FOUND}
            if error.is_record_level and (self._was_posted or not may_concern_all):
                raise
            raise _access_refused(error) from None
        self._was_posted = True
        stored = _stored(response.body)
        if not stored:
            logger.warning(
                "%s: Didomi's response to POST %s must hold the events with `id` and `created_at`, "
                "and is %s. Each is read back.",
                codes.UNEXPECTED_RESPONSE,
                _EVENTS,
                shape_of(response.body),
            )
        return stored

    def event(self, event_id: str, person: str) -> dict[str, Any] | None:
        """Return an event of a person by its id; None if there is none.

        Raises:
            ApiError: It can't be read.
        """
        try:
            body = self._session.request(
                "GET",
                _EVENT,
                {"event": event_id},
                params={**self._own, "organization_user_id": person},
            ).body
        except RequestRejectedError as error:
            if error.status in {_NOT_FOUND, _BAD_REQUEST}:
                return None
            raise _access_refused(error) from None
        found = _stored(body)
        return next((event for event in found if event.get("id") == event_id), None)

    def config_tree(self) -> Any:
        """Return the organisation's configuration tree, or a list with it; None if it isn't shown.

        Raises:
            ApiError: It can't be read.
        """
        try:
            body = self._session.request("GET", _TREES, params=self._own).body
        except RequestRejectedError as error:
            if error.status not in _NO_TREE:
                raise
            logger.warning(
                "Didomi refuses the configuration tree (status %s). So ids of purposes and "
                "preferences can't be checked, and every preference is assumed to allow several "
                "values. Grant the API key the right to read it.",
                error.status,
            )
            return None
        if isinstance(body, dict) and "selected_purposes" in body:
            return body
        try:
            return read_page(body, _TREES).items
        except UnexpectedResponseError as error:
            logger.warning("%s Until then ids aren't checked.", error)
            return None

    def _list(self, path: str, person: str) -> list[dict[str, Any]]:
        params = {
            **self._own,
            "organization_user_id": person,
            "regulation": self._regulation,
        }
        try:
            pages_found = pages(self._session, path, params)
            found = [item for page in pages_found for item in page.items]
        except RequestRejectedError as error:
            if error.status == _NOT_FOUND and (path == _EVENTS or self._was_read):
                return []
            raise
        self._was_read = True
        items = with_id(found, path)
        if len(items) < len(found):
            odd = [item for item in found if item not in items]
            logger.warning(
                "%s: Didomi's list %s holds something without a text `id`: %s. It is passed over.",
                codes.UNEXPECTED_RESPONSE,
                path,
                shape_of(odd),
            )
        for item in items:
            _check_person(item if path == _USERS else item.get("user"), path, person)
        return items


def _check_person(user: Any, path: str, person: str) -> None:
    """Check that a user is one of the person who was asked about, in any spelling.

    Raises:
        UnexpectedResponseError: It belongs to another person.
    """
    named = user.get("organization_user_id") if isinstance(user, dict) else None
    if isinstance(named, str) and _folded(named) != _folded(person):
        raise UnexpectedResponseError(
            f"Didomi's list {path} holds another person than the one asked about, so it doesn't "
            "filter by organization_user_id. Nothing of it is used. Check api_url."
        )


def _folded(person: str) -> str:
    return unicodedata.normalize("NFC", person).strip().casefold()


def _stored(body: Any) -> list[dict[str, Any]]:
    """Return the events of a response: an event, or a list of them; the latter's form is inferred.

    An element without an id, such as the refusal of one of an array, is left out.
    """
    if isinstance(body, dict):
        body = body["data"] if isinstance(body.get("data"), list) else [body]
    items = body if isinstance(body, list) else []
    return [
        item
        for item in items
        if isinstance(item, dict) and isinstance(item.get("id"), str) and "created_at" in item
    ]


def _access_refused(error: RequestRejectedError) -> ApiError:
    return ApiError(
        codes.ACCESS_REFUSED,
        f"{error.message} Check organization_id and the rights of the API key. The run "
        "stops; nothing is lost.",
    )
