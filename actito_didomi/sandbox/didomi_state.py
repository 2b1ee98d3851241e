"""Compute a user's state from their consent events. Pure functions."""

from __future__ import annotations

import copy
from typing import Any


def empty_consents() -> dict[str, Any]:
    """Return the consents of a user who has made no choice yet."""
    return {"channels": [], "purposes": [], "vendors": _no_vendors()}


def merge_consents(state: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """Apply the choices of one event to a state.

    Nodes are found by `id`; those that the event does not name stay as they are.

    Returns:
        The new state; the old one is not changed.
    """
    merged = copy.deepcopy(state)
    _merge_nodes(merged.setdefault("channels", []), event.get("channels") or [])
    _merge_nodes(merged.setdefault("purposes", []), event.get("purposes") or [])
    _merge_vendors(merged.setdefault("vendors", _no_vendors()), event.get("vendors") or {})
    if event.get("tcfcs") is not None:
        merged["tcfcs"] = event["tcfcs"]
    return merged


def merge_metadata(old: dict[str, Any], new: dict[str, Any] | None) -> dict[str, Any]:
    """Merge metadata key by key (that it is shallow is a guess)."""
    return {**old, **(new or {})}


def _no_vendors() -> dict[str, list[str]]:
    return {"enabled": [], "enabled_li": [], "disabled": [], "disabled_li": []}


def _merge_nodes(nodes: list[dict[str, Any]], changes: list[dict[str, Any]]) -> None:
    by_id = {node["id"]: node for node in nodes}
    for change in changes:
        node = by_id.get(change["id"])
        if node is None:
            node = by_id[change["id"]] = {"id": change["id"]}
            nodes.append(node)
        for name, value in change.items():
            if name in {"channels", "preferences"}:
                _merge_nodes(node.setdefault(name, []), value or [])
            elif name in {"values", "metadata"}:
                node[name] = {**node.get(name, {}), **copy.deepcopy(value or {})}
            elif value is None:
                node.setdefault(name, None)  # no choice made here: an earlier one stands
            else:
                node[name] = value


def _merge_vendors(vendors: dict[str, list[str]], change: dict[str, Any]) -> None:
    opposites = [("enabled", "disabled"), ("enabled_li", "disabled_li")]
    for one, other in [*opposites, *((b, a) for a, b in opposites)]:
        for vendor in change.get(one) or []:
            if vendor not in vendors.setdefault(one, []):
                vendors[one].append(vendor)
            if vendor in vendors.setdefault(other, []):
                vendors[other].remove(vendor)
