"""Didomi's Actito connector object, in any of its forms, as flat settings of an Actito plugin."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from actito_didomi.errors import InvalidSettingsError
from actito_didomi.plugin.config import read_lenient_json

if TYPE_CHECKING:
    from collections.abc import Collection

logger = logging.getLogger(__name__)

_PARTS = (
    "type_id",
    "authentication",
    "properties",
    "config",
    "enable_webhooks",
    "enable_emailing",
)
"""Parts of the object that are not settings of their own."""


def unfold_connector(
    config: dict[str, Any], known: Collection[str]
) -> tuple[dict[str, Any], list[str]]:
    """Bring Didomi's connector object to flat settings.

    It is the setting `connector` (an object, or its text), or its parts stand among the settings.

    Args:
        config: Settings as given; not changed.
        known: Names of the plugin's settings; whatever else the object holds is left out.

    Returns:
        Settings in which those given by their own name win over the connector's; and one line per
        problem.
    """
    flat = {name: value for name, value in config.items() if value is not None}
    sources = [{name: flat.pop(name) for name in _PARTS if name in flat} | flat]
    if "upsert_mode" not in known:
        flat.pop("upsert_mode", None)
    try:
        pasted = _read(flat.pop("connector", None))
    except InvalidSettingsError as error:
        return flat, list(error.errors)
    sources.append(pasted)
    problems = []
    for source in sources:
        if source.get("type_id") not in (None, "actito"):
            problems.append(
                "type_id must be 'actito': this connector object is for another system."
            )
        _announce(source)
        for name, value in _settings_of(source).items():
            if value is not None and name in known:
                flat.setdefault(name, value)
    return flat, problems


def _read(pasted: Any) -> dict[str, Any]:
    """Read the setting `connector`."""
    if isinstance(pasted, dict):
        return pasted
    if not isinstance(pasted, (str, type(None))):
        raise InvalidSettingsError(["connector must be an object, or its text."])
    return read_lenient_json(pasted, "connector") if pasted and pasted.strip() else {}


def _settings_of(source: dict[str, Any]) -> dict[str, Any]:
    authentication = _object(source, "authentication")
    properties = _object(source, "properties")
    old = _object(source, "config")
    old_access = {**old, **_object(old, "credentials"), **_object(old, "authentication")}
    names = ("entity_id", "table_name", "user_unique_key")
    found: dict[str, Any] = {
        name: properties.get(name, source.get(name, old_access.get(name))) for name in names
    }
    found["api_key"] = (
        authentication.get("private_api_key")
        or authentication.get("api_key")
        or source.get("api_key")
        or old_access.get("private_api_key")
        or old_access.get("api_key")
    )
    found["mappings"] = source.get("mappings") or old.get("mappings") or _list(old, "properties")
    found["upsert_mode"] = source.get("upsert_mode")
    return found


def _object(source: dict[str, Any], name: str) -> dict[str, Any]:
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def _list(source: dict[str, Any], name: str) -> list[Any] | None:
    value = source.get(name)
    return value if isinstance(value, list) else None


def _announce(source: dict[str, Any]) -> None:
    """Log what the object asks for and these plugins do not do."""
    if source.get("enable_emailing"):
        logger.warning(
            "enable_emailing: this plugin sends no e-mail. Didomi's own mails through Actito "
            "(log-in codes, confirmations) stop when its Actito connector is switched off: keep "
            "that connector with empty mappings, or go back to Didomi's own sender first."
        )
    if source.get("enable_webhooks"):
        logger.info("enable_webhooks: this plugin works without webhooks; the switch is ignored.")
