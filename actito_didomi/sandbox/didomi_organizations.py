"""The organisations of the sandbox's Didomi: a legacy and a current one, with their trees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actito_didomi.sandbox.options import LEGACY_ORGANIZATION, ORGANIZATION

CHANNELS = ["email", "sms", "push-app"]


@dataclass(frozen=True)
class Organization:
    """One organisation.

    Attributes:
        id: Its id.
        purposes: Purpose ids, their preference ids and these preferences' value ids.
        retired: Ids of former purposes, which are still accepted.
        validate_purpose_id: Ids that never existed are refused.
        disable_preferences_in_consents: The old nested `preferences` are refused.
        single_choice: Preferences with a single value.
    """

    id: str
    purposes: dict[str, dict[str, list[str]]]
    retired: frozenset[str] = frozenset()
    validate_purpose_id: bool = True
    disable_preferences_in_consents: bool = True
    single_choice: frozenset[str] = field(default_factory=frozenset)

    def problem_with(self, consents: dict[str, Any]) -> str | None:
        """Return why these consents are refused, or None."""
        for purpose in consents.get("purposes") or []:
            if not isinstance(purpose, dict) or not isinstance(purpose.get("id"), str):
                return "Every purpose needs an id"
            if purpose.get("preferences") and self.disable_preferences_in_consents:
                return "preferences are not allowed in this organization"
            if not self.validate_purpose_id or purpose["id"] in self.retired:
                continue
            if purpose["id"] not in self.purposes:
                return f"Unknown purpose {purpose['id']}"
            preferences = self.purposes[purpose["id"]]
            for name, answer in (purpose.get("values") or {}).items():
                if name not in preferences and name not in self.retired:
                    return f"Unknown preference {name}"
                for value in str((answer or {}).get("value") or "").split(","):
                    if value and value not in preferences.get(name, [value]):
                        return f"Unknown value {value}"
        return None

    def tree(self) -> dict[str, Any]:
        """Return the configuration tree in its documented form."""
        return {
            "id": f"tree-{self.id}",
            "organization_id": self.id,
            "created_at": "2025-01-15T09:00:00.000Z",
            "updated_at": "2026-03-02T09:00:00.000Z",
            "selected_purposes": [
                self._selected(order, purpose) for order, purpose in enumerate(self.purposes)
            ],
        }

    def _selected(self, order: int, purpose: str) -> dict[str, Any]:
        return {
            "id": f"selected-{purpose}",
            "purpose_id": purpose,
            "order": order,
            "configuration_tree_id": f"tree-{self.id}",
            "purpose": {
                "id": purpose,
                "organization_id": self.id,
                "description": {"en": purpose},
                "details": {},
            },
            "selected_preferences": [
                {
                    "id": f"selected-{preference}",
                    "parent_id": f"selected-{purpose}",
                    "order": number,
                    "configuration_tree_id": f"tree-{self.id}",
                    "parent_selected_purpose_id": f"selected-{purpose}",
                    "parent_preference_value_id": None,
                    "preference": {
                        "id": preference,
                        "name": {"en": preference},
                        "description": {"en": preference},
                        "type": "single" if preference in self.single_choice else "multiple",
                        "values": [
                            {"id": value, "name": {"en": value}, "selected_preferences": []}
                            for value in values
                        ],
                    },
                    "selected_preferences": [],
                }
                for number, (preference, values) in enumerate(self.purposes[purpose].items())
            ],
        }

    def full_tree(self, consents: dict[str, Any]) -> dict[str, Any]:
        """Return consents in the nested form of `$include_full_tree` (its details are a guess)."""
        purposes = []
        for purpose in consents.get("purposes") or []:
            nested = list(purpose.get("preferences") or [])
            for name, answer in (purpose.get("values") or {}).items():
                chosen = str((answer or {}).get("value") or "").split(",")
                known = self.purposes.get(purpose["id"], {}).get(name) or [c for c in chosen if c]
                nested.append(
                    {
                        "id": name,
                        "enabled": None,
                        "values": [{"id": v, "enabled": v in chosen} for v in known],
                    }
                )
            purposes.append(
                {**{k: v for k, v in purpose.items() if k != "values"}, "preferences": nested}
            )
        return {**consents, "purposes": purposes}


ORGANIZATIONS = {
    o.id: o
    for o in (
        Organization(
            id=ORGANIZATION,
            purposes={
                "newsletter-Kd8xQ": {
                    "frequency-Hj3": ["weekly-1a2b", "monthly-3c4d"],
                    "topics-Zu7": ["sport-a1", "travel-b2", "food_wine-c3"],
                },
                "partner_offers": {},
                "loyalty_club-R4": {},
                "surveys": {},
            },
            retired=frozenset({"old-campaign"}),
            single_choice=frozenset({"frequency-Hj3"}),
        ),
        Organization(
            id=LEGACY_ORGANIZATION,
            purposes={"cookies": {}, "newsletter": {}, "partner_offers": {}},
            validate_purpose_id=False,
            disable_preferences_in_consents=False,
        ),
    )
}

REGULATIONS = [
    {"id": "gdpr", "name": "GDPR"},
    {"id": "cpra", "name": "CPRA (US_CA)"},
    {"id": "cpa", "name": "CPA (US_CO)"},
    {"id": "ctdpa", "name": "CTDPA (US_CT)"},
    {"id": "vcdpa", "name": "VCDPA (US_VA)"},
]
